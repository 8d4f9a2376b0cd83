//! The main job on a real Cassandra: a backup, everything lost, a restore, every row and every file compared.
//!
//! The oracle is the test's own: `find` and SHA-256 of the backup's snapshot, kept before its upload can have ended,
//! and rows with WRITETIME and TTL.

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
    world.node.nodetool(&["snapshot", "-t", OPERATORS_TAG]).await?;
    cql.execute("INSERT INTO shop.plain (id, value) VALUES (4711, 'unflushed')").await?;
    let rows = dataset::fingerprints(&cql).await?;
    assert!(rows.values().all(|table| !table.is_empty()), "more than no rows in each table");

    // When: two backups, the second of unchanged data, and the node loses everything.
    let cluster = world.register().await?;
    assert_eq!(world.register().await?, cluster, "a known cluster keeps its id");
    let (first, first_files) = back_up_under_watch(&mut world, &cluster).await?;
    assert!(first_files.keys().any(|path| path.contains("/.")), "files of a secondary index are among them");
    let bytes_after_first = bytes_in(&world.store());
    let (second, second_files) = back_up_under_watch(&mut world, &cluster).await?;
    let added = bytes_in(&world.store()) - bytes_after_first;
    assert!(added < bytes_after_first / 4, "{added} bytes were sent again of {bytes_after_first}");

    assert_only_operators_snapshot_is_left(&directories)?;
    assert_eq!(
        superseded_files(&directories)?,
        Vec::<String>::new(),
        "superseded incremental files are cleared"
    );

    for (snapshot, files) in [(&second, &second_files), (&first, &first_files)] {
        world.node.stop().await?;
        world.node.wipe()?;
        assert!(oracle::everything(&directories)?.is_empty());
        world.restore(&cluster, snapshot).await?;

        // Then: the files are those of the snapshot, byte for byte, none is missing and none too many.
        let placed = oracle::placed(&directories)?;
        assert_eq!(oracle::differences(files, &placed), Vec::<String>::new());
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

/// A backup, and what its snapshot held, system keyspaces too.
///
/// A request is answered once the snapshot is whole. The server is frozen from then on until the snapshot is kept,
/// so that it cannot be cleared meanwhile.
async fn back_up_under_watch(world: &mut World, cluster: &str) -> Result<(String, oracle::Files), Failure> {
    let snapshot = world.begin_backup(cluster).await?;
    world.server.freeze();
    let keep = world.path().join("kept").join(&snapshot);
    oracle::keep_snapshot(&world.node.data_directories(), &format!("cassy-{snapshot}-1"), &keep)?;
    world.server.thaw();
    let files = oracle::sstable_files(&oracle::placed(&[keep])?);
    assert!(files.keys().any(|path| path.starts_with("system/local-")), "the whole node is in it");
    let (status, message) = world.backup_outcome(&snapshot).await?;
    assert_eq!(status, OperationStatus::Completed, "{message}");
    Ok((snapshot, files))
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
