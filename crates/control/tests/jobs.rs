//! Jobs on the real runner, a real database and a real store, with a fake node: each stage made to fail, to
//! panic, and to be cut short by the end of the server.

use std::sync::Arc;
use std::time::Duration;

use crate::world::{Action, NODE, Ring, Server, backup, files, restore};
use cassy_control::job::BackupStage;
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{OperationErrorKind, Operations, Status};
use tokio::time::timeout;

/// The step of the fake node in which each stage can be held.
fn step_of(stage: BackupStage) -> Option<&'static str> {
    match stage {
        BackupStage::Prepare => Some("inspect"),
        BackupStage::List => Some("list_superseded"),
        BackupStage::Flush => Some("flush"),
        BackupStage::Snapshot => Some("take_snapshot"),
        BackupStage::Upload => Some("upload"),
        BackupStage::Clear => Some("sweep_snapshots"),
        BackupStage::Pin | BackupStage::Commit | BackupStage::Unpin | BackupStage::Finished => None,
    }
}

fn held_stages() -> impl Iterator<Item = (BackupStage, &'static str)> {
    BackupStage::ALL.into_iter().filter_map(|stage| Some((stage, step_of(stage)?)))
}

#[tokio::test]
async fn a_backup_answers_started_and_ends_completed_with_nothing_left_behind() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    assert_eq!(server.register().await, cluster, "a known cluster keeps its id");
    let answer = server.service.take_backup(backup(&cluster)).await.unwrap();
    assert_eq!(answer.status, Status::Started);
    assert_eq!(server.settled(&cluster).await[0].0, Status::Completed);
    server.idle().await;
    assert!(ring.snapshots.lock().unwrap().is_empty(), "our snapshot is cleared");
    let left = files(&directory.path().join("store"));
    assert_eq!(left.len(), 2, "a node manifest and a cluster manifest, no pin, no probe: {left:?}");
}

#[tokio::test]
async fn the_first_failing_check_refuses_and_leaves_no_history() {
    for step in ["connect", "agent", "lock", "inspect", "check_store"] {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        ring.on(step, Action::Fail(NodeErrorKind::Permanent));
        let refused = server.service.take_backup(backup(&cluster)).await.unwrap_err();
        assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition, "{step}: {refused}");
        assert!(refused.message.contains(NODE), "{refused}");
        server.idle().await;
        assert!(server.service.list_backups(by_cluster(&cluster)).await.unwrap().is_empty());
        assert!(ring.snapshots.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_snapshot_that_lacks_a_table_is_failed_and_names_it() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    ring.broken.lock().unwrap().push("ks.t: no manifest.json".to_owned());
    let answer = server.service.take_backup(backup(&cluster)).await.unwrap();
    assert_eq!(answer.status, Status::Failed);
    let (status, message) = server.settled(&cluster).await.remove(0);
    assert_eq!(status, Status::Failed);
    assert!(message.contains("ks.t"), "{message}");
    server.idle().await;
    assert!(ring.snapshots.lock().unwrap().is_empty(), "the tag of the failed attempt is cleared");
}

#[tokio::test]
async fn a_panic_in_any_stage_fails_the_job_and_not_the_server() {
    for (stage, step) in held_stages() {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        ring.on(step, Action::Panic);
        let answer = server.service.take_backup(backup(&cluster)).await;
        server.idle().await;
        match stage {
            BackupStage::Prepare => assert!(answer.is_err(), "{stage:?}"),
            BackupStage::Clear => assert_eq!(server.settled(&cluster).await[0].0, Status::Completed),
            _ => assert_eq!(server.settled(&cluster).await[0].0, Status::Failed, "{stage:?}"),
        }
        ring.heal();
        assert!(server.service.take_backup(backup(&cluster)).await.is_ok(), "after {stage:?}");
        server.idle().await;
    }
}

#[tokio::test]
async fn a_server_that_ends_in_any_stage_is_followed_by_one_that_finishes_the_job() {
    for (stage, step) in held_stages() {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let first = Server::start(directory.path(), &ring).await;
        let cluster = first.register().await;
        ring.on(step, Action::Hang);
        let asked = {
            let (service, request) = (Arc::clone(&first.service), backup(&cluster));
            tokio::spawn(async move { service.take_backup(request).await })
        };
        timeout(Duration::from_secs(30), ring.reached.notified()).await.expect("the stage is reached");
        first.service.shut_down().await;
        drop(asked.await);
        ring.heal();
        let second = Server::start(directory.path(), &ring).await;
        let history = second.settled(&cluster).await;
        assert_eq!(history.len(), 1, "{stage:?}");
        assert_eq!(history[0].0, Status::Completed, "{stage:?}: {}", history[0].1);
        second.idle().await;
        assert!(ring.snapshots.lock().unwrap().is_empty(), "{stage:?}: every tag is cleared");
        assert_eq!(files(&directory.path().join("store")).len(), 2, "{stage:?}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_changes_nothing() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    ring.on("flush", Action::Hang);
    let mut asked = Box::pin(server.service.take_backup(backup(&cluster)));
    tokio::select! {
        answer = &mut asked => panic!("the flush hangs, so there is no answer yet: {answer:?}"),
        () = ring.reached.notified() => {}
    }
    drop(asked);
    assert_eq!(
        server.catalog.unfinished_jobs().await.unwrap().len(),
        1,
        "the job goes on without its client"
    );
    server.service.shut_down().await;
    ring.heal();
    let server = Server::start(directory.path(), &ring).await;
    assert_eq!(server.settled(&cluster).await[0].0, Status::Completed);
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_with_a_session_of_its_own() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    ring.on("upload", Action::Fail(NodeErrorKind::Gone));
    let answer = server.service.take_backup(backup(&cluster)).await.unwrap();
    assert_eq!(answer.status, Status::Started);
    let sessions = async {
        let host = crate::world::host_id().to_string();
        while server.catalog.upload_sessions(&cluster, &host).await.unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ring.heal();
    };
    timeout(Duration::from_secs(30), sessions).await.expect("a second try has a second session");
    assert_eq!(server.settled(&cluster).await[0].0, Status::Completed);
}

#[tokio::test]
async fn a_server_that_lost_its_lease_stops_driving() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let first = Server::start(directory.path(), &ring).await;
    let cluster = first.register().await;
    ring.on("flush", Action::Hang);
    let asked = {
        let (service, request) = (Arc::clone(&first.service), backup(&cluster));
        tokio::spawn(async move { service.take_backup(request).await })
    };
    timeout(Duration::from_secs(30), ring.reached.notified()).await.expect("the stage is reached");
    let second = Server::start(directory.path(), &ring).await;
    assert!(second.lease.epoch > first.lease.epoch);
    ring.heal();
    assert_eq!(second.settled(&cluster).await[0].0, Status::Completed);
    assert!(asked.await.expect("answered").is_err(), "the first server does not know how the job goes on");
    assert_eq!(ring.steps(&["take_snapshot"]).len(), 1, "only the second server went on");
    let refused = first.service.register_cluster(NODE).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::Unavailable, "{refused}");
}

/// Dropped at each await in turn: the job runs to its end, or was never filed.
#[tokio::test]
async fn a_client_that_hangs_up_at_any_instant_leaves_no_job_to_nobody() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    for polls in 0.. {
        let mut asked = Box::pin(server.service.take_backup(backup(&cluster)));
        let mut answered = false;
        for _ in 0..polls {
            answered = futures::poll!(&mut asked).is_ready();
            if answered {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(asked);
        server.idle().await;
        if answered {
            assert!(polls > 1, "the request waits several times before it is answered");
            return;
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_without_the_nodes_lock() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    ring.on("flush", Action::Hang);
    let (service, request) = (Arc::clone(&server.service), backup(&cluster));
    let asked = tokio::spawn(async move { service.take_backup(request).await });
    timeout(Duration::from_secs(30), ring.reached.notified()).await.expect("the stage is reached");
    ring.on("lock", Action::Fail(NodeErrorKind::Transient));
    ring.log.lock().unwrap().clear();
    ring.actions.lock().unwrap().remove("flush");
    ring.wake();
    let tried = async {
        while ring.steps(&["lock"]).len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), tried).await.expect("the lock is asked for again");
    assert_eq!(ring.steps(&["upload"]), Vec::<String>::new(), "another agent has the lock");
    ring.heal();
    assert_eq!(server.settled(&cluster).await[0].0, Status::Completed);
    drop(asked.await);
    let steps = ring.steps(&["lock", "upload"]);
    let sent = steps.iter().position(|step| step == "upload").expect("it was sent");
    assert_eq!(steps[sent - 1], "lock");
}

#[tokio::test]
async fn a_node_at_work_refuses_a_second_job() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    ring.on("upload", Action::Hang);
    server.service.take_backup(backup(&cluster)).await.unwrap();
    let refused = server.service.take_backup(backup(&cluster)).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition);
    assert!(refused.message.contains(NODE), "{refused}");
}

#[tokio::test]
async fn a_restore_plans_first_and_says_all_that_is_in_the_way() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    let backup = server.service.take_backup(backup(&cluster)).await.unwrap();
    server.settled(&cluster).await;
    server.idle().await;
    ring.findings.lock().unwrap().extend(["Cassandra runs".to_owned(), "data is not empty".to_owned()]);
    let refused = server.service.restore_backup(restore(&cluster, &backup.snapshot_id)).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition);
    assert!(refused.message.contains("Cassandra runs") && refused.message.contains("data is not empty"));
    ring.findings.lock().unwrap().clear();
    let answer = server.service.restore_backup(restore(&cluster, &backup.snapshot_id)).await.unwrap();
    assert_eq!((answer.status, answer.target_ips), (Status::Started, vec![NODE.to_owned()]));
    server.idle().await;
    let entries = server.service.list_restores(by_cluster(&cluster)).await.unwrap();
    assert_eq!(entries.len(), 1, "a refused request has no history");
    assert_eq!((entries[0].status, entries[0].message.as_str()), (Status::Completed, "start Cassandra"));
}

#[tokio::test]
async fn a_restore_is_taken_up_after_a_restart_unless_nobody_heard_that_it_was_accepted() {
    for (step, runs) in [("plan_restore", 0), ("restore", 1)] {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let first = Server::start(directory.path(), &ring).await;
        let cluster = first.register().await;
        let backup = first.service.take_backup(backup(&cluster)).await.unwrap();
        first.settled(&cluster).await;
        first.idle().await;
        ring.on(step, Action::Hang);
        let asked = {
            let (service, request) = (Arc::clone(&first.service), restore(&cluster, &backup.snapshot_id));
            tokio::spawn(async move { service.restore_backup(request).await })
        };
        timeout(Duration::from_secs(30), ring.reached.notified()).await.expect("the stage is reached");
        first.service.shut_down().await;
        drop(asked.await);
        ring.heal();
        let second = Server::start(directory.path(), &ring).await;
        second.idle().await;
        let entries = second.service.list_restores(by_cluster(&cluster)).await.unwrap();
        assert_eq!(entries.iter().filter(|e| e.status == Status::Completed).count(), runs, "{step}");
    }
}

#[tokio::test]
async fn what_is_unknown_is_named() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    let no_cluster = server.service.take_backup(backup("nobody")).await.unwrap_err();
    assert_eq!(no_cluster.kind, OperationErrorKind::InvalidArgument);
    assert_eq!(no_cluster.message, "The specified cluster cannot be found.");
    for unknown in ["0197a5ac-0000-7000-8000-000000000000", "nonsense"] {
        let no_backup = server.service.restore_backup(restore(&cluster, unknown)).await.unwrap_err();
        assert_eq!(no_backup.kind, OperationErrorKind::NotFound);
    }
    let mut stranger = backup(&cluster);
    stranger.target_ips = vec!["127.0.0.9".to_owned()];
    let refused = server.service.take_backup(stranger).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::InvalidArgument);
    assert!(refused.message.contains("127.0.0.9"), "{refused}");
}

#[tokio::test]
async fn a_ring_with_a_node_down_is_not_registered() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    // Cassandra calls unreachable what has left the ring, too, for days.
    ring.down.lock().unwrap().push("127.0.0.2".to_owned());
    server.service.register_cluster(NODE).await.unwrap();
    ring.strangers.lock().unwrap().push("127.0.0.2".to_owned());
    let refused = server.service.register_cluster(NODE).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::Unavailable);
    assert!(refused.message.contains("127.0.0.2"), "{refused}");
}

#[tokio::test]
async fn only_snapshots_of_our_dead_jobs_are_cleared() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    let first = server.service.take_backup(backup(&cluster)).await.unwrap();
    server.idle().await;
    let leftover = format!("cassy-{}-7", first.snapshot_id);
    let others = ["daily", "cassy-0197a5ac-0000-7000-8000-000000000000-1", "cassy-"];
    for tag in others.into_iter().chain([leftover.as_str()]) {
        ring.snapshots.lock().unwrap().insert(tag.to_owned(), vec!["ks".to_owned()]);
    }
    server.service.take_backup(backup(&cluster)).await.unwrap();
    server.idle().await;
    let kept: Vec<_> = ring.snapshots.lock().unwrap().keys().cloned().collect();
    assert_eq!(kept, ["cassy-", "cassy-0197a5ac-0000-7000-8000-000000000000-1", "daily"]);
}

fn by_cluster(cluster_id: &str) -> cassy_control::HistorySelector {
    cassy_control::HistorySelector { cluster_id: Some(cluster_id.to_owned()), ..Default::default() }
}
