//! The data of recorded nodes: of a real Cassandra, which ran once, or made up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cassy_cassandra::{Deadlines, Keyspaces, NodeSession, SnapshotTag, TcpDialer};
use tempfile::TempDir;

use super::identity::Identity;
use super::process::SCHEMAS;
use super::tables;
use crate::{Cassandra, CassandraVersion, Cql, Doing, Failure, Runtime, dataset};

const DATA: &str = "data";
const CALL_LIMIT: Duration = Duration::from_secs(240);
/// Large enough for an object of its own in the store.
const LARGE_BYTES: usize = 1_280 * 1024;

/// A data directory with what its node says of itself. Nodes get copies; the recording never changes.
#[derive(Debug, Clone)]
pub struct Recording {
    directory: Arc<TempDir>,
}

impl Recording {
    /// Runs a real Cassandra, fills it with the [`dataset`], and keeps what it leaves.
    ///
    /// # Errors
    /// When Cassandra does not start, or a file cannot be copied.
    pub async fn of_cassandra(runtime: &Runtime) -> Result<Self, Failure> {
        let recording = Self::empty()?;
        let root = recording.directory.path();
        let mut node = Cassandra::builder(runtime, root.join("cassandra")).build()?;
        node.start().await?;
        dataset::write(&node, &Cql::connect(&node).await?).await?;
        read_node(&node, root).await?;
        node.stop().await?;
        let [data] = &node.data_directories()[..] else {
            return Err(Failure::new("a node with one data directory was expected"));
        };
        std::fs::rename(data, root.join(DATA)).doing(|| "keep the data directory")?;
        std::fs::remove_dir_all(root.join("cassandra")).doing(|| "remove the rest of the node")?;
        Ok(recording)
    }

    /// A few small tables with valid names, and one large SSTable. Needs no JVM.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn synthetic() -> Result<Self, Failure> {
        let small = |sstables, bytes| Synthetic { sstables, bytes };
        Self::made_of(&[
            ("system", "local", small(1, 500)),
            ("system", "peers_v2", small(0, 0)),
            ("system_schema", "tables", small(2, 4_000)),
            ("shop", "orders", small(3, 20_000)),
            ("shop", "documents", small(1, LARGE_BYTES)),
            ("snapshots", "backups", small(1, 100)),
            ("backups", "snapshots", small(2, 100)),
        ])
    }

    /// The synthetic recording of a node that says that it is this release of Cassandra.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn of_release(release: &str) -> Result<Self, Failure> {
        let recording = Self::synthetic()?;
        let identity = Identity { release_version: release.to_owned(), ..recording.identity()? };
        identity.write(recording.directory.path())?;
        Ok(recording)
    }

    /// The synthetic recording with so many tables more, each of so many SSTables whose Data.db has so many bytes of
    /// zeros, which take no room on disk. Each SSTable has three files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn with_many_files(tables: usize, sstables: usize, bytes: usize) -> Result<Self, Failure> {
        let recording = Self::synthetic()?;
        for number in 0..tables {
            recording.add_table("many", &format!("files{number}"), &Synthetic { sstables, bytes })?;
        }
        Ok(recording)
    }

    fn made_of(tables: &[(&str, &str, Synthetic)]) -> Result<Self, Failure> {
        let recording = Self::empty()?;
        let root = recording.directory.path();
        for (keyspace, table, content) in tables {
            recording.add_table(keyspace, table, content)?;
        }
        let identity = Identity {
            release_version: CassandraVersion::default().release().to_owned(),
            cluster_name: "Test Cluster".to_owned(),
            partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
            host_id: "8d5ed9f4-7764-4dbd-bad8-43fddce94b7c".to_owned(),
            datacenter: "datacenter1".to_owned(),
            rack: "rack1".to_owned(),
            tokens: ["-4611686018427387904", "-1", "1", "4611686018427387904"].map(str::to_owned).to_vec(),
        };
        identity.write(root)?;
        Ok(recording)
    }

    fn empty() -> Result<Self, Failure> {
        let directory = tempfile::Builder::new().prefix("cassy-recording-").tempdir();
        let directory = directory.doing(|| "make a directory for a recording")?;
        std::fs::create_dir(directory.path().join(SCHEMAS)).doing(|| "make the directory of schemas")?;
        Ok(Self { directory: Arc::new(directory) })
    }

    fn add_table(&self, keyspace: &str, table: &str, content: &Synthetic) -> Result<(), Failure> {
        let id = format!("{:032x}", crc32fast::hash(format!("{keyspace}.{table}").as_bytes()));
        let directory = self.directory.path().join(DATA).join(keyspace).join(format!("{table}-{id}"));
        content.write(&directory)?;
        if keyspace.starts_with("system") {
            return Ok(());
        }
        let cql = format!("CREATE TABLE IF NOT EXISTS {keyspace}.{table} (id int PRIMARY KEY);\n");
        let file = self.directory.path().join(SCHEMAS).join(format!("{keyspace}.{table}-{id}.cql"));
        std::fs::write(&file, cql).doing(|| format!("write {}", file.display()))
    }

    pub(super) fn identity(&self) -> Result<Identity, Failure> {
        Identity::read(self.directory.path())
    }

    /// Copies the data into a data directory, the rest into the node's own.
    pub(super) fn copy_to(&self, node: &Path, data: &Path) -> Result<(), Failure> {
        self.identity()?.write(node)?;
        copy_tree(&self.directory.path().join(SCHEMAS), &node.join(SCHEMAS))?;
        copy_tree(&self.directory.path().join(DATA), data)
    }
}

/// What one synthetic table consists of.
struct Synthetic {
    sstables: usize,
    bytes: usize,
}

impl Synthetic {
    fn write(&self, directory: &Path) -> Result<(), Failure> {
        let inside = || -> std::io::Result<()> {
            std::fs::create_dir_all(directory.join("backups"))?;
            // Zeros compress and take no room, but two files with the same bytes would pass for each other.
            let digest = crc32fast::hash(&vec![0; self.bytes]).to_string();
            for number in 1..=self.sstables {
                let file = |component: &str| directory.join(format!("nb-{number}-big-{component}"));
                std::fs::File::create(file("Data.db"))?.set_len(self.bytes as u64)?;
                std::fs::write(file("Digest.crc32"), &digest)?;
                std::fs::write(file("TOC.txt"), "Data.db\nDigest.crc32\nTOC.txt\n")?;
            }
            Ok(())
        };
        inside().doing(|| format!("write {}", directory.display()))
    }
}

/// What a running node says of itself, and the schemas that it writes into a snapshot.
async fn read_node(node: &Cassandra, to: &Path) -> Result<(), Failure> {
    let connected =
        NodeSession::connect(Arc::new(TcpDialer), "127.0.0.1", node.jmx_port(), Deadlines::default()).await;
    let mut session = connected.doing(|| "connect for JMX")?;
    let read = async {
        let own = "127.0.0.1".parse().expect("an address");
        let host_id = session.local_host_id().await?.to_string();
        let identity = Identity {
            release_version: session.release_version().to_string(),
            cluster_name: session.cluster_name().await?,
            partitioner: session.partitioner().await?,
            datacenter: session.datacenter(own).await?,
            rack: session.rack(own).await?,
            tokens: session.tokens(own).await?,
            host_id,
        };
        let keyspaces = Keyspaces::new(session.keyspaces().await?).expect("a node has keyspaces");
        let tag = SnapshotTag::of(identity.host_id.parse().expect("the node said a UUID"), 1);
        session.take_snapshot(tag, &keyspaces, CALL_LIMIT).await?;
        Ok::<_, cassy_cassandra::NodeError>((identity, keyspaces, tag))
    };
    let (identity, keyspaces, tag) = read.await.doing(|| "record the node")?;
    identity.write(to)?;
    for table in tables::list(&node.data_directories()).doing(|| "list the tables")? {
        if let Some(schema) = table.schema_in(&tag.to_string()) {
            let file = to.join(SCHEMAS).join(table.schema_name());
            std::fs::copy(schema, &file).doing(|| format!("write {}", file.display()))?;
        }
    }
    session.clear_snapshot(tag, &keyspaces, CALL_LIMIT).await.doing(|| "clear the recording's snapshot")
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Failure> {
    let mut open: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = open.pop() {
        std::fs::create_dir_all(&to).doing(|| format!("make {}", to.display()))?;
        for entry in std::fs::read_dir(&from).doing(|| format!("list {}", from.display()))? {
            let entry = entry.doing(|| format!("list {}", from.display()))?;
            let (path, target) = (entry.path(), to.join(entry.file_name()));
            if path.is_dir() {
                open.push((path, target));
            } else {
                std::fs::copy(&path, &target).doing(|| format!("copy {}", path.display()))?;
            }
        }
    }
    Ok(())
}
