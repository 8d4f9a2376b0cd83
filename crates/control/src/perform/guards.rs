//! The guards of a freeze: one beside the server, and two on nodes that reach every instance.

use cassy_agent_protocol::{GuardOrder, Reply, Request};
use futures::future::join_all;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::{Links, unexpected};
use crate::applications::{Applications, Guard};
use crate::job::{BackupJob, Failure};
use crate::nodes::NodeError;

/// Guards on nodes, beside the one next to the server.
const ON_NODES: usize = 2;
/// Nodes that are asked at most.
const ASKED: usize = 6;
/// For all nodes: it is part of the longest pause, as a guard counts from its arming.
const ARM_LIMIT: Duration = Duration::from_secs(5);
const RELEASE_LIMIT: Duration = Duration::from_secs(15);

/// All that are armed. Dropped, they unpause.
pub(super) struct Guards<'a> {
    beside: Box<dyn Guard>,
    links: &'a Links,
    on_nodes: Vec<String>,
    refused: Vec<String>,
}

impl<'a> Guards<'a> {
    /// Without the one beside the server nothing is paused; those on nodes may be missing, and are named then.
    pub(super) async fn start(
        applications: &dyn Applications,
        links: &'a Links,
        job: &BackupJob,
        order: &GuardOrder,
    ) -> Result<Self, Failure> {
        let beside = applications.guard(order).await?;
        let (mut on_nodes, mut refused) = (Vec::new(), Vec::new());
        let end = Instant::now() + ARM_LIMIT;
        let mut candidates = job.nodes.keys().take(ASKED).peekable();
        while on_nodes.len() < ON_NODES && candidates.peek().is_some() {
            let asked: Vec<_> = candidates.by_ref().take(ON_NODES - on_nodes.len()).collect();
            let armed = join_all(asked.iter().map(|target| timeout_at(end, arm(links, target, order)))).await;
            for (target, armed) in asked.into_iter().zip(armed) {
                match armed {
                    Ok(Ok(())) => on_nodes.push(target.clone()),
                    Ok(Err(error)) => refused.push(error.message),
                    Err(_elapsed) => refused.push(format!("{target}: no guard in time")),
                }
            }
        }
        Ok(Self { beside, links, on_nodes, refused })
    }

    /// What the operator should know of those that are missing.
    pub(super) fn missing(&self) -> Option<String> {
        let are_missing = self.on_nodes.len() < ON_NODES && !self.refused.is_empty();
        are_missing.then(|| {
            format!(
                "guards on {} nodes instead of {ON_NODES}: {}",
                self.on_nodes.len(),
                self.refused.join("; ")
            )
        })
    }

    /// Everybody goes on: nothing is left to do for them.
    pub(super) async fn release(self) {
        let released = self.on_nodes.iter().map(|target| async move {
            let released = timeout(RELEASE_LIMIT, self.links.to(target).request(Request::ReleaseGuard)).await;
            if !matches!(released, Ok(Ok(_))) {
                tracing::warn!(node = target, "its guard was not released, and unpauses once more");
            }
        });
        join_all(released).await;
        self.beside.release().await;
    }
}

async fn arm(links: &Links, target: &str, order: &GuardOrder) -> Result<(), NodeError> {
    match links.to(target).request(Request::Guard(order.clone())).await? {
        Reply::Done => Ok(()),
        other => Err(unexpected(target, &other)),
    }
}
