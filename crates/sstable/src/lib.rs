//! What Cassandra's files are called and where they lie: names and components of SSTables, TOC and digest, a
//! snapshot's manifest, the layout of a data directory, and when tables were truncated. Pure: names and bytes in, types out, no I/O.
//!
//! Every name and byte comes from a node and is data: bounded, checked, never a path outside its directory.

#![warn(clippy::indexing_slicing)]

mod compression;
mod digest;
mod layout;
mod name;
mod plain;
mod snapshot;
mod toc;
mod truncations;

pub use compression::{
    COMPRESSION_INFO_COMPONENT, CompressionError, CompressionInfo, UNCOMPRESSED_LIMIT_BYTES,
};
pub use digest::{Digest, DigestError};
pub use layout::{
    BACKUPS_DIRECTORY, Located, Place, SENTINEL_FILE, SENTINEL_TABLE_DIRECTORY, SNAPSHOTS_DIRECTORY,
    TableDirectory, is_index_directory, locate,
};
pub use name::{
    ComponentName, SstableFormat, SstableIdentifier, SstableName, SstableVersion, next_generation,
};
pub use plain::is_plain_name;
pub use snapshot::{SNAPSHOT_MANIFEST_FILE, SNAPSHOT_SCHEMA_FILE, SnapshotManifest, SnapshotManifestError};
pub use toc::{DATA_COMPONENT, TOC_COMPONENT, Toc, TocError, is_attached_index, missing_components};
pub use truncations::truncations;
