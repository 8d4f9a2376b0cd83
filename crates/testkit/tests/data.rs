//! The data set on a real node: its fingerprints hold still, and a restore by hand brings every cell back.

use std::path::Path;

use cassy_testkit::{Cassandra, Cql, Runtime, dataset, oracle};

#[tokio::test]
async fn comes_back_cell_by_cell_from_a_copied_snapshot() {
    let Some(runtime) = Runtime::or_skip().await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut node =
        Cassandra::builder(&runtime, directory.path().join("node")).data_directories(2).build().unwrap();
    node.start().await.unwrap();
    let cql = Cql::connect(&node).await.unwrap();
    dataset::write(&node, &cql).await.unwrap();
    let before = dataset::fingerprints(&cql).await.unwrap();
    for (table, rows) in &before {
        assert!(!rows.is_empty(), "{table} is empty");
    }
    assert_eq!(
        dataset::differences(&before, &dataset::fingerprints(&cql).await.unwrap()),
        Vec::<String>::new()
    );
    dataset::check_indexes(&cql).await.unwrap();
    assert_eq!(dataset::existing_keyspaces(&cql).await.unwrap().len(), dataset::KEYSPACES.len());

    node.nodetool(&["snapshot", "-t", "byhand"]).await.unwrap();
    let data = node.data_directories();
    let snapshot = oracle::sstable_files(&oracle::snapshot(&data, "byhand").unwrap());
    assert!(snapshot.keys().any(|path| path.contains("/.customers_by_city/")));
    assert!(snapshot.keys().any(|path| path.ends_with("CRC.db")));
    assert!(snapshot.iter().any(|(path, fact)| path.ends_with("-Data.db") && fact.0 > 1 << 20));
    let orders =
        snapshot.keys().filter(|path| path.starts_with("shop/orders-") && path.ends_with("-Data.db"));
    assert!(orders.count() >= 3);
    let kept = directory.path().join("kept");
    oracle::keep_snapshot(&data, "byhand", &kept).unwrap();

    node.kill();
    node.wipe().unwrap();
    node.start().await.unwrap();
    let cql = Cql::connect(&node).await.unwrap();
    assert_eq!(dataset::existing_keyspaces(&cql).await.unwrap(), Vec::<String>::new());
    node.kill();
    node.wipe().unwrap();

    copy_tree(&kept, &data[1]);
    assert_eq!(
        oracle::differences(&snapshot, &oracle::sstable_files(&oracle::placed(&data).unwrap())),
        Vec::<String>::new()
    );
    node.start().await.unwrap();
    let cql = Cql::connect(&node).await.unwrap();
    dataset::check_indexes(&cql).await.unwrap();
    let after = dataset::fingerprints(&cql).await.unwrap();
    assert_eq!(dataset::differences(&before, &after), Vec::<String>::new());
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the disk takes it");
    for entry in std::fs::read_dir(from).expect("the disk takes it").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the disk takes it");
        }
    }
}
