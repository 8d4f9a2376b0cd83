//! How a cluster is to be made.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::network::Network;
use super::{Cluster, ClusterNode, Namespace};
use crate::cassandra::Membership;
use crate::seat::Seat;
use crate::sshd::{self, Sshd};
use crate::world::{Access, server_settings, temporary};
use crate::{Cassandra, CassyServer, Doing, Failure, JmxAccess, Lifetime, Runtime};

const CLUSTER_NAME: &str = "Test Cluster";
const CLIENT_KEY: [&str; 2] = ["client_key", "client_key.pub"];

/// See the module.
#[derive(Debug)]
pub struct ClusterBuilder {
    plan: Plan,
    directory: TempDir,
    properties: BTreeMap<String, String>,
}

/// What each node is made by, also one that is added later.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) runtime: Runtime,
    /// How many nodes each datacenter has at first.
    datacenters: Vec<u8>,
    data_directories: usize,
    jmx: JmxAccess,
    tcp_forwarding: bool,
    incremental_backups: bool,
}

impl ClusterBuilder {
    pub(super) fn new(runtime: Runtime) -> Result<Self, Failure> {
        let plan = Plan {
            runtime,
            datacenters: vec![3],
            data_directories: 1,
            jmx: JmxAccess::Local,
            tcp_forwarding: false,
            incremental_backups: true,
        };
        Ok(Self { plan, directory: temporary()?, properties: BTreeMap::new() })
    }

    /// How many nodes each datacenter has; one with three without it.
    #[must_use]
    pub fn datacenters(mut self, nodes: &[u8]) -> Self {
        self.plan.datacenters = nodes.to_vec();
        self
    }

    /// How many data directories each node spreads its SSTables over.
    #[must_use]
    pub fn data_directories(mut self, count: usize) -> Self {
        self.plan.data_directories = count;
        self
    }

    /// How JMX can be reached.
    #[must_use]
    pub fn jmx(mut self, jmx: JmxAccess) -> Self {
        self.plan.jmx = jmx;
        self
    }

    /// Whether sshd forwards ports; it does not without it.
    #[must_use]
    pub fn tcp_forwarding(mut self, allowed: bool) -> Self {
        self.plan.tcp_forwarding = allowed;
        self
    }

    /// Whether the nodes keep what they flush for increments; they do without it.
    #[must_use]
    pub fn incremental_backups(mut self, kept: bool) -> Self {
        self.plan.incremental_backups = kept;
        self
    }

    /// Sets a property of the server, named without the common prefix, over the kit's own.
    #[must_use]
    pub fn property(mut self, key: &str, value: impl Into<String>) -> Self {
        self.properties.insert(key.to_owned(), value.into());
        self
    }

    /// Makes the network, starts all nodes and the server.
    ///
    /// # Errors
    /// When something of it does not start.
    pub async fn start(self) -> Result<Cluster, Failure> {
        let root = self.directory.path().canonicalize().doing(|| "make the directory's path absolute")?;
        let network = Network::new()?;
        let mut nodes = Vec::new();
        for (datacenter, count) in (1..).zip(&self.plan.datacenters) {
            for _ in 0..*count {
                let number = u8::try_from(nodes.len() + 1).doing(|| "number the nodes")?;
                nodes.push(self.plan.node(&network, &root, number, datacenter).await?);
            }
        }
        write_known_hosts(&known_hosts(&root), &nodes)?;
        let first = nodes.first().ok_or_else(|| Failure::new("a cluster has at least one node"))?;
        let access = Access {
            jmx_port: first.cassandra.jmx_port(),
            sshd: &first.sshd,
            known_hosts: known_hosts(&root),
        };
        let settings = server_settings(&root, &access, Lifetime::Owned, self.properties)?;
        let server = CassyServer::start(settings).await?;
        let (plan, directory) = (self.plan, self.directory);
        let mut cluster = Cluster { server, nodes, plan, network, directory };
        cluster.start_nodes().await?;
        Ok(cluster)
    }
}

impl Plan {
    /// The first node of each datacenter.
    pub(super) fn seeds(&self, network: &Network) -> Vec<Ipv4Addr> {
        let first = self.datacenters.iter().scan(1, |next: &mut u8, count| {
            let first = *next;
            *next += count;
            Some(first)
        });
        first.map(|number| network.node(number)).collect()
    }

    /// Makes a node with its namespace, and starts its sshd.
    pub(super) async fn node(
        &self,
        network: &Network,
        root: &Path,
        number: u8,
        datacenter: u8,
    ) -> Result<ClusterNode, Failure> {
        let directory = root.join(format!("node{number}"));
        let keys = directory.join("sshd");
        share_client_key(&root.join("client"), &keys)?;
        let namespace = Arc::new(Namespace::new(&directory).await?);
        let link = network.attach(&namespace, number)?;
        let address = network.node(number);
        let forwarding = if self.tcp_forwarding { "AllowTcpForwarding yes" } else { "" };
        let sshd = Sshd::start_in(Arc::clone(&namespace), address, &keys, forwarding).await?;
        let membership = Membership { seeds: self.seeds(network), datacenter: format!("dc{datacenter}") };
        let cassandra = Cassandra::builder(&self.runtime, directory)
            .cluster_name(CLUSTER_NAME)
            .data_directories(self.data_directories)
            .yaml("incremental_backups", self.incremental_backups.to_string())
            .jmx(self.jmx)
            .member(membership)
            .build_at(Seat::Namespace(Arc::clone(&namespace), address))?;
        Ok(ClusterNode { sshd, cassandra, link, namespace })
    }
}

/// One key logs in to all nodes.
fn share_client_key(from: &Path, to: &Path) -> Result<(), Failure> {
    for directory in [from, to] {
        std::fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
    }
    sshd::generate_key(&from.join(CLIENT_KEY[0]))?;
    for name in CLIENT_KEY {
        std::fs::copy(from.join(name), to.join(name)).doing(|| format!("copy {name}"))?;
    }
    Ok(())
}

pub(super) fn known_hosts(root: &Path) -> PathBuf {
    root.join("client/known_hosts")
}

pub(super) fn write_known_hosts(file: &Path, nodes: &[ClusterNode]) -> Result<(), Failure> {
    let lines: Result<String, Failure> = nodes.iter().map(|node| node.sshd.known_hosts_line()).collect();
    std::fs::write(file, lines?).doing(|| format!("write {}", file.display()))
}
