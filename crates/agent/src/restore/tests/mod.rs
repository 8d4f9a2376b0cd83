//! Whole restores: from a store made by hand to a node's directories.

mod aside;
mod bad_inputs;
mod broken;
mod fixture;
mod hostile;
mod locked;
mod obstacles;
mod rules;
mod spread;
mod stored;
mod undo;
mod unseen;
mod whole_cluster;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use cassy_agent_protocol::AgentErrorKind;

use super::error::RestoreError;
use crate::context::Context;
use crate::failure::IntoAgentError;
use fixture::{Backup, Node, mode};

#[tokio::test]
async fn everything_comes_back_where_it_was_with_its_modes() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let context = Context::default();
    let summary = node.run_with(&context, &request, super::Steps::default()).await.unwrap();
    assert_eq!(node.files(), backup.files);
    assert_eq!(summary.files, 25);
    let placed = backup.entries.len() as u64;
    assert!(context.progress.beats() >= placed, "placing is progress: {}", context.progress.beats());
    assert_eq!(node.names(), ["Mixed", "Mixed", "snapshots", "system"]);
    let table = node.path("data2/Mixed").join(format!("Case-{:032x}", 1));
    assert_eq!(
        (mode(&table), mode(&table.join(".idx")), mode(&table.join("nb-2-big-Data.db"))),
        (0o750, 0o750, 0o640)
    );
    assert!(!node.path("caches/KeyCache-f.db").exists());
    let progress = context.progress.latest();
    assert_eq!((progress.bytes_done, progress.files_done), (progress.bytes_total, 25));
    assert_eq!(progress.bytes_total, summary.bytes);
    let notes = summary.notes.join("\n");
    assert!(notes.contains("join_ring=false") && notes.contains("gc_grace_seconds (1 hours)"), "{notes}");
}

#[tokio::test]
async fn a_second_call_finds_everything_in_place() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    node.run(&request).await.unwrap();
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
    let file = node.path("data/system").join(format!("local-{:032x}/nb-3-big-Data.db", 3));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, "LOCAL").unwrap();
    let error = node.run(&request).await.unwrap_err();
    assert!(matches!(&error, RestoreError::InTheWay { path, .. } if *path == file), "{error:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "LOCAL");
}

/// The server stops a request that makes no progress, and a file may take hours.
#[tokio::test]
async fn proving_a_large_file_that_is_there_already_is_progress() {
    let (mut backup, node) = (Backup::empty(), Node::new());
    let large = vec![b'x'; 5 << 20];
    backup.sstable(&fixture::table("ks", "t", 1), None, "nb-1-big", 0, &large).await;
    let request = backup.request(&node).await;
    // Staged, then in place.
    assert!(node.run_killed(&request, 30).await);
    assert!(node.path("data/node-backup/data/ks").exists());
    for _ in ["staged", "in place"] {
        let context = Context::default();
        let summary = node.run_with(&context, &request, super::Steps::default()).await.unwrap();
        assert!(context.progress.widest_gap() <= 1 << 20, "{}", context.progress.widest_gap());
        let progress = context.progress.latest();
        assert_eq!((progress.bytes_done, progress.files_done), (summary.bytes, summary.files));
    }
}

#[tokio::test]
async fn missing_data_directories_are_made() {
    let (backup, node) = (Backup::whole().await, Node::new());
    fs::remove_dir(node.path("data")).unwrap();
    fs::remove_dir(node.path("data2")).unwrap();
    let request = backup.request(&node).await;
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
    assert_eq!(mode(&node.path("data2")), 0o750);
}

/// Only root can give files away; for others there is nothing to see.
#[tokio::test]
async fn files_belong_to_whom_the_data_directory_belongs_to() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (backup, node) = (Backup::whole().await, Node::new());
    for name in ["data", "data2"] {
        std::os::unix::fs::chown(node.path(name), Some(65534), Some(65533)).unwrap();
    }
    let request = backup.request(&node).await;
    assert!(node.run_killed(&request, 40).await);
    let owner = |path: &Path| {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner(&node.path("data/node-backup/RESTORE_INCOMPLETE/aa-1-big-Data.db")), (65534, 65533));
    node.run(&request).await.unwrap();
    for (root, files) in ["data", "data2"].iter().zip(backup.files) {
        for path in files.keys().flat_map(|path| path.ancestors()) {
            assert_eq!(owner(&node.path(root).join(path)), (65534, 65533), "{path:?}");
        }
    }
}

#[tokio::test]
async fn one_data_directory_takes_what_was_in_two() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let root = node.root.path().display().to_string();
    let yaml = format!(
        "{}data_file_directories: [{root}/data]\ncommitlog_directory: {root}/commitlog\n\
        hints_directory: {root}/hints\n",
        fixture::YAML
    );
    fs::write(node.path("conf/cassandra.yaml"), yaml).unwrap();
    node.run(&backup.request(&node).await).await.unwrap();
    let mut all = backup.files[0].clone();
    all.extend(backup.files[1].clone());
    assert_eq!(node.files(), [all, Default::default()]);
}

#[tokio::test]
async fn a_backup_without_files_is_restored() {
    let (backup, node) = (Backup::empty(), Node::new());
    let request = backup.request(&node).await;
    node.run(&request).await.unwrap();
    node.run(&request).await.unwrap();
    assert!(node.names().is_empty());
}

/// The restores of the next test, each killed before another change to the disk.
#[tokio::test]
async fn whatever_instant_it_is_killed_at_the_next_call_finishes() {
    let backup = Backup::whole().await;
    let mut change = 0;
    loop {
        let node = Node::new();
        let request = backup.request(&node).await;
        let killed = node.run_killed(&request, change).await;
        check_interrupted(&backup, &node, change);
        // A second kill, somewhere else.
        node.run_killed(&request, change / 3).await;
        check_interrupted(&backup, &node, change);
        node.run(&request).await.unwrap_or_else(|error| panic!("after change {change}: {error:?}"));
        assert_eq!(node.files(), backup.files, "after change {change}");
        assert_eq!(node.names(), ["Mixed", "Mixed", "snapshots", "system"], "after change {change}");
        if !killed {
            break;
        }
        change += 1;
    }
    assert!(change > 80, "only {change} changes were seen");
}

/// As it was, or complete, or Cassandra refuses to start.
fn check_interrupted(backup: &Backup, node: &Node, change: i64) {
    let empty = node.files().iter().all(|files| files.keys().all(|path| path.ends_with("sentinel.tmp")));
    assert!(node.is_marked() || empty || node.files() == backup.files, "after change {change}");
}

#[tokio::test]
async fn a_cancelled_restore_stays_marked_and_is_resumed() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    assert!(node.run_killed(&request, 40).await);
    assert!(node.is_marked());
    let context = Context::default();
    context.cancel.cancel();
    let error = node.run_with(&context, &request, super::Steps::default()).await.unwrap_err();
    assert_eq!(error.kind(), AgentErrorKind::Cancelled);
    assert!(node.is_marked());
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
}

#[tokio::test]
async fn a_flipped_bit_in_any_object_leaves_the_node_as_it_was() {
    let backup = Backup::whole().await;
    for entry in &backup.entries {
        for object in &entry.objects {
            // The last byte that belongs to some file.
            let ends =
                entry.files.iter().filter(|file| entry.objects[file.object as usize].key == object.key);
            let at = ends.filter(|file| file.size > 0).map(|file| file.offset + file.size - 1).max().unwrap();
            for at in [0, at, object.size - 1] {
                let node = Node::new();
                let request = backup.request(&node).await;
                let path = backup.object_path(&object.key);
                let whole = fs::read(&path).unwrap();
                let mut flipped = whole.clone();
                flipped[usize::try_from(at).unwrap()] ^= 4;
                fs::write(&path, flipped).unwrap();
                let error = node.run(&request).await.unwrap_err();
                fs::write(&path, whole).unwrap();
                assert!(
                    matches!(&error, RestoreError::Corrupt { key, .. } if *key == object.key),
                    "{error:?}"
                );
                assert!(node.names().is_empty(), "{:?}", node.names());
                assert!(node.path("caches/KeyCache-f.db").exists());
            }
        }
    }
}

#[tokio::test]
async fn objects_of_another_size_or_gone_are_named() {
    let backup = Backup::whole().await;
    let object = backup.entries[0].objects[0].key.clone();
    let path = backup.object_path(&object);
    let whole = fs::read(&path).unwrap();
    for content in [Some(whole[1..].to_vec()), Some([whole.clone(), vec![0]].concat()), None] {
        let node = Node::new();
        let request = backup.request(&node).await;
        match &content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = node.run(&request).await.unwrap_err().into_agent_error();
        assert_eq!(error.kind, AgentErrorKind::Permanent);
        assert!(error.message.contains(object.as_str()), "{error}");
        assert!(node.names().is_empty());
    }
}

#[tokio::test]
async fn damage_found_when_files_are_in_place_keeps_cassandra_from_starting() {
    let (mut backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let mut change = 60;
    while {
        node.run_killed(&request, change).await;
        !node.files()[0].keys().any(|path| path.starts_with("Mixed"))
    } {
        change += 5;
    }
    let last = backup.entries.remove(3).objects.remove(1).key;
    fs::write(backup.object_path(&last), "x").unwrap();
    // Whether that object is still needed depends on the instant; either way nothing half done can start.
    let outcome = node.run(&request).await;
    assert!(outcome.is_ok() || node.is_marked(), "{outcome:?}");
}

#[tokio::test]
async fn a_data_file_that_contradicts_its_own_digest_is_refused() {
    let (mut backup, node) = (Backup::whole().await, Node::new());
    let digest = &mut backup.entries[1].files[1];
    assert!(digest.name.ends_with("Digest.crc32"));
    // The digest is taken from another place of the same object: whole, and of something else.
    let statistics = backup.entries[1].files[2].clone();
    let name = backup.entries[1].files[1].name.clone();
    backup.entries[1].files[1] = cassy_backup_format::FileEntry { name, ..statistics.clone() };
    backup.entries[1].files.remove(2);
    let error = node.run(&backup.request(&node).await).await.unwrap_err();
    assert!(
        matches!(&error, RestoreError::Corrupt { file: Some(file), .. } if file == "nb-2-big-Data.db"),
        "{error:?}"
    );
    assert!(node.names().is_empty());
}
