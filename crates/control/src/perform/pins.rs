//! Pins: what says, before it is relied on, that an older manifest's objects are needed by a running backup.

use std::collections::BTreeMap;

use bytes::Bytes;
use cassy_agent_protocol::ParentManifest;
use cassy_backup_format::{BackupId, HostId, Keys, ObjectKey, Pin};
use cassy_store::{Store, StoreError};
use futures::{StreamExt, TryStreamExt};

use super::increments::Manifests;
use super::{chain, permanent, store_error};
use crate::job::BackupJob;
use crate::nodes::NodeError;

/// A pin names at most one manifest a node.
const PIN_LIMIT_BYTES: u64 = 16 << 20;

/// Nodes whose manifests are looked at once.
const LOOKS_AT_ONCE: usize = 16;

/// The newest whole node manifest of each node, for an increment that which it continues, pinned. A pin that is there
/// already is the job's own from before a restart, and stays as it is.
pub(crate) async fn choose_and_pin(
    store: &dyn Store,
    keys: &Keys,
    job: &BackupJob,
) -> Result<BTreeMap<String, ParentManifest>, NodeError> {
    let nodes = job.alive().filter_map(|(target, node)| Some((target, node.facts.as_ref()?.host_id)));
    let looks = nodes.map(|(target, host_id)| async move {
        let parent = choose(store, keys, &host_id, job.base).await.map_err(|e| store_error(&e))?;
        Ok::<_, NodeError>(parent.map(|parent| (target.clone(), parent)))
    });
    let chosen = futures::stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
    let parents: Vec<_> = chosen.try_collect().await?;
    let parents: BTreeMap<_, _> = parents.into_iter().flatten().collect();
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

async fn choose(
    store: &dyn Store,
    keys: &Keys,
    host_id: &HostId,
    base: Option<BackupId>,
) -> Result<Option<ParentManifest>, StoreError> {
    let manifests = Manifests::list(store, keys, host_id).await?;
    let chosen = match base {
        Some(base) => manifests.end_of_chain(base),
        None => manifests.newest_of_all(),
    };
    let Some((backup_id, key)) = chosen else { return Ok(None) };
    manifest_at(store, key, backup_id).await.map(Some)
}

/// A manifest, named by what the store holds now.
pub(crate) async fn manifest_at(
    store: &dyn Store,
    key: &ObjectKey,
    backup_id: BackupId,
) -> Result<ParentManifest, StoreError> {
    Ok(ParentManifest { key: key.clone(), backup_id, blake3: digest(store, key).await? })
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
