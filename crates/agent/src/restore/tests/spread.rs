//! The backup's node had more data directories than the target, or fewer.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::super::plan;
use super::fixture::{Backup, Files, Node, table};
use crate::context::Context;

/// SSTables of equal size, all from one directory.
async fn of_one_directory() -> Backup {
    let mut backup = Backup::empty();
    backup.header.configuration.data_directories.truncate(1);
    for number in 1..=6 {
        backup.sstable(&table("ks", "t", 1), None, &format!("nb-{number}-big"), 0, &[b'x'; 1000]).await;
    }
    backup
}

fn all(files: [Files; 2]) -> Files {
    let count: usize = files.iter().map(Files::len).sum();
    let all: Files = files.into_iter().flatten().collect();
    assert_eq!(all.len(), count, "nothing is in both");
    all
}

/// The files of each table, by data directory.
fn shares(node: &Node, below: &str) -> [usize; 2] {
    node.files().map(|files| files.keys().filter(|path| path.starts_with(below)).count())
}

#[tokio::test]
async fn what_was_in_two_directories_comes_back_in_one() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let yaml = fs::read_to_string(node.path("conf/cassandra.yaml")).unwrap();
    let second = format!(", {}/data2", node.root.path().display());
    fs::write(node.path("conf/cassandra.yaml"), yaml.replace(&second, "")).unwrap();
    let looked = plan(&Context::default(), &node.machine, &request, &node.path("spool")).await.unwrap();
    assert!(looked.findings.is_empty(), "{:?}", looked.findings);
    assert!(looked.warnings.iter().any(|warning| warning.contains("had 2 data directories, this one has 1")));
    for _ in ["first", "again"] {
        node.run(&request).await.unwrap();
        let [one, none] = node.files();
        assert_eq!(one, all(backup.files.clone()));
        assert!(none.is_empty());
    }
}

#[tokio::test]
async fn what_was_in_one_directory_is_shared_and_local_system_data_stays_in_the_first() {
    let (mut backup, node) = (of_one_directory().await, Node::new());
    backup.sstable(&table("system", "local", 3), None, "nb-3-big", 0, b"local").await;
    let request = backup.request(&node).await;
    node.run(&request).await.unwrap();
    assert_eq!((shares(&node, "ks"), shares(&node, "system")), ([15, 15], [5, 0]));
    let placed = node.files();
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), placed, "a restore that was complete is known to be");
    assert_eq!(all(placed), all(backup.files));
}

/// The directories change their order, so that what is not there yet would go elsewhere.
#[tokio::test]
async fn what_was_brought_somewhere_stays_there() {
    let mut change = 20;
    loop {
        let (backup, node) = (of_one_directory().await, Node::new());
        let request = backup.request(&node).await;
        let killed = node.run_killed(&request, change).await;
        let before = placed(&node);
        turn_around(&node);
        node.run(&request).await.unwrap();
        assert_eq!(all(node.files()), all(backup.files));
        for (files, before) in placed(&node).iter().zip(before) {
            assert!(before.is_subset(files), "killed before change {change}: {before:?} of {files:?}");
        }
        if !killed {
            return;
        }
        change += 7;
    }
}

fn placed(node: &Node) -> [BTreeSet<PathBuf>; 2] {
    node.files().map(|files| files.into_keys().filter(|path| !path.starts_with("node-backup")).collect())
}

fn turn_around(node: &Node) {
    let (yaml, root) = (node.path("conf/cassandra.yaml"), node.root.path().display());
    let text = fs::read_to_string(&yaml).unwrap();
    let turned =
        text.replace(&format!("[{root}/data, {root}/data2]"), &format!("[{root}/data2, {root}/data]"));
    assert_ne!(text, turned);
    fs::write(yaml, turned).unwrap();
}
