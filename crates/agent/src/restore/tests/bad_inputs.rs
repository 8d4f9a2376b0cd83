//! Manifests, stores and configurations at and beyond their limits. What is refused leaves the node as it was; what
//! is placed lies below the data directories.

use std::fs::{self, File};

use cassy_backup_format::{BackupId, BackupKind, HostId, ParentRef};

use super::super::error::RestoreError;
use super::super::facts::Target;
use super::super::layout::names_the_root;
use super::super::manifest::Manifest;
use super::super::{gather, plan};
use super::fixture::{Backup, Node, files, table};
use crate::context::Context;

async fn one_sstable() -> (Backup, Node) {
    let mut backup = Backup::empty();
    backup.sstable(&table("ks", "t", 1), Some(".idx"), "nb-1-big", 0, b"data").await;
    (backup, Node::new())
}

/// What is said of the restore; the node is as it was, and so is everything around its data directories.
async fn refused(backup: &Backup, node: &Node) -> String {
    let before = files(node.root.path());
    let request = backup.request(node).await;
    let error = node.run(&request).await.unwrap_err();
    let after = files(node.root.path());
    let own = |path: &std::path::Path| path.starts_with("spool") || path.starts_with("data");
    assert!(after.keys().filter(|path| !before.contains_key(*path)).all(|path| own(path)), "{after:?}");
    assert!(node.names().is_empty(), "{:?}", node.names());
    match error {
        RestoreError::Findings { findings } => findings.join("\n"),
        other => crate::failure::chain(&other),
    }
}

#[tokio::test]
async fn names_at_their_limits_are_placed_below_the_data_directories() {
    let (mut backup, node) = (Backup::empty(), Node::new());
    let longest = "x".repeat(48);
    let names =
        ["snapshots", "backups", "MixedCase", "mixedcase", &longest, "a,b", "caf\u{e9}", "cafe\u{301}"];
    for (name, number) in names.iter().zip(1..) {
        backup.sstable(&table(name, name, number), None, "nb-1-big", 0, name.as_bytes()).await;
        backup.sstable(&table(name, name, number), None, "nb-2-big", 1, b"").await;
    }
    backup.sstable(&table(&"k".repeat(222), &"t".repeat(222), 99), None, "nb-1-big", 0, b"long").await;
    backup.sstable(&table("-x", "t", 98), None, "nb-1-big", 0, b"dash").await;
    node.run(&backup.request(&node).await).await.unwrap();
    assert_eq!(node.files(), backup.files);
}

#[tokio::test]
async fn sstables_of_several_formats_and_of_the_future_are_placed_and_the_version_is_said() {
    let (mut backup, node) = (Backup::empty(), Node::new());
    backup.header.cassandra_version = "9.9.9".to_owned();
    for (name, data) in [
        ("nb-1-big", &b""[..]),
        ("da-3h5q_1oih_3aqow23nzcs57htqnl-bti", b"bti"),
        ("zz-2147483647-big", b"future"),
        ("ma-2-new", b"other"),
    ] {
        backup.sstable(&table("ks", "t", 1), None, name, 0, data).await;
    }
    let summary = node.run(&backup.request(&node).await).await.unwrap();
    assert_eq!(node.files(), backup.files);
    assert!(summary.notes[0].starts_with("start Cassandra 9.9.9 or a newer one"), "{:?}", summary.notes);
}

#[tokio::test]
async fn sizes_beyond_the_disk_are_refused_before_a_byte_is_written() {
    for size in [1 << 50, 1 << 62, u64::MAX - (1 << 20)] {
        let (mut backup, node) = one_sstable().await;
        backup.entries[0].objects[0].size = size;
        backup.entries[0].files[0].size = size;
        let text = refused(&backup, &node).await;
        assert!(text.contains("bytes free, and the restore needs "), "{text}");
    }
}

/// The manifest says few bytes, and ten gigabytes are there: reading ends at the first byte too many.
#[tokio::test]
async fn an_object_that_is_larger_than_it_should_be_is_not_read_on() {
    let (backup, node) = one_sstable().await;
    let key = backup.entries[0].objects[0].key.clone();
    File::options().write(true).open(backup.object_path(&key)).unwrap().set_len(10 << 30).unwrap();
    let text = refused(&backup, &node).await;
    assert!(text.contains("more than its 4 bytes") && text.contains(key.as_str()), "{text}");
}

#[tokio::test]
async fn an_object_that_is_gone_or_changed_is_named() {
    let (backup, node) = one_sstable().await;
    let path = backup.object_path(&backup.entries[0].objects[1].key);
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let text = refused(&backup, &node).await;
    assert!(text.contains("small.tar"), "{text}");
    fs::write(&path, vec![7; whole.len()]).unwrap();
    let text = refused(&backup, &node).await;
    assert!(text.contains("does not match the backup") && text.contains("small.tar"), "{text}");
}

#[tokio::test]
async fn an_older_manifest_of_the_same_backup_is_refused() {
    let (mut backup, node) = one_sstable().await;
    let older = backup.request(&node).await;
    let stored = fs::read(backup.object_path(&older.manifest.key)).unwrap();
    backup.sstable(&table("ks", "t", 1), None, "nb-2-big", 0, b"newer").await;
    let newer = backup.request(&node).await;
    fs::write(backup.object_path(&newer.manifest.key), stored).unwrap();
    let error = node.run(&newer).await.unwrap_err();
    assert!(error.to_string().contains("the object was changed"), "{error}");
    assert!(node.names().is_empty());
}

#[tokio::test]
async fn another_nodes_manifest_in_the_place_of_ours_is_refused() {
    let (mut backup, node) = one_sstable().await;
    let ours = backup.request(&node).await;
    backup.header.host_id = HostId::from(uuid::Uuid::from_u128(8));
    backup.entries.clear();
    let theirs = backup.request(&node).await;
    fs::copy(backup.object_path(&theirs.manifest.key), backup.object_path(&ours.manifest.key)).unwrap();
    let mut request = ours;
    request.manifest.blake3 = theirs.manifest.blake3;
    let error = node.run(&request).await.unwrap_err();
    assert!(error.to_string().contains("it is of node"), "{error}");
    assert!(node.names().is_empty());
}

#[tokio::test]
async fn a_parent_that_is_missing_or_the_backup_itself_is_not_needed() {
    let (mut backup, node) = one_sstable().await;
    for parent in [backup.header.backup_id, BackupId::at(7)] {
        backup.header.parent = Some(ParentRef {
            key: backup.keys().node_manifest(&backup.header.host_id, &parent),
            backup_id: parent,
            blake3: "0".repeat(64),
        });
        node.run(&backup.request(&node).await).await.unwrap();
        assert_eq!(node.files(), backup.files);
    }
}

/// The increment's own manifest is whole; nothing of what it continues is looked at.
#[tokio::test]
async fn an_increment_is_restored_without_its_parents_and_only_for_its_base() {
    let (mut backup, node) = one_sstable().await;
    let base = BackupId::at(7);
    (backup.header.kind, backup.header.base) = (BackupKind::Incremental, Some(base));
    backup.header.parent = Some(ParentRef {
        key: backup.keys().node_manifest(&backup.header.host_id, &base),
        backup_id: base,
        blake3: "0".repeat(64),
    });
    assert!(refused(&backup, &node).await.contains(&format!("it is of backup {base}")));
    let mut request = backup.request(&node).await;
    request.backup_id = base;
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
}

#[tokio::test]
async fn times_that_no_clock_shows_do_no_harm() {
    for time in [i64::MIN, -1, 253_402_300_799_999, i64::MAX] {
        let (mut backup, node) = one_sstable().await;
        backup.header.created_at_ms = time;
        (backup.entries[0].files[0].mtime_ns, backup.entries[0].files[0].birth_ns) = (time, Some(time));
        node.run(&backup.request(&node).await).await.unwrap();
        assert_eq!(node.files(), backup.files);
    }
}

#[test]
fn the_root_of_the_file_system_is_no_directory_of_cassandras() {
    let facts = |text: &str| {
        serde_json::from_value(serde_json::json!({
            "data_directories": ["/data", text], "directory_mode": 0, "file_mode": 0
        }))
        .unwrap()
    };
    for root in ["/", "//", "/.", "/..", "/data/..", "/data/../../.."] {
        assert!(names_the_root(&facts(root)), "{root}");
    }
    for other in ["/data2", "/data/../other", "/.hidden", "/..data"] {
        assert!(!names_the_root(&facts(other)), "{other}");
    }
}

/// The plan alone, on facts that were gathered from a harmless configuration.
#[tokio::test]
async fn a_configuration_that_names_the_root_is_refused() {
    let (backup, node) = one_sstable().await;
    let request = backup.request(&node).await;
    let store = backup.store();
    let spool = node.path("spool");
    let manifest = Manifest::fetch(&Context::default(), store.as_ref(), &request, &spool).await.unwrap();
    let mut facts = gather::gather(&node.machine, &request, &manifest).unwrap();
    assert!(plan::plan(&facts).findings.is_empty());
    let Target::Known(known) = &mut facts.target else { panic!("known") };
    known.configuration.saved_caches_directory = Some("/data/..".to_owned());
    let findings = plan::plan(&facts).findings;
    assert!(findings.iter().any(|text| text.contains("names the root of the file system")), "{findings:?}");
}

/// Cassandra would resolve a relative directory against where it was started; nobody knows that here.
#[tokio::test]
async fn relative_directories_are_not_guessed() {
    let (backup, node) = one_sstable().await;
    fs::write(node.path("conf/cassandra.yaml"), "data_file_directories: [data, ../other]\n").unwrap();
    let text = refused(&backup, &node).await;
    assert!(text.contains("names no data directory"), "{text}");
}

#[tokio::test]
async fn a_configuration_of_another_cluster_is_refused_with_the_lines_to_change() {
    let (backup, node) = one_sstable().await;
    node.yaml(
        "cluster_name: \"'; DROP TABLE job; --<script>\u{202e}\"\nnum_tokens: 1e400\n\
         partitioner: org.apache.cassandra.dht.RandomPartitioner\n",
    );
    let text = refused(&backup, &node).await;
    for part in
        ["cluster_name is", "cluster_name: 'it''s'", "num_tokens", "partitioner is", "Murmur3Partitioner"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    fs::write(node.path("conf/cassandra.yaml"), b"\xff\xfec\0l\0").unwrap();
    assert!(refused(&backup, &node).await.contains("UTF-8"));
    fs::write(node.path("conf/cassandra.yaml"), format!("a: {}", "[".repeat(100_000))).unwrap();
    assert!(refused(&backup, &node).await.contains("not a configuration of Cassandra"));
}
