//! A cluster of two datacenters, with two nodes and one, whose parts die or are cut off in the middle of backups and
//! restores: each job ends once, at most one agent works on a node at any time, and every row comes back.
//!
//! One cluster for all scenes, in this order, as starting it is what takes the time.

use std::time::Duration;

use cassy_api::proto::OperationStatus;
use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{Cluster, Consistency, Failure, Outcomes, Probe, ProcessId, catch, wait_for};

use crate::clusters::{
    Agents, Kept, SPREAD, Watch, assert_completed, back_up, files_are_back, fingerprints, is_locked,
    manifest_exists, nothing_of_ours_is_left, thaw, write,
};

/// From the request until the node stages; a restore that has ended before anybody looked is tried again.
const TO_BE_CAUGHT: Duration = Duration::from_secs(10);
/// Of a job that is to be caught in the middle, as a busy machine may look too late.
const TRIES: usize = 10;
const LIMIT: Duration = Duration::from_secs(120);
/// The node that things happen to; the only one of its datacenter.
const VICTIM: usize = 2;

#[tokio::test]
async fn whatever_dies_each_job_ends_once_and_the_data_comes_back() -> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let mut cluster = builder.datacenters(&[2, 1]).data_directories(2).start().await?;
    let cql = cluster.cql(Consistency::All).await?;
    write(&cluster, &cql, SPREAD).await?;
    let rows = fingerprints(&cql).await?;
    let answer = cluster.server.register(&cluster.nodes[VICTIM].address()).await?;
    assert_eq!(answer.target_ips, cluster.addresses(), "both datacenters are one cluster");

    let agents: Result<Vec<_>, _> = cluster.nodes.iter().map(|node| Agents::of(&cluster, node)).collect();
    let agents = agents?;
    let watch = Watch::start(agents.clone());
    let mut session = cluster.nodes[VICTIM].cassandra.jmx().await?;
    let host_id = session.local_host_id().await.map_err(|error| Failure::new(error.to_string()))?;
    let victim = agents[VICTIM].clone();
    let mut scene = Scene { cluster, id: answer.cluster_id, rows, victim, host_id: host_id.to_string() };

    scene.an_agent_dies_in_a_backup().await?;
    scene.the_server_dies_in_a_backup().await?;
    scene.a_cassandra_dies_in_a_backup().await?;
    scene.a_node_is_cut_off_in_a_backup().await?;
    let kept = scene.good_backup().await?;
    scene.an_agent_dies_in_a_restore(&kept).await?;
    scene.the_server_dies_in_a_restore(&kept).await?;
    scene.a_node_is_cut_off_in_a_restore(&kept).await?;
    scene.comes_back().await?;
    watch.assert_one_at_a_time();
    Ok(())
}

struct Scene {
    cluster: Cluster,
    id: String,
    rows: Fingerprints,
    /// On the node that things happen to.
    victim: Agents,
    host_id: String,
}

impl Scene {
    async fn an_agent_dies_in_a_backup(&mut self) -> Result<(), Failure> {
        let (snapshot, agents) = self.caught_backup().await?;
        agents.iter().for_each(|agent| agent.kill());
        self.completes("an agent was killed in a backup", &snapshot).await
    }

    async fn the_server_dies_in_a_backup(&mut self) -> Result<(), Failure> {
        let (snapshot, agents) = self.caught_backup().await?;
        self.cluster.server.kill();
        thaw(&agents);
        self.cluster.server.start_again().await?;
        self.completes("the server was killed in a backup", &snapshot).await
    }

    /// What has been taken is sent; what is left on the node goes with the next backup.
    async fn a_cassandra_dies_in_a_backup(&mut self) -> Result<(), Failure> {
        let (snapshot, agents) = self.caught_backup().await?;
        self.cluster.nodes[VICTIM].cassandra.kill();
        thaw(&agents);
        let outcomes = self.cluster.server.backup_outcomes(&snapshot).await?;
        assert_completed("a Cassandra was killed in a backup", &outcomes, &self.cluster.addresses());
        let message = &outcomes[&self.cluster.nodes[VICTIM].address()].1;
        assert!(message.contains("left for a later backup"), "{message}");
        self.cluster.start_nodes().await?;
        self.good_backup().await.map(drop)
    }

    /// The agent hangs with the node's lock and the cable is pulled: the server gives it up. Then the node is reached
    /// again while that agent is still there; the new one waits for it, and does not work before it has ended.
    async fn a_node_is_cut_off_in_a_backup(&mut self) -> Result<(), Failure> {
        let (snapshot, hanging) = self.caught_backup().await?;
        self.partition(&hanging).await?;
        self.completes("a node was cut off in a backup", &snapshot).await?;
        self.cluster.settled().await
    }

    async fn an_agent_dies_in_a_restore(&mut self, kept: &Kept) -> Result<(), Failure> {
        let agents = self.caught_restore(kept).await?;
        agents.iter().for_each(|agent| agent.kill());
        self.is_restored("an agent was killed in a restore", kept).await
    }

    async fn the_server_dies_in_a_restore(&mut self, kept: &Kept) -> Result<(), Failure> {
        let agents = self.caught_restore(kept).await?;
        self.cluster.server.kill();
        thaw(&agents);
        self.cluster.server.start_again().await?;
        self.is_restored("the server was killed in a restore", kept).await
    }

    async fn a_node_is_cut_off_in_a_restore(&mut self, kept: &Kept) -> Result<(), Failure> {
        let hanging = self.caught_restore(kept).await?;
        self.partition(&hanging).await?;
        self.is_restored("a node was cut off in a restore", kept).await
    }

    /// The last restore is started, and every row is there.
    async fn comes_back(&mut self) -> Result<(), Failure> {
        self.cluster.start_nodes().await?;
        let cql = self.cluster.cql(Consistency::All).await?;
        assert_eq!(dataset::differences(&self.rows, &fingerprints(&cql).await?), Vec::<String>::new());
        self.good_backup().await.map(drop)
    }

    /// Pulls the cable of a node whose agents stand still, until the server has given them up; and lets them go on
    /// when another one has come.
    async fn partition(&mut self, hanging: &[ProcessId]) -> Result<(), Failure> {
        let (server, node) = (&self.cluster.server, &self.cluster.nodes[VICTIM]);
        let given_up = || {
            let log = server.log();
            let names = |line: &&str| line.contains("trying again") && line.contains(&node.address());
            log.lines().filter(names).count()
        };
        let before = given_up();
        node.cut()?;
        wait_for("the server tries again", LIMIT, async || match given_up() {
            count if count > before => Probe::Ready(()),
            count => Probe::NotYet(format!("{count} times")),
        })
        .await?;
        node.reconnect()?;
        let second = self.victim.another(hanging).await?;
        assert!(hanging.iter().all(|agent| agent.is_alive()), "the first one hangs");
        assert!(is_locked(node)?, "and holds the lock");
        assert!(!self.victim.at_work().contains(&second), "so the second one does not work");
        thaw(hanging);
        Ok(())
    }

    /// A backup of all nodes; the agents of one stand still before it has sent its part.
    async fn caught_backup(&mut self) -> Result<(String, Vec<ProcessId>), Failure> {
        for _ in 0..TRIES {
            let answer = self.cluster.server.begin_backup(&self.id, &[]).await?;
            let agents = self.victim.freeze().await?;
            let is_sent = manifest_exists(&self.cluster.store(), &self.host_id, &answer.snapshot_id);
            if !is_sent && !agents.is_empty() {
                return Ok((answer.snapshot_id, agents));
            }
            thaw(&agents);
            self.cluster.server.backup_outcomes(&answer.snapshot_id).await?;
        }
        Err(Failure::new(format!("none of {TRIES} backups was caught in the middle")))
    }

    /// A restore of one node, which has lost everything; its agents stand still before it has ended.
    async fn caught_restore(&mut self, kept: &Kept) -> Result<Vec<ProcessId>, Failure> {
        for _ in 0..TRIES {
            let node = &mut self.cluster.nodes[VICTIM];
            node.cassandra.kill();
            node.cassandra.wipe()?;
            let (targets, data) = ([node.address()], node.cassandra.data_directories());
            let under_way = || data.iter().any(|directory| directory.join("node-backup").exists());
            let begun = self.cluster.server.begin_restore(&self.id, &kept.snapshot, &targets);
            let caught = async {
                let staging = async || match under_way() {
                    true => Probe::Ready(()),
                    false => Probe::NotYet("no staging directory".to_owned()),
                };
                catch("the restore stages", TO_BE_CAUGHT, staging).await?;
                self.victim.freeze().await
            };
            let (begun, caught) = tokio::join!(begun, caught);
            begun?;
            let agents = caught.unwrap_or_default();
            if under_way() && !agents.is_empty() {
                return Ok(agents);
            }
            thaw(&agents);
            self.cluster.server.restore_outcomes(&kept.snapshot).await?;
            self.victim.ended().await?;
        }
        Err(Failure::new(format!("none of {TRIES} restores was caught in the middle")))
    }

    async fn completes(&mut self, what: &str, snapshot: &str) -> Result<(), Failure> {
        let outcomes = self.cluster.server.backup_outcomes(snapshot).await?;
        assert_completed(what, &outcomes, &self.cluster.addresses());
        self.victim.ended().await?;
        nothing_of_ours_is_left(&self.cluster)
    }

    async fn is_restored(&mut self, what: &str, kept: &Kept) -> Result<(), Failure> {
        let outcomes: Outcomes = self.cluster.server.restore_outcomes(&kept.snapshot).await?;
        let (status, message) = &outcomes[&self.cluster.nodes[VICTIM].address()];
        assert_eq!(*status, OperationStatus::Completed, "{what}: {message}");
        self.victim.ended().await?;
        files_are_back(&self.cluster.nodes[VICTIM], &kept.files)
    }

    async fn good_backup(&mut self) -> Result<Kept, Failure> {
        back_up(&mut self.cluster, &self.id).await
    }
}
