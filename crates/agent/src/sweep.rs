//! Removing what is left of our own snapshots, also of tables that were dropped since, where Cassandra's own
//! `clearsnapshot` no longer looks.

use std::path::Path;

use cassy_agent_protocol::{AgentError, AgentErrorKind, SweepRequest};
use cassy_backup_format::BackupId;
use cassy_sstable::{SNAPSHOTS_DIRECTORY, TableDirectory};

use crate::directory::{Directory, FileError, Kind};
use crate::failure::{IntoAgentError, agent_error};

/// A snapshot has its files and the directories of indexes; nothing is deeper.
const DEPTH_LIMIT: u32 = 4;

/// Why snapshots cannot be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    /// Never a tag of ours; nothing was removed.
    #[error(
        "the tag {tag:?} is not one of Cassy's own (cassy-<backup id>-<attempt>), so its snapshots are not touched"
    )]
    ForeignTag { tag: String },
    /// A directory of the node.
    #[error("cannot remove the snapshots")]
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
        match &self {
            Self::ForeignTag { .. } => agent_error(&self, AgentErrorKind::Bug),
            Self::File { source } => AgentError { hint: source.hint(), ..agent_error(&self, source.kind()) },
            Self::TooDeep { .. } => agent_error(&self, AgentErrorKind::Permanent),
        }
    }
}

/// Removes the snapshots of exactly these tags; answers how many files went.
pub(crate) fn snapshots(request: &SweepRequest) -> Result<u64, SweepError> {
    if let Some(tag) = request.tags.iter().find(|tag| !is_own_tag(tag)) {
        return Err(SweepError::ForeignTag { tag: tag.clone() });
    }
    let mut removed = 0;
    for data in &request.data_directories {
        for_each_snapshots_directory(Path::new(data), |snapshots| {
            for tag in &request.tags {
                removed += remove(snapshots, tag, DEPTH_LIMIT)?;
            }
            Ok(())
        })?;
    }
    Ok(removed)
}

/// `cassy-<backup id>-<attempt>`, spelled as the server spells it.
pub(crate) fn is_own_tag(tag: &str) -> bool {
    let parts = tag.strip_prefix("cassy-").and_then(|rest| rest.rsplit_once('-'));
    parts.is_some_and(|(backup, attempt)| {
        let is_attempt = attempt.parse::<u32>().is_ok_and(|number| number.to_string() == attempt);
        is_attempt && backup.parse::<BackupId>().is_ok_and(|id| id.to_string() == backup)
    })
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

/// Removes a directory and all in it, links as links.
fn remove(parent: &Directory, name: &str, depth: u32) -> Result<u64, SweepError> {
    let Some(directory) = parent.subdirectory(name).map_err(file)? else { return Ok(0) };
    if depth == 0 {
        return Err(SweepError::TooDeep { path: directory.path().display().to_string() });
    }
    let mut removed = 0;
    for (entry, kind) in directory.entries().map_err(file)? {
        match (kind, entry.to_str()) {
            (Kind::Directory, Some(below)) => removed += remove(&directory, below, depth - 1)?,
            _ => removed += u64::from(directory.remove_file(&entry).map_err(file)?),
        }
    }
    parent.remove_directory(name).map_err(file)?;
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

    const OURS: &str = "cassy-0193b0a0-0000-7000-8000-000000000001-1";
    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn request(data: &Path, tags: &[&str]) -> SweepRequest {
        let data_directories = vec![data.to_str().expect("text").to_owned()];
        SweepRequest { data_directories, tags: tags.iter().map(|&tag| tag.to_owned()).collect() }
    }

    #[test]
    fn only_our_own_tags_are_taken() {
        assert!(is_own_tag(OURS));
        for tag in [
            "",
            "cassy",
            "cassy-",
            "*",
            "..",
            "../x",
            "manual",
            "cassy-1-1",
            "cassy-0193b0a0-0000-7000-8000-000000000001",
            "cassy-0193b0a0-0000-7000-8000-000000000001-",
            "cassy-0193b0a0-0000-7000-8000-000000000001-01",
            "cassy-0193b0a0-0000-7000-8000-000000000001-+1",
            "cassy-0193B0A0-0000-7000-8000-000000000001-1",
            "cassy-0193b0a0-0000-7000-8000-000000000001-1/..",
            "cassy-0193b0a0-0000-7000-8000-000000000001-99999999999",
        ] {
            assert!(!is_own_tag(tag), "{tag}");
            let base = tempfile::tempdir().expect("tempdir");
            let refused = snapshots(&request(base.path(), &[OURS, tag]));
            assert!(matches!(refused, Err(SweepError::ForeignTag { .. })), "{tag}");
        }
    }

    #[test]
    fn exactly_the_tag_goes_and_links_are_not_followed() {
        let base = tempfile::tempdir().expect("tempdir");
        let (data, outside) = (base.path().join("data"), base.path().join("outside"));
        fs::create_dir(&outside).expect("mkdir");
        fs::write(outside.join("precious"), "x").expect("write");
        for keyspace in ["ks", "snapshots", "backups"] {
            let table = data.join(keyspace).join(format!("snapshots-{ID}"));
            for tag in [OURS, "cassy-0193b0a0-0000-7000-8000-000000000001-2", "manual"] {
                let index = table.join("snapshots").join(tag).join(".idx");
                fs::create_dir_all(&index).expect("mkdir");
                fs::write(index.join("nb-1-big-Data.db"), "x").expect("write");
                fs::write(table.join("snapshots").join(tag).join("manifest.json"), "x").expect("write");
                symlink(&outside, table.join("snapshots").join(tag).join("link")).expect("symlink");
            }
            fs::write(table.join("nb-1-big-Data.db"), "x").expect("write");
        }
        symlink(&outside, data.join("linked")).expect("symlink");
        fs::create_dir_all(data.join("system/_paxos_repair_state/snapshots").join(OURS)).expect("mkdir");

        assert_eq!(snapshots(&request(&data, &[OURS])).expect("sweep"), 9);
        assert_eq!(snapshots(&request(&data, &[OURS])).expect("again"), 0);
        for keyspace in ["ks", "snapshots", "backups"] {
            let left =
                fs::read_dir(data.join(keyspace).join(format!("snapshots-{ID}/snapshots"))).expect("list");
            assert_eq!(left.count(), 2);
            assert!(data.join(keyspace).join(format!("snapshots-{ID}/nb-1-big-Data.db")).exists());
        }
        assert!(outside.join("precious").exists());
    }
}
