//! What speaks against a request, as the operator reads it; nothing is touched then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::world::{Action, NODE, Ring, Server, backup, restore};
use cassy_backup_format::BackupId;
use cassy_control::{HistorySelector, OperationError, OperationErrorKind, Operations};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::time::timeout;

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

    async fn refused(&self) -> OperationError {
        let error = self.server.service.take_backup(backup(&self.cluster)).await.unwrap_err();
        self.server.idle().await;
        assert_eq!(self.server.service.list_backups(HistorySelector::default()).await.unwrap(), []);
        let touched = ["list_superseded", "flush", "take_snapshot", "sweep_snapshots", "upload"];
        assert_eq!(self.ring.steps(&touched), Vec::<String>::new());
        error
    }

    /// As somebody else who has the database open.
    async fn write(&self, sql: &'static str, values: &[&str]) {
        let url = format!("sqlite://{}", self.directory.path().join("cassy.db").display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let query = values.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
        assert_eq!(query.execute(&mut connection).await.unwrap().rows_affected(), 1);
    }

    async fn not_restored(&self, snapshot_id: &str) -> OperationError {
        let error =
            self.server.service.restore_backup(restore(&self.cluster, snapshot_id)).await.unwrap_err();
        assert_eq!(error.kind, OperationErrorKind::FailedPrecondition, "{error}");
        assert_eq!(self.ring.steps(&["plan_restore"]), Vec::<String>::new());
        error
    }
}

#[tokio::test]
async fn a_node_that_is_leaving_is_not_backed_up() {
    let scene = Scene::set().await;
    *scene.ring.mode.lock().unwrap() = Some("LEAVING".to_owned());
    let error = scene.refused().await;
    assert_eq!(error.message, format!("{NODE} is in the mode LEAVING; a backup wants NORMAL"));
}

#[tokio::test]
async fn a_node_without_data_directories_is_not_backed_up() {
    let scene = Scene::set().await;
    scene.ring.no_data_directories.store(true, Ordering::SeqCst);
    assert_eq!(scene.refused().await.message, format!("{NODE}: Cassandra names no data directory"));
}

#[tokio::test]
async fn an_agent_with_an_answer_of_another_kind_refuses_its_backup() {
    for request in ["inspect", "list_snapshots"] {
        let scene = Scene::set().await;
        *scene.ring.misunderstood.lock().unwrap() = Some(request);
        let error = scene.refused().await;
        assert_eq!(
            error.message,
            format!("{NODE}: the agent gave an answer of another kind: Done"),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_cluster_that_was_registered_without_nodes_is_to_be_registered_again() {
    let scene = Scene::set().await;
    scene.write("UPDATE cluster_info SET target_ips = '' WHERE cluster_id = $1", &[&scene.cluster]).await;
    let error = scene.refused().await;
    assert_eq!(error.kind, OperationErrorKind::InvalidArgument);
    assert_eq!(error.message, "the registered cluster has no nodes");
    assert_eq!(error.hints, ["register it again"]);
}

#[tokio::test]
async fn a_backup_of_which_no_node_is_done_yet_is_not_restored() {
    let scene = Scene::set().await;
    scene.ring.on("upload", Action::Hang);
    let id = scene.server.service.take_backup(backup(&scene.cluster)).await.unwrap().snapshot_id;
    timeout(Duration::from_secs(30), scene.ring.reached.notified()).await.expect("it uploads");
    let error = scene.not_restored(&id).await;
    assert_eq!(error.message, format!("the backup {id} cannot be restored: it is under way"));
    assert_eq!(error.hints, ["wait until ListBackups shows it COMPLETED"]);
    scene.ring.heal();
    scene.server.idle().await;
}

/// Java Cassy's, say: its rows have no job.
#[tokio::test]
async fn a_backup_without_a_manifest_in_the_store_is_not_restored() {
    let scene = Scene::set().await;
    let id = BackupId::at(7).to_string();
    let row = "INSERT INTO backup_history (cluster_id, target_ip, snapshot_id, created_at, updated_at, backup_type, status) \
               VALUES ($1, $2, $3, 7, 7, 2, 3)";
    scene.write(row, &[&scene.cluster, NODE, &id]).await;
    let error = scene.not_restored(&id).await;
    assert_eq!(error.message, format!("the backup {id} cannot be restored: it has no manifest in the store"));
}
