//! Clusters of real nodes. Each node is as on a machine of its own: in a network namespace with a 127.0.0.1, an address
//! and an sshd on port 22, with the stock JMX that only its own loopback reaches.
//!
//! Namespaces isolate the network alone: the nodes share the file system and the process ids. Only root makes them.

mod builder;
mod ip;
mod namespace;
mod network;
mod node;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use tempfile::TempDir;

pub use builder::ClusterBuilder;
pub(crate) use namespace::Namespace;
pub use node::ClusterNode;

use crate::runtime::left_out;
use crate::{CassandraVersion, CassyServer, Consistency, Cql, Doing, Failure, Probe, Runtime, wait_for};
use builder::Plan;
use network::Network;

/// Gossip takes some seconds to see that a node is gone.
const RING_LIMIT: Duration = Duration::from_secs(180);

/// A cluster and a server for it. Its parts are public: tests stop, damage and restart them.
#[derive(Debug)]
pub struct Cluster {
    /// The server; it is on this machine's own network, from which all nodes' addresses are reached.
    pub server: CassyServer,
    /// In the order in which they were made.
    pub nodes: Vec<ClusterNode>,
    plan: Plan,
    network: Network,
    /// Last, so that it is removed after all that runs in it has ended.
    directory: TempDir,
}

impl Cluster {
    /// For the first line of a test: `None`, with the reason printed, where it is to be left out.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    ///
    /// # Panics
    /// When something is missing and `./test` runs.
    pub async fn or_skip() -> Result<Option<ClusterBuilder>, Failure> {
        let Some(runtime) = Runtime::or_skip().await else { return Ok(None) };
        if !rustix::process::geteuid().is_root() {
            left_out("only root makes network namespaces");
            return Ok(None);
        }
        ClusterBuilder::new(runtime).map(Some)
    }

    /// Which Cassandra its nodes are.
    pub fn version(&self) -> CassandraVersion {
        self.plan.runtime.version()
    }

    /// The directory below which all of it lives.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the backups go.
    pub fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// That of this machine, where the nodes reach it.
    pub fn host_address(&self) -> Ipv4Addr {
        self.network.here()
    }

    /// The address of each node, in their order.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(ClusterNode::address).collect()
    }

    /// Starts all nodes that do not run, seeds first, and waits until they see each other.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start_nodes(&mut self) -> Result<(), Failure> {
        let seeds = self.plan.seeds(&self.network);
        let is_seed = |node: &ClusterNode| seeds.contains(&node.cassandra.address());
        let (first, others): (Vec<_>, Vec<_>) = self.nodes.iter_mut().partition(|node| is_seed(node));
        for group in [first, others] {
            try_join_all(group.into_iter().map(|node| node.cassandra.start())).await?;
        }
        self.settled().await
    }

    /// Makes a node more, in the first datacenter, starts it and waits until all see it.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_node(&mut self) -> Result<(), Failure> {
        let number = u8::try_from(self.nodes.len() + 1).doing(|| "number the node")?;
        let node = self.plan.node(&self.network, self.path(), number, 1).await?;
        self.nodes.push(node);
        self.write_known_hosts()?;
        let node = self.nodes.last_mut().ok_or_else(|| Failure::new("there is no node"))?;
        node.cassandra.start().await?;
        self.settled().await
    }

    /// Gives a stopped node another address, with which it is known from its next start on.
    ///
    /// # Errors
    /// When it runs, or its sshd does not start there.
    pub async fn change_address(&mut self, index: usize, host: u8) -> Result<(), Failure> {
        let address = self.network.node(host);
        self.nodes[index].change_address(&self.network, address).await?;
        self.write_known_hosts()
    }

    /// Waits until each running node sees exactly the running ones alive, and none on its way.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn settled(&mut self) -> Result<(), Failure> {
        let running: Vec<bool> = self.nodes.iter_mut().map(|node| node.cassandra.is_running()).collect();
        let running = || self.nodes.iter().zip(&running).filter(|(_, runs)| **runs).map(|(node, _)| node);
        let expected: BTreeSet<IpAddr> = running().map(|node| IpAddr::V4(node.cassandra.address())).collect();
        wait_for(format!("every node sees {expected:?} alive"), RING_LIMIT, async || {
            let views = join_all(running().map(ClusterNode::sees_alive)).await;
            if views.iter().all(|view| view.as_ref() == Ok(&expected)) {
                return Probe::Ready(());
            }
            Probe::NotYet(format!("{views:?}"))
        })
        .await
    }

    /// Waits until every other node that runs sees this one down: it was killed, frozen or cut off.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn misses(&mut self, index: usize) -> Result<(), Failure> {
        let gone = IpAddr::V4(self.nodes[index].cassandra.address());
        let mut others: Vec<&ClusterNode> = Vec::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if number != index && node.cassandra.is_running() {
                others.push(node);
            }
        }
        wait_for(format!("every other node sees {gone} down"), RING_LIMIT, async || {
            let views = join_all(others.iter().map(|node| node.sees_down())).await;
            if views.iter().all(|view| view.as_ref().is_ok_and(|down| down.contains(&gone))) {
                return Probe::Ready(());
            }
            Probe::NotYet(format!("{views:?}"))
        })
        .await
    }

    /// A CQL session with the nodes that run.
    ///
    /// # Errors
    /// When none answers.
    pub async fn cql(&mut self, consistency: Consistency) -> Result<Cql, Failure> {
        let running = self.nodes.iter_mut().filter_map(|node| {
            let (address, port) = (node.cassandra.address(), node.cassandra.native_port());
            node.cassandra.is_running().then_some((address, port))
        });
        let running: Vec<(Ipv4Addr, u16)> = running.collect();
        Cql::connect_to(self.version(), &running, consistency).await
    }

    fn known_hosts(&self) -> PathBuf {
        builder::known_hosts(self.path())
    }

    fn write_known_hosts(&self) -> Result<(), Failure> {
        builder::write_known_hosts(&self.known_hosts(), &self.nodes)
    }
}
