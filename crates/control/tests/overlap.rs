//! What must not overlap: two jobs on one node, and two that pause the applications. The second is refused, and told of
//! the first.

use std::sync::Arc;

use crate::world::applications::FakeApplications;
use crate::world::{Action, NODE, Ring, Rings, Server, backup, first_of, restore};
use cassy_control::{
    BackupRequest, BackupType, HistorySelector, OperationError, OperationErrorKind, Operations,
};
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Backup,
    Restore,
}

impl Kind {
    /// Where it is held after its request was answered.
    fn step(self) -> &'static str {
        match self {
            Self::Backup => "upload",
            Self::Restore => "restore",
        }
    }
}

/// One node that has been backed up.
struct Scene {
    _directory: TempDir,
    ring: Arc<Ring>,
    server: Server,
    cluster: String,
    snapshot: String,
}

impl Scene {
    async fn set() -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        let snapshot = server.service.take_backup(backup(&cluster)).await.unwrap().snapshot_id;
        server.idle().await;
        Self { _directory: directory, ring, server, cluster, snapshot }
    }

    /// The id of its job.
    async fn ask(&self, kind: Kind) -> Result<String, OperationError> {
        let service = &self.server.service;
        match kind {
            Kind::Backup => service.take_backup(backup(&self.cluster)).await.map(|answer| answer.job_id),
            Kind::Restore => {
                let answer = service.restore_backup(restore(&self.cluster, &self.snapshot)).await?;
                Ok(answer.job_id.unwrap())
            }
        }
    }
}

#[tokio::test]
async fn a_second_job_on_a_node_is_refused_with_the_id_of_the_first() {
    use Kind::{Backup, Restore};
    for (first, second) in [(Backup, Backup), (Backup, Restore), (Restore, Backup), (Restore, Restore)] {
        let scene = Scene::set().await;
        scene.ring.once(first.step(), Action::Hang);
        let job_id = scene.ask(first).await.unwrap();
        scene.ring.reached.notified().await;
        let refused = scene.ask(second).await.unwrap_err();
        assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition, "{first:?}, {second:?}");
        assert!(
            refused.message.contains(&format!("{NODE} is at work for the job {job_id}")),
            "{first:?}, {second:?}: {refused}"
        );
        scene.ring.wake();
        scene.server.idle().await;
        scene.ask(second).await.unwrap();
        scene.server.idle().await;
    }
}

/// Of a restore that goes to another address, the node that it goes to is at work, and not the one that it came from.
#[tokio::test]
async fn of_a_restore_the_target_is_at_work() {
    let scene = Scene::set().await;
    let elsewhere = || {
        let mut request = restore(&scene.cluster, &scene.snapshot);
        request.source_of.insert("127.0.0.2".to_owned(), NODE.to_owned());
        request
    };
    // The one that it came from is gone.
    scene.ring.on("connect", Action::Fail(cassy_control::nodes::NodeErrorKind::Unreachable));
    scene.ring.once("restore", Action::Hang);
    let first = scene.server.service.restore_backup(elsewhere()).await.unwrap().job_id.unwrap();
    scene.ring.reached.notified().await;
    let refused = scene.server.service.restore_backup(elsewhere()).await.unwrap_err();
    let expected = format!("127.0.0.2 is at work for the job {first}");
    assert!(refused.message.contains(&expected), "{refused}");
    scene.server.service.restore_backup(restore(&scene.cluster, &scene.snapshot)).await.unwrap();
    scene.ring.wake();
    scene.server.idle().await;
}

#[tokio::test]
async fn only_one_backup_pauses_the_applications_also_of_several_clusters() {
    let directory = tempfile::tempdir().unwrap();
    let (rings, applications) = (Rings::of(&[NODE]).and_clusters(2), FakeApplications::of(2));
    let server = Server::start_over(directory.path(), &rings, &applications).await;
    let mut clusters = Vec::new();
    for cluster in 0..3 {
        clusters.push(server.service.register_cluster(&first_of(cluster)).await.unwrap().cluster_id);
    }
    let of = |cluster: usize, backup_type| BackupRequest { backup_type, ..backup(&clusters[cluster]) };
    let ring = &rings.0[NODE];
    for step in ["flush", "take_snapshot"] {
        ring.once(step, Action::Hang);
        let (service, request) = (Arc::clone(&server.service), of(0, BackupType::Cluster));
        let first = tokio::spawn(async move { service.take_backup(request).await });
        ring.reached.notified().await;
        let live = server.catalog.unfinished_jobs().await.unwrap().remove(0).job_id;
        let refused = server.service.take_backup(of(1, BackupType::Cluster)).await.unwrap_err();
        assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition, "{step}: {refused}");
        assert!(refused.message.contains(&live) && refused.message.contains("applications"), "{refused}");
        // One that pauses nobody goes on beside it.
        server.service.take_backup(of(2, BackupType::Node)).await.unwrap();
        ring.wake();
        assert_eq!(first.await.unwrap().unwrap().job_id, live);
        server.idle().await;
    }
    // Once the applications go on, the next one may pause them.
    ring.once("upload", Action::Hang);
    server.service.take_backup(of(0, BackupType::Cluster)).await.unwrap();
    server.service.take_backup(of(1, BackupType::Cluster)).await.unwrap();
    ring.wake();
    server.idle().await;
}

#[tokio::test]
async fn a_backup_that_goes_on_after_a_restart_keeps_the_applications_from_others() {
    let directory = tempfile::tempdir().unwrap();
    let (rings, applications) = (Rings::of(&[NODE]).and_clusters(1), FakeApplications::of(1));
    let first = Server::start_over(directory.path(), &rings, &applications).await;
    let mut clusters = Vec::new();
    for cluster in 0..2 {
        clusters.push(first.service.register_cluster(&first_of(cluster)).await.unwrap().cluster_id);
    }
    let ask = |server: &Server, cluster: usize| {
        let request = BackupRequest { backup_type: BackupType::Cluster, ..backup(&clusters[cluster]) };
        let service = Arc::clone(&server.service);
        tokio::spawn(async move { service.take_backup(request).await })
    };
    rings.0[NODE].on("flush", Action::Hang);
    let one = ask(&first, 0);
    rings.0[NODE].reached.notified().await;
    first.service.shut_down().await;
    assert!(one.await.unwrap().is_err());
    let second = Server::start_over(directory.path(), &rings, &applications).await;
    rings.0[NODE].reached.notified().await;
    let refused = ask(&second, 1).await.unwrap().unwrap_err();
    assert!(refused.message.contains("applications"), "{refused}");
    rings.0[NODE].heal();
    second.idle().await;
    ask(&second, 1).await.unwrap().unwrap();
    second.idle().await;
    let rows = second.service.list_backups(HistorySelector::default()).await.unwrap();
    assert!(
        rows.len() == 2 && rows.iter().all(|row| row.job_id.as_ref() == Some(&row.snapshot_id)),
        "{rows:?}"
    );
}
