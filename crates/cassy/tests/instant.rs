//! Three real nodes under an application that never stands still: each cluster-wide backup, restored, is of one instant,
//! to the write; a backup that the pause was not held for is not; and whoever dies in a pause, everybody goes on.

use std::time::Duration;

use cassy_api::proto::{BackupRequest, OperationStatus, RestoreRequest};
use cassy_testkit::{Cluster, Doing, Failure, Feature, Probe, ProcessId, wait_for};

use crate::clusters::{Accounts, Applications, Bank, accounts, assert_completed, freeze, frozen, is_whole};

/// Restored, each.
const BACKUPS: usize = 2;
const BACKUPS_AT_LENGTH: usize = 8;
/// The longest pause that the server is told.
const LONGEST: Duration = Duration::from_secs(10);
/// An instance that answers its Pause so late.
const LATE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_cluster_wide_backup_is_of_one_instant() -> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let mut over = Applications::start().await?;
    let builder = builder.property("max_pause_ms", LONGEST.as_millis().to_string());
    let mut cluster = over.under(builder).start().await?;
    for _ in 0..2 {
        over.listen(&cluster).await?;
    }
    let id = cluster.server.register(&cluster.addresses()[0]).await?.cluster_id;
    let bank = Bank::open(&mut cluster, &over.instances).await?;
    let mut scene = Scene { cluster, id, over, bank };

    let mut kept = Vec::new();
    let at_length = std::env::var_os("CASSY_TEST_ALL").is_some();
    for _ in 0..if at_length { BACKUPS_AT_LENGTH } else { BACKUPS } {
        kept.push(scene.cluster_wide().await?);
    }
    let torn = scene.without_a_pause().await?;
    scene.whoever_dies_everybody_goes_on().await?;
    kept.push(scene.cluster_wide().await?);
    assert!(scene.over.all_go_on());

    let Scene { mut cluster, id, bank, .. } = scene;
    bank.close().await?;
    for (snapshot, expected) in kept {
        assert!(is_whole(&expected), "{expected:?}");
        restore(&mut cluster, &id, &snapshot, 1).await?;
        assert_eq!(accounts(&mut cluster).await?, expected, "each balance and its WRITETIME");
    }
    restore(&mut cluster, &id, &torn, 2).await?;
    assert!(!is_whole(&accounts(&mut cluster).await?), "nodes by themselves are not of one instant");
    Ok(())
}

struct Scene {
    cluster: Cluster,
    id: String,
    over: Applications,
    bank: Bank,
}

impl Scene {
    /// The snapshot, and what the accounts held at its instant.
    async fn cluster_wide(&mut self) -> Result<(String, Accounts), Failure> {
        self.bank.is_busy().await?;
        let snapshot = freeze(&self.cluster, &self.id).await.doing(|| "a cluster-wide backup")?.snapshot_id;
        let outcomes = self.cluster.server.backup_outcomes(&snapshot).await?;
        assert_completed("the cluster-wide backup", &outcomes, &self.cluster.addresses());
        let rows = frozen(&self.cluster, &self.id).await?;
        let row = rows.iter().find(|row| row.snapshot_id == snapshot).expect("it is in the list");
        assert!(!row.message.contains("guards on"), "two nodes guard, too: {}", row.message);
        let pause = row.pause.as_ref().expect("it says how long");
        let told: Vec<_> = pause.undelivered.iter().map(|node| node.hint_files.is_some()).collect();
        let tells = self.cluster.version().has(Feature::PendingHints);
        assert_eq!(told, [tells], "the node says which hints wait: {pause:?}");
        let answered = pause.instances.iter().map(|instance| instance.paused_after_ms).max();
        let instant = pause.started_at + answered.expect("all were paused") + 1;
        assert!(instant < pause.ended_at, "{pause:?}");
        eprintln!(
            "paused for {} ms, slowest snapshot {} ms",
            pause.ended_at - pause.started_at,
            pause.slowest_snapshot_ms
        );
        Ok((snapshot, self.bank.accounts_at(instant)))
    }

    /// One instance says that it is paused, and is not: nothing that is called consistent comes of it.
    async fn without_a_pause(&mut self) -> Result<String, Failure> {
        for instance in &self.over.instances {
            instance.behave(|behaviour| behaviour.leaves_gate_open = true);
        }
        self.bank.is_busy().await?;
        let refused = freeze(&self.cluster, &self.id).await.expect_err("nobody is paused");
        assert!(refused.message().contains("not paused"), "{refused:?}");
        for instance in &self.over.instances {
            instance.behave(|behaviour| behaviour.leaves_gate_open = false);
        }
        let snapshot = self.cluster.server.begin_backup(&self.id, &[]).await?.snapshot_id;
        let outcomes = self.cluster.server.backup_outcomes(&snapshot).await?;
        assert_completed("the backup of nodes", &outcomes, &self.cluster.addresses());
        Ok(snapshot)
    }

    /// One instance is paused and the other is late with it when the server dies, alone and with the guard beside it; and
    /// when the server stands still. Nodes have let everybody go on before the server is back.
    async fn whoever_dies_everybody_goes_on(&mut self) -> Result<(), Failure> {
        for guard_too in [false, true] {
            let asked = self.is_caught_in_a_pause().await?;
            let guards = guards(self.cluster.server.process().descendants());
            assert_eq!(guards.len(), 1, "one beside the server");
            if guard_too {
                guards.iter().for_each(|guard| guard.kill());
            }
            self.cluster.server.kill();
            self.everybody_goes_on().await?;
            asked.await.doing(|| "wait for the caller")?.expect_err("the server was killed");
            self.cluster.server.start_again().await?;
            self.ends(OperationStatus::Completed).await?;
        }
        let asked = self.is_caught_in_a_pause().await?;
        self.cluster.server.freeze();
        self.everybody_goes_on().await?;
        self.cluster.server.thaw();
        asked.await.doing(|| "wait for the caller")?.expect_err("the pause was over before the snapshots");
        self.ends(OperationStatus::Failed).await
    }

    /// The first instance is paused, the second has been asked.
    async fn is_caught_in_a_pause(
        &mut self,
    ) -> Result<tokio::task::JoinHandle<Result<(), tonic::Status>>, Failure> {
        let [first, late] = &self.over.instances[..] else { panic!("two instances") };
        late.behave(|behaviour| behaviour.pauses_after = LATE);
        self.bank.is_busy().await?;
        let (mut client, before) = (self.cluster.server.client()?, late.calls().pause);
        let request =
            BackupRequest { cluster_id: self.id.clone(), backup_type: 1, ..BackupRequest::default() };
        let asked = tokio::spawn(async move { client.take_backup(request).await.map(drop) });
        wait_for("the pause has begun", LIMIT, async || match (first.is_paused(), late.calls().pause) {
            (true, asked) if asked > before => Probe::Ready(()),
            seen => Probe::NotYet(format!("{seen:?}")),
        })
        .await?;
        Ok(asked)
    }

    /// Also the one that closes its gate after whoever asked for it has died.
    async fn everybody_goes_on(&mut self) -> Result<(), Failure> {
        let late = &self.over.instances[1];
        let before = late.calls().closed;
        wait_for("the late one has closed its gate", LIMIT, async || match late.calls().closed {
            closed if closed > before => Probe::Ready(()),
            closed => Probe::NotYet(format!("{closed} times")),
        })
        .await?;
        wait_for("everybody goes on", LONGEST, async || match self.over.all_go_on() {
            true => Probe::Ready(()),
            false => Probe::NotYet("somebody is paused".to_owned()),
        })
        .await?;
        late.behave(|behaviour| behaviour.pauses_after = Duration::ZERO);
        self.bank.is_busy().await
    }

    /// The newest backup.
    async fn ends(&self, expected: OperationStatus) -> Result<(), Failure> {
        let rows = frozen(&self.cluster, &self.id).await?;
        let snapshot = rows.first().expect("it is in the list").snapshot_id.clone();
        let outcomes = self.cluster.server.backup_outcomes(&snapshot).await?;
        assert!(
            outcomes.len() == 3 && outcomes.values().all(|(status, _)| *status == expected),
            "{outcomes:?}"
        );
        Ok(())
    }
}

fn guards(processes: Vec<ProcessId>) -> Vec<ProcessId> {
    let is_guard = |process: &ProcessId| process.arguments().get(1).is_some_and(|word| word == "guard");
    processes.into_iter().filter(is_guard).collect()
}

/// Loses all nodes, and brings them back from the snapshot.
async fn restore(cluster: &mut Cluster, id: &str, snapshot: &str, restore_type: u32) -> Result<(), Failure> {
    for node in &mut cluster.nodes {
        node.cassandra.kill();
        node.cassandra.wipe()?;
    }
    let request = RestoreRequest {
        cluster_id: id.to_owned(),
        snapshot_id: snapshot.to_owned(),
        restore_type,
        snapshot_only: true,
        ..RestoreRequest::default()
    };
    cluster.server.client()?.restore_backup(request).await.doing(|| "RestoreBackup")?;
    let outcomes = cluster.server.restore_outcomes(snapshot).await?;
    assert_completed("the restore", &outcomes, &cluster.addresses());
    cluster.start_nodes().await
}
