//! Nodes that are made up, in the benchmark's own process: what is measured is what the server itself costs.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cassy_agent_protocol::{NodeFacts, Reply, Request, ServerHello, UploadSummary};
use cassy_backup_format::{ConfigurationFacts, HostId, Keys};
use cassy_control::nodes::{
    Agent, Cassandra, ClientActivity, NodeAccess, NodeDescription, NodeError, NodeErrorKind, OnProgress,
    Undelivered,
};

/// The machine beside the figures: BLAKE3 of 256 MiB on one processor.
pub(crate) fn calibration() -> Duration {
    let block = vec![7_u8; 1 << 20];
    let begun = Instant::now();
    let mut hasher = blake3::Hasher::new();
    (0..256).for_each(|_| {
        hasher.update(&block);
    });
    black_box(hasher.finalize());
    begun.elapsed()
}

/// What all nodes say of the ring.
pub(crate) struct Ring {
    description: NodeDescription,
    tables: Vec<(String, String)>,
    snapshot_takes: Duration,
}

impl Ring {
    /// So many nodes with so many tables, each of which takes its snapshot in this time.
    pub(crate) fn new(nodes: usize, tables: usize, snapshot_takes: Duration) -> Self {
        let members: BTreeMap<String, HostId> =
            (0..nodes).map(|number| (address(number), host_id(number))).collect();
        let description = NodeDescription {
            cluster_name: "bench".to_owned(),
            release_version: "5.0.9".to_owned(),
            partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
            operation_mode: "NORMAL".to_owned(),
            host_id: host_id(0),
            live: members.keys().cloned().collect(),
            ring: members,
            unreachable: Vec::new(),
            joining: Vec::new(),
            leaving: Vec::new(),
            moving: Vec::new(),
            keyspaces: vec!["system".to_owned(), "ks".to_owned()],
            data_directories: vec!["/var/lib/cassandra/data".to_owned()],
            incremental_backups: true,
            tokens: (0..16).map(|token: i64| (token << 55).to_string()).collect(),
            datacenter: "dc1".to_owned(),
            rack: "rack1".to_owned(),
        };
        let tables = (0..tables).map(|number| ("ks".to_owned(), format!("table_{number}"))).collect();
        Self { description, tables, snapshot_takes }
    }
}

/// Of a node, from 0.
pub(crate) fn address(number: usize) -> String {
    format!("10.1.{}.{}", number / 250, number % 250)
}

fn host_id(number: usize) -> HostId {
    format!("6a5c7f0e-0000-4000-8000-{number:012}").parse().unwrap()
}

/// The way to them.
pub(crate) struct Nodes(pub(crate) Arc<Ring>);

struct Node {
    ring: Arc<Ring>,
    address: String,
}

#[async_trait]
impl NodeAccess for Nodes {
    async fn agent(&self, address: &str, _hello: ServerHello) -> Result<Box<dyn Agent>, NodeError> {
        Ok(Box::new(Node { ring: Arc::clone(&self.0), address: address.to_owned() }))
    }

    async fn meet(&self, _address: &str) -> Result<(), NodeError> {
        Ok(())
    }

    async fn cassandra(&self, address: &str) -> Result<Box<dyn Cassandra>, NodeError> {
        Ok(Box::new(Node { ring: Arc::clone(&self.0), address: address.to_owned() }))
    }
}

#[async_trait]
impl Agent for Node {
    async fn request(&self, request: Request, _progress: OnProgress) -> Result<Reply, NodeError> {
        Ok(match request {
            Request::Inspect(_) => Reply::Inspected(Box::new(NodeFacts {
                pid: Some(1),
                configuration: ConfigurationFacts::default(),
                yaml_age_ms: 86_400_000,
                free_bytes: vec![1 << 40],
            })),
            Request::ListSuperseded(_) => Reply::Superseded { files: 0 },
            Request::CheckSnapshot(_) => Reply::SnapshotChecked { broken: Vec::new() },
            Request::ListSnapshots(_) => Reply::Snapshots { tags: Vec::new() },
            Request::Upload(upload) => {
                let keys = Keys::new(upload.cluster_id).unwrap();
                Reply::Uploaded(UploadSummary {
                    manifest: keys.node_manifest(&upload.host_id, &upload.backup_id),
                    blake3: "0".repeat(64),
                    size: 1,
                    sstables: 0,
                    files: 0,
                    bytes: 0,
                    sent_bytes: 0,
                    left_orphans: false,
                    taken: 0,
                    left: 0,
                    tables: Vec::new(),
                    corrupt: Vec::new(),
                })
            }
            Request::SweepSnapshots(_) | Request::ClearSuperseded(_) => Reply::Cleared { files: 0 },
            Request::Lock(_) | Request::CheckStore(_) => Reply::Done,
            other => {
                let message = format!("the benchmark asks for no {other:?}");
                return Err(NodeError::new(NodeErrorKind::Permanent, message));
            }
        })
    }

    async fn cassandra(&self) -> Result<Box<dyn Cassandra>, NodeError> {
        Ok(Box::new(Self { ring: Arc::clone(&self.ring), address: self.address.clone() }))
    }

    async fn cancel(&self) {}

    async fn close(&self) {}
}

#[async_trait]
impl Cassandra for Node {
    async fn describe(&mut self) -> Result<NodeDescription, NodeError> {
        let host_id = self.ring.description.ring[&self.address];
        Ok(NodeDescription { host_id, ..self.ring.description.clone() })
    }

    async fn tables(&mut self) -> Result<Vec<(String, String)>, NodeError> {
        Ok(self.ring.tables.clone())
    }

    async fn keyspaces(&mut self) -> Result<Vec<String>, NodeError> {
        Ok(self.ring.description.keyspaces.clone())
    }

    async fn flush(&mut self, _keyspaces: &[String]) -> Result<(), NodeError> {
        Ok(())
    }

    async fn client_activity(&mut self) -> Result<ClientActivity, NodeError> {
        Ok(ClientActivity { tasks: 0, writes: 0 })
    }

    async fn system_writes(&mut self, _tables: &[(String, String)]) -> Result<u64, NodeError> {
        Ok(0)
    }

    async fn undelivered(&mut self) -> Result<Undelivered, NodeError> {
        Ok(Undelivered { hint_files: Some(0), dropped_writes: 0 })
    }

    async fn uptime(&mut self) -> Result<Duration, NodeError> {
        Ok(Duration::from_secs(3600))
    }

    async fn write_timeout(&mut self) -> Result<Duration, NodeError> {
        Ok(Duration::from_secs(2))
    }

    async fn take_snapshot(&mut self, _tag: &str, _keyspaces: &[String]) -> Result<(), NodeError> {
        tokio::time::sleep(self.ring.snapshot_takes).await;
        Ok(())
    }

    async fn clear_snapshot(&mut self, _tag: &str, _keyspaces: &[String]) -> Result<(), NodeError> {
        Ok(())
    }
}
