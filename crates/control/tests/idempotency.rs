//! The same key is the same job: under way, ended, after a restart, from many at once, and from a client that hung up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::world::{Action, NODE, Ring, Server, backup, restore};
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{
    BackupAnswer, BackupRequest, BackupType, HistorySelector, OperationError, OperationErrorKind, Operations,
    RestoreRequest, RestoreType, Status,
};
use futures::future::join_all;
use sqlx::{Connection, Executor, SqliteConnection};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const KEY: &str = "nightly 2026-11-23";

struct Scene {
    directory: TempDir,
    ring: Arc<Ring>,
    server: Server,
    cluster: String,
}

impl Scene {
    async fn set() -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        Self { directory, ring, server, cluster }
    }

    fn backup(&self) -> BackupRequest {
        BackupRequest { idempotency_key: Some(KEY.to_owned()), ..backup(&self.cluster) }
    }

    fn restore(&self, snapshot_id: &str) -> RestoreRequest {
        RestoreRequest { idempotency_key: Some(KEY.to_owned()), ..restore(&self.cluster, snapshot_id) }
    }

    async fn reached(&self, step: &str) {
        let reached = timeout(Duration::from_secs(30), self.ring.reached.notified()).await;
        reached.unwrap_or_else(|_| panic!("{step} is not reached"));
    }

    async fn restart(&mut self) {
        self.server.service.shut_down().await;
        self.server = Server::start(self.directory.path(), &self.ring).await;
    }

    /// The jobs in the history.
    async fn jobs(&self) -> BTreeSet<Option<String>> {
        let service = &self.server.service;
        let backups = service.list_backups(HistorySelector::default()).await.unwrap();
        let restores = service.list_restores(HistorySelector::default()).await.unwrap();
        backups.into_iter().chain(restores).map(|row| row.job_id).collect()
    }
}

#[tokio::test]
async fn the_same_request_is_answered_by_the_same_job_under_way_ended_and_after_a_restart() {
    let mut scene = Scene::set().await;
    scene.ring.once("upload", Action::Hang);
    let first = scene.server.service.take_backup(scene.backup()).await.unwrap();
    scene.reached("upload").await;
    let under_way = scene.server.service.take_backup(scene.backup()).await.unwrap();
    assert_eq!(under_way, first);
    scene.restart().await;
    let restarted = scene.server.service.take_backup(scene.backup()).await.unwrap();
    assert_eq!(restarted.job_id, first.job_id);
    scene.server.idle().await;
    for _ in 0..2 {
        let ended = scene.server.service.take_backup(scene.backup()).await.unwrap();
        assert_eq!((ended.status, &ended.job_id), (Status::Completed, &first.job_id));
        scene.restart().await;
    }
    assert_eq!(scene.jobs().await.len(), 1);
}

#[tokio::test]
async fn the_second_call_waits_as_the_first_would_also_after_a_restart() {
    let mut scene = Scene::set().await;
    scene.ring.on("flush", Action::Hang);
    let ask = |scene: &Scene| {
        let (service, request) = (Arc::clone(&scene.server.service), scene.backup());
        tokio::spawn(async move { service.take_backup(request).await })
    };
    let first = ask(&scene);
    scene.reached("flush").await;
    scene.restart().await;
    assert!(first.await.unwrap().is_err(), "the server was stopped");
    scene.reached("flush").await;
    let second = ask(&scene);
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    scene.ring.heal();
    assert_eq!(second.await.unwrap().unwrap().status, Status::Started);
    scene.server.idle().await;
    assert_eq!(scene.jobs().await.len(), 1);
}

#[tokio::test]
async fn of_many_calls_at_the_same_instant_one_makes_the_job() {
    let scene = Scene::set().await;
    let calls = (0..16).map(|_| {
        let (service, request) = (Arc::clone(&scene.server.service), scene.backup());
        tokio::spawn(async move { service.take_backup(request).await.unwrap().job_id })
    });
    let answered: BTreeSet<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    scene.server.idle().await;
    assert_eq!((answered.len(), scene.jobs().await.len()), (1, 1));

    let snapshot = answered.into_iter().next().unwrap();
    let key = Some("another".to_owned());
    let calls = (0..16).map(|_| {
        let request = RestoreRequest { idempotency_key: key.clone(), ..scene.restore(&snapshot) };
        let service = Arc::clone(&scene.server.service);
        tokio::spawn(async move { service.restore_backup(request).await.unwrap().job_id })
    });
    let answered: BTreeSet<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    scene.server.idle().await;
    assert_eq!((answered.len(), scene.jobs().await.len()), (1, 2));
}

/// Dropped at each await in turn, and asked again at once.
#[tokio::test]
async fn a_client_that_hung_up_finds_its_job() {
    let scene = Scene::set().await;
    // More and more apart: how many there are is for the machine's speed to say.
    let polls = std::iter::successors(Some(0), |polls| Some(polls + 1 + polls / 4));
    for (polls, jobs) in polls.zip(1..) {
        let key = Some(format!("{polls}"));
        let request = || BackupRequest { idempotency_key: key.clone(), ..scene.backup() };
        let mut asked = Box::pin(scene.server.service.take_backup(request()));
        let mut answered = false;
        for _ in 0..polls {
            answered = futures::poll!(&mut asked).is_ready();
            if answered {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(asked);
        scene.server.service.take_backup(request()).await.unwrap();
        scene.server.idle().await;
        assert_eq!(scene.jobs().await.len(), jobs, "after {polls} polls");
        if answered {
            assert!(polls > 1);
            return;
        }
    }
}

#[tokio::test]
async fn a_key_is_for_one_request() {
    let scene = Scene::set().await;
    let first = scene.server.service.take_backup(scene.backup()).await.unwrap();
    scene.server.idle().await;
    let other = BackupRequest { target_ips: vec![NODE.to_owned()], ..scene.backup() };
    let other = BackupRequest { backup_type: BackupType::Cluster, ..other };
    let refused = scene.server.service.take_backup(other).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition);
    let expected = format!("the job {}, whose request differs in backup_type, target_ips", first.job_id);
    assert!(refused.message.ends_with(&expected), "{refused}");
    let refused = scene.server.service.restore_backup(scene.restore(&first.snapshot_id)).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition);
    let expected = format!("the job {}, a request of TakeBackup", first.job_id);
    assert!(refused.message.ends_with(&expected), "{refused}");
    assert_eq!(scene.jobs().await.len(), 1);
    // A dry run makes no job.
    let dry = RestoreRequest { dry_run: true, ..scene.restore(&first.snapshot_id) };
    let looked = scene.server.service.restore_backup(dry).await.unwrap();
    assert_eq!((looked.status, looked.job_id), (Status::Initialized, None));
}

#[tokio::test]
async fn a_refused_request_frees_its_key() {
    let scene = Scene::set().await;
    for step in ["connect", "inspect"] {
        scene.ring.on(step, Action::Fail(NodeErrorKind::Permanent));
        scene.server.service.take_backup(scene.backup()).await.unwrap_err();
        scene.ring.heal();
    }
    scene.server.idle().await;
    let other = BackupRequest { target_ips: vec![NODE.to_owned()], ..scene.backup() };
    let snapshot = scene.server.service.take_backup(other).await.unwrap().snapshot_id;
    scene.server.idle().await;
    let restore = RestoreRequest { idempotency_key: Some("r".to_owned()), ..scene.restore(&snapshot) };
    scene.ring.findings.lock().unwrap().push("Cassandra runs".to_owned());
    scene.server.service.restore_backup(restore.clone()).await.unwrap_err();
    scene.ring.findings.lock().unwrap().clear();
    let first = scene.server.service.restore_backup(restore.clone()).await.unwrap();
    scene.server.idle().await;
    let again = scene.server.service.restore_backup(restore).await.unwrap();
    assert_eq!((again.status, again.job_id), (Status::Completed, first.job_id));
    assert_eq!(again.restore_type, RestoreType::Node);
    assert_eq!(scene.jobs().await.len(), 2);
}

impl Scene {
    /// Somebody else who has the database open.
    async fn somebody(&self) -> SqliteConnection {
        let url = format!("sqlite://{}", self.directory.path().join("cassy.db").display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        connection.execute("PRAGMA busy_timeout = 10000").await.unwrap();
        connection
    }

    fn ask(&self) -> JoinHandle<Result<BackupAnswer, OperationError>> {
        let (service, request) = (Arc::clone(&self.server.service), self.backup());
        tokio::spawn(async move { service.take_backup(request).await })
    }

    /// A request whose job is being filed, and the job's id: it has its nodes already, and another request for them is
    /// told so. The database is locked.
    async fn being_filed(&self) -> (JoinHandle<Result<BackupAnswer, OperationError>>, String) {
        loop {
            let asked = self.ask();
            // Reading is quick; who is at work for long waits for the lock.
            let mut looks = 0;
            while looks < 30 {
                looks = if self.server.catalog.is_at_work() { looks + 1 } else { 0 };
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let other = self.server.service.take_backup(backup(&self.cluster)).await.unwrap_err();
            match other.message.split_once("at work for the job ") {
                Some((_, rest)) if !asked.is_finished() => {
                    return (asked, rest.split(' ').next().unwrap().to_owned());
                }
                // The other one was quicker.
                _ => drop(asked.await),
            }
        }
    }
}

/// The job's row is durable, and what its filing comes to is an error. A test can write the row itself, as the refusal of
/// another request says the id.
#[tokio::test]
async fn a_job_that_is_stored_although_its_filing_failed_is_driven_and_found_by_its_key() {
    let scene = Scene::set().await;
    let mut somebody = scene.somebody().await;
    somebody.execute("BEGIN IMMEDIATE").await.unwrap();
    let (first, job_id) = scene.being_filed().await;
    let second = scene.ask();
    let request = serde_json::json!({ "call": "TakeBackup", "cluster_id": scene.cluster, "backup_type": 2 })
        .to_string();
    sqlx::query(
        "INSERT INTO job (job_id, kind, cluster_id, snapshot_id, operation_type, stage, state, epoch, created_at, \
         updated_at, finished, idempotency_key, request) VALUES ($1, 'backup', $2, $1, 2, 'prepare', '{}', $3, 1, 1, 0, $4, $5)",
    )
    .bind(&job_id)
    .bind(&scene.cluster)
    .bind(scene.server.lease.epoch)
    .bind(KEY)
    .bind(&request)
    .execute(&mut somebody)
    .await
    .unwrap();
    somebody.execute("COMMIT").await.unwrap();
    for asked in [first, second] {
        let answer = asked.await.unwrap().unwrap();
        assert_eq!((answer.status, &answer.job_id), (Status::Started, &job_id));
    }
    scene.server.idle().await;
    let again = scene.server.service.take_backup(scene.backup()).await.unwrap();
    assert_eq!((again.status, &again.job_id), (Status::Completed, &job_id));
    assert_eq!(scene.jobs().await, BTreeSet::from([Some(job_id)]));
}

#[tokio::test]
async fn a_job_that_was_not_stored_leaves_its_nodes_and_its_key_free() {
    let mut scene = Scene::set().await;
    let mut somebody = scene.somebody().await;
    let full =
        "CREATE TRIGGER full BEFORE INSERT ON job_part BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    somebody.execute(full).await.unwrap();
    for _ in 0..2 {
        let refused = scene.server.service.take_backup(scene.backup()).await.unwrap_err();
        assert_eq!(refused.kind, OperationErrorKind::Unavailable, "{refused}");
        assert!(refused.message.starts_with("cannot file the job: "), "{refused}");
        assert!(refused.message.contains("the disk is full"), "{refused}");
        assert!(refused.hints[0].contains("metadata_db_url"), "{refused:?}");
    }
    somebody.execute("DROP TRIGGER full").await.unwrap();
    scene.restart().await;
    assert!(scene.jobs().await.is_empty(), "nothing of it runs later");
    scene.server.service.take_backup(scene.backup()).await.unwrap();
    scene.server.idle().await;
    assert_eq!(scene.jobs().await.len(), 1);
}
