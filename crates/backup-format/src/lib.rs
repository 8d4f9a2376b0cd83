//! What a backup looks like in the object store: object keys and manifests of format 1.
//!
//! Bytes in, types out; no I/O. `docs/backup-format.md` is the description for people.

#![warn(clippy::indexing_slicing)]

mod check;
mod cluster_manifest;
mod ids;
mod keys;
mod lines;
mod node_manifest;
mod pin;
mod superseded;
mod trash;

pub use cluster_manifest::{ClusterManifest, MissingNode, NodeManifestRef};
pub use ids::{Attempt, BackupId, ClusterId, HostId, IdError, SessionId};
pub use keys::{ComponentKey, KeyError, Keys, NodeManifestName, ObjectKey};
pub use lines::LINE_LIMIT_BYTES;
pub use node_manifest::{
    BackupKind, ConfigurationFacts, FileEntry, Footer, Header, ManifestError, ManifestReader, ManifestWriter,
    ObjectEntry, ParentRef, SstableEntry, TableRef, TableSchema, Truncation,
};
pub use pin::Pin;
pub use superseded::{SupersededFile, SupersededHeader, SupersededList, SupersededWriter};
pub use trash::{TrashHeader, TrashList, TrashWriter};

/// The format that this build writes.
pub const FORMAT: u32 = 1;

/// The oldest reader that understands what this build writes, and the reader that this build is.
pub const LEAST_READER: u32 = 1;

/// The largest JSON document (cluster manifest, pin) that is read or written.
pub const DOCUMENT_LIMIT_BYTES: usize = 64 << 20;
