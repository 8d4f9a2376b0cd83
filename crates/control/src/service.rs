//! The operations: checks a request, makes the job, waits for its first answer.

mod again;
mod backup;
mod cancel;
mod restore;
mod whole_cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::StoreGrant;
use cassy_backup_format::{BackupId, ClusterId, ClusterManifest, Keys};
use cassy_catalog::{Catalog, CatalogError, JobKind, JobUpdate, NodeRow};
use cassy_store::{Store, StoreError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use again::Claim;
use again::Turns;

use crate::applications::Applications;
use crate::clock::Clock;
use crate::descriptions::Descriptions;
use crate::job::{BackupJob, Refusal, RestoreJob};
use crate::nodes::{NodeAccess, NodeDescription};
use crate::operations::{
    BackupAnswer, BackupRequest, BackupType, CancelAnswer, Cluster, ClusterSelector, HistorySelector,
    JobSelector, NodeEntry, OperationError, OperationErrorKind, Operations, Progress, RestoreAnswer,
    RestoreRequest, Status,
};
use crate::pauses::Pauses;
use crate::perform::backup::{BackupPerformer, Once, cluster_manifest};
use crate::perform::restore::RestorePerformer;
use crate::perform::{Links, chain};
use crate::progress::ProgressBoard;
use crate::registration::{self, Meetings};
use crate::runner::{Filing, Runner, database_failed, decode, stopping};

const UNKNOWN_CLUSTER: &str = "The specified cluster cannot be found.";
const CHANGED: &str = "restore another backup, and find out who changed the store";
/// A cluster manifest names nodes, not files.
const CLUSTER_MANIFEST_LIMIT_BYTES: u64 = 64 << 20;

/// Nodes whose manifests are looked for at once.
const LOOKS_AT_ONCE: usize = 16;
/// Restores that are only looked at; each may have an agent on every target.
const DRY_RUNS_AT_ONCE: usize = 4;

/// What the service is made of.
#[derive(Clone)]
pub struct ServiceParts {
    /// The metadata database.
    pub catalog: Catalog,
    /// Of the server's lease: every write of a job carries it.
    pub epoch: i64,
    /// The object store.
    pub store: Arc<dyn Store>,
    /// The same, as it is sent to agents.
    pub grant: StoreGrant,
    /// Reaches nodes.
    pub access: Arc<dyn NodeAccess>,
    /// Reaches the applications over Cassandra.
    pub applications: Arc<dyn Applications>,
    /// The longest time for which they are paused.
    pub longest_pause: Duration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where a stopped node's `cassandra.yaml` is, by key.
    pub cassandra_yaml: Option<String>,
}

/// The operations on real parts.
pub struct Service {
    parts: ServiceParts,
    runner: Arc<Runner>,
    progress: Arc<ProgressBoard>,
    pauses: Arc<Pauses>,
    registering: tokio::sync::Mutex<()>,
    descriptions: Descriptions,
    meetings: Meetings,
    dry_runs: Arc<Semaphore>,
    turns: Turns,
    progress_task: tokio::task::JoinHandle<()>,
}

impl Service {
    /// Unpauses what an earlier server has left paused, starts the runner, and takes up the jobs that were left
    /// unfinished.
    pub async fn start(parts: ServiceParts) -> Result<Arc<Self>, OperationError> {
        let pauses = Arc::new(Pauses {
            applications: Arc::clone(&parts.applications),
            longest: parts.longest_pause,
            catalog: parts.catalog.clone(),
            epoch: parts.epoch,
            clock: Arc::clone(&parts.clock),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            closed: Notify::new(),
            deaf: Mutex::default(),
        });
        pauses.take_up().await.map_err(|e| database_failed("read the intents of pauses", &e))?;
        let unfinished = parts.catalog.unfinished_jobs().await;
        let unfinished = unfinished.map_err(|e| database_failed("read the unfinished jobs", &e))?;
        let runner = Arc::new(Runner::new(parts.catalog.clone(), parts.epoch, Arc::clone(&parts.clock)));
        let progress = Arc::new(ProgressBoard::new(parts.catalog.clone(), parts.epoch));
        let board = Arc::clone(&progress).run();
        let service = Self {
            runner,
            progress,
            pauses,
            registering: tokio::sync::Mutex::default(),
            descriptions: Descriptions::new(Arc::clone(&parts.access)),
            meetings: Meetings::default(),
            dry_runs: Arc::new(Semaphore::new(DRY_RUNS_AT_ONCE)),
            turns: Turns::default(),
            progress_task: tokio::spawn(board),
            parts,
        };
        service.resume_jobs(unfinished).await;
        Ok(Arc::new(service))
    }

    /// Stops driving jobs; they go on at the next start.
    pub async fn shut_down(&self) {
        // First nothing is driven any more, so that what ends now is no end of a job.
        futures::join!(self.runner.shut_down(), self.pauses.shut_down(), self.meetings.shut_down());
        self.progress_task.abort();
    }

    async fn resume_jobs(&self, unfinished: Vec<cassy_catalog::Job>) {
        for job in unfinished {
            tracing::info!(job = job.job_id, stage = job.stage, "taking up an unfinished job");
            let filing = Filing {
                kind: job.kind,
                operation_type: job.operation_type,
                cluster_id: job.cluster_id.clone(),
                snapshot_id: job.snapshot_id.clone(),
                created_at_ms: job.created_at,
            };
            let Err(error) = self.resume_job(&job, filing) else { continue };
            tracing::error!(job = job.job_id, error = %error, "the job cannot be taken up, and ends");
            if let Err(error) = self.end_unreadable(&job, &error).await {
                tracing::error!(job = job.job_id, error = chain(&error), "its end cannot be stored");
            }
        }
    }

    /// A job that nobody can go on with ends FAILED. What it may have left goes with the next backup.
    async fn end_unreadable(
        &self,
        job: &cassy_catalog::Job,
        why: &OperationError,
    ) -> Result<(), CatalogError> {
        let snapshot_id = Some(job.snapshot_id.clone());
        let selector = cassy_catalog::HistorySelector { snapshot_id, ..Default::default() };
        let catalog = &self.parts.catalog;
        let rows = match job.kind {
            JobKind::Backup => catalog.backups(&selector).await?,
            JobKind::Restore => catalog.restores(&selector).await?,
        };
        let own = rows.into_iter().filter(|row| row.job_id.as_ref() == Some(&job.job_id));
        let update = JobUpdate {
            job_id: job.job_id.clone(),
            stage: "finished".to_owned(),
            state_json: job.state_json.clone(),
            parts: Vec::new(),
            finished: true,
            frees_key: false,
            rows: own
                .map(|row| NodeRow {
                    target_ip: row.target_ip,
                    status: Status::Failed as u8,
                    message: format!("the job could not be taken up after a restart: {why}"),
                })
                .collect(),
        };
        catalog.save_job(self.parts.epoch, &update, self.parts.clock.now_ms()).await
    }

    fn resume_job(&self, stored: &cassy_catalog::Job, filing: Filing) -> Result<(), OperationError> {
        let unreadable =
            |error: serde_json::Error| precondition(format!("its state cannot be read: {error}"));
        match filing.kind {
            JobKind::Backup => {
                let job: BackupJob = decode(stored).map_err(unreadable)?;
                let performer = Arc::new(self.backup_performer(&job)?);
                self.runner.resume(job, filing, performer);
            }
            JobKind::Restore => {
                let job: RestoreJob = decode(stored).map_err(unreadable)?;
                let performer = Arc::new(self.restore_performer(&job));
                self.runner.resume(job, filing, performer);
            }
        }
        Ok(())
    }

    fn links(&self, job_id: String) -> Links {
        let (access, progress) = (Arc::clone(&self.parts.access), Arc::clone(&self.progress));
        Links::new(job_id, self.parts.epoch, access, progress)
    }

    fn backup_performer(&self, job: &BackupJob) -> Result<BackupPerformer, OperationError> {
        Ok(BackupPerformer {
            keys: keys(&job.cluster_id)?,
            links: self.links(job.backup_id.to_string()),
            store: Arc::clone(&self.parts.store),
            grant: self.parts.grant.clone(),
            catalog: self.parts.catalog.clone(),
            epoch: self.parts.epoch,
            clock: Arc::clone(&self.parts.clock),
            pauses: Arc::clone(&self.pauses),
            once: Once::default(),
        })
    }

    fn restore_performer(&self, job: &RestoreJob) -> RestorePerformer {
        RestorePerformer {
            links: self.links(job.job_id.clone()),
            grant: self.parts.grant.clone(),
            cassandra_yaml: self.parts.cassandra_yaml.clone(),
        }
    }

    async fn cluster(&self, cluster_id: &str) -> Result<cassy_catalog::ClusterRow, OperationError> {
        let found = self.parts.catalog.cluster(cluster_id).await;
        let found = found.map_err(|e| database_failed("look up the cluster", &e))?;
        found.ok_or_else(|| invalid(UNKNOWN_CLUSTER).hint("ListClusters shows what is registered"))
    }

    /// The ring of the moment, from the first registered node that answers.
    async fn ring(&self, cluster: &cassy_catalog::ClusterRow) -> Result<NodeDescription, OperationError> {
        let mut failures = Vec::new();
        for address in &cluster.target_ips {
            match self.descriptions.of(address).await {
                Ok(described) => return Ok(described),
                Err(error) => failures.push(error),
            }
        }
        let mut failures = failures.into_iter();
        let Some(mut first) = failures.next() else {
            return Err(invalid("the registered cluster has no nodes").hint("register it again"));
        };
        failures.for_each(|next| first.message.push_str(&format!("\n{}", next.message)));
        Err(first)
    }

    /// What there is of a snapshot: by its cluster manifest, else by the job that has not written it.
    async fn backup_manifest(
        &self,
        cluster_id: &ClusterId,
        snapshot_id: &str,
    ) -> Result<ClusterManifest, OperationError> {
        let unknown = || {
            OperationError::new(OperationErrorKind::NotFound, format!("there is no backup {snapshot_id}"))
                .hint("ListBackups shows the backups of a cluster")
        };
        let backup_id: BackupId = snapshot_id.parse().map_err(|_invalid| unknown())?;
        let error = match self.stored_manifest(cluster_id, backup_id).await {
            Ok(Some(manifest)) => return Ok(manifest),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        match (self.manifest_of_job(cluster_id, backup_id).await?, error) {
            (Some(manifest), _) => Ok(manifest),
            (None, Some(error)) => Err(error),
            (None, None) => Err(self.why_absent(cluster_id, snapshot_id).await?.unwrap_or_else(unknown)),
        }
    }

    async fn stored_manifest(
        &self,
        cluster_id: &ClusterId,
        backup_id: BackupId,
    ) -> Result<Option<ClusterManifest>, OperationError> {
        let key = keys(cluster_id)?.cluster_manifest(&backup_id);
        let stored = match self.parts.store.get(&key, CLUSTER_MANIFEST_LIMIT_BYTES).await {
            Ok(stored) => stored,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(store_failed("read the cluster manifest", &error)),
        };
        let manifest = ClusterManifest::from_json(&stored).map_err(|error| {
            precondition(format!("the cluster manifest {key} cannot be read: {}", chain(&error)))
                .hint(CHANGED)
        })?;
        if manifest.cluster_id != *cluster_id || manifest.backup_id != backup_id {
            let message = format!("the cluster manifest {key} is that of another backup");
            return Err(precondition(message).hint(CHANGED));
        }
        if let Some(base) = manifest.base {
            let message = format!("{backup_id} is an increment, and not a snapshot");
            return Err(precondition(message).hint(format!("name its snapshot, {base}")));
        }
        Ok(Some(manifest))
    }

    /// Each node whose row is COMPLETED can be restored, before the summary is written, and when it never could be.
    async fn manifest_of_job(
        &self,
        cluster_id: &ClusterId,
        backup_id: BackupId,
    ) -> Result<Option<ClusterManifest>, OperationError> {
        let found = self.parts.catalog.job(&backup_id.to_string()).await;
        let found = found.map_err(|e| database_failed("look up the backup's job", &e))?;
        let job = found.and_then(|stored| decode::<BackupJob>(&stored).ok());
        let has_no_summary = |job: &BackupJob| job.outcome.is_none() || job.commit_failure.is_some();
        let known = job.filter(|job| job.accepted && job.base.is_none() && has_no_summary(job));
        let known = known.filter(|job| job.cluster_id == *cluster_id);
        let manifest = known.map(|job| cluster_manifest(&job));
        Ok(manifest.filter(|manifest| !manifest.nodes.is_empty()))
    }

    /// Why a backup that the history knows has no manifest.
    async fn why_absent(
        &self,
        cluster_id: &ClusterId,
        snapshot_id: &str,
    ) -> Result<Option<OperationError>, OperationError> {
        let wanted =
            HistorySelector { snapshot_id: Some(snapshot_id.to_owned()), ..HistorySelector::default() };
        let entries = self.list_backups(wanted).await?;
        let newest = entries.into_iter().find(|entry| entry.cluster_id == cluster_id.as_str());
        Ok(newest.map(|entry| {
            let refused =
                |why: &str| precondition(format!("the backup {snapshot_id} cannot be restored: {why}"));
            match entry.message.as_str() {
                "" if (entry.status as u8) < Status::Completed as u8 => {
                    refused("it is under way").hint("wait until ListBackups shows it COMPLETED")
                }
                "" => refused("it has no manifest in the store"),
                message => refused(message),
            }
        }))
    }
}

#[async_trait]
impl Operations for Service {
    async fn register_cluster(&self, cassandra_host: &str) -> Result<Cluster, OperationError> {
        let described = self.descriptions.of(cassandra_host).await?;
        let _one_at_a_time = self.registering.lock().await;
        let (catalog, epoch, now) = (&self.parts.catalog, self.parts.epoch, self.parts.clock.now_ms());
        let cluster = registration::register(catalog, epoch, now, &described).await?;
        self.meetings.begin(&self.parts.access, &cluster.target_ips);
        Ok(cluster)
    }

    async fn list_clusters(&self, selector: ClusterSelector) -> Result<Vec<Cluster>, OperationError> {
        let selector =
            cassy_catalog::ClusterSelector { cluster_id: selector.cluster_id, limit: selector.limit };
        let rows = self.parts.catalog.clusters(&selector).await;
        let rows = rows.map_err(|e| database_failed("list the clusters", &e))?;
        Ok(rows.into_iter().map(registration::cluster).collect())
    }

    async fn take_backup(&self, request: BackupRequest) -> Result<BackupAnswer, OperationError> {
        self.back_up(&request).await
    }

    async fn list_backups(&self, selector: HistorySelector) -> Result<Vec<NodeEntry>, OperationError> {
        let rows = self.parts.catalog.backups(&history_selector(selector)).await;
        let rows = rows.map_err(|e| database_failed("list the backups", &e))?;
        let together = rows.iter().filter(|row| row.operation_type == BackupType::Cluster as u32);
        let jobs: BTreeSet<_> = together.filter_map(|row| row.job_id.clone()).collect();
        let mut freezes = BTreeMap::new();
        for job_id in jobs {
            let stored = self.parts.catalog.job_alone(&job_id).await;
            let stored = stored.map_err(|e| database_failed("look up a backup's job", &e))?;
            let job = stored.and_then(|stored| decode::<BackupJob>(&stored).ok());
            freezes.extend(job.and_then(|job| Some((job_id, job.cluster_wide?.freeze?))));
        }
        let with_freeze = |row: cassy_catalog::HistoryEntry| {
            let freeze = row.job_id.as_ref().and_then(|job_id| freezes.get(job_id).cloned());
            NodeEntry { freeze, ..entry(row) }
        };
        Ok(rows.into_iter().map(with_freeze).collect())
    }

    async fn restore_backup(&self, request: RestoreRequest) -> Result<RestoreAnswer, OperationError> {
        self.restore(&request).await
    }

    async fn list_restores(&self, selector: HistorySelector) -> Result<Vec<NodeEntry>, OperationError> {
        let rows = self.parts.catalog.restores(&history_selector(selector)).await;
        let rows = rows.map_err(|e| database_failed("list the restores", &e))?;
        Ok(rows.into_iter().map(entry).collect())
    }

    async fn cancel_job(&self, selector: JobSelector) -> Result<CancelAnswer, OperationError> {
        self.cancel(&selector).await
    }
}

/// Waits until the job has an answer for its caller.
async fn answered<J>(mut view: watch::Receiver<J>, ready: impl Fn(&J) -> bool) -> Result<J, OperationError>
where
    J: Clone,
{
    let outcome = view.wait_for(|job| ready(job)).await.map(|job| job.clone());
    outcome.map_err(|_closed| stopping())
}

fn history_selector(selector: HistorySelector) -> cassy_catalog::HistorySelector {
    cassy_catalog::HistorySelector {
        cluster_id: selector.cluster_id,
        target_ip: selector.target_ip,
        snapshot_id: selector.snapshot_id,
        limit: selector.limit,
    }
}

fn entry(row: cassy_catalog::HistoryEntry) -> NodeEntry {
    NodeEntry {
        cluster_id: row.cluster_id,
        target_ip: row.target_ip,
        snapshot_id: row.snapshot_id,
        created_at: row.created_at,
        updated_at: row.updated_at,
        operation_type: row.operation_type,
        status: status(row.status),
        progress: Progress { bytes_done: row.bytes_done, bytes_total: row.bytes_total },
        message: row.message,
        freeze: None,
        job_id: row.job_id,
    }
}

fn status(number: u8) -> Status {
    match number {
        1 => Status::Initialized,
        2 => Status::Started,
        3 => Status::Completed,
        4 => Status::Failed,
        _ => Status::Unknown,
    }
}

/// Everything that was found, one line each.
fn refused(refusals: &[Refusal]) -> OperationError {
    let unavailable = refusals.iter().all(|refusal| refusal.unavailable);
    let kind =
        if unavailable { OperationErrorKind::Unavailable } else { OperationErrorKind::FailedPrecondition };
    let lines: Vec<_> = refusals
        .iter()
        .map(|refusal| match &refusal.target {
            Some(target) if !refusal.message.starts_with(target.as_str()) => {
                format!("{target}: {}", refusal.message)
            }
            _ => refusal.message.clone(),
        })
        .collect();
    let hints: BTreeSet<_> = refusals.iter().filter_map(|refusal| refusal.hint.clone()).collect();
    OperationError { kind, message: lines.join("\n"), hints: hints.into_iter().collect() }
}

fn keys(cluster_id: &ClusterId) -> Result<Keys, OperationError> {
    Keys::new(cluster_id.clone()).map_err(|error| precondition(chain(&error)))
}

fn cluster_id(text: &str) -> Result<ClusterId, OperationError> {
    text.parse().map_err(|_invalid| invalid(UNKNOWN_CLUSTER))
}

pub(crate) fn invalid(message: impl Into<String>) -> OperationError {
    OperationError::new(OperationErrorKind::InvalidArgument, message)
}

pub(crate) fn precondition(message: impl Into<String>) -> OperationError {
    OperationError::new(OperationErrorKind::FailedPrecondition, message)
}

fn store_failed(what: &str, error: &StoreError) -> OperationError {
    let kind = match error.class() {
        cassy_store::Class::Transient => OperationErrorKind::Unavailable,
        _ => OperationErrorKind::FailedPrecondition,
    };
    let message = format!("cannot {what}: {}", chain(error));
    OperationError { kind, message, hints: error.hint().into_iter().collect() }
}
