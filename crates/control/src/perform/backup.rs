//! Performs the effects of a backup.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{
    CheckSnapshotRequest, CheckStoreRequest, DataDirectories, InspectRequest, Reply, Request, StoreGrant,
    SweepRequest, UploadRequest, UploadSummary,
};
use cassy_backup_format::{
    BackupKind, ClusterManifest, HostId, Keys, MissingNode, NodeManifestRef, SessionId,
};
use cassy_catalog::{Catalog, UploadSession};
use cassy_store::{Store, StoreError};
use futures::TryStreamExt;
use tokio::time::timeout;

use super::orphans::Orphans;
use super::{Links, chain, permanent, pins, store_error, unexpected};
use crate::clock::Clock;
use crate::job::backup::{BackupNode, BackupNodeFacts, NodeDone};
use crate::job::{BackupEffect, BackupEvent, BackupJob, BackupStage};
use crate::link::{BACKOFF, Link, Tries};
use crate::machine::Perform;
use crate::nodes::{NodeDescription, NodeError, NodeErrorKind};

/// Of the checks before anything is touched; holds the wait for a dead server's agent.
const PREPARE_LIMIT: Duration = Duration::from_secs(240);
/// Of one flush or one snapshot; Cassandra has no way to stop them.
const CASSANDRA_LIMIT: Duration = Duration::from_secs(900);

/// Performs the effects of one backup job.
pub(crate) struct BackupPerformer {
    pub(crate) links: Links,
    pub(crate) keys: Keys,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) grant: StoreGrant,
    pub(crate) catalog: Catalog,
    pub(crate) epoch: i64,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Perform<BackupJob> for BackupPerformer {
    async fn perform(&self, job: &BackupJob, effect: &BackupEffect) -> BackupEvent {
        match effect {
            BackupEffect::Node(stage, target) => match self.node(job, *stage, target).await {
                Ok(done) => BackupEvent::NodeDone(target.clone(), done),
                Err(error) => BackupEvent::NodeFailed(target.clone(), error.into()),
            },
            BackupEffect::Pin => {
                match retried(|| pins::choose_and_pin(&*self.store, &self.keys, job)).await {
                    Ok(parents) => BackupEvent::Pinned(parents),
                    Err(error) => BackupEvent::JobFailed(error.into()),
                }
            }
            BackupEffect::Commit => match retried(|| self.commit(job)).await {
                Ok(()) => BackupEvent::Committed,
                Err(error) => BackupEvent::JobFailed(error.into()),
            },
            BackupEffect::Clear => BackupEvent::Cleared(self.clear(job).await),
        }
    }

    async fn release(&self) {
        self.links.close().await;
    }
}

impl BackupPerformer {
    async fn node(&self, job: &BackupJob, stage: BackupStage, target: &str) -> Result<NodeDone, NodeError> {
        let link = self.links.to(target);
        let work = async {
            match stage {
                BackupStage::Prepare => self.prepare(job, target, &link).await,
                BackupStage::List => self.list(job, target, &link).await,
                BackupStage::Flush => flush(job, target, &link).await,
                BackupStage::Snapshot => snapshot(job, target, &link).await,
                BackupStage::Upload => self.upload(job, target, &link).await,
                other => Err(permanent(format!("{}: no stage of a node", other.name()))),
            }
        };
        let limit = match stage {
            BackupStage::Prepare | BackupStage::List => PREPARE_LIMIT,
            BackupStage::Upload => return work.await,
            _ => CASSANDRA_LIMIT,
        };
        timeout(limit, work).await.unwrap_or_else(|_elapsed| {
            let message = format!("{target}: {} did not end within {} s", stage.name(), limit.as_secs());
            Err(NodeError::new(NodeErrorKind::Transient, message))
        })
    }

    async fn prepare(&self, job: &BackupJob, target: &str, link: &Link) -> Result<NodeDone, NodeError> {
        let mut cassandra = link.cassandra().await?;
        let described = cassandra.describe().await?;
        check_description(job, target, &described)?;
        let first = described.data_directories.first();
        let first = first.ok_or_else(|| permanent(format!("{target}: Cassandra names no data directory")))?;
        link.lock(first).await?;
        let inspect = InspectRequest { data_directories: described.data_directories.clone() };
        let configuration = match link.request(Request::Inspect(inspect)).await? {
            Reply::Inspected(facts) => facts.configuration,
            other => return Err(unexpected(target, &other)),
        };
        self.check_store(job, &described, link).await?;
        self.clear_leftovers(job, &described, link, &mut *cassandra).await?;
        Ok(NodeDone::Prepared(Box::new(BackupNodeFacts {
            host_id: described.host_id,
            tokens: described.tokens,
            datacenter: described.datacenter,
            rack: described.rack,
            cassandra_version: described.release_version,
            partitioner: described.partitioner,
            data_directories: described.data_directories,
            keyspaces: described.keyspaces,
            configuration,
        })))
    }

    /// Node and server see the same store: the node reads what the server has just written.
    async fn check_store(
        &self,
        job: &BackupJob,
        described: &NodeDescription,
        link: &Link,
    ) -> Result<(), NodeError> {
        let content = SessionId::random().to_string();
        let name = format!("{}-{}-{content}", job.backup_id, described.host_id);
        let key = self.keys.probe(&name).map_err(|e| permanent(chain(&e)))?;
        let outcome = async {
            self.store.check().await.map_err(|e| store_error(&e))?;
            self.store.put(&key, content.clone().into()).await.map_err(|e| store_error(&e))?;
            let check = CheckStoreRequest { store: self.grant.clone(), key: key.clone(), content };
            link.request(Request::CheckStore(check)).await.map(|_| ())
        };
        let outcome = outcome.await;
        if let Err(error) = self.store.delete(&key).await {
            tracing::warn!(%key, error = %error, "the probe object was not deleted");
        }
        outcome
    }

    /// Clears snapshots of ours that no live job owns. Other people's are not touched.
    async fn clear_leftovers(
        &self,
        job: &BackupJob,
        described: &NodeDescription,
        link: &Link,
        cassandra: &mut dyn crate::nodes::Cassandra,
    ) -> Result<(), NodeError> {
        let dead = self.dead_backups(job).await?;
        self.clear_probes(&dead).await.map_err(|e| store_error(&e))?;
        let snapshots = cassandra.snapshots().await?;
        let ours = snapshots.into_iter().filter(|(tag, _)| owner(tag).is_some_and(|id| dead.contains(id)));
        let ours: Vec<_> = ours.collect();
        if ours.is_empty() {
            return Ok(());
        }
        // The agent first: it follows no link, and what Cassandra then finds is empty.
        let tags = ours.iter().map(|(tag, _)| tag.clone()).collect();
        let sweep = SweepRequest { data_directories: described.data_directories.clone(), tags };
        link.request(Request::SweepSnapshots(sweep)).await?;
        for (tag, keyspaces) in ours {
            tracing::info!(node = %described.host_id, %tag, "clearing a leftover snapshot");
            cassandra.clear_snapshot(&tag, &keyspaces).await?;
        }
        Ok(())
    }

    /// The backups whose leftovers may go: those of ended jobs, and this one's own from before a restart.
    async fn dead_backups(&self, job: &BackupJob) -> Result<BTreeSet<String>, NodeError> {
        let known = self.catalog.known_snapshots(job.cluster_id.as_str()).await;
        let known = known.map_err(|e| NodeError::new(NodeErrorKind::Transient, chain(&e)))?;
        let ended = known.into_iter().filter(|k| k.by_job && k.finished).map(|k| k.snapshot_id);
        let own = (job.attempt > 1).then(|| job.backup_id.to_string());
        Ok(ended.chain(own).collect())
    }

    /// Deletes probe objects that a server which was killed has left.
    async fn clear_probes(&self, dead: &BTreeSet<String>) -> Result<(), StoreError> {
        let mut probes = self.store.list(&format!("{}/probe/", self.keys.root()));
        while let Some(probe) = probes.try_next().await? {
            let name = probe.key.as_str().rsplit('/').next().unwrap_or_default();
            if dead.iter().any(|backup| name.starts_with(backup.as_str())) {
                self.store.delete(&probe.key).await?;
            }
        }
        Ok(())
    }

    async fn list(&self, job: &BackupJob, target: &str, link: &Link) -> Result<NodeDone, NodeError> {
        let facts = facts(job, target)?;
        let list = DataDirectories { data_directories: facts.data_directories.clone() };
        link.request(Request::ListSuperseded(list)).await?;
        Ok(NodeDone::Done)
    }

    /// Every try is a sending session of its own: no key is ever used twice.
    async fn upload(&self, job: &BackupJob, target: &str, link: &Link) -> Result<NodeDone, NodeError> {
        let (node, facts) = (node(job, target)?, facts(job, target)?);
        let lock = facts.data_directories.first().map(String::as_str).unwrap_or_default();
        let mut tries = Tries::default();
        loop {
            let answer = match self.open_session(job, facts.host_id).await {
                Ok(session) => {
                    let request = self.upload_request(job, target, node, facts, session);
                    link.locked_request(lock, Request::Upload(Box::new(request))).await
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(Reply::Uploaded(summary)) => {
                    link.completed(summary.bytes);
                    return Ok(NodeDone::Uploaded(summary));
                }
                Ok(other) => return Err(unexpected(target, &other)),
                Err(error) => link.pause_before_retry(&mut tries, error).await?,
            }
        }
    }

    async fn open_session(&self, job: &BackupJob, host_id: HostId) -> Result<SessionId, NodeError> {
        let session = SessionId::random();
        let record = UploadSession {
            session_id: session.to_string(),
            cluster_id: job.cluster_id.to_string(),
            host_id: host_id.to_string(),
            job_id: job.backup_id.to_string(),
            created_at: self.clock.now_ms(),
            closed: false,
        };
        let recorded = self.catalog.open_upload_session(self.epoch, &record).await;
        recorded.map_err(|e| NodeError::new(NodeErrorKind::Transient, chain(&e)))?;
        Ok(session)
    }

    fn upload_request(
        &self,
        job: &BackupJob,
        target: &str,
        node: &BackupNode,
        facts: &BackupNodeFacts,
        session: SessionId,
    ) -> UploadRequest {
        UploadRequest {
            store: self.grant.clone(),
            cluster_id: job.cluster_id.clone(),
            cluster_name: job.cluster_name.clone(),
            host_id: facts.host_id,
            address: target.to_owned(),
            tokens: facts.tokens.clone(),
            datacenter: facts.datacenter.clone(),
            rack: facts.rack.clone(),
            cassandra_version: facts.cassandra_version.clone(),
            partitioner: facts.partitioner.clone(),
            backup_id: job.backup_id,
            kind: BackupKind::NodeSnapshot,
            created_at_ms: job.created_at_ms,
            session,
            snapshot: check_snapshot(job, node, facts),
            parent: node.parent.clone(),
            configuration: facts.configuration.clone(),
        }
    }

    /// Writes the cluster manifest, the summary that names who is missing. The same job always writes the same
    /// bytes, so a second try that finds the key taken compares.
    async fn commit(&self, job: &BackupJob) -> Result<(), NodeError> {
        let manifest = cluster_manifest(job);
        if manifest.nodes.is_empty() {
            return Ok(());
        }
        let document = manifest.to_json().map_err(|e| permanent(chain(&e)))?;
        let key = self.keys.cluster_manifest(&job.backup_id);
        pins::put_same(&*self.store, &key, document).await.map_err(|e| store_error(&e))
    }

    /// Clears what this job leaves behind; answers what could not be cleared.
    async fn clear(&self, job: &BackupJob) -> Vec<String> {
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

    fn orphans(&self) -> Orphans<'_> {
        Orphans { store: &*self.store, catalog: &self.catalog, keys: &self.keys, epoch: self.epoch }
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
        let first = facts.data_directories.first().map(String::as_str).unwrap_or_default();
        if committed {
            let clear = link.locked_request(first, Request::ClearSuperseded);
            note("superseded incremental files were not cleared", bounded(limit, clear).await.map(|_| ()));
        }
        let tags = (1..=job.attempt).map(|n| format!("cassy-{}-{n}", job.backup_id)).collect();
        let sweep = SweepRequest { data_directories: facts.data_directories.clone(), tags };
        let sweep = Request::SweepSnapshots(sweep);
        let swept = bounded(limit, link.request_repeatedly(first, &sweep)).await;
        // After the agent, which follows no link: what Cassandra finds is empty, and it only forgets the tag.
        if swept.is_ok() {
            note("the snapshot was not cleared", bounded(limit, clear_snapshot(job, facts, &link)).await);
        }
        // The lock is held now, so no other agent writes for this node.
        let objects = match &swept {
            Ok(_) => bounded(CASSANDRA_LIMIT, self.orphans().clear(job, node, facts.host_id)).await,
            Err(_) => Ok(()),
        };
        note("the snapshot's directories were not cleared", swept.map(|_| ()));
        note("objects of dead sessions were not cleared", objects);
        left
    }
}

/// The backup whose job took a snapshot with this tag.
fn owner(tag: &str) -> Option<&str> {
    tag.strip_prefix("cassy-")?.rsplit_once('-').map(|(id, _attempt)| id)
}

/// Tries again what may be repeated and has failed for a reason that may pass; each try is bounded.
async fn retried<T, F: Future<Output = Result<T, NodeError>>>(work: impl Fn() -> F) -> Result<T, NodeError> {
    let mut pauses = BACKOFF.iter();
    loop {
        let error = match bounded(PREPARE_LIMIT, work()).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(pause) = pauses.next().filter(|_| error.is_transient()) else { return Err(error) };
        tracing::warn!(error = %error, "trying again");
        tokio::time::sleep(*pause).await;
    }
}

async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, NodeError> {
    timeout(limit, work).await.unwrap_or_else(|_elapsed| {
        let message = format!("no end within {} s", limit.as_secs());
        Err(NodeError::new(NodeErrorKind::Transient, message))
    })
}

async fn flush(job: &BackupJob, target: &str, link: &Link) -> Result<NodeDone, NodeError> {
    let facts = facts(job, target)?;
    link.cassandra().await?.flush(&facts.keyspaces).await?;
    Ok(NodeDone::Done)
}

/// Takes the snapshot. What it must hold are the tables that were there before and after it.
async fn snapshot(job: &BackupJob, target: &str, link: &Link) -> Result<NodeDone, NodeError> {
    let facts = facts(job, target)?;
    let mut cassandra = link.cassandra().await?;
    let before = cassandra.tables().await?;
    let taken = cassandra.take_snapshot(&job.tag(), &facts.keyspaces).await;
    let after: BTreeSet<_> = cassandra.tables().await?.into_iter().collect();
    let snapshotted = |table: &(String, String)| facts.keyspaces.contains(&table.0) && after.contains(table);
    let tables: Vec<_> = before.into_iter().filter(snapshotted).collect();
    let node = BackupNode { tables: tables.clone(), ..node(job, target)?.clone() };
    let check = Request::CheckSnapshot(check_snapshot(job, &node, facts));
    let broken = match link.request(check).await? {
        Reply::SnapshotChecked { broken } => broken,
        other => return Err(unexpected(target, &other)),
    };
    match taken {
        Ok(()) if broken.is_empty() => Ok(NodeDone::Snapshotted(tables)),
        Ok(()) => Err(not_whole(target, &broken)),
        Err(error) if broken.is_empty() => Err(error),
        Err(error) => {
            let named = not_whole(target, &broken);
            Err(NodeError { message: format!("{}: {}", named.message, error.message), ..error })
        }
    }
}

fn not_whole(target: &str, broken: &[String]) -> NodeError {
    const SHOWN: usize = 10;
    let mut shown = broken.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if broken.len() > SHOWN {
        shown.push_str(&format!(" and {} more", broken.len() - SHOWN));
    }
    permanent(format!("{target}: the snapshot is not whole: {shown}"))
}

async fn clear_snapshot(job: &BackupJob, facts: &BackupNodeFacts, link: &Link) -> Result<(), NodeError> {
    let mut cassandra = link.cassandra().await?;
    for n in 1..=job.attempt {
        let tag = format!("cassy-{}-{n}", job.backup_id);
        cassandra.clear_snapshot(&tag, &facts.keyspaces).await?;
    }
    Ok(())
}

fn check_description(job: &BackupJob, target: &str, described: &NodeDescription) -> Result<(), NodeError> {
    if described.cluster_name != job.cluster_name {
        return Err(permanent(format!(
            "{target} belongs to the cluster {:?} now, not to {:?}",
            described.cluster_name, job.cluster_name
        )));
    }
    if described.operation_mode != "NORMAL" {
        let mode = &described.operation_mode;
        return Err(permanent(format!("{target} is in the mode {mode}; a backup wants NORMAL")));
    }
    match described.ring.get(target) {
        Some(id) if *id == described.host_id => Ok(()),
        _ => Err(permanent(format!("{target} answers as another node of the ring, {}", described.host_id))),
    }
}

fn check_snapshot(job: &BackupJob, node: &BackupNode, facts: &BackupNodeFacts) -> CheckSnapshotRequest {
    CheckSnapshotRequest {
        data_directories: facts.data_directories.clone(),
        tag: job.tag(),
        tables: node.tables.clone(),
    }
}

fn cluster_manifest(job: &BackupJob) -> ClusterManifest {
    let present = |node: &BackupNode| node.failure.is_none();
    let nodes = job.nodes.iter().filter(|(_, node)| present(node));
    let nodes = nodes.filter_map(|(target, node)| {
        Some(manifest_ref(target, node.facts.as_deref()?, node.uploaded.as_ref()?))
    });
    let missing = job.nodes.iter().filter_map(|(target, node)| {
        let failure = node.failure.as_ref()?;
        let host_id = node.facts.as_ref().map(|f| f.host_id);
        Some(MissingNode { address: target.clone(), host_id, reason: failure.text() })
    });
    ClusterManifest {
        format: 1,
        least_reader: 1,
        cluster_id: job.cluster_id.clone(),
        cluster_name: job.cluster_name.clone(),
        backup_id: job.backup_id,
        backup_type: 2,
        created_at_ms: job.created_at_ms,
        consistent: false,
        nodes: nodes.collect(),
        missing: missing.collect(),
        keyspaces: job.keyspaces.clone(),
    }
}

fn manifest_ref(target: &str, facts: &BackupNodeFacts, summary: &UploadSummary) -> NodeManifestRef {
    NodeManifestRef {
        host_id: facts.host_id,
        address: target.to_owned(),
        datacenter: facts.datacenter.clone(),
        rack: facts.rack.clone(),
        key: summary.manifest.clone(),
        size: summary.size,
        blake3: summary.blake3.clone(),
        sstables: summary.sstables,
        files: summary.files,
        bytes: summary.bytes,
    }
}

fn node<'a>(job: &'a BackupJob, target: &str) -> Result<&'a BackupNode, NodeError> {
    job.nodes.get(target).ok_or_else(|| permanent(format!("{target} is not part of this job")))
}

fn facts<'a>(job: &'a BackupJob, target: &str) -> Result<&'a BackupNodeFacts, NodeError> {
    let facts = node(job, target)?.facts.as_deref();
    facts.ok_or_else(|| permanent(format!("{target} was not prepared")))
}
