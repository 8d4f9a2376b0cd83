//! Restores of a whole cluster of two real nodes: in place, and as a copy under new addresses, which has a ring of its own
//! and every row.

mod clusters;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;

use cassy_api::proto::{OperationStatus, RestoreRequest, RestoreResponse};
use cassy_backup_format::ClusterManifest;
use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{Cluster, Consistency, Doing, Failure};
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

#[tokio::test]
async fn a_cluster_comes_back_in_place_and_as_a_copy() -> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let mut cluster = builder.datacenters(&[2]).start().await?;
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
    of_the_whole_cluster(&cluster, &id, &snapshot)?;

    let mut scene = Scene { cluster, rows, request };
    scene.comes_back_in_place().await?;
    scene.comes_back_as_a_copy().await
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

/// What is written while nobody writes is of one instant: the summary of a backup of the cluster says so.
fn of_the_whole_cluster(cluster: &Cluster, id: &str, snapshot: &str) -> Result<(), Failure> {
    let path = find(&cluster.store(), &format!("{snapshot}.json")).expect("the summary is there");
    let document = std::fs::read(&path).doing(|| "read the summary")?;
    let mut manifest = ClusterManifest::from_json(&document).doing(|| "read the summary")?;
    assert_eq!((manifest.cluster_id.to_string().as_str(), manifest.backup_type), (id, 2));
    (manifest.backup_type, manifest.consistent) = (1, true);
    let document = manifest.to_json().doing(|| "write the summary")?;
    std::fs::write(&path, document).doing(|| "write the summary")
}

fn find(directory: &Path, name: &str) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.into_iter().find_map(|path| match path.is_dir() {
        true => find(&path, name),
        false => path.file_name().is_some_and(|file| file == name).then_some(path),
    })
}
