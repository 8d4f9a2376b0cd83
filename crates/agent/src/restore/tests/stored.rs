//! What the store's objects say of files and of the node that they came from: believed only as far as it can be so.

use std::fs;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::super::error::RestoreError;
use super::fixture::{Backup, Node, files, table};
use crate::context::Context;

/// All digests of the manifest fit; what Cassandra keeps beside the data is no number.
#[tokio::test]
async fn digests_that_are_no_numbers_are_refused_before_anything_is_placed() {
    // Each as long as the one that it replaces.
    for said in [
        &b"not number"[..],
        b"9999999999",
        b"-123456789",
        b"          ",
        b"1e+4000000",
        b"\xff\xfe\0\0\0\0\0\0\0\0",
    ] {
        let (mut backup, node) = (Backup::empty(), Node::new());
        backup.sstable(&table("ks", "t", 1), None, "nb-1-big", 0, b"data").await;
        let entry = &mut backup.entries[0];
        let path = backup.root.path().join("store").join(entry.objects[1].key.as_str());
        let mut tar = fs::read(&path).unwrap();
        let at = usize::try_from(entry.files[1].offset).unwrap();
        assert_eq!(entry.files[1].size, said.len() as u64, "{}", entry.files[1].name);
        tar[at..at + said.len()].copy_from_slice(said);
        fs::write(&path, &tar).unwrap();
        entry.objects[1].blake3 = blake3::hash(&tar).to_hex().to_string();
        entry.files[1].blake3 = blake3::hash(said).to_hex().to_string();
        entry.files[1].crc32 = crc32fast::hash(said);
        let error = node.run(&backup.request(&node).await).await.unwrap_err();
        assert!(
            matches!(&error, RestoreError::Corrupt { file: Some(file), .. } if file == "nb-1-big-Data.db"),
            "{error:?}"
        );
        assert!(node.names().is_empty(), "{:?}", node.names());
    }
}

/// The path of a configuration that a backup has recorded is read at most, and only where it leads to one.
#[tokio::test]
async fn a_recorded_path_that_leads_to_no_configuration_is_named() {
    let node = Node::new();
    mknodat(CWD, node.path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let own = |name: &str| node.path(name).to_str().unwrap().to_owned();
    for recorded in
        ["/".to_owned(), String::new(), "relative/cassandra.yaml".to_owned(), own("data"), own("fifo")]
    {
        let mut backup = Backup::whole().await;
        backup.header.configuration.yaml_path = Some(recorded.clone());
        let mut request = backup.request(&node).await;
        request.cassandra_yaml = None;
        let before = files(node.root.path());
        let plan = super::super::plan(&Context::default(), &node.machine, &request, &node.path("spool"))
            .await
            .unwrap();
        assert!(
            plan.findings.iter().any(|text| text.contains("name it with cassandra_yaml")),
            "{recorded}: {plan:?}"
        );
        let after = files(node.root.path());
        assert!(
            after.keys().all(|path| before.contains_key(path) || path.starts_with("spool")),
            "{recorded}"
        );
    }
}
