//! Objects that no manifest will ever name: what dead sending sessions of a node left in the store.
//!
//! Only sessions that our own database recorded are looked at, so nobody else's objects are ever deleted, and
//! only while the node's lock is held, so none of them is still writing. That the lock is this node's is the word of
//! the node: so sessions of other jobs that are under way are left alone all the same. An object is deleted when its
//! attempt belongs to a dead session and no manifest of the node names it.

use std::collections::HashSet;

use cassy_backup_format::{Attempt, HostId, Keys, ManifestReader, ObjectKey, SessionId};
use cassy_catalog::Catalog;
use cassy_store::{Store, StoreError};
use futures::TryStreamExt;

use super::{chain, store_error};
use crate::job::BackupJob;
use crate::job::backup::BackupNode;
use crate::nodes::{NodeError, NodeErrorKind};

/// No manifest is larger; what lies in the store may be.
const MANIFEST_LIMIT_BYTES: u64 = 8 << 30;

/// Where orphans are looked for.
pub(crate) struct Orphans<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) catalog: &'a Catalog,
    pub(crate) keys: &'a Keys,
    pub(crate) epoch: i64,
}

impl Orphans<'_> {
    /// Deletes what the node's dead sessions left, and closes the sessions.
    pub(crate) async fn clear(
        &self,
        job: &BackupJob,
        node: &BackupNode,
        host_id: HostId,
    ) -> Result<(), NodeError> {
        let (host, own_job) = (host_id.to_string(), job.backup_id.to_string());
        let sessions = self.catalog.dead_upload_sessions(job.cluster_id.as_str(), &host, &own_job).await;
        let sessions = sessions.map_err(|e| transient(&e))?;
        let dead: HashSet<SessionId> = sessions.iter().filter_map(|s| s.session_id.parse().ok()).collect();
        if dead.is_empty() {
            return Ok(());
        }
        // Of the session that stored the manifest, and of no other, the manifest may name everything.
        let is_clean = node.uploaded.as_ref().is_some_and(|summary| !summary.left_orphans);
        if !is_clean || sessions.len() > 1 {
            let own = node.uploaded.as_ref().map(|summary| &summary.manifest);
            self.delete_unnamed(&host_id, own, &dead).await?;
        }
        for session in &sessions {
            let closed = self.catalog.close_upload_session(self.epoch, &session.session_id).await;
            closed.map_err(|e| transient(&e))?;
        }
        Ok(())
    }

    async fn delete_unnamed(
        &self,
        host_id: &HostId,
        own: Option<&ObjectKey>,
        dead: &HashSet<SessionId>,
    ) -> Result<(), NodeError> {
        let named = named_attempts(self.store, self.keys, host_id, own, dead).await?;
        let unnamed = |key: &ObjectKey| {
            let attempt = self.keys.parse_component(key).ok().map(|component| component.attempt);
            attempt.is_some_and(|attempt| dead.contains(&attempt.session()) && !named.contains(&attempt))
        };
        let prefix = self.keys.data_prefix(host_id);
        let mut unfinished = self.store.list_incomplete(&prefix);
        while let Some(object) = unfinished.try_next().await.map_err(|e| store_error(&e))? {
            if unnamed(&object.key) {
                self.store.abort_incomplete(&object).await.map_err(|e| store_error(&e))?;
            }
        }
        let mut objects = self.store.list(&prefix);
        while let Some(object) = objects.try_next().await.map_err(|e| store_error(&e))? {
            if unnamed(&object.key) {
                tracing::info!(key = %object.key, "deleting an object of a dead session");
                self.store.delete(&object.key).await.map_err(|e| store_error(&e))?;
            }
        }
        Ok(())
    }
}

/// The attempts of these sessions that any manifest of the node names. A manifest that cannot be read stops the
/// clearing: what it names is unknown. So does a listing without the manifest that this job has just stored: a
/// network file system may answer from before.
async fn named_attempts(
    store: &dyn Store,
    keys: &Keys,
    host_id: &HostId,
    own: Option<&ObjectKey>,
    dead: &HashSet<SessionId>,
) -> Result<HashSet<Attempt>, NodeError> {
    let mut named = HashSet::new();
    let mut unlisted = own;
    let mut manifests = store.list(&keys.manifest_prefix(host_id));
    while let Some(meta) = manifests.try_next().await.map_err(|e| transient(&e))? {
        let file = spool(store, &meta.key).await?;
        unlisted = unlisted.filter(|key| **key != meta.key);
        let (keys, dead, key) = (keys.clone(), dead.clone(), meta.key);
        let found = tokio::task::spawn_blocking(move || attempts_in(file, &keys, &dead, &key)).await;
        named.extend(found.map_err(|e| transient(&e))??);
    }
    match unlisted {
        Some(key) => {
            Err(NodeError::new(NodeErrorKind::Transient, format!("the store does not list {key} yet")))
        }
        None => Ok(named),
    }
}

fn attempts_in(
    file: std::fs::File,
    keys: &Keys,
    dead: &HashSet<SessionId>,
    manifest: &ObjectKey,
) -> Result<HashSet<Attempt>, NodeError> {
    let unreadable = |e: &dyn std::error::Error| {
        NodeError::new(
            NodeErrorKind::Permanent,
            format!("the manifest {manifest} cannot be read: {}", chain(e)),
        )
    };
    let mut found = HashSet::new();
    for entry in ManifestReader::open(file).map_err(|e| unreadable(&e))? {
        let entry = entry.map_err(|e| unreadable(&e))?;
        let attempts = entry.objects.iter().filter_map(|o| keys.parse_component(&o.key).ok());
        found.extend(attempts.map(|c| c.attempt).filter(|a| dead.contains(&a.session())));
    }
    Ok(found)
}

/// An unnamed temporary file with the object's bytes, at its start.
async fn spool(store: &dyn Store, key: &ObjectKey) -> Result<std::fs::File, NodeError> {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().map_err(|e| transient(&e))?;
    let mut bytes = store.read(key, None).await.map_err(|e| store_error(&e))?;
    let mut size = 0;
    while let Some(chunk) = bytes.try_next().await.map_err(|e: StoreError| transient(&e))? {
        size += chunk.len() as u64;
        if size > MANIFEST_LIMIT_BYTES {
            let message = format!("the manifest {key} is larger than {MANIFEST_LIMIT_BYTES} bytes");
            return Err(NodeError::new(NodeErrorKind::Permanent, message));
        }
        file.write_all(&chunk).map_err(|e| transient(&e))?;
    }
    file.rewind().map_err(|e| transient(&e))?;
    Ok(file)
}

fn transient(error: &dyn std::error::Error) -> NodeError {
    NodeError::new(NodeErrorKind::Transient, chain(error))
}
