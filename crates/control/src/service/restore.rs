//! Restores: what is asked for is checked, then planned and handed out, or (a dry run) planned and told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use cassy_backup_format::{BackupId, ClusterId, ClusterManifest};
use cassy_catalog::JobKind;
use cassy_store::StoreError;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::{LOOKS_AT_ONCE, Service, answered, cluster_id, keys, precondition, refused, store_failed};
use crate::dry_run;
use crate::job::restore::RestoreNode;
use crate::job::{Nodes, Outcome, RestoreJob, RestoreStage};
use crate::next_steps::next_steps;
use crate::nodes::NodeDescription;
use crate::operations::{
    OperationError, OperationErrorKind, RestoreAnswer, RestoreRequest, RestoreType, Status,
};
use crate::perform::increments::Manifests;
use crate::perform::pins::manifest_at;
use crate::registration;
use crate::runner::Filing;
use crate::targets;

/// Nodes of the original cluster that a copy is told of.
const SHOWN_LIVING: usize = 10;
const NO_INSTANT: &str = "with increments the nodes are not of one instant: set snapshot_only for that, or run nodetool \
    repair -full when all are up";

/// A restore that can be planned.
struct Prepared {
    job: RestoreJob,
    /// Why it is refused, whatever the nodes say.
    refusal: Option<OperationError>,
    notes: Vec<String>,
}

impl Service {
    /// Answers once the work is handed out; a dry run once every node has said what would be done.
    pub(super) async fn restore(&self, request: &RestoreRequest) -> Result<RestoreAnswer, OperationError> {
        let row = self.cluster(&request.cluster_id).await?;
        let cluster_id = cluster_id(&request.cluster_id)?;
        let manifest = self.backup_manifest(&cluster_id, &request.snapshot_id).await?;
        let registered = row.target_ips.clone();
        let addresses = self.known_addresses(row, &cluster_id, &request.snapshot_id).await?;
        let mapped = match self.mapped(request, &manifest, &addresses).await {
            Err(error) if request.dry_run && is_finding(&error) => {
                let nobody = answer(request, request.target_ips.clone(), Status::Initialized);
                return Ok(RestoreAnswer { message: dry_run::refusal(&error), ..nobody });
            }
            mapped => mapped?,
        };
        let Prepared { job, refusal, notes } = self.prepared(mapped, &manifest, registered).await?;
        let targets = job.nodes.keys().cloned().collect();
        if request.dry_run {
            let looked = self.look(job).await?;
            let message = dry_run::text(&looked, refusal.as_ref(), &notes);
            return Ok(RestoreAnswer { message, ..answer(request, targets, Status::Initialized) });
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let job = self.hand_out(request, job).await?;
        let lines = notes.into_iter().chain(job.warnings()).chain(next_steps(&job));
        let message = lines.collect::<Vec<_>>().join("\n");
        let job_id = Some(job.job_id.clone());
        Ok(RestoreAnswer { message, job_id, ..answer(request, targets, Status::Started) })
    }

    /// The request with all that it leaves to be found out, and which node goes where.
    async fn mapped(
        &self,
        request: &RestoreRequest,
        manifest: &ClusterManifest,
        addresses: &BTreeSet<String>,
    ) -> Result<(RestoreRequest, Nodes<RestoreNode>), OperationError> {
        let known = match request.restore_type {
            RestoreType::Cluster => self.with_sources(request, manifest).await?,
            RestoreType::Node => request.clone(),
        };
        let nodes = targets::of_restore(&known, manifest, addresses)?;
        Ok((known, nodes))
    }

    /// What can be said before any target is asked.
    async fn prepared(
        &self,
        (request, mut nodes): (RestoreRequest, Nodes<RestoreNode>),
        manifest: &ClusterManifest,
        registered: Vec<String>,
    ) -> Result<Prepared, OperationError> {
        let whole_cluster = request.restore_type == RestoreType::Cluster;
        let answers = self.originals(registered, &request, &nodes).await;
        let is_copy = whole_cluster && is_elsewhere(&nodes, manifest);
        let refusal = if is_copy { None } else { refuse_replaced_that_live(&answers, &nodes).err() };
        let mut notes = Vec::new();
        if !request.snapshot_only {
            (nodes, notes) = self.with_increments(&manifest.cluster_id, manifest.backup_id, nodes).await?;
            notes.extend((whole_cluster && !notes.is_empty()).then(|| NO_INSTANT.to_owned()));
        }
        let now = self.parts.clock.now_ms();
        let job = RestoreJob {
            job_id: BackupId::at(now).to_string(),
            backup_id: manifest.backup_id,
            cluster_id: manifest.cluster_id.clone(),
            created_at_ms: now,
            whole_cluster,
            copy: is_copy.then(|| living(&answers, manifest)),
            move_aside: request.move_aside,
            stage: RestoreStage::Plan,
            nodes,
            outcome: None,
        };
        Ok(Prepared { job, refusal, notes })
    }

    /// Files the job; answers once it is accepted.
    async fn hand_out(
        &self,
        request: &RestoreRequest,
        job: RestoreJob,
    ) -> Result<RestoreJob, OperationError> {
        let filing = Filing {
            kind: JobKind::Restore,
            operation_type: if job.whole_cluster { 1 } else { 2 },
            cluster_id: request.cluster_id.clone(),
            snapshot_id: request.snapshot_id.clone(),
            created_at_ms: job.created_at_ms,
        };
        let performer = Arc::new(self.restore_performer(&job));
        let view = self.runner.start(job, filing, performer).await?;
        let job = answered(view, |job: &RestoreJob| job.stage > RestoreStage::Plan).await?;
        match &job.outcome {
            Some(Outcome::Refused(refusals)) => Err(refused(refusals)),
            _ => Ok(job),
        }
    }

    /// Every node's plan, without a job. In a task of its own: a client that hangs up leaves no agent behind.
    async fn look(&self, job: RestoreJob) -> Result<RestoreJob, OperationError> {
        let permit = self.may_look()?;
        let performer = self.restore_performer(&job);
        let looked = tokio::spawn(async move {
            let _permit = permit;
            dry_run::look(&performer, job).await
        });
        looked.await.map_err(|error| not_made(&error))
    }

    pub(super) fn may_look(&self) -> Result<OwnedSemaphorePermit, OperationError> {
        Arc::clone(&self.dry_runs).try_acquire_owned().map_err(|_taken| {
            let message = "too many restores are being looked at already";
            OperationError::new(OperationErrorKind::Exhausted, message)
                .hint("send the request again when one of them has ended")
        })
    }

    /// Where increments on the snapshot are to be had, the newest of them takes its place: it is whole by itself.
    async fn with_increments(
        &self,
        cluster_id: &ClusterId,
        base: BackupId,
        nodes: Nodes<RestoreNode>,
    ) -> Result<(Nodes<RestoreNode>, Vec<String>), OperationError> {
        let (keys, store) = (keys(cluster_id)?, &*self.parts.store);
        let keys = &keys;
        let looks = nodes.into_iter().map(|(target, node)| async move {
            let manifests = Manifests::list(store, keys, &node.host_id).await?;
            let newest = match manifests.newest_on(base) {
                Some((increment, key)) => Some(manifest_at(store, key, increment).await?),
                None => None,
            };
            let manifest = newest.unwrap_or_else(|| node.manifest.clone());
            Ok::<_, StoreError>((target, Arc::new(RestoreNode { manifest, ..(*node).clone() })))
        });
        let looked = futures::stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
        let nodes: Nodes<RestoreNode> =
            looked.try_collect().await.map_err(|error| store_failed("look for increments", &error))?;
        let with = nodes.iter().filter(|(_, node)| node.manifest.backup_id != base);
        let notes = with.map(|(target, node)| {
            format!("{target}: with the increments on the snapshot, the last is {}", node.manifest.backup_id)
        });
        let notes = notes.collect();
        Ok((nodes, notes))
    }

    /// What those say who may know whether the nodes are alive whose data goes to other addresses. Only whom the
    /// registration or the request names is asked.
    async fn originals(
        &self,
        registered: Vec<String>,
        request: &RestoreRequest,
        nodes: &Nodes<RestoreNode>,
    ) -> Vec<NodeDescription> {
        if nodes.values().all(|node| node.replaces.is_none()) {
            return Vec::new();
        }
        let named = request.source_of.values().filter(|source| source.parse::<IpAddr>().is_ok()).cloned();
        let asked: BTreeSet<String> = registered.into_iter().chain(named).collect();
        let asked: Vec<_> = asked.into_iter().filter(|address| !nodes.contains_key(address)).collect();
        let answers = asked.iter().map(|address| registration::describe(&*self.parts.access, address));
        let answers = futures::stream::iter(answers.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
        answers.filter_map(|answer| async move { answer.ok() }).collect().await
    }

    /// The addresses that are the cluster's by our own database: as it is registered, and as it was backed up.
    async fn known_addresses(
        &self,
        cluster: cassy_catalog::ClusterRow,
        cluster_id: &ClusterId,
        snapshot_id: &str,
    ) -> Result<BTreeSet<String>, OperationError> {
        let backed_up = self.history_of(cluster_id, snapshot_id).await?.map(|entry| entry.target_ip);
        Ok(cluster.target_ips.into_iter().chain(backed_up).collect())
    }
}

/// Two nodes of one host id end each other: a node whose place is taken has to be gone, by its own word and by
/// that of the ring, as far as anybody answers.
fn refuse_replaced_that_live(
    answers: &[NodeDescription],
    nodes: &Nodes<RestoreNode>,
) -> Result<(), OperationError> {
    for node in nodes.values() {
        let (Some(address), host_id) = (&node.replaces, node.host_id) else { continue };
        let by_itself = answers.iter().any(|node| node.host_id == host_id);
        let by_ring = answers.iter().any(|node| node.live.iter().any(|live| live == address));
        if by_itself || by_ring {
            let message = format!("{address} (host id {host_id}) is alive, and its place cannot be taken");
            return Err(precondition(message)
                .hint("stop it for good and wait until the other nodes have noticed (nodetool status: DN)"));
        }
    }
    Ok(())
}

/// All data goes to addresses that the backup does not know.
fn is_elsewhere(nodes: &Nodes<RestoreNode>, manifest: &ClusterManifest) -> bool {
    !nodes.keys().any(|target| manifest.nodes.iter().any(|node| node.address == *target))
}

/// The nodes of the backed-up cluster that are alive, by the word of any that answers.
fn living(answers: &[NodeDescription], manifest: &ClusterManifest) -> Vec<String> {
    let is_original = |answer: &&NodeDescription| {
        manifest.nodes.iter().any(|node| answer.ring.values().any(|host_id| *host_id == node.host_id))
    };
    let living: BTreeSet<_> =
        answers.iter().filter(is_original).flat_map(|answer| answer.live.iter()).collect();
    living.into_iter().take(SHOWN_LIVING).cloned().collect()
}

/// What a dry run tells instead of failing.
fn is_finding(error: &OperationError) -> bool {
    matches!(error.kind, OperationErrorKind::FailedPrecondition | OperationErrorKind::Unavailable)
}

pub(super) fn not_made(error: &tokio::task::JoinError) -> OperationError {
    OperationError::new(OperationErrorKind::Internal, format!("the restore was not looked at: {error}"))
}

fn answer(request: &RestoreRequest, target_ips: Vec<String>, status: Status) -> RestoreAnswer {
    RestoreAnswer {
        status,
        cluster_id: request.cluster_id.clone(),
        target_ips,
        snapshot_id: request.snapshot_id.clone(),
        restore_type: request.restore_type,
        snapshot_only: request.snapshot_only,
        message: String::new(),
        job_id: None,
    }
}
