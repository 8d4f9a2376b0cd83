//! Why a restore, or its plan, cannot go on, and what that means for the job.

use std::path::PathBuf;

use cassy_agent_protocol::{AgentError, AgentErrorKind};
use cassy_backup_format::{ManifestError, ObjectKey};
use cassy_store::StoreError;
use rustix::io::Errno;

use super::tree::FileError;
use crate::failure::{IntoAgentError, agent_error, is_changed, store_error_kind};
use crate::session::lock::LockError;

/// See the module. `Display` never repeats the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("the store failed")]
    Store(#[source] StoreError),
    #[error("the store stopped in the middle of object {key}")]
    Stalled { key: ObjectKey },
    /// The stored bytes are not those that the backup's record names.
    #[error("node manifest {key} has BLAKE3 {found}, and the backup has {expected}: the object was changed")]
    OtherManifest { key: ObjectKey, expected: String, found: String },
    #[error("node manifest {key} is not valid")]
    Manifest {
        key: ObjectKey,
        #[source]
        source: ManifestError,
    },
    /// Of another cluster, node or backup, marked corrupt, or with a name that could leave its place.
    #[error("node manifest {key} is refused: {reason}")]
    Refused { key: ObjectKey, reason: String },
    /// What stands in the way.
    #[error("the restore cannot begin: {}", .findings.join("; "))]
    Findings { findings: Vec<String> },
    #[error("object {key}{} does not match the backup: {reason}", file_of(.file))]
    Corrupt { key: ObjectKey, file: Option<String>, reason: String },
    /// Nothing is renamed on the way.
    #[error(
        "SSTable {sstable} of {table} was in several data directories, and this node has one place for all"
    )]
    Collision { sstable: String, table: String },
    /// A file in place is not the backup's.
    #[error("{} is not the file of the backup ({reason}); nothing is overwritten", .path.display())]
    InTheWay { path: PathBuf, reason: String },
    /// Half of what was begun must not be taken for all of it.
    #[error("what the restore has begun is not taken back, as not all of it can be looked at: {}", .problems.join("; "))]
    NotSeen { problems: Vec<String> },
    #[error("the node's file system failed")]
    File(#[source] FileError),
    #[error(transparent)]
    Lock(LockError),
    #[error("stopped")]
    Cancelled,
    #[error("a part of the restore ended before its time")]
    CutShort(#[source] tokio::task::JoinError),
}

const UNSEEN: &str = "Let the agent look at it (run it as root, or as the user who owns the data), then restore the same \
    backup again.";
const APART: &str =
    "Name as many data directories in cassandra.yaml as the backed-up node had, then restore again.";
const CHANGED: &str = "Restore another backup, and find out who changed the store.";

fn file_of(file: &Option<String>) -> String {
    file.as_ref().map(|file| format!(" (file {file})")).unwrap_or_default()
}

impl From<FileError> for RestoreError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl RestoreError {
    pub(crate) fn kind(&self) -> AgentErrorKind {
        match self {
            Self::Store(error) => store_error_kind(error),
            Self::File(error) => file_error_kind(error),
            Self::Stalled { .. } | Self::NotSeen { .. } => AgentErrorKind::Transient,
            Self::OtherManifest { .. }
            | Self::Manifest { .. }
            | Self::Refused { .. }
            | Self::Findings { .. }
            | Self::Corrupt { .. }
            | Self::Collision { .. }
            | Self::InTheWay { .. } => AgentErrorKind::Permanent,
            Self::Lock(error) => error.kind(),
            Self::Cancelled => AgentErrorKind::Cancelled,
            Self::CutShort(_) => AgentErrorKind::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint().or_else(|| is_changed(error).then(|| CHANGED.to_owned())),
            Self::File(error) => file_hint(error),
            Self::OtherManifest { .. }
            | Self::Manifest { .. }
            | Self::Refused { .. }
            | Self::Corrupt { .. } => Some(CHANGED.to_owned()),
            Self::InTheWay { path, .. } => Some(format!("Move {} aside and restore again.", path.display())),
            Self::Collision { .. } => Some(APART.to_owned()),
            Self::NotSeen { .. } => Some(UNSEEN.to_owned()),
            Self::Lock(error) => error.hint(),
            Self::Stalled { .. } | Self::Findings { .. } | Self::Cancelled | Self::CutShort(_) => None,
        }
    }
}

impl IntoAgentError for RestoreError {
    fn into_agent_error(self) -> AgentError {
        AgentError { hint: self.hint(), ..agent_error(&self, self.kind()) }
    }
}

/// An I/O error of a disk may be gone the next time; these will not be.
fn file_error_kind(error: &FileError) -> AgentErrorKind {
    match error.errno() {
        Some(
            Errno::IO
            | Errno::STALE
            | Errno::AGAIN
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
            | Errno::INTR,
        ) => AgentErrorKind::Transient,
        Some(Errno::BADF | Errno::FAULT) => AgentErrorKind::Bug,
        _ => AgentErrorKind::Permanent,
    }
}

fn file_hint(error: &FileError) -> Option<String> {
    match error.errno()? {
        Errno::NOSPC | Errno::DQUOT => Some("Free space on the node's disk, or raise the quota.".to_owned()),
        Errno::ACCESS | Errno::PERM => {
            Some("Let the agent run as root, or as the user who owns the data.".to_owned())
        }
        Errno::XDEV | Errno::BUSY => {
            Some("It is a file system of its own: move what is in it aside by hand.".to_owned())
        }
        Errno::ROFS => Some("The file system is mounted read-only: mount it read-write.".to_owned()),
        Errno::LOOP | Errno::NOTDIR => {
            Some("Replace the symbolic link or file in the data directory by a directory.".to_owned())
        }
        _ => None,
    }
}
