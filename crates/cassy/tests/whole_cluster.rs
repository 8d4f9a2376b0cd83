//! Restores of a whole cluster, of one real node: in place, and as a copy under a new address, which has a ring of its own
//! and every row.

mod clusters;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use cassy_api::proto::{OperationStatus, RestoreRequest, RestoreResponse};
use cassy_backup_format::ClusterManifest;
use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{Cluster, Consistency, Doing, Failure};
use tonic::{Code, Status};

use clusters::{assert_completed, fingerprints, write};

const REPLICATION: [&str; 2] = ["{'class': 'SimpleStrategy', 'replication_factor': 1}"; 2];
/// Where the copy lives: a host of the same network.
const ELSEWHERE: u8 = 21;

#[tokio::test]
async fn a_cluster_comes_back_in_place_and_as_a_copy() -> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let mut cluster = builder.datacenters(&[1]).start().await?;
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
        let before = self.host_id().await?;
        self.lose_everything()?;
        self.restored().await?;
        self.cluster.start_nodes().await?;
        assert_eq!(self.host_id().await?, before);
        self.is_back().await
    }

    /// The node is known by the tokens that it is to have.
    async fn comes_back_as_a_copy(&mut self) -> Result<(), Failure> {
        let before = self.host_id().await?;
        let mut session = self.cluster.nodes[0].cassandra.jmx().await?;
        let own = IpAddr::V4(self.cluster.nodes[0].cassandra.address());
        let tokens = session.tokens(own).await.doing(|| "ask for the tokens")?.join(",");
        self.lose_everything()?;
        self.cluster.change_address(0, ELSEWHERE).await?;
        self.request.target_ips = self.cluster.addresses();

        // Nothing says yet who it is; then that is said, and other tokens are set.
        let request = RestoreRequest { dry_run: true, ..self.request.clone() };
        let looked = restore(&self.cluster, request.clone()).await.doing(|| "the dry run")?;
        assert_eq!(looked.status(), OperationStatus::Initialized);
        assert!(looked.message.contains("has no initial_token"), "{}", looked.message);
        assert!(looked.message.contains(&tokens), "{}", looked.message);
        self.set("initial_token", "'1,2,3,4'")?;
        let source_of = HashMap::from([(self.cluster.addresses()[0].clone(), before.clone())]);
        let looked = restore(&self.cluster, RestoreRequest { source_of, ..request }).await;
        let looked = looked.doing(|| "the dry run")?.message;
        assert!(looked.contains(&format!("change the line to initial_token: {tokens}")), "{looked}");

        self.set("initial_token", &format!("'{tokens}'"))?;
        self.set("cluster_name", "copy")?;
        let seed = self.cluster.addresses().remove(0);
        self.set(
            "seed_provider",
            &format!(
                "[{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{{seeds: '{seed}'}}]}}]"
            ),
        )?;
        self.restored().await?;
        let data = self.cluster.nodes[0].cassandra.data_directories().remove(0);
        assert!(data.join("system_schema").exists() && !data.join("system").exists());
        self.cluster.start_nodes().await?;
        assert_ne!(self.host_id().await?, before, "it is a node of its own");
        self.is_back().await
    }

    /// Restores, as the answer and the history say.
    async fn restored(&self) -> Result<(), Failure> {
        let answer = restore(&self.cluster, self.request.clone()).await.doing(|| "RestoreBackup")?;
        let address = self.cluster.addresses().remove(0);
        let line = format!("1. start {address}, a seed");
        assert!(answer.message.contains(&line), "{line}: {}", answer.message);
        let outcomes = self.cluster.server.restore_outcomes(&self.request.snapshot_id).await?;
        let (status, message) = &outcomes[&address];
        assert_eq!(*status, OperationStatus::Completed, "{message}");
        let staging = self.cluster.nodes[0].cassandra.data_directories()[0].join("cluster-backup");
        assert!(!staging.exists(), "staging is removed");
        Ok(())
    }

    fn lose_everything(&mut self) -> Result<(), Failure> {
        for node in &mut self.cluster.nodes {
            node.cassandra.kill();
            node.cassandra.wipe()?;
        }
        Ok(())
    }

    async fn is_back(&mut self) -> Result<(), Failure> {
        let cql = self.cluster.cql(Consistency::All).await?;
        assert_eq!(dataset::differences(&self.rows, &fingerprints(&cql).await?), Vec::<String>::new());
        Ok(())
    }

    async fn host_id(&self) -> Result<String, Failure> {
        let mut session = self.cluster.nodes[0].cassandra.jmx().await?;
        session.local_host_id().await.map(|id| id.to_string()).doing(|| "ask for the host id")
    }

    /// Sets a key of the stopped node's cassandra.yaml, and for its next start, which writes the file anew.
    fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let cassandra = &mut self.cluster.nodes[0].cassandra;
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
