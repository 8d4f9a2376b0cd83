//! The chains of increments: which node manifests lie on which snapshot, and whether another one may follow.

use std::sync::Arc;

use cassy_backup_format::{
    BackupId, BackupKind, Header, HostId, Keys, ManifestReader, NodeManifestName, ObjectKey,
};
use cassy_catalog::{CatalogError, HistoryEntry, HistorySelector};
use cassy_store::{Store, StoreError};
use futures::TryStreamExt;

use super::backup::BackupPerformer;
use super::{chain, permanent, store_error};
use crate::job::restore::RestoreNode;
use crate::job::{BackupJob, RestoreJob};
use crate::link::Link;
use crate::nodes::{NodeDescription, NodeError, NodeErrorKind};
use crate::operations::Status;
use crate::runner::decode;

/// The header of a manifest is one line; no reader takes a longer one.
const HEADER_LIMIT_BYTES: usize = 64 << 20;
const NEW_BASE: &str = "take a node backup (backup_type 2), and increments on that";

/// What a node's `cassandra.yaml` says of incremental backups. Cassandra reads it at its start, and the switch of a
/// running one says nothing of what it was then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yaml {
    /// Cassandra's default is off.
    pub(super) switches_on: bool,
    /// When it was written or put there, by our clock, Unix milliseconds.
    pub(super) changed_at: i64,
}

impl Yaml {
    /// Whether it matters when Cassandra was started, for what lies in `backups/` since a backup.
    fn may_hide_a_gap(self, parent_at: i64) -> bool {
        !self.switches_on || self.changed_at > parent_at
    }

    /// Why a flush between that backup and now may have made no link; what is said of the file. There may have been several
    /// starts since then, and each read what the file said at its time.
    fn gap(self, parent_at: i64, started_at: i64) -> Option<&'static str> {
        if started_at <= parent_at {
            return None;
        }
        if !self.switches_on {
            return Some("switches incremental backups off at each start (incremental_backups: false)");
        }
        (self.changed_at > parent_at).then_some(
            "was changed since, so that nobody knows whether it has always switched incremental backups on",
        )
    }
}

/// A node's whole manifests, as the store lists them: of corrupt ones there is no base and no parent.
pub(crate) struct Manifests(Vec<(NodeManifestName, ObjectKey)>);

impl Manifests {
    pub(crate) async fn list(store: &dyn Store, keys: &Keys, host_id: &HostId) -> Result<Self, StoreError> {
        let mut found = Vec::new();
        let mut listed = store.list(&keys.manifest_prefix(host_id));
        while let Some(meta) = listed.try_next().await? {
            if let Some(name) = NodeManifestName::of(&meta.key) {
                found.push((name, meta.key));
            }
        }
        Ok(Self(found))
    }

    fn newest(&self, wanted: impl Fn(&NodeManifestName) -> bool) -> Option<(BackupId, &ObjectKey)> {
        let wanted = self.0.iter().filter(|(name, _)| wanted(name));
        wanted.map(|(name, key)| (name.backup_id, key)).max_by_key(|(backup_id, _)| *backup_id)
    }

    /// The newest of all.
    pub(crate) fn newest_of_all(&self) -> Option<(BackupId, &ObjectKey)> {
        self.newest(|_| true)
    }

    /// The snapshots, the newest first.
    fn bases(&self) -> Vec<(BackupId, &ObjectKey)> {
        let bases = self.0.iter().filter(|(name, _)| name.base.is_none());
        let mut bases: Vec<_> = bases.map(|(name, key)| (name.backup_id, key)).collect();
        bases.sort_unstable_by_key(|(backup_id, _)| std::cmp::Reverse(*backup_id));
        bases
    }

    /// The newest snapshot that has superseded what was in `backups/`: of a cluster-wide backup that was not committed
    /// the nodes' manifests only save a later one from sending everything again.
    async fn newest_base(
        &self,
        store: &dyn Store,
        keys: &Keys,
    ) -> Result<Option<(BackupId, Header)>, NodeError> {
        for (backup_id, key) in self.bases() {
            let header = header(store, key).await?;
            let together = header.kind == BackupKind::ClusterSnapshot;
            let summary = keys.cluster_manifest(&backup_id);
            if !together || exists(store, &summary).await.map_err(|e| store_error(&e))? {
                return Ok(Some((backup_id, header)));
            }
        }
        Ok(None)
    }

    /// The newest increment on this snapshot.
    pub(crate) fn newest_on(&self, base: BackupId) -> Option<(BackupId, &ObjectKey)> {
        self.newest(|name| name.base == Some(base))
    }

    /// What the next increment on this snapshot continues.
    pub(crate) fn end_of_chain(&self, base: BackupId) -> Option<(BackupId, &ObjectKey)> {
        let is_base = |name: &NodeManifestName| name.base.is_none() && name.backup_id == base;
        self.newest_on(base).or_else(|| self.newest(is_base))
    }
}

/// Fine when the snapshot is the node's current base, so that what lies in `backups/` continues it; finishes what
/// the job of the base has left to do on the node.
pub(super) async fn check(
    performer: &BackupPerformer,
    job: &BackupJob,
    target: &str,
    described: &NodeDescription,
    yaml: Yaml,
    link: &Link,
    base: BackupId,
) -> Result<(), NodeError> {
    let (store, keys, host_id) = (&*performer.store, &performer.keys, described.host_id);
    let refused = |reason: String, hint: &str| NodeError {
        hint: Some(hint.to_owned()),
        ..permanent(format!("{target}: {reason}"))
    };
    if !described.incremental_backups {
        let how = format!(
            "set incremental_backups: true in cassandra.yaml (at once: nodetool enablebackup), then {NEW_BASE}"
        );
        return Err(refused("Cassandra's incremental backups are off".to_owned(), &how));
    }
    let manifests = Manifests::list(store, keys, &host_id).await.map_err(|e| store_error(&e))?;
    let Some((newest, header)) = manifests.newest_base(store, keys).await? else {
        return Err(refused(format!("there is no snapshot of this node (host id {host_id})"), NEW_BASE));
    };
    if newest != base {
        let hint = format!("name {newest} as the snapshot_id, or {NEW_BASE}");
        return Err(refused(
            format!("its newest snapshot is {newest}, and an increment on {base} would have a gap"),
            &hint,
        ));
    }
    if header.configuration.incremental_backups == Some(false) {
        let reason = format!("Cassandra's incremental backups were off when the snapshot {base} was taken");
        return Err(refused(reason, NEW_BASE));
    }
    if let Some((parent, key)) = manifests.end_of_chain(base)
        && let Some(reason) = performer.broken_since(parent, key, target, yaml, link).await?
    {
        return Err(refused(reason, NEW_BASE));
    }
    let list = keys.superseded(&host_id, &base);
    if exists(store, &list).await.map_err(|e| store_error(&e))? {
        let request = performer.superseded(job, host_id, base, &described.data_directories);
        let lock = described.data_directories.first().map(String::as_str).unwrap_or_default();
        performer.clear_superseded(lock, link, request, true).await?;
    }
    Ok(())
}

impl BackupPerformer {
    /// Why what lies in `backups/` does not continue this backup of the node, which has this manifest.
    async fn broken_since(
        &self,
        parent: BackupId,
        key: &ObjectKey,
        target: &str,
        yaml: Yaml,
        link: &Link,
    ) -> Result<Option<String>, NodeError> {
        let parent_at = parent.created_at_ms();
        // Not everybody's JMX says since when it is up: it is asked only where it matters.
        if yaml.may_hide_a_gap(parent_at) {
            let started_at = match self.started_at(link).await {
                Err(untold) if !untold.is_transient() => {
                    return Ok(Some(format!(
                        "its cassandra.yaml may have had incremental backups off since the backup {parent}, and whether \
                         Cassandra was started since cannot be told: {}",
                        untold.message
                    )));
                }
                told => told?,
            };
            if let Some(reason) = yaml.gap(parent_at, started_at) {
                return Ok(Some(format!(
                    "Cassandra was started after the backup {parent}, and its cassandra.yaml {reason}"
                )));
            }
        }
        let Some(last) = self.last_restore(target, parent_at).await? else { return Ok(None) };
        let restored = last.manifest.as_ref();
        Ok((restored != Some(key)).then(|| {
            let happened = match restored {
                Some(_) => "was restored to it",
                None => "was begun to be restored to it, and is not known to have left it as it was,",
            };
            let snapshot = &last.snapshot_id;
            format!("the snapshot {snapshot} {happened} after the backup {parent}, which an increment would continue")
        }))
    }

    /// When the node's process was started, by our clock.
    async fn started_at(&self, link: &Link) -> Result<i64, NodeError> {
        let uptime = link.cassandra().await?.uptime().await?;
        Ok(self.clock.now_ms() - i64::try_from(uptime.as_millis()).unwrap_or(i64::MAX))
    }

    /// The newest restore of the node from then on, but for those that are known to have left it as it was.
    async fn last_restore(&self, target: &str, since: i64) -> Result<Option<Restore>, NodeError> {
        let selector = HistorySelector { target_ip: Some(target.to_owned()), ..Default::default() };
        let restores = self.catalog.restores(&selector).await.map_err(|e| unavailable(&e))?;
        for entry in restores.into_iter().take_while(|entry| entry.created_at >= since) {
            let node = self.restored_node(&entry, target).await?;
            if node.as_ref().is_some_and(|node| node.unchanged) {
                continue;
            }
            let is_whole = entry.status == Status::Completed as u8;
            let manifest = node.filter(|_| is_whole).map(|node| node.manifest.key.clone());
            return Ok(Some(Restore { snapshot_id: entry.snapshot_id, manifest }));
        }
        Ok(None)
    }

    /// What the job of a restore knows of the node.
    async fn restored_node(
        &self,
        restore: &HistoryEntry,
        target: &str,
    ) -> Result<Option<Arc<RestoreNode>>, NodeError> {
        let Some(job_id) = restore.job_id.as_deref() else { return Ok(None) };
        let stored = self.catalog.job(job_id).await.map_err(|e| unavailable(&e))?;
        let job = stored.and_then(|stored| decode::<RestoreJob>(&stored).ok());
        Ok(job.and_then(|mut job| job.nodes.remove(target)))
    }
}

/// A restore that has changed a node, or may have.
struct Restore {
    snapshot_id: String,
    /// What the node has had since, wholly.
    manifest: Option<ObjectKey>,
}

fn unavailable(error: &CatalogError) -> NodeError {
    NodeError::new(NodeErrorKind::Transient, chain(error))
}

async fn exists(store: &dyn Store, key: &ObjectKey) -> Result<bool, StoreError> {
    match store.read(key, None).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads no more of the manifest than it takes.
pub(crate) async fn header(store: &dyn Store, key: &ObjectKey) -> Result<Header, NodeError> {
    let mut bytes = store.read(key, None).await.map_err(|e| store_error(&e))?;
    let (mut begun, mut tried) = (Vec::new(), 0);
    loop {
        let chunk = bytes.try_next().await.map_err(|e| store_error(&e))?;
        begun.extend_from_slice(chunk.as_deref().unwrap_or_default());
        let is_all = chunk.is_none() || begun.len() > HEADER_LIMIT_BYTES;
        // Each time twice as much, as what does not suffice is read in vain.
        if begun.len() < tried * 2 && !is_all {
            continue;
        }
        tried = begun.len();
        match ManifestReader::open(begun.as_slice()) {
            Ok(reader) => return Ok(reader.header().clone()),
            Err(error) if is_all => {
                return Err(permanent(format!("the manifest {key} cannot be read: {}", chain(&error))));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_after_the_backup_hides_a_gap_unless_its_configuration_is_known_to_have_been_on() {
        let (parent_at, before, after) = (1_000, 900, 1_100);
        for (switches_on, changed_at, started_at, is_gap) in [
            (true, 500, after, false),
            (true, before, after, false),
            (true, after, after, true),
            // Off at one start, mended, and on at the next one.
            (true, after - 50, after, true),
            (true, after + 1, after, true),
            (true, after + 1, before, false),
            (false, 500, before, false),
            (false, 500, after, true),
            (false, after + 1, after, true),
        ] {
            let yaml = Yaml { switches_on, changed_at };
            assert_eq!(yaml.gap(parent_at, started_at).is_some(), is_gap, "{yaml:?} {started_at}");
            assert!(!is_gap || yaml.may_hide_a_gap(parent_at), "{yaml:?} {started_at}");
        }
    }
}
