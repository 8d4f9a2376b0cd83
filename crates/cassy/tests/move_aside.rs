//! A real node that is not empty: a dry run says what would be done, `move_aside` brings the node back, and what was there
//! is there still.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cassy_api::proto::{OperationStatus, RestoreRequest, RestoreResponse};
use cassy_testkit::{Doing, Failure, Runtime, World, dataset, oracle};
use tonic::{Code, Status};

/// Of a version that no Cassandra reads: one that came across it would not start.
const UNREADABLE: &str = "aa-1-big-Data.db";

#[tokio::test]
async fn a_node_that_is_not_empty_is_moved_aside_and_comes_back() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.node(|node| node.data_directories(2)).start().await?;

    // Given: a backup, rows that came after it, and a file in the data that keeps Cassandra from starting.
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let rows = dataset::fingerprints(&cql).await?;
    let cluster = world.register().await?;
    let snapshot = world.back_up(&cluster).await?;
    cql.execute("INSERT INTO shop.plain (id, value) VALUES (4711, 'after the backup')").await?;
    world.node.stop().await?;
    let some_table = world.node.data_directories().remove(0).join("shop");
    let some_table = std::fs::read_dir(&some_table).doing(|| "list the keyspace")?.next();
    let some_table = some_table.expect("a table").doing(|| "list the keyspace")?.path();
    std::fs::write(some_table.join(UNREADABLE), "x").doing(|| "write the file")?;
    let before = files(&world)?;

    // When: it is asked for without move_aside, then for a dry run of it.
    let request = RestoreRequest {
        cluster_id: cluster.clone(),
        snapshot_id: snapshot.clone(),
        restore_type: 2,
        ..RestoreRequest::default()
    };
    let refused = restore(&world, request.clone()).await.expect_err("the node is not empty");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("or set move_aside to have it done"), "{refused:?}");
    let request = RestoreRequest { move_aside: true, ..request };
    let looked = restore(&world, RestoreRequest { dry_run: true, ..request.clone() }).await;
    let looked = looked.doing(|| "the dry run")?;

    // Then: it is told, and nothing is changed.
    assert_eq!(looked.status(), OperationStatus::Initialized);
    assert!(
        looked.message.starts_with("dry run: nothing was changed; the restore can begin"),
        "{}",
        looked.message
    );
    let data = world.node.data_directories().remove(0).display().to_string();
    assert!(looked.message.contains(&format!("would be moved to {data}/moved-aside-")), "{}", looked.message);
    assert_eq!(files(&world)?, before);
    world.sshd.sessions_ended().await?;

    // When: it is done.
    let begun = restore(&world, request).await.doing(|| "RestoreBackup")?;
    assert_eq!(begun.status(), OperationStatus::Started);
    let (status, message) = world.restore_outcome(&snapshot).await?;
    assert_eq!(status, OperationStatus::Completed, "{message}");
    assert!(message.contains("what was in the way lies in"), "{message}");

    // Then: every row of the backup is back, and everything that was there lies aside.
    assert_eq!(aside(&world)?, before);
    world.node.start().await?;
    assert_eq!(
        dataset::differences(&rows, &dataset::fingerprints(&world.cql().await?).await?),
        Vec::<String>::new()
    );
    assert!(before.iter().any(|path| path.ends_with(UNREADABLE)));

    // And no later backup has anything to do with it.
    world.back_up(&cluster).await?;
    assert_eq!(aside(&world)?, before);
    Ok(())
}

async fn restore(world: &World, request: RestoreRequest) -> Result<RestoreResponse, Status> {
    let mut client = world.server.client().expect("the server runs");
    client.restore_backup(request).await.map(tonic::Response::into_inner)
}

/// Every file in Cassandra's directories.
fn files(world: &World) -> Result<BTreeSet<PathBuf>, Failure> {
    Ok(oracle::everything(&world.node.own_directories())?.into_iter().collect())
}

/// What lies aside, each by where it was.
fn aside(world: &World) -> Result<BTreeSet<PathBuf>, Failure> {
    Ok(files(world)?.iter().filter_map(|path| origin(path)).collect())
}

fn origin(path: &Path) -> Option<PathBuf> {
    let parts: Vec<_> = path.iter().collect();
    let at = parts.iter().position(|part| part.to_string_lossy().starts_with("moved-aside-"))?;
    assert_eq!(parts[at + 1], "backups", "{}", path.display());
    Some(parts[..at].iter().chain(&parts[at + 2..]).collect())
}
