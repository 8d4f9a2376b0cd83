//! The trash lists: what purges are about to delete. Read right before the manifest is stored, so that no manifest
//! ever refers to an object whose end has been decided.

use std::collections::HashSet;
use std::io::BufReader;
use std::path::Path;

use cassy_backup_format::{ObjectKey, TrashList};
use cassy_store::{Store, StoreError};
use futures::TryStreamExt;

use super::error::{UploadError, blocking};
use super::spool::download;
use crate::context::Context;

/// Keys that a manifest relies on, in 16 bytes each, as a node may have very many.
#[derive(Debug, Default)]
pub(super) struct Relied(HashSet<[u8; 16]>);

impl Relied {
    pub(super) fn add(&mut self, key: &ObjectKey) {
        self.0.insert(fingerprint(key));
    }

    fn has(&self, key: &ObjectKey) -> bool {
        self.0.contains(&fingerprint(key))
    }
}

fn fingerprint(key: &ObjectKey) -> [u8; 16] {
    let digest = *blake3::hash(key.as_str().as_bytes()).as_bytes();
    std::array::from_fn(|place| digest.get(place).copied().unwrap_or_default())
}

/// Those of the keys that are in a trash list.
pub(super) async fn listed(
    ctx: &Context,
    store: &dyn Store,
    prefix: &str,
    relied: Relied,
    spool_dir: &Path,
) -> Result<HashSet<ObjectKey>, UploadError> {
    let failed = |source| UploadError::Store { what: "list the trash lists", source };
    let lists: Vec<_> = store.list(prefix).try_collect().await.map_err(failed)?;
    if lists.is_empty() || relied.0.is_empty() {
        return Ok(HashSet::new());
    }
    let mut relied = relied;
    let mut found = HashSet::new();
    for list in lists {
        let (spool, _) = match download(ctx, store, &list.key, spool_dir, "trash").await {
            // Whether its objects are gone cannot be told any more: another try looks at everything again.
            Err(UploadError::Store { source: StoreError::NotFound { .. }, .. }) => {
                return Err(UploadError::TrashGone { key: list.key });
            }
            other => other?,
        };
        (relied, found) = blocking(move || {
            let error = |source| UploadError::Trash { key: list.key.clone(), source };
            for key in TrashList::open(BufReader::new(spool.open()?)).map_err(error)? {
                let key = key.map_err(error)?;
                if relied.has(&key) {
                    found.insert(key);
                }
            }
            Ok((relied, found))
        })
        .await?;
    }
    Ok(found)
}
