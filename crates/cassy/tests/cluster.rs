//! A cluster of three real nodes, each on a machine of its own as far as the network goes, through its life: it is
//! registered, backed up under writes, loses a node and comes back, loses all and comes back, and grows.
//!
//! One cluster for all scenes, in this order, as starting it is what takes the time.

use std::collections::BTreeSet;

use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{Cluster, Consistency, Failure};

use crate::clusters::{
    Acknowledged, Kept, SIMPLE, Writer, assert_completed, back_up, files_are_back, fingerprints, missing,
    write,
};

#[tokio::test]
async fn a_cluster_is_backed_up_and_comes_back() -> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let mut cluster = builder.start().await?;
    assert_three_machines(&cluster)?;
    let cql = cluster.cql(Consistency::All).await?;
    write(&cluster, &cql, SIMPLE).await?;
    let rows = fingerprints(&cql).await?;

    let id = any_host_registers_all_nodes(&cluster).await?;
    requests_that_cannot_be_met_are_refused_by_name(&cluster, &id).await?;
    a_node_that_is_down_is_named(&mut cluster, &id).await?;

    let writer = Writer::start(cluster.cql(Consistency::Quorum).await?);
    let mut scene = Scene { cluster, id, rows, writer };
    scene.one_lost_node_comes_back_while_the_others_write().await?;
    scene.a_lost_cluster_comes_back().await?;
    let Scene { mut cluster, id, .. } = scene;

    a_node_that_was_added_is_named(&mut cluster, &id).await
}

fn assert_three_machines(cluster: &Cluster) -> Result<(), Failure> {
    let mut networks = BTreeSet::from([std::fs::read_link("/proc/self/ns/net").expect("/proc is there")]);
    let mut processes = BTreeSet::new();
    for node in &cluster.nodes {
        networks.insert(node.network_namespace()?);
        processes.insert(node.cassandra.process().expect("it runs").pid());
    }
    assert_eq!(networks.len(), 4, "each has a network of its own, and none has the server's: {networks:?}");
    assert_eq!(processes.len(), 3, "{processes:?}");
    Ok(())
}

async fn any_host_registers_all_nodes(cluster: &Cluster) -> Result<String, Failure> {
    let mut ids = BTreeSet::new();
    for host in cluster.addresses() {
        let answer = cluster.server.register(&host).await?;
        assert_eq!(answer.target_ips, cluster.addresses(), "registered by {host}");
        assert!(answer.keyspaces.contains(&"single".to_owned()), "{:?}", answer.keyspaces);
        ids.insert(answer.cluster_id);
    }
    assert_eq!(ids.len(), 1, "one cluster, whoever was asked: {ids:?}");
    Ok(ids.pop_first().expect("there is one"))
}

async fn requests_that_cannot_be_met_are_refused_by_name(cluster: &Cluster, id: &str) -> Result<(), Failure> {
    let first = cluster.addresses().remove(0);
    let stranger = "198.18.0.250".to_owned();
    let cases = [
        (vec![first.clone(), stranger.clone()], "not in the ring", &stranger),
        (vec![first.clone(), first.clone()], "more than once", &first),
    ];
    for (targets, reason, named) in cases {
        let refused =
            cluster.server.begin_backup(id, &targets).await.expect_err("it cannot be met").to_string();
        assert!(refused.contains(reason) && refused.contains(named), "{targets:?}: {refused}");
    }
    Ok(())
}

/// Frozen, as a machine that hangs: nothing has to be started again.
async fn a_node_that_is_down_is_named(cluster: &mut Cluster, id: &str) -> Result<(), Failure> {
    cluster.nodes[2].cassandra.freeze();
    cluster.misses(2).await?;
    let [first, second, down] = &cluster.addresses()[..] else { panic!("three nodes") };

    let refused = cluster.server.register(first).await.expect_err("the ring is not settled").to_string();
    assert!(refused.contains("unreachable") && refused.contains(down), "{refused}");
    let refused = cluster.server.begin_backup(id, &[]).await.expect_err("a node is down").to_string();
    assert!(refused.contains("not alive") && refused.contains(down), "{refused}");
    assert!(!refused.contains(second), "the others are not named: {refused}");

    // What runs can be backed up: one target alone, and a restore of another one has nothing to take.
    let targets = [first.clone()];
    let answer = cluster.server.begin_backup(id, &targets).await?;
    assert_eq!(answer.target_ips, targets);
    assert_completed("one target", &cluster.server.backup_outcomes(&answer.snapshot_id).await?, &targets);
    let refused = cluster.server.begin_restore(id, &answer.snapshot_id, std::slice::from_ref(second)).await;
    let refused = refused.expect_err("it is not in this backup").to_string();
    assert!(refused.contains("not part of the backup") && refused.contains(second), "{refused}");

    cluster.nodes[2].cassandra.thaw();
    cluster.settled().await
}

/// The cluster with somebody who writes.
struct Scene {
    cluster: Cluster,
    id: String,
    rows: Fingerprints,
    writer: Writer,
}

impl Scene {
    /// A backup of all nodes under writes, and what was acknowledged before it began.
    async fn backup(&mut self) -> Result<(Kept, Acknowledged), Failure> {
        self.writer.writes().await?;
        let before = self.writer.acknowledged();
        let kept = back_up(&mut self.cluster, &self.id).await?;
        self.writer.writes().await?;
        Ok((kept, before))
    }

    /// With one replica the lost node's rows can come from the backup alone.
    async fn one_lost_node_comes_back_while_the_others_write(&mut self) -> Result<(), Failure> {
        let (Kept { snapshot, files }, before) = self.backup().await?;
        let lost = self.cluster.nodes[1].address();
        let host_id = self.host_id(1).await?;
        self.cluster.nodes[1].cassandra.kill();
        self.cluster.nodes[1].cassandra.wipe()?;
        self.cluster.misses(1).await?;
        self.writer.writes().await?;

        let targets = [lost.clone()];
        self.cluster.server.begin_restore(&self.id, &snapshot, &targets).await?;
        assert_completed("one node", &self.cluster.server.restore_outcomes(&snapshot).await?, &targets);
        files_are_back(&self.cluster.nodes[1], &files)?;
        self.cluster.start_nodes().await?;
        assert_eq!(self.host_id(1).await?, host_id, "it is the same node");
        self.writer.writes().await?;
        self.is_back(&before).await?;
        self.writer.forget();
        Ok(())
    }

    async fn a_lost_cluster_comes_back(&mut self) -> Result<(), Failure> {
        let (Kept { snapshot, files }, before) = self.backup().await?;
        for node in &mut self.cluster.nodes {
            node.cassandra.kill();
            node.cassandra.wipe()?;
        }
        self.cluster.server.begin_restore(&self.id, &snapshot, &[]).await?;
        let outcomes = self.cluster.server.restore_outcomes(&snapshot).await?;
        assert_completed("all nodes", &outcomes, &self.cluster.addresses());
        for node in &self.cluster.nodes {
            files_are_back(node, &files)?;
        }
        self.cluster.start_nodes().await?;
        self.is_back(&before).await
    }

    /// Every cell of the rows that nobody touches, and every row that was acknowledged before the backup began.
    async fn is_back(&mut self, before: &Acknowledged) -> Result<(), Failure> {
        let cql = self.cluster.cql(Consistency::All).await?;
        let found = cql.rows("SELECT id FROM triple.customers WHERE city = 'Lyon'").await?.len();
        let rows = fingerprints(&cql).await?;
        assert_eq!(dataset::differences(&self.rows, &rows), Vec::<String>::new());
        let expected = rows["triple.customers"].iter().filter(|row| row.contains("Lyon")).count();
        assert_eq!(found, expected, "what the index finds");
        assert_eq!(missing(&cql, before).await?, Vec::<String>::new());
        Ok(())
    }

    async fn host_id(&self, node: usize) -> Result<String, Failure> {
        host_id(&self.cluster, node).await
    }
}

async fn a_node_that_was_added_is_named(cluster: &mut Cluster, id: &str) -> Result<(), Failure> {
    cluster.add_node().await?;
    let added = cluster.nodes[3].address();
    backup_says(cluster, id, &["added since the cluster was registered", &added]).await?;
    assert_eq!(cluster.server.register(&added).await?.cluster_id, id);
    backup_says(cluster, id, &[]).await
}

/// A backup of all nodes of the moment; what its answer says of the ring.
async fn backup_says(cluster: &Cluster, id: &str, words: &[&str]) -> Result<(), Failure> {
    let answer = cluster.server.begin_backup(id, &[]).await?;
    assert_eq!(answer.target_ips, cluster.addresses());
    assert!(words.iter().all(|word| answer.message.contains(word)), "{words:?}: {}", answer.message);
    assert_eq!(answer.message.is_empty(), words.is_empty(), "{}", answer.message);
    let outcomes = cluster.server.backup_outcomes(&answer.snapshot_id).await?;
    assert_completed("all of the moment", &outcomes, &cluster.addresses());
    Ok(())
}

async fn host_id(cluster: &Cluster, node: usize) -> Result<String, Failure> {
    let mut session = cluster.nodes[node].cassandra.jmx().await?;
    session.local_host_id().await.map(|id| id.to_string()).map_err(|error| Failure::new(error.to_string()))
}
