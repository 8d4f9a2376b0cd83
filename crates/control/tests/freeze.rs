//! Cluster-wide backups: what happens while the applications are paused, and that nobody stays so.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::world::applications::{FakeApplications, instances};
use crate::world::{Action, NODE, Rings, Server, backup, restore};
use cassy_backup_format::{ClusterId, ClusterManifest, Keys};
use cassy_control::{
    BackupAnswer, BackupRequest, BackupType, HistorySelector, NodeEntry, OperationError, OperationErrorKind,
    Operations, RestoreRequest, RestoreType, Status,
};
use tempfile::TempDir;

const NODES: [&str; 3] = [NODE, "127.0.0.2", "127.0.0.3"];

struct Scene {
    directory: TempDir,
    rings: Rings,
    applications: FakeApplications,
    server: Server,
    cluster: String,
}

impl Scene {
    /// Three nodes under two instances.
    async fn set() -> Self {
        let (directory, rings) = (tempfile::tempdir().unwrap(), Rings::of(&NODES));
        let applications = FakeApplications::of(2);
        let server = Server::start_over(directory.path(), &rings, &applications).await;
        let cluster = server.register().await;
        Self { directory, rings, applications, server, cluster }
    }

    fn request(&self) -> BackupRequest {
        BackupRequest { backup_type: BackupType::Cluster, ..backup(&self.cluster) }
    }

    async fn frozen(&self) -> Result<BackupAnswer, OperationError> {
        let answer = self.server.service.take_backup(self.request()).await;
        self.server.idle().await;
        answer
    }

    /// FAILED on all nodes, nobody paused, no snapshot left; says why.
    async fn fails(&self) -> OperationError {
        let error = self.frozen().await.unwrap_err();
        let rows = self.rows().await;
        assert_eq!(rows.iter().map(|row| row.status).collect::<Vec<_>>(), [Status::Failed; 3]);
        self.is_clean();
        error
    }

    async fn fails_again(&self) -> OperationError {
        let before = self.rows().await.len();
        let error = self.frozen().await.unwrap_err();
        let rows = self.rows().await;
        assert!(rows.len() == before + 3 && rows.iter().all(|row| row.status == Status::Failed), "{rows:?}");
        self.is_clean();
        error
    }

    async fn rows(&self) -> Vec<NodeEntry> {
        self.server.service.list_backups(HistorySelector::default()).await.unwrap()
    }

    fn is_clean(&self) {
        assert!(self.applications.lock().paused.is_empty(), "somebody is paused");
        for (address, ring) in &self.rings.0 {
            assert!(ring.snapshots.lock().unwrap().is_empty(), "a snapshot is left on {address}");
        }
    }

    /// Waits until no intent is open.
    async fn all_go_on(&self) {
        let closed = async {
            while !self.server.catalog.open_pause_intents().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), closed).await.unwrap();
        self.is_clean();
    }

    fn log(&self) -> Vec<String> {
        self.applications.lock().log.clone()
    }

    async fn manifest(&self, snapshot_id: &str) -> Option<ClusterManifest> {
        let keys = Keys::new(self.cluster.parse::<ClusterId>().unwrap()).unwrap();
        let key = keys.cluster_manifest(&snapshot_id.parse().unwrap());
        let path = self.directory.path().join("store").join(key.as_str());
        std::fs::read(path).ok().map(|json| ClusterManifest::from_json(&json).unwrap())
    }

    async fn restart(self) -> Self {
        self.server.service.shut_down().await;
        let server = Server::start_over(self.directory.path(), &self.rings, &self.applications).await;
        Self { server, ..self }
    }
}

#[tokio::test]
async fn all_snapshots_are_taken_while_everybody_is_paused() {
    let scene = Scene::set().await;
    let last = &scene.rings.0[NODES[2]];
    last.once("take_snapshot", Action::Hang);
    let request = scene.request();
    let taking = scene.server.service.take_backup(request);
    let looking = async {
        last.reached.notified().await;
        assert_eq!(scene.applications.lock().paused.len(), 2);
        assert_eq!(scene.log(), ["guard", "pause"]);
        last.wake();
    };
    let (answer, ()) = tokio::join!(taking, looking);
    let answer = answer.unwrap();
    scene.server.idle().await;
    assert_eq!((answer.status, answer.backup_type), (Status::Started, BackupType::Cluster));
    assert_eq!(scene.log(), ["guard", "pause", "check", "unpause", "guard released"]);
    let rows = scene.rows().await;
    assert!(rows.iter().all(|row| row.status == Status::Completed && row.operation_type == 1), "{rows:?}");
    let freeze = rows[0].freeze.clone().unwrap();
    assert!(freeze.started_at_ms > 0 && freeze.ended_at_ms >= freeze.started_at_ms);
    assert_eq!((freeze.slowest_node.as_str(), freeze.instances.len()), (NODES[2], 2));
    let manifest = scene.manifest(&answer.snapshot_id).await.unwrap();
    assert_eq!((manifest.backup_type, manifest.consistent, manifest.nodes.len()), (1, true, 3));
    assert!(scene.server.catalog.open_pause_intents().await.unwrap().is_empty());
    scene.is_clean();
}

#[tokio::test]
async fn hints_that_wait_are_recorded_and_named() {
    let scene = Scene::set().await;
    scene.rings.0[NODES[1]].hint_files.store(3, Ordering::Relaxed);
    scene.frozen().await.unwrap();
    let rows = scene.rows().await;
    assert_eq!(rows[0].status, Status::Completed);
    assert!(
        rows[0].message.contains("hints for other nodes wait on 127.0.0.2 (3 files): repair"),
        "{rows:?}"
    );
    let undelivered = rows[0].freeze.clone().unwrap().undelivered;
    let known = NODES.map(|node| (undelivered[node].hint_files, undelivered[node].dropped_writes));
    assert_eq!(known, [(Some(0), 7), (Some(3), 7), (Some(0), 7)]);
}

#[tokio::test]
async fn without_applications_it_is_refused() {
    let scene = Scene::set().await;
    scene.applications.lock().is_configured = false;
    let error = scene.frozen().await.unwrap_err();
    assert_eq!(error.kind, OperationErrorKind::FailedPrecondition);
    assert!(error.hints[0].contains("srv_service_url"), "{error:?}");
    assert_eq!(scene.rows().await, []);
}

#[tokio::test]
async fn it_is_of_all_nodes() {
    let scene = Scene::set().await;
    let some = BackupRequest { target_ips: vec![NODE.to_owned()], ..scene.request() };
    let error = scene.server.service.take_backup(some).await.unwrap_err();
    assert_eq!(error.kind, OperationErrorKind::InvalidArgument);
    assert!(error.message.contains(NODES[1]) && error.message.contains(NODES[2]), "{error}");
    let all = BackupRequest { target_ips: NODES.map(str::to_owned).to_vec(), ..scene.request() };
    scene.server.service.take_backup(all).await.unwrap();
}

#[tokio::test]
async fn one_instance_that_refuses_lets_all_others_go_on() {
    let scene = Scene::set().await;
    scene.applications.lock().refuse_pause.extend(instances(1));
    let error = scene.fails().await;
    assert!(error.message.contains("app1.test") && error.message.contains("refuses to pause"), "{error}");
    assert_eq!(error.kind, OperationErrorKind::Unavailable);
    for ring in scene.rings.0.values() {
        assert!(ring.steps(&["take_snapshot"]).is_empty());
    }
    assert_eq!(scene.log(), ["guard", "pause", "unpause", "guard released"]);
}

#[tokio::test]
async fn without_an_srv_record_or_a_guard_nobody_is_paused() {
    let scene = Scene::set().await;
    scene.applications.lock().guard_fails = true;
    assert!(scene.fails().await.message.contains("no guard"));
    scene.applications.lock().named.clear();
    let error = scene.frozen().await.unwrap_err();
    assert!(error.message.contains("no SRV record"), "{error}");
    assert_eq!(scene.rows().await.len(), 6, "there are rows that say why");
    assert!(!scene.log().contains(&"pause".to_owned()));
    assert!(scene.server.catalog.open_pause_intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_writer_that_dns_does_not_name_is_caught() {
    let scene = Scene::set().await;
    for begins_after in [1, 2] {
        scene.rings.0[NODES[1]].activity.lock().unwrap().begins_after = Some(begins_after);
        let error = scene.fails_again().await;
        assert!(error.message.contains("clients wrote") && error.message.contains(NODES[1]), "{error}");
    }
}

#[tokio::test]
async fn what_a_node_writes_to_the_systems_keyspaces_is_no_clients_write() {
    let scene = Scene::set().await;
    for begins_after in [1, 2] {
        {
            let mut activity = scene.rings.0[NODES[1]].activity.lock().unwrap();
            (activity.begins_after, activity.by_system) = (Some(begins_after), true);
        }
        scene.frozen().await.unwrap();
        assert!(scene.rows().await.iter().all(|row| row.status == Status::Completed));
    }
}

#[tokio::test]
async fn what_is_not_proven_is_kept_as_backups_of_single_nodes_where_that_is_asked_for() {
    let scene = Scene::set().await;
    scene.rings.0[NODES[1]].activity.lock().unwrap().begins_after = Some(1);
    let request = BackupRequest { keep_unproven: true, ..scene.request() };
    let answer = scene.server.service.take_backup(request).await.unwrap();
    assert!(answer.message.contains("not consistent across them"), "{answer:?}");
    scene.server.idle().await;
    let rows = scene.rows().await;
    assert!(rows.iter().all(|row| row.status == Status::Completed), "{rows:?}");
    assert!(rows.iter().all(|row| row.message.contains("not consistent across them")), "{rows:?}");
    let manifest = scene.manifest(&answer.snapshot_id).await.unwrap();
    assert_eq!((manifest.backup_type, manifest.consistent, manifest.nodes.len()), (2, false, 3));
}

#[tokio::test]
async fn an_instance_that_is_not_really_paused_is_caught() {
    let scene = Scene::set().await;
    scene.applications.lock().gate_open.extend(instances(1));
    let error = scene.fails().await;
    assert!(error.message.contains("not known to have been paused"), "{error}");
}

#[tokio::test]
async fn an_instance_that_comes_meanwhile_is_caught() {
    let scene = Scene::set().await;
    scene.applications.lock().named_later = Some(instances(3));
    let error = scene.fails().await;
    assert!(error.message.contains("app3.test"), "{error}");
}

#[tokio::test]
async fn one_node_that_fails_fails_all_and_the_next_backup_is_whole() {
    for (step, kind) in [("flush", 0), ("take_snapshot", 0), ("upload", 1)] {
        let scene = Scene::set().await;
        scene.rings.0[NODES[1]].on(step, Action::Fail(cassy_control::nodes::NodeErrorKind::Permanent));
        let answer = scene.frozen().await;
        let rows = scene.rows().await;
        assert!(rows.len() == 3 && rows.iter().all(|row| row.status == Status::Failed), "{step}: {rows:?}");
        assert!(rows.iter().all(|row| row.message.contains(step)), "{step}: {rows:?}");
        assert_eq!(answer.is_ok(), kind == 1, "{step}: {answer:?}");
        assert!(scene.manifest(&rows[0].snapshot_id).await.is_none());
        assert_eq!(scene.log().contains(&"pause".to_owned()), step != "flush");
        scene.is_clean();
        scene.rings.0[NODES[1]].heal();
        let answer = scene.frozen().await.unwrap();
        assert!(scene.manifest(&answer.snapshot_id).await.unwrap().consistent);
    }
}

#[tokio::test]
async fn a_server_that_stops_in_the_freeze_unpauses_before_it_ends() {
    let scene = Scene::set().await;
    let last = std::sync::Arc::clone(&scene.rings.0[NODES[2]]);
    last.once("take_snapshot", Action::Hang);
    let request = scene.request();
    let service = std::sync::Arc::clone(&scene.server.service);
    let taking = tokio::spawn(async move { service.take_backup(request).await });
    last.reached.notified().await;
    assert_eq!(scene.applications.lock().paused.len(), 2);
    assert_eq!(scene.server.catalog.open_pause_intents().await.unwrap().len(), 1);
    scene.server.service.shut_down().await;
    assert!(taking.await.unwrap().is_err());
    assert_eq!(scene.log(), ["guard", "pause", "unpause", "guard released"]);
    assert!(scene.applications.lock().paused.is_empty(), "somebody is paused");
    let scene = scene.restart().await;
    scene.server.idle().await;
    let rows = scene.rows().await;
    assert!(rows.len() == 3 && rows.iter().all(|row| row.status == Status::Completed), "{rows:?}");
    assert_eq!(scene.log().iter().filter(|step| *step == "pause").count(), 2, "a new attempt is a new pause");
    assert!(scene.server.catalog.open_pause_intents().await.unwrap().is_empty());
    scene.is_clean();
}

#[tokio::test]
async fn a_backup_that_is_taken_up_again_and_again_pauses_no_more() {
    let mut scene = Scene::set().await;
    let last = std::sync::Arc::clone(&scene.rings.0[NODES[2]]);
    last.on("take_snapshot", Action::Hang);
    let (request, service) = (scene.request(), std::sync::Arc::clone(&scene.server.service));
    let taking = tokio::spawn(async move { service.take_backup(request).await });
    for _ in 0..3 {
        last.reached.notified().await;
        scene = scene.restart().await;
    }
    assert!(taking.await.unwrap().is_err());
    scene.server.idle().await;
    let rows = scene.rows().await;
    assert!(rows.len() == 3 && rows.iter().all(|row| row.message.contains("attempt 4")), "{rows:?}");
    assert_eq!(scene.log().iter().filter(|step| *step == "pause").count(), 3);
    scene.is_clean();
}

#[tokio::test]
async fn a_guard_that_has_unpaused_is_no_proof() {
    let scene = Scene::set().await;
    scene.applications.lock().guard_was_alarmed = true;
    let error = scene.fails().await;
    assert!(error.message.contains("guards may have unpaused"), "{error}");
}

#[tokio::test]
async fn a_node_that_joins_meanwhile_makes_it_another_cluster() {
    for (step, pauses) in [("after flush", 0), ("after take_snapshot", 1)] {
        let scene = Scene::set().await;
        let first = std::sync::Arc::clone(&scene.rings.0[NODES[0]]);
        first.once(step, Action::Hang);
        let (request, service) = (scene.request(), std::sync::Arc::clone(&scene.server.service));
        let taking = tokio::spawn(async move { service.take_backup(request).await });
        first.reached.notified().await;
        scene.rings.0.values().for_each(|ring| ring.strangers.lock().unwrap().push("127.0.0.9".to_owned()));
        first.wake();
        let error = taking.await.unwrap().unwrap_err();
        scene.server.idle().await;
        assert!(error.message.contains("127.0.0.9"), "{step}: {error}");
        assert_eq!(scene.log().iter().filter(|step| *step == "pause").count(), pauses, "{step}");
        scene.is_clean();
    }
}

#[tokio::test]
async fn a_keyspace_that_comes_meanwhile_is_not_passed_over() {
    let scene = Scene::set().await;
    let first = std::sync::Arc::clone(&scene.rings.0[NODES[0]]);
    first.once("take_snapshot", Action::Hang);
    let (request, service) = (scene.request(), std::sync::Arc::clone(&scene.server.service));
    let taking = tokio::spawn(async move { service.take_backup(request).await });
    first.reached.notified().await;
    first.schema.lock().unwrap().0.push(("late".to_owned(), "rows".to_owned()));
    first.wake();
    let error = taking.await.unwrap().unwrap_err();
    assert!(error.message.contains("keyspaces came during the backup: late"), "{error}");
}

#[tokio::test]
async fn what_a_dead_server_left_paused_goes_on_before_anything_else() {
    let scene = Scene::set().await;
    scene.frozen().await.unwrap();
    let job = scene.server.catalog.ended_backups(&scene.cluster).await.unwrap().pop_first().unwrap();
    let intent = cassy_catalog::PauseIntent {
        intent_id: "i".to_owned(),
        job_id: job,
        instances_json: serde_json::to_string(&instances(2)).unwrap(),
        deadline_at: 2,
        created_at: 1,
    };
    scene.server.catalog.open_pause_intent(scene.server.lease.epoch, &intent).await.unwrap();
    scene.applications.lock().paused.extend(instances(2));
    scene.applications.lock().deaf.insert(instances(1).remove(0), 3);
    let scene = scene.restart().await;
    scene.all_go_on().await;
}

#[tokio::test]
async fn who_does_not_acknowledge_is_named_and_asked_again() {
    let scene = Scene::set().await;
    scene.applications.lock().deaf.insert(instances(1).remove(0), 2);
    let error = scene.frozen().await.unwrap_err();
    assert!(
        error.message.contains("app1.test (127.0.0.1:1) has not acknowledged that it goes on"),
        "{error}"
    );
    let rows = scene.rows().await;
    // Its guards are kept for it, so whether they have unpaused anybody before is not known.
    assert_eq!(rows[0].status, Status::Failed);
    assert!(rows[0].message.contains("guards may have unpaused"), "{rows:?}");
    scene.all_go_on().await;
}

/// Its host is a black hole, say; the server was restarted since.
#[tokio::test]
async fn a_pause_that_is_not_over_names_who_stands_in_the_way_of_the_next_one() {
    let scene = Scene::set().await;
    let before = scene.frozen().await.unwrap().job_id;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let intent = cassy_catalog::PauseIntent {
        intent_id: "i".to_owned(),
        job_id: before.clone(),
        instances_json: serde_json::to_string(&instances(2)).unwrap(),
        deadline_at: now - 7 * 60_000,
        created_at: now - 7 * 60_000,
    };
    scene.server.catalog.open_pause_intent(scene.server.lease.epoch, &intent).await.unwrap();
    scene.applications.lock().deaf.insert(instances(1).remove(0), u32::MAX);
    let scene = scene.restart().await;
    scene.rings.0.values().for_each(|ring| ring.log.lock().unwrap().clear());
    let (request, service) = (scene.request(), Arc::clone(&scene.server.service));
    let asked = tokio::spawn(async move { service.take_backup(request).await });
    while !scene.rings.0.values().all(|ring| ring.steps(&["connect", "flush"]).contains(&"flush".to_owned()))
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Beyond the wait for it.
    while !asked.is_finished() {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(20)).await;
        tokio::time::resume();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = asked.await.unwrap().unwrap_err();
    let expected = format!(
        "of the applications that the backup {before} paused 7 min ago these have not acknowledged that they go on: \
         app1.test (127.0.0.1:1)"
    );
    assert!(error.message.ends_with(&expected), "{error}");
    let hint = &error.hints[0];
    assert!(hint.contains("`cassy unpause`") && hint.contains("waited for at most 60 min"), "{hint}");
    assert_eq!(scene.log().iter().filter(|step| *step == "pause").count(), 1, "nobody is paused for it");
    // It answers again.
    scene.applications.lock().deaf.clear();
    scene.all_go_on().await;
    scene.frozen().await.unwrap();
}

#[tokio::test]
async fn increments_on_it_are_taken_and_not_called_consistent() {
    let scene = Scene::set().await;
    let base = scene.frozen().await.unwrap().snapshot_id;
    let failed = {
        scene.applications.lock().refuse_pause.extend(instances(1));
        scene.frozen().await.unwrap_err()
    };
    assert!(failed.message.contains("refuses"), "{failed}");
    let request = BackupRequest {
        snapshot_id: Some(base.clone()),
        backup_type: BackupType::Incremental,
        ..backup(&scene.cluster)
    };
    let answer = scene.server.service.take_backup(request).await.unwrap();
    scene.server.idle().await;
    assert!(answer.message.contains("of one instant"), "{answer:?}");
    let increments: Vec<_> = scene.rows().await.into_iter().filter(|row| row.operation_type == 3).collect();
    assert!(increments.len() == 3 && increments.iter().all(|row| row.status == Status::Completed));
}

#[tokio::test]
async fn restored_as_a_whole_it_is_of_its_instant_whatever_was_added_since() {
    let scene = Scene::set().await;
    let base = scene.frozen().await.unwrap().snapshot_id;
    let increment = BackupRequest {
        snapshot_id: Some(base.clone()),
        backup_type: BackupType::Incremental,
        ..backup(&scene.cluster)
    };
    let wanted = |restore_type| RestoreRequest { restore_type, ..restore(&scene.cluster, &base) };
    let restored = async |request: RestoreRequest| {
        let answer = scene.server.service.restore_backup(request).await.unwrap();
        scene.server.idle().await;
        let planned =
            scene.rings.0.values().flat_map(|ring| std::mem::take(&mut *ring.planned.lock().unwrap()));
        (answer.message, planned.collect::<Vec<_>>())
    };
    let (message, snapshots) = restored(wanted(RestoreType::Cluster)).await;
    assert!(!message.contains("increments"), "there are none: {message}");
    scene.server.service.take_backup(increment).await.unwrap();
    scene.server.idle().await;
    let (message, planned) = restored(wanted(RestoreType::Cluster)).await;
    assert_eq!(planned, snapshots);
    assert!(message.contains("127.0.0.2: without the increments on the snapshot, the last is "), "{message}");
    let command = message.split('\'').nth(1).unwrap();
    let command: serde_json::Value = serde_json::from_str(command).unwrap();
    let expected = serde_json::json!({ "cluster_id": scene.cluster, "snapshot_id": base, "restore_type": 2 });
    assert_eq!(command, expected, "{message}");
    let (message, planned) = restored(wanted(RestoreType::Node)).await;
    assert!(
        planned.len() == 3 && planned.iter().all(|manifest| !snapshots.contains(manifest)),
        "{planned:?}"
    );
    assert!(message.contains("127.0.0.2: with the increments"), "{message}");
    let only = RestoreRequest { snapshot_only: true, ..wanted(RestoreType::Cluster) };
    let (message, planned) = restored(only).await;
    assert_eq!(planned, snapshots);
    assert!(!message.contains("increments"), "nothing is said of what was not asked for: {message}");
}
