//! A real node whose number of data directories is another one at the restore than at the backup: nothing is lost, each
//! SSTable lies in one of them, and Cassandra finds all of it there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use cassy_api::proto::OperationStatus;
use cassy_testkit::{Failure, Runtime, World, dataset, oracle};

#[tokio::test]
async fn a_node_comes_back_with_fewer_data_directories_and_with_more() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.node(|node| node.data_directories(2)).start().await?;
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let rows = dataset::fingerprints(&cql).await?;
    let cluster = world.register().await?;

    for (before, after) in [(2, 1), (1, 2)] {
        // Given: a backup of a node that has lost everything, directories included.
        assert_eq!(shares(&world.node.data_directories())?.len(), before, "data lies in each");
        let snapshot = world.back_up(&cluster).await?;
        world.node.stop().await?;
        world.node.wipe()?;

        // When: it is restored with another number of them.
        world.node.set_data_directories(after)?;
        let answer = world.server.begin_restore(&cluster, &snapshot, &[]).await?.message;
        let told = format!(
            "had {before} data directories, this one has {after}: each SSTable goes where most room is left"
        );
        assert!(answer.contains(&told), "{answer}");
        let (status, message) = world.restore_outcome(&snapshot).await?;
        assert_eq!(status, OperationStatus::Completed, "{message}");

        // Then: all has a place in them, nothing is left of the staging, and every row is back.
        let directories = world.node.data_directories();
        assert_eq!(shares(&directories)?.len(), after, "data lies in each");
        assert!(directories.iter().all(|data| !data.join("node-backup").exists()), "staging is removed");
        world.node.start().await?;
        let cql = world.cql().await?;
        dataset::check_indexes(&cql).await?;
        assert_eq!(dataset::differences(&rows, &dataset::fingerprints(&cql).await?), Vec::<String>::new());
    }
    Ok(())
}

/// The directories that have rows of ours.
fn shares(directories: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut found = BTreeSet::new();
    for data in directories {
        let files = oracle::placed(std::slice::from_ref(data))?;
        if files.keys().any(|path| path.starts_with("shop/") && path.ends_with("-Data.db")) {
            found.insert(data.clone());
        }
    }
    Ok(found)
}
