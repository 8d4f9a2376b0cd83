//! Performs the effects of a backup.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{
    CheckSnapshotRequest, CheckStoreRequest, InspectRequest, Reply, Request, StoreGrant, SupersededRequest,
    UploadRequest, UploadSummary,
};
use cassy_backup_format::{
    BackupId, BackupKind, ClusterManifest, HostId, Keys, MissingNode, NodeManifestRef, ObjectKey, SessionId,
};
use cassy_catalog::{Catalog, UploadSession};
use cassy_store::Store;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use super::{Links, chain, increments, permanent, pins, snapshot, store_error, unexpected, uploaded};
use crate::clock::Clock;
use crate::job::backup::{BackupNode, BackupNodeFacts, NodeDone};
use crate::job::{BackupEffect, BackupEvent, BackupJob, BackupStage};
use crate::link::{BACKOFF, Link, Tries};
use crate::machine::Perform;
use crate::nodes::{NodeDescription, NodeError, NodeErrorKind};
use crate::pauses::Pauses;

/// Of the checks before anything is touched; holds the wait for a dead server's agent.
pub(super) const PREPARE_LIMIT: Duration = Duration::from_secs(240);
/// Of one flush or one snapshot; Cassandra has no way to stop them.
pub(super) const CASSANDRA_LIMIT: Duration = Duration::from_secs(900);
/// Nodes of one job that are prepared at once: each costs a login.
const PREPARES_AT_ONCE: usize = 64;
/// Nodes of one job that send at once.
const UPLOADS_AT_ONCE: usize = 64;

/// Performs the effects of one backup job.
pub(crate) struct BackupPerformer {
    pub(crate) links: Links,
    pub(crate) keys: Keys,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) grant: StoreGrant,
    pub(crate) catalog: Catalog,
    pub(crate) epoch: i64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pauses: Arc<Pauses>,
    pub(crate) once: Once,
}

/// What is done once a job, however many nodes it has, and what they share.
pub(crate) struct Once {
    /// The backups whose leftovers may go; what they left beside the nodes' data is gone by then.
    pub(super) dead: OnceCell<BTreeSet<String>>,
    probe: OnceCell<Probe>,
    prepares: Semaphore,
    uploads: Semaphore,
}

impl Default for Once {
    fn default() -> Self {
        Self {
            dead: OnceCell::new(),
            probe: OnceCell::new(),
            prepares: Semaphore::new(PREPARES_AT_ONCE),
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
        }
    }
}

/// An object that every node has to see.
struct Probe {
    key: ObjectKey,
    content: String,
}

#[async_trait]
impl Perform<BackupJob> for BackupPerformer {
    async fn perform(&self, job: &BackupJob, effect: &BackupEffect) -> BackupEvent {
        match effect {
            BackupEffect::Node(stage, target) => match self.node(job, *stage, target).await {
                Ok(done) => BackupEvent::NodeDone(*stage, target.clone(), done),
                Err(error) => BackupEvent::NodeFailed(*stage, target.clone(), error.into()),
            },
            BackupEffect::Pin => {
                let pin = retried(|| pins::choose_and_pin(&*self.store, &self.keys, job));
                match self.links.cut.unless(pin).await {
                    Ok(parents) => BackupEvent::Pinned(parents),
                    Err(error) => BackupEvent::PinFailed(error.into()),
                }
            }
            BackupEffect::Freeze => match self.freeze(job).await {
                Ok(frozen) => BackupEvent::Frozen(Box::new(frozen)),
                Err(failure) => BackupEvent::FreezeFailed(failure),
            },
            BackupEffect::Commit => match retried(|| self.commit(job)).await {
                Ok(()) => BackupEvent::Committed,
                Err(error) => BackupEvent::CommitFailed(error.into()),
            },
            BackupEffect::Unpin => BackupEvent::Unpinned(self.unpin(job).await),
        }
    }

    fn cut(&self) {
        self.links.cut.make();
    }

    async fn release(&self) {
        self.links.close().await;
    }
}

impl BackupPerformer {
    /// What is dropped when the job is cut leaves nothing that clearing does not find. A snapshot is waited for: its tag
    /// would come later than the clearing.
    async fn node(&self, job: &BackupJob, stage: BackupStage, target: &str) -> Result<NodeDone, NodeError> {
        let link = self.links.to(target);
        let work = async {
            match stage {
                BackupStage::List => self.list(job, target, &link).await,
                BackupStage::Flush => snapshot::flush(target, &link).await,
                BackupStage::Snapshot => snapshot::take(job, target, &link).await,
                other => Err(permanent(format!("{}: no stage of a node", other.name()))),
            }
        };
        match stage {
            BackupStage::Prepare => {
                let prepare = async {
                    let _turn = turn(&self.once.prepares).await;
                    self.limited(stage, target, PREPARE_LIMIT, self.prepare(job, target, &link)).await
                };
                self.links.cut.unless(Box::pin(prepare)).await
            }
            BackupStage::Upload => {
                let turn = async { Ok::<_, NodeError>(turn(&self.once.uploads).await) };
                let _turn = self.links.cut.unless(turn).await?;
                self.upload(job, target, &link).await
            }
            BackupStage::Clear => {
                let left = self.clear_node(job, target, &link).await;
                // Other jobs may have the node from here on.
                self.links.close_one(target).await;
                Ok(NodeDone::Cleared(left))
            }
            // The agent says how far it is, however long a cold disk takes.
            BackupStage::List => self.links.cut.unless(Box::pin(work)).await,
            BackupStage::Flush => {
                self.links.cut.unless(Box::pin(self.limited(stage, target, CASSANDRA_LIMIT, work))).await
            }
            // Each of its parts has a limit of its own.
            _ => work.await,
        }
    }

    async fn limited(
        &self,
        stage: BackupStage,
        target: &str,
        limit: Duration,
        work: impl Future<Output = Result<NodeDone, NodeError>>,
    ) -> Result<NodeDone, NodeError> {
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
        let (mut configuration, yaml_age_ms) = match link.request(Request::Inspect(inspect)).await? {
            Reply::Inspected(facts) => (facts.configuration, facts.yaml_age_ms),
            other => return Err(unexpected(target, &other)),
        };
        let changed_at = self.clock.now_ms().saturating_sub_unsigned(yaml_age_ms);
        // `nodetool disablebackup` is stronger than the file.
        let configured = configuration.incremental_backups.replace(described.incremental_backups);
        let yaml = increments::Yaml { switches_on: configured == Some(true), changed_at };
        self.check_store(job, link).await?;
        self.clear_leftovers(job, target, &described, link, &mut *cassandra).await?;
        if let Some(base) = job.base {
            increments::check(self, job, target, &described, yaml, link, base).await?;
        }
        Ok(NodeDone::Prepared(Box::new(BackupNodeFacts {
            host_id: described.host_id,
            tokens: described.tokens,
            datacenter: described.datacenter,
            rack: described.rack,
            cassandra_version: described.release_version,
            partitioner: described.partitioner,
            data_directories: described.data_directories,
            configuration,
        })))
    }

    /// Node and server see the same store: the node reads what the server has just written.
    async fn check_store(&self, job: &BackupJob, link: &Link) -> Result<(), NodeError> {
        let probe = self.once.probe.get_or_try_init(|| self.put_probe(job)).await?;
        let Probe { key, content } = probe;
        let check =
            CheckStoreRequest { store: self.grant.clone(), key: key.clone(), content: content.clone() };
        link.request(Request::CheckStore(check)).await.map(|_| ())
    }

    async fn put_probe(&self, job: &BackupJob) -> Result<Probe, NodeError> {
        let content = SessionId::random().to_string();
        let name = format!("{}-{content}", job.backup_id);
        let key = self.keys.probe(&name).map_err(|e| permanent(chain(&e)))?;
        self.store.check().await.map_err(|e| store_error(&e))?;
        self.store.put(&key, content.clone().into()).await.map_err(|e| store_error(&e))?;
        Ok(Probe { key, content })
    }

    async fn list(&self, job: &BackupJob, target: &str, link: &Link) -> Result<NodeDone, NodeError> {
        let facts = facts(job, target)?;
        let list = self.superseded(job, facts.host_id, job.backup_id, &facts.data_directories);
        link.request_repeatedly(facts.lock(), &Request::ListSuperseded(list)).await?;
        Ok(NodeDone::Done)
    }

    /// The incremental files that this backup superseded.
    pub(super) fn superseded(
        &self,
        job: &BackupJob,
        host_id: HostId,
        backup_id: BackupId,
        data_directories: &[String],
    ) -> SupersededRequest {
        SupersededRequest {
            store: self.grant.clone(),
            cluster_id: job.cluster_id.clone(),
            host_id,
            backup_id,
            data_directories: data_directories.to_vec(),
        }
    }

    /// Every try is a sending session of its own: no key is ever used twice.
    async fn upload(&self, job: &BackupJob, target: &str, link: &Link) -> Result<NodeDone, NodeError> {
        let (node, facts) = (node(job, target)?, facts(job, target)?);
        let mut tries = Tries::default();
        loop {
            let answer = match self.open_session(job, facts.host_id).await {
                Ok(session) => {
                    let request = self.upload_request(job, target, node, facts, session);
                    let sent = Request::Upload(Box::new(request.clone()));
                    let answer = link.locked_request(facts.lock(), sent).await;
                    answer.and_then(|reply| uploaded::summary(&self.keys, &request, reply))
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(summary) => {
                    link.completed(summary.bytes);
                    return Ok(NodeDone::Uploaded(summary));
                }
                Err(_cut) if self.links.cut.is_made() => return Err(link.stopped("sent")),
                Err(error) => self.links.cut.unless(link.pause_before_retry(&mut tries, error)).await?,
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
            kind: match job.base {
                Some(_) => BackupKind::Incremental,
                None if job.is_cluster_wide() => BackupKind::ClusterSnapshot,
                None => BackupKind::NodeSnapshot,
            },
            base: job.base,
            created_at_ms: job.created_at_ms,
            session,
            snapshot: CheckSnapshotRequest {
                data_directories: facts.data_directories.clone(),
                tag: job.tag(node),
                tables: node.tables.clone(),
            },
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

pub(super) async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, NodeError> {
    timeout(limit, work).await.unwrap_or_else(|_elapsed| {
        let message = format!("no end within {} s", limit.as_secs());
        Err(NodeError::new(NodeErrorKind::Transient, message))
    })
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
    if described.ring.get(target) != Some(&described.host_id) {
        let own = described.host_id;
        return Err(permanent(format!("{target} answers as another node of the ring, {own}")));
    }
    // All that it says comes from itself; who is expected there came from another node, unless there is no other.
    match node(job, target)?.planned.filter(|planned| *planned != described.host_id) {
        None => Ok(()),
        Some(planned) => Err(NodeError {
            hint: Some(
                "take the backup again if the node was replaced just now; if not, it does not tell the truth"
                    .to_owned(),
            ),
            ..permanent(format!(
                "{target} answers as the node {}, and the ring had {planned} at this address when the backup was planned",
                described.host_id
            ))
        }),
    }
}

/// What there is of the backup: all of it at the commit, less before.
pub(crate) fn cluster_manifest(job: &BackupJob) -> ClusterManifest {
    let uploaded = job.alive().filter_map(|(_, node)| node.uploaded.as_ref());
    let keyspaces: BTreeSet<_> = uploaded.flat_map(|u| &u.tables).map(|t| t.keyspace.clone()).collect();
    let nodes = job.alive().filter_map(|(target, node)| {
        Some(manifest_ref(target, node.facts.as_deref()?, node.uploaded.as_ref()?))
    });
    let missing = job.nodes.iter().filter_map(|(target, node)| {
        let reason = match (&node.failure, &node.uploaded) {
            (Some(failure), _) => failure.text(),
            (None, Some(_)) => return None,
            (None, None) => "its part is under way".to_owned(),
        };
        let host_id = node.facts.as_ref().map(|f| f.host_id);
        Some(MissingNode { address: target.clone(), host_id, reason })
    });
    ClusterManifest {
        format: 1,
        least_reader: 1,
        cluster_id: job.cluster_id.clone(),
        cluster_name: job.cluster_name.clone(),
        backup_id: job.backup_id,
        backup_type: match job.base {
            Some(_) => 3,
            None if job.is_cluster_wide() => 1,
            None => 2,
        },
        base: job.base,
        created_at_ms: job.created_at_ms,
        consistent: job.is_cluster_wide(),
        nodes: nodes.collect(),
        missing: missing.collect(),
        keyspaces: keyspaces.into_iter().collect(),
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

async fn turn(semaphore: &Semaphore) -> tokio::sync::SemaphorePermit<'_> {
    semaphore.acquire().await.expect("it is never closed")
}

pub(super) fn node<'a>(job: &'a BackupJob, target: &str) -> Result<&'a BackupNode, NodeError> {
    job.nodes
        .get(target)
        .map(|node| &**node)
        .ok_or_else(|| permanent(format!("{target} is not part of this job")))
}

pub(super) fn facts<'a>(job: &'a BackupJob, target: &str) -> Result<&'a BackupNodeFacts, NodeError> {
    let facts = node(job, target)?.facts.as_deref();
    facts.ok_or_else(|| permanent(format!("{target} was not prepared")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Failure;

    /// A node whose manifest is in the store.
    fn uploaded(host_id: &str, failure: Option<Failure>) -> Arc<BackupNode> {
        let facts = BackupNodeFacts {
            host_id: host_id.parse().expect("an id"),
            tokens: Vec::new(),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            cassandra_version: "5.0.9".to_owned(),
            partitioner: "Murmur3Partitioner".to_owned(),
            data_directories: Vec::new(),
            configuration: Default::default(),
        };
        let summary = UploadSummary {
            manifest: "a/manifest".parse().expect("a key"),
            blake3: "0".repeat(64),
            size: 1,
            sstables: 1,
            files: 1,
            bytes: 1,
            sent_bytes: 1,
            left_orphans: false,
            tables: Vec::new(),
            corrupt: Vec::new(),
            taken: 0,
            left: 0,
        };
        let facts = Some(Box::new(facts));
        Arc::new(BackupNode { facts, uploaded: Some(summary), failure, ..BackupNode::default() })
    }

    #[test]
    fn the_cluster_manifest_names_who_is_in_it_and_who_is_not() {
        let failure = Failure { unavailable: false, message: "it is corrupt".to_owned(), hint: None };
        let nodes = [
            ("10.0.0.1", uploaded("6a5c7f0e-0000-4000-8000-000000000001", None)),
            ("10.0.0.2", uploaded("6a5c7f0e-0000-4000-8000-000000000002", Some(failure))),
            ("10.0.0.3", Arc::default()),
        ];
        let manifest = cluster_manifest(&BackupJob {
            backup_id: BackupId::at(1),
            base: None,
            cluster_wide: None,
            cluster_id: "c".parse().expect("an id"),
            cluster_name: "c".to_owned(),
            created_at_ms: 1,
            stage: BackupStage::Commit,
            nodes: nodes.map(|(address, node)| (address.to_owned(), node)).into(),
            refusable: false,
            accepted: true,
            commit_failure: None,
            outcome: None,
            notes: Vec::new(),
            told: Vec::new(),
            cancelled: None,
        });
        let present: Vec<_> = manifest.nodes.iter().map(|node| node.address.as_str()).collect();
        let missing: Vec<_> =
            manifest.missing.iter().map(|node| (node.address.as_str(), node.reason.as_str())).collect();
        assert_eq!(
            (present, missing),
            (vec!["10.0.0.1"], vec![("10.0.0.2", "it is corrupt"), ("10.0.0.3", "its part is under way")])
        );
    }
}
