//! Registration and the snapshots of a cluster of 1,000 nodes: the real service, runner, SQLite file and file store;
//! the nodes are made up, in this process, and answer at once. What is measured is what the server itself costs.
//!
//! `bench/fan-out` runs it.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod ring;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cassy_agent_protocol::{GuardOrder, Instance, StoreGrant};
use cassy_backup_format::BackupId;
use cassy_catalog::{Catalog, MetadataUrl, SERVER_LEASE};
use cassy_control::applications::{Applications, Guard, InstanceFailure, Pause};
use cassy_control::job::Failure;
use cassy_control::{BackupRequest, BackupType, Operations, Service, ServiceParts, Status, SystemClock};
use cassy_store::StoreAccess;
use ring::{Nodes, Ring, address, calibration};

const NODES: usize = 1000;
const TABLES: usize = 60;
const ROUNDS: usize = 5;
const BOUND: Duration = Duration::from_secs(2);
const MEMORY_BOUND_MIB: u64 = 150;

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
        store: cassy_store::open(&StoreAccess::new(location.clone())).unwrap(),
        grant: StoreGrant { location },
        access: Arc::new(Nodes(Arc::new(Ring::new(NODES, TABLES, Duration::ZERO)))),
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
