//! A whole cluster of two real nodes to one instant: backed up while its applications are paused, restored in place, and
//! as a copy under new addresses, which has a ring of its own and every row.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use cassy_api::proto::{OperationStatus, RestoreRequest, RestoreResponse};
use cassy_backup_format::ClusterManifest;
use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{Cluster, Consistency, Doing, Failure, Feature};
use tonic::{Code, Status};

use crate::clusters::{Applications, assert_completed, fingerprints, freeze, frozen, write};

const REPLICATION: [&str; 2] = [
    "{'class': 'SimpleStrategy', 'replication_factor': 1}",
    "{'class': 'SimpleStrategy', 'replication_factor': 2}",
];
/// Where the copy lives: hosts of the same network.
const ELSEWHERE: [u8; 2] = [21, 22];

/// Here Cassandra waits for a seed's answer for seconds instead of half a minute.
const STARTS: usize = 5;
const UNANSWERED: &str = "Unable to gossip with any peers";

/// At rest nobody writes, so as many backups one after another are all consistent.
const AT_REST: usize = 5;
const AT_REST_AT_LENGTH: usize = 100;
/// Between two reads.
const TRACED: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_cluster_comes_back_in_place_and_as_a_copy() -> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let mut over = Applications::start().await?;
    let mut cluster = over.under(builder.datacenters(&[2])).start().await?;
    for _ in 0..2 {
        over.listen(&cluster).await?;
    }
    let cql = cluster.cql(Consistency::All).await?;
    write(&cluster, &cql, REPLICATION).await?;
    let rows = fingerprints(&cql).await?;
    let id = cluster.server.register(&cluster.addresses()[0]).await?.cluster_id;
    let snapshot = cluster.server.begin_backup(&id, &[]).await?.snapshot_id;
    let outcomes = cluster.server.backup_outcomes(&snapshot).await?;
    assert_completed("the backup", &outcomes, &cluster.addresses());
    let request = RestoreRequest {
        cluster_id: id.clone(),
        snapshot_id: snapshot.clone(),
        restore_type: 1,
        ..RestoreRequest::default()
    };
    let refused = restore(&cluster, request.clone()).await.expect_err("it is of single nodes");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    one_that_refuses_lets_the_other_go_on(&over, &cluster, &id).await?;
    a_writer_that_dns_does_not_name_is_caught(&over, &mut cluster, &id).await?;
    if cluster.version().has(Feature::CoordinatedWrites) {
        what_nodes_write_by_themselves_raises_no_alarm(&over, &mut cluster, &id).await?;
    }
    let snapshot = backups_at_rest_are_consistent(&over, &cluster, &id).await?;
    let request = RestoreRequest { snapshot_id: snapshot, ..request };

    let mut scene = Scene { cluster, rows, request };
    scene.comes_back_in_place().await?;
    scene.comes_back_as_a_copy().await
}

async fn one_that_refuses_lets_the_other_go_on(
    over: &Applications,
    cluster: &Cluster,
    id: &str,
) -> Result<(), Failure> {
    let refusal = Some((Code::FailedPrecondition, "not now".to_owned()));
    over.instances[1].behave(|behaviour| behaviour.refuses_pause = refusal);
    let refused = freeze(cluster, id).await.expect_err("one refuses");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("app2.shop.test") && refused.message().contains("not now"));
    assert!(over.all_go_on() && over.instances[0].calls().pause == 1);
    let rows = frozen(cluster, id).await?;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.status() == OperationStatus::Failed), "{rows:?}");
    over.instances[1].behave(|behaviour| behaviour.refuses_pause = None);
    Ok(())
}

async fn a_writer_that_dns_does_not_name_is_caught(
    over: &Applications,
    cluster: &mut Cluster,
    id: &str,
) -> Result<(), Failure> {
    let cql = cluster.cql(Consistency::One).await?;
    let keyspace = "CREATE KEYSPACE stranger WITH replication = \
                    {'class': 'SimpleStrategy', 'replication_factor': 1}";
    let table = "CREATE TABLE stranger.rows (id int PRIMARY KEY, number int)";
    cql.execute_all(&[keyspace, table]).await?;
    let writing = tokio::spawn(async move {
        for number in 0_u64.. {
            let statement = format!("INSERT INTO stranger.rows (id, number) VALUES (1, {})", number % 1000);
            cql.execute(&statement).await?;
        }
        Ok::<_, Failure>(())
    });
    let refused = freeze(cluster, id).await.expect_err("somebody writes");
    writing.abort();
    assert!(refused.message().contains("clients wrote"), "{refused:?}");
    assert!(over.all_go_on());
    Ok(())
}

/// Reads that are traced: each makes its coordinator write a handful of rows to `system_traces`.
async fn what_nodes_write_by_themselves_raises_no_alarm(
    over: &Applications,
    cluster: &mut Cluster,
    id: &str,
) -> Result<(), Failure> {
    let trace = async |cluster: &Cluster, probability: &str| {
        for node in &cluster.nodes {
            node.cassandra.nodetool(&["settraceprobability", probability]).await?;
        }
        Ok::<_, Failure>(())
    };
    trace(cluster, "1").await?;
    let cql = cluster.cql(Consistency::One).await?;
    let reading = tokio::spawn(async move {
        let mut pace = tokio::time::interval(TRACED);
        while cql.rows("SELECT id FROM triple.customers WHERE id = 1").await.is_ok() {
            pace.tick().await;
        }
    });
    for _ in 0..AT_REST {
        let snapshot =
            freeze(cluster, id).await.doing(|| "a cluster-wide backup under traced reads")?.snapshot_id;
        let outcomes = cluster.server.backup_outcomes(&snapshot).await?;
        assert_completed("the backup under traced reads", &outcomes, &cluster.addresses());
    }
    assert!(over.all_go_on() && !reading.is_finished());
    reading.abort();
    trace(cluster, "0").await
}

async fn backups_at_rest_are_consistent(
    over: &Applications,
    cluster: &Cluster,
    id: &str,
) -> Result<String, Failure> {
    let mut snapshot = String::new();
    let at_length = std::env::var_os("CASSY_TEST_ALL").is_some();
    for _ in 0..if at_length { AT_REST_AT_LENGTH } else { AT_REST } {
        let answer = freeze(cluster, id).await.doing(|| "a cluster-wide backup at rest")?;
        let outcomes = cluster.server.backup_outcomes(&answer.snapshot_id).await?;
        assert_completed("the cluster-wide backup", &outcomes, &cluster.addresses());
        snapshot = answer.snapshot_id;
    }
    assert!(over.all_go_on());
    let rows = frozen(cluster, id).await?;
    let pause = rows[0].pause.clone().expect("it says how long");
    assert!(pause.ended_at > pause.started_at && pause.instances.len() == 2, "{pause:?}");
    let path = find(&cluster.store(), &format!("{snapshot}.json")).expect("the summary is there");
    let document = std::fs::read(&path).doing(|| "read the summary")?;
    let manifest = ClusterManifest::from_json(&document).doing(|| "read the summary")?;
    assert!(manifest.backup_type == 1 && manifest.consistent && manifest.nodes.len() == 2);
    Ok(snapshot)
}

struct Scene {
    cluster: Cluster,
    rows: Fingerprints,
    request: RestoreRequest,
}

impl Scene {
    async fn comes_back_in_place(&mut self) -> Result<(), Failure> {
        let before = self.host_ids().await?;
        self.lose_everything()?;
        let answer = restore(&self.cluster, self.request.clone()).await.doing(|| "RestoreBackup")?;
        let [seed, other] = &self.cluster.addresses()[..] else { panic!("two nodes") };
        for line in [format!("1. start {seed}, a seed"), format!("2. start {other}\n")] {
            assert!(answer.message.contains(&line), "{line}: {}", answer.message);
        }
        self.completes().await?;
        self.start().await?;
        assert_eq!(self.host_ids().await?, before);
        self.is_back().await
    }

    /// The second node is known by `source_of`, the first by the tokens that it is to have.
    async fn comes_back_as_a_copy(&mut self) -> Result<(), Failure> {
        let (originals, before) = (self.cluster.addresses(), self.host_ids().await?);
        let mut tokens = Vec::new();
        for node in &self.cluster.nodes {
            let mut session = node.cassandra.jmx().await?;
            let own = IpAddr::V4(node.cassandra.address());
            tokens.push(session.tokens(own).await.doing(|| "ask for the tokens")?);
        }
        self.lose_everything()?;
        for (index, host) in ELSEWHERE.into_iter().enumerate() {
            self.cluster.change_address(index, host).await?;
        }
        let request = RestoreRequest {
            target_ips: self.cluster.addresses(),
            source_of: HashMap::from([(self.cluster.addresses()[1].clone(), originals[1].clone())]),
            ..self.request.clone()
        };

        // Nothing says yet who the first one is; then the second one would get other tokens.
        let request_dry = RestoreRequest { dry_run: true, ..request.clone() };
        let looked = restore(&self.cluster, request_dry).await.doing(|| "the dry run")?;
        assert_eq!(looked.status(), OperationStatus::Initialized);
        assert!(looked.message.contains("has no initial_token"), "{}", looked.message);
        assert!(looked.message.contains(&tokens[0].join(",")), "{}", looked.message);
        for (index, tokens) in tokens.iter().enumerate() {
            self.set(index, "initial_token", &format!("'{}'", tokens.join(",")))?;
        }
        self.set(1, "initial_token", "'1,2,3,4'")?;
        let refused = restore(&self.cluster, request.clone()).await.expect_err("other tokens");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let line = format!("initial_token: {}", tokens[1].join(","));
        assert!(refused.message().contains(&line), "{refused:?}");
        self.set(1, "initial_token", &format!("'{}'", tokens[1].join(",")))?;

        let seeds = format!(
            "[{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{{seeds: '{}'}}]}}]",
            self.cluster.addresses()[0]
        );
        for index in 0..2 {
            self.set(index, "cluster_name", "copy")?;
            self.set(index, "seed_provider", &seeds)?;
        }
        let answer = restore(&self.cluster, request).await.doing(|| "RestoreBackup")?;
        let [seed, other] = &self.cluster.addresses()[..] else { panic!("two nodes") };
        for line in [format!("1. start {seed}, a seed"), format!("2. start {other}\n")] {
            assert!(answer.message.contains(&line), "{line}: {}", answer.message);
        }
        self.completes().await?;
        for node in &self.cluster.nodes {
            let data = &node.cassandra.data_directories()[0];
            assert!(data.join("system_schema").exists() && !data.join("system").exists());
        }

        self.start().await?;
        assert!(self.host_ids().await?.is_disjoint(&before), "they are nodes of their own");
        self.is_back().await
    }

    /// As the answer says: the seed, then the other, and one that the seed did not answer in time again.
    async fn start(&mut self) -> Result<(), Failure> {
        for node in &mut self.cluster.nodes {
            let mut outcome = node.cassandra.start().await;
            for _ in 1..STARTS {
                // 4.0 says it long before the end of its log.
                if outcome.is_ok() || !node.cassandra.log().contains(UNANSWERED) {
                    break;
                }
                outcome = node.cassandra.start().await;
            }
            outcome?;
        }
        self.cluster.settled().await
    }

    fn lose_everything(&mut self) -> Result<(), Failure> {
        for node in &mut self.cluster.nodes {
            node.cassandra.kill();
            node.cassandra.wipe()?;
        }
        Ok(())
    }

    async fn completes(&self) -> Result<(), Failure> {
        let outcomes = self.cluster.server.restore_outcomes(&self.request.snapshot_id).await?;
        let ours =
            |(address, _): &(&String, &(OperationStatus, String))| self.cluster.addresses().contains(address);
        let ours = outcomes.iter().filter(ours).map(|(address, outcome)| (address.clone(), outcome.clone()));
        assert_completed("the restore", &ours.collect(), &self.cluster.addresses());
        for node in &self.cluster.nodes {
            let staging = node.cassandra.data_directories()[0].join("cluster-backup");
            assert!(!staging.exists(), "staging is removed");
        }
        Ok(())
    }

    async fn is_back(&mut self) -> Result<(), Failure> {
        let cql = self.cluster.cql(Consistency::All).await?;
        assert_eq!(dataset::differences(&self.rows, &fingerprints(&cql).await?), Vec::<String>::new());
        Ok(())
    }

    async fn host_ids(&self) -> Result<BTreeSet<String>, Failure> {
        let mut ids = BTreeSet::new();
        for node in &self.cluster.nodes {
            let mut session = node.cassandra.jmx().await?;
            ids.insert(session.local_host_id().await.doing(|| "ask for the host id")?.to_string());
        }
        Ok(ids)
    }

    /// Sets a key of the stopped node's cassandra.yaml, and for its next start, which writes the file anew.
    fn set(&mut self, index: usize, key: &str, value: &str) -> Result<(), Failure> {
        let cassandra = &mut self.cluster.nodes[index].cassandra;
        cassandra.set_yaml(key, value);
        let (path, begin) = (cassandra.yaml_path(), format!("{key}: "));
        let text = std::fs::read_to_string(&path).doing(|| "read cassandra.yaml")?;
        let kept = text.lines().filter(|line| !line.starts_with(&begin));
        let lines: Vec<String> = kept.map(str::to_owned).chain([format!("{begin}{value}\n")]).collect();
        std::fs::write(&path, lines.join("\n")).doing(|| "write cassandra.yaml")
    }
}

async fn restore(cluster: &Cluster, request: RestoreRequest) -> Result<RestoreResponse, Status> {
    let mut client = cluster.server.client().expect("the server runs");
    client.restore_backup(request).await.map(tonic::Response::into_inner)
}

fn find(directory: &Path, name: &str) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.into_iter().find_map(|path| match path.is_dir() {
        true => find(&path, name),
        false => path.file_name().is_some_and(|file| file == name).then_some(path),
    })
}
