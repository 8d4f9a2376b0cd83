//! Which of the target's directories an SSTable goes to. Pure.
//!
//! A table's SSTables may lie in any data directory, in whichever combination; only what Cassandra keeps in one
//! place has to be there: the node's own system tables, in `local_system_data_file_directory` or else in the
//! first data directory.

use std::path::{Component, Path, PathBuf};

use cassy_backup_format::{ConfigurationFacts, SstableEntry};

/// Keyspaces of the node itself (Cassandra's `SchemaConstants.LOCAL_SYSTEM_KEYSPACE_NAMES`).
const LOCAL_KEYSPACES: [&str; 2] = ["system", "system_schema"];
/// Tables of `system` that Cassandra spreads over all data directories nevertheless
/// (`SystemKeyspace.TABLES_SPLIT_ACROSS_MULTIPLE_DISKS`).
const SPREAD_TABLES: [&str; 5] = ["batches", "paxos", "compaction_history", "prepared_statements", "repairs"];

/// Where the files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    roots: Vec<PathBuf>,
    /// The first so many roots are the data directories; a further one is for local system data alone.
    data: usize,
    /// The root of local system data.
    local: usize,
    /// Where the backup's list of directories has the one for local system data.
    recorded_local: Option<usize>,
}

impl Layout {
    /// `None` when the target has no data directory.
    pub(crate) fn new(target: &ConfigurationFacts, recorded: &ConfigurationFacts) -> Option<Self> {
        let mut roots: Vec<PathBuf> = Vec::new();
        for directory in &target.data_directories {
            add(&mut roots, directory);
        }
        let data = roots.len();
        if data == 0 {
            return None;
        }
        let local =
            target.local_system_data_directory.as_ref().map_or(0, |directory| add(&mut roots, directory));
        let recorded_local = recorded
            .local_system_data_directory
            .as_ref()
            .and_then(|local| recorded.data_directories.iter().position(|directory| directory == local));
        Some(Self { roots, data, local, recorded_local })
    }

    /// The data directories, and behind them the one for local system data when it is a separate one.
    pub(crate) fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The index of the root that an SSTable goes to.
    pub(crate) fn root_of(&self, entry: &SstableEntry) -> usize {
        if is_local_system(&entry.table.keyspace, &entry.table.table) {
            return self.local;
        }
        let recorded = usize::try_from(entry.directory).unwrap_or(0);
        let position = match self.recorded_local {
            Some(local) if local < recorded => recorded - 1,
            _ => recorded,
        };
        position % self.data
    }
}

fn add(roots: &mut Vec<PathBuf>, directory: &str) -> usize {
    let directory = Path::new(directory);
    match roots.iter().position(|known| known.components().eq(directory.components())) {
        Some(known) => known,
        None => {
            roots.push(directory.to_owned());
            roots.len() - 1
        }
    }
}

/// True when one of these directories is the root of the file system: to look at it would be to look at everything,
/// and nothing there is Cassandra's.
pub(crate) fn names_the_root(facts: &ConfigurationFacts) -> bool {
    let single = [
        &facts.local_system_data_directory,
        &facts.commitlog_directory,
        &facts.hints_directory,
        &facts.saved_caches_directory,
        &facts.cdc_raw_directory,
    ];
    single.into_iter().flatten().chain(&facts.data_directories).any(|path| is_root(path))
}

fn is_root(path: &str) -> bool {
    let depth = Path::new(path).components().fold(0_usize, |depth, part| match part {
        Component::Normal(_) => depth + 1,
        Component::ParentDir => depth.saturating_sub(1),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => depth,
    });
    depth == 0
}

fn is_local_system(keyspace: &str, table: &str) -> bool {
    let keyspace = keyspace.to_ascii_lowercase();
    let spread = keyspace == "system" && SPREAD_TABLES.contains(&table.to_ascii_lowercase().as_str());
    LOCAL_KEYSPACES.contains(&keyspace.as_str()) && !spread
}

#[cfg(test)]
mod tests {
    use super::*;
    use cassy_backup_format::TableRef;

    fn facts(data: &[&str], local: Option<&str>) -> ConfigurationFacts {
        ConfigurationFacts {
            data_directories: data.iter().map(ToString::to_string).collect(),
            local_system_data_directory: local.map(str::to_owned),
            ..Default::default()
        }
    }

    fn entry(keyspace: &str, table: &str, directory: u32) -> SstableEntry {
        let table = TableRef { keyspace: keyspace.to_owned(), table: table.to_owned(), id: "0".repeat(32) };
        SstableEntry {
            table,
            index: None,
            name: "nb-1-big".to_owned(),
            directory,
            files: vec![],
            objects: vec![],
            corrupt: false,
        }
    }

    #[test]
    fn directories_keep_their_order_and_fewer_are_shared() {
        let layout = Layout::new(&facts(&["/a", "/b"], None), &facts(&["/1", "/2", "/3"], None)).unwrap();
        assert_eq!([0, 1, 2].map(|directory| layout.root_of(&entry("ks", "t", directory))), [0, 1, 0]);
    }

    #[test]
    fn local_system_data_has_its_own_place() {
        let one = Layout::new(&facts(&["/a", "/b"], None), &facts(&["/1", "/2"], None)).unwrap();
        assert_eq!(one.root_of(&entry("system", "local", 1)), 0);
        assert_eq!(one.root_of(&entry("system", "paxos", 1)), 1);
        assert_eq!(one.root_of(&entry("system_auth", "roles", 1)), 1);
        let two =
            Layout::new(&facts(&["/a", "/b"], Some("/l")), &facts(&["/L", "/1", "/2"], Some("/L"))).unwrap();
        assert_eq!(two.roots().len(), 3);
        assert_eq!(two.root_of(&entry("system_schema", "tables", 0)), 2);
        assert_eq!((two.root_of(&entry("ks", "t", 1)), two.root_of(&entry("ks", "t", 2))), (0, 1));
    }

    #[test]
    fn no_directory_no_layout_and_equal_ones_are_one() {
        assert_eq!(Layout::new(&facts(&[], Some("/l")), &facts(&["/1"], None)), None);
        assert_eq!(
            Layout::new(&facts(&["/a", "/a/"], Some("/a")), &facts(&["/1"], None)).unwrap().roots().len(),
            1
        );
    }
}
