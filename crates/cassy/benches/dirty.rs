//! How long applications are paused for a cluster-wide backup of a real Cassandra node with half a gigabyte of rows in the
//! memtables of 20 tables: Cassy's order of work (flush, pause, snapshot) beside that of its predecessor (pause, snapshot,
//! which flushes), in turns, while an application writes on as soon as it may.
//!
//! `bench/dirty` runs it.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cassy_agent_protocol::Instance;
use cassy_api::proto::{BackupListingRequest, BackupRequest, OperationStatus};
use cassy_backup_format::BackupId;
use cassy_cassandra::{Keyspaces, SnapshotTag};
use cassy_pause::{PauseClient, TcpDial};
use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::cql::Cql;
use cassy_testkit::dns::DnsServer;
use cassy_testkit::{CassandraVersion, Runtime, World};
use futures::{StreamExt, TryStreamExt, stream};

const TABLES: usize = 20;
const ROW_BYTES: usize = 64 << 10;
const ROWS_OF_TABLE: usize = (512 << 20) / TABLES / ROW_BYTES;
const AT_ONCE: usize = 16;
const PAIRS: usize = 10;
const INSTANCES: usize = 3;
const SERVICE: &str = "_app._tcp.bench.test";
const LIMIT: Duration = Duration::from_secs(60);

struct Scene {
    world: World,
    cql: Arc<Cql>,
    instances: Vec<Arc<FakeApplication>>,
    cluster: String,
}

impl Scene {
    async fn set(dns: &DnsServer, instances: Vec<Arc<FakeApplication>>) -> Self {
        let world = World::builder(&Runtime::prepare(CassandraVersion::default()).await.unwrap()).unwrap();
        let world =
            world.property("srv_service_url", SERVICE).property("dns_server", dns.address().to_string());
        let world = world.node(|node| {
            let node =
                node.jvm("-Xmx6g").jvm("-XX:MaxDirectMemorySize=6g").yaml("memtable_heap_space", "2GiB");
            let node = node.yaml("memtable_offheap_space", "4GiB").yaml("commitlog_total_space", "8GiB");
            node.yaml("memtable_allocation_type", "offheap_buffers").yaml("auto_snapshot", "false")
        });
        let world = world.start().await.unwrap();
        let cql = Arc::new(world.cql().await.unwrap());
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        cql.execute(&format!("CREATE KEYSPACE bench WITH replication = {replication}")).await.unwrap();
        for table in 0..TABLES {
            cql.execute(&format!("CREATE TABLE bench.table_{table} (id int PRIMARY KEY, value text)"))
                .await
                .unwrap();
        }
        let cluster = world.register().await.unwrap();
        Self { world, cql, instances, cluster }
    }

    /// Nothing but what is dirty.
    async fn fill(&self) {
        for table in 0..TABLES {
            self.cql.execute(&format!("TRUNCATE bench.table_{table}")).await.unwrap();
        }
        let text = noise(ROW_BYTES);
        let rows = (0..TABLES).flat_map(|table| (0..ROWS_OF_TABLE).map(move |id| (table, id)));
        let writes = rows.map(|(table, id)| {
            let statement =
                format!("INSERT INTO bench.table_{table} (id, value) VALUES ({id}, '{id}{text}')");
            let cql = &self.cql;
            async move { cql.execute(&statement).await }
        });
        stream::iter(writes).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.unwrap();
    }

    /// Pause, snapshot of all keyspaces with its flush, unpause.
    async fn predecessor(&self, round: usize) -> Duration {
        let instances: Vec<_> = self.instances.iter().map(instance).collect();
        let client = PauseClient::new(TcpDial);
        let mut session = self.world.node.jmx().await.unwrap();
        let keyspaces = Keyspaces::new(session.keyspaces().await.unwrap()).unwrap();
        let tag = format!("cassy-{}-1", BackupId::at(i64::try_from(round).unwrap()))
            .parse::<SnapshotTag>()
            .unwrap();
        let begun = Instant::now();
        let pausing = client.pause(&instances, LIMIT).await;
        assert!(pausing.failures().is_empty());
        session.take_snapshot(tag, &keyspaces, LIMIT).await.unwrap();
        assert!(pausing.unpause(LIMIT).await.iter().all(Result::is_ok));
        let paused = begun.elapsed();
        session.clear_snapshot(tag, &keyspaces, LIMIT).await.unwrap();
        paused
    }

    async fn cassy(&self) -> (Duration, Duration) {
        let mut client = self.world.server.client().unwrap();
        let request =
            BackupRequest { cluster_id: self.cluster.clone(), backup_type: 1, ..BackupRequest::default() };
        let snapshot_id = client.take_backup(request).await.unwrap().into_inner().snapshot_id;
        let (status, message) = self.world.backup_outcome(&snapshot_id).await.unwrap();
        assert_eq!(status, OperationStatus::Completed, "{message}");
        let request = BackupListingRequest { snapshot_id, ..BackupListingRequest::default() };
        let rows = client.list_backups(request).await.unwrap().into_inner().entries;
        let pause = rows[0].pause.clone().unwrap();
        let millis = Duration::from_millis;
        (millis(pause.ended_at - pause.started_at), millis(pause.slowest_snapshot_ms))
    }
}

fn instance(application: &Arc<FakeApplication>) -> Instance {
    Instance { host: "app.bench.test".to_owned(), address: application.address() }
}

/// Text that does not compress to nothing (xorshift, from a fixed seed).
fn noise(bytes: usize) -> String {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"[usize::try_from(state >> 59).unwrap()])
    };
    (0..bytes).map(letter).collect()
}

#[tokio::main]
async fn main() {
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
    let scene = Scene::set(&dns, instances).await;
    let (cql, gate) = (Arc::clone(&scene.cql), scene.instances[0].gate());
    tokio::spawn(async move {
        for turn in 0_usize.. {
            let pass = gate.enter().await;
            let (table, id) = (turn % TABLES, turn % 1000);
            let row = format!("INSERT INTO bench.table_{table} (id, value) VALUES ({id}, 'small')");
            // While its table is truncated a write may fail.
            let _ = cql.execute(&row).await;
            drop(pass);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    println!("512 MiB dirty in {TABLES} tables of one node, {INSTANCES} instances, {PAIRS} pairs");
    println!("{:>15} {:>10} {:>18} {:>7}", "predecessor", "Cassy", "of it snapshot", "ratio");
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        scene.fill().await;
        let predecessor = scene.predecessor(pair).await;
        scene.fill().await;
        let (cassy, snapshot) = scene.cassy().await;
        let ratio = predecessor.as_secs_f64() / cassy.as_secs_f64();
        let [predecessor, cassy, snapshot] = [predecessor, cassy, snapshot].map(|it| it.as_millis());
        println!("{predecessor:>12} ms {cassy:>7} ms {snapshot:>15} ms {ratio:>7.1}");
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("shorter by: median {:.1}, least {:.1}; wanted 5", ratios[PAIRS / 2], ratios[0]);
}
