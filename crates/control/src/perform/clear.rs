//! Clearing: what dead jobs left on a node and in the store, and at a job's end what it leaves itself.
//!
//! On a node the agent goes first, as it follows no link and sees the directories that Cassandra's own clearing
//! misreads; what Cassandra then finds is empty, and it only forgets the tag. Other people's snapshots and those of
//! live jobs are never touched.

use std::collections::BTreeSet;

use cassy_agent_protocol::{
    ClearIncludedRequest, DataDirectories, ParentManifest, Reply, Request, SnapshotTag, SupersededRequest,
    SweepRequest, UploadSummary,
};
use cassy_backup_format::{HostId, ObjectKey};
use cassy_store::StoreError;
use futures::TryStreamExt;

use super::backup::{BackupPerformer, CASSANDRA_LIMIT, PREPARE_LIMIT, bounded, node};
use super::orphans::Orphans;
use super::{chain, store_error, unexpected};
use crate::job::BackupJob;
use crate::job::backup::{BackupNode, BackupNodeFacts};
use crate::link::Link;
use crate::nodes::{Cassandra, NodeDescription, NodeError, NodeErrorKind};

impl BackupPerformer {
    /// Clears the snapshots of ours on the node's disk that no live job owns: those of dead jobs, and of this one's
    /// earlier attempts. What dead jobs left beside the nodes' data goes once a job.
    pub(super) async fn clear_leftovers(
        &self,
        job: &BackupJob,
        target: &str,
        described: &NodeDescription,
        link: &Link,
        cassandra: &mut dyn Cassandra,
    ) -> Result<(), NodeError> {
        let dead = self.once.dead.get_or_try_init(|| self.clear_dead(job)).await?;
        let prefixes = self.prefixes_of(&described.host_id);
        self.clear_unfinished(prefixes, dead).await.map_err(|e| store_error(&e))?;
        let directories = &described.data_directories;
        let list = DataDirectories { data_directories: directories.clone() };
        let tags = match link.request(Request::ListSnapshots(list)).await? {
            Reply::Snapshots { tags } => tags.into_iter(),
            other => return Err(unexpected(target, &other)),
        };
        let is_dead = |tag: &SnapshotTag| {
            tag.backup_id() == job.backup_id || dead.contains(&tag.backup_id().to_string())
        };
        let tags: Vec<_> = tags.filter(is_dead).collect();
        if tags.is_empty() {
            return Ok(());
        }
        tracing::info!(node = %described.host_id, ?tags, "clearing leftover snapshots");
        link.request(sweep(directories, tags.clone())).await?;
        forget(cassandra, &tags, &described.keyspaces).await
    }

    /// The backups of ended jobs, when their probes, pins and what was begun of these are gone.
    async fn clear_dead(&self, job: &BackupJob) -> Result<BTreeSet<String>, NodeError> {
        let ended = self.catalog.ended_backups(job.cluster_id.as_str()).await;
        let dead = ended.map_err(|e| NodeError::new(NodeErrorKind::Transient, chain(&e)))?;
        self.clear_marks(&dead).await.map_err(|e| store_error(&e))?;
        self.clear_unfinished(self.own_prefixes(), &dead).await.map_err(|e| store_error(&e))?;
        Ok(dead)
    }

    /// Where an agent writes beside the data.
    fn prefixes_of(&self, host_id: &HostId) -> [String; 2] {
        [self.keys.manifest_prefix(host_id), self.keys.superseded_prefix(host_id)]
    }

    /// Where a job writes beside the nodes' data.
    fn own_prefixes(&self) -> [String; 3] {
        let probes = format!("{}/probe/", self.keys.root());
        [probes, self.keys.pin_prefix(), self.keys.backup_prefix()]
    }

    /// Deletes probe objects and pins that dead jobs have left.
    async fn clear_marks(&self, dead: &BTreeSet<String>) -> Result<(), StoreError> {
        for kind in ["probe", "pin"] {
            let mut marks = self.store.list(&format!("{}/{kind}/", self.keys.root()));
            while let Some(mark) = marks.try_next().await? {
                if belongs(&mark.key, dead) {
                    self.store.delete(&mark.key).await?;
                }
            }
        }
        Ok(())
    }

    /// Clears what a server or an agent that was killed had begun to write for these backups.
    async fn clear_unfinished(
        &self,
        prefixes: impl IntoIterator<Item = String>,
        dead: &BTreeSet<String>,
    ) -> Result<(), StoreError> {
        for prefix in prefixes {
            let mut unfinished = self.store.list_incomplete(&prefix);
            while let Some(object) = unfinished.try_next().await? {
                if belongs(&object.key, dead) {
                    self.store.abort_incomplete(&object).await?;
                }
            }
        }
        Ok(())
    }

    /// Clears what the job leaves behind beside its nodes' parts; answers what could not be cleared.
    pub(super) async fn unpin(&self, job: &BackupJob) -> Vec<String> {
        let own = BTreeSet::from([job.backup_id.to_string()]);
        let cleared = async {
            self.clear_marks(&own).await.map_err(|e| store_error(&e))?;
            self.clear_unfinished(self.own_prefixes(), &own).await.map_err(|e| store_error(&e))
        };
        match bounded(PREPARE_LIMIT, cleared).await {
            Ok(()) => Vec::new(),
            Err(error) => {
                tracing::warn!(job = %job.backup_id, error = %error, "pin and probes were not removed; a later backup does");
                vec![format!("pin and probes were not removed: {error}")]
            }
        }
    }

    /// Clears what a node's part leaves behind; answers what could not be cleared.
    pub(super) async fn clear_node(&self, job: &BackupJob, target: &str, link: &Link) -> Vec<String> {
        let Ok(node) = node(job, target) else { return Vec::new() };
        let Some(facts) = node.facts.as_deref() else { return Vec::new() };
        let mut left = Vec::new();
        let mut note = |what: &str, outcome: Result<(), NodeError>| {
            if let Err(error) = outcome {
                tracing::warn!(job = %job.backup_id, node = target, left = what, error = %error, "a later backup clears this");
                left.push(format!("{what}: {error}"));
            }
        };
        let limit = PREPARE_LIMIT;
        let incremental = bounded(limit, self.clear_incremental(job, node, facts, link)).await;
        note("incremental files that are in the backup were not cleared", incremental);
        let tags = job.tags(node);
        let sweep = sweep(&facts.data_directories, tags.clone());
        let swept = bounded(limit, link.request_repeatedly(facts.lock(), &sweep)).await;
        if swept.is_ok() {
            note("the snapshot was not cleared", bounded(limit, forget_own(&tags, link)).await);
        }
        // The lock is held now, so no other agent writes for this node.
        let (objects, unfinished) = match &swept {
            Ok(_) => {
                let own = BTreeSet::from([job.backup_id.to_string()]);
                let prefixes = self.prefixes_of(&facts.host_id);
                let unfinished =
                    async { self.clear_unfinished(prefixes, &own).await.map_err(|e| store_error(&e)) };
                let objects = bounded(CASSANDRA_LIMIT, self.orphans().clear(job, node, facts.host_id)).await;
                (objects, bounded(limit, unfinished).await)
            }
            Err(_) => (Ok(()), Ok(())),
        };
        note("the snapshot's directories were not cleared", swept.map(|_| ()));
        note("objects of dead sessions were not cleared", objects);
        note("unfinished objects were not cleared", unfinished);
        left
    }

    /// Deletes the incremental files that the node manifest has, or has superseded. Of a failed part only the list.
    async fn clear_incremental(
        &self,
        job: &BackupJob,
        node: &BackupNode,
        facts: &BackupNodeFacts,
        link: &Link,
    ) -> Result<(), NodeError> {
        let uploaded = node.uploaded.as_ref().filter(|_| node.failure.is_none());
        match (uploaded, job.base) {
            (None, Some(_)) => Ok(()),
            (Some(summary), Some(_)) => self.clear_included(job, summary, facts, link).await,
            (uploaded, None) => {
                let request = self.superseded(job, facts.host_id, job.backup_id, &facts.data_directories);
                self.clear_superseded(facts.lock(), link, request, uploaded.is_some()).await
            }
        }
    }

    async fn clear_included(
        &self,
        job: &BackupJob,
        summary: &UploadSummary,
        facts: &BackupNodeFacts,
        link: &Link,
    ) -> Result<(), NodeError> {
        let request = Request::ClearIncluded(ClearIncludedRequest {
            store: self.grant.clone(),
            cluster_id: job.cluster_id.clone(),
            host_id: facts.host_id,
            manifest: ParentManifest {
                key: summary.manifest.clone(),
                backup_id: job.backup_id,
                blake3: summary.blake3.clone(),
            },
            data_directories: facts.data_directories.clone(),
        });
        link.locked_request(facts.lock(), request).await.map(|_| ())
    }

    /// Deletes the files of a list, when the backup that superseded them is durable, and then the list.
    pub(super) async fn clear_superseded(
        &self,
        lock: &str,
        link: &Link,
        request: SupersededRequest,
        is_durable: bool,
    ) -> Result<(), NodeError> {
        let list = self.keys.superseded(&request.host_id, &request.backup_id);
        if is_durable {
            link.locked_request(lock, Request::ClearSuperseded(request)).await?;
        }
        self.store.delete(&list).await.map_err(|e| store_error(&e))
    }

    fn orphans(&self) -> Orphans<'_> {
        Orphans { store: &*self.store, catalog: &self.catalog, keys: &self.keys, epoch: self.epoch }
    }
}

/// Whether one of these backups gave the object its name.
fn belongs(key: &ObjectKey, backups: &BTreeSet<String>) -> bool {
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    backups.iter().any(|backup| name.starts_with(backup.as_str()))
}

/// Asks an agent to remove these snapshots.
pub(super) fn sweep(data_directories: &[String], tags: Vec<SnapshotTag>) -> Request {
    Request::SweepSnapshots(SweepRequest { data_directories: data_directories.to_vec(), tags })
}

/// Lets Cassandra forget snapshots whose directories are gone.
pub(super) async fn forget(
    cassandra: &mut dyn Cassandra,
    tags: &[SnapshotTag],
    keyspaces: &[String],
) -> Result<(), NodeError> {
    for tag in tags {
        cassandra.clear_snapshot(&tag.to_string(), keyspaces).await?;
    }
    Ok(())
}

async fn forget_own(tags: &[SnapshotTag], link: &Link) -> Result<(), NodeError> {
    let mut cassandra = link.cassandra().await?;
    let keyspaces = cassandra.keyspaces().await?;
    forget(&mut *cassandra, tags, &keyspaces).await
}
