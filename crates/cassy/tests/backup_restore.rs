//! The main job on a real Cassandra: a backup, everything lost, a restore, every row and every file compared.
//!
//! The oracle is the test's own: an operator's snapshot taken before the backup, and rows with WRITETIME and TTL.

use std::collections::BTreeSet;

use cassy_api::proto::{BackupListingRequest, ClusterListingRequest, OperationStatus};
use cassy_testkit::{Doing, Failure, Runtime, World, dataset, oracle};

const OPERATORS_TAG: &str = "operators-own";

#[tokio::test]
async fn a_lost_node_comes_back_with_every_row_and_file() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.node(|node| node.data_directories(2)).start().await?;
    let directories = world.node.data_directories();

    // Given: data of every kind, an operator's snapshot, then rows that are in the memtables only.
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    // So that the operator's SSTables are still the live ones at the backup.
    world.node.nodetool(&["disableautocompaction"]).await?;
    world.node.nodetool(&["snapshot", "-t", OPERATORS_TAG]).await?;
    let files = oracle::sstable_files(&oracle::snapshot(&directories, OPERATORS_TAG)?);
    let files: oracle::Files = files.into_iter().filter(|(path, _)| !path.starts_with("system")).collect();
    assert!(files.keys().any(|path| path.contains("/.")), "files of a secondary index are among them");
    cql.execute("INSERT INTO shop.plain (id, value) VALUES (4711, 'unflushed')").await?;
    let rows = dataset::fingerprints(&cql).await?;
    assert!(rows.values().all(|table| !table.is_empty()), "more than no rows in each table");

    // When: two backups, the second of unchanged data, and the node loses everything.
    let cluster = world.register().await?;
    assert_eq!(world.register().await?, cluster, "a known cluster keeps its id");
    let first = world.back_up(&cluster).await?;
    let bytes_after_first = bytes_in(&world.store());
    let second = world.back_up(&cluster).await?;
    let added = bytes_in(&world.store()) - bytes_after_first;
    assert!(added < bytes_after_first / 4, "{added} bytes were sent again of {bytes_after_first}");

    assert_only_operators_snapshot_is_left(&directories)?;
    assert_eq!(
        superseded_files(&directories)?,
        Vec::<String>::new(),
        "superseded incremental files are cleared"
    );

    for snapshot in [&second, &first] {
        world.node.stop().await?;
        world.node.wipe()?;
        assert!(oracle::everything(&directories)?.is_empty());
        world.restore(&cluster, snapshot).await?;

        // Then: the files are the operator's, byte for byte, and nothing of ours is left.
        let placed = oracle::placed(&directories)?;
        let found: oracle::Files = placed.into_iter().filter(|(path, _)| files.contains_key(path)).collect();
        assert_eq!(oracle::differences(&files, &found), Vec::<String>::new());
        let left: Vec<_> = directories.iter().map(|d| d.join("node-backup")).filter(|d| d.exists()).collect();
        assert!(left.is_empty(), "staging is removed: {left:?}");

        // And every row is back, indexes first, before any rebuild could run.
        world.node.start().await?;
        let cql = world.cql().await?;
        dataset::check_indexes(&cql).await?;
        assert_eq!(dataset::differences(&rows, &dataset::fingerprints(&cql).await?), Vec::<String>::new());
    }

    // The history says it, newest first, and the lists take their selectors.
    let mut client = world.server.client()?;
    let listed = client
        .list_backups(BackupListingRequest { cluster_id: cluster.clone(), ..Default::default() })
        .await
        .doing(|| "ListBackups")?
        .into_inner();
    let ids: Vec<_> = listed.entries.iter().map(|entry| entry.snapshot_id.clone()).collect();
    assert_eq!(ids, [second, first]);
    assert!(listed.entries.iter().all(|entry| entry.status() == OperationStatus::Completed));
    assert!(
        listed.entries.iter().all(|entry| entry.bytes_done == entry.bytes_total && entry.bytes_total > 0)
    );
    let clusters = client.list_clusters(ClusterListingRequest::default()).await.doing(|| "ListClusters")?;
    assert_eq!(clusters.into_inner().entries.len(), 1);
    Ok(())
}

fn assert_only_operators_snapshot_is_left(directories: &[std::path::PathBuf]) -> Result<(), Failure> {
    let tags: BTreeSet<_> = oracle::snapshot_tags(directories)?.into_iter().collect();
    assert_eq!(tags, BTreeSet::from([OPERATORS_TAG.to_owned()]));
    Ok(())
}

/// Files in `backups/` directories of the data set's keyspaces; nothing was flushed there since the last backup.
fn superseded_files(directories: &[std::path::PathBuf]) -> Result<Vec<String>, Failure> {
    let own = |path: &String| ["/shop/", "/MixedCase/"].iter().any(|keyspace| path.contains(keyspace));
    let files = oracle::everything(directories)?.into_iter().map(|path| path.display().to_string());
    Ok(files.filter(|path| path.contains("/backups/")).filter(own).collect())
}

fn bytes_in(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("the store is there");
    entries
        .map(|entry| {
            let entry = entry.expect("the store can be read");
            let metadata = entry.metadata().expect("the store can be read");
            if metadata.is_dir() { bytes_in(&entry.path()) } else { metadata.len() }
        })
        .sum()
}
