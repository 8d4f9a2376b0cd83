//! What the public interface can ask for: requests and answers in our own terms, free of any wire format.

use std::collections::BTreeMap;

use async_trait::async_trait;

pub use crate::job::backup::cluster_wide::{FreezeReport, PausedInstance};
pub use crate::nodes::Undelivered;
pub use cassy_catalog::LISTED_MOST;

/// The operations behind gRPC (and later REST and the GUI). A future of these may be dropped at any instant:
/// the work itself belongs to the runner, and goes on.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Registers the cluster that this host belongs to; a known one is refreshed and keeps its id.
    async fn register_cluster(&self, cassandra_host: &str) -> Result<Cluster, OperationError>;
    /// Newest first. An unknown id gives an empty list.
    async fn list_clusters(&self, selector: ClusterSelector) -> Result<Vec<Cluster>, OperationError>;
    /// Answers once the snapshots are taken, or the request is refused.
    async fn take_backup(&self, request: BackupRequest) -> Result<BackupAnswer, OperationError>;
    /// Newest first, one entry per node and call.
    async fn list_backups(&self, selector: HistorySelector) -> Result<Vec<NodeEntry>, OperationError>;
    /// Answers once the work is handed out, or the request is refused; a dry run once its plan is made.
    async fn restore_backup(&self, request: RestoreRequest) -> Result<RestoreAnswer, OperationError>;
    /// Newest first, one entry per node and call.
    async fn list_restores(&self, selector: HistorySelector) -> Result<Vec<NodeEntry>, OperationError>;
    /// Answers once the job has ended.
    async fn cancel_job(&self, selector: JobSelector) -> Result<CancelAnswer, OperationError>;
}

/// A registered cluster. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Cluster {
    pub cluster_id: String,
    pub cluster_name: String,
    pub target_ips: Vec<String>,
    pub keyspaces: Vec<String>,
    pub data_dir: String,
    pub created_at: i64,
    pub updated_at: i64,
}

/// Which clusters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterSelector {
    /// Only this one.
    pub cluster_id: Option<String>,
    /// At most so many; `None` means all.
    pub limit: Option<u32>,
}

/// Which history entries to list. At least one of `cluster_id` and `snapshot_id` is set: the caller checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HistorySelector {
    pub cluster_id: Option<String>,
    pub target_ip: Option<String>,
    /// Selects alone: the cluster id is then not looked at.
    pub snapshot_id: Option<String>,
    pub limit: Option<u32>,
}

/// Which job is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobSelector {
    /// By its own id.
    Job(String),
    /// The only one under way that is about this snapshot.
    Snapshot(String),
}

/// What a cancelled job came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CancelAnswer {
    pub job_id: String,
    pub snapshot_id: String,
    /// FAILED, or COMPLETED when nothing was left to be cut.
    pub status: Status,
    /// What was cut.
    pub message: String,
    /// As the history has them.
    pub nodes: Vec<CancelledNode>,
}

/// One node's part of a cancelled job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CancelledNode {
    pub target_ip: String,
    pub status: Status,
    pub message: String,
}

/// The kinds of backup, with the numbers of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum BackupType {
    /// 1: a snapshot of the whole cluster while its applications are paused.
    Cluster = 1,
    /// 2: a snapshot of each node.
    Node = 2,
    /// 3: the incremental files since a snapshot.
    Incremental = 3,
}

/// The kinds of restore, with the numbers of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RestoreType {
    /// 1: the whole cluster.
    Cluster = 1,
    /// 2: single nodes.
    Node = 2,
}

/// A backup that is asked for. Empty `target_ips` means the ring of the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct BackupRequest {
    pub cluster_id: String,
    pub target_ips: Vec<String>,
    pub snapshot_id: Option<String>,
    pub backup_type: BackupType,
    /// Of type 1: keep the snapshots as those of single nodes when consistency is not proven.
    pub keep_unproven: bool,
    /// The client's own name for this request: sent again, the same job answers.
    pub idempotency_key: Option<String>,
}

/// A restore that is asked for. Empty `target_ips` means every node of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RestoreRequest {
    pub cluster_id: String,
    pub target_ips: Vec<String>,
    pub snapshot_id: String,
    pub restore_type: RestoreType,
    pub snapshot_only: bool,
    /// Target address -> address or host id of the backed-up node that it takes the place of.
    pub source_of: BTreeMap<String, String>,
    /// Move aside what is in the way on the targets.
    pub move_aside: bool,
    /// Say what would be done and what stands in its way; change nothing.
    pub dry_run: bool,
    /// The client's own name for this request: sent again, the same job answers. Not looked at in a dry run.
    pub idempotency_key: Option<String>,
}

/// The numbers are those of the wire and of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Status {
    Unknown = 0,
    Initialized = 1,
    Started = 2,
    Completed = 3,
    Failed = 4,
}

/// The answer to a backup request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct BackupAnswer {
    pub status: Status,
    pub cluster_id: String,
    pub target_ips: Vec<String>,
    pub snapshot_id: String,
    pub created_at: i64,
    pub backup_type: BackupType,
    /// What the operator should know; empty when there is nothing to say.
    pub message: String,
    pub job_id: String,
}

/// The answer to a restore request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RestoreAnswer {
    pub status: Status,
    pub cluster_id: String,
    pub target_ips: Vec<String>,
    pub snapshot_id: String,
    pub restore_type: RestoreType,
    pub snapshot_only: bool,
    /// What the operator should know; empty when there is nothing to say.
    pub message: String,
    /// `None` for a dry run.
    pub job_id: Option<String>,
}

/// One node's part of one backup or restore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NodeEntry {
    pub cluster_id: String,
    pub target_ip: String,
    pub snapshot_id: String,
    pub created_at: i64,
    pub updated_at: i64,
    /// The number of its backup type or restore type.
    pub operation_type: u32,
    pub status: Status,
    pub progress: Progress,
    /// Why it failed, what it did, or what to do next.
    pub message: String,
    /// Of a cluster-wide backup: how the applications were paused.
    pub freeze: Option<FreezeReport>,
    /// `None` for a row that Java Cassy has written.
    pub job_id: Option<String>,
}

/// How far a node's part is, in bytes of files; 0 of 0 before it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Progress {
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// Why an operation was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OperationError {
    /// What the caller can make of it.
    pub kind: OperationErrorKind,
    /// What, where, why.
    pub message: String,
    /// What to do, one sentence each.
    pub hints: Vec<String>,
}

/// One per gRPC status that is ever answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OperationErrorKind {
    InvalidArgument,
    NotFound,
    FailedPrecondition,
    Unavailable,
    Unimplemented,
    /// Too many requests or jobs at once.
    Exhausted,
    /// A defect of ours; the message carries no internals.
    Internal,
}

impl OperationError {
    /// An error without hints.
    pub fn new(kind: OperationErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new() }
    }

    /// The same with one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}
