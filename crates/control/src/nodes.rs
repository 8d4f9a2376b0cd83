//! What jobs need of nodes, as traits of our own: the binary wires them to SSH and JMX, tests to fakes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{Progress, Reply, Request, ServerHello};
use cassy_backup_format::HostId;
use serde::{Deserialize, Serialize};

use crate::job::Failure;

/// Reaches nodes by their address.
#[async_trait]
pub trait NodeAccess: Send + Sync + 'static {
    /// Starts an agent on the node. It ends when it is dropped.
    async fn agent(&self, address: &str, hello: ServerHello) -> Result<Box<dyn Agent>, NodeError>;
    /// Logs in and out again: the node's host key is known from then on.
    async fn meet(&self, address: &str) -> Result<(), NodeError>;
    /// Opens a session with the node's Cassandra, through an agent of its own where there is no direct way.
    async fn cassandra(&self, address: &str) -> Result<Box<dyn Cassandra>, NodeError>;
}

/// Hears how far a request is.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// An agent at work on a node.
#[async_trait]
pub trait Agent: Send + Sync {
    /// Sends a request and waits for its answer.
    async fn request(&self, request: Request, progress: OnProgress) -> Result<Reply, NodeError>;
    /// Opens a session with the node's Cassandra, through this agent where there is no direct way.
    async fn cassandra(&self) -> Result<Box<dyn Cassandra>, NodeError>;
    /// Asks the request under way to stop.
    async fn cancel(&self);
    /// Ends the agent and waits until the connection is closed.
    async fn close(&self);
}

/// A session with a node's Cassandra. Empty tags and empty keyspace lists mean "all" to Cassandra and are
/// refused by every implementation.
#[async_trait]
pub trait Cassandra: Send {
    /// What the node says of itself and of the ring.
    async fn describe(&mut self) -> Result<NodeDescription, NodeError>;
    /// `(keyspace, table)` of every table.
    async fn tables(&mut self) -> Result<Vec<(String, String)>, NodeError>;
    /// Every keyspace of this moment.
    async fn keyspaces(&mut self) -> Result<Vec<String>, NodeError>;
    /// Flushes the memtables of these keyspaces.
    async fn flush(&mut self, keyspaces: &[String]) -> Result<(), NodeError>;
    /// What clients do with this node as a coordinator.
    async fn client_activity(&mut self) -> Result<ClientActivity, NodeError>;
    /// Of [`ClientActivity::writes`], those to keyspaces of the system among these tables, which a node makes by itself.
    async fn system_writes(&mut self, tables: &[(String, String)]) -> Result<u64, NodeError>;
    /// What the node knows of writes that some replicas do not have.
    async fn undelivered(&mut self) -> Result<Undelivered, NodeError>;
    /// For how long the node's process has been running.
    async fn uptime(&mut self) -> Result<Duration, NodeError>;
    /// How long the node works on a write before it gives it up.
    async fn write_timeout(&mut self) -> Result<Duration, NodeError>;
    /// Takes a snapshot of these keyspaces. That it returned proves nothing.
    async fn take_snapshot(&mut self, tag: &str, keyspaces: &[String]) -> Result<(), NodeError>;
    /// Clears this snapshot in these keyspaces.
    async fn clear_snapshot(&mut self, tag: &str, keyspaces: &[String]) -> Result<(), NodeError>;
}

/// What clients do with a node as a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientActivity {
    /// Requests that are being worked on or wait for it, reads too; looked at before the writes are counted.
    pub tasks: u64,
    /// Writes that have ended since the node was started, its own to keyspaces of the system among them.
    pub writes: u64,
}

/// Writes that may be missing on some of their replicas, as a node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undelivered {
    /// Files of hints that wait there for other nodes; `None` when its version does not say it.
    pub hint_files: Option<u64>,
    /// Writes that it was to store and has dropped, since it was started.
    pub dropped_writes: u64,
}

/// What a node says of itself and of the ring. Every value has been checked by the implementation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NodeDescription {
    pub cluster_name: String,
    pub release_version: String,
    pub partitioner: String,
    pub operation_mode: String,
    /// The node's own id.
    pub host_id: HostId,
    /// Every node of the ring: address to host id.
    pub ring: BTreeMap<String, HostId>,
    pub live: Vec<String>,
    pub unreachable: Vec<String>,
    pub joining: Vec<String>,
    pub leaving: Vec<String>,
    pub moving: Vec<String>,
    pub keyspaces: Vec<String>,
    pub data_directories: Vec<String>,
    /// Whether flushed SSTables are linked into `backups/` directories.
    pub incremental_backups: bool,
    pub tokens: Vec<String>,
    pub datacenter: String,
    pub rack: String,
}

/// Why a node could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    /// What it means for the job.
    pub kind: NodeErrorKind,
    /// What, where, why: the whole chain.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What a failure means for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeErrorKind {
    /// The node, its sshd or its Cassandra cannot be reached.
    Unreachable,
    /// The agent ended in the middle of a request; another one may finish it.
    Gone,
    /// Another agent holds the node's lock, and has been waited for.
    Busy,
    /// Another try may succeed.
    Transient,
    /// Another try fails in the same way.
    Permanent,
}

impl NodeError {
    /// An error without a hint.
    pub fn new(kind: NodeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Whether another try makes sense.
    pub fn is_transient(&self) -> bool {
        self.kind != NodeErrorKind::Permanent
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self {
            unavailable: matches!(error.kind, NodeErrorKind::Unreachable | NodeErrorKind::Gone),
            message: error.message,
            hint: error.hint,
        }
    }
}
