//! Increments: on which snapshot they may lie, what they continue, and what a restore takes.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::world::{Action, NODE, Ring, Server, backup, host_id, restore};
use cassy_backup_format::{BackupId, ClusterId, Keys};
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{
    BackupRequest, BackupType, HistorySelector, JobSelector, OperationError, OperationErrorKind, Operations,
    RestoreRequest, Status,
};
use tempfile::TempDir;
use tokio::time::timeout;

struct Scene {
    directory: TempDir,
    ring: Arc<Ring>,
    server: Server,
    cluster: String,
    keys: Keys,
}

impl Scene {
    async fn set() -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        let keys = Keys::new(cluster.parse::<ClusterId>().unwrap()).unwrap();
        Self { directory, ring, server, cluster, keys }
    }

    async fn snapshot(&self) -> String {
        let id = self.server.service.take_backup(backup(&self.cluster)).await.unwrap().snapshot_id;
        self.server.idle().await;
        id
    }

    fn request(&self, base: &str) -> BackupRequest {
        BackupRequest {
            snapshot_id: Some(base.to_owned()),
            backup_type: BackupType::Incremental,
            ..backup(&self.cluster)
        }
    }

    async fn increment(&self, base: &str) -> Result<String, OperationError> {
        let answer = self.server.service.take_backup(self.request(base)).await?;
        self.server.idle().await;
        assert_eq!((answer.snapshot_id.as_str(), answer.backup_type), (base, BackupType::Incremental));
        Ok(answer.message)
    }

    async fn refused(&self, base: &str) -> OperationError {
        let before = self.server.service.list_backups(HistorySelector::default()).await.unwrap().len();
        let error = self.increment(base).await.unwrap_err();
        self.server.idle().await;
        let after = self.server.service.list_backups(HistorySelector::default()).await.unwrap().len();
        assert_eq!(before, after, "what is refused has no history");
        error
    }

    /// The names of the node's manifests, oldest first.
    fn manifests(&self) -> Vec<String> {
        let directory = self.path(&self.keys.manifest_prefix(&host_id()));
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.path().join("store").join(key)
    }

    /// What the history says of a restore that was cancelled in this step.
    async fn cancelled_restore(&self, base: &str, step: &str) -> String {
        self.ring.once(step, Action::Hang);
        let (service, request) = (Arc::clone(&self.server.service), restore(&self.cluster, base));
        let asked = tokio::spawn(async move { service.restore_backup(request).await });
        timeout(Duration::from_secs(30), self.ring.reached.notified()).await.expect("the step is reached");
        let job = self.server.catalog.unfinished_jobs().await.unwrap().remove(0).job_id;
        self.server.service.cancel_job(JobSelector::Job(job)).await.unwrap();
        drop(asked.await);
        self.server.idle().await;
        let rows = self.server.service.list_restores(HistorySelector::default()).await.unwrap();
        assert_eq!(rows[0].status, Status::Failed);
        rows[0].message.clone()
    }

    /// The manifests that a restore takes.
    async fn restored(&self, request: RestoreRequest) -> Vec<String> {
        self.ring.planned.lock().unwrap().clear();
        self.server.service.restore_backup(request).await.unwrap();
        self.server.idle().await;
        let planned = self.ring.planned.lock().unwrap();
        planned.iter().map(|key| key.rsplit('/').next().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn an_increment_continues_the_one_before_and_is_told_under_its_snapshot() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    scene.increment(&base).await.unwrap();
    scene.increment(&base).await.unwrap();
    let selector = HistorySelector { snapshot_id: Some(base.clone()), ..HistorySelector::default() };
    let rows = scene.server.service.list_backups(selector).await.unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (row.operation_type, row.status)).collect();
    assert_eq!(shown, [(3, Status::Completed), (3, Status::Completed), (2, Status::Completed)]);
    let manifests = scene.manifests();
    assert_eq!(manifests.len(), 3);
    assert_eq!(manifests[0], format!("{base}.jsonl.zst"));
    assert!(manifests[1..].iter().all(|name| name.ends_with(&format!(".on-{base}.jsonl.zst"))));
    let parents: Vec<_> = scene.ring.parents.lock().unwrap().iter().flatten().cloned().collect();
    let parents: Vec<_> = parents.iter().map(|key| key.rsplit('/').next().unwrap()).collect();
    assert_eq!(parents, manifests[..2], "the base, then the first increment");
    assert_eq!(scene.ring.steps(&["list_superseded", "clear_superseded"]).len(), 2, "only the snapshot's");
    assert_eq!(scene.ring.steps(&["clear_included"]).len(), 2);
}

#[tokio::test]
async fn a_restore_takes_the_last_increment_unless_only_the_snapshot_is_wanted() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    for _ in 0..2 {
        scene.increment(&base).await.unwrap();
    }
    let manifests = scene.manifests();
    let wanted = restore(&scene.cluster, &base);
    assert_eq!(scene.restored(wanted.clone()).await, manifests[2..]);
    assert_eq!(scene.restored(RestoreRequest { snapshot_only: true, ..wanted }).await, manifests[..1]);
}

#[tokio::test]
async fn an_increment_after_a_newer_snapshot_would_have_a_gap() {
    let scene = Scene::set().await;
    let first = scene.snapshot().await;
    let second = scene.snapshot().await;
    let error = scene.refused(&first).await;
    assert_eq!(error.kind, OperationErrorKind::FailedPrecondition);
    assert!(error.message.contains(NODE) && error.message.contains(&second), "{error}");
    assert!(error.hints.iter().any(|hint| hint.contains(&second)), "{error:?}");
    scene.increment(&second).await.unwrap();
}

#[tokio::test]
async fn incremental_backups_have_to_be_on_now_and_at_the_base() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    scene.ring.incremental_backups_off.store(true, Ordering::SeqCst);
    let error = scene.refused(&base).await;
    assert!(error.message.contains("are off") && error.hints[0].contains("enablebackup"), "{error:?}");
    let base = scene.snapshot().await;
    scene.ring.incremental_backups_off.store(false, Ordering::SeqCst);
    let error = scene.refused(&base).await;
    assert!(error.message.contains("were off when the snapshot"), "{error}");
    assert!(error.hints[0].contains("backup_type 2"), "{error:?}");
}

/// Started again, it may have flushed without a link before somebody switched them on.
#[tokio::test]
async fn a_node_that_was_started_since_with_another_configuration_has_a_gap() {
    let scene = Scene::set().await;
    scene.ring.off_at_start.store(true, Ordering::SeqCst);
    *scene.ring.uptime.lock().unwrap() = Duration::from_secs(86_400);
    let base = scene.snapshot().await;
    scene.increment(&base).await.unwrap();
    *scene.ring.uptime.lock().unwrap() = Duration::ZERO;
    let error = scene.refused(&base).await;
    assert!(error.message.contains("was started after the backup"), "{error}");
    assert!(error.hints[0].contains("backup_type 2"), "{error:?}");
    scene.ring.off_at_start.store(false, Ordering::SeqCst);
    scene.increment(&base).await.unwrap();
}

/// Whatever it says now, it may have said something else when Cassandra read it.
#[tokio::test]
async fn a_configuration_that_is_younger_than_the_start_hides_a_gap() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    scene.ring.new_yaml.store(true, Ordering::SeqCst);
    *scene.ring.uptime.lock().unwrap() = Duration::ZERO;
    let error = scene.refused(&base).await;
    assert_eq!(error.kind, OperationErrorKind::FailedPrecondition);
    assert!(error.message.contains("was changed since"), "{error}");
    assert!(error.hints[0].contains("backup_type 2"), "{error:?}");
    // It was there at the start, or the start was before the base.
    scene.ring.new_yaml.store(false, Ordering::SeqCst);
    scene.increment(&base).await.unwrap();
    scene.ring.new_yaml.store(true, Ordering::SeqCst);
    *scene.ring.uptime.lock().unwrap() = Duration::from_secs(86_400);
    scene.increment(&base).await.unwrap();
}

/// What a restore has put back is not what the increment before it continued to.
#[tokio::test]
async fn a_restore_of_anything_but_its_end_ends_a_chain() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    scene.increment(&base).await.unwrap();
    let wanted = restore(&scene.cluster, &base);
    scene.restored(wanted.clone()).await;
    scene.increment(&base).await.expect("the end of the chain was restored");
    scene.restored(RestoreRequest { snapshot_only: true, ..wanted }).await;
    let error = scene.refused(&base).await;
    assert!(error.message.contains("was restored to it after the backup"), "{error}");
    assert!(error.hints[0].contains("backup_type 2"), "{error:?}");
    let next = scene.snapshot().await;
    scene.increment(&next).await.unwrap();
}

/// Cancelled before it had placed anything.
#[tokio::test]
async fn a_restore_that_left_the_node_as_it_was_ends_no_chain() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    scene.increment(&base).await.unwrap();
    for step in ["plan_restore", "restore"] {
        let message = scene.cancelled_restore(&base, step).await;
        assert!(message.starts_with("cancelled while "), "{step}: {message}");
        scene.increment(&base).await.expect(step);
    }
    // Of one that could not be undone nobody knows.
    scene.ring.once("undo_restore", Action::Fail(NodeErrorKind::Permanent));
    scene.cancelled_restore(&base, "restore").await;
    // And one after it that changed nothing does not change that.
    scene.cancelled_restore(&base, "restore").await;
    let error = scene.refused(&base).await;
    let expected = format!(
        "the snapshot {base} was begun to be restored to it, and is not known to have left it as it was,"
    );
    assert!(error.message.contains(&expected), "{error}");
    assert!(error.hints[0].contains("backup_type 2"), "{error:?}");
}

#[tokio::test]
async fn a_restore_that_failed_may_have_placed_something() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    scene.increment(&base).await.unwrap();
    scene.ring.once("restore", Action::Fail(NodeErrorKind::Permanent));
    scene.restored(restore(&scene.cluster, &base)).await;
    let error = scene.refused(&base).await;
    assert!(error.message.contains("is not known to have left it as it was"), "{error}");
}

#[tokio::test]
async fn what_is_no_snapshot_of_the_node_is_no_base() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    let unknown = BackupId::at(7).to_string();
    assert_eq!(scene.refused(&unknown).await.kind, OperationErrorKind::NotFound);
    scene.increment(&base).await.unwrap();
    let increment = scene.manifests()[1].split('.').next().unwrap().to_owned();
    let error = scene.refused(&increment).await;
    assert!(error.message.contains("is an increment") && error.hints[0].contains(&base), "{error:?}");
    fs::remove_file(scene.path(scene.keys.node_manifest(&host_id(), &base.parse().unwrap()).as_str()))
        .unwrap();
    let error = scene.refused(&base).await;
    assert!(error.message.contains("there is no snapshot of this node"), "{error}");
}

/// What the base superseded must never be taken for what came after it.
#[tokio::test]
async fn what_the_base_has_left_to_clear_is_cleared_first() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    let list = scene.path(scene.keys.superseded(&host_id(), &base.parse().unwrap()).as_str());
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(&list, "a list").unwrap();
    scene.ring.log.lock().unwrap().clear();
    scene.increment(&base).await.unwrap();
    assert_eq!(scene.ring.steps(&["clear_superseded", "flush"]), ["clear_superseded", "flush"]);
    assert!(!list.exists());
}

#[tokio::test]
async fn a_node_without_a_base_is_named_and_never_silently_left_out() {
    let scene = Scene::set().await;
    let base = scene.snapshot().await;
    scene.ring.strangers.lock().unwrap().push("127.0.0.9".to_owned());
    let message = scene.increment(&base).await.unwrap();
    assert!(message.contains("left out") && message.contains("127.0.0.9"), "{message}");
    let asked = BackupRequest { target_ips: vec!["127.0.0.9".to_owned()], ..scene.request(&base) };
    let error = scene.server.service.take_backup(asked).await.unwrap_err();
    assert_eq!(error.kind, OperationErrorKind::FailedPrecondition);
    assert!(error.message.contains("does not hold 127.0.0.9"), "{error}");
}
