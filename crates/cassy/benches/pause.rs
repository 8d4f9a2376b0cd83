//! How long applications are paused for a cluster-wide backup beyond what its snapshots take: 100 instances over 100
//! nodes. The service, its database, DNS, the instances on loopback and the guard's process are real; the nodes are made
//! up, and take their snapshots in a fixed time.
//!
//! `bench/pause` runs it.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[allow(dead_code, reason = "that of the server, which has more uses for it")]
#[path = "../src/server/applications.rs"]
mod applications;
#[path = "../../control/benches/ring/mod.rs"]
mod ring;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use applications::RealApplications;
use cassy_agent_protocol::StoreGrant;
use cassy_catalog::{Catalog, MetadataUrl, SERVER_LEASE};
use cassy_control::{
    BackupRequest, BackupType, FreezeReport, HistorySelector, Operations, Service, ServiceParts, SystemClock,
};
use cassy_pause::{PauseClient, TcpDial, stand_guard};
use cassy_store::StoreAccess;
use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::dns::DnsServer;
use ring::{Nodes, Ring, address, calibration};

const NODES: usize = 100;
const INSTANCES: usize = 100;
const TABLES: usize = 60;
const SNAPSHOT: Duration = Duration::from_millis(50);
const ROUNDS: usize = 20;
const BOUND_MS: u64 = 50;
const SERVICE: &str = "_app._tcp.bench.test";

async fn service(directory: &Path, dns: &DnsServer) -> Arc<Service> {
    let url: MetadataUrl = format!("jdbc:sqlite:{}", directory.join("cassy.db").display()).parse().unwrap();
    let catalog = Catalog::open(&url).await.unwrap();
    let lease = catalog.take_lease(SERVER_LEASE, "bench", Duration::from_secs(3600), |_| true).await.unwrap();
    let root = directory.join("store");
    std::fs::create_dir_all(&root).unwrap();
    let location = format!("file://{}", root.display());
    let server = Some(dns.address().to_string());
    let parts = ServiceParts {
        catalog,
        epoch: lease.epoch,
        store: cassy_store::open(&StoreAccess::new(location.clone())).unwrap(),
        grant: StoreGrant { location },
        access: Arc::new(Nodes(Arc::new(Ring::new(NODES, TABLES, SNAPSHOT)))),
        applications: Arc::new(RealApplications::new(Some(SERVICE.to_owned()), server, None)),
        longest_pause: Duration::from_secs(30),
        clock: Arc::new(SystemClock),
        cassandra_yaml: None,
    };
    Service::start(parts).await.unwrap()
}

async fn round(service: &Arc<Service>, cluster: &str) -> FreezeReport {
    let request = BackupRequest {
        cluster_id: cluster.to_owned(),
        target_ips: Vec::new(),
        snapshot_id: None,
        backup_type: BackupType::Cluster,
        keep_unproven: false,
        idempotency_key: None,
    };
    let answer = service.take_backup(request).await.unwrap();
    let selector = HistorySelector { snapshot_id: Some(answer.snapshot_id), ..HistorySelector::default() };
    loop {
        let rows = service.list_backups(selector.clone()).await.unwrap();
        if rows.iter().all(|row| row.status == cassy_control::Status::Completed) {
            return rows[0].freeze.clone().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn measure() {
    println!("{INSTANCES} instances, {NODES} nodes, each snapshot {SNAPSHOT:?}; bound {BOUND_MS} ms");
    println!("machine: BLAKE3 of 256 MiB on one processor in {:?}", calibration());
    let dns = DnsServer::start().await.unwrap();
    let mut instances = Vec::new();
    for number in 0..INSTANCES {
        let instance =
            FakeApplication::listen(Behaviour::default(), ([127, 0, 0, 1], 0).into()).await.unwrap();
        let host = format!("app{number}.bench.test");
        dns.srv(SERVICE, &host, instance.address().port());
        dns.address_of(&host, instance.address().ip());
        instances.push(instance);
    }
    let directory = tempfile::tempdir().unwrap();
    let service = service(directory.path(), &dns).await;
    let cluster = service.register_cluster(&address(0)).await.unwrap().cluster_id;
    println!("{:>10} {:>18} {:>10}", "paused", "slowest snapshot", "overhead");
    let mut overheads = Vec::new();
    for _ in 0..ROUNDS {
        let freeze = round(&service, &cluster).await;
        assert_eq!(freeze.instances.len(), INSTANCES);
        let paused = u64::try_from(freeze.ended_at_ms - freeze.started_at_ms).unwrap();
        let overhead = paused.saturating_sub(freeze.slowest_snapshot_ms);
        println!("{paused:>7} ms {:>15} ms {overhead:>7} ms", freeze.slowest_snapshot_ms);
        overheads.push(overhead);
    }
    overheads.sort_unstable();
    let (median, most) = (overheads[ROUNDS / 2], overheads[ROUNDS - 1]);
    println!("overhead: median {median} ms, most {most} ms; bound {BOUND_MS} ms");
    assert!(instances.iter().all(|instance| !instance.is_paused()));
    service.shut_down().await;
}

/// The guard beside the server is this program, too.
async fn guard() -> ExitCode {
    let input = tokio::io::BufReader::new(tokio::io::stdin());
    let client = PauseClient::new(TcpDial);
    let stood = stand_guard(input, tokio::io::stdout(), &client, std::future::pending(), |_| {}).await;
    ExitCode::from(u8::from(stood.is_err()))
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let is_guard = std::env::args().nth(1).is_some_and(|word| word == "guard");
    let code = runtime.block_on(async {
        if is_guard {
            return guard().await;
        }
        measure().await;
        ExitCode::SUCCESS
    });
    // A read of standard input that never ends does not hold it.
    runtime.shutdown_background();
    code
}
