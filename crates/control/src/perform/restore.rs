//! Performs the effects of a restore.

use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{
    Reply, Request, RestorePlan, RestoreRequest, RestoreScope, RestoreSummary, RestoreWay, StoreGrant,
};
use tokio::time::timeout;

use super::{Links, permanent, unexpected};
use crate::job::{RestoreEffect, RestoreEvent, RestoreJob};
use crate::machine::Perform;
use crate::nodes::{NodeError, NodeErrorKind};

/// Of the plan, the wait for a dead server's agent included.
const PLAN_LIMIT: Duration = Duration::from_secs(300);

/// Performs the effects of one restore job.
pub(crate) struct RestorePerformer {
    pub(crate) links: Links,
    pub(crate) grant: StoreGrant,
    pub(crate) cassandra_yaml: Option<String>,
}

#[async_trait]
impl Perform<RestoreJob> for RestorePerformer {
    async fn perform(&self, job: &RestoreJob, effect: &RestoreEffect) -> RestoreEvent {
        match effect {
            RestoreEffect::Plan(target) => {
                match self.links.cut.unless(bounded(target, self.plan(job, target))).await {
                    Ok(plan) => RestoreEvent::Planned(target.clone(), plan),
                    Err(error) => RestoreEvent::NodeFailed(target.clone(), error.into()),
                }
            }
            RestoreEffect::Restore(target) => match self.restore(job, target).await {
                Ok(summary) => RestoreEvent::Restored(target.clone(), summary),
                Err(error) => RestoreEvent::NodeFailed(target.clone(), error.into()),
            },
            RestoreEffect::Undo(target) => match self.undo(job, target).await {
                Ok(left) => RestoreEvent::Undone(target.clone(), left),
                Err(error) => RestoreEvent::NodeFailed(target.clone(), error.into()),
            },
        }
    }

    fn cut(&self) {
        self.links.cut.make();
    }

    async fn release(&self) {
        self.links.close().await;
    }
}

impl RestorePerformer {
    /// What the node says would be done. Changes nothing, and takes no lock.
    pub(crate) async fn look(&self, job: &RestoreJob, target: &str) -> Result<RestorePlan, NodeError> {
        bounded(target, self.ask(job, target)).await
    }

    /// The node's lock is taken when nothing is in the way, and held until the restore has ended.
    async fn plan(&self, job: &RestoreJob, target: &str) -> Result<RestorePlan, NodeError> {
        let plan = self.ask(job, target).await?;
        if plan.findings.is_empty() {
            self.links.to(target).lock(directory(&plan, target)?).await?;
        }
        Ok(plan)
    }

    async fn ask(&self, job: &RestoreJob, target: &str) -> Result<RestorePlan, NodeError> {
        let request = Request::PlanRestore(Box::new(self.request(job, target)?));
        match self.links.to(target).request(request).await? {
            Reply::Planned(plan) => Ok(plan),
            other => Err(unexpected(target, &other)),
        }
    }

    async fn restore(&self, job: &RestoreJob, target: &str) -> Result<RestoreSummary, NodeError> {
        let plan = planned(job, target)?;
        let link = self.links.to(target);
        let request = Request::Restore(Box::new(self.request(job, target)?));
        match link.request_repeatedly(directory(plan, target)?, &request).await {
            Ok(Reply::Restored(summary)) => {
                link.completed(summary.bytes);
                Ok(summary)
            }
            Ok(other) => Err(unexpected(target, &other)),
            Err(_cut) if self.links.cut.is_made() => Err(link.stopped("fetched")),
            Err(error) => Err(error),
        }
    }

    /// What remains of a restore that was cut, in words.
    async fn undo(&self, job: &RestoreJob, target: &str) -> Result<Option<String>, NodeError> {
        let request = Request::UndoRestore(Box::new(self.request(job, target)?));
        let lock = directory(planned(job, target)?, target)?;
        let undone = timeout(PLAN_LIMIT, self.links.to(target).request_repeatedly(lock, &request)).await;
        match undone.unwrap_or_else(|_elapsed| Err(too_slow(target)))? {
            Reply::Undone { left } => Ok(left),
            other => Err(unexpected(target, &other)),
        }
    }

    fn request(&self, job: &RestoreJob, target: &str) -> Result<RestoreRequest, NodeError> {
        let node = job.nodes.get(target);
        let node = node.ok_or_else(|| permanent(format!("{target} is not part of this job")))?;
        Ok(RestoreRequest {
            store: self.grant.clone(),
            cluster_id: job.cluster_id.clone(),
            backup_id: job.backup_id,
            manifest: node.manifest.clone(),
            host_id: node.host_id,
            target: target.to_owned(),
            way: match &job.copy {
                Some(living) => RestoreWay::Copy { originals: originals(job), living: living.clone() },
                None if node.replaces.is_some() => RestoreWay::Replacement,
                None => RestoreWay::InPlace,
            },
            cassandra_yaml: self.cassandra_yaml.clone(),
            scope: if job.whole_cluster { RestoreScope::Cluster } else { RestoreScope::Nodes },
            move_aside: job.move_aside.then(|| job.job_id.clone()),
        })
    }
}

/// Every address that the original of a copy is known by.
fn originals(job: &RestoreJob) -> Vec<String> {
    let backed_up = job.nodes.values().filter_map(|node| node.replaces.as_ref());
    backed_up.chain(&job.others).cloned().collect()
}

async fn bounded(
    target: &str,
    plan: impl Future<Output = Result<RestorePlan, NodeError>>,
) -> Result<RestorePlan, NodeError> {
    timeout(PLAN_LIMIT, plan).await.unwrap_or_else(|_elapsed| {
        let message = format!("{target}: the plan did not end within {} s", PLAN_LIMIT.as_secs());
        Err(NodeError::new(NodeErrorKind::Transient, message))
    })
}

fn planned<'a>(job: &'a RestoreJob, target: &str) -> Result<&'a RestorePlan, NodeError> {
    let plan = job.nodes.get(target).and_then(|node| node.plan.as_ref());
    plan.ok_or_else(|| permanent(format!("{target} has no plan")))
}

fn too_slow(target: &str) -> NodeError {
    let message = format!("{target}: the restore was not undone within {} s", PLAN_LIMIT.as_secs());
    NodeError::new(NodeErrorKind::Transient, message)
}

fn directory<'a>(plan: &'a RestorePlan, target: &str) -> Result<&'a str, NodeError> {
    let first = plan.data_directories.first().map(String::as_str);
    first.ok_or_else(|| permanent(format!("{target}: the plan names no data directory")))
}
