//! Every stage performed twice, cut short, cancelled and timed out, before and after it has had its effect: one
//! final state, nothing left behind, and the next backup succeeds.

use std::sync::Arc;
use std::time::Duration;

use crate::world::{Action, BEAT, Ring, Server, backup, restore};
use cassy_control::job::BackupStage;
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{HistorySelector, NodeEntry, Operations, Status};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than every limit of a stage together with its tries.
const BEYOND_EVERY_LIMIT: Duration = Duration::from_secs(1000);
/// Between two tries of a stage.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The steps of the fake node and of the store in which a stage of a backup can be held.
fn steps_of(stage: BackupStage) -> &'static [&'static str] {
    match stage {
        BackupStage::Prepare => &["lock", "inspect", "put probe", "check_store"],
        BackupStage::List => &["list_superseded"],
        BackupStage::Flush => &["flush"],
        BackupStage::Snapshot => &["take_snapshot", "check_snapshot"],
        BackupStage::Pin => &["put pin"],
        BackupStage::Upload => &["upload"],
        BackupStage::Commit => &["put backup"],
        BackupStage::Clear => &["clear_superseded", "delete superseded", "sweep_snapshots", "clear_snapshot"],
        BackupStage::Unpin => &["delete probe", "delete pin"],
        BackupStage::Finished => &[],
    }
}

/// Every step of every stage, before its effect and after it.
fn instants() -> impl Iterator<Item = (BackupStage, String)> {
    BackupStage::ALL.into_iter().flat_map(|stage| {
        let steps = steps_of(stage).iter();
        steps.flat_map(move |step| [(stage, (*step).to_owned()), (stage, format!("after {step}"))])
    })
}

/// A server with a cluster that has been backed up once, so that there is a parent to pin.
struct Scene {
    directory: TempDir,
    ring: Arc<Ring>,
    server: Server,
    cluster: String,
    /// The backup that is the parent of the others.
    first: String,
}

impl Scene {
    async fn set() -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        let first = server.service.take_backup(backup(&cluster)).await.unwrap().snapshot_id;
        server.idle().await;
        Self { directory, ring, server, cluster, first }
    }

    /// Asks for a backup and waits until it hangs in this step.
    async fn backup_held_in(&self, step: &str) -> JoinHandle<bool> {
        self.ring.on(step, Action::Hang);
        let (service, request) = (Arc::clone(&self.server.service), backup(&self.cluster));
        let asked = tokio::spawn(async move { service.take_backup(request).await.is_ok() });
        let reached = timeout(Duration::from_secs(30), self.ring.reached.notified()).await;
        assert!(reached.is_ok(), "{step} is not reached: {:?}", self.ring.log.lock().unwrap());
        asked
    }

    /// The history of all backups but the first.
    async fn rows(&self) -> Vec<NodeEntry> {
        let mut rows = self.server.service.list_backups(HistorySelector::default()).await.unwrap();
        rows.retain(|row| row.snapshot_id != self.first);
        rows
    }

    /// While a step hangs nothing but timers moves, so the clock may jump over the limit of this try; else only over
    /// the pause before the next try, which is shorter than any limit.
    async fn jump_to_the_end(&self) {
        let mut hangs = true;
        while !self.server.catalog.unfinished_jobs().await.unwrap().is_empty() {
            tokio::time::pause();
            tokio::time::advance(if hangs { BEYOND_EVERY_LIMIT } else { LONGEST_PAUSE }).await;
            tokio::time::resume();
            hangs = timeout(Duration::from_millis(100), self.ring.reached.notified()).await.is_ok();
        }
    }

    /// The job has ended with this state, or was refused; the next backup succeeds, and nothing is left.
    async fn check_end(&self, allowed: &[Option<Status>], what: &str) {
        self.server.idle().await;
        self.ring.heal();
        let rows = self.rows().await;
        assert!(rows.len() <= 1, "{what}: one row a job: {rows:?}");
        assert!(allowed.contains(&rows.first().map(|row| row.status)), "{what}: {rows:?}");
        let next = self.server.service.take_backup(backup(&self.cluster)).await.unwrap().snapshot_id;
        self.server.idle().await;
        let rows = self.rows().await;
        let row = rows.iter().find(|row| row.snapshot_id == next).expect("the next backup has a row");
        assert_eq!(row.status, Status::Completed, "the next one after {what}: {}", row.message);
        assert!(self.ring.snapshots.lock().unwrap().is_empty(), "{what}: every tag is cleared");
        let odd: Vec<_> = crate::world::files(&self.directory.path().join("store"))
            .into_iter()
            .filter(|path| !["/manifest/", "/backup/"].iter().any(|kept| path.contains(kept)))
            .collect();
        assert_eq!(odd, Vec::<String>::new(), "{what}: neither pin nor probe is left");
    }
}

#[tokio::test]
async fn a_stage_performed_twice_ends_as_one_performed_once() {
    let mut seen = 0;
    for (stage, step) in instants() {
        let mut scene = Scene::set().await;
        let asked = scene.backup_held_in(&step).await;
        scene.server.service.shut_down().await;
        drop(asked.await);
        scene.ring.heal();
        scene.server = Server::start(scene.directory.path(), &scene.ring).await;
        scene.check_end(&[Some(Status::Completed)], &format!("{stage:?}, {step}")).await;
        seen += 1;
    }
    assert_eq!(seen, 2 * BackupStage::ALL.into_iter().map(|stage| steps_of(stage).len()).sum::<usize>());
}

#[tokio::test]
async fn a_stage_that_is_cancelled_is_tried_again_or_fails_cleanly() {
    for (stage, step) in instants() {
        let scene = Scene::set().await;
        scene.ring.once(&step, Action::Fail(NodeErrorKind::Transient));
        // A refusal is an answer, too: what is allowed is said by the history.
        drop(scene.server.service.take_backup(backup(&scene.cluster)).await);
        let allowed: &[Option<Status>] = match stage {
            BackupStage::Prepare | BackupStage::Pin => &[None, Some(Status::Completed)],
            BackupStage::Flush | BackupStage::Snapshot => &[Some(Status::Failed)],
            _ => &[Some(Status::Completed)],
        };
        scene.check_end(allowed, &format!("{stage:?}, {step}")).await;
        assert!(scene.ring.fired(&step), "{step}");
    }
}

#[tokio::test]
async fn a_stage_that_never_ends_is_ended() {
    for (stage, step) in instants() {
        let scene = Scene::set().await;
        let asked = scene.backup_held_in(&step).await;
        scene.jump_to_the_end().await;
        let allowed: &[Option<Status>] = match stage {
            BackupStage::Prepare | BackupStage::Pin => &[None, Some(Status::Completed)],
            // The node's own manifest is durable by then.
            BackupStage::Clear | BackupStage::Commit | BackupStage::Unpin => &[Some(Status::Completed)],
            _ => &[Some(Status::Failed)],
        };
        drop(asked.await);
        scene.check_end(allowed, &format!("{stage:?}, {step}")).await;
    }
}

/// A cold disk, or very many SSTables: longer than any call to Cassandra may take, and never silent for long.
#[tokio::test]
async fn a_look_at_the_snapshot_takes_as_long_as_its_agent_says_that_it_goes_on() {
    let scene = Scene::set().await;
    scene.ring.once("check_snapshot", Action::Beat(4));
    let (service, request) = (Arc::clone(&scene.server.service), backup(&scene.cluster));
    let asked = tokio::spawn(async move { service.take_backup(request).await });
    for _ in 0..4 {
        timeout(Duration::from_secs(30), scene.ring.reached.notified()).await.expect("it goes on");
        tokio::time::pause();
        tokio::time::advance(BEAT).await;
        tokio::time::resume();
    }
    asked.await.unwrap().unwrap();
    scene.check_end(&[Some(Status::Completed)], "a slow look at the snapshot").await;
}

/// Whether the request is accepted by then, and the step.
const RESTORE_STEPS: [(bool, &str); 5] = [
    (false, "plan_restore"),
    (false, "after plan_restore"),
    (false, "lock"),
    (true, "restore"),
    (true, "after restore"),
];

impl Scene {
    fn ask_for_a_restore(&self) -> JoinHandle<bool> {
        let (service, request) = (Arc::clone(&self.server.service), restore(&self.cluster, &self.first));
        tokio::spawn(async move { service.restore_backup(request).await.is_ok() })
    }

    async fn restore_held_in(&self, step: &str) -> JoinHandle<bool> {
        self.ring.on(step, Action::Hang);
        let asked = self.ask_for_a_restore();
        timeout(Duration::from_secs(30), self.ring.reached.notified()).await.expect("the step is reached");
        asked
    }

    /// The history of restores has this state once, or nothing; the next restore succeeds.
    async fn check_restored(&self, expected: Option<Status>, step: &str) {
        self.server.idle().await;
        self.ring.heal();
        let rows = self.server.service.list_restores(HistorySelector::default()).await.unwrap();
        let states: Vec<_> = rows.iter().map(|row| row.status).collect();
        assert_eq!(states, Vec::from_iter(expected), "{step}: {rows:?}");
        assert!(self.ask_for_a_restore().await.unwrap(), "the next one after {step}");
        self.server.idle().await;
    }
}

#[tokio::test]
async fn a_restores_stage_performed_twice_ends_as_one_performed_once() {
    for (accepted, step) in RESTORE_STEPS {
        let mut scene = Scene::set().await;
        let asked = scene.restore_held_in(step).await;
        scene.server.service.shut_down().await;
        assert!(accepted || !asked.await.unwrap_or(false), "{step}: nobody heard that it was accepted");
        scene.ring.heal();
        scene.server = Server::start(scene.directory.path(), &scene.ring).await;
        scene.check_restored(accepted.then_some(Status::Completed), step).await;
    }
}

#[tokio::test]
async fn a_restores_stage_that_is_cancelled_is_refused_or_tried_again() {
    for (accepted, step) in RESTORE_STEPS {
        let scene = Scene::set().await;
        scene.ring.once(step, Action::Fail(NodeErrorKind::Transient));
        assert_eq!(scene.ask_for_a_restore().await.unwrap(), accepted, "{step}");
        scene.check_restored(accepted.then_some(Status::Completed), step).await;
        assert!(scene.ring.fired(step), "{step}");
    }
}

#[tokio::test]
async fn a_restores_stage_that_never_ends_is_ended() {
    for (accepted, step) in RESTORE_STEPS {
        let scene = Scene::set().await;
        let asked = scene.restore_held_in(step).await;
        scene.jump_to_the_end().await;
        assert_eq!(asked.await.unwrap(), accepted, "{step}");
        scene.check_restored(accepted.then_some(Status::Failed), step).await;
    }
}
