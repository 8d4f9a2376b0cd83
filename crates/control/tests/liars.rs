//! Nodes that do not tell the truth: it costs them their own part, and no other node anything.

use crate::world::applications::FakeApplications;
use crate::world::{NODE, Rings, Server, backup, host_id};
use cassy_agent_protocol::UploadSummary;
use cassy_backup_format::{BackupId, ClusterManifest, Keys};
use cassy_control::{HistorySelector, OperationError, OperationErrorKind, Operations, Status};
use tempfile::TempDir;

/// The second node of the ring; the first one is asked for the ring.
const OTHER: &str = "127.0.0.2";
const OTHERS_ID: &str = "6a5c7f0e-0000-4000-8000-000000000002";

type Lie = fn(&mut UploadSummary);

struct Scene {
    rings: Rings,
    server: Server,
    cluster: String,
    _directory: TempDir,
}

impl Scene {
    async fn set() -> Self {
        let (directory, rings) = (tempfile::tempdir().unwrap(), Rings::of(&[NODE, OTHER]));
        let server = Server::start_over(directory.path(), &rings, &FakeApplications::default()).await;
        let cluster = server.register().await;
        Self { rings, server, cluster, _directory: directory }
    }

    async fn refused(&self) -> OperationError {
        let error = self.server.service.take_backup(backup(&self.cluster)).await.unwrap_err();
        self.server.idle().await;
        assert_eq!(error.kind, OperationErrorKind::FailedPrecondition, "{error}");
        let history = self.server.service.list_backups(HistorySelector::default()).await.unwrap();
        assert_eq!(history, [], "what is refused has no history");
        error
    }
}

#[tokio::test]
async fn a_node_that_passes_for_another_one_is_refused_before_anything_of_that_one_is_touched() {
    let scene = Scene::set().await;
    let liar = &scene.rings.0[OTHER];
    *liar.passes_for.lock().unwrap() = Some(host_id());
    let error = scene.refused().await;
    let expected =
        format!("{OTHER} answers as the node {}, and the ring had {OTHERS_ID} at this address", host_id());
    assert!(error.message.starts_with(&expected), "{error}");
    assert!(error.hints.iter().any(|hint| hint.contains("replaced")), "{error:?}");
    assert_eq!(liar.steps(&["lock", "list_snapshots", "upload"]), Vec::<String>::new());
    *liar.passes_for.lock().unwrap() = None;
    scene.server.service.take_backup(backup(&scene.cluster)).await.unwrap();
    assert!(
        scene.server.settled(&scene.cluster).await.iter().all(|(status, _)| *status == Status::Completed)
    );
}

#[tokio::test]
async fn a_ring_with_one_host_id_at_two_addresses_is_refused() {
    let scene = Scene::set().await;
    *scene.rings.0[NODE].passes_for.lock().unwrap() = Some(OTHERS_ID.parse().unwrap());
    let error = scene.refused().await;
    let expected = format!("has the host id {OTHERS_ID} at both {NODE} and {OTHER}");
    assert!(error.message.ends_with(&expected), "{error}");
    for ring in scene.rings.0.values() {
        assert_eq!(ring.steps(&["agent", "lock"]), Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_upload_that_cannot_be_as_it_is_told_fails_its_own_node_and_the_summary_names_the_others() {
    let lies: [(Lie, &str); 2] = [
        (|summary| summary.manifest = anothers_manifest(), "its manifest is "),
        (|summary| summary.blake3 = "no digest".to_owned(), "the digest of its manifest is not"),
    ];
    for (lie, told) in lies {
        let scene = Scene::set().await;
        *scene.rings.0[OTHER].upload_lie.lock().unwrap() = Some(lie);
        let id = scene.server.service.take_backup(backup(&scene.cluster)).await.unwrap().snapshot_id;
        scene.server.idle().await;
        let rows = scene.server.service.list_backups(HistorySelector::default()).await.unwrap();
        let shown: Vec<_> = rows.iter().map(|row| (row.target_ip.as_str(), row.status)).collect();
        assert_eq!(shown, [(NODE, Status::Completed), (OTHER, Status::Failed)], "{rows:?}");
        let message = &rows[1].message;
        assert!(
            message.starts_with(&format!("{OTHER}: what the agent says of its upload cannot be: {told}"))
        );
        assert!(message.contains("hint: find out what answers on this node"), "{message}");

        let keys = Keys::new(scene.cluster.parse().unwrap()).unwrap();
        let store = scene.rings.0[NODE].store.lock().unwrap().clone().unwrap();
        let summary = store.get(&keys.cluster_manifest(&id.parse().unwrap()), 1 << 20).await.unwrap();
        let summary = ClusterManifest::from_json(&summary).unwrap();
        let held: Vec<_> = summary.nodes.iter().map(|node| node.address.as_str()).collect();
        assert_eq!(held, [NODE]);
        assert!(
            summary.missing[0].address == OTHER && summary.missing[0].reason.contains(told),
            "{summary:?}"
        );
    }
}

fn anothers_manifest() -> cassy_backup_format::ObjectKey {
    Keys::new("c".parse().unwrap()).unwrap().node_manifest(&host_id(), &BackupId::at(1))
}
