//! A session with one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cassy_jmx::{Argument, Credentials, Dialer, JmxClient, Limits, MBeanInfo, ObjectName, Peer, Reply, View};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::NodeError;
use crate::names::{Keyspaces, SnapshotTag};
use crate::plausible::{self, Implausible, Plausible};
use crate::quirks::{
    self, CLIENT_TASKS, CLIENT_WRITES, DROPPED_WRITES, FLUSH, FLUSH_SIGNATURE, HINTS_SERVICE, ONE_STRING,
    RUNTIME, SNITCH, STORAGE_PROXY, STORAGE_SERVICE, SYSTEM_WRITTEN, TABLES,
};
use crate::replies::{bounded, many, most, optional_directory, pending_hint_files, text_of};
use crate::version::ReleaseVersion;

/// How long calls that only read may take, from start to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Connecting and logging in.
    pub connect: Duration,
    /// Reading an attribute.
    pub read: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(20), read: Duration::from_secs(30) }
    }
}

/// What a node is doing (`StorageService.Mode`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationMode {
    /// `NORMAL`: the only mode in which a node can be backed up.
    Normal,
    /// Any other, as the node says it: `JOINING`, `LEAVING`, `DRAINED`, ..
    Other(String),
}

/// What clients do with a node as a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientActivity {
    /// Requests that are being worked on or wait for it, reads too. Looked at before the writes are counted: when there
    /// are none, a write that is not counted had not begun.
    pub tasks: u64,
    /// Writes that have ended since the node was started, well or not; a batch is one.
    pub writes: u64,
}

/// Writes that may be missing on some of their replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undelivered {
    /// Files of hints on this node that wait for others; those of the last seconds are not in a file yet. `None` before
    /// 4.1, which does not say it.
    pub hint_files: Option<u64>,
    /// Writes that this node was to store as a replica and has dropped, since it was started.
    pub dropped_writes: u64,
}

/// A JMX session with a node whose version is supported. One call at a time.
#[derive(Debug)]
pub struct NodeSession {
    jmx: JmxClient,
    node: String,
    storage_service: MBeanInfo,
    version: ReleaseVersion,
    deadlines: Deadlines,
}

impl NodeSession {
    /// Connects without credentials.
    ///
    /// # Errors
    /// [`NodeError`]; an unsupported version is refused here.
    pub async fn connect(
        dialer: Arc<dyn Dialer>,
        host: &str,
        jmx_port: u16,
        deadlines: Deadlines,
    ) -> Result<Self, NodeError> {
        Self::connect_as(dialer, host, jmx_port, None, deadlines).await
    }

    /// Connects with or without credentials.
    ///
    /// # Errors
    /// [`NodeError`]; an unsupported version is refused here.
    pub async fn connect_as(
        dialer: Arc<dyn Dialer>,
        host: &str,
        jmx_port: u16,
        credentials: Option<Credentials>,
        deadlines: Deadlines,
    ) -> Result<Self, NodeError> {
        let node = Peer { host: host.to_owned(), port: jmx_port }.to_string();
        let sort = |source| NodeError::reading(node.clone(), "connect", source);
        let mut jmx =
            JmxClient::connect(dialer, host, jmx_port, credentials, Limits::default(), deadlines.connect)
                .await
                .map_err(sort)?;
        jmx.set_deadline(deadlines.read);
        if !jmx.is_registered(STORAGE_SERVICE).await.map_err(sort)? {
            return Err(NodeError::NotCassandra { node });
        }
        let storage_service = jmx.mbean_info(STORAGE_SERVICE).await.map_err(sort)?;
        let reply = jmx.get(STORAGE_SERVICE, "ReleaseVersion").await.map_err(sort)?;
        let version = text_of(reply.view()).and_then(|text| match ReleaseVersion::parse(text) {
            Some(version) => Ok(version),
            None => plausible::refuse("not a version", text),
        });
        let version = version.map_err(|problem| implausible(&node, "ReleaseVersion", problem))?;
        if let Some(reason) = version.refusal() {
            return Err(NodeError::UnsupportedVersion { node, version: version.to_string(), reason });
        }
        Ok(Self { jmx, node, storage_service, version, deadlines })
    }

    /// Host and JMX port, for messages.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The version.
    #[must_use]
    pub fn release_version(&self) -> &ReleaseVersion {
        &self.version
    }

    /// The name of the cluster.
    ///
    /// # Errors
    /// [`NodeError`], as for all that follow.
    pub async fn cluster_name(&mut self) -> Result<String, NodeError> {
        self.text("ClusterName").await
    }

    /// The class name of the partitioner.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn partitioner(&mut self) -> Result<String, NodeError> {
        self.text("PartitionerName").await
    }

    /// What the node is doing.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn operation_mode(&mut self) -> Result<OperationMode, NodeError> {
        let mode = self.text("OperationMode").await?;
        Ok(if mode == "NORMAL" { OperationMode::Normal } else { OperationMode::Other(mode) })
    }

    /// The node's host id.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn local_host_id(&mut self) -> Result<Uuid, NodeError> {
        self.attribute("LocalHostId", |view| plausible::host_id(text_of(view)?)).await
    }

    /// Addresses and host ids of the ring.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn endpoint_to_host_id(&mut self) -> Result<BTreeMap<IpAddr, Uuid>, NodeError> {
        self.attribute("EndpointToHostId", |view| {
            let pairs = view.string_pairs().map_err(|error| Implausible(error.to_string()))?;
            bounded(pairs.len(), most::NODES)?;
            let read =
                |(address, id): (&str, &str)| Ok((plausible::address(address)?, plausible::host_id(id)?));
            let ring: BTreeMap<_, _> = pairs.iter().copied().map(read).collect::<Plausible<_>>()?;
            if ring.len() == pairs.len() { Ok(ring) } else { plausible::refuse("an address twice", "") }
        })
        .await
    }

    /// Nodes that this node sees up.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn live_nodes(&mut self) -> Result<Vec<IpAddr>, NodeError> {
        self.nodes("LiveNodes").await
    }

    /// Nodes that this node sees down.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn unreachable_nodes(&mut self) -> Result<Vec<IpAddr>, NodeError> {
        self.nodes("UnreachableNodes").await
    }

    /// Nodes that are joining.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn joining_nodes(&mut self) -> Result<Vec<IpAddr>, NodeError> {
        self.nodes("JoiningNodes").await
    }

    /// Nodes that are leaving.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn leaving_nodes(&mut self) -> Result<Vec<IpAddr>, NodeError> {
        self.nodes("LeavingNodes").await
    }

    /// Nodes that are moving.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn moving_nodes(&mut self) -> Result<Vec<IpAddr>, NodeError> {
        self.nodes("MovingNodes").await
    }

    /// All keyspaces with files, those of the system included; sorted.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn keyspaces(&mut self) -> Result<Vec<String>, NodeError> {
        let mut names =
            self.attribute("Keyspaces", |view| many(view, most::KEYSPACES, plausible::name)).await?;
        names.sort_unstable();
        Ok(names)
    }

    /// The data directories, in the order of `cassandra.yaml`, each once: one that is named twice would be backed up
    /// twice, and could not be restored.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn data_file_locations(&mut self) -> Result<Vec<String>, NodeError> {
        let read = |view: View<'_>| many(view, most::DIRECTORIES, plausible::directory);
        let named = self.attribute("AllDataFileLocations", read).await?;
        let mut seen = BTreeSet::new();
        Ok(named.into_iter().filter(|directory| seen.insert(directory.clone())).collect())
    }

    /// The directory of the commit log.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn commit_log_location(&mut self) -> Result<Option<String>, NodeError> {
        self.attribute("CommitLogLocation", optional_directory).await
    }

    /// The directory of the saved caches.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn saved_caches_location(&mut self) -> Result<Option<String>, NodeError> {
        self.attribute("SavedCachesLocation", optional_directory).await
    }

    /// Whether the node links new SSTables into `backups/`.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn incremental_backups_enabled(&mut self) -> Result<bool, NodeError> {
        self.attribute("IncrementalBackupsEnabled", |view| {
            view.as_bool().map_err(|error| Implausible(error.to_string()))
        })
        .await
    }

    /// The tokens of a node of the ring, in the node's order.
    ///
    /// # Errors
    /// [`NodeError`]; an address that is not in the ring is [`NodeError::Refused`].
    pub async fn tokens(&mut self, endpoint: IpAddr) -> Result<Vec<String>, NodeError> {
        let reply = self.ask(STORAGE_SERVICE, "getTokens", endpoint).await?;
        self.read(&reply, "getTokens", |view| many(view, most::TOKENS, plausible::token))
    }

    /// The datacenter of a node of the ring.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn datacenter(&mut self, endpoint: IpAddr) -> Result<String, NodeError> {
        let reply = self.ask(SNITCH, "getDatacenter", endpoint).await?;
        self.read(&reply, "getDatacenter", |view| plausible::text(text_of(view)?))
    }

    /// The rack of a node of the ring.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn rack(&mut self, endpoint: IpAddr) -> Result<String, NodeError> {
        let reply = self.ask(SNITCH, "getRack", endpoint).await?;
        self.read(&reply, "getRack", |view| plausible::text(text_of(view)?))
    }

    /// Keyspaces and tables that have files, those of the system included; sorted. Virtual tables have none.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn tables(&mut self) -> Result<Vec<(String, String)>, NodeError> {
        let names = self
            .jmx
            .query_names(TABLES)
            .await
            .map_err(|source| NodeError::reading(self.node.clone(), "list the tables", source))?;
        let read = |name: &String| {
            let parsed =
                ObjectName::parse(name).or_else(|error| plausible::refuse(&error.to_string(), name))?;
            let part = |key| plausible::name(parsed.key(key).unwrap_or_default());
            Ok((part("keyspace")?, part("table")?))
        };
        let tables = bounded(names.len(), most::TABLES)
            .and_then(|()| names.iter().map(read).collect::<Plausible<Vec<_>>>());
        let mut tables = tables.map_err(|problem| implausible(&self.node, "table", problem))?;
        tables.sort_unstable();
        tables.dedup();
        Ok(tables)
    }

    /// What clients do with this node now.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn client_activity(&mut self) -> Result<ClientActivity, NodeError> {
        let (mut tasks, mut writes) = (0_u64, 0_u64);
        for gauge in CLIENT_TASKS {
            tasks = tasks.saturating_add(self.count(gauge, "Value").await?);
        }
        for counter in CLIENT_WRITES {
            writes = writes.saturating_add(self.count(counter, "Count").await?);
        }
        Ok(ClientActivity { tasks, writes })
    }

    /// How many writes to keyspaces of the system, among these tables, this node has coordinated since it was started:
    /// [`ClientActivity::writes`] counts them too, as a node writes there by itself (`TableMetrics`,
    /// `CoordinatorWriteLatency`). Before 4.0 that is not counted: 0.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn system_writes(&mut self, tables: &[(String, String)]) -> Result<u64, NodeError> {
        if !self.version.counts_coordinated_writes() {
            return Ok(0);
        }
        let mut writes = 0_u64;
        let of_system = |(keyspace, _): &&(String, String)| SYSTEM_WRITTEN.contains(&keyspace.as_str());
        for (keyspace, table) in tables.iter().filter(of_system) {
            let metric = quirks::coordinated_writes(keyspace, table);
            writes = writes.saturating_add(self.count(&metric, "Count").await?);
        }
        Ok(writes)
    }

    /// For how long the node's process has been running (`RuntimeMXBean.getUptime`).
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn uptime(&mut self) -> Result<Duration, NodeError> {
        Ok(Duration::from_millis(self.count(RUNTIME, "Uptime").await?))
    }

    /// What this node knows of writes that some replicas do not have.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn undelivered(&mut self) -> Result<Undelivered, NodeError> {
        let mut dropped_writes = 0_u64;
        for counter in DROPPED_WRITES {
            dropped_writes = dropped_writes.saturating_add(self.count(counter, "Count").await?);
        }
        let hint_files =
            if self.version.lists_pending_hints() { Some(self.hint_files().await?) } else { None };
        Ok(Undelivered { hint_files, dropped_writes })
    }

    async fn hint_files(&mut self) -> Result<u64, NodeError> {
        let reply = self.jmx.get(HINTS_SERVICE, "PendingHints").await;
        let reply = reply
            .map_err(|source| NodeError::reading(self.node.clone(), "read the pending hints", source))?;
        self.read(&reply, "PendingHints", pending_hint_files)
    }

    /// How long the node works on a write before it gives it up: the longest of `write_request_timeout`,
    /// `counter_write_request_timeout`, and what a conditional write takes (`cas_contention_timeout`, then the write).
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn write_timeout(&mut self) -> Result<Duration, NodeError> {
        let write = self.count(STORAGE_PROXY, "WriteRpcTimeout").await?;
        let counter = self.count(STORAGE_PROXY, "CounterWriteRpcTimeout").await?;
        let contention = self.count(STORAGE_PROXY, "CasContentionTimeout").await?;
        Ok(Duration::from_millis(counter.max(write.saturating_add(contention))))
    }

    /// Writes the memtables of these keyspaces to disk, one keyspace after the other. Safe to repeat.
    ///
    /// # Errors
    /// [`NodeError`]. `within` bounds all of it.
    pub async fn flush(&mut self, keyspaces: &Keyspaces, within: Duration) -> Result<(), NodeError> {
        let start = Instant::now();
        for keyspace in keyspaces.iter() {
            let operation = format!("flush keyspace {keyspace}");
            let left = within.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(NodeError::OutOfTime { node: self.node.clone(), operation, within });
            }
            // Here no tables means all of the keyspace, which is named.
            let arguments = [Argument::String(keyspace.to_owned()), Argument::Strings(Vec::new())];
            let flushed = self.jmx.invoke(STORAGE_SERVICE, FLUSH, &arguments, FLUSH_SIGNATURE, left).await;
            flushed.map_err(|source| NodeError::changing(self.node.clone(), &operation, source))?;
        }
        Ok(())
    }

    /// Takes a snapshot, with a flush of its own. That the call returns proves little: Cassandra logs and skips a table
    /// that fails.
    ///
    /// # Errors
    /// [`NodeError`]; a tag that exists is [`NodeError::Refused`].
    pub async fn take_snapshot(
        &mut self,
        tag: SnapshotTag,
        keyspaces: &Keyspaces,
        within: Duration,
    ) -> Result<(), NodeError> {
        self.on_snapshot("takeSnapshot", quirks::TAKE_SNAPSHOT, tag, keyspaces, within).await
    }

    /// Removes a snapshot from these keyspaces. No error when there is none; safe to repeat.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn clear_snapshot(
        &mut self,
        tag: SnapshotTag,
        keyspaces: &Keyspaces,
        within: Duration,
    ) -> Result<(), NodeError> {
        self.on_snapshot("clearSnapshot", quirks::CLEAR_SNAPSHOT, tag, keyspaces, within).await
    }

    /// Keeps an idle session alive; call it every 30 to 60 s (the node ends a session after 120 s).
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn keep_alive(&mut self) -> Result<(), NodeError> {
        self.jmx
            .keep_alive()
            .await
            .map_err(|source| NodeError::reading(self.node.clone(), "keep the session alive", source))
    }

    /// Ends the session.
    ///
    /// # Errors
    /// [`NodeError`]; nothing needs to be done about it.
    pub async fn close(self) -> Result<(), NodeError> {
        let node = self.node;
        self.jmx.close().await.map_err(|source| NodeError::reading(node, "close the session", source))
    }

    async fn on_snapshot(
        &mut self,
        operation: &'static str,
        overloads: &'static [quirks::Overload],
        tag: SnapshotTag,
        keyspaces: &Keyspaces,
        within: Duration,
    ) -> Result<(), NodeError> {
        let overload = quirks::choose(&self.storage_service, overloads);
        let overload =
            overload.ok_or_else(|| NodeError::MissingOperation { node: self.node.clone(), operation })?;
        let arguments = overload.arguments(tag, keyspaces);
        let done =
            self.jmx.invoke(STORAGE_SERVICE, overload.name, &arguments, overload.signature, within).await;
        done.map(drop)
            .map_err(|source| NodeError::changing(self.node.clone(), &format!("{operation} {tag}"), source))
    }

    async fn ask(&mut self, mbean: &str, operation: &str, endpoint: IpAddr) -> Result<Reply, NodeError> {
        let arguments = [Argument::String(endpoint.to_string())];
        let reply = self.jmx.invoke(mbean, operation, &arguments, ONE_STRING, self.deadlines.read).await;
        reply.map_err(|source| {
            NodeError::reading(self.node.clone(), &format!("{operation} {endpoint}"), source)
        })
    }

    async fn nodes(&mut self, attribute: &str) -> Result<Vec<IpAddr>, NodeError> {
        self.attribute(attribute, |view| many(view, most::NODES, plausible::address)).await
    }

    async fn text(&mut self, attribute: &str) -> Result<String, NodeError> {
        self.attribute(attribute, |view| plausible::text(text_of(view)?)).await
    }

    /// A number that is never negative.
    async fn count(&mut self, mbean: &str, attribute: &str) -> Result<u64, NodeError> {
        let reply = self.jmx.get(mbean, attribute).await;
        let what = format!("read {attribute} of {mbean}");
        let reply = reply.map_err(|source| NodeError::reading(self.node.clone(), &what, source))?;
        self.read(&reply, attribute, |view| {
            let number = view.as_i64().map_err(|error| Implausible(error.to_string()))?;
            u64::try_from(number).or_else(|_negative| plausible::refuse("negative", &number.to_string()))
        })
    }

    async fn attribute<T>(
        &mut self,
        attribute: &str,
        read: impl FnOnce(View<'_>) -> Plausible<T>,
    ) -> Result<T, NodeError> {
        let reply = self.jmx.get(STORAGE_SERVICE, attribute).await;
        let reply = reply
            .map_err(|source| NodeError::reading(self.node.clone(), &format!("read {attribute}"), source))?;
        self.read(&reply, attribute, read)
    }

    fn read<T>(
        &self,
        reply: &Reply,
        what: &str,
        read: impl FnOnce(View<'_>) -> Plausible<T>,
    ) -> Result<T, NodeError> {
        read(reply.view()).map_err(|problem| implausible(&self.node, what, problem))
    }
}

fn implausible(node: &str, what: &str, Implausible(problem): Implausible) -> NodeError {
    NodeError::Implausible { node: node.to_owned(), what: what.to_owned(), problem }
}
