//! Backups: what is asked for is checked, and becomes a job; the answer is what the job has come to.

use std::collections::BTreeSet;
use std::sync::Arc;

use cassy_backup_format::{BackupId, HostId};
use cassy_catalog::JobKind;

use super::again::{Answerer, Claim, asked_of_backup};
use super::{Service, answered, cluster_id, precondition, refused};
use crate::job::backup::BackupNode;
use crate::job::backup::cluster_wide::ClusterWide;
use crate::job::{BackupJob, BackupStage, Outcome, Refusal};
use crate::operations::{BackupAnswer, BackupRequest, BackupType, OperationError, Status};
use crate::registration;
use crate::runner::Filing;
use crate::targets;

const ALONE: &str =
    "the snapshot is of one instant across the cluster; what this increment adds to it is not";

impl Service {
    /// Answers once the snapshots are taken, or the request is refused.
    pub(super) async fn back_up(&self, request: &BackupRequest) -> Result<BackupAnswer, OperationError> {
        match self.answerer(request.idempotency_key.as_ref(), asked_of_backup(request)).await? {
            Answerer::Job(job_id) => {
                let job = self.job_again(&job_id, BackupJob::is_answerable).await?;
                answer(&job, as_of_now(&job))
            }
            Answerer::New(claim) => {
                let job = self.new_backup(request, claim).await?;
                answer(&job, Status::Started)
            }
        }
    }

    async fn new_backup(
        &self,
        request: &BackupRequest,
        claim: Option<Claim>,
    ) -> Result<BackupJob, OperationError> {
        let job = self.planned_backup(request).await?;
        let filing = Filing {
            kind: JobKind::Backup,
            operation_type: request.backup_type as u32,
            cluster_id: request.cluster_id.clone(),
            snapshot_id: job.base.unwrap_or(job.backup_id).to_string(),
            created_at_ms: job.created_at_ms,
        };
        let performer = Arc::new(self.backup_performer(&job)?);
        let view = self.runner.start(job, filing, claim, performer).await?;
        answered(view, BackupJob::is_answerable).await
    }

    /// The job of a request that nothing speaks against before any node is prepared.
    async fn planned_backup(&self, request: &BackupRequest) -> Result<BackupJob, OperationError> {
        let row = self.cluster(&request.cluster_id).await?;
        let cluster_id = cluster_id(&request.cluster_id)?;
        let base = match request.backup_type {
            BackupType::Cluster if self.parts.applications.service().is_none() => {
                return Err(precondition(
                    "no applications are configured, and a cluster-wide backup pauses them",
                )
                .hint(
                    "set srv_service_url to the SRV record that names their instances, or use backup_type 2",
                ));
            }
            BackupType::Cluster | BackupType::Node => None,
            BackupType::Incremental => {
                let snapshot_id = request.snapshot_id.as_deref().unwrap_or_default();
                Some(self.backup_manifest(&cluster_id, snapshot_id).await?)
            }
        };
        let described = self.ring(&row).await?;
        let (targets, mut told) = match &base {
            None if request.backup_type == BackupType::Cluster => {
                (targets::of_cluster(&request.target_ips, &described)?, Vec::new())
            }
            None => (targets::of_backup(&request.target_ips, &described)?, Vec::new()),
            Some(base) => targets::of_increment(&request.target_ips, &described, base)?,
        };
        if base.as_ref().is_some_and(|base| base.backup_type == 1) {
            told.push(ALONE.to_owned());
        }
        let registered = self.parts.catalog.cluster_nodes(&request.cluster_id).await.unwrap_or_default();
        told.extend(registration::changes(&row, &registered, &described));
        let now = self.parts.clock.now_ms();
        Ok(BackupJob {
            backup_id: BackupId::at(now),
            base: base.as_ref().map(|base| base.backup_id),
            cluster_wide: (request.backup_type == BackupType::Cluster)
                .then(|| ClusterWide { keep_unproven: request.keep_unproven, ..ClusterWide::default() }),
            cluster_id,
            cluster_name: row.cluster_name,
            created_at_ms: now,
            stage: BackupStage::Prepare,
            nodes: targets.into_iter().map(planned).collect(),
            refusable: true,
            accepted: false,
            commit_failure: None,
            outcome: None,
            notes: Vec::new(),
            told,
            cancelled: None,
        })
    }
}

fn planned((target, host_id): (String, HostId)) -> (String, Arc<BackupNode>) {
    (target, Arc::new(BackupNode::planned(host_id)))
}

/// For a request that comes again, maybe long after the job has ended.
fn as_of_now(job: &BackupJob) -> Status {
    match &job.outcome {
        Some(Outcome::Completed) => Status::Completed,
        Some(Outcome::Failed) => Status::Failed,
        _ => Status::Started,
    }
}

/// `status` unless nothing of it is left.
fn answer(job: &BackupJob, status: Status) -> Result<BackupAnswer, OperationError> {
    if let Some(Outcome::Refused(refusals)) = &job.outcome {
        return Err(refused(refusals));
    }
    if let Some(failure) = failed_together(job) {
        return Err(failure);
    }
    let all_failed = job.alive().next().is_none();
    let failures = job.nodes.iter().filter_map(|(target, node)| {
        let failure = node.failure.as_ref()?;
        Some(format!("{target}: {}", failure.text()))
    });
    let unproven = job.cluster_wide.as_ref().filter(|own| own.unproven.is_some());
    let unproven = unproven.and_then(|own| own.message(false));
    let message: Vec<String> = unproven.into_iter().chain(job.told.iter().cloned()).chain(failures).collect();
    Ok(BackupAnswer {
        status: if all_failed { Status::Failed } else { status },
        cluster_id: job.cluster_id.to_string(),
        target_ips: job.nodes.keys().cloned().collect(),
        snapshot_id: job.base.unwrap_or(job.backup_id).to_string(),
        created_at: job.created_at_ms,
        backup_type: match (&job.cluster_wide, job.base) {
            (Some(_), _) => BackupType::Cluster,
            (None, Some(_)) => BackupType::Incremental,
            (None, None) => BackupType::Node,
        },
        message: message.join("\n"),
        job_id: job.backup_id.to_string(),
    })
}

/// A cluster-wide backup that failed before its upload: its rows are there, and say so too.
fn failed_together(job: &BackupJob) -> Option<OperationError> {
    let failures: Vec<_> = job.nodes.values().filter_map(|node| node.failure.as_ref()).collect();
    let (first, _) = failures.split_first().filter(|_| job.is_cluster_wide())?;
    let refusals: BTreeSet<_> = failures.iter().map(|failure| failure.message.clone()).collect();
    let refusals = refusals.into_iter().map(|message| Refusal {
        target: None,
        unavailable: first.unavailable,
        message,
        hint: first.hint.clone(),
    });
    let error = refused(&refusals.collect::<Vec<_>>());
    Some(error.hint(format!("the backup {} is in the history, as FAILED", job.backup_id)))
}
