//! Object keys: the layout of format 1 in the store, and the way back from a key.
//!
//! A name from outside becomes one segment: every byte but `[A-Za-z0-9._+-=@,]` is percent-encoded, `.` and
//! `..` too, so that a key never leaves its place on any store.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::check::excerpt;
use crate::ids::{Attempt, BackupId, ClusterId, HostId};
use crate::node_manifest::TableRef;

/// A key is at most this long; S3's limit.
const KEY_LIMIT_BYTES: usize = 1024;
/// A segment is at most this long; the limit of file systems.
const SEGMENT_LIMIT_BYTES: usize = 255;
const SMALL_TAR: &str = "small.tar";
const MANIFEST_SUFFIX: &str = ".jsonl.zst";
const CORRUPT: &str = ".corrupt";
/// Between the ids of an increment and of its base.
const ON: &str = ".on-";

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'_')
    .remove(b'+')
    .remove(b'-')
    .remove(b'=')
    .remove(b'@')
    .remove(b',');

/// Why a key cannot be made or understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not a key on any store.
    #[error("object key {key} is not valid: {reason}")]
    Invalid {
        /// An excerpt, escaped.
        key: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A name is too long once it is percent-encoded, or cannot be a segment.
    #[error("{what} {name} cannot be part of an object key: {reason}")]
    Name {
        /// What it names.
        what: &'static str,
        /// An excerpt, escaped.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key in a data prefix that this version does not write.
    #[error("object key {key} is not that of a component of an SSTable")]
    NotAComponent {
        /// The key, escaped.
        key: String,
    },
}

/// A key in the store, below the store's own prefix: relative, no empty, `.` or `..` segment, at most 1,024
/// bytes and 255 per segment, no control character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments between the slashes; at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

fn check_key(key: &str) -> Result<(), &'static str> {
    if key.len() > KEY_LIMIT_BYTES {
        return Err("it is longer than 1024 bytes");
    }
    if key.chars().any(char::is_control) {
        return Err("it holds a control character");
    }
    for segment in key.split('/') {
        match segment {
            "" => return Err("it has an empty segment"),
            "." | ".." => return Err("it has a segment . or .."),
            _ if segment.len() > SEGMENT_LIMIT_BYTES => {
                return Err("it has a segment of more than 255 bytes");
            }
            _ => {}
        }
    }
    Ok(())
}

impl TryFrom<String> for ObjectKey {
    type Error = KeyError;
    fn try_from(key: String) -> Result<Self, KeyError> {
        match check_key(&key) {
            Ok(()) => Ok(Self(key)),
            Err(reason) => Err(KeyError::Invalid { key: excerpt(&key), reason }),
        }
    }
}

impl FromStr for ObjectKey {
    type Err = KeyError;
    fn from_str(key: &str) -> Result<Self, KeyError> {
        Self::try_from(key.to_owned())
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> String {
        key.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ObjectKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The keys of one cluster. Prefixes end with a slash, so that no name is taken for the begin of a longer one;
/// only [`Keys::root`] does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    cluster: ClusterId,
    /// `cassy/1/<cluster>`; short enough that the keys of nodes and backups always fit.
    root: String,
}

impl Keys {
    /// Fails when the cluster's id takes more than 255 bytes once percent-encoded.
    pub fn new(cluster: ClusterId) -> Result<Self, KeyError> {
        let root = format!("cassy/1/{}", segment("cluster id", cluster.as_str())?);
        Ok(Self { cluster, root })
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// `cassy/1/<cluster>`, without a slash at its end.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// `.../node/<host>/`.
    pub fn node_prefix(&self, host: &HostId) -> String {
        format!("{}/node/{host}/", self.root)
    }

    /// `.../node/<host>/data/`.
    pub fn data_prefix(&self, host: &HostId) -> String {
        format!("{}data/", self.node_prefix(host))
    }

    /// `.../node/<host>/manifest/`.
    pub fn manifest_prefix(&self, host: &HostId) -> String {
        format!("{}manifest/", self.node_prefix(host))
    }

    /// The key of a component that is an object of its own. `index` is the index's directory with its leading
    /// dot, `sstable` the name without a component (`nb-1-big`), `file` the component's whole file name.
    pub fn component(
        &self,
        host: &HostId,
        table: &TableRef,
        index: Option<&str>,
        sstable: &str,
        attempt: Attempt,
        file: &str,
    ) -> Result<ObjectKey, KeyError> {
        if file == SMALL_TAR {
            return Err(name_error("component", file, "the name is that of the tar of small components"));
        }
        self.sstable_object(host, table, index, sstable, attempt, file)
    }

    /// The key of the tar that holds an SSTable's small components.
    pub fn small_tar(
        &self,
        host: &HostId,
        table: &TableRef,
        index: Option<&str>,
        sstable: &str,
        attempt: Attempt,
    ) -> Result<ObjectKey, KeyError> {
        self.sstable_object(host, table, index, sstable, attempt, SMALL_TAR)
    }

    fn sstable_object(
        &self,
        host: &HostId,
        table: &TableRef,
        index: Option<&str>,
        sstable: &str,
        attempt: Attempt,
        file: &str,
    ) -> Result<ObjectKey, KeyError> {
        let mut key = self.data_prefix(host);
        key.push_str(&segment("keyspace", &table.keyspace)?);
        key.push('/');
        key.push_str(&segment("table", &format!("{}-{}", table.table, table.id))?);
        key.push('/');
        if let Some(index) = index {
            if !index.starts_with('.') {
                return Err(name_error("index directory", index, "it does not begin with a dot"));
            }
            key.push_str(&segment("index directory", index)?);
            key.push('/');
        }
        key.push_str(&segment("SSTable", &format!("{sstable}.{attempt}"))?);
        key.push('/');
        key.push_str(&segment("component", file)?);
        ObjectKey::try_from(key)
    }

    /// The key of a node's manifest.
    pub fn node_manifest(&self, host: &HostId, backup: &BackupId) -> ObjectKey {
        self.manifest(host, &NodeManifestName { backup_id: *backup, base: None }, "")
    }

    /// The key of the manifest of what could be read of a node with a corrupt SSTable.
    pub fn corrupt_node_manifest(&self, host: &HostId, backup: &BackupId) -> ObjectKey {
        self.manifest(host, &NodeManifestName { backup_id: *backup, base: None }, CORRUPT)
    }

    /// The key of a node's manifest of an increment on a base.
    pub fn increment_manifest(&self, host: &HostId, backup: &BackupId, base: &BackupId) -> ObjectKey {
        self.manifest(host, &NodeManifestName { backup_id: *backup, base: Some(*base) }, "")
    }

    /// The same for a node with a corrupt SSTable among the new ones.
    pub fn corrupt_increment_manifest(&self, host: &HostId, backup: &BackupId, base: &BackupId) -> ObjectKey {
        self.manifest(host, &NodeManifestName { backup_id: *backup, base: Some(*base) }, CORRUPT)
    }

    fn manifest(&self, host: &HostId, name: &NodeManifestName, mark: &str) -> ObjectKey {
        self.own(format!("{}{name}{mark}{MANIFEST_SUFFIX}", self.manifest_prefix(host)))
    }

    /// `.../node/<host>/superseded/`.
    pub fn superseded_prefix(&self, host: &HostId) -> String {
        format!("{}superseded/", self.node_prefix(host))
    }

    /// The key of the list of incremental files that a backup supersedes.
    pub fn superseded(&self, host: &HostId, backup: &BackupId) -> ObjectKey {
        self.own(format!("{}{backup}{MANIFEST_SUFFIX}", self.superseded_prefix(host)))
    }

    /// `.../backup/`, where the cluster manifests are.
    pub fn backup_prefix(&self) -> String {
        format!("{}/backup/", self.root)
    }

    /// The key of a cluster manifest.
    pub fn cluster_manifest(&self, backup: &BackupId) -> ObjectKey {
        self.own(format!("{}{backup}.json", self.backup_prefix()))
    }

    /// `.../pin/`.
    pub fn pin_prefix(&self) -> String {
        format!("{}/pin/", self.root)
    }

    /// The key of a backup's pin.
    pub fn pin(&self, backup: &BackupId) -> ObjectKey {
        self.own(format!("{}{backup}.json", self.pin_prefix()))
    }

    /// `.../trash/`.
    pub fn trash_prefix(&self) -> String {
        format!("{}/trash/", self.root)
    }

    /// The key of a purge's trash list.
    pub fn trash(&self, purge: &str) -> Result<ObjectKey, KeyError> {
        let name = segment("purge", purge)?;
        ObjectKey::try_from(format!("{}{name}{MANIFEST_SUFFIX}", self.trash_prefix()))
    }

    /// The key of an object that proves that server and nodes see the same store.
    pub fn probe(&self, name: &str) -> Result<ObjectKey, KeyError> {
        ObjectKey::try_from(format!("{}/probe/{}", self.root, segment("probe", name)?))
    }

    fn own(&self, key: String) -> ObjectKey {
        debug_assert_eq!(check_key(&key), Ok(()), "made of a checked root, UUIDs and fixed words");
        ObjectKey(key)
    }

    /// The way back from the key of a component or of a small.tar. Only what this version itself writes is
    /// understood: the key made of the answer is the very same key.
    pub fn parse_component(&self, key: &ObjectKey) -> Result<ComponentKey, KeyError> {
        self.try_parse_component(key).ok_or_else(|| KeyError::NotAComponent { key: excerpt(key.as_str()) })
    }

    fn try_parse_component(&self, key: &ObjectKey) -> Option<ComponentKey> {
        let rest = key.as_str().strip_prefix(&self.root)?.strip_prefix("/node/")?;
        let (host, rest) = rest.split_once("/data/")?;
        let segments: Vec<String> = rest.split('/').map(decode).collect::<Option<_>>()?;
        let (keyspace, directory, index, sstable, file) = match segments.as_slice() {
            [keyspace, directory, sstable, file] => (keyspace, directory, None, sstable, file),
            [keyspace, directory, index, sstable, file] => (keyspace, directory, Some(index), sstable, file),
            _ => return None,
        };
        let (table, id) = directory.rsplit_once('-')?;
        let (sstable, attempt) = sstable.rsplit_once('.')?;
        let component = ComponentKey {
            host: host.parse().ok()?,
            table: TableRef { keyspace: keyspace.clone(), table: table.to_owned(), id: id.to_owned() },
            index: index.cloned(),
            sstable: sstable.to_owned(),
            attempt: attempt.parse().ok()?,
            file: file.clone(),
        };
        let again = self.sstable_object(
            &component.host,
            &component.table,
            component.index.as_deref(),
            &component.sstable,
            component.attempt,
            &component.file,
        );
        (again.as_ref() == Ok(key)).then_some(component)
    }
}

/// What the key of a node's manifest says: which backup it is, and on which base when it is an increment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeManifestName {
    /// The backup.
    pub backup_id: BackupId,
    /// The snapshot that an increment is added to.
    pub base: Option<BackupId>,
}

impl NodeManifestName {
    /// The way back from a key. Those marked corrupt, and those that this version does not write, are none.
    pub fn of(key: &ObjectKey) -> Option<Self> {
        let (place, file) = key.as_str().rsplit_once('/')?;
        let name = file.strip_suffix(MANIFEST_SUFFIX).filter(|_| place.ends_with("/manifest"))?;
        let (backup, base) = match name.split_once(ON) {
            Some((backup, base)) => (backup, Some(base)),
            None => (name, None),
        };
        let base = base.map(str::parse).transpose().ok()?;
        let parsed = Self { backup_id: backup.parse().ok()?, base };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for NodeManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backup_id.fmt(f)?;
        self.base.iter().try_for_each(|base| write!(f, "{ON}{base}"))
    }
}

/// What the key of a component says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentKey {
    /// The node that sent it.
    pub host: HostId,
    /// The table.
    pub table: TableRef,
    /// The index's directory, with its leading dot.
    pub index: Option<String>,
    /// The SSTable's name, `nb-1-big`.
    pub sstable: String,
    /// The attempt.
    pub attempt: Attempt,
    /// The component's whole file name, or `small.tar`.
    pub file: String,
}

impl ComponentKey {
    /// True for the tar of small components.
    pub fn is_small_tar(&self) -> bool {
        self.file == SMALL_TAR
    }
}

fn name_error(what: &'static str, name: &str, reason: &'static str) -> KeyError {
    KeyError::Name { what, name: excerpt(name), reason }
}

fn segment(what: &'static str, name: &str) -> Result<String, KeyError> {
    let encoded = match name {
        "" => return Err(name_error(what, name, "it is empty")),
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => utf8_percent_encode(name, ENCODED).to_string(),
    };
    if encoded.len() > SEGMENT_LIMIT_BYTES {
        return Err(name_error(what, name, "it takes more than 255 bytes when percent-encoded"));
    }
    Ok(encoded)
}

fn decode(segment: &str) -> Option<String> {
    Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned())
}
