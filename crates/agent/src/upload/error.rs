//! Why a snapshot cannot be sent.

use std::path::PathBuf;

use cassy_agent_protocol::{AgentError, AgentErrorKind, SnapshotTag};
use cassy_backup_format::{KeyError, ManifestError, ObjectKey};
use cassy_store::StoreError;

use crate::context::Context;
use crate::directory::FileError;
use crate::failure::{IntoAgentError, agent_error, listed, store_error_kind};
use crate::snapshot::TruncationsError;

const CLEARED_HINT: &str = "Take another backup, and keep whatever clears snapshots away from those named cassy-...: \
    `nodetool clearsnapshot --all`, or one without a tag on older versions, removes them too.";

const NEW_BASE_HINT: &str = "Take a node backup (backup_type 2), and increments on that.";

const UNLINKED_HINT: &str = "Take node backups (backup_type 2), which hold such tables too; or ALTER TABLE ... WITH \
    incremental_backups = true, take a node backup, and increments on that.";

/// See the module. That an SSTable does not match its own digest is no error: the summary tells it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The server asked to stop.
    #[error("sending the snapshot was cancelled")]
    Cancelled,
    /// A file of the node.
    #[error("cannot read the snapshot")]
    File {
        #[source]
        source: FileError,
    },
    /// Some tables have no whole snapshot.
    #[error("the snapshot {tag} is not whole any more: {}", listed(.broken, "; "))]
    NotWhole { tag: SnapshotTag, broken: Vec<String> },
    /// Some tables have no snapshot any more.
    #[error("the snapshot {tag} of {} is gone; somebody cleared it", listed(.tables, ", "))]
    Gone { tag: SnapshotTag, tables: Vec<String> },
    /// Files came or went since the snapshot was checked.
    #[error("the snapshot of {table} has changed since it was checked: {before} files then, {now} now")]
    SnapshotChanged { table: String, before: String, now: String },
    /// The store.
    #[error("cannot {what}")]
    Store {
        what: &'static str,
        #[source]
        source: StoreError,
    },
    /// The store acknowledged something else than what was sent.
    #[error("the store acknowledged {stored} bytes of {key}, and {sent} were sent")]
    Acknowledged { key: ObjectKey, sent: u64, stored: u64 },
    /// A name that no key can hold.
    #[error("cannot name an object")]
    Key {
        #[source]
        source: KeyError,
    },
    /// The parent manifest is not the one that the server named.
    #[error("the parent manifest {key} is not to be trusted: {what}")]
    ParentDiffers { key: ObjectKey, what: String },
    /// The parent manifest cannot be understood.
    #[error("cannot read the parent manifest {key}")]
    Parent {
        key: ObjectKey,
        #[source]
        source: ManifestError,
    },
    /// A chain begins with a snapshot.
    #[error("an increment needs a base and a parent, and the request does not name both")]
    NoChain,
    /// What the witness has to say.
    #[error("cannot tell which tables were truncated")]
    Truncations {
        #[source]
        source: TruncationsError,
    },
    /// The parent's objects cannot be sent again: their files are gone.
    #[error("a purge has listed {key}, which this increment would take over from its parent")]
    ParentTrashed { key: ObjectKey },
    /// As their schema says, now or when the parent was taken.
    #[error(
        "Cassandra links nothing of {} into backups/, or did not when the parent was taken (WITH incremental_backups = \
         false)",
        listed(.tables, ", ")
    )]
    NeverLinked { tables: Vec<String> },
    /// Cassandra was stopped, or somebody has deleted there.
    #[error(
        "SSTables in backups/ are not whole, and have not been for a minute, so that an increment would lack their rows: {}",
        listed(.broken, "; ")
    )]
    HalfLinked { broken: Vec<String> },
    /// Two SSTables with one UUID.
    #[error(
        "{sstable} in backups/ has other rows than the SSTable of this name in the parent, and a name that cannot be used twice"
    )]
    Collides { sstable: String },
    /// They are a Java `int`.
    #[error("the table {table} has no generation left for an SSTable whose own is taken")]
    GenerationsUsedUp { table: String },
    /// A trash list cannot be understood.
    #[error("cannot read the trash list {key}")]
    Trash {
        key: ObjectKey,
        #[source]
        source: ManifestError,
    },
    /// A purge has ended while its list was read.
    #[error("the trash list {key} was removed while it was read")]
    TrashGone { key: ObjectKey },
    /// Objects that the backup relies on were found in trash lists again and again.
    #[error("in each of {tries} tries a purge listed objects that this backup relies on, such as {key}")]
    KeepsBeingTrashed { tries: u32, key: ObjectKey },
    /// Our own manifest.
    #[error("cannot write the manifest")]
    Manifest {
        #[source]
        source: ManifestError,
    },
    /// Another manifest has its key.
    #[error("another manifest is stored as {key} already")]
    ManifestTaken { key: ObjectKey },
    /// The agent's own files.
    #[error("cannot {operation} the agent's file {}", .path.display())]
    Spool {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A session has no more attempts to draw.
    #[error("the sending session has used up its attempts")]
    AttemptsUsedUp,
    /// A task of ours ended before its time.
    #[error("a task was cut short")]
    CutShort {
        #[source]
        source: tokio::task::JoinError,
    },
}

impl UploadError {
    pub(crate) fn kind(&self) -> AgentErrorKind {
        match self {
            Self::Cancelled => AgentErrorKind::Cancelled,
            Self::File { source } => source.kind(),
            Self::Store { source: StoreError::AlreadyExists { .. }, .. } => AgentErrorKind::Bug,
            Self::Store { source, .. } => store_error_kind(source),
            Self::SnapshotChanged { .. }
            | Self::Acknowledged { .. }
            | Self::TrashGone { .. }
            | Self::KeepsBeingTrashed { .. }
            | Self::ParentTrashed { .. }
            | Self::Spool { .. }
            | Self::CutShort { .. } => AgentErrorKind::Transient,
            Self::NotWhole { .. }
            | Self::Gone { .. }
            | Self::Key { .. }
            | Self::ParentDiffers { .. }
            | Self::Parent { .. }
            | Self::Trash { .. }
            | Self::Manifest { .. }
            | Self::ManifestTaken { .. } => AgentErrorKind::Permanent,
            Self::Truncations { source } => source.kind(),
            Self::NeverLinked { .. }
            | Self::HalfLinked { .. }
            | Self::Collides { .. }
            | Self::GenerationsUsedUp { .. } => AgentErrorKind::Permanent,
            Self::AttemptsUsedUp | Self::NoChain => AgentErrorKind::Bug,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::File { source } => source.hint(),
            Self::Store { source, .. } => source.hint(),
            Self::NotWhole { .. } | Self::Gone { .. } => Some(CLEARED_HINT.to_owned()),
            Self::NeverLinked { .. } => Some(UNLINKED_HINT.to_owned()),
            Self::Truncations { source } => Some(source.hint().unwrap_or_else(|| NEW_BASE_HINT.to_owned())),
            // Without a parent a snapshot is sent whole; an increment is nothing.
            Self::ParentDiffers { .. }
            | Self::Parent { .. }
            | Self::ParentTrashed { .. }
            | Self::HalfLinked { .. }
            | Self::Collides { .. }
            | Self::GenerationsUsedUp { .. } => Some(NEW_BASE_HINT.to_owned()),
            _ => None,
        }
    }
}

impl IntoAgentError for UploadError {
    fn into_agent_error(self) -> AgentError {
        AgentError { hint: self.hint(), ..agent_error(&self, self.kind()) }
    }
}

impl From<FileError> for UploadError {
    fn from(source: FileError) -> Self {
        Self::File { source }
    }
}

impl Context {
    /// A safe point to stop at, and a sign that the work goes on.
    pub(crate) fn check(&self) -> Result<(), UploadError> {
        self.progress.beat();
        if self.cancel.is_cancelled() { Err(UploadError::Cancelled) } else { Ok(()) }
    }
}

/// Runs file system calls, which may block for long, off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(source) => Err(UploadError::CutShort { source }),
    }
}
