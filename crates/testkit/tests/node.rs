//! The kit's own node, for real.

use cassy_testkit::{Cassandra, Runtime, oracle};

#[tokio::test]
async fn starts_stops_and_says_why_it_does_not_start() {
    let Some(runtime) = Runtime::or_skip().await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut node = Cassandra::builder(&runtime, directory.path())
        .cluster_name("A \"quoted\" name: with / and 日本")
        .data_directories(2)
        .build()
        .unwrap();
    node.start().await.unwrap();
    assert!(node.is_running());
    assert!(node.wipe().is_err());

    node.nodetool(&["snapshot", "-t", "mine"]).await.unwrap();
    let snapshot = oracle::snapshot(&node.data_directories(), "mine").unwrap();
    assert!(snapshot.keys().any(|path| path.starts_with("system_schema/tables-")), "{snapshot:?}");
    assert_eq!(oracle::snapshot_tags(&node.data_directories()).unwrap(), ["mine"]);

    node.stop().await.unwrap();
    let broken = node.data_directories()[0].join("node-backup/RESTORE_INCOMPLETE");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("aa-1-big-Data.db"), "").unwrap();
    let refusal = node.start().await.unwrap_err().to_string();
    assert!(refusal.contains("Detected unreadable sstables"), "{refusal}");
    assert!(!node.is_running());

    node.wipe().unwrap();
    assert_eq!(oracle::everything(&node.data_directories()).unwrap(), Vec::<std::path::PathBuf>::new());
    node.start().await.unwrap();
    node.kill();
    assert!(!node.is_running());
}
