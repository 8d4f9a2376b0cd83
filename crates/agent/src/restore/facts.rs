//! Everything that a plan is made of: what the backup holds and what was found on the node. Data only.

use std::path::PathBuf;

use cassy_agent_protocol::{RestoreScope, RestoreWay};
use cassy_backup_format::ConfigurationFacts;

use super::layout::Layout;
use super::marker::{Begin, Staging};
use super::tree::Ownership;
use crate::inspect::configuration::RackFile;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) backup: Backup,
    /// What the restore is a part of.
    pub(crate) scope: RestoreScope,
    /// The name of the staging directory: that of an interrupted restore of this very backup, else the scope's own.
    pub(crate) staging: &'static str,
    pub(crate) target: Target,
    /// How it relates to the node that was backed up.
    pub(crate) way: RestoreWay,
    /// Empty when the target has no data directory, or one that is not looked at.
    pub(crate) roots: Vec<Root>,
    /// Commit log, hints, saved caches and cdc directories.
    pub(crate) sides: Vec<Side>,
    /// Cassandras that own a directory of the target, or might.
    pub(crate) daemons: Vec<Running>,
    /// Why the processes cannot be listed, in words; then [`Facts::daemons`] says nothing.
    pub(crate) unlisted: Option<String>,
    /// `what address:port` for each socket that a running Cassandra of this configuration would have.
    pub(crate) listeners: Vec<String>,
    pub(crate) agent: Agent,
    /// The id of the job that moves aside what is in the way.
    pub(crate) move_aside: Option<String>,
    /// Every file of the backup is in place, and nothing else is: an earlier restore was complete.
    pub(crate) complete: bool,
    /// Now, Unix milliseconds.
    pub(crate) now_ms: i64,
}

impl Facts {
    /// An interrupted restore of this very backup is to be finished.
    pub(crate) fn is_resumed(&self) -> bool {
        self.roots.iter().any(|root| root.staging == Staging::Ours)
    }

    /// When the restore that is to be finished was begun, Unix nanoseconds.
    pub(crate) fn begun_ns(&self) -> Option<i64> {
        self.roots.iter().filter_map(|root| root.begin.map(|begin| begin.at_ns)).min()
    }

    /// Whether segments of the commit log that are younger than the sentinel are known to be of starts that it refused, so
    /// that they may be deleted. The clocks of two file systems may differ, so by that alone it is not known: a
    /// restore that moves aside may have been stopped before it came to this directory.
    pub(crate) fn deletes_segments(&self, side: &Side) -> bool {
        let was_to_move = self.roots.iter().any(|root| root.begin.is_some_and(|begin| begin.moves_aside));
        let has_moved = self.is_staged() && side.has_aside;
        self.move_aside.is_none() && (has_moved || !was_to_move && !self.has_moved())
    }

    /// The id of the job that moves aside what is in the commit log of a restore that has staged something: nothing
    /// that the restore has made is there.
    pub(crate) fn moves_segments(&self) -> Option<&str> {
        self.move_aside.as_deref().filter(|_| self.is_staged())
    }

    /// Files have been staged since the restore began: nothing is moved aside any more.
    pub(crate) fn is_staged(&self) -> bool {
        self.roots.iter().any(|root| root.is_staged)
    }

    /// The id of the job that moves aside what is in the way, while it may: until something was staged, all that is
    /// there is from before.
    pub(crate) fn moves_aside(&self) -> Option<&str> {
        let all_is_from_before = !self.complete && !self.is_staged();
        self.move_aside.as_deref().filter(|_| all_is_from_before)
    }

    /// Things were moved aside by an earlier call, in whichever directory.
    pub(crate) fn has_moved(&self) -> bool {
        self.roots.iter().any(|root| root.has_aside) || self.sides.iter().any(|side| side.has_aside)
    }
}

/// What the backup says.
#[derive(Debug, Clone)]
pub(crate) struct Backup {
    pub(crate) created_at_ms: i64,
    pub(crate) cluster_name: String,
    /// Cassandra's.
    pub(crate) version: String,
    pub(crate) partitioner: String,
    pub(crate) datacenter: String,
    pub(crate) rack: String,
    pub(crate) tokens: Vec<String>,
    pub(crate) address: String,
    pub(crate) configuration: ConfigurationFacts,
    pub(crate) files: u64,
    /// A table has counters.
    pub(crate) counters: bool,
    /// The materialized views, `keyspace.view`.
    pub(crate) views: Vec<String>,
    /// The smallest `gc_grace_seconds` of any table.
    pub(crate) gc_grace_seconds: u64,
}

/// The target's configuration, or why there is none.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// In words.
    Unknown {
        reason: String,
    },
    Known(Box<Known>),
}

/// A configuration that has been read.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) path: PathBuf,
    pub(crate) configuration: ConfigurationFacts,
    /// What it says of `auto_bootstrap`.
    pub(crate) auto_bootstrap: Option<bool>,
    /// The seeds that it names.
    pub(crate) seeds: Vec<String>,
    /// What is written for `num_tokens`, when it is no number.
    pub(crate) wrong_num_tokens: Option<String>,
    /// `None` for a snitch that reads no such file; else the file, or why it cannot be read.
    pub(crate) rack: Option<Result<RackFile, String>>,
    /// `None` when there is no data directory.
    pub(crate) layout: Option<Layout>,
    /// The address that the restore is for.
    pub(crate) address: String,
}

/// A directory that files go to.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) exists: bool,
    /// What keeps it from being looked at, in words; the rest then says nothing.
    pub(crate) problem: Option<String>,
    /// The agent may write here (or to the nearest parent there is).
    pub(crate) writable: bool,
    /// Nobody may: the file system is mounted read-only.
    pub(crate) read_only: bool,
    /// Whom the files will belong to.
    pub(crate) owner: Owner,
    pub(crate) ownership: Ownership,
    /// The file system.
    pub(crate) device: u64,
    pub(crate) free_bytes: u64,
    pub(crate) staging: Staging,
    /// What stands where a restore of the other scope stages.
    pub(crate) other_staging: Staging,
    /// What the sentinel of this very restore says here.
    pub(crate) begin: Option<Begin>,
    /// Files have been staged since this restore began.
    pub(crate) is_staged: bool,
    /// Things were moved aside here before.
    pub(crate) has_aside: bool,
    /// Bytes of the files that are neither in place nor staged.
    pub(crate) missing_bytes: u64,
    /// Files in place that are the backup's, by name and size.
    pub(crate) placed: Found,
    /// Everything else that is no directory.
    pub(crate) unexpected: Found,
}

/// Whom the files of a directory will belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The user, and the user's name.
    Known { uid: u32, name: String },
    /// The directory has to be made and the user of the backup does not exist here.
    NoSuchUser { name: String },
}

/// Files that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// One of them.
    pub(crate) example: Option<PathBuf>,
}

impl Found {
    pub(crate) fn add(&mut self, path: impl Into<PathBuf>, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.example.get_or_insert_with(|| path.into());
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        self.count += other.count;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.example = self.example.take().or_else(|| other.example.clone());
    }
}

/// A directory of Cassandra's that is no data directory.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) kind: SideKind,
    pub(crate) path: PathBuf,
    pub(crate) found: Found,
    pub(crate) problem: Option<String>,
    /// Things were moved aside here before.
    pub(crate) has_aside: bool,
}

/// What it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SideKind {
    /// What is in the commit log's directory beside its segments.
    CommitLog,
    /// The commit log's segments from before the restore.
    Segments,
    /// Those that were written since an interrupted restore was begun, by their times: Cassandra makes an empty one before
    /// it looks at the SSTables, and so do starts that the sentinel refuses. See [`Facts::deletes_segments`].
    RefusedStarts,
    Hints,
    SavedCaches,
    ChangeData,
}

/// A running Cassandra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    /// Its directories; or why they are not known.
    pub(crate) directories: Result<Vec<String>, String>,
}

/// Who the agent runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) uid: u32,
    pub(crate) name: String,
}
