//! Rules that no other test would miss.

use std::fs;
use std::path::PathBuf;

use cassy_backup_format::SstableEntry;

use super::super::error::RestoreError;
use super::fixture::{Backup, Node, YAML};
use crate::context::Context;

const SENTINEL: &str = "data/node-backup/RESTORE_INCOMPLETE/aa-1-big-Data.db";

async fn findings(node: &Node, backup: &Backup) -> Vec<String> {
    let request = backup.request(node).await;
    let plan = super::super::plan(&Context::default(), &node.machine, &request, &node.path("spool")).await;
    plan.unwrap().findings
}

#[tokio::test]
async fn another_snitch_is_in_the_way() {
    let (backup, node) = (Backup::whole().await, Node::new());
    node.yaml(&YAML.replace("GossipingPropertyFileSnitch", "SimpleSnitch"));
    let found = findings(&node, &backup).await;
    let expected = "change the line to endpoint_snitch: GossipingPropertyFileSnitch";
    assert!(found.iter().any(|finding| finding.ends_with(expected)), "{found:?}");
}

#[tokio::test]
async fn an_object_of_another_size_is_told_by_its_size() {
    let backup = Backup::whole().await;
    let path = backup.object_path(&backup.entries[0].objects[0].key);
    let whole = fs::read(&path).unwrap();
    for (content, told) in [
        (whole[1..].to_vec(), "it has 299999 bytes instead of 300000"),
        ([whole.as_slice(), b"x"].concat(), "it has more than its 300000 bytes"),
    ] {
        let node = Node::new();
        let request = backup.request(&node).await;
        fs::write(&path, content).unwrap();
        let error = node.run(&request).await.unwrap_err();
        assert!(error.to_string().ends_with(told), "{error}");
    }
}

/// The objects are as they were sent: only the line of the file says something else.
#[tokio::test]
async fn a_file_that_is_not_what_the_manifest_says_is_refused() {
    type Change = fn(&mut SstableEntry);
    let changes: [(Change, &str); 2] = [
        (|entry| entry.files[2].blake3 = "0".repeat(64), "its BLAKE3 is "),
        (|entry| entry.files[2].crc32 ^= 1, "its CRC-32 is "),
    ];
    for (change, told) in changes {
        let (mut backup, node) = (Backup::whole().await, Node::new());
        change(&mut backup.entries[1]);
        let error = node.run(&backup.request(&node).await).await.unwrap_err();
        let RestoreError::Corrupt { file: Some(file), reason, .. } = &error else { panic!("{error:?}") };
        assert_eq!(file, "nb-2-big-Statistics.db");
        assert!(reason.starts_with(told), "{reason}");
        assert!(node.names().is_empty(), "{:?}", node.names());
    }
}

/// All digests of the manifest fit; Cassandra's own, which lies beside the data, does not.
#[tokio::test]
async fn a_digest_of_other_data_is_refused() {
    let (mut backup, node) = (Backup::whole().await, Node::new());
    let other = b"six";
    let blake3 = blake3::hash(other).to_hex().to_string();
    fs::write(backup.object_path(&backup.entries[1].objects[0].key), other).unwrap();
    let entry = &mut backup.entries[1];
    entry.objects[0].blake3.clone_from(&blake3);
    (entry.files[0].blake3, entry.files[0].crc32) = (blake3, crc32fast::hash(other));
    let error = node.run(&backup.request(&node).await).await.unwrap_err();
    let RestoreError::Corrupt { file: Some(file), reason, .. } = &error else { panic!("{error:?}") };
    assert_eq!(file, "nb-2-big-Data.db");
    assert!(reason.ends_with(&format!("nb-2-big-Digest.crc32 says {}", crc32fast::hash(b"two"))), "{reason}");
    assert!(node.names().is_empty(), "{:?}", node.names());
}

#[tokio::test]
async fn damage_found_beside_placed_files_keeps_the_sentinel() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let is_placed = |name: &str| node.files()[0].keys().any(|path| path.starts_with(name));
    let mut change = 80;
    while !is_placed("Mixed") {
        assert!(node.run_killed(&request, change).await, "killed while it places");
        change += 5;
    }
    assert!(!is_placed("system"), "the last SSTable is only staged");
    // What is staged of it is lost, and so it is downloaded again.
    fs::remove_dir_all(node.path("data/node-backup/data/system")).unwrap();
    fs::write(backup.object_path(&backup.entries[4].objects[0].key), "LOCAL").unwrap();
    let error = node.run(&request).await.unwrap_err();
    assert!(matches!(error, RestoreError::Corrupt { .. }), "{error:?}");
    assert!(is_placed("Mixed") && node.is_marked());
}

#[tokio::test]
async fn a_restore_is_the_same_only_when_all_of_it_is() {
    let (backup, node) = (Backup::whole().await, Node::new());
    assert!(node.run_killed(&backup.request(&node).await, 50).await);
    let sentinel: PathBuf = node.path(SENTINEL);
    let own = fs::read(&sentinel).unwrap();
    for field in ["cluster_id", "host_id", "backup_id", "manifest_blake3"] {
        let mut marker: serde_json::Value = serde_json::from_slice(&own).unwrap();
        assert!(marker[field].is_string(), "{field}");
        marker[field] = "another".into();
        fs::write(&sentinel, marker.to_string()).unwrap();
        let found = findings(&node, &backup).await;
        assert!(found.iter().any(|finding| finding.contains("is incomplete")), "{field}: {found:?}");
    }
    fs::write(&sentinel, own).unwrap();
    assert_eq!(findings(&node, &backup).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_resumed_restore_removes_segments_of_refused_starts() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    assert!(node.run_killed(&request, 50).await);
    let segment = node.path("commitlog/CommitLog-7-1.log");
    fs::write(&segment, "x").unwrap();
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
    assert!(!segment.exists());
}
