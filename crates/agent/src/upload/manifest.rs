//! The node manifest: written to a file of our own while SSTables are dealt with, stored at the very end.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use cassy_agent_protocol::UploadRequest;
use cassy_backup_format::{Footer, Header, Keys, ManifestError, ManifestWriter, ObjectKey, SstableEntry};
use cassy_store::{Store, StoreError};
use futures::TryStreamExt;

use super::error::UploadError;
use super::spool::{Hashing, SpoolFile, put};

/// A manifest under way.
pub(super) struct Draft {
    spool: SpoolFile,
    lines: ManifestWriter<Hashing<BufWriter<File>>>,
}

/// A manifest that is written and not stored yet.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) spool: SpoolFile,
    pub(super) footer: Footer,
    pub(super) blake3: String,
    pub(super) size: u64,
}

impl Draft {
    pub(super) fn begin(header: &Header, spool_dir: &Path) -> Result<Self, UploadError> {
        let (spool, file) = SpoolFile::create(spool_dir, "manifest")?;
        let lines = ManifestWriter::new(Hashing::new(BufWriter::new(file)), header).map_err(failed)?;
        Ok(Self { spool, lines })
    }

    pub(super) fn push(&mut self, entry: &SstableEntry) -> Result<(), UploadError> {
        self.lines.push(entry).map_err(failed)
    }

    pub(super) fn finish(self) -> Result<Written, UploadError> {
        let (hashing, footer) = self.lines.finish().map_err(failed)?;
        Ok(Written { spool: self.spool, footer, blake3: hashing.blake3(), size: hashing.bytes() })
    }
}

fn failed(source: ManifestError) -> UploadError {
    UploadError::Manifest { source }
}

/// The keys of the backup's manifest, and of the one marked corrupt.
pub(super) fn keys(keys: &Keys, request: &UploadRequest) -> [ObjectKey; 2] {
    let (host, backup) = (&request.host_id, &request.backup_id);
    match request.base {
        None => [keys.node_manifest(host, backup), keys.corrupt_node_manifest(host, backup)],
        Some(base) => [
            keys.increment_manifest(host, backup, &base),
            keys.corrupt_increment_manifest(host, backup, &base),
        ],
    }
}

/// Stores the manifest. When its key is taken, by the very same bytes, an earlier try has done so already.
pub(super) async fn store(store: &dyn Store, key: &ObjectKey, written: &Written) -> Result<(), UploadError> {
    match put(store, key, "store the manifest", &written.spool, (&written.blake3, written.size)).await {
        Err(UploadError::Store { source: StoreError::AlreadyExists { .. }, .. }) => {
            let stored = stored_blake3(store, key).await?;
            if stored == written.blake3 {
                Ok(())
            } else {
                Err(UploadError::ManifestTaken { key: key.clone() })
            }
        }
        other => other,
    }
}

async fn stored_blake3(store: &dyn Store, key: &ObjectKey) -> Result<String, UploadError> {
    let refused = |source| UploadError::Store { what: "read the manifest that is there already", source };
    let mut hash = blake3::Hasher::new();
    let mut pieces = store.read(key, None).await.map_err(refused)?;
    while let Some(piece) = pieces.try_next().await.map_err(refused)? {
        hash.update(&piece);
    }
    Ok(hash.finalize().to_hex().to_string())
}
