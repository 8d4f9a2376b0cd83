//! Nodes: Cassandra and the agent on each. What they do goes on when the one who asked for it is gone.

mod agent;
mod cassandra;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use cassy_agent_protocol::ServerHello;
use cassy_control::nodes::{Agent, Cassandra, NodeAccess, NodeError, NodeErrorKind};

use crate::world::World;
pub(crate) use agent::AgentOnNode;
use agent::LiveAgent;
use cassandra::Session;
pub(crate) use cassandra::WRITE_TIMEOUT_MS;

/// What a snapshot is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotFault {
    Fails,
    Hangs,
    Skips,
}

/// The state of one node.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    /// When each snapshot was taken, by tag, whatever became of it.
    pub(crate) taken: BTreeMap<String, u64>,
    /// The tag that was sent, by backup.
    pub(crate) sent: BTreeMap<String, String>,
    /// Writes that have ended, as a coordinator.
    pub(crate) writes: u64,
    /// Requests under way.
    pub(crate) tasks: u64,
    pub(crate) fault: Option<SnapshotFault>,
    pub(crate) is_jmx_cut: bool,
    pub(crate) agents: BTreeMap<u64, AgentOnNode>,
    pub(crate) locked_by: Option<u64>,
}

/// Lies on the node.
pub(crate) struct Snapshot {
    pub(crate) is_whole: bool,
}

impl Node {
    pub(crate) fn new(index: usize) -> Self {
        Self { address: address(index), ..Self::default() }
    }
}

pub(crate) fn address(index: usize) -> String {
    format!("10.1.0.{}", index + 1)
}

fn host_id(index: usize) -> String {
    format!("6a5c7f0e-0000-4000-8000-{:012}", index + 1)
}

/// How the server reaches them.
pub(crate) struct Nodes(pub(crate) Arc<World>);

impl Nodes {
    fn index(&self, address: &str) -> usize {
        self.0.lock().nodes.iter().position(|node| node.address == address).unwrap()
    }
}

#[async_trait]
impl NodeAccess for Nodes {
    async fn agent(&self, address: &str, _hello: ServerHello) -> Result<Box<dyn Agent>, NodeError> {
        let (world, index) = (Arc::clone(&self.0), self.index(address));
        let agent = LiveAgent::new(&world, index);
        self.0.here(async move { world.delay(&format!("node {index} agent"), 40, 200).await }).await;
        agent.start();
        Ok(Box::new(agent))
    }

    async fn meet(&self, _address: &str) -> Result<(), NodeError> {
        Ok(())
    }

    async fn cassandra(&self, address: &str) -> Result<Box<dyn Cassandra>, NodeError> {
        Session::open(&self.0, self.index(address)).await
    }
}

fn unreachable(index: usize) -> NodeError {
    NodeError::new(NodeErrorKind::Unreachable, format!("{}: the connection was lost", address(index)))
}

fn permanent(message: String) -> NodeError {
    NodeError::new(NodeErrorKind::Permanent, message)
}

impl World {
    /// All agents whose server is gone, or silent.
    pub(crate) fn agents_end(self: &Arc<Self>) {
        let count = self.lock().nodes.len();
        for node in 0..count {
            self.agents_of_node_end(node);
        }
    }

    /// Their guards see their pipes end. Whether there was one.
    pub(crate) fn agents_of_node_end(self: &Arc<Self>, node: usize) -> bool {
        let ids: BTreeSet<u64> = self.lock().nodes[node].agents.keys().copied().collect();
        ids.iter().for_each(|id| self.agent_ends(node, *id));
        !ids.is_empty()
    }

    fn agent_ends(&self, node: usize, id: u64) {
        let ended = {
            let mut state = self.lock();
            let node = &mut state.nodes[node];
            if node.locked_by == Some(id) {
                node.locked_by = None;
            }
            node.agents.remove(&id)
        };
        if let Some(agent) = ended {
            agent.end.cancel();
        }
        self.changed.notify_waiters();
    }
}
