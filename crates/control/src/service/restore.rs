//! Restores: what is asked for is checked, then planned and handed out, or (a dry run) planned and told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use cassy_backup_format::{BackupId, ClusterId, ClusterManifest};
use cassy_catalog::{ClusterNode, ClusterRow, JobKind};
use cassy_store::StoreError;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::again::{Answerer, Claim, asked_of_restore};
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
use crate::runner::{Filing, database_failed};
use crate::targets;

/// Nodes of the original cluster that a copy is told of.
const SHOWN_LIVING: usize = 10;

/// What is restored, and whom the database knows.
struct Source {
    manifest: ClusterManifest,
    registered: ClusterRow,
    addresses: BTreeSet<String>,
}

/// A restore that can be planned.
struct Prepared {
    job: RestoreJob,
    /// Why it is refused, whatever the targets say.
    refusals: Vec<OperationError>,
}

impl Service {
    /// Answers once the work is handed out; a dry run once every node has said what would be done.
    pub(super) async fn restore(&self, request: &RestoreRequest) -> Result<RestoreAnswer, OperationError> {
        if request.dry_run {
            return self.try_out(request).await;
        }
        match self.answerer(request.idempotency_key.as_ref(), asked_of_restore(request)).await? {
            Answerer::Job(job_id) => {
                let job = self.job_again(&job_id, is_answerable).await?;
                let status = as_of_now(&job);
                answer(request, &job, status)
            }
            Answerer::New(claim) => {
                let job = self.new_restore(request, claim).await?;
                answer(request, &job, Status::Started)
            }
        }
    }

    async fn try_out(&self, request: &RestoreRequest) -> Result<RestoreAnswer, OperationError> {
        let source = self.source(request).await?;
        let mapped = match self.mapped(request, &source).await {
            Err(error) if is_finding(&error) => {
                return Ok(looked_at(request, request.target_ips.clone(), dry_run::refusal(&error)));
            }
            mapped => mapped?,
        };
        let Prepared { job, refusals } = self.prepared(mapped, source).await?;
        let looked = self.look(job).await?;
        let message = dry_run::text(&looked, &refusals);
        Ok(looked_at(request, looked.nodes.into_keys().collect(), message))
    }

    async fn new_restore(
        &self,
        request: &RestoreRequest,
        claim: Option<Claim>,
    ) -> Result<RestoreJob, OperationError> {
        let source = self.source(request).await?;
        let mapped = self.mapped(request, &source).await?;
        let Prepared { job, refusals } = self.prepared(mapped, source).await?;
        if let Some(refusal) = refusals.into_iter().next() {
            return Err(refusal);
        }
        let filing = Filing {
            kind: JobKind::Restore,
            operation_type: if job.whole_cluster { 1 } else { 2 },
            cluster_id: request.cluster_id.clone(),
            snapshot_id: request.snapshot_id.clone(),
            created_at_ms: job.created_at_ms,
        };
        let performer = Arc::new(self.restore_performer(&job));
        let view = self.runner.start(job, filing, claim, performer).await?;
        answered(view, is_answerable).await
    }

    async fn source(&self, request: &RestoreRequest) -> Result<Source, OperationError> {
        let row = self.cluster(&request.cluster_id).await?;
        let cluster_id = cluster_id(&request.cluster_id)?;
        let manifest = self.backup_manifest(&cluster_id, &request.snapshot_id).await?;
        let addresses = self.known_addresses(&row, &cluster_id, &request.snapshot_id).await?;
        Ok(Source { manifest, registered: row, addresses })
    }

    /// The request with all that it leaves to be found out, and which node goes where.
    async fn mapped(
        &self,
        request: &RestoreRequest,
        source: &Source,
    ) -> Result<(RestoreRequest, Nodes<RestoreNode>), OperationError> {
        let known = match request.restore_type {
            RestoreType::Cluster => self.with_sources(request, &source.manifest).await?,
            RestoreType::Node => request.clone(),
        };
        let nodes = targets::of_restore(&known, &source.manifest, &source.addresses)?;
        Ok((known, nodes))
    }

    /// What can be said before any target is asked.
    async fn prepared(
        &self,
        (request, mut nodes): (RestoreRequest, Nodes<RestoreNode>),
        Source { manifest, registered, .. }: Source,
    ) -> Result<Prepared, OperationError> {
        let whole_cluster = request.restore_type == RestoreType::Cluster;
        let others = if whole_cluster { others(&registered.target_ips, &nodes) } else { Vec::new() };
        let answers = self.originals(&registered.target_ips, &request, &nodes, &others).await?;
        let is_copy = whole_cluster && is_elsewhere(&nodes, &manifest);
        let mut refusals = Vec::new();
        if !is_copy {
            refusals.extend(refuse_replaced_that_live(&answers, &nodes).err());
            refusals.extend(refuse_others_that_live(&answers, &others, &registered.cluster_name).err());
        }
        let now_there = self.parts.catalog.cluster_nodes(&request.cluster_id).await.unwrap_or_default();
        let mut told = replaced(&now_there, &nodes);
        if !request.snapshot_only {
            let newest = self.with_increments(&manifest, nodes.clone()).await?;
            if whole_cluster {
                told.extend(left_out(&request, &newest, &manifest, is_copy));
            } else {
                told.extend(taken(&newest, &manifest));
                nodes = newest;
            }
        }
        let now = self.parts.clock.now_ms();
        let job = RestoreJob {
            job_id: BackupId::at(now).to_string(),
            backup_id: manifest.backup_id,
            cluster_id: manifest.cluster_id.clone(),
            created_at_ms: now,
            whole_cluster,
            copy: is_copy.then(|| living(&answers, &manifest)),
            others,
            move_aside: request.move_aside,
            stage: RestoreStage::Plan,
            nodes,
            outcome: None,
            told,
            cancelled: None,
        };
        Ok(Prepared { job, refusals })
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
        snapshot: &ClusterManifest,
        nodes: Nodes<RestoreNode>,
    ) -> Result<Nodes<RestoreNode>, OperationError> {
        let (keys, store) = (keys(&snapshot.cluster_id)?, &*self.parts.store);
        let keys = &keys;
        let looks = nodes.into_iter().map(|(target, node)| async move {
            let manifests = Manifests::list(store, keys, &node.host_id).await?;
            let newest = match manifests.newest_on(snapshot.backup_id) {
                Some((increment, key)) => Some(manifest_at(store, key, increment).await?),
                None => None,
            };
            let manifest = newest.unwrap_or_else(|| node.manifest.clone());
            Ok::<_, StoreError>((target, Arc::new(RestoreNode { manifest, ..(*node).clone() })))
        });
        let looked = futures::stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
        looked.try_collect().await.map_err(|error| store_failed("look for increments", &error))
    }

    /// What those say, by address, who may know whether the nodes are alive whose data goes to other addresses, and
    /// these `others` themselves. Only whom the registration or the request names is asked. One that has no time for the
    /// question is not one that does not answer.
    async fn originals(
        &self,
        registered: &[String],
        request: &RestoreRequest,
        nodes: &Nodes<RestoreNode>,
        others: &[String],
    ) -> Result<Vec<(String, NodeDescription)>, OperationError> {
        if others.is_empty() && nodes.values().all(|node| node.replaces.is_none()) {
            return Ok(Vec::new());
        }
        let named = request.source_of.values().filter(|source| source.parse::<IpAddr>().is_ok()).cloned();
        let asked: BTreeSet<String> = registered.iter().cloned().chain(named).collect();
        let asked: Vec<_> = asked.into_iter().filter(|address| !nodes.contains_key(address)).collect();
        let answers = asked.into_iter().map(|address| async move {
            match self.descriptions.of(&address).await {
                Ok(answer) => Ok(Some((address, answer))),
                Err(error) if error.kind == OperationErrorKind::Exhausted => Err(error),
                Err(_dead) => Ok(None),
            }
        });
        let answers = futures::stream::iter(answers.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
        answers.try_filter_map(|answer| async move { Ok(answer) }).try_collect().await
    }

    /// The addresses that are the cluster's by our own database: as it is registered, and as it was backed up.
    async fn known_addresses(
        &self,
        cluster: &ClusterRow,
        cluster_id: &ClusterId,
        snapshot_id: &str,
    ) -> Result<BTreeSet<String>, OperationError> {
        let backed_up = self.parts.catalog.backed_up_addresses(cluster_id.as_str(), snapshot_id).await;
        let mut known = backed_up.map_err(|e| database_failed("look up who was backed up", &e))?;
        known.extend(cluster.target_ips.iter().cloned());
        Ok(known)
    }
}

/// Two nodes of one host id end each other: a node whose place is taken has to be gone, by its own word and by
/// that of the ring, as far as anybody answers.
fn refuse_replaced_that_live(
    answers: &[(String, NodeDescription)],
    nodes: &Nodes<RestoreNode>,
) -> Result<(), OperationError> {
    for node in nodes.values() {
        let (Some(address), host_id) = (&node.replaces, node.host_id) else { continue };
        let by_itself = answers.iter().any(|(_, node)| node.host_id == host_id);
        let by_ring = answers.iter().any(|(_, node)| node.live.iter().any(|live| live == address));
        if by_itself || by_ring {
            let message = format!("{address} (host id {host_id}) is alive, and its place cannot be taken");
            return Err(precondition(message)
                .hint("stop it for good and wait until the other nodes have noticed (nodetool status: DN)"));
        }
    }
    Ok(())
}

/// The targets at whose address another node is registered than the one that comes back.
fn replaced(registered: &[ClusterNode], nodes: &Nodes<RestoreNode>) -> Vec<String> {
    let others = registered.iter().filter_map(|known| {
        let (target, node) = nodes.get_key_value(&known.address)?;
        (known.host_id != node.host_id.to_string()).then(|| {
            format!(
                "{target}: another node is registered at this address (host id {}) than the one that comes back (host id {}); \
                 the registered one must never start again",
                known.host_id, node.host_id
            )
        })
    });
    others.collect()
}

/// The registered nodes that get nothing back and whose place nobody takes: they came after the backup.
fn others(registered: &[String], nodes: &Nodes<RestoreNode>) -> Vec<String> {
    let replaced: BTreeSet<_> = nodes.values().filter_map(|node| node.replaces.as_deref()).collect();
    let is_other = |address: &&String| !nodes.contains_key(*address) && !replaced.contains(address.as_str());
    registered.iter().filter(is_other).cloned().collect()
}

/// A node of the cluster that goes on would give those that went back its rows and its schema, which are from after the
/// instant. One that has this address and is of another cluster is none of it.
fn refuse_others_that_live(
    answers: &[(String, NodeDescription)],
    others: &[String],
    cluster_name: &str,
) -> Result<(), OperationError> {
    let is_alive = |other: &&String| {
        answers.iter().any(|(address, node)| address == *other && node.cluster_name == cluster_name)
    };
    let alive: Vec<_> = others.iter().filter(is_alive).cloned().collect();
    if alive.is_empty() {
        return Ok(());
    }
    let message = format!(
        "nodes of the cluster that the backup does not have are alive, and would bring rows and a schema from after its \
         instant: {}",
        alive.join(", ")
    );
    Err(precondition(message)
        .hint("stop them; once all restored nodes are up, let them join as new nodes with empty directories"))
}

/// All data goes to addresses that the backup does not know.
fn is_elsewhere(nodes: &Nodes<RestoreNode>, manifest: &ClusterManifest) -> bool {
    !nodes.keys().any(|target| manifest.nodes.iter().any(|node| node.address == *target))
}

/// The nodes of the backed-up cluster that are alive, by the word of any that answers.
fn living(answers: &[(String, NodeDescription)], manifest: &ClusterManifest) -> Vec<String> {
    let is_original = |answer: &&NodeDescription| {
        manifest.nodes.iter().any(|node| answer.ring.values().any(|host_id| *host_id == node.host_id))
    };
    let living: BTreeSet<_> = answers
        .iter()
        .map(|(_, answer)| answer)
        .filter(is_original)
        .flat_map(|answer| answer.live.iter())
        .collect();
    living.into_iter().take(SHOWN_LIVING).cloned().collect()
}

/// What a dry run tells instead of failing.
fn is_finding(error: &OperationError) -> bool {
    matches!(error.kind, OperationErrorKind::FailedPrecondition | OperationErrorKind::Unavailable)
}

pub(super) fn not_made(error: &tokio::task::JoinError) -> OperationError {
    OperationError::new(OperationErrorKind::Internal, format!("the restore was not looked at: {error}"))
}

/// Whether the request can be answered.
fn is_answerable(job: &RestoreJob) -> bool {
    job.stage > RestoreStage::Plan
}

/// For a request that comes again, maybe long after the job has ended.
fn as_of_now(job: &RestoreJob) -> Status {
    match &job.outcome {
        Some(Outcome::Completed) => Status::Completed,
        Some(Outcome::Failed) => Status::Failed,
        _ => Status::Started,
    }
}

fn answer(
    request: &RestoreRequest,
    job: &RestoreJob,
    status: Status,
) -> Result<RestoreAnswer, OperationError> {
    if let Some(Outcome::Refused(refusals)) = &job.outcome {
        return Err(refused(refusals));
    }
    let failures = job.nodes.iter().filter(|_| status == Status::Failed).filter_map(|(target, node)| {
        let failure = node.failure.as_ref()?;
        Some(format!("{target}: {}", failure.text()))
    });
    let told = job.told.iter().cloned().chain(failures);
    let lines: Vec<String> = told.chain(job.warnings()).chain(next_steps(job)).collect();
    let targets = job.nodes.keys().cloned().collect();
    let job_id = Some(job.job_id.clone());
    Ok(RestoreAnswer { status, job_id, ..looked_at(request, targets, lines.join("\n")) })
}

/// The answer of a dry run.
fn looked_at(request: &RestoreRequest, target_ips: Vec<String>, message: String) -> RestoreAnswer {
    RestoreAnswer {
        status: Status::Initialized,
        cluster_id: request.cluster_id.clone(),
        target_ips,
        snapshot_id: request.snapshot_id.clone(),
        restore_type: request.restore_type,
        snapshot_only: request.snapshot_only,
        message,
        job_id: None,
    }
}

/// The targets for which there are increments, each with the last of them.
fn with_newer<'a>(
    nodes: &'a Nodes<RestoreNode>,
    snapshot: &'a ClusterManifest,
) -> impl Iterator<Item = (&'a String, BackupId)> {
    let newest = nodes.iter().map(|(target, node)| (target, node.manifest.backup_id));
    newest.filter(|(_, backup_id)| *backup_id != snapshot.backup_id)
}

fn taken(newest: &Nodes<RestoreNode>, snapshot: &ClusterManifest) -> Vec<String> {
    let told = with_newer(newest, snapshot).map(|(target, increment)| {
        format!("{target}: with the increments on the snapshot, the last is {increment}")
    });
    told.collect()
}

/// A restore of the whole cluster is of the snapshot's instant, and increments are of no one instant.
fn left_out(
    request: &RestoreRequest,
    newest: &Nodes<RestoreNode>,
    snapshot: &ClusterManifest,
    is_copy: bool,
) -> Vec<String> {
    let mut told: Vec<String> = with_newer(newest, snapshot)
        .map(|(target, increment)| {
            format!("{target}: without the increments on the snapshot, the last is {increment}")
        })
        .collect();
    if !told.is_empty() {
        told.push(match is_copy {
            true => "the nodes are of the one instant of the snapshot; a copy takes no increments".to_owned(),
            false => format!(
                "the nodes are of the one instant of the snapshot; with the increments they are not, and each node is restored by \
                 itself: grpcurl -plaintext -d '{}' localhost:20051 rpc.Cassy.RestoreBackup",
                by_itself(request)
            ),
        });
    }
    told
}

/// The same request for nodes by themselves, as JSON that can stand between single quotes.
fn by_itself(request: &RestoreRequest) -> String {
    let mut body = serde_json::json!({
        "cluster_id": request.cluster_id,
        "snapshot_id": request.snapshot_id,
        "restore_type": RestoreType::Node as u32,
    });
    if !request.target_ips.is_empty() {
        body["target_ips"] = request.target_ips.clone().into();
    }
    if !request.source_of.is_empty() {
        body["source_of"] = serde_json::json!(request.source_of);
    }
    if request.move_aside {
        body["move_aside"] = true.into();
    }
    body.to_string().replace('\'', "\\u0027")
}
