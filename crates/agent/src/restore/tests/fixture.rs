//! A backup made by hand in a `file://` store, and a node to restore it to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use cassy_agent_protocol::{
    ParentManifest, RestoreRequest, RestoreScope, RestoreSummary, RestoreWay, StoreGrant,
};
use cassy_backup_format::{
    Attempt, BackupId, BackupKind, ClusterId, ConfigurationFacts, FileEntry, Header, HostId, Keys,
    ManifestWriter, ObjectEntry, ObjectKey, SessionId, SstableEntry, TableRef, TableSchema,
};
use cassy_store::{Store, StoreAccess};

use super::super::error::RestoreError;
use super::super::run_counted;
use super::super::tree::Steps;
use crate::context::Context;
use crate::inspect::Machine;
use crate::session::lock::Locks;

/// Files by path below a directory.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(super) struct Backup {
    pub(super) root: tempfile::TempDir,
    pub(super) header: Header,
    pub(super) entries: Vec<SstableEntry>,
    /// What a restore puts into each data directory.
    pub(super) files: [Files; 2],
    counter: u32,
}

pub(super) fn table(keyspace: &str, name: &str, number: u32) -> TableRef {
    TableRef { keyspace: keyspace.to_owned(), table: name.to_owned(), id: format!("{number:032x}") }
}

fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl Backup {
    pub(super) fn empty() -> Self {
        let root = scratch();
        fs::create_dir(root.path().join("store")).unwrap();
        let cluster_id: ClusterId = "Test / Cluster-0b1f7a64-4a0e-4c8e-9d0a-000000000001".parse().unwrap();
        let header = Header {
            format: 1,
            least_reader: 1,
            cluster_id,
            cluster_name: "it's".to_owned(),
            host_id: HostId::from(uuid::Uuid::from_u128(7)),
            address: "127.0.0.1".to_owned(),
            tokens: vec!["1".to_owned(); 4],
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            cassandra_version: "5.0.9".to_owned(),
            partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
            backup_id: BackupId::at(1_700_000_000_000),
            kind: BackupKind::NodeSnapshot,
            created_at_ms: 1_700_000_000_000,
            parent: None,
            base: None,
            truncations: None,
            configuration: ConfigurationFacts {
                data_directories: vec!["/old/data".to_owned(), "/old/data2".to_owned()],
                num_tokens: Some(4),
                endpoint_snitch: Some("GossipingPropertyFileSnitch".to_owned()),
                directory_mode: 0o750,
                file_mode: 0o640,
                ..ConfigurationFacts::default()
            },
            tables: Vec::new(),
            schema: Vec::new(),
        };
        Self { root, header, entries: Vec::new(), files: Default::default(), counter: 0 }
    }

    /// Several SSTables: large and small, of an index, in both directories, in awkward keyspaces, of `system`.
    pub(super) async fn whole() -> Self {
        let mut backup = Self::empty();
        let large = vec![b'x'; 300_000];
        backup.sstable(&table("Mixed", "Case", 1), None, "nb-1-big", 0, &large).await;
        backup.sstable(&table("Mixed", "Case", 1), None, "nb-2-big", 1, b"two").await;
        backup.sstable(&table("Mixed", "Case", 1), Some(".idx"), "nb-1-big", 1, b"index").await;
        backup
            .sstable(
                &table("snapshots", "backups", 2),
                None,
                "da-3h5q_1oih_3aqow23nzcs57htqnl-bti",
                1,
                b"bti",
            )
            .await;
        backup.sstable(&table("system", "local", 3), None, "nb-3-big", 0, b"local").await;
        let cql =
            "CREATE TABLE \"Mixed\".\"Case\" (a int, b counter) WITH gc_grace_seconds = 3600;".to_owned();
        backup.header.schema = vec![TableSchema { table: table("Mixed", "Case", 1), cql }];
        backup
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        cassy_store::open(&StoreAccess::new(self.location())).unwrap()
    }

    fn location(&self) -> String {
        format!("file://{}", self.root.path().join("store").display())
    }

    pub(super) fn keys(&self) -> Keys {
        Keys::new(self.header.cluster_id.clone()).unwrap()
    }

    /// Where a stored object is on the disk.
    pub(super) fn object_path(&self, key: &ObjectKey) -> PathBuf {
        self.root.path().join("store").join(key.as_str())
    }

    /// Stores an SSTable: its Data.db as an object of its own, the small components together.
    pub(super) async fn sstable(
        &mut self,
        table: &TableRef,
        index: Option<&str>,
        name: &str,
        directory: u32,
        data: &[u8],
    ) {
        let crc32 = crc32fast::hash(data).to_string();
        let small = [
            ("Digest.crc32", crc32.as_bytes()),
            ("Statistics.db", b"statistics"),
            ("Empty.db", b""),
            ("TOC.txt", b"Data.db\nDigest.crc32\nTOC.txt\n"),
        ];
        let mut tar = Vec::new();
        let mut files = vec![file(&format!("{name}-Data.db"), data, 0, 0)];
        for (component, content) in small {
            // A header that says something else than the manifest.
            tar.extend([b'/'; 512]);
            files.push(file(&format!("{name}-{component}"), content, 1, tar.len() as u64));
            tar.extend(content);
            tar.extend(vec![0; (512 - content.len() % 512) % 512]);
        }
        self.counter += 1;
        let attempt = Attempt::new(SessionId::from_bytes([1; 12]), self.counter);
        let (keys, host) = (self.keys(), self.header.host_id);
        let data_key =
            keys.component(&host, table, index, name, attempt, &format!("{name}-Data.db")).unwrap();
        let tar_key = keys.small_tar(&host, table, index, name, attempt).unwrap();
        let objects = vec![self.put(data_key, data).await, self.put(tar_key, &tar).await];
        let place = [
            Some(table.keyspace.clone()),
            Some(format!("{}-{}", table.table, table.id)),
            index.map(str::to_owned),
        ];
        let place: PathBuf = place.into_iter().flatten().collect();
        for (entry, content) in
            files.iter().zip(std::iter::once(data).chain(small.map(|(_, content)| content)))
        {
            let target = if table.keyspace == "system" { 0 } else { directory as usize };
            self.files[target].insert(place.join(&entry.name), content.to_vec());
        }
        if !self.header.tables.contains(table) {
            self.header.tables.push(table.clone());
        }
        let (table, index, name) = (table.clone(), index.map(str::to_owned), name.to_owned());
        self.entries.push(SstableEntry { table, index, name, directory, files, objects, corrupt: false });
    }

    async fn put(&self, key: ObjectKey, content: &[u8]) -> ObjectEntry {
        self.store().put(&key, Bytes::copy_from_slice(content)).await.unwrap();
        ObjectEntry { key, size: content.len() as u64, blake3: blake3_hex(content), store_checksum: None }
    }

    /// Stores the manifest as it now is, in place of any other, and gives the request to restore it.
    pub(super) async fn request(&self, node: &Node) -> RestoreRequest {
        let mut entries = self.entries.clone();
        entries.sort_by(|a, b| {
            (&a.table, &a.index, &a.name, a.directory).cmp(&(&b.table, &b.index, &b.name, b.directory))
        });
        let mut writer = ManifestWriter::new(Vec::new(), &self.header).unwrap();
        for entry in &entries {
            writer.push(entry).unwrap();
        }
        let (bytes, _) = writer.finish().unwrap();
        self.request_of(node, &bytes).await
    }

    pub(super) async fn request_of(&self, node: &Node, manifest: &[u8]) -> RestoreRequest {
        let key = self.keys().node_manifest(&self.header.host_id, &self.header.backup_id);
        self.store().delete(&key).await.unwrap();
        self.store().put(&key, Bytes::copy_from_slice(manifest)).await.unwrap();
        RestoreRequest {
            store: StoreGrant { location: self.location() },
            cluster_id: self.header.cluster_id.clone(),
            backup_id: self.header.backup_id,
            manifest: ParentManifest { key, backup_id: self.header.backup_id, blake3: blake3_hex(manifest) },
            host_id: self.header.host_id,
            way: RestoreWay::InPlace,
            target: "127.0.0.1".to_owned(),
            cassandra_yaml: Some(node.path("conf/cassandra.yaml").to_str().unwrap().to_owned()),
            scope: RestoreScope::Nodes,
            move_aside: None,
        }
    }
}

fn file(name: &str, content: &[u8], object: u32, offset: u64) -> FileEntry {
    FileEntry {
        name: name.to_owned(),
        size: content.len() as u64,
        blake3: blake3_hex(content),
        crc32: crc32fast::hash(content),
        inode: 1,
        mtime_ns: 1,
        birth_ns: None,
        object,
        offset,
    }
}

/// A stopped node with two data directories, a commit log, hints and saved caches.
pub(super) struct Node {
    pub(super) root: tempfile::TempDir,
    pub(super) machine: Machine,
    /// Of the one agent that is at work.
    pub(super) locks: Locks,
}

pub(super) const YAML: &str = "cluster_name: it's\nnum_tokens: 4\nendpoint_snitch: GossipingPropertyFileSnitch\n\
    partitioner: org.apache.cassandra.dht.Murmur3Partitioner\n";

impl Node {
    pub(super) fn new() -> Self {
        let root = scratch();
        for name in [
            "conf",
            "data",
            "data2",
            "commitlog",
            "hints",
            "caches",
            "spool",
            "proc/self/ns",
            "proc/self/net",
        ] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        symlink("net:[1]", root.path().join("proc/self/ns/net")).unwrap();
        let machine =
            Machine { proc_root: root.path().join("proc"), packaged_yaml: Vec::new(), ..Machine::default() };
        let node = Self { root, machine, locks: Locks::default() };
        fs::write(node.path("caches/KeyCache-f.db"), "old").unwrap();
        fs::write(node.path("conf/cassandra-rackdc.properties"), "dc=dc1\nrack=r1\n").unwrap();
        node.yaml(YAML);
        node
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Sets the yaml: these lines, and the directories.
    pub(super) fn yaml(&self, lines: &str) {
        let root = self.root.path().display();
        let directories = format!(
            "data_file_directories: [{root}/data, {root}/data2]\ncommitlog_directory: {root}/commitlog\n\
             hints_directory: {root}/hints\nsaved_caches_directory: {root}/caches\n"
        );
        fs::write(self.path("conf/cassandra.yaml"), format!("{lines}{directories}")).unwrap();
    }

    pub(super) async fn run(&self, request: &RestoreRequest) -> Result<RestoreSummary, RestoreError> {
        self.run_with(&Context::default(), request, Steps::default()).await
    }

    pub(super) async fn run_with(
        &self,
        context: &Context,
        request: &RestoreRequest,
        steps: Steps,
    ) -> Result<RestoreSummary, RestoreError> {
        let context = Context { locks: self.locks.clone(), ..context.clone() };
        Box::pin(run_counted(&context, &self.machine, request, &self.path("spool"), steps)).await
    }

    /// Runs and is killed before the change to the disk of this number; true when it was.
    pub(super) async fn run_killed(&self, request: &RestoreRequest, change: i64) -> bool {
        quiet();
        let left = Arc::new(AtomicI64::new(change));
        let outcome = self
            .run_with(&Context::default(), request, Steps { left: Some(Arc::clone(&left)), cancel: None })
            .await;
        let killed = left.load(Ordering::SeqCst) < 0;
        assert_eq!(killed, outcome.is_err(), "{outcome:?}");
        killed
    }

    /// Everything in the data directories that is no directory.
    pub(super) fn files(&self) -> [Files; 2] {
        ["data", "data2"].map(|name| files(&self.path(name)))
    }

    /// True when Cassandra would refuse to start, as the first data directory has the sentinel.
    pub(super) fn is_marked(&self) -> bool {
        self.path("data/node-backup/RESTORE_INCOMPLETE/aa-1-big-Data.db").exists()
    }

    /// Names in the data directories.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = ["data", "data2"]
            .iter()
            .flat_map(|name| fs::read_dir(self.path(name)).unwrap())
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }
}

pub(super) fn files(root: &Path) -> Files {
    let mut files = Files::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                waiting.push(path);
            } else {
                let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                files.insert(path.strip_prefix(root).unwrap().to_owned(), content);
            }
        }
    }
    files
}

pub(super) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// The kills of these tests are no news.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<&str>().copied().unwrap_or_default();
            if !text.contains("killed by the test") {
                default(info);
            }
        }));
    });
}

/// In memory where there is such a place: restores sync a lot.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
