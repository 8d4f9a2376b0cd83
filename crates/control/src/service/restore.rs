//! Restores: what is asked for is checked, then planned and handed out, or (a dry run) planned and told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use cassy_backup_format::{BackupId, ClusterId};
use cassy_catalog::JobKind;
use cassy_store::StoreError;
use futures::{StreamExt, TryStreamExt};

use super::{
    LOOKS_AT_ONCE, Service, answered, cluster_id, keys, precondition, refused, store_failed, unimplemented,
};
use crate::dry_run;
use crate::job::restore::RestoreNode;
use crate::job::{Nodes, Outcome, RestoreJob, RestoreStage};
use crate::nodes::NodeDescription;
use crate::operations::{
    OperationError, OperationErrorKind, RestoreAnswer, RestoreRequest, RestoreType, Status,
};
use crate::perform::increments::Manifests;
use crate::perform::pins::manifest_at;
use crate::registration;
use crate::runner::Filing;
use crate::targets;

impl Service {
    /// Answers once the work is handed out; a dry run once every node has said what would be done.
    pub(super) async fn restore(&self, request: RestoreRequest) -> Result<RestoreAnswer, OperationError> {
        if request.restore_type != RestoreType::Node {
            return Err(unimplemented("only restore type 2 (nodes) is served"));
        }
        let row = self.cluster(&request.cluster_id).await?;
        let cluster_id = cluster_id(&request.cluster_id)?;
        let manifest = self.backup_manifest(&cluster_id, &request.snapshot_id).await?;
        let registered = row.target_ips.clone();
        let known = self.known_addresses(row, &cluster_id, &request.snapshot_id).await?;
        let mut nodes = targets::of_restore(&request, &manifest, &known)?;
        let lives = self.refuse_replaced_that_live(registered, &request, &nodes).await;
        if !request.dry_run {
            lives.clone()?;
        }
        let mut notes = Vec::new();
        if !request.snapshot_only {
            (nodes, notes) = self.with_increments(&cluster_id, manifest.backup_id, nodes).await?;
        }
        let now = self.parts.clock.now_ms();
        let job = RestoreJob {
            job_id: BackupId::at(now).to_string(),
            backup_id: manifest.backup_id,
            cluster_id,
            created_at_ms: now,
            move_aside: request.move_aside,
            stage: RestoreStage::Plan,
            nodes,
            outcome: None,
        };
        if request.dry_run {
            let looked = self.look(job).await?;
            let message = dry_run::text(&looked, lives.err().as_ref(), &notes);
            return Ok(answer(request, &looked, Status::Initialized, message));
        }
        let filing = Filing {
            kind: JobKind::Restore,
            operation_type: 2,
            cluster_id: request.cluster_id.clone(),
            snapshot_id: request.snapshot_id.clone(),
            created_at_ms: now,
        };
        let performer = Arc::new(self.restore_performer(&job));
        let view = self.runner.start(job, filing, performer).await?;
        let job = answered(view, |job: &RestoreJob| job.stage > RestoreStage::Plan).await?;
        if let Some(Outcome::Refused(refusals)) = &job.outcome {
            return Err(refused(refusals));
        }
        let message = notes.into_iter().chain(job.warnings()).collect::<Vec<_>>().join("\n");
        Ok(answer(request, &job, Status::Started, message))
    }

    /// Every node's plan, without a job. In a task of its own: a client that hangs up leaves no agent behind.
    async fn look(&self, job: RestoreJob) -> Result<RestoreJob, OperationError> {
        let Ok(permit) = Arc::clone(&self.dry_runs).try_acquire_owned() else {
            let message = "too many dry runs are under way already";
            return Err(OperationError::new(OperationErrorKind::Exhausted, message)
                .hint("send the request again when one of them has ended"));
        };
        let performer = self.restore_performer(&job);
        let looked = tokio::spawn(async move {
            let _permit = permit;
            dry_run::look(&performer, job).await
        });
        looked.await.map_err(|error| {
            OperationError::new(OperationErrorKind::Internal, format!("the dry run was not made: {error}"))
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

    /// Two nodes of one host id end each other: a node whose place is taken has to be gone, by its own word and by
    /// that of the ring, as far as anybody answers.
    async fn refuse_replaced_that_live(
        &self,
        registered: Vec<String>,
        request: &RestoreRequest,
        nodes: &Nodes<RestoreNode>,
    ) -> Result<(), OperationError> {
        let replaced: Vec<_> =
            nodes.values().filter_map(|node| Some((node.replaces.as_deref()?, node.host_id))).collect();
        if replaced.is_empty() {
            return Ok(());
        }
        // Only whom the registration or the request names is asked.
        let named = request.source_of.values().filter(|source| source.parse::<IpAddr>().is_ok()).cloned();
        let asked: BTreeSet<String> = registered.into_iter().chain(named).collect();
        let asked: Vec<_> = asked.into_iter().filter(|address| !nodes.contains_key(address)).collect();
        let answers = asked.iter().map(|address| registration::describe(&*self.parts.access, address));
        let answers = futures::stream::iter(answers.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
        let answers: Vec<NodeDescription> =
            answers.filter_map(|answer| async move { answer.ok() }).collect().await;
        for (address, host_id) in replaced {
            let by_itself = answers.iter().any(|node| node.host_id == host_id);
            let by_ring = answers.iter().any(|node| node.live.iter().any(|live| live == address));
            if by_itself || by_ring {
                let message =
                    format!("{address} (host id {host_id}) is alive, and its place cannot be taken");
                return Err(precondition(message).hint(
                    "stop it for good and wait until the other nodes have noticed (nodetool status: DN)",
                ));
            }
        }
        Ok(())
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

fn answer(request: RestoreRequest, job: &RestoreJob, status: Status, message: String) -> RestoreAnswer {
    RestoreAnswer {
        status,
        cluster_id: request.cluster_id,
        target_ips: job.nodes.keys().cloned().collect(),
        snapshot_id: request.snapshot_id,
        restore_type: request.restore_type,
        snapshot_only: request.snapshot_only,
        message,
    }
}
