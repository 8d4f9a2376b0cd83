//! A snapshot goes to a store and comes back, by the requests that a server sends.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cassy_agent_protocol::{
    ParentManifest, Reply, Request, RestoreRequest, RestoreScope, RestoreWay, StoreGrant, UploadRequest,
    UploadSummary,
};
use cassy_backup_format::{BackupId, BackupKind, ClusterId, ConfigurationFacts, HostId, SessionId};

use super::{Server, lock, superseded};
use crate::snapshot::fake::{EXAMPLE_TABLES, FakeNode, TAG, example};

const ADDRESS: &str = "127.0.0.1";

/// What the snapshot holds, by the path that Cassandra reads it from.
fn snapshot_files(data: &[PathBuf]) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for path in data.iter().flat_map(|directory| all_files(directory)) {
        let text = path.to_str().unwrap();
        let Some((table, file)) = text.split_once(&format!("/snapshots/{TAG}/")) else { continue };
        if !["manifest.json", "schema.cql"].contains(&file) {
            files.insert(Path::new(table).join(file), fs::read(&path).unwrap());
        }
    }
    files
}

fn all_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.push(path);
        }
    }
    files
}

fn upload(node: &FakeNode, store: &StoreGrant) -> UploadRequest {
    let snapshot = node.request(TAG, EXAMPLE_TABLES);
    UploadRequest {
        store: store.clone(),
        cluster_id: "Test/Cluster-1".parse::<ClusterId>().unwrap(),
        cluster_name: "Test/Cluster".to_owned(),
        host_id: HostId::from(uuid::Uuid::from_u128(1)),
        address: ADDRESS.to_owned(),
        tokens: vec!["-1".to_owned()],
        datacenter: "dc1".to_owned(),
        rack: "r1".to_owned(),
        cassandra_version: "5.0.9".to_owned(),
        partitioner: "Murmur3Partitioner".to_owned(),
        backup_id: BackupId::at(1),
        kind: BackupKind::NodeSnapshot,
        created_at_ms: 1,
        session: SessionId::random(),
        configuration: ConfigurationFacts {
            data_directories: snapshot.data_directories.clone(),
            ..ConfigurationFacts::default()
        },
        snapshot,
        parent: None,
        base: None,
    }
}

fn restore(sent: &UploadRequest, summary: &UploadSummary, yaml: &Path) -> RestoreRequest {
    RestoreRequest {
        store: sent.store.clone(),
        cluster_id: sent.cluster_id.clone(),
        backup_id: sent.backup_id,
        manifest: ParentManifest {
            key: summary.manifest.clone(),
            backup_id: sent.backup_id,
            blake3: summary.blake3.clone(),
        },
        host_id: sent.host_id,
        way: RestoreWay::InPlace,
        target: ADDRESS.to_owned(),
        cassandra_yaml: Some(yaml.to_str().unwrap().to_owned()),
        scope: RestoreScope::Nodes,
        move_aside: None,
    }
}

#[tokio::test]
async fn what_was_sent_comes_back() {
    let node = example();
    node.take_snapshot(TAG);
    let base = node.base().to_owned();
    fs::create_dir(base.join("store")).unwrap();
    let store = StoreGrant { location: format!("file://{}", base.join("store").display()) };
    let (request, wanted) = (upload(&node, &store), snapshot_files(&node.data));
    assert!(wanted.len() > 20, "{}", wanted.len());

    let mut server = Server::greeted(60_000).await;
    server.request(1, lock(&node.data[0], 0)).await;
    server.reply(1).await.unwrap();
    let data_directories = request.snapshot.data_directories.clone();
    let superseded = superseded(&base, data_directories.clone());
    server.request(2, Request::ListSuperseded(superseded.clone())).await;
    assert!(matches!(server.reply(2).await, Ok(Reply::Superseded { .. })));
    server.request(3, Request::CheckSnapshot(request.snapshot.clone())).await;
    assert_eq!(server.reply(3).await, Ok(Reply::SnapshotChecked { broken: Vec::new() }));
    server.request(4, Request::Upload(Box::new(request.clone()))).await;
    let Ok(Reply::Uploaded(summary)) = server.reply(4).await else { panic!("not uploaded") };
    server.request(5, Request::ClearSuperseded(superseded)).await;
    assert!(matches!(server.reply(5).await, Ok(Reply::Cleared { .. })));

    for directory in &node.data {
        fs::remove_dir_all(directory).unwrap();
        fs::create_dir(directory).unwrap();
    }
    let yaml = base.join("cassandra.yaml");
    let lines = format!(
        "cluster_name: Test/Cluster\nnum_tokens: 1\ndata_file_directories: [{}]\ncommitlog_directory: {base}/commitlog\n\
         hints_directory: {base}/hints\nlisten_address: 127.88.0.1\nrpc_address: 127.88.0.1\n",
        data_directories.join(", "),
        base = base.display()
    );
    fs::write(&yaml, lines).unwrap();
    let request = restore(&request, &summary, &yaml);
    server.request(6, Request::PlanRestore(Box::new(request.clone()))).await;
    let Ok(Reply::Planned(plan)) = server.reply(6).await else { panic!("not planned") };
    assert_eq!(plan.findings, Vec::<String>::new());
    assert_eq!((plan.files, plan.bytes), (summary.files, summary.bytes));
    for id in [7, 8] {
        server.request(id, Request::Restore(Box::new(request.clone()))).await;
        let Ok(Reply::Restored(restored)) = server.reply(id).await else { panic!("not restored") };
        assert_eq!((restored.files, restored.bytes), (summary.files, summary.bytes));
    }
    let found: BTreeMap<PathBuf, Vec<u8>> = node
        .data
        .iter()
        .flat_map(|directory| all_files(directory))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&wanted));
    assert!(found == wanted, "every byte is the same");
}
