//! Every stage of every kind of job cancelled, before and after it has had its effect: what was cut is told, what was
//! begun is gone, nobody stays paused, and the next job succeeds.

use std::sync::Arc;
use std::time::Duration;

use crate::world::applications::FakeApplications;
use crate::world::{Action, NODE, Ring, Rings, Server, backup, restore};
use cassy_control::job::BackupStage;
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{
    BackupRequest, BackupType, CancelAnswer, HistorySelector, JobSelector, NodeEntry, OperationError,
    OperationErrorKind, Operations, RestoreRequest, Status,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const NODES: [&str; 2] = [NODE, "127.0.0.2"];
const LIMIT: Duration = Duration::from_secs(60);

/// The steps in which a stage can be held.
fn steps_of(stage: BackupStage, backup_type: BackupType) -> &'static [&'static str] {
    let is_increment = backup_type == BackupType::Incremental;
    match stage {
        BackupStage::Prepare => &["lock", "inspect", "put probe", "check_store"],
        BackupStage::Pin => &["put pin"],
        BackupStage::List if is_increment => &[],
        BackupStage::List => &["list_superseded"],
        BackupStage::Flush => &["flush"],
        BackupStage::Snapshot => &["take_snapshot", "check_snapshot"],
        BackupStage::Upload => &["upload"],
        BackupStage::Clear if is_increment => &["clear_included", "sweep_snapshots", "clear_snapshot"],
        BackupStage::Clear => &["clear_superseded", "delete superseded", "sweep_snapshots", "clear_snapshot"],
        BackupStage::Commit => &["put backup"],
        BackupStage::Unpin => &["delete probe", "delete pin"],
        BackupStage::Finished => &[],
    }
}

/// What is waited for: it finishes, or its effect would come after the clearing.
fn is_waited_for(stage: BackupStage, step: &str, backup_type: BackupType) -> bool {
    let is_freeze = backup_type == BackupType::Cluster && stage == BackupStage::Snapshot;
    let is_cut = step == "check_snapshot" || is_freeze && step.ends_with("check_snapshot");
    let takes_snapshot = stage == BackupStage::Snapshot && !is_cut;
    takes_snapshot || stage >= BackupStage::Clear || step == "after upload"
}

/// Two nodes under one application, backed up once.
struct Scene {
    directory: TempDir,
    rings: Rings,
    applications: FakeApplications,
    server: Server,
    cluster: String,
    first: String,
}

type Cancelling = JoinHandle<Result<CancelAnswer, OperationError>>;

impl Scene {
    async fn set() -> Self {
        let (directory, rings) = (tempfile::tempdir().unwrap(), Rings::of(&NODES));
        let applications = FakeApplications::of(1);
        let server = Server::start_over(directory.path(), &rings, &applications).await;
        let cluster = server.register().await;
        let first = server.service.take_backup(backup(&cluster)).await.unwrap().snapshot_id;
        server.idle().await;
        Self { directory, rings, applications, server, cluster, first }
    }

    /// The node that is held; the steps of the store are its, too.
    fn held(&self) -> &Arc<Ring> {
        &self.rings.0[NODES[1]]
    }

    fn backup(&self, backup_type: BackupType) -> BackupRequest {
        let snapshot_id = (backup_type == BackupType::Incremental).then(|| self.first.clone());
        BackupRequest { backup_type, snapshot_id, ..backup(&self.cluster) }
    }

    async fn reached(&self, step: &str) {
        let reached = timeout(LIMIT, self.held().reached.notified()).await;
        assert!(reached.is_ok(), "{step} is not reached: {:?}", self.held().log.lock().unwrap());
    }

    /// The id of the job, once it hangs in this step.
    async fn backup_held_in(&self, step: &str, backup_type: BackupType) -> String {
        self.held().once(step, Action::Hang);
        let (service, request) = (Arc::clone(&self.server.service), self.backup(backup_type));
        tokio::spawn(async move { service.take_backup(request).await });
        self.reached(step).await;
        self.only_job().await
    }

    async fn restore_held_in(&self, step: &str) -> String {
        self.held().once(step, Action::Hang);
        let (service, request) = (Arc::clone(&self.server.service), restore(&self.cluster, &self.first));
        tokio::spawn(async move { service.restore_backup(request).await });
        self.reached(step).await;
        self.only_job().await
    }

    async fn only_job(&self) -> String {
        let jobs = self.server.catalog.unfinished_jobs().await.unwrap();
        assert_eq!(jobs.len(), 1);
        jobs.into_iter().next().unwrap().job_id
    }

    fn cancel(&self, job_id: &str) -> Cancelling {
        let (service, selector) = (Arc::clone(&self.server.service), JobSelector::Job(job_id.to_owned()));
        tokio::spawn(async move { service.cancel_job(selector).await })
    }

    /// Waits until it is stored that the job is cancelled.
    async fn told(&self, job_id: &str) {
        let told = async {
            let is_told = |job: cassy_catalog::Job| job.state_json.contains("\"cancelled\":{");
            while !self.server.catalog.job(job_id).await.unwrap().is_some_and(is_told) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LIMIT, told).await.expect("it is stored that the job is cancelled");
    }

    async fn restart(&mut self) {
        self.server.service.shut_down().await;
        self.rings.0.values().for_each(|ring| ring.heal());
        self.server = Server::start_over(self.directory.path(), &self.rings, &self.applications).await;
    }

    async fn rows_of(&self, job_id: &str) -> Vec<NodeEntry> {
        let service = &self.server.service;
        let mut rows = service.list_backups(HistorySelector::default()).await.unwrap();
        rows.extend(service.list_restores(HistorySelector::default()).await.unwrap());
        rows.retain(|row| row.job_id.as_deref() == Some(job_id));
        rows.sort_by(|one, other| one.target_ip.cmp(&other.target_ip));
        rows
    }

    /// The answer is what the history says, and comes again.
    async fn check_answer(&self, answer: &CancelAnswer, what: &str) {
        let rows = self.rows_of(&answer.job_id).await;
        let told: Vec<_> = rows.iter().map(|row| (&row.target_ip, row.status, &row.message)).collect();
        let nodes: Vec<_> = answer.nodes.iter().map(|n| (&n.target_ip, n.status, &n.message)).collect();
        assert_eq!(told, nodes, "{what}");
        assert_eq!(nodes.len(), 2, "{what}");
        assert!(answer.message.starts_with("cancelled while "), "{what}: {}", answer.message);
        let again = self.cancel(&answer.job_id).await.unwrap();
        assert_eq!(again.as_ref(), Ok(answer), "{what}: twice");
    }

    /// Neither tags nor pins nor agents nor pauses; and the next one succeeds.
    async fn check_nothing_is_left(&self, backup_type: BackupType, what: &str) {
        self.server.idle().await;
        assert!(self.applications.lock().paused.is_empty(), "{what}: somebody is paused");
        assert!(self.server.catalog.open_pause_intents().await.unwrap().is_empty(), "{what}");
        for (address, ring) in &self.rings.0 {
            ring.no_agents().await;
            assert!(ring.snapshots.lock().unwrap().is_empty(), "{what}: a tag is left on {address}");
            ring.heal();
        }
        let odd: Vec<_> = crate::world::files(&self.directory.path().join("store"))
            .into_iter()
            .filter(|path| !["/manifest/", "/backup/"].iter().any(|kept| path.contains(kept)))
            .collect();
        assert_eq!(odd, Vec::<String>::new(), "{what}: neither pin nor probe is left");
        let next = self.server.service.take_backup(self.backup(backup_type)).await;
        let next = next.unwrap_or_else(|error| panic!("the next one after {what}: {error}"));
        self.server.idle().await;
        let rows = self.rows_of(&next.job_id).await;
        assert!(
            rows.len() == 2 && rows.iter().all(|row| row.status == Status::Completed),
            "{what}: {rows:?}"
        );
    }
}

async fn check_backups(backup_type: BackupType) {
    let mut seen = 0;
    for stage in BackupStage::ALL {
        let steps = steps_of(stage, backup_type).iter();
        for step in steps.flat_map(|step| [(*step).to_owned(), format!("after {step}")]) {
            let what = format!("{backup_type:?}, {stage:?}, {step}");
            let scene = Scene::set().await;
            let job_id = scene.backup_held_in(&step, backup_type).await;
            let cancelling = scene.cancel(&job_id);
            scene.told(&job_id).await;
            if is_waited_for(stage, &step, backup_type) {
                assert!(!cancelling.is_finished(), "{what}");
                scene.held().wake();
            }
            let answer = timeout(LIMIT, cancelling).await.expect(&what).unwrap().expect(&what);
            check_outcome(backup_type, stage, &step, &answer, &what);
            scene.check_answer(&answer, &what).await;
            scene.check_nothing_is_left(backup_type, &what).await;
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

fn check_outcome(backup_type: BackupType, stage: BackupStage, step: &str, answer: &CancelAnswer, what: &str) {
    let held = &answer.nodes[1];
    let is_cut = stage < BackupStage::Upload || step == "upload";
    if backup_type == BackupType::Cluster {
        assert_eq!(answer.nodes[0].status, held.status, "{what}: all or none: {answer:?}");
    }
    if is_cut {
        assert_eq!((answer.status, held.status), (Status::Failed, Status::Failed), "{what}: {answer:?}");
        let expected = format!("cancelled while {}: ", stage.name());
        assert!(held.message.starts_with(&expected), "{what}: {}", held.message);
        assert!(held.message.contains(" of 2 nodes had finished"), "{what}: {}", held.message);
    } else if stage > BackupStage::Upload || backup_type != BackupType::Cluster {
        assert_eq!(held.status, Status::Completed, "{what}: {answer:?}");
    }
    if answer.status == Status::Completed {
        assert!(answer.message.ends_with("; nothing was left to be cut"), "{what}: {}", answer.message);
    }
}

#[tokio::test]
async fn a_backup_of_single_nodes_is_cancelled_in_every_stage() {
    check_backups(BackupType::Node).await;
}

#[tokio::test]
async fn an_increment_is_cancelled_in_every_stage() {
    check_backups(BackupType::Incremental).await;
}

#[tokio::test]
async fn a_backup_of_the_whole_cluster_is_cancelled_in_every_stage() {
    check_backups(BackupType::Cluster).await;
}

#[tokio::test]
async fn who_is_paused_goes_on_before_the_snapshots_have_ended() {
    let scene = Scene::set().await;
    let job_id = scene.backup_held_in("take_snapshot", BackupType::Cluster).await;
    assert_eq!(scene.applications.lock().paused.len(), 1);
    let cancelling = scene.cancel(&job_id);
    let awake = async {
        while !scene.applications.lock().paused.is_empty() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(2), awake).await.expect("the applications go on at once");
    assert!(!cancelling.is_finished(), "the snapshot is still being taken");
    scene.held().wake();
    let answer = cancelling.await.unwrap().unwrap();
    assert_eq!(answer.status, Status::Failed);
    scene.check_nothing_is_left(BackupType::Cluster, "a freeze").await;
}

#[tokio::test]
async fn before_the_pause_nobody_is_paused() {
    let scene = Scene::set().await;
    let job_id = scene.backup_held_in("client_activity", BackupType::Cluster).await;
    let answer = scene.cancel(&job_id).await.unwrap().unwrap();
    assert_eq!(answer.status, Status::Failed);
    assert!(!scene.applications.lock().log.contains(&"pause".to_owned()));
    scene.check_nothing_is_left(BackupType::Cluster, "before the pause").await;
}

#[tokio::test]
async fn a_cancelled_job_ends_as_cancelled_after_a_restart() {
    let cases = [
        ("take_snapshot", "after take_snapshot"),
        ("flush", "sweep_snapshots"),
        ("upload", "sweep_snapshots"),
    ];
    for backup_type in [BackupType::Node, BackupType::Incremental, BackupType::Cluster] {
        for (step, then) in cases {
            let what = format!("{backup_type:?}, {step}");
            let mut scene = Scene::set().await;
            scene.held().once(then, Action::Hang);
            let job_id = scene.backup_held_in(step, backup_type).await;
            let cancelling = scene.cancel(&job_id);
            scene.told(&job_id).await;
            if step == "take_snapshot" {
                // The others are cut, and would be done if they were woken.
                scene.held().wake();
            }
            scene.reached(then).await;
            let begun = scene.held().steps(&["inspect", "flush", "take_snapshot", "upload"]).len();
            scene.restart().await;
            assert!(cancelling.await.unwrap().is_err(), "{what}: the server was stopped");
            scene.server.idle().await;
            assert_eq!(
                scene.held().steps(&["inspect", "flush", "take_snapshot", "upload"]).len(),
                begun,
                "{what}"
            );
            let answer = scene.cancel(&job_id).await.unwrap().expect(&what);
            assert_eq!((answer.status, answer.nodes[1].status), (Status::Failed, Status::Failed), "{what}");
            assert!(answer.nodes[1].message.starts_with("cancelled while "), "{what}: {answer:?}");
            scene.check_answer(&answer, &what).await;
            scene.check_nothing_is_left(backup_type, &what).await;
        }
    }
}

/// The step, whether it is waited for, and what of the held node it comes to.
const RESTORE_STEPS: [(&str, bool, &str); 5] = [
    ("plan_restore", false, "cancelled while plan: 0 of 2 nodes had finished"),
    ("after plan_restore", false, "cancelled while plan: 0 of 2 nodes had finished"),
    ("lock", false, "cancelled while plan: 0 of 2 nodes had finished"),
    ("restore", false, "cancelled while restore: "),
    ("after restore", true, "start Cassandra"),
];

#[tokio::test]
async fn a_restore_is_cancelled_in_every_stage() {
    for (step, waits, told) in RESTORE_STEPS {
        let scene = Scene::set().await;
        let job_id = scene.restore_held_in(step).await;
        let cancelling = scene.cancel(&job_id);
        scene.told(&job_id).await;
        if waits {
            assert!(!cancelling.is_finished(), "{step}");
            scene.held().wake();
        }
        let answer = timeout(LIMIT, cancelling).await.expect(step).unwrap().expect(step);
        assert!(answer.nodes[1].message.starts_with(told), "{step}: {answer:?}");
        let undone = step == "restore";
        assert_eq!(scene.held().steps(&["undo_restore"]).len(), usize::from(undone), "{step}");
        assert_eq!(answer.nodes[1].message.ends_with("; the node is as it was before"), undone, "{answer:?}");
        scene.check_answer(&answer, step).await;
        scene.rings.0[NODES[1]].no_agents().await;
        let next = scene.server.service.restore_backup(restore(&scene.cluster, &scene.first)).await.unwrap();
        scene.server.idle().await;
        let rows = scene.rows_of(&next.job_id.unwrap()).await;
        assert!(rows.iter().all(|row| row.status == Status::Completed), "{step}: {rows:?}");
    }
}

#[tokio::test]
async fn a_restore_that_cannot_be_undone_says_so_and_one_is_undone_after_a_restart() {
    let scene = Scene::set().await;
    scene.held().on("undo_restore", Action::Fail(NodeErrorKind::Permanent));
    let job_id = scene.restore_held_in("restore").await;
    let answer = scene.cancel(&job_id).await.unwrap().unwrap();
    let told = &answer.nodes[1].message;
    assert!(told.contains("Cassandra does not start until the same restore is called again"), "{told}");

    let mut scene = Scene::set().await;
    scene.held().once("undo_restore", Action::Hang);
    let job_id = scene.restore_held_in("restore").await;
    let cancelling = scene.cancel(&job_id);
    scene.reached("undo_restore").await;
    scene.restart().await;
    assert!(cancelling.await.unwrap().is_err());
    scene.server.idle().await;
    assert_eq!(scene.held().steps(&["restore"]).len(), 1, "it does not begin anew");
    assert_eq!(scene.held().steps(&["undo_restore"]).len(), 2);
    let answer = scene.cancel(&job_id).await.unwrap().unwrap();
    assert!(answer.nodes[1].message.ends_with("; the node is as it was before"), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_change_that_the_job_is_cancelled() {
    let scene = Scene::set().await;
    let job_id = scene.backup_held_in("take_snapshot", BackupType::Node).await;
    let cancelling = scene.cancel(&job_id);
    scene.told(&job_id).await;
    cancelling.abort();
    scene.held().wake();
    scene.server.idle().await;
    let rows = scene.rows_of(&job_id).await;
    assert_eq!(rows[1].status, Status::Failed);
    assert!(rows[1].message.starts_with("cancelled while snapshot: "), "{rows:?}");
}

#[tokio::test]
async fn what_has_ended_is_named_with_its_outcome_and_what_is_unknown_is_not_found() {
    let scene = Scene::set().await;
    let ended = scene.cancel(&scene.first).await.unwrap().unwrap_err();
    assert_eq!(ended.kind, OperationErrorKind::FailedPrecondition);
    assert!(ended.message.ends_with("has ended already: COMPLETED"), "{ended}");
    scene.held().on("flush", Action::Fail(NodeErrorKind::Permanent));
    let failed = scene.server.service.take_backup(backup(&scene.cluster)).await.unwrap().job_id;
    scene.server.idle().await;
    let ended = scene.cancel(&failed).await.unwrap().unwrap_err();
    assert!(ended.message.ends_with("has ended already: FAILED"), "{ended}");
    for unknown in ["0197a5ac-0000-7000-8000-000000000000", "nonsense"] {
        assert_eq!(scene.cancel(unknown).await.unwrap().unwrap_err().kind, OperationErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_snapshot_names_its_job_when_there_is_only_one() {
    let scene = Scene::set().await;
    let by_snapshot = || scene.server.service.cancel_job(JobSelector::Snapshot(scene.first.clone()));
    assert_eq!(by_snapshot().await.unwrap_err().kind, OperationErrorKind::NotFound);
    let mut jobs = Vec::new();
    for node in NODES {
        scene.rings.0[node].once("restore", Action::Hang);
        let request =
            RestoreRequest { target_ips: vec![node.to_owned()], ..restore(&scene.cluster, &scene.first) };
        jobs.push(scene.server.service.restore_backup(request).await.unwrap().job_id.unwrap());
        scene.rings.0[node].reached.notified().await;
    }
    let several = by_snapshot().await.unwrap_err();
    assert_eq!(several.kind, OperationErrorKind::FailedPrecondition);
    assert!(jobs.iter().all(|job| several.message.contains(job)), "{several}");
    scene.cancel(&jobs[0]).await.unwrap().unwrap();
    let answer = by_snapshot().await.unwrap();
    assert_eq!(
        (answer.job_id, answer.snapshot_id, answer.status),
        (jobs[1].clone(), scene.first.clone(), Status::Failed)
    );
    scene.server.idle().await;
}
