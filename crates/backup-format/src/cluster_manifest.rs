//! The cluster manifest: which node manifests make up one backup of a cluster. One JSON document.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::check::{bounded_strings, excerpt, from_document, is_lower_hex, to_document};
use crate::ids::{BackupId, ClusterId, HostId};
use crate::keys::{Keys, ObjectKey};
use crate::node_manifest::ManifestError;

/// Which node manifests make up one backup of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterManifest {
    /// [`crate::FORMAT`] of the writer.
    pub format: u32,
    /// [`crate::LEAST_READER`] of the writer: an older reader must refuse.
    pub least_reader: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The cluster's own name.
    pub cluster_name: String,
    /// The backup.
    pub backup_id: BackupId,
    /// 1: a snapshot of the whole cluster; 2: snapshots of single nodes; 3: increments.
    pub backup_type: u32,
    /// The snapshot that increments are added to; always there for type 3, and for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BackupId>,
    /// When the backup was asked for, Unix milliseconds.
    pub created_at_ms: i64,
    /// All nodes' snapshots are proven to be of one moment.
    pub consistent: bool,
    /// The nodes, no host id and no address twice; each manifest below its own node's prefix.
    pub nodes: Vec<NodeManifestRef>,
    /// The nodes of the ring, or asked for, that are not in the backup.
    pub missing: Vec<MissingNode>,
    /// The keyspaces in the backup.
    #[serde(deserialize_with = "bounded_strings")]
    pub keyspaces: Vec<String>,
}

/// A node manifest, named by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeManifestRef {
    /// The node.
    pub host_id: HostId,
    /// The node's IP address in its usual spelling, as the ring had it: a restore goes there.
    pub address: String,
    /// The node's datacenter.
    pub datacenter: String,
    /// The node's rack.
    pub rack: String,
    /// The manifest's key.
    pub key: ObjectKey,
    /// Stored bytes of the manifest.
    pub size: u64,
    /// BLAKE3 of the stored bytes of the manifest, 64 lower-case hex digits.
    pub blake3: String,
    /// SSTables in it.
    pub sstables: u64,
    /// Files in it.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
}

/// A node that is not in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingNode {
    /// Its address.
    pub address: String,
    /// Its host id, when it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    /// Why it is missing.
    pub reason: String,
}

impl ClusterManifest {
    /// The document to store.
    pub fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        to_document(self, self.format, self.least_reader)
    }

    /// Reads a stored document of at most [`crate::DOCUMENT_LIMIT_BYTES`].
    pub fn from_json(document: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = from_document(document)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let invalid = |reason: String| Err(ManifestError::Invalid { line: 1, reason });
        if !(1..=3).contains(&self.backup_type) {
            return invalid(format!("backup_type {} is not 1, 2 or 3", self.backup_type));
        }
        if self.base.is_some() != (self.backup_type == 3) {
            return invalid("exactly increments have a base".to_owned());
        }
        let keys = match Keys::new(self.cluster_id.clone()) {
            Ok(keys) => keys,
            Err(error) => return invalid(error.to_string()),
        };
        let (mut hosts, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for node in &self.nodes {
            let address = excerpt(&node.address);
            if !is_node_address(&node.address) {
                return invalid(format!("{address} is not the IP address of a node"));
            }
            if !addresses.insert(&node.address) {
                return invalid(format!("address {address} is there twice"));
            }
            if !hosts.insert(node.host_id) {
                return invalid(format!("node {} is there twice", node.host_id));
            }
            if !node.key.as_str().starts_with(&keys.manifest_prefix(&node.host_id)) {
                return invalid(format!(
                    "the manifest of node {} is not below that node's own prefix",
                    node.host_id
                ));
            }
            if !is_lower_hex(&node.blake3, 64) {
                return invalid(format!(
                    "the digest of node {} is not 64 lower-case hex digits",
                    node.host_id
                ));
            }
        }
        Ok(())
    }
}

/// In its usual spelling, and one that a node can have: a restore logs in there.
fn is_node_address(text: &str) -> bool {
    let Ok(address) = text.parse::<IpAddr>() else { return false };
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_usual = address.to_canonical().to_string() == text;
    is_usual && !is_link_local && !address.is_unspecified() && !address.is_multicast()
}
