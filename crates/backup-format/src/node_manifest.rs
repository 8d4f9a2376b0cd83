//! The node manifest: everything that one backup holds of one node. JSON lines in one zstd frame: a [`Header`],
//! one sorted [`SstableEntry`] per SSTable, a [`Footer`]. Without its footer it is truncated.
//!
//! Invariant: [`ManifestWriter`] writes nothing that [`ManifestReader`] refuses; both use the same checks.

mod error;
mod reader;
mod rules;
mod writer;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::bounded_strings;
use crate::ids::{BackupId, ClusterId, HostId};
use crate::keys::ObjectKey;

pub use error::ManifestError;
pub use reader::ManifestReader;
pub use writer::ManifestWriter;

/// What kind of backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// A snapshot of single nodes (type 2).
    NodeSnapshot,
    /// A consistent snapshot of the whole cluster (type 1).
    ClusterSnapshot,
    /// The flushed SSTables since the parent (type 3).
    Incremental,
}

impl BackupKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NodeSnapshot => "node_snapshot",
            Self::ClusterSnapshot => "cluster_snapshot",
            Self::Incremental => "incremental",
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A table, by name and id. The order is that of the manifest's lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableRef {
    /// The keyspace, as its directory is named.
    pub keyspace: String,
    /// The table, as its directory is named, without the id.
    pub table: String,
    /// The table's id: 32 lower-case hex digits, as in the directory's name.
    pub id: String,
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`crate::FORMAT`] of the writer.
    pub format: u32,
    /// [`crate::LEAST_READER`] of the writer: an older reader must refuse.
    pub least_reader: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The cluster's own name.
    pub cluster_name: String,
    /// The node.
    pub host_id: HostId,
    /// The node's address, as the ring has it.
    pub address: String,
    /// The node's tokens, as decimal strings.
    #[serde(deserialize_with = "bounded_strings")]
    pub tokens: Vec<String>,
    /// The node's datacenter.
    pub datacenter: String,
    /// The node's rack.
    pub rack: String,
    /// Cassandra's release version.
    pub cassandra_version: String,
    /// The partitioner's class.
    pub partitioner: String,
    /// The backup; an increment has an id of its own.
    pub backup_id: BackupId,
    /// What kind of backup.
    pub kind: BackupKind,
    /// When the backup was asked for, Unix milliseconds.
    pub created_at_ms: i64,
    /// The manifest that this one continues or shares objects with; always there for an increment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentRef>,
    /// The snapshot that an increment is added to; always there for an increment, and for nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BackupId>,
    /// When the tables were truncated last, no table twice; a table without a record was never truncated. Absent
    /// when that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncations: Option<Vec<Truncation>>,
    /// How the node was configured.
    pub configuration: ConfigurationFacts,
    /// Every table that the backup holds, also those without SSTables. No SSTable is of another table.
    pub tables: Vec<TableRef>,
    /// The `schema.cql` texts found in the snapshot.
    pub schema: Vec<TableSchema>,
}

/// Another node manifest, named by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRef {
    /// Its key.
    pub key: ObjectKey,
    /// Its backup.
    pub backup_id: BackupId,
    /// BLAKE3 of its stored bytes, 64 lower-case hex digits.
    pub blake3: String,
}

/// When a table was truncated last, as the node's `system.local` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    /// The table's id: 32 lower-case hex digits.
    pub id: String,
    /// Unix milliseconds: SSTables that were complete by then are gone.
    pub at_ms: i64,
}

/// A table's schema, as Cassandra wrote it into the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// The table.
    pub table: TableRef,
    /// The text of `schema.cql`.
    pub cql: String,
}

/// What the node's `cassandra.yaml` and its directories said; absent where nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigurationFacts {
    /// `data_file_directories`, in Cassandra's order; [`SstableEntry::directory`] counts in it.
    #[serde(deserialize_with = "bounded_strings")]
    pub data_directories: Vec<String>,
    /// `local_system_data_file_directory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_system_data_directory: Option<String>,
    /// `commitlog_directory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commitlog_directory: Option<String>,
    /// `hints_directory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints_directory: Option<String>,
    /// `saved_caches_directory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved_caches_directory: Option<String>,
    /// `cdc_raw_directory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdc_raw_directory: Option<String>,
    /// `num_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_tokens: Option<u32>,
    /// `initial_token`, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_token: Option<String>,
    /// `cluster_name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// `partitioner`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitioner: Option<String>,
    /// `endpoint_snitch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_snitch: Option<String>,
    /// `sstable.selected_format`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sstable_format: Option<String>,
    /// `uuid_sstable_identifiers_enabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid_sstable_identifiers: Option<bool>,
    /// `storage_compatibility_mode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_compatibility_mode: Option<String>,
    /// `incremental_backups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incremental_backups: Option<bool>,
    /// Where the `cassandra.yaml` is that the running Cassandra had loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yaml_path: Option<String>,
    /// The user who owns the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The group of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Permission bits of the data's directories; 0 when not known.
    pub directory_mode: u32,
    /// Permission bits of the data's files; 0 when not known.
    pub file_mode: u32,
}

/// One SSTable. Lines are sorted by table, index, name and directory; no two have all of these equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SstableEntry {
    /// The table.
    pub table: TableRef,
    /// For an SSTable of a secondary index: the name of its directory, `.idx_name`, with the leading dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// The name without a component, `nb-1-big`.
    pub name: String,
    /// Which data directory it was in; counts in [`ConfigurationFacts::data_directories`].
    pub directory: u32,
    /// The components: at least one, no name twice.
    pub files: Vec<FileEntry>,
    /// Where the components are: no key twice, each below the node's own data prefix.
    pub objects: Vec<ObjectEntry>,
    /// The Data.db does not match its own digest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub corrupt: bool,
}

/// One component of an SSTable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The whole file name, `nb-1-big-Data.db`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content, 64 lower-case hex digits.
    pub blake3: String,
    /// CRC-32 (zlib) of the content.
    pub crc32: u32,
    /// The inode on the node.
    pub inode: u64,
    /// The time of modification on the node, Unix nanoseconds.
    pub mtime_ns: i64,
    /// The time of birth on the node, where the file system knows it, Unix nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth_ns: Option<i64>,
    /// Which of [`SstableEntry::objects`] holds it.
    pub object: u32,
    /// Where in that object its bytes begin: 0 in a plain object, behind the member's header in a `small.tar`.
    pub offset: u64,
}

/// One object in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEntry {
    /// Its key.
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content, 64 lower-case hex digits.
    pub blake3: String,
    /// The checksum that the store itself gave, as the store spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_checksum: Option<String>,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// Always true; the line begins with `{"footer":`.
    pub footer: bool,
    /// SSTables.
    pub sstables: u64,
    /// Their files.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// SSTables marked corrupt.
    pub corrupt: u64,
    /// BLAKE3 of all uncompressed bytes before this line, 64 lower-case hex digits.
    pub blake3: String,
}
