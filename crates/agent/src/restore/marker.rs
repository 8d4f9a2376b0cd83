//! The staging directory of a restore and the sentinel in it: what keeps Cassandra from starting while a restore
//! is incomplete, and by which an interrupted restore is recognized.
//!
//! ```text
//! <data directory>/<staging>/RESTORE_INCOMPLETE/aa-1-big-Data.db   the sentinel; its content says whose it is
//! <data directory>/<staging>/data/<keyspace>/<table>-<id>/...      what is downloaded and not placed yet
//! ```
//! The sentinel appears and vanishes in one step, content and all, so that there is no instant at which it is
//! there and nobody knows whose it is. It is there before anything is staged, and its removal is the last act.
//! Where there has been `data`, it stays until the sentinel is gone, empty at last: it tells what was placed since from
//! what was there before. Only taking everything back removes it earlier.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};

use cassy_agent_protocol::{RestoreRequest, RestoreWay};
use cassy_sstable::{SENTINEL_FILE, SENTINEL_TABLE_DIRECTORY};
use serde::{Deserialize, Serialize};

use super::tree::{FileError, Kind, Ownership, Tree};

/// Where files are staged, in the staging directory.
pub(crate) const STAGED: &str = "data";
const UNFINISHED: &str = "sentinel.tmp";
const LIMIT_BYTES: u64 = 64 << 10;

/// Whose restore it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// For people who look into the file.
    note: String,
    cluster_id: String,
    host_id: String,
    /// The backup.
    pub(crate) backup_id: String,
    manifest_blake3: String,
    /// Half a node that was to be a part of a copy must not be finished as the original, nor the other way round.
    way: Way,
    /// Whether the restore moves aside what is in the way: then not all that is there has come since.
    #[serde(default)]
    moves_aside: bool,
}

/// See [`RestoreWay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    InPlace,
    Replacement,
    Copy,
}

impl Way {
    pub(crate) fn of(way: &RestoreWay) -> Self {
        match way {
            RestoreWay::InPlace => Self::InPlace,
            RestoreWay::Replacement => Self::Replacement,
            RestoreWay::Copy { .. } => Self::Copy,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InPlace => "a restore in place (to the node's own address)",
            Self::Replacement => "a replacement (source_of, in the same cluster)",
            Self::Copy => "a part of a copy (restore_type 1, all targets at new addresses)",
        })
    }
}

impl Marker {
    pub(crate) fn of(request: &RestoreRequest) -> Self {
        Self {
            note: "A restore by Cassy is incomplete. Cassandra does not start while this file exists. \
                   Restore the same backup again, in the same way, to finish it."
                .to_owned(),
            cluster_id: request.cluster_id.to_string(),
            host_id: request.host_id.to_string(),
            backup_id: request.backup_id.to_string(),
            manifest_blake3: request.manifest.blake3.clone(),
            way: Way::of(&request.way),
            moves_aside: request.move_aside.is_some(),
        }
    }

    fn is_same_restore(&self, other: &Self) -> bool {
        self.cluster_id == other.cluster_id
            && self.host_id == other.host_id
            && self.backup_id == other.backup_id
            && self.manifest_blake3 == other.manifest_blake3
    }
}

/// What stands where a restore stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Staging {
    /// Nothing, or what is left of a restore that had not begun or was complete.
    Clean,
    /// An interrupted restore of this very backup.
    Ours,
    /// An interrupted restore of this very backup in another way.
    OtherWay { begun: Way },
    /// An interrupted restore of another backup, by its id.
    Other { backup_id: String },
    /// Something that is not known to be ours; in words.
    Foreign { what: String },
}

impl Staging {
    /// Looks; changes nothing.
    pub(crate) fn look(root: &Tree, name: &str, marker: &Marker) -> Result<Self, FileError> {
        let Some(stat) = root.stat(OsStr::new(name))? else { return Ok(Self::Clean) };
        if super::tree::kind_of(&stat) != Kind::Directory {
            return Ok(Self::Foreign { what: "it is no directory".to_owned() });
        }
        let Some(staging) = root.open(OsStr::new(name))? else { return Ok(Self::Clean) };
        match read_marker(&staging)? {
            Some(Ok(found)) if !found.is_same_restore(marker) => {
                Ok(Self::Other { backup_id: found.backup_id })
            }
            Some(Ok(found)) if found.way != marker.way => Ok(Self::OtherWay { begun: found.way }),
            Some(Ok(_)) => Ok(Self::Ours),
            Some(Err(what)) => Ok(Self::Foreign { what }),
            None => Self::without_marker(&staging),
        }
    }

    fn without_marker(staging: &Tree) -> Result<Self, FileError> {
        for (name, kind) in staging.entries()? {
            let is_left = name == STAGED && kind == Kind::Directory && is_empty(staging, STAGED)?;
            if name != SENTINEL_TABLE_DIRECTORY && !is_left {
                return Ok(Self::Foreign { what: format!("it holds {}", name.display()) });
            }
        }
        let Some(sentinels) = staging.open(OsStr::new(SENTINEL_TABLE_DIRECTORY))? else {
            return Ok(Self::Clean);
        };
        let other = sentinels.entries()?.into_iter().find(|(name, _)| name != UNFINISHED);
        Ok(match other {
            Some((name, _)) => {
                Self::Foreign { what: format!("it holds {SENTINEL_TABLE_DIRECTORY}/{}", name.display()) }
            }
            None => Self::Clean,
        })
    }
}

fn is_empty(tree: &Tree, name: &str) -> Result<bool, FileError> {
    tree.open(OsStr::new(name))?.map_or(Ok(true), |inner| inner.is_empty())
}

fn read_marker(staging: &Tree) -> Result<Option<Result<Marker, String>>, FileError> {
    let Some(sentinels) = staging.open(OsStr::new(SENTINEL_TABLE_DIRECTORY))? else { return Ok(None) };
    let Some(file) = sentinels.read(SENTINEL_FILE)? else { return Ok(None) };
    let mut content = Vec::new();
    let read = file.take(LIMIT_BYTES).read_to_end(&mut content);
    read.map_err(|source| FileError::new("read", sentinels.path().join(SENTINEL_FILE), source))?;
    let marker = serde_json::from_slice(&content);
    Ok(Some(
        marker.map_err(|error| {
            format!("its {SENTINEL_TABLE_DIRECTORY}/{SENTINEL_FILE} cannot be read: {error}")
        }),
    ))
}

/// Sets the sentinel, durably; the same one again is fine. Gives the staging directory.
pub(crate) fn set(
    root: &Tree,
    name: &str,
    marker: &Marker,
    ownership: &Ownership,
) -> Result<Tree, FileError> {
    let staging = root.ensure(&[name], ownership)?;
    let sentinels = staging.ensure(&[SENTINEL_TABLE_DIRECTORY], ownership)?;
    if sentinels.file_size(SENTINEL_FILE)?.is_none() {
        // Left of a restore that was complete.
        staging.remove_empty(STAGED)?;
        sentinels.remove(UNFINISHED)?;
        let mut file = sentinels.create(UNFINISHED)?;
        let failed = |source| FileError::new("write", sentinels.path().join(UNFINISHED), source);
        let content = serde_json::to_vec(marker).map_err(std::io::Error::from).map_err(failed)?;
        file.write_all(&content).and_then(|()| file.sync_all()).map_err(failed)?;
        sentinels.own_file(UNFINISHED, ownership)?;
        sentinels.rename(UNFINISHED, SENTINEL_FILE)?;
    }
    for directory in [&sentinels, &staging, root] {
        directory.sync()?;
    }
    Ok(staging)
}

/// How an interrupted restore was begun; a later call of the same restore leaves that as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    /// When the sentinel was set, Unix nanoseconds by the clock of its file system.
    pub(crate) at_ns: i64,
    pub(crate) moves_aside: bool,
}

/// What the sentinel says of that.
pub(crate) fn begin_of(root: &Tree, name: &str) -> Result<Option<Begin>, FileError> {
    let Some(staging) = root.open(OsStr::new(name))? else { return Ok(None) };
    let Some(Ok(marker)) = read_marker(&staging)? else { return Ok(None) };
    let sentinel = staging.descend(&[SENTINEL_TABLE_DIRECTORY])?;
    let stat = sentinel.map(|tree| tree.stat(OsStr::new(SENTINEL_FILE))).transpose()?.flatten();
    Ok(stat.map(|stat| Begin { at_ns: super::tree::mtime_ns(&stat), moves_aside: marker.moves_aside }))
}

/// Removes everything that is staged, for a restore that is taken back.
pub(crate) fn clear_staged(root: &Tree, name: &str) -> Result<(), FileError> {
    match root.open(OsStr::new(name))? {
        Some(staging) => staging.remove_all(OsStr::new(STAGED)),
        None => Ok(()),
    }
}

/// The same for one that has placed everything: the directory stays.
pub(crate) fn empty_staged(root: &Tree, name: &str) -> Result<(), FileError> {
    root.descend(&[name, STAGED])?.map_or(Ok(()), |staged| staged.empty())
}

/// Removes the sentinel, then the directories that held it; durably. The removal of the sentinel is what ends a
/// restore. The staging directory stays when something else is in it.
pub(crate) fn remove(root: &Tree, name: &str) -> Result<(), FileError> {
    let Some(staging) = root.open(OsStr::new(name))? else { return Ok(()) };
    if let Some(sentinels) = staging.open(OsStr::new(SENTINEL_TABLE_DIRECTORY))? {
        sentinels.remove(SENTINEL_FILE)?;
        sentinels.remove(UNFINISHED)?;
        sentinels.sync()?;
        staging.remove_empty(SENTINEL_TABLE_DIRECTORY)?;
    }
    staging.remove_empty(STAGED)?;
    root.remove_empty(name)?;
    root.sync()
}
