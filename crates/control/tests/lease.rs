//! A server whose metadata database does not answer for longer than its lease lives: it drives nothing, says so,
//! and goes on when the database answers, unless another server has taken over.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::world::{Action, NODE, Ring, Server, backup, open_catalog, parts, restore, take_lease};
use cassy_catalog::{Lease, LeaseError};
use cassy_control::{
    ClusterSelector, HistorySelector, NodeEntry, OperationError, OperationErrorKind, Operations, Status,
    Tenure,
};
use sqlx::{Connection, Executor, SqliteConnection};
use tokio::time::timeout;

/// Of the leases here; the server's own lives longer.
const TTL: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

async fn begin(directory: &Path, ring: &Arc<Ring>) -> (Arc<Tenure>, Lease) {
    let catalog = open_catalog(directory).await;
    let lease = take_lease(&catalog, TTL).await;
    let tenure = Tenure::begin(parts(directory, ring, &catalog, &lease), lease.clone()).await.unwrap();
    (tenure, lease)
}

/// Somebody who holds the database; until this is dropped or rolled back.
async fn somebody(directory: &Path, begin: &'static str) -> SqliteConnection {
    let url = format!("sqlite://{}", directory.join("cassy.db").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    connection.execute("PRAGMA busy_timeout = 10000").await.unwrap();
    connection.execute(begin).await.unwrap();
    connection
}

/// Asks until the server says that it is suspended.
async fn suspended(tenure: &Tenure) -> OperationError {
    let asked = async {
        loop {
            match tenure.list_clusters(ClusterSelector::default()).await {
                Err(error) if error.message.contains("lease") => return error,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(LONG, asked).await.expect("the server notices that its lease has run out")
}

/// The history once the server answers and no entry is under way.
async fn settled(tenure: &Tenure, cluster_id: &str) -> Vec<NodeEntry> {
    let ended = async {
        loop {
            let selector =
                HistorySelector { cluster_id: Some(cluster_id.to_owned()), ..HistorySelector::default() };
            match tenure.list_backups(selector).await {
                Ok(entries) if entries.iter().all(|e| e.status as u8 >= 3) && !entries.is_empty() => {
                    return entries;
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(LONG, ended).await.expect("the job ends")
}

#[tokio::test]
async fn a_job_goes_on_when_a_database_that_was_locked_for_longer_than_the_lease_answers_again() {
    for (lock, step) in [("BEGIN IMMEDIATE", "upload"), ("BEGIN EXCLUSIVE", "take_snapshot")] {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let (tenure, _) = begin(directory.path(), &ring).await;
        let cluster = tenure.register_cluster(NODE).await.unwrap().cluster_id;
        ring.on(step, Action::Hang);
        let asked = {
            let (tenure, request) = (Arc::clone(&tenure), backup(&cluster));
            tokio::spawn(async move { tenure.take_backup(request).await })
        };
        timeout(LONG, ring.reached.notified()).await.expect("the stage is reached");

        let mut lock = somebody(directory.path(), lock).await;
        let error = suspended(&tenure).await;
        assert_eq!(error.kind, OperationErrorKind::Unavailable, "{error}");
        assert!(error.hints.iter().any(|hint| hint.contains("metadata_db_url")), "{error:?}");
        let answer = timeout(LONG, asked).await.expect("nobody is left waiting").unwrap();
        assert_eq!(answer.is_ok(), step == "upload", "a backup is answered after its snapshot: {answer:?}");
        ring.log.lock().unwrap().clear();
        ring.heal();
        // Long enough for a renewal to be tried: what was cut stays cut, what is next is not begun.
        tokio::time::sleep(TTL).await;
        assert_eq!(*ring.log.lock().unwrap(), Vec::<String>::new(), "no effect without the lease");
        lock.execute("ROLLBACK").await.unwrap();

        let entries = settled(&tenure, &cluster).await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(entries[0].status, Status::Completed, "{entries:?}");
        tenure.take_backup(backup(&cluster)).await.expect("the server serves on");
        settled(&tenure, &cluster).await;
        tenure.end().await.unwrap();
    }
}

/// What a full and a read-only database have in common: it is read, and no write is taken.
const NO_WRITES: [&str; 3] = [
    "CREATE TRIGGER no_job BEFORE UPDATE ON job BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
    "CREATE TRIGGER no_row BEFORE INSERT ON job_node BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
    "CREATE TRIGGER no_lease BEFORE UPDATE ON lease BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
];

async fn take_no_writes(directory: &Path) -> SqliteConnection {
    let mut connection = somebody(directory, "PRAGMA synchronous = FULL").await;
    for trigger in NO_WRITES {
        connection.execute(trigger).await.unwrap();
    }
    connection
}

async fn take_writes_again(mut connection: SqliteConnection) {
    connection.execute("DROP TRIGGER no_job; DROP TRIGGER no_row; DROP TRIGGER no_lease").await.unwrap();
}

async fn restores(tenure: &Tenure) -> Vec<NodeEntry> {
    let ended = async {
        loop {
            match tenure.list_restores(HistorySelector::default()).await {
                Ok(entries) if !entries.is_empty() && entries.iter().all(|e| e.status as u8 >= 3) => {
                    return entries;
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(LONG, ended).await.expect("the restore ends")
}

/// A tenure whose only restore is held in this step of its node, and the database takes no writes any more.
async fn restore_held_in(step: &str, directory: &Path, ring: &Arc<Ring>) -> (Arc<Tenure>, SqliteConnection) {
    let (tenure, _) = begin(directory, ring).await;
    let cluster = tenure.register_cluster(NODE).await.unwrap().cluster_id;
    let snapshot = tenure.take_backup(backup(&cluster)).await.unwrap().snapshot_id;
    settled(&tenure, &cluster).await;
    ring.on(step, Action::Hang);
    let answer = tenure.restore_backup(restore(&cluster, &snapshot)).await.unwrap();
    assert_eq!(answer.status, Status::Started);
    timeout(LONG, ring.reached.notified()).await.expect("the step is reached");
    let full = take_no_writes(directory).await;
    (tenure, full)
}

#[tokio::test]
async fn a_restore_goes_on_when_a_database_that_was_full_while_it_placed_takes_writes_again() {
    for step in ["restore", "after restore"] {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let (tenure, full) = restore_held_in(step, directory.path(), &ring).await;
        let error = suspended(&tenure).await;
        assert!(error.hints.iter().any(|hint| hint.contains("metadata_db_url")), "{error:?}");
        ring.no_agents().await;
        ring.heal();
        take_writes_again(full).await;
        let rows = restores(&tenure).await;
        assert_eq!(rows.len(), 1, "{step}: {rows:?}");
        assert_eq!(
            (rows[0].status, rows[0].message.as_str()),
            (Status::Completed, "start Cassandra"),
            "{step}"
        );
        assert_eq!(
            ring.steps(&["restore"]).len(),
            2,
            "{step}: the second call finishes what the first began"
        );
        tenure.end().await.unwrap();
    }
}

/// The node is done, its row is not written: it is as soon as that can be, and nothing is done again.
#[tokio::test]
async fn a_restore_that_was_done_while_the_database_was_full_is_told_later() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let catalog = open_catalog(directory.path()).await;
    let lease = take_lease(&catalog, Duration::from_secs(3600)).await;
    let parts = parts(directory.path(), &ring, &catalog, &lease);
    let tenure = Tenure::begin(parts, lease).await.unwrap();
    let cluster = tenure.register_cluster(NODE).await.unwrap().cluster_id;
    let snapshot = tenure.take_backup(backup(&cluster)).await.unwrap().snapshot_id;
    settled(&tenure, &cluster).await;
    ring.on("restore", Action::Hang);
    tenure.restore_backup(restore(&cluster, &snapshot)).await.unwrap();
    timeout(LONG, ring.reached.notified()).await.expect("the step is reached");
    let full = take_no_writes(directory.path()).await;
    ring.heal();
    // The agent is let go before the end is stored.
    ring.no_agents().await;
    let rows = tenure.list_restores(HistorySelector::default()).await.unwrap();
    assert_eq!(rows[0].status, Status::Started, "{rows:?}");
    take_writes_again(full).await;
    let rows = restores(&tenure).await;
    assert_eq!((rows.len(), rows[0].status), (1, Status::Completed), "{rows:?}");
    assert_eq!(ring.steps(&["restore"]).len(), 1);
    tenure.end().await.unwrap();
}

#[tokio::test]
async fn a_restore_whose_server_died_while_the_database_was_full_is_taken_up_by_the_next_one() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let (tenure, full) = restore_held_in("restore", directory.path(), &ring).await;
    // Nothing is stored at its end, as nothing can be.
    tenure.end().await.ok();
    ring.heal();
    take_writes_again(full).await;
    let second = Server::start(directory.path(), &ring).await;
    second.idle().await;
    let rows = second.service.list_restores(HistorySelector::default()).await.unwrap();
    assert_eq!((rows.len(), rows[0].status), (1, Status::Completed), "{rows:?}");
    assert_eq!(ring.steps(&["restore"]).len(), 2);
}

#[tokio::test]
async fn a_server_that_was_replaced_while_it_could_not_renew_ends_and_names_the_new_one() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let (tenure, _) = begin(directory.path(), &ring).await;
    let cluster = tenure.register_cluster(NODE).await.unwrap().cluster_id;
    ring.on("upload", Action::Hang);
    tenure.take_backup(backup(&cluster)).await.unwrap();
    timeout(LONG, ring.reached.notified()).await.expect("the stage is reached");

    let mut lock = somebody(directory.path(), "BEGIN IMMEDIATE").await;
    suspended(&tenure).await;
    // What another server does when it finds the lease expired.
    let taken = "UPDATE lease SET holder = 'the second server', epoch = epoch + 1";
    lock.execute(taken).await.unwrap();
    lock.execute("COMMIT").await.unwrap();

    timeout(LONG, tenure.lost()).await.expect("the first server notices");
    let refused = tenure.list_clusters(ClusterSelector::default()).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::Unavailable, "{refused}");
    let error = tenure.end().await.unwrap_err();
    assert!(matches!(&error, LeaseError::Lost { holder, .. } if holder == "the second server"), "{error:?}");

    ring.heal();
    let second = Server::start(directory.path(), &ring).await;
    let history = second.settled(&cluster).await;
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!(history[0].0, Status::Completed, "{history:?}");
}

#[tokio::test]
async fn a_lease_is_given_back_at_the_end() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let (tenure, lease) = begin(directory.path(), &ring).await;
    tenure.end().await.unwrap();
    let catalog = open_catalog(directory.path()).await;
    let next = catalog.take_lease(&lease.name, "the next server", LONG, |_| false).await.unwrap();
    assert!(next.epoch > lease.epoch);
}
