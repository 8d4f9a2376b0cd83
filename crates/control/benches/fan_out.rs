//! Registration and the snapshots of a cluster of 1,000 nodes: the real service, runner, SQLite file and file store;
//! the nodes are made up, in this process, and answer at once. What is measured is what the server itself costs.
//!
//! `bench/fan-out` runs it.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cassy_agent_protocol::{
    GuardOrder, Instance, NodeFacts, Reply, Request, ServerHello, StoreGrant, UploadSummary,
};
use cassy_backup_format::{BackupId, ConfigurationFacts, HostId, Keys};
use cassy_catalog::{Catalog, MetadataUrl, SERVER_LEASE};
use cassy_control::applications::{Applications, Guard, InstanceFailure, Pause};
use cassy_control::job::Failure;
use cassy_control::nodes::{
    Agent, Cassandra, ClientActivity, NodeAccess, NodeDescription, NodeError, NodeErrorKind, OnProgress,
};
use cassy_control::{BackupRequest, BackupType, Operations, Service, ServiceParts, Status, SystemClock};
use cassy_store::StoreAccess;

const NODES: usize = 1000;
const TABLES: usize = 60;
const ROUNDS: usize = 5;
const BOUND: Duration = Duration::from_secs(2);
const MEMORY_BOUND_MIB: u64 = 150;

/// What all nodes say of the ring.
struct Ring {
    description: NodeDescription,
    tables: Vec<(String, String)>,
}

impl Ring {
    fn new() -> Self {
        let members: BTreeMap<String, HostId> =
            (0..NODES).map(|number| (address(number), host_id(number))).collect();
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
        let tables = (0..TABLES).map(|number| ("ks".to_owned(), format!("table_{number}"))).collect();
        Self { description, tables }
    }
}

fn address(number: usize) -> String {
    format!("10.1.{}.{}", number / 250, number % 250)
}

fn host_id(number: usize) -> HostId {
    format!("6a5c7f0e-0000-4000-8000-{number:012}").parse().unwrap()
}

struct Nodes(Arc<Ring>);

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

    async fn write_timeout(&mut self) -> Result<Duration, NodeError> {
        Ok(Duration::from_secs(2))
    }

    async fn take_snapshot(&mut self, _tag: &str, _keyspaces: &[String]) -> Result<(), NodeError> {
        Ok(())
    }

    async fn clear_snapshot(&mut self, _tag: &str, _keyspaces: &[String]) -> Result<(), NodeError> {
        Ok(())
    }
}

/// No backup of this benchmark pauses any.
struct NoApplications;

#[async_trait]
impl Applications for NoApplications {
    fn service(&self) -> Option<&str> {
        None
    }

    async fn find(&self) -> Result<Vec<Instance>, Failure> {
        Err(none())
    }

    async fn guard(&self, _order: &GuardOrder) -> Result<Box<dyn Guard>, Failure> {
        Err(none())
    }

    async fn pause(&self, _instances: &[Instance], _within: Duration) -> Box<dyn Pause> {
        unreachable!("there is nobody to pause")
    }

    async fn unpause(
        &self,
        _instances: &[Instance],
        _late: Duration,
        _within: Duration,
    ) -> Vec<InstanceFailure> {
        Vec::new()
    }
}

fn none() -> Failure {
    Failure { unavailable: false, message: "there are no applications".to_owned(), hint: None }
}

async fn service(directory: &std::path::Path) -> (Arc<Service>, Catalog) {
    let url: MetadataUrl = format!("jdbc:sqlite:{}", directory.join("cassy.db").display()).parse().unwrap();
    let catalog = Catalog::open(&url).await.unwrap();
    let lease = catalog.take_lease(SERVER_LEASE, "bench", Duration::from_secs(3600), |_| true).await.unwrap();
    let root = directory.join("store");
    std::fs::create_dir_all(&root).unwrap();
    let location = format!("file://{}", root.display());
    let parts = ServiceParts {
        catalog: catalog.clone(),
        epoch: lease.epoch,
        store: cassy_store::open(&StoreAccess { location: location.clone() }).unwrap(),
        grant: StoreGrant { location },
        access: Arc::new(Nodes(Arc::new(Ring::new()))),
        applications: Arc::new(NoApplications),
        longest_pause: Duration::from_secs(30),
        clock: Arc::new(SystemClock),
        cassandra_yaml: None,
    };
    (Service::start(parts).await.unwrap(), catalog)
}

/// Time on the clock and on the processors.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration, Duration) {
    let (begun, spent) = (Instant::now(), processor_time());
    let done = work.await;
    (done, begun.elapsed(), processor_time().saturating_sub(spent))
}

/// User and system time of this process, from `/proc/self/stat`, in ticks of 10 ms.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// The greatest resident size of this process so far.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// The machine beside the figures: BLAKE3 of 256 MiB on one processor.
fn calibration() -> Duration {
    let block = vec![7_u8; 1 << 20];
    let begun = Instant::now();
    let mut hasher = blake3::Hasher::new();
    (0..256).for_each(|_| {
        hasher.update(&block);
    });
    black_box(hasher.finalize());
    begun.elapsed()
}

async fn round(directory: &std::path::Path) -> [(Duration, Duration); 3] {
    let (service, catalog) = service(directory).await;
    let (cluster, register, register_cpu) = timed(service.register_cluster(&address(0))).await;
    let request = BackupRequest {
        cluster_id: cluster.unwrap().cluster_id,
        target_ips: Vec::new(),
        snapshot_id: None,
        backup_type: BackupType::Node,
        keep_unproven: false,
        idempotency_key: None,
    };
    let begun = Instant::now();
    let (answer, snapshots, snapshots_cpu) = timed(service.take_backup(request)).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.target_ips.len()), (Status::Started, NODES));
    let ((), _, rest_cpu) = timed(async {
        while !catalog.unfinished_jobs().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let whole = begun.elapsed();
    let id: BackupId = answer.snapshot_id.parse().unwrap();
    assert!(catalog.job(&id.to_string()).await.unwrap().unwrap().finished);
    service.shut_down().await;
    [(register, register_cpu), (snapshots, snapshots_cpu), (whole, snapshots_cpu + rest_cpu)]
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    println!(
        "{NODES} nodes with {TABLES} tables, {ROUNDS} rounds; bound {BOUND:?} and {MEMORY_BOUND_MIB} MiB"
    );
    println!("machine: BLAKE3 of 256 MiB on one processor in {:?}", calibration());
    println!(
        "{:>12} {:>12} | {:>12} {:>12} | {:>12} {:>12}",
        "register", "cpu", "snapshots", "cpu", "whole", "cpu"
    );
    for _ in 0..ROUNDS {
        let directory = tempfile::tempdir().unwrap();
        let [register, snapshots, whole] = round(directory.path()).await;
        let show = |(wall, cpu): (Duration, Duration)| {
            format!("{:>9} ms {:>9} ms", wall.as_millis(), cpu.as_millis())
        };
        println!("{} | {} | {}", show(register), show(snapshots), show(whole));
    }
    println!("memory at its peak: {} MiB", peak_mib());
}
