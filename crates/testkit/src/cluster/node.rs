//! One node of a cluster, and what can be done to its machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use super::ip::ip;
use super::namespace::Namespace;
use super::network::Network;
use crate::seat::Seat;
use crate::sshd::Sshd;
use crate::{Cassandra, Doing, Failure};

/// See the module. Ends in the order of its fields.
#[derive(Debug)]
pub struct ClusterNode {
    /// Its sshd, on port 22.
    pub sshd: Sshd,
    /// Its Cassandra.
    pub cassandra: Cassandra,
    /// This machine's end of its cable.
    pub(super) link: String,
    pub(super) namespace: Arc<Namespace>,
}

impl ClusterNode {
    /// As the cluster and the server know it.
    pub fn address(&self) -> String {
        self.cassandra.address().to_string()
    }

    /// Pulls its cable: what runs on it runs on, and no packet goes in or out.
    ///
    /// # Errors
    /// When the interface cannot be changed.
    pub fn cut(&self) -> Result<(), Failure> {
        ip(&["link", "set", &self.link, "down"])
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// When the interface cannot be changed.
    pub fn reconnect(&self) -> Result<(), Failure> {
        ip(&["link", "set", &self.link, "up"])
    }

    /// The network namespace, as each of its processes shows it.
    ///
    /// # Errors
    /// When its Cassandra has never run.
    pub fn network_namespace(&self) -> Result<PathBuf, Failure> {
        let process = self.cassandra.process().ok_or_else(|| Failure::new("the node has not run"))?;
        let link = format!("/proc/{}/ns/net", process.pid());
        std::fs::read_link(&link).doing(|| format!("read {link}"))
    }

    /// Which nodes it sees alive, and on their way in or out as well.
    pub(super) async fn sees_alive(&self) -> Result<BTreeSet<IpAddr>, Failure> {
        let mut session = self.cassandra.jmx().await?;
        let live = session.live_nodes().await.doing(|| "ask for the live nodes")?;
        let joining = session.joining_nodes().await.doing(|| "ask for the joining nodes")?;
        if joining.is_empty() {
            return Ok(live.into_iter().collect());
        }
        Err(Failure::new(format!("joining: {joining:?}")))
    }

    /// Which nodes it sees down.
    pub(super) async fn sees_down(&self) -> Result<BTreeSet<IpAddr>, Failure> {
        let mut session = self.cassandra.jmx().await?;
        let down = session.unreachable_nodes().await.doing(|| "ask for the unreachable nodes")?;
        Ok(down.into_iter().collect())
    }

    pub(super) async fn change_address(
        &mut self,
        network: &Network,
        address: Ipv4Addr,
    ) -> Result<(), Failure> {
        if self.cassandra.is_running() {
            return Err(Failure::new("the node runs; stop it before its address is changed"));
        }
        // In this order, as all addresses of a network go with its first one.
        self.namespace.remove_address(&network.with_prefix(self.cassandra.address()))?;
        self.namespace.add_address(&network.with_prefix(address))?;
        self.sshd.move_to(address).await?;
        self.cassandra.move_to(Seat::Namespace(Arc::clone(&self.namespace), address));
        Ok(())
    }
}
