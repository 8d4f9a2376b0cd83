//! The stages of a backup.

use serde::{Deserialize, Serialize};

/// Stored before it starts; every stage may be performed twice. [`BackupStage::Pin`], [`BackupStage::Commit`] and
/// [`BackupStage::Unpin`] are the job's, all others a node's; of a cluster-wide backup [`BackupStage::Snapshot`] is the
/// job's too, and the nodes are cleared after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStage {
    /// Reach every node, its agent, its Cassandra and the store; clear leftovers of dead jobs.
    Prepare,
    /// Choose the manifests whose objects may be relied on, and pin them.
    Pin,
    /// Note the files that the coming snapshot supersedes.
    List,
    /// Flush, so that the flush inside the snapshot is short.
    Flush,
    /// Take the snapshot, and check that it is whole.
    Snapshot,
    /// Send what is new; the node manifest is the last object.
    Upload,
    /// Clear the snapshot, what it superseded, and objects of dead sessions.
    Clear,
    /// Write the cluster manifest. A node in this stage waits for it, or has done its part.
    Commit,
    /// Remove the pin and the probe.
    Unpin,
    /// The end.
    Finished,
}

impl BackupStage {
    /// Every stage in which something happens, in order.
    pub const ALL: [Self; 9] = [
        Self::Prepare,
        Self::Pin,
        Self::List,
        Self::Flush,
        Self::Snapshot,
        Self::Upload,
        Self::Clear,
        Self::Commit,
        Self::Unpin,
    ];

    /// The name in the database and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Pin => "pin",
            Self::List => "list",
            Self::Flush => "flush",
            Self::Snapshot => "snapshot",
            Self::Upload => "upload",
            Self::Clear => "clear",
            Self::Commit => "commit",
            Self::Unpin => "unpin",
            Self::Finished => "finished",
        }
    }

    /// What a node comes to next; `together` in a cluster-wide backup.
    pub(super) fn next(self, together: bool) -> Self {
        match self {
            Self::Prepare => Self::Pin,
            Self::Pin => Self::List,
            Self::List => Self::Flush,
            Self::Flush => Self::Snapshot,
            Self::Snapshot => Self::Upload,
            Self::Upload if together => Self::Commit,
            Self::Upload => Self::Clear,
            Self::Commit if together => Self::Clear,
            Self::Clear if together => Self::Unpin,
            Self::Clear => Self::Commit,
            Self::Commit => Self::Unpin,
            Self::Unpin | Self::Finished => Self::Finished,
        }
    }
}
