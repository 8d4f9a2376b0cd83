//! Which of the target's directories an SSTable goes to. Pure.
//!
//! A table's SSTables may lie in any data directory, in whichever combination; only what Cassandra keeps in one
//! place has to be there: the node's own system tables, in `local_system_data_file_directory` or else in the
//! first data directory. Everything else goes back to the directory that it came from; where the target has more or
//! fewer of them, whoever has seen how full they are assigns each SSTable.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

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
    /// How many data directories the backup's node had.
    recorded_data: usize,
    /// Where what is spread goes, by a fingerprint, as there may be very many.
    assigned: Arc<HashMap<[u8; 16], usize>>,
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
        let recorded_data = recorded.data_directories.len() - usize::from(recorded_local.is_some());
        let assigned = Arc::default();
        Some(Self { roots, data, local, recorded_local, recorded_data, assigned })
    }

    /// The data directories, and behind them the one for local system data when it is a separate one.
    pub(crate) fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The index of the root that an SSTable goes to; `None` when that is still to be assigned.
    pub(crate) fn root_of(&self, entry: &SstableEntry) -> Option<usize> {
        if is_local_system(&entry.table.keyspace, &entry.table.table) {
            return Some(self.local);
        }
        if self.is_spread() {
            return self.assigned.get(&fingerprint(entry)).copied();
        }
        let recorded = usize::try_from(entry.directory).unwrap_or(0);
        let position = match self.recorded_local {
            Some(local) if local < recorded => recorded - 1,
            _ => recorded,
        };
        Some(position % self.data)
    }

    /// Whether the backup's node had another number of data directories.
    pub(crate) fn is_spread(&self) -> bool {
        self.recorded_data != self.data
    }

    /// How many data directories the backup's node had.
    pub(crate) fn recorded_data(&self) -> usize {
        self.recorded_data
    }

    /// The roots that an SSTable can be assigned to.
    pub(crate) fn data(&self) -> std::ops::Range<usize> {
        0..self.data
    }

    /// Assigns an SSTable for which there is no root yet.
    pub(crate) fn assign(&mut self, entry: &SstableEntry, root: usize) {
        Arc::make_mut(&mut self.assigned).insert(fingerprint(entry), root);
    }
}

fn fingerprint(entry: &SstableEntry) -> [u8; 16] {
    let SstableEntry { table, index, name, directory, .. } = entry;
    let mut hasher = blake3::Hasher::new();
    for text in [&table.keyspace, &table.table, &table.id, index.as_ref().unwrap_or(&String::new()), name] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.update(&directory.to_le_bytes());
    let digest = *hasher.finalize().as_bytes();
    std::array::from_fn(|place| digest.get(place).copied().unwrap_or_default())
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
    fn as_many_directories_keep_their_order_and_for_others_everything_is_assigned() {
        let same = Layout::new(&facts(&["/a", "/b"], None), &facts(&["/1", "/2"], None)).unwrap();
        assert_eq!([0, 1].map(|directory| same.root_of(&entry("ks", "t", directory))), [Some(0), Some(1)]);
        for (is, was) in [(&["/a", "/b"][..], &["/1", "/2", "/3"][..]), (&["/a", "/b"], &["/1"])] {
            let mut layout = Layout::new(&facts(is, None), &facts(was, None)).unwrap();
            let (one, other) = (entry("ks", "t", 0), entry("ks", "t", 1));
            assert_eq!((layout.root_of(&one), layout.data()), (None, 0..2));
            layout.assign(&one, 1);
            assert_eq!((layout.root_of(&one), layout.root_of(&other)), (Some(1), None));
            assert_eq!(layout.root_of(&entry("system", "local", 0)), Some(0), "it has a place of its own");
        }
    }

    #[test]
    fn local_system_data_has_its_own_place() {
        let one = Layout::new(&facts(&["/a", "/b"], None), &facts(&["/1", "/2"], None)).unwrap();
        assert_eq!(one.root_of(&entry("system", "local", 1)), Some(0));
        assert_eq!(one.root_of(&entry("system", "paxos", 1)), Some(1));
        assert_eq!(one.root_of(&entry("system_auth", "roles", 1)), Some(1));
        let two =
            Layout::new(&facts(&["/a", "/b"], Some("/l")), &facts(&["/L", "/1", "/2"], Some("/L"))).unwrap();
        assert_eq!(two.roots().len(), 3);
        assert_eq!(two.root_of(&entry("system_schema", "tables", 0)), Some(2));
        assert_eq!(
            (two.root_of(&entry("ks", "t", 1)), two.root_of(&entry("ks", "t", 2))),
            (Some(0), Some(1))
        );
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
