//! Our own snapshots on the disk: which are there, and removing what is left of them, also of tables that were dropped
//! since and of keyspaces named `snapshots` and `backups`, where Cassandra's own `listsnapshots` and `clearsnapshot`
//! do not look (5.0.9).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use cassy_agent_protocol::{AgentError, AgentErrorKind, DataDirectories, SnapshotTag, SweepRequest};
use cassy_sstable::{SNAPSHOTS_DIRECTORY, TableDirectory};

use crate::directory::{Directory, FileError, Kind};
use crate::failure::{IntoAgentError, agent_error};

/// A snapshot has its files and the directories of indexes; nothing is deeper.
const DEPTH_LIMIT: u32 = 4;
/// Names of a directory that are in memory at once: a snapshot may have very many files.
const PORTION: usize = 1_000;
/// An answer names no more tags than this; each job leaves a few at most.
const TAGS_LIMIT: usize = 10_000;

/// Why snapshots cannot be listed or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    /// A directory of the node.
    #[error("cannot list or remove Cassy's own snapshots")]
    File {
        #[source]
        source: FileError,
    },
    /// More levels than a snapshot has.
    #[error("{path} is deeper than anything in a snapshot, and is not touched")]
    TooDeep { path: String },
}

impl IntoAgentError for SweepError {
    fn into_agent_error(self) -> AgentError {
        let (kind, hint) = match &self {
            Self::File { source } => (source.kind(), source.hint()),
            Self::TooDeep { .. } => (AgentErrorKind::Permanent, Some(DEEP_HINT.to_owned())),
        };
        AgentError { hint, ..agent_error(&self, kind) }
    }
}

const DEEP_HINT: &str = "Find out who has put it there, and move it out of the snapshot's directory.";

/// The tags of ours that lie in any table's `snapshots/`, sorted; of very many the oldest.
pub(crate) fn own_tags(request: &DataDirectories) -> Result<Vec<SnapshotTag>, SweepError> {
    let mut tags = BTreeSet::new();
    for data in &request.data_directories {
        for_each_snapshots_directory(Path::new(data), |snapshots| {
            for (tag, _) in own_entries(snapshots)? {
                tags.insert(tag);
                if tags.len() > TAGS_LIMIT {
                    tags.pop_last();
                }
            }
            Ok(())
        })?;
    }
    Ok(tags.into_iter().collect())
}

/// Removes the snapshots of exactly these tags; answers how many files went.
pub(crate) fn snapshots(request: &SweepRequest) -> Result<u64, SweepError> {
    let wanted: BTreeSet<SnapshotTag> = request.tags.iter().copied().collect();
    let mut removed = 0;
    for data in &request.data_directories {
        for_each_snapshots_directory(Path::new(data), |snapshots| {
            for (tag, kind) in own_entries(snapshots)?.into_iter().filter(|(tag, _)| wanted.contains(tag)) {
                removed += remove(snapshots, tag.to_string().as_ref(), kind, DEPTH_LIMIT)?;
            }
            Ok(())
        })?;
    }
    Ok(removed)
}

/// What has a tag of ours for its name, a link too: left to Cassandra, it would be followed.
fn own_entries(snapshots: &Directory) -> Result<Vec<(SnapshotTag, Kind)>, SweepError> {
    let entries = snapshots.entries().map_err(file)?.into_iter();
    Ok(entries.filter_map(|(name, kind)| Some((name.to_str()?.parse().ok()?, kind))).collect())
}

fn for_each_snapshots_directory(
    data: &Path,
    mut act: impl FnMut(&Directory) -> Result<(), SweepError>,
) -> Result<(), SweepError> {
    let root = Directory::data(data).map_err(file)?;
    for keyspace in root.subdirectories().map_err(file)? {
        let Some(keyspace) = root.subdirectory(&keyspace).map_err(file)? else { continue };
        for table in keyspace.subdirectories().map_err(file)? {
            if TableDirectory::parse(&table).is_none() {
                continue;
            }
            let Some(table) = keyspace.subdirectory(&table).map_err(file)? else { continue };
            // A link in its place leads to nothing of ours.
            let is_there =
                table.subdirectories().map_err(file)?.iter().any(|name| name == SNAPSHOTS_DIRECTORY);
            if is_there && let Some(snapshots) = table.subdirectory(SNAPSHOTS_DIRECTORY).map_err(file)? {
                act(&snapshots)?;
            }
        }
    }
    Ok(())
}

/// Removes a directory and all in it, anything else as what it is: a link, not what it leads to.
fn remove(parent: &Directory, name: &OsStr, kind: Kind, depth: u32) -> Result<u64, SweepError> {
    let (Kind::Directory, Some(text)) = (kind, name.to_str()) else {
        return parent.remove_file(name).map(u64::from).map_err(file);
    };
    let Some(directory) = parent.subdirectory(text).map_err(file)? else { return Ok(0) };
    if depth == 0 {
        return Err(SweepError::TooDeep { path: directory.path().display().to_string() });
    }
    let mut removed = 0;
    loop {
        let portion: Result<Vec<_>, _> = directory.each_entry().map_err(file)?.take(PORTION).collect();
        let portion = portion.map_err(file)?;
        let is_last = portion.len() < PORTION;
        for (entry, kind) in portion {
            removed += remove(&directory, &entry, kind, depth - 1)?;
        }
        if is_last {
            break;
        }
    }
    parent.remove_directory(text).map_err(file)?;
    Ok(removed)
}

fn file(source: FileError) -> SweepError {
    SweepError::File { source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    const OURS: &str = "cassy-0193b0a0-0000-7000-8000-000000000001-1";
    const OURS_TOO: &str = "cassy-0193b0a0-0000-7000-8000-000000000001-2";
    const FOREIGN: [&str; 3] = ["manual", "cassy-notours", "cassy-0193B0A0-0000-7000-8000-000000000001-1"];
    const ID: &str = "0123456789abcdef0123456789abcdef";
    const KEYSPACES: [&str; 3] = ["ks", "snapshots", "backups"];

    fn tag(text: &str) -> SnapshotTag {
        text.parse().expect("ours")
    }

    fn request(data: &Path, tags: &[&str]) -> SweepRequest {
        let data_directories = vec![data.to_str().expect("text").to_owned()];
        SweepRequest { data_directories, tags: tags.iter().map(|text| tag(text)).collect() }
    }

    fn listed(data: &Path) -> Vec<String> {
        let request = DataDirectories { data_directories: request(data, &[]).data_directories };
        own_tags(&request).expect("listed").iter().map(SnapshotTag::to_string).collect()
    }

    fn snapshots_of(data: &Path, keyspace: &str) -> PathBuf {
        data.join(keyspace).join(format!("snapshots-{ID}")).join("snapshots")
    }

    /// Two own tags and foreign ones in awkward keyspaces, each with an index and a link to `outside`.
    fn fill(data: &Path, outside: &Path) {
        fs::create_dir(outside).expect("mkdir");
        fs::write(outside.join("precious"), "x").expect("write");
        for keyspace in KEYSPACES {
            for tag in [OURS, OURS_TOO].into_iter().chain(FOREIGN) {
                let directory = snapshots_of(data, keyspace).join(tag);
                fs::create_dir_all(directory.join(".idx")).expect("mkdir");
                fs::write(directory.join(".idx/nb-1-big-Data.db"), "x").expect("write");
                fs::write(directory.join("manifest.json"), "x").expect("write");
                symlink(outside, directory.join("link")).expect("symlink");
            }
            fs::write(data.join(keyspace).join(format!("snapshots-{ID}/nb-1-big-Data.db")), "x")
                .expect("write");
        }
        symlink(outside, data.join("linked")).expect("symlink");
        fs::create_dir_all(data.join("system/_paxos_repair_state/snapshots").join(OURS)).expect("mkdir");
    }

    #[test]
    fn exactly_the_tag_goes_and_links_are_not_followed() {
        let base = tempfile::tempdir().expect("tempdir");
        let (data, outside) = (base.path().join("data"), base.path().join("outside"));
        fill(&data, &outside);
        assert_eq!(listed(&data), [OURS, OURS_TOO]);

        assert_eq!(snapshots(&request(&data, &[OURS])).expect("sweep"), 9);
        assert_eq!(snapshots(&request(&data, &[OURS])).expect("again"), 0);
        assert_eq!(listed(&data), [OURS_TOO]);
        for keyspace in KEYSPACES {
            let left = fs::read_dir(snapshots_of(&data, keyspace)).expect("list");
            assert_eq!(left.count(), 1 + FOREIGN.len());
            assert!(data.join(keyspace).join(format!("snapshots-{ID}/nb-1-big-Data.db")).exists());
        }
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn a_link_with_a_tag_of_ours_goes_and_what_it_leads_to_stays() {
        let base = tempfile::tempdir().expect("tempdir");
        let (data, outside) = (base.path().join("data"), base.path().join("outside"));
        fs::create_dir(&outside).expect("mkdir");
        fs::write(outside.join("precious"), "x").expect("write");
        fs::create_dir_all(snapshots_of(&data, "ks")).expect("mkdir");
        symlink(&outside, snapshots_of(&data, "ks").join(OURS)).expect("symlink");
        assert_eq!(listed(&data), [OURS]);
        assert_eq!(snapshots(&request(&data, &[OURS])).expect("sweep"), 1);
        assert_eq!(listed(&data), Vec::<String>::new());
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn a_snapshot_of_very_many_files_goes() {
        let base = tempfile::tempdir().expect("tempdir");
        let snapshot = snapshots_of(base.path(), "ks").join(OURS);
        fs::create_dir_all(&snapshot).expect("mkdir");
        let files = 2 * PORTION + 1;
        for number in 0..files {
            fs::write(snapshot.join(format!("nb-{number}-big-Data.db")), "").expect("write");
        }
        let removed = snapshots(&request(base.path(), &[OURS])).expect("sweep");
        assert_eq!((usize::try_from(removed), snapshot.exists()), (Ok(files), false));
    }

    #[test]
    fn what_is_too_deep_for_a_snapshot_is_named_and_stays() {
        let base = tempfile::tempdir().expect("tempdir");
        let deep = snapshots_of(base.path(), "ks").join(OURS).join("1/2/3/4");
        fs::create_dir_all(&deep).expect("mkdir");
        let error = snapshots(&request(base.path(), &[OURS])).expect_err("too deep").into_agent_error();
        assert!(error.message.contains("1/2/3/4 is deeper") && error.hint.is_some(), "{error:?}");
        assert!(deep.exists());
    }

    #[test]
    fn of_very_many_tags_the_oldest_are_named() {
        let base = tempfile::tempdir().expect("tempdir");
        let snapshots = snapshots_of(base.path(), "ks");
        fs::create_dir_all(&snapshots).expect("mkdir");
        let backup = tag(OURS).backup_id();
        let all = u32::try_from(TAGS_LIMIT).expect("small") + 3;
        (1..=all).for_each(|attempt| {
            fs::create_dir(snapshots.join(SnapshotTag::of(backup, attempt).to_string())).expect("mkdir");
        });
        let named = listed(base.path());
        assert_eq!(named.len(), TAGS_LIMIT);
        assert_eq!(named.last(), Some(&SnapshotTag::of(backup, all - 3).to_string()));
    }
}
