//! A cluster of two real nodes, of which one is lost twice: once it comes back under another address, once somebody else
//! comes in its place. Who is who is told, and nobody is taken for another one.
//!
//! One cluster for all scenes, in this order, as starting it is what takes the time.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use cassy_api::proto::{RestoreRequest, RestoreResponse};
use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{Cluster, Consistency, Doing, Failure};
use tonic::{Code, Status};

use crate::clusters::{KeptFiles, assert_completed, back_up, files_are_back, fingerprints, write};

const REPLICATION: [&str; 2] = [
    "{'class': 'SimpleStrategy', 'replication_factor': 1}",
    "{'class': 'SimpleStrategy', 'replication_factor': 2}",
];
/// The node that is lost; the other one is the seed.
const LOST: usize = 1;
/// Where it comes back: a host of the same network.
const ELSEWHERE: u8 = 21;

#[tokio::test]
async fn a_node_under_another_address_and_another_node_under_its_address_are_told_apart()
-> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let mut cluster = builder.datacenters(&[2]).start().await?;
    let cql = cluster.cql(Consistency::All).await?;
    write(&cluster, &cql, REPLICATION).await?;
    let rows = fingerprints(&cql).await?;
    let id = cluster.server.register(&cluster.addresses()[0]).await?.cluster_id;
    let mut scene = Scene { cluster, id, rows };
    scene.a_node_comes_back_under_another_address().await?;
    scene.another_node_comes_in_its_place().await
}

struct Scene {
    cluster: Cluster,
    id: String,
    rows: Fingerprints,
}

impl Scene {
    async fn a_node_comes_back_under_another_address(&mut self) -> Result<(), Failure> {
        let kept = back_up(&mut self.cluster, &self.id).await?;
        let (old, host_id) = (self.cluster.nodes[LOST].address(), self.host_id(LOST).await?);
        self.lose().await?;
        self.cluster.change_address(LOST, ELSEWHERE).await?;
        let new = self.cluster.nodes[LOST].address();

        // Without a word about who it is, and with the place of one that is alive, nothing is done.
        let request = RestoreRequest {
            cluster_id: self.id.clone(),
            snapshot_id: kept.snapshot.clone(),
            restore_type: 2,
            target_ips: vec![new.clone()],
            ..RestoreRequest::default()
        };
        let refused = self.restore(request.clone()).await.expect_err("who is it?");
        assert!(refused.message().contains(&format!("not part of the backup {}: {new}", kept.snapshot)));
        let of = |source: &str| RestoreRequest {
            source_of: HashMap::from([(new.clone(), source.to_owned())]),
            ..request.clone()
        };
        let living = self.cluster.nodes[0].address();
        let refused = self.restore(of(&living)).await.expect_err("it is alive");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("is alive, and its place cannot be taken"), "{refused:?}");

        self.restore(of(&old)).await.doing(|| "RestoreBackup")?;
        let outcomes = self.cluster.server.restore_outcomes(&kept.snapshot).await?;
        assert_completed("the one that is elsewhere", &outcomes, std::slice::from_ref(&new));
        let message = &outcomes[&new].1;
        assert!(
            message.contains(&format!("takes the place of {old}, host id and tokens included")),
            "{message}"
        );
        files_are_back(&self.cluster.nodes[LOST], &without_peers(kept.files, &old, &new))?;

        self.cluster.start_nodes().await?;
        assert_eq!(self.host_id(LOST).await?, host_id, "it is the same node");
        self.is_back().await?;
        let told = self.backup_says().await?;
        for line in [
            format!("added since the cluster was registered: {new}"),
            format!("gone since the cluster was registered: {old}"),
        ] {
            assert!(told.contains(&line), "{line}: {told}");
        }
        assert_eq!(self.registered_again().await?, self.id, "it is the same cluster");
        Ok(())
    }

    /// With its address and nothing else: a host id and tokens of its own, and none of its rows.
    async fn another_node_comes_in_its_place(&mut self) -> Result<(), Failure> {
        let kept = back_up(&mut self.cluster, &self.id).await?;
        let (address, before) = (self.cluster.nodes[LOST].address(), self.host_id(LOST).await?);
        self.lose().await?;
        // As long as the old one is of the ring, Cassandra lets nobody else have its address.
        self.cluster.nodes[0].cassandra.nodetool(&["removenode", &before]).await?;
        self.cluster.start_nodes().await?;
        let after = self.host_id(LOST).await?;
        assert_ne!(after, before, "it is another node");

        // An increment on the snapshot of the old one leaves it out, by name.
        let answer = self.cluster.server.begin_increment(&self.id, &kept.snapshot).await?;
        assert_eq!(answer.target_ips, [self.cluster.nodes[0].address()]);
        for line in [
            format!("left out: the snapshot {} does not hold {address}", kept.snapshot),
            format!("left out: gone from the ring since the snapshot: {address}"),
            format!("replaced (another host id) since the cluster was registered: {address}"),
        ] {
            assert!(answer.message.contains(&line), "{line}: {}", answer.message);
        }
        self.cluster.server.backup_outcomes(&kept.snapshot).await?;

        // A snapshot takes it, under its own name, with all that it has: nothing of the old one is relied on.
        let told = self.backup_says().await?;
        assert!(
            told.contains(&format!("replaced (another host id) since the cluster was registered: {address}")),
            "{told}"
        );
        let place = self.place(&after)?;
        assert!(place.starts_with(self.cluster.store()) && self.place(&before)?.exists(), "each has its own");
        let parents = fs::read_dir(place.join("manifest")).doing(|| "list the manifests")?.count();
        assert_eq!(parents, 1, "its first snapshot");
        assert_eq!(self.registered_again().await?, self.id, "it is the same cluster");

        // And a restore of the old one says whose address it is now.
        let request = RestoreRequest {
            cluster_id: self.id.clone(),
            snapshot_id: kept.snapshot,
            restore_type: 2,
            target_ips: vec![address.clone()],
            dry_run: true,
            ..RestoreRequest::default()
        };
        let told = self.restore(request).await.doing(|| "the dry run")?.message;
        let line = format!(
            "{address}: another node is registered at this address (host id {after}) than the one that comes back (host id {before})"
        );
        assert!(told.contains(&line) && told.contains("Cassandra is running"), "{told}");
        Ok(())
    }

    /// What the store has of a node.
    fn place(&self, host_id: &str) -> Result<PathBuf, Failure> {
        let clusters = self.cluster.store().join("cassy/1");
        let mut clusters = fs::read_dir(clusters).doing(|| "list the store")?.flatten();
        let cluster = clusters.next().ok_or_else(|| Failure::new("there is no cluster in the store"))?;
        Ok(cluster.path().join("node").join(host_id))
    }

    async fn lose(&mut self) -> Result<(), Failure> {
        self.cluster.nodes[LOST].cassandra.kill();
        self.cluster.nodes[LOST].cassandra.wipe()?;
        self.cluster.misses(LOST).await
    }

    async fn restore(&self, request: RestoreRequest) -> Result<RestoreResponse, Status> {
        let mut client = self.cluster.server.client().expect("the server runs");
        client.restore_backup(request).await.map(tonic::Response::into_inner)
    }

    /// A backup of all nodes of the moment; what its answer says.
    async fn backup_says(&self) -> Result<String, Failure> {
        let answer = self.cluster.server.begin_backup(&self.id, &[]).await?;
        let outcomes = self.cluster.server.backup_outcomes(&answer.snapshot_id).await?;
        assert_completed("all of the moment", &outcomes, &self.cluster.addresses());
        Ok(answer.message)
    }

    /// After that there is nothing more to say of the ring.
    async fn registered_again(&self) -> Result<String, Failure> {
        let answer = self.cluster.server.register(&self.cluster.nodes[LOST].address()).await?;
        assert_eq!(answer.target_ips, self.cluster.addresses());
        assert_eq!(self.backup_says().await?, "");
        Ok(answer.cluster_id)
    }

    async fn is_back(&mut self) -> Result<(), Failure> {
        let cql = self.cluster.cql(Consistency::All).await?;
        assert_eq!(dataset::differences(&self.rows, &fingerprints(&cql).await?), Vec::<String>::new());
        Ok(())
    }

    async fn host_id(&self, node: usize) -> Result<String, Failure> {
        let mut session = self.cluster.nodes[node].cassandra.jmx().await?;
        Ok(session.local_host_id().await.doing(|| "ask for the host id")?.to_string())
    }
}

/// The files of a node, under its new address, but for what it knew of the others.
fn without_peers(mut files: KeptFiles, old: &str, new: &str) -> KeptFiles {
    let mut own = files.remove(old).unwrap_or_default();
    own.retain(|path, _| !path.starts_with("system/peer"));
    KeptFiles::from([(new.to_owned(), own)])
}
