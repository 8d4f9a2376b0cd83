//! The messages. One request is answered by exactly one [`Reply`] with the same id; in between the agent
//! sends [`FromAgent::Progress`].

use std::fmt;

use cassy_backup_format::{
    BackupId, BackupKind, ClusterId, ConfigurationFacts, HostId, ObjectKey, SessionId, TableRef,
};
use serde::{Deserialize, Serialize};

use crate::{GuardOrder, RelayFrame, SnapshotTag};

/// From the server to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// The first message; nothing else is accepted before it.
    Hello(ServerHello),
    /// Work; at most one request is under way at a time.
    Request {
        /// Chosen by the server, never used twice on one stream.
        id: u64,
        /// What to do.
        request: Request,
    },
    /// Stop the request at its next safe point; it is still answered.
    Cancel {
        /// The request's id.
        id: u64,
    },
    /// Of a connection to the node's own loopback; independent of requests.
    Relay {
        /// Chosen by the server, never used twice on one stream.
        connection: u64,
        /// What about it.
        frame: RelayFrame,
    },
    /// Sent every [`ServerHello::heartbeat_ms`].
    Heartbeat,
}

/// From the agent to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// Answers the server's hello.
    Hello(AgentHello),
    /// At most once a second while a request runs.
    Progress {
        /// The request's id.
        id: u64,
        /// How far it is.
        progress: Progress,
    },
    /// The answer to a request.
    Reply {
        /// The request's id.
        id: u64,
        /// The outcome.
        outcome: Result<Reply, AgentError>,
    },
    /// Of a connection that the server has opened.
    Relay {
        /// Its number.
        connection: u64,
        /// What about it.
        frame: RelayFrame,
    },
    /// Sent every [`ServerHello::heartbeat_ms`].
    Heartbeat,
}

/// How the server introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHello {
    /// The job that the agent works for.
    pub job_id: String,
    /// The server's epoch; only for the agent's log.
    pub epoch: i64,
    /// Milliseconds between two heartbeats of either side.
    pub heartbeat_ms: u64,
    /// Milliseconds without a frame from the other side after which it is taken for gone: the agent ends.
    pub silence_ms: u64,
}

/// How the agent introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// SHA-256 of the agent's executable, lower hex digits.
    pub build: String,
    /// The version of the package.
    pub version: String,
    /// The node's host name, for messages.
    pub hostname: String,
    /// The agent's process id, for messages.
    pub pid: u32,
    /// The user that the agent runs as.
    pub user: String,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of files dealt with.
    pub bytes_done: u64,
    /// Bytes of files in all; 0 while unknown.
    pub bytes_total: u64,
    /// Files dealt with.
    pub files_done: u64,
    /// Files in all; 0 while unknown.
    pub files_total: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Take the node's lock: an exclusive `flock` on the first data directory itself, held until the agent ends.
    Lock(LockRequest),
    /// Find the Cassandra that owns these data directories, and what its `cassandra.yaml` says.
    Inspect(InspectRequest),
    /// Read an object that the server has just written: node and server see the same store.
    CheckStore(CheckStoreRequest),
    /// Note which files lie in `backups/` directories now: exactly these the coming snapshot supersedes. The list is
    /// an object of the store, so that any agent can clear them later; the server deletes it afterwards.
    ListSuperseded(SupersededRequest),
    /// Say which of these tables lack a whole snapshot under the tag.
    CheckSnapshot(CheckSnapshotRequest),
    /// Send the snapshot, or what an increment adds to its parent, and write the node manifest.
    Upload(Box<UploadRequest>),
    /// Delete the files noted by `ListSuperseded` that are still the same ones. Without a list there are none.
    ClearSuperseded(SupersededRequest),
    /// Delete from `backups/` exactly what an increment's manifest holds, or has ruled out as truncated.
    ClearIncluded(ClearIncludedRequest),
    /// Name the snapshots with tags of ours that lie on the disk, also those of dropped tables.
    ListSnapshots(DataDirectories),
    /// Delete what is left of these snapshots.
    SweepSnapshots(SweepRequest),
    /// Reach every instance of this order, and arm a guard that is a process of its own: it unpauses when this agent
    /// ends or its deadline passes.
    Guard(GuardOrder),
    /// Everybody goes on: the guard ends without doing anything.
    ReleaseGuard,
    /// Say which tokens the `cassandra.yaml` of a stopped node names.
    ReadTokens(ReadTokensRequest),
    /// Say what a restore would do and what stands in its way. Changes nothing.
    PlanRestore(Box<RestoreRequest>),
    /// Do it.
    Restore(Box<RestoreRequest>),
    /// Take back what a restore that was stopped has begun, as long as nothing was placed.
    UndoRestore(Box<RestoreRequest>),
}

/// See [`Request::Lock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    /// An absolute path. When absent, its nearest existing parent is locked instead.
    pub directory: String,
    /// How long to wait for another agent to end.
    pub wait_ms: u64,
}

/// See [`Request::Inspect`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectRequest {
    /// What JMX says the data directories are.
    pub data_directories: Vec<String>,
}

/// A list of data directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDirectories {
    /// Absolute paths, in Cassandra's order.
    pub data_directories: Vec<String>,
}

/// See [`Request::ListSuperseded`] and [`Request::ClearSuperseded`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededRequest {
    /// The store.
    pub store: StoreGrant,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub host_id: HostId,
    /// The backup that supersedes them.
    pub backup_id: BackupId,
    /// Absolute paths, in Cassandra's order.
    pub data_directories: Vec<String>,
}

/// See [`Request::ClearIncluded`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearIncludedRequest {
    /// The store.
    pub store: StoreGrant,
    /// The increment's node manifest, which is committed.
    pub manifest: ParentManifest,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub host_id: HostId,
    /// Absolute paths, in Cassandra's order.
    pub data_directories: Vec<String>,
}

/// Where the objects are; credentials travel only here, never in argv, environment or files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreGrant {
    /// The store's URI, as configured.
    pub location: String,
}

impl fmt::Debug for StoreGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreGrant").field("location", &self.location).finish_non_exhaustive()
    }
}

/// See [`Request::CheckStore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStoreRequest {
    /// The store.
    pub store: StoreGrant,
    /// An object that the server has written.
    pub key: ObjectKey,
    /// What it holds.
    pub content: String,
}

/// See [`Request::CheckSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSnapshotRequest {
    /// The node's data directories.
    pub data_directories: Vec<String>,
    /// The snapshot's tag.
    pub tag: SnapshotTag,
    /// `(keyspace, table)` of every table that Cassandra has, by JMX.
    pub tables: Vec<(String, String)>,
}

/// See [`Request::Upload`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UploadRequest {
    /// The store.
    pub store: StoreGrant,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The cluster's own name.
    pub cluster_name: String,
    /// The node.
    pub host_id: HostId,
    /// The node's address, as the ring has it.
    pub address: String,
    /// The node's tokens, as decimal strings.
    pub tokens: Vec<String>,
    /// The node's datacenter.
    pub datacenter: String,
    /// The node's rack.
    pub rack: String,
    /// Cassandra's release version.
    pub cassandra_version: String,
    /// The partitioner's class.
    pub partitioner: String,
    /// The backup.
    pub backup_id: BackupId,
    /// What kind of backup.
    pub kind: BackupKind,
    /// When the job was made, Unix milliseconds.
    pub created_at_ms: i64,
    /// This sending session; recorded by the server before it sent this request.
    pub session: SessionId,
    /// The snapshot to send; of an increment the witness: which tables there are, and what was truncated.
    pub snapshot: CheckSnapshotRequest,
    /// The node manifest whose objects may be relied on (a pin protects them). An increment always has one: its base,
    /// or the increment before it on the same base.
    pub parent: Option<ParentManifest>,
    /// The snapshot that an increment is added to; absent otherwise.
    pub base: Option<BackupId>,
    /// What `Inspect` found.
    pub configuration: ConfigurationFacts,
}

/// A node manifest, named by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentManifest {
    /// Its key.
    pub key: ObjectKey,
    /// Its backup.
    pub backup_id: BackupId,
    /// BLAKE3 of its stored bytes, hex.
    pub blake3: String,
}

/// See [`Request::SweepSnapshots`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepRequest {
    /// The node's data directories.
    pub data_directories: Vec<String>,
    /// The tags to clear.
    pub tags: Vec<SnapshotTag>,
}

/// See [`Request::ReadTokens`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadTokensRequest {
    /// `cassandra.yaml`, by key.
    pub cassandra_yaml: Option<String>,
    /// Where it was on the nodes of the backup; behind these come the packages' defaults.
    pub recorded: Vec<String>,
}

/// How a target relates to the node whose data it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "snake_case")]
pub enum RestoreWay {
    /// It is that node.
    InPlace,
    /// It takes the place of that node, which is gone, under another address.
    Replacement,
    /// It is of a cluster of its own, and gets nothing of the keyspace `system`: with it, it would pass for the
    /// original and join its ring.
    Copy {
        /// The addresses of the original cluster: none of them is the copy's.
        originals: Vec<String>,
        /// Nodes of the original cluster that are alive.
        living: Vec<String>,
    },
}

/// What the restore of one node is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreScope {
    /// A restore of nodes, each by itself (type 2).
    Nodes,
    /// A restore of all nodes of a cluster to one instant (type 1).
    Cluster,
}

impl RestoreScope {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nodes, Self::Cluster];

    /// The name of the staging directory in each data directory.
    pub fn staging(self) -> &'static str {
        match self {
            Self::Nodes => "node-backup",
            Self::Cluster => "cluster-backup",
        }
    }
}

/// See [`Request::PlanRestore`] and [`Request::Restore`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The store.
    pub store: StoreGrant,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The backup.
    pub backup_id: BackupId,
    /// The node manifest: key, and BLAKE3 of its stored bytes.
    pub manifest: ParentManifest,
    /// The node whose data it is.
    pub host_id: HostId,
    /// The address that the data goes to.
    pub target: String,
    /// How the target relates to that node.
    pub way: RestoreWay,
    /// `cassandra.yaml`, by key; else the path recorded in the manifest, else the packages' defaults.
    pub cassandra_yaml: Option<String>,
    /// What it is a part of.
    pub scope: RestoreScope,
    /// The id of the job that moves aside what is in the way; when absent, that is a finding.
    pub move_aside: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// The node's Cassandra.
    Inspected(Box<NodeFacts>),
    /// How many files were noted.
    Superseded {
        /// The count.
        files: u64,
    },
    /// Tags of ours, sorted, each once; of very many only the oldest.
    Snapshots {
        /// The tags.
        tags: Vec<SnapshotTag>,
    },
    /// The tables that lack a whole snapshot, each with what is wrong; empty when all is well.
    SnapshotChecked {
        /// `keyspace.table: what is wrong`.
        broken: Vec<String>,
    },
    /// The node manifest is durable.
    Uploaded(UploadSummary),
    /// How many files were deleted.
    Cleared {
        /// The count.
        files: u64,
    },
    /// The tokens of a stopped node.
    Tokens {
        /// The `cassandra.yaml` that was read.
        yaml: String,
        /// What its `initial_token` names; empty without one.
        tokens: Vec<String>,
    },
    /// The plan of a restore.
    Planned(RestorePlan),
    /// The restore is complete.
    Restored(RestoreSummary),
    /// The restore is undone.
    Undone {
        /// What remains of it; `None` when the node is as it was before.
        left: Option<String>,
    },
}

/// What an agent knows of the node's Cassandra.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The daemon's process id.
    pub pid: Option<u32>,
    /// The configuration.
    pub configuration: ConfigurationFacts,
    /// How long ago its `cassandra.yaml` was written or put there, milliseconds; 0 when that is not known.
    pub yaml_age_ms: u64,
    /// Free bytes of the file system of each data directory.
    pub free_bytes: Vec<u64>,
}

/// The outcome of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadSummary {
    /// The node manifest's key.
    pub manifest: ObjectKey,
    /// BLAKE3 of its stored bytes, hex.
    pub blake3: String,
    /// Its size.
    pub size: u64,
    /// SSTables in the backup.
    pub sstables: u64,
    /// Files in the backup.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Bytes that were sent, the rest was there already.
    pub sent_bytes: u64,
    /// Whether something was sent, or begun, by this session or an earlier one, that the manifest does not name.
    #[serde(default)]
    pub left_orphans: bool,
    /// Of an increment: SSTables that were taken from `backups/`.
    #[serde(default)]
    pub taken: u64,
    /// Of an increment: SSTables in `backups/` that are not complete yet, for the next one.
    #[serde(default)]
    pub left: u64,
    /// Every table in the backup.
    pub tables: Vec<TableRef>,
    /// `keyspace.table/sstable: what is wrong` for each SSTable that does not match its own digest. When not
    /// empty the manifest is the one marked corrupt, and the node's backup has failed.
    pub corrupt: Vec<String>,
}

/// What a restore would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// What stands in the way, each with what to do; empty when the restore can go on.
    pub findings: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Where the files would go.
    pub data_directories: Vec<String>,
    /// Files to place.
    pub files: u64,
    /// Bytes to download.
    pub bytes: u64,
    /// Free bytes of each data directory's file system.
    pub free_bytes: Vec<u64>,
    /// What is moved aside before anything is placed.
    #[serde(default)]
    pub moved_aside: Vec<MovedAside>,
    /// The seeds that the node's `cassandra.yaml` names.
    #[serde(default)]
    pub seeds: Vec<String>,
}

/// What lies in one of Cassandra's directories, and goes into another one in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedAside {
    /// The directory.
    pub directory: String,
    /// Where it goes.
    pub to: String,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The outcome of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreSummary {
    /// Files in place.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the operator has to do next, or should know.
    pub notes: Vec<String>,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// What kind of failure.
    pub kind: AgentErrorKind,
    /// What failed, on what, why: the whole chain.
    pub message: String,
    /// What to do, when it is known.
    pub hint: Option<String>,
}

/// What a failure means for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentErrorKind {
    /// Another try may succeed.
    Transient,
    /// Another try fails in the same way.
    Permanent,
    /// Another agent works on this node.
    Busy,
    /// The server asked to stop.
    Cancelled,
    /// A defect of ours.
    Bug,
}
