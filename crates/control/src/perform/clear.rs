//! Clearing: what dead jobs left on a node and in the store, and at a job's end what it leaves itself.
//!
//! On a node the agent goes first, as it follows no link and sees the directories that Cassandra's own clearing
//! misreads; what Cassandra then finds is empty, and it only forgets the tag. Other people's snapshots and those of
//! live jobs are never touched.

use std::collections::BTreeSet;

use cassy_agent_protocol::{DataDirectories, Reply, Request, SnapshotTag, SweepRequest};
use cassy_backup_format::{HostId, ObjectKey};
use cassy_store::StoreError;
use futures::TryStreamExt;

use super::backup::{BackupPerformer, CASSANDRA_LIMIT, PREPARE_LIMIT, bounded};
use super::orphans::Orphans;
use super::{chain, store_error, unexpected};
use crate::job::BackupJob;
use crate::job::backup::{BackupNode, BackupNodeFacts};
use crate::link::Link;
use crate::nodes::{Cassandra, NodeDescription, NodeError, NodeErrorKind};

impl BackupPerformer {
    /// Clears the snapshots of ours on the node's disk that no live job owns, and the probe objects and pins of dead jobs.
    pub(super) async fn clear_leftovers(
        &self,
        job: &BackupJob,
        target: &str,
        described: &NodeDescription,
        link: &Link,
        cassandra: &mut dyn Cassandra,
    ) -> Result<(), NodeError> {
        let dead = self.dead_backups(job).await?;
        self.clear_marks(&dead).await.map_err(|e| store_error(&e))?;
        self.clear_unfinished(&described.host_id, &dead).await.map_err(|e| store_error(&e))?;
        let directories = &described.data_directories;
        let list = DataDirectories { data_directories: directories.clone() };
        let tags = match link.request(Request::ListSnapshots(list)).await? {
            Reply::Snapshots { tags } => tags.into_iter(),
            other => return Err(unexpected(target, &other)),
        };
        let tags: Vec<_> = tags.filter(|tag| dead.contains(&tag.backup_id().to_string())).collect();
        if tags.is_empty() {
            return Ok(());
        }
        tracing::info!(node = %described.host_id, ?tags, "clearing leftover snapshots");
        link.request(sweep(directories, tags.clone())).await?;
        forget(cassandra, &tags, &described.keyspaces).await
    }

    /// The backups whose leftovers may go: those of ended jobs, and this one's own from before a restart.
    async fn dead_backups(&self, job: &BackupJob) -> Result<BTreeSet<String>, NodeError> {
        let known = self.catalog.known_snapshots(job.cluster_id.as_str()).await;
        let known = known.map_err(|e| NodeError::new(NodeErrorKind::Transient, chain(&e)))?;
        let ended = known.into_iter().filter(|k| k.by_job && k.finished).map(|k| k.snapshot_id);
        let own = (job.attempt > 1).then(|| job.backup_id.to_string());
        Ok(ended.chain(own).collect())
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

    /// Clears what a server or an agent that was killed had begun to write for these backups beside the data: probes,
    /// pins, manifests.
    async fn clear_unfinished(&self, host_id: &HostId, dead: &BTreeSet<String>) -> Result<(), StoreError> {
        let probes = format!("{}/probe/", self.keys.root());
        let manifests = self.keys.manifest_prefix(host_id);
        for prefix in [probes, self.keys.pin_prefix(), self.keys.backup_prefix(), manifests] {
            let mut unfinished = self.store.list_incomplete(&prefix);
            while let Some(object) = unfinished.try_next().await? {
                if belongs(&object.key, dead) {
                    self.store.abort_incomplete(&object).await?;
                }
            }
        }
        Ok(())
    }

    /// Clears what this job leaves behind; answers what could not be cleared.
    pub(super) async fn clear(&self, job: &BackupJob) -> Vec<String> {
        let nodes = job.nodes.iter().filter_map(|(target, node)| {
            let facts = node.facts.as_deref()?;
            Some(self.clear_node(job, target, node, facts))
        });
        let mut left: Vec<String> = futures::future::join_all(nodes).await.into_iter().flatten().collect();
        let pin = self.keys.pin(&job.backup_id);
        let unpinned = async { self.store.delete(&pin).await.map_err(|e| store_error(&e)) };
        if let Err(error) = bounded(PREPARE_LIMIT, unpinned).await {
            left.push(format!("the pin {pin} was not removed: {error}"));
        }
        for what in &left {
            tracing::warn!(job = %job.backup_id, left = what, "a later backup clears this");
        }
        left
    }

    async fn clear_node(
        &self,
        job: &BackupJob,
        target: &str,
        node: &BackupNode,
        facts: &BackupNodeFacts,
    ) -> Vec<String> {
        let link = self.links.to(target);
        let mut left = Vec::new();
        let mut note = |what: &str, outcome: Result<(), NodeError>| {
            if let Err(error) = outcome {
                left.push(format!("{target}: {what}: {error}"));
            }
        };
        let committed = node.failure.is_none() && node.uploaded.is_some() && job.commit_failure.is_none();
        let limit = PREPARE_LIMIT;
        if committed {
            let clear =
                link.locked_request(facts.lock(), Request::ClearSuperseded(self.superseded(job, facts)));
            note("superseded incremental files were not cleared", bounded(limit, clear).await.map(|_| ()));
        }
        let sweep = sweep(&facts.data_directories, job.tags());
        let swept = bounded(limit, link.request_repeatedly(facts.lock(), &sweep)).await;
        if swept.is_ok() {
            note("the snapshot was not cleared", bounded(limit, forget_own(job, &link)).await);
        }
        // The lock is held now, so no other agent writes for this node.
        let (objects, unfinished) = match &swept {
            Ok(_) => {
                let own = BTreeSet::from([job.backup_id.to_string()]);
                let unfinished =
                    async { self.clear_unfinished(&facts.host_id, &own).await.map_err(|e| store_error(&e)) };
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

async fn forget_own(job: &BackupJob, link: &Link) -> Result<(), NodeError> {
    let mut cassandra = link.cassandra().await?;
    let keyspaces = cassandra.keyspaces().await?;
    forget(&mut *cassandra, &job.tags(), &keyspaces).await
}
