//! Manifests and names that mean harm: each is refused before anything is written.

use std::fs;
use std::os::unix::fs::symlink;

use cassy_backup_format::{BackupId, ClusterId, HostId, SstableEntry};

use super::super::error::RestoreError;
use super::fixture::{Backup, Node, files, table};
use crate::failure::IntoAgentError;

async fn refused(change: impl FnOnce(&mut Backup)) -> String {
    let (mut backup, node) = (Backup::empty(), Node::new());
    backup.sstable(&table("ks", "t", 1), Some(".idx"), "nb-1-big", 0, b"data").await;
    change(&mut backup);
    let error = node.run(&backup.request(&node).await).await.unwrap_err();
    assert!(node.names().is_empty(), "{:?}", node.names());
    assert!(matches!(error, RestoreError::Refused { .. } | RestoreError::Corrupt { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn names_that_are_not_cassandras_are_refused() {
    let with = |change: fn(&mut SstableEntry)| refused(move |backup| change(&mut backup.entries[0]));
    assert!(
        with(|entry| entry.files[0].name = "nb-1-big-Data.db\\..".to_owned())
            .await
            .contains("not a component")
    );
    assert!(
        with(|entry| entry.files[0].name = "nb-2-big-Data.db".to_owned()).await.contains("not a component")
    );
    assert!(
        with(|entry| entry.files[0].name = "authorized_keys".to_owned()).await.contains("not a component")
    );
    assert!(with(|entry| entry.name = "nb-1".to_owned()).await.contains("not the name of an SSTable"));
    assert!(
        with(|entry| entry.index = Some(".a\\b".to_owned())).await.contains("not the directory of an index")
    );
    assert!(with(|entry| entry.files[1].offset = entry.files[2].offset).await.contains("overlaps"));
    for keyspace in ["node-backup", "cluster-backup", "moved-aside-x", ".ssh", "a\\b"] {
        let text = refused(|backup| {
            let table = table(keyspace, "t", 1);
            backup.header.tables = vec![table.clone()];
            backup.entries[0].table = table;
        })
        .await;
        assert!(text.contains("not the name of a keyspace"), "{text}");
    }
    for name in [".hidden", "-x", "a\\b"] {
        let text = refused(|backup| {
            let table = table("ks", name, 1);
            backup.header.tables = vec![table.clone()];
            backup.entries[0].table = table;
        })
        .await;
        assert!(text.contains("not the directory of a table"), "{text}");
    }
}

#[tokio::test]
async fn a_manifest_of_something_else_is_refused() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let refused = async |change: &dyn Fn(&mut cassy_agent_protocol::RestoreRequest)| {
        let mut request = request.clone();
        change(&mut request);
        let error = node.run(&request).await.unwrap_err();
        assert!(node.names().is_empty());
        error.to_string()
    };
    let other_cluster: ClusterId = "other-1".parse().unwrap();
    assert!(refused(&|request| request.cluster_id = other_cluster.clone()).await.contains("of cluster"));
    let other_host = HostId::from(uuid::Uuid::from_u128(8));
    assert!(refused(&|request| request.host_id = other_host).await.contains("of node"));
    assert!(refused(&|request| request.backup_id = BackupId::at(5)).await.contains("of backup"));
    assert!(refused(&|request| request.manifest.blake3 = "0".repeat(64)).await.contains("was changed"));
}

#[tokio::test]
async fn broken_and_corrupt_manifests_are_refused() {
    let (mut backup, node) = (Backup::whole().await, Node::new());
    backup.entries[2].corrupt = true;
    let error = node.run(&backup.request(&node).await).await.unwrap_err();
    assert!(error.to_string().contains("were corrupt when the backup was taken"), "{error}");
    for bytes in [&b""[..], b"{}", b"\x28\xb5\x2f\xfd"] {
        let request = backup.request_of(&node, bytes).await;
        let error = node.run(&request).await.unwrap_err();
        assert!(matches!(error, RestoreError::Manifest { .. }), "{error:?}");
    }
    let whole = fs::read(backup.object_path(&backup.request(&node).await.manifest.key)).unwrap();
    let request = backup.request_of(&node, &whole[..whole.len() / 2]).await;
    assert!(matches!(node.run(&request).await.unwrap_err(), RestoreError::Manifest { .. }));
    assert!(node.names().is_empty());
}

#[tokio::test]
async fn equal_names_do_not_meet_in_one_directory() {
    let (mut backup, node) = (Backup::empty(), Node::new());
    backup.header.configuration.data_directories.push("/old/data3".to_owned());
    for directory in 0..3 {
        backup.sstable(&table("ks", "t", 1), None, "nb-1-big", directory % 2, b"data").await;
        backup.entries[directory as usize].directory = directory;
    }
    let error = node.run(&backup.request(&node).await).await.unwrap_err();
    assert!(error.to_string().contains("was in several data directories"), "{error}");
    let hint = error.into_agent_error().hint.unwrap();
    assert!(hint.contains("as many data directories"), "{hint}");
    assert!(node.names().is_empty());
}

#[tokio::test]
async fn links_in_the_data_directories_lead_nowhere() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let outside = tempfile::tempdir().unwrap();
    for name in ["Mixed", "node-backup", "elsewhere"] {
        let link = node.path("data").join(name);
        symlink(outside.path(), &link).unwrap();
        let error = node.run(&request).await.unwrap_err();
        let RestoreError::Findings { findings } = &error else { panic!("{error:?}") };
        assert!(findings.iter().any(|finding| finding.contains(link.to_str().unwrap())), "{findings:?}");
        fs::remove_file(link).unwrap();
    }
    assert!(files(outside.path()).is_empty());
}

/// A link that appears while the restore runs, where a directory of the backup will be made.
#[tokio::test]
async fn a_link_swapped_in_meanwhile_leads_nowhere() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let outside = tempfile::tempdir().unwrap();
    assert!(node.run_killed(&request, 45).await);
    let staged = node.path("data/node-backup/data/Mixed");
    if staged.exists() {
        fs::remove_dir_all(&staged).unwrap();
        symlink(outside.path(), &staged).unwrap();
    }
    let outcome = node.run(&request).await;
    assert!(files(outside.path()).is_empty());
    assert!(outcome.is_ok() || node.names().is_empty() || node.is_marked(), "{outcome:?}");
}
