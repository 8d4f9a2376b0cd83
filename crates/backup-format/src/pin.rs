//! A pin: while it is there, no purge takes what the named node manifests refer to. Written before a backup
//! relies on the first older object, removed after its commit. One JSON document.

use serde::{Deserialize, Serialize};

use crate::check::{from_document, to_document};
use crate::ids::BackupId;
use crate::keys::ObjectKey;
use crate::node_manifest::ManifestError;

/// What a running backup relies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// [`crate::FORMAT`] of the writer; a purge that does not know it deletes nothing.
    pub format: u32,
    /// The backup that relies on them.
    pub backup_id: BackupId,
    /// When the pin was written, Unix milliseconds.
    pub created_at_ms: i64,
    /// The node manifests whose objects must stay.
    pub manifests: Vec<ObjectKey>,
}

impl Pin {
    /// The document to store.
    pub fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        to_document(self, self.format, self.format)
    }

    /// Reads a stored document of at most [`crate::DOCUMENT_LIMIT_BYTES`].
    pub fn from_json(document: &[u8]) -> Result<Self, ManifestError> {
        from_document(document)
    }
}
