//! The agent on one node. It ends with its connection, and its guard with it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{
    CheckSnapshotRequest, GuardOrder, NodeFacts, Progress, Reply, Request, UploadRequest, UploadSummary,
};
use cassy_backup_format::Keys;
use cassy_control::nodes::{Agent, Cassandra, NodeError, NodeErrorKind, OnProgress};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Session, address, permanent};
use crate::fakes::schema::table;
use crate::guards::Pipe;
use crate::world::{Host, Without, World};

/// Lives on the node.
pub(crate) struct AgentOnNode {
    pub(super) end: CancellationToken,
    guard: Option<Pipe>,
}

/// The server's end of it.
pub(super) struct LiveAgent {
    world: Arc<World>,
    node: usize,
    id: u64,
    end: CancellationToken,
}

impl LiveAgent {
    pub(super) fn new(world: &Arc<World>, node: usize) -> Self {
        Self { world: Arc::clone(world), node, id: world.place(), end: CancellationToken::new() }
    }

    pub(super) fn start(&self) {
        let agent = AgentOnNode { end: self.end.clone(), guard: None };
        self.world.lock().nodes[self.node].agents.insert(self.id, agent);
    }

    fn gone(&self) -> NodeError {
        NodeError::new(NodeErrorKind::Gone, format!("{}: the agent is gone", address(self.node)))
    }
}

impl Drop for LiveAgent {
    fn drop(&mut self) {
        self.world.agent_ends(self.node, self.id);
    }
}

#[async_trait]
impl Agent for LiveAgent {
    async fn request(&self, request: Request, progress: OnProgress) -> Result<Reply, NodeError> {
        let work = Arc::clone(&self.world).agent_does(self.node, self.id, request, progress);
        let end = self.end.clone();
        let done = self.world.here(async move { end.run_until_cancelled(work).await }).await;
        done.unwrap_or_else(|| Err(self.gone()))
    }

    async fn cassandra(&self) -> Result<Box<dyn Cassandra>, NodeError> {
        if self.end.is_cancelled() {
            return Err(self.gone());
        }
        Session::open(&self.world, self.node).await
    }

    async fn cancel(&self) {}

    async fn close(&self) {
        self.world.agent_ends(self.node, self.id);
    }
}

impl World {
    async fn agent_does(
        self: Arc<Self>,
        node: usize,
        id: u64,
        request: Request,
        progress: OnProgress,
    ) -> Result<Reply, NodeError> {
        let name = serde_json::to_value(&request).unwrap()["request"].as_str().unwrap().to_owned();
        let name = format!("node {node} {name}");
        self.delay(&name, 1, 15).await;
        let reply = match request {
            Request::Lock(lock) => {
                self.take_lock(node, id, Duration::from_millis(lock.wait_ms)).await?;
                Reply::Done
            }
            Request::Inspect(_) => Reply::Inspected(Box::new(NodeFacts {
                pid: Some(1),
                configuration: crate::fakes::configuration(),
                yaml_age_ms: 365 * 86_400_000,
                free_bytes: vec![1 << 40],
            })),
            Request::ListSuperseded(_) => Reply::Superseded { files: 0 },
            Request::CheckSnapshot(check) => Reply::SnapshotChecked { broken: self.broken(node, &check) },
            Request::Upload(upload) => {
                self.delay(&name, 20, 300).await;
                progress(Progress { bytes_done: 7, bytes_total: 7, files_done: 1, files_total: 1 });
                Reply::Uploaded(self.send(node, &upload))
            }
            Request::ClearSuperseded(_) => Reply::Cleared { files: 0 },
            Request::ListSnapshots(_) => {
                let tags = self.lock().nodes[node].snapshots.keys().map(|tag| tag.parse().unwrap()).collect();
                Reply::Snapshots { tags }
            }
            Request::SweepSnapshots(sweep) => {
                let swept: Vec<_> = sweep.tags.iter().map(ToString::to_string).collect();
                self.lock().nodes[node].snapshots.retain(|tag, _| !swept.contains(tag));
                Reply::Cleared { files: 0 }
            }
            Request::Guard(order) => {
                self.arm(node, id, &order).await?;
                Reply::Done
            }
            Request::ReleaseGuard => {
                let pipe = self.lock().nodes[node].agents.get_mut(&id).and_then(|agent| agent.guard.take());
                match pipe {
                    Some(pipe) => pipe.release().await.map_err(permanent)?,
                    None if self.without == Without::Guards => {}
                    None => return Err(permanent("none is armed by this agent".to_owned())),
                }
                Reply::Done
            }
            Request::CheckStore(_) => Reply::Done,
            other => return Err(permanent(format!("nobody asks for this here: {other:?}"))),
        };
        self.delay(&name, 1, 15).await;
        Ok(reply)
    }

    async fn take_lock(&self, node: usize, id: u64, wait: Duration) -> Result<(), NodeError> {
        let end = Instant::now() + wait;
        loop {
            let changed = self.changed.notified();
            {
                let locked_by = &mut self.lock().nodes[node].locked_by;
                if *locked_by.get_or_insert(id) == id {
                    return Ok(());
                }
            }
            timeout_at(end, changed).await.map_err(|_elapsed| {
                NodeError::new(NodeErrorKind::Busy, format!("{}: another agent has it", address(node)))
            })?;
        }
    }

    /// Refused when it does not reach everybody, as the real agent does.
    async fn arm(self: &Arc<Self>, node: usize, id: u64, order: &GuardOrder) -> Result<(), NodeError> {
        if self.without == Without::Guards {
            return Ok(());
        }
        let opened = Pipe::open(self, Host::Node(node), order).await;
        let (pipe, _process) = opened.map_err(|error| permanent(format!("no guard: {error}")))?;
        if !pipe.unreachable.is_empty() {
            pipe.release().await.map_err(permanent)?;
            return Err(permanent(format!("{}: instances cannot be reached from here", address(node))));
        }
        self.armed_on(node, order);
        if let Some(agent) = self.lock().nodes[node].agents.get_mut(&id) {
            agent.guard = Some(pipe);
        }
        Ok(())
    }

    fn broken(&self, node: usize, check: &CheckSnapshotRequest) -> Vec<String> {
        let state = self.lock();
        let snapshot = state.nodes[node].snapshots.get(&check.tag.to_string());
        match snapshot {
            Some(snapshot) if snapshot.is_whole => Vec::new(),
            _ => check
                .tables
                .iter()
                .map(|(keyspace, table)| format!("{keyspace}.{table}: no snapshot"))
                .collect(),
        }
    }

    /// The manifest of an empty node.
    fn send(&self, node: usize, request: &UploadRequest) -> UploadSummary {
        let key = Keys::new(request.cluster_id.clone()).unwrap();
        let key = key.node_manifest(&request.host_id, &request.backup_id);
        let body = bytes::Bytes::from(crate::fakes::empty_manifest(request));
        let (size, blake3) = (body.len() as u64, blake3::hash(&body).to_hex().to_string());
        let _taken_by_an_earlier_try = self.store.keep(&key, body);
        let tag = request.snapshot.tag.to_string();
        self.lock().nodes[node].sent.insert(request.backup_id.to_string(), tag);
        UploadSummary {
            manifest: key,
            blake3,
            size,
            sstables: 0,
            files: 0,
            bytes: 0,
            sent_bytes: 7,
            left_orphans: false,
            taken: 0,
            left: 0,
            tables: request.snapshot.tables.iter().map(table).collect(),
            corrupt: Vec::new(),
        }
    }
}
