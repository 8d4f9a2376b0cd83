//! What an earlier try of the same backup has brought to its end: its manifest is durable, and only its answer was
//! lost with the agent or the server. The backup is then complete; sending it again would only find its key taken.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use cassy_agent_protocol::{UploadRequest, UploadSummary};
use cassy_backup_format::{Keys, ManifestError, ManifestReader, ObjectKey};
use cassy_store::{Store, StoreError};

use super::error::{UploadError, blocking};
use super::spool::{SpoolFile, download};
use super::{describe, manifest};
use crate::context::Context;

/// The answer of the earlier try, from the manifest that it has stored; `None` when there is none.
pub(super) async fn answer(
    ctx: &Context,
    store: &dyn Store,
    keys: &Keys,
    request: &UploadRequest,
    spool_dir: &Path,
) -> Result<Option<UploadSummary>, UploadError> {
    for key in manifest::keys(keys, request) {
        let (spool, blake3) = match download(ctx, store, &key, spool_dir, "earlier").await {
            Ok(downloaded) => downloaded,
            Err(UploadError::Store { source: StoreError::NotFound { .. }, .. }) => continue,
            Err(error) => return Err(error),
        };
        let request = request.clone();
        return blocking(move || summary(&request, key, &spool, blake3)).await.map(Some);
    }
    Ok(None)
}

/// Read to its footer: only that proves a manifest.
fn summary(
    request: &UploadRequest,
    key: ObjectKey,
    spool: &SpoolFile,
    blake3: String,
) -> Result<UploadSummary, UploadError> {
    let taken = || UploadError::ManifestTaken { key: key.clone() };
    let unreadable = |error: ManifestError| {
        tracing::warn!(%key, %error, "the manifest that is stored already cannot be read");
        taken()
    };
    let file = spool.open()?;
    let size = file.metadata().map_err(|source| spool.error("look at", source))?.len();
    let mut lines: ManifestReader<BufReader<File>> =
        ManifestReader::open(BufReader::new(file)).map_err(unreadable)?;
    let header = lines.header().clone();
    let is_ours = header.cluster_id == request.cluster_id
        && header.host_id == request.host_id
        && header.backup_id == request.backup_id;
    if !is_ours {
        return Err(taken());
    }
    let mut corrupt = Vec::new();
    for entry in &mut lines {
        let entry = entry.map_err(unreadable)?;
        if entry.corrupt {
            corrupt.push(describe(&entry, "it did not match its digest when it was sent"));
        }
    }
    let footer = lines.footer().cloned().ok_or_else(taken)?;
    tracing::info!(%key, "an earlier try has stored the manifest already");
    Ok(UploadSummary {
        manifest: key,
        blake3,
        size,
        sstables: footer.sstables,
        files: footer.files,
        bytes: footer.bytes,
        sent_bytes: 0,
        left_orphans: true,
        taken: 0,
        left: 0,
        tables: header.tables,
        corrupt,
    })
}
