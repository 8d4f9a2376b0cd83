//! A whole cluster of two real nodes to one instant: backed up while its applications are paused, restored in place, and
//! as a copy under new addresses, which has a ring of its own and every row.

mod clusters;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use cassy_api::proto::backup_listing_response::Entry;
use cassy_api::proto::{
    BackupListingRequest, BackupRequest, BackupResponse, OperationStatus, RestoreRequest, RestoreResponse,
};
use cassy_backup_format::ClusterManifest;
use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::dns::DnsServer;
use cassy_testkit::{Cluster, ClusterBuilder, Consistency, Doing, Failure};
use tonic::{Code, Status};

use clusters::{assert_completed, fingerprints, write};

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
const SERVICE: &str = "_app._tcp.shop.test";

#[tokio::test]
async fn a_cluster_comes_back_in_place_and_as_a_copy() -> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let over = Applications::start().await?;
    let mut cluster = over.under(builder.datacenters(&[2])).start().await?;
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
    over.one_that_refuses_lets_the_other_go_on(&cluster, &id).await?;
    over.a_writer_that_dns_does_not_name_is_caught(&mut cluster, &id).await?;
    let snapshot = over.backups_at_rest_are_consistent(&cluster, &id).await?;
    let request = RestoreRequest { snapshot_id: snapshot, ..request };

    let mut scene = Scene { cluster, rows, request };
    scene.comes_back_in_place().await?;
    scene.comes_back_as_a_copy().await
}

/// Two instances that an SRV record names.
struct Applications {
    dns: DnsServer,
    instances: Vec<Arc<FakeApplication>>,
}

impl Applications {
    async fn start() -> Result<Self, Failure> {
        let dns = DnsServer::start().await?;
        let mut instances = Vec::new();
        for host in ["app1.shop.test", "app2.shop.test"] {
            let instance = FakeApplication::listen(Behaviour::default(), ([127, 0, 0, 1], 0).into()).await?;
            dns.srv(SERVICE, host, instance.address().port());
            dns.address_of(host, instance.address().ip());
            instances.push(instance);
        }
        Ok(Self { dns, instances })
    }

    fn under(&self, builder: ClusterBuilder) -> ClusterBuilder {
        let dns = self.dns.address().to_string();
        builder.property("srv_service_url", SERVICE).property("dns_server", dns)
    }

    fn all_go_on(&self) -> bool {
        self.instances.iter().all(|instance| !instance.is_paused())
    }

    async fn one_that_refuses_lets_the_other_go_on(
        &self,
        cluster: &Cluster,
        id: &str,
    ) -> Result<(), Failure> {
        let refusal = Some((Code::FailedPrecondition, "not now".to_owned()));
        self.instances[1].behave(|behaviour| behaviour.refuses_pause = refusal);
        let refused = freeze(cluster, id).await.expect_err("one refuses");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("app2.shop.test") && refused.message().contains("not now"));
        assert!(self.all_go_on() && self.instances[0].calls().pause == 1);
        let rows = frozen(cluster, id).await?;
        assert!(
            rows.len() == 2 && rows.iter().all(|row| row.status() == OperationStatus::Failed),
            "{rows:?}"
        );
        self.instances[1].behave(|behaviour| behaviour.refuses_pause = None);
        Ok(())
    }

    async fn a_writer_that_dns_does_not_name_is_caught(
        &self,
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
                let statement =
                    format!("INSERT INTO stranger.rows (id, number) VALUES (1, {})", number % 1000);
                cql.execute(&statement).await?;
            }
            Ok::<_, Failure>(())
        });
        let refused = freeze(cluster, id).await.expect_err("somebody writes");
        writing.abort();
        assert!(refused.message().contains("clients wrote"), "{refused:?}");
        assert!(self.all_go_on());
        Ok(())
    }

    async fn backups_at_rest_are_consistent(&self, cluster: &Cluster, id: &str) -> Result<String, Failure> {
        let mut snapshot = String::new();
        for _ in 0..AT_REST {
            let answer = freeze(cluster, id).await.doing(|| "a cluster-wide backup at rest")?;
            let outcomes = cluster.server.backup_outcomes(&answer.snapshot_id).await?;
            assert_completed("the cluster-wide backup", &outcomes, &cluster.addresses());
            snapshot = answer.snapshot_id;
        }
        assert!(self.all_go_on());
        let rows = frozen(cluster, id).await?;
        let pause = rows[0].pause.clone().expect("it says how long");
        assert!(pause.ended_at > pause.started_at && pause.instances.len() == 2, "{pause:?}");
        let path = find(&cluster.store(), &format!("{snapshot}.json")).expect("the summary is there");
        let document = std::fs::read(&path).doing(|| "read the summary")?;
        let manifest = ClusterManifest::from_json(&document).doing(|| "read the summary")?;
        assert!(manifest.backup_type == 1 && manifest.consistent && manifest.nodes.len() == 2);
        Ok(snapshot)
    }
}

async fn freeze(cluster: &Cluster, id: &str) -> Result<BackupResponse, Status> {
    let mut client = cluster.server.client().expect("the server runs");
    let request = BackupRequest { cluster_id: id.to_owned(), backup_type: 1, ..BackupRequest::default() };
    client.take_backup(request).await.map(tonic::Response::into_inner)
}

/// The rows of cluster-wide backups, the newest first.
async fn frozen(cluster: &Cluster, id: &str) -> Result<Vec<Entry>, Failure> {
    let mut client = cluster.server.client()?;
    let request = BackupListingRequest { cluster_id: id.to_owned(), ..BackupListingRequest::default() };
    let listed = client.list_backups(request).await.doing(|| "ListBackups")?.into_inner();
    Ok(listed.entries.into_iter().filter(|entry| entry.backup_type == 1).collect())
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
                if !matches!(&outcome, Err(error) if error.to_string().contains(UNANSWERED)) {
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
