//! Sending fake snapshots to a store in a directory, and reading back every byte.

mod bad_inputs;
mod broken;
mod faults;
mod included;
mod increments;
mod reuse;
mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use cassy_agent_protocol::{ParentManifest, StoreGrant};
use cassy_backup_format::{
    BackupId, BackupKind, ClusterId, ConfigurationFacts, Header, HostId, ManifestReader, SessionId,
    SstableEntry,
};
use cassy_store::{ObjectMeta, StoreLocation};

use super::*;
use crate::snapshot::fake::{EXAMPLE_TABLES, FakeNode, ID, TAG, example};

/// A node, a store, and a spool directory.
struct Bench {
    node: FakeNode,
    store: Arc<dyn Store>,
    request: UploadRequest,
    spool: PathBuf,
    backups: i64,
}

const SECOND_TAG: &str = "cassy-0193b0a0-0000-7000-8000-000000000002-1";

impl Bench {
    fn new(node: FakeNode) -> Self {
        let (root, spool) = (node.base().join("store"), node.base().join("spool"));
        fs::create_dir(&root).expect("mkdir");
        fs::create_dir(&spool).expect("mkdir");
        let location = StoreLocation::File(root).to_string();
        let store = cassy_store::open(&StoreAccess::new(location.clone())).expect("open");
        node.take_snapshot(TAG);
        let snapshot = node.request(TAG, EXAMPLE_TABLES);
        let request = UploadRequest {
            store: StoreGrant { location },
            cluster_id: "Test/Cluster-1".parse::<ClusterId>().expect("id"),
            cluster_name: "Test/Cluster".to_owned(),
            host_id: "0193b0a0-0000-7000-8000-0000000000ff".parse::<HostId>().expect("id"),
            address: "127.0.0.1".to_owned(),
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
        };
        Self { node, store, request, spool, backups: 1 }
    }

    async fn upload(&self) -> Result<UploadSummary, UploadError> {
        self.upload_to(Arc::clone(&self.store)).await
    }

    async fn upload_to(&self, store: Arc<dyn Store>) -> Result<UploadSummary, UploadError> {
        let outcome = run_on(&Context::default(), &self.request, &self.spool, store).await;
        assert_eq!(fs::read_dir(&self.spool).expect("list").count(), 0, "the spool is empty again");
        outcome
    }

    /// Another snapshot, to be sent with the last backup as its parent.
    fn next(&mut self, tag: &str, last: &UploadSummary) {
        self.node.take_snapshot(tag);
        self.request.snapshot.tag = tag.parse().expect("ours");
        self.request.parent = Some(ParentManifest {
            key: last.manifest.clone(),
            backup_id: self.request.backup_id,
            blake3: last.blake3.clone(),
        });
        self.backups += 1;
        self.request.backup_id = BackupId::at(self.backups);
        self.request.session = SessionId::random();
    }

    async fn manifest(&self, summary: &UploadSummary) -> (Header, Vec<SstableEntry>) {
        let stored = self.store.get(&summary.manifest, 1 << 30).await.expect("stored");
        assert_eq!(stored.len() as u64, summary.size);
        assert_eq!(blake3::hash(&stored).to_hex().as_str(), summary.blake3);
        let mut lines = ManifestReader::open(stored.as_ref()).expect("a manifest");
        let header = lines.header().clone();
        let entries = lines.by_ref().collect::<Result<_, _>>().expect("valid");
        assert!(lines.footer().is_some());
        (header, entries)
    }

    /// Every file of the backup, by path below its data directory's snapshot, read back from the store.
    async fn contents(&self, summary: &UploadSummary) -> BTreeMap<PathBuf, Vec<u8>> {
        let (header, entries) = self.manifest(summary).await;
        let mut contents = BTreeMap::new();
        for entry in entries {
            let data = &header.configuration.data_directories[bytes(entry.directory.into())];
            let table = format!("{}-{}", entry.table.table, entry.table.id);
            let snapshot = PathBuf::from(data).join(&entry.table.keyspace).join(table).join("snapshots");
            let directory = snapshot
                .join(self.request.snapshot.tag.to_string())
                .join(entry.index.as_deref().unwrap_or(""));
            for file in &entry.files {
                let object = &entry.objects[bytes(file.object.into())];
                let body = self.store.get(&object.key, 1 << 30).await.expect("there");
                assert_eq!(body.len() as u64, object.size);
                assert_eq!(blake3::hash(&body).to_hex().as_str(), object.blake3);
                let content = body.slice(bytes(file.offset)..bytes(file.offset + file.size)).to_vec();
                assert_eq!(blake3::hash(&content).to_hex().as_str(), file.blake3);
                assert_eq!(crc32fast::hash(&content), file.crc32);
                contents.insert(directory.join(&file.name), content);
            }
        }
        contents
    }

    /// Every SSTable's file of the snapshot.
    fn expected(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut open = self.node.data.clone();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()));
                continue;
            }
            let name = path.file_name().expect("name").to_str().expect("text");
            let in_snapshot = path.iter().any(|part| part == self.request.snapshot.tag.to_string().as_str());
            if in_snapshot && name != "manifest.json" && name != "schema.cql" {
                found.insert(path.clone(), fs::read(&path).expect("read"));
            }
        }
        found
    }

    async fn check(&self, summary: &UploadSummary) {
        let (contents, expected) = (self.contents(summary).await, self.expected());
        assert_eq!(contents.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(contents == expected, "every byte is the same");
        assert_eq!(summary.files, expected.len() as u64);
        assert_eq!(summary.bytes, expected.values().map(|content| content.len() as u64).sum::<u64>());
    }

    async fn objects(&self) -> Vec<ObjectMeta> {
        self.store.list("").try_collect().await.expect("list")
    }

    fn live(&self, directory: usize, file: &str) -> PathBuf {
        self.node.table(directory, "ks", "plain").join(file)
    }
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).expect("small")
}

/// As compaction or a rewrite does: a new file takes the name.
fn replace(path: &PathBuf, content: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("write");
    fs::rename(new, path).expect("rename");
}

#[tokio::test]
async fn everything_is_sent_and_can_be_read_back() {
    let bench = Bench::new(example());
    let ctx = Context::default();
    let summary = run(&ctx, &bench.request, &bench.spool).await.expect("uploaded");
    bench.check(&summary).await;
    assert_eq!(summary.sstables, 8);
    assert_eq!(summary.sent_bytes, summary.bytes);
    assert_eq!(summary.tables.len(), EXAMPLE_TABLES.len());
    let progress = ctx.progress.latest();
    assert_eq!((progress.bytes_done, progress.bytes_total), (summary.bytes, summary.bytes));
    assert_eq!((progress.files_done, progress.files_total), (summary.files, summary.files));
    let (header, entries) = bench.manifest(&summary).await;
    assert_eq!(header.schema.len(), EXAMPLE_TABLES.len());
    for (number, entry) in entries.iter().enumerate() {
        let large = entry.files.iter().filter(|file| file.size >= 1 << 20).count();
        assert_eq!(entry.objects.len(), large + 1, "{number}: large files apart, the others in a tar");
    }
    let list = bench.store.list_incomplete("").try_collect::<Vec<_>>().await.expect("list");
    assert!(list.is_empty());
}

#[tokio::test]
async fn a_small_tar_is_a_plain_tar() {
    let bench = Bench::new(example());
    let summary = bench.upload().await.expect("uploaded");
    let (_, entries) = bench.manifest(&summary).await;
    let entry =
        entries.iter().find(|entry| entry.name == "nb-2-big" && entry.index.is_none()).expect("there");
    let object =
        entry.objects.iter().find(|object| object.key.as_str().ends_with("/small.tar")).expect("a tar");
    let body = bench.store.get(&object.key, 1 << 30).await.expect("there");
    let mut names = Vec::new();
    for member in tar::Archive::new(body.as_ref()).entries().expect("a tar") {
        let member = member.expect("a member");
        assert!(member.header().as_ustar().is_some());
        let name = member.path().expect("a name").to_str().expect("text").to_owned();
        let file = entry.files.iter().find(|file| file.name == name).expect("in the manifest");
        assert_eq!((member.raw_file_position(), member.size()), (file.offset, file.size));
        names.push(name);
    }
    assert_eq!(names.len(), 5);
    assert_eq!(body.len() % 512, 0);
}

#[tokio::test]
async fn long_names_are_objects_of_their_own() {
    let node = FakeNode::new(1);
    let table = node.table(0, "ks", "plain");
    node.flush(&table, "", "nb-1-big", 1, 100);
    let component = format!("SAI+aa+{}+Meta.db", "i".repeat(120));
    fs::write(table.join(format!("nb-1-big-{component}")), "x").expect("write");
    let mut bench = Bench::new(node);
    bench.request.snapshot.tables = vec![("ks".to_owned(), "plain".to_owned())];
    let summary = bench.upload().await.expect("uploaded");
    bench.check(&summary).await;
    let (_, entries) = bench.manifest(&summary).await;
    assert_eq!(entries[0].objects.len(), 2);
    assert!(entries[0].table.id == ID);
}
