//! Pins: what says, before it is relied on, that an older manifest's objects are needed by a running backup.

use std::collections::BTreeMap;

use bytes::Bytes;
use cassy_agent_protocol::ParentManifest;
use cassy_backup_format::{BackupId, HostId, Keys, ObjectKey, Pin};
use cassy_store::{Store, StoreError};
use futures::{StreamExt, TryStreamExt};

use super::{chain, permanent, store_error};
use crate::job::BackupJob;
use crate::nodes::NodeError;

/// A pin names at most one manifest a node.
const PIN_LIMIT_BYTES: u64 = 16 << 20;

/// The newest whole node manifest of each node, pinned. A pin that is there already is the job's own from before
/// a restart of the server, and stays as it is.
pub(crate) async fn choose_and_pin(
    store: &dyn Store,
    keys: &Keys,
    job: &BackupJob,
) -> Result<BTreeMap<String, ParentManifest>, NodeError> {
    let mut parents = BTreeMap::new();
    for (target, node) in job.alive() {
        let Some(facts) = &node.facts else { continue };
        if let Some((key, backup_id)) =
            newest(store, keys, &facts.host_id).await.map_err(|e| store_error(&e))?
        {
            let blake3 = digest(store, &key).await.map_err(|e| store_error(&e))?;
            parents.insert(target.clone(), ParentManifest { key, backup_id, blake3 });
        }
    }
    if parents.is_empty() {
        return Ok(parents);
    }
    let pin = Pin {
        format: 1,
        backup_id: job.backup_id,
        created_at_ms: job.created_at_ms,
        manifests: parents.values().map(|p| p.key.clone()).collect(),
    };
    let document = pin.to_json().map_err(|e| permanent(chain(&e)))?;
    let put = match store.put(&keys.pin(&job.backup_id), document.into()).await {
        Err(StoreError::AlreadyExists { .. }) => return pinned_before(store, keys, job, parents).await,
        outcome => outcome,
    };
    put.map(|_| parents).map_err(|e| store_error(&e))
}

/// Of the parents chosen now, those that the existing pin protects.
async fn pinned_before(
    store: &dyn Store,
    keys: &Keys,
    job: &BackupJob,
    mut parents: BTreeMap<String, ParentManifest>,
) -> Result<BTreeMap<String, ParentManifest>, NodeError> {
    let stored = store.get(&keys.pin(&job.backup_id), PIN_LIMIT_BYTES).await;
    let stored = stored.map_err(|e| store_error(&e))?;
    match Pin::from_json(&stored) {
        Ok(pin) => parents.retain(|_, parent| pin.manifests.contains(&parent.key)),
        Err(error) => {
            tracing::warn!(job = %job.backup_id, error = %error, "the pin cannot be read; nothing is reused");
            parents.clear();
        }
    }
    Ok(parents)
}

async fn newest(
    store: &dyn Store,
    keys: &Keys,
    host_id: &HostId,
) -> Result<Option<(ObjectKey, BackupId)>, StoreError> {
    let mut newest: Option<(ObjectKey, BackupId)> = None;
    let mut manifests = store.list(&keys.manifest_prefix(host_id));
    while let Some(meta) = manifests.try_next().await? {
        let name = meta.key.as_str().rsplit('/').next().unwrap_or_default();
        let Some(Ok(id)) = name.strip_suffix(".jsonl.zst").map(str::parse::<BackupId>) else { continue };
        if newest.as_ref().is_none_or(|(_, known)| *known < id) {
            newest = Some((meta.key, id));
        }
    }
    Ok(newest)
}

async fn digest(store: &dyn Store, key: &ObjectKey) -> Result<String, StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = store.read(key, None).await?;
    while let Some(chunk) = bytes.next().await {
        hasher.update(&chunk?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Puts an object that may be there already with the same bytes.
pub(crate) async fn put_same(store: &dyn Store, key: &ObjectKey, body: Vec<u8>) -> Result<(), StoreError> {
    let body = Bytes::from(body);
    match store.put(key, body.clone()).await {
        Err(taken @ StoreError::AlreadyExists { .. }) => {
            let limit = u64::try_from(body.len()).unwrap_or(u64::MAX);
            match store.get(key, limit).await {
                Ok(stored) if stored == body => Ok(()),
                _ => Err(taken),
            }
        }
        outcome => outcome.map(|_| ()),
    }
}
