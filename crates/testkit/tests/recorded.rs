//! The recorded node answers as a Cassandra does, and misbehaves as ordered.

use std::sync::Arc;
use std::time::Duration;

use cassy_cassandra::{Deadlines, Keyspaces, NodeSession, OperationMode, SnapshotTag, TcpDialer};
use cassy_testkit::{Doing, Failure, Order, RecordedNode, Recording, oracle};

const LIMIT: Duration = Duration::from_secs(60);
const TAG: &str = "cassy-8d5ed9f4-7764-4dbd-bad8-43fddce94b7c-1";

fn tag() -> SnapshotTag {
    TAG.parse().expect("a tag")
}

async fn node(directory: &tempfile::TempDir) -> Result<RecordedNode, Failure> {
    let mut node = RecordedNode::builder(&Recording::synthetic()?, directory.path().join("node")).build()?;
    node.start().await?;
    Ok(node)
}

async fn session(node: &RecordedNode) -> Result<NodeSession, Failure> {
    NodeSession::connect(Arc::new(TcpDialer), "127.0.0.1", node.jmx_port(), Deadlines::default())
        .await
        .doing(|| "connect")
}

#[tokio::test]
async fn it_answers_all_that_a_session_asks() -> Result<(), Failure> {
    let directory = tempfile::tempdir().doing(|| "make a directory")?;
    let node = node(&directory).await?;
    let mut session = session(&node).await?;
    let own = "127.0.0.1".parse().expect("an address");
    let asked = async {
        let host_id = session.local_host_id().await?;
        assert_eq!(session.endpoint_to_host_id().await?.into_iter().collect::<Vec<_>>(), [(own, host_id)]);
        assert_eq!(session.operation_mode().await?, OperationMode::Normal);
        assert_eq!(session.cluster_name().await?, node.cluster_name());
        assert!(session.partitioner().await?.ends_with("Murmur3Partitioner"));
        assert_eq!(session.release_version().to_string(), "5.0.9");
        assert_eq!(session.live_nodes().await?, [own]);
        assert!(session.unreachable_nodes().await?.is_empty());
        assert!(session.joining_nodes().await?.is_empty());
        assert!(session.leaving_nodes().await?.is_empty());
        assert!(session.moving_nodes().await?.is_empty());
        assert_eq!(session.tokens(own).await?.len(), 4);
        assert_eq!(session.datacenter(own).await?, "datacenter1");
        assert_eq!(session.rack(own).await?, "rack1");
        assert!(session.incremental_backups_enabled().await?);
        assert!(session.commit_log_location().await?.is_some());
        assert!(session.saved_caches_location().await?.is_some());
        let locations = session.data_file_locations().await?;
        assert_eq!(locations, [node.data_directories()[0].display().to_string()]);
        assert_eq!(session.keyspaces().await?, ["backups", "shop", "snapshots", "system", "system_schema"]);
        let tables = session.tables().await?;
        assert!(tables.contains(&("system".to_owned(), "peers_v2".to_owned())), "{tables:?}");
        session.keep_alive().await?;
        session.close().await
    };
    asked.await.doing(|| "ask")
}

#[tokio::test]
async fn it_takes_and_clears_snapshots_of_the_keyspaces_that_are_named() -> Result<(), Failure> {
    let directory = tempfile::tempdir().doing(|| "make a directory")?;
    let node = node(&directory).await?;
    let mut session = session(&node).await?;
    let data = node.data_directories();
    let keyspaces = Keyspaces::new(vec!["shop".to_owned(), "system".to_owned()]).expect("names");
    session.flush(&keyspaces, LIMIT).await.doing(|| "flush")?;
    session.take_snapshot(tag(), &keyspaces, LIMIT).await.doing(|| "take a snapshot")?;

    let taken = oracle::snapshot(&data, TAG)?;
    let expected: oracle::Files = oracle::placed(&data)?
        .into_iter()
        .filter(|(path, _)| path.starts_with("shop/") || path.starts_with("system/"))
        .collect();
    assert_eq!(oracle::differences(&expected, &oracle::sstable_files(&taken)), Vec::<String>::new());
    assert_eq!(taken.keys().filter(|path| path.ends_with("/manifest.json")).count(), 4);
    assert_eq!(taken.keys().filter(|path| path.ends_with("/schema.cql")).count(), 2);
    let again = session.take_snapshot(tag(), &keyspaces, LIMIT).await.expect_err("the tag exists");
    assert!(again.to_string().contains(TAG) && chain(&again).contains("already exists."), "{again:?}");

    node.snapshot("operators-own")?;
    session.clear_snapshot(tag(), &keyspaces, LIMIT).await.doing(|| "clear the snapshot")?;
    session.clear_snapshot(tag(), &keyspaces, LIMIT).await.doing(|| "clear what is not there")?;
    assert_eq!(oracle::snapshot_tags(&data)?, ["operators-own"]);
    assert_eq!(oracle::snapshot(&data, TAG)?, oracle::Files::new());
    Ok(())
}

#[tokio::test]
async fn it_misbehaves_as_ordered_until_the_order_is_lifted() -> Result<(), Failure> {
    let directory = tempfile::tempdir().doing(|| "make a directory")?;
    let mut node = node(&directory).await?;
    let keyspaces = Keyspaces::new(vec!["shop".to_owned()]).expect("a name");

    let mut caller = session(&node).await?;
    node.order("forceKeyspaceFlush", &Order::Fail("no space left on device".to_owned()))?;
    let failed = caller.flush(&keyspaces, LIMIT).await.expect_err("ordered to fail");
    assert!(chain(&failed).contains("java.io.IOException: no space left on device"), "{failed:?}");
    node.lift("forceKeyspaceFlush")?;
    caller.flush(&keyspaces, LIMIT).await.doing(|| "flush after the order")?;

    let at = Order::FailAt("shop.orders".to_owned(), "cannot link".to_owned());
    node.order("takeSnapshot", &at)?;
    assert!(caller.take_snapshot(tag(), &keyspaces, LIMIT).await.is_err());
    assert!(oracle::snapshot(&node.data_directories(), TAG)?.keys().all(|path| path.contains("/documents-")));
    node.order("takeSnapshot", &Order::Skip("shop.orders".to_owned()))?;
    caller.clear_snapshot(tag(), &keyspaces, LIMIT).await.doing(|| "clear")?;
    caller.take_snapshot(tag(), &keyspaces, LIMIT).await.doing(|| "take a snapshot with a hole")?;
    assert!(oracle::snapshot(&node.data_directories(), TAG)?.keys().all(|path| path.contains("/documents-")));

    node.order("ClusterName", &Order::Hang)?;
    let asked = tokio::spawn(async move { caller.cluster_name().await });
    node.hangs_in("ClusterName").await?;
    assert!(!asked.is_finished());
    node.lift("ClusterName")?;
    let answered = asked.await.doing(|| "wait for the answer")?;
    assert_eq!(answered.doing(|| "ask for the name")?, "Test Cluster");

    node.order("Keyspaces", &Order::Answer(b"\x51\xac\xed\x00\x06".to_vec()))?;
    let answered = session(&node).await?.keyspaces().await.expect_err("hostile bytes");
    assert!(chain(&answered).contains("aced0005"), "{answered:?}");

    node.order("getRack", &Order::Exit)?;
    let own = "127.0.0.1".parse().expect("an address");
    assert!(session(&node).await?.rack(own).await.is_err());
    node.stop().await?;
    assert!(!node.is_running());
    Ok(())
}

#[tokio::test]
async fn it_refuses_to_start_where_a_restore_is_unfinished() -> Result<(), Failure> {
    let directory = tempfile::tempdir().doing(|| "make a directory")?;
    let mut node = node(&directory).await?;
    node.kill();
    let sentinel = node.data_directories()[0].join("node-backup/RESTORE_INCOMPLETE/aa-1-big-Data.db");
    std::fs::create_dir_all(sentinel.parent().expect("below")).doing(|| "make a directory")?;
    std::fs::write(&sentinel, "").doing(|| "write the sentinel")?;
    let refused = node.start().await.expect_err("a sentinel");
    assert!(refused.to_string().contains("Detected unreadable sstables"), "{refused}");
    std::fs::remove_file(sentinel).doing(|| "remove the sentinel")?;
    node.start().await
}

#[tokio::test]
async fn it_has_as_many_files_as_wanted() -> Result<(), Failure> {
    let directory = tempfile::tempdir().doing(|| "make a directory")?;
    let recording = Recording::with_many_files(1, 300, 5_000)?;
    let node = RecordedNode::builder(&recording, directory.path().join("node")).build()?;
    let files = oracle::placed(&node.data_directories())?;
    let of_many = files.iter().filter(|(path, _)| path.starts_with("many/files0-"));
    assert_eq!(of_many.clone().count(), 900);
    assert_eq!(of_many.filter(|(path, fact)| path.ends_with("Data.db") && fact.0 == 5_000).count(), 300);
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
