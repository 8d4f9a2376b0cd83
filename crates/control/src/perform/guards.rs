//! The guards of a freeze: one beside the server, and two on nodes that reach every instance.

use std::sync::Arc;

use cassy_agent_protocol::{GuardOrder, Reply, Request};
use futures::future::join_all;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::unexpected;
use crate::applications::{Applications, Guard};
use crate::job::Failure;
use crate::link::Link;
use crate::nodes::NodeError;

/// Guards on nodes, beside the one next to the server.
const ON_NODES: usize = 2;
/// Nodes that are asked at most.
const ASKED: usize = 6;
/// For all nodes.
const ARM_LIMIT: Duration = Duration::from_secs(5);
/// The part of the longest pause that may be spent on it, as a guard counts from its arming.
const ARM_PART: u32 = 4;
const RELEASE_LIMIT: Duration = Duration::from_secs(15);

/// All that are armed. Dropped, they unpause.
pub(crate) struct Guards {
    beside: Box<dyn Guard>,
    on_nodes: Vec<Arc<Link>>,
    /// Those that did not say in time that they are armed, and may be all the same.
    uncertain: Vec<Arc<Link>>,
    refused: Vec<String>,
}

impl Guards {
    /// How long nodes may take to arm theirs.
    pub(super) fn time_to_arm(longest: Duration) -> Duration {
        ARM_LIMIT.min(longest / ARM_PART)
    }

    /// Without the one beside the server nothing is paused; those on nodes may be missing, and are named then.
    pub(super) async fn start(
        applications: &dyn Applications,
        links: &[Arc<Link>],
        order: &GuardOrder,
        within: Duration,
    ) -> Result<Self, Failure> {
        let (beside, armed) = futures::join!(applications.guard(order), Armed::on(links, order, within));
        let Armed { on_nodes, uncertain, refused } = armed;
        match beside {
            Ok(beside) => Ok(Self { beside, on_nodes, uncertain, refused }),
            Err(failure) => {
                released(on_nodes.iter().chain(&uncertain)).await;
                Err(failure)
            }
        }
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

    /// Everybody goes on: nothing is left to do for them. Answers those that may have unpaused before.
    pub(crate) async fn release(self) -> Vec<String> {
        // One that never said that it is armed may have been refused: nothing is known by its answer.
        let (beside, mut alarmed, _) = futures::join!(
            self.beside.release(),
            released(self.on_nodes.iter()),
            released(self.uncertain.iter())
        );
        alarmed.extend(beside.err().map(|why| format!("beside the server: {why}")));
        for guard in &alarmed {
            tracing::warn!(guard, "was not released as it was armed");
        }
        alarmed
    }
}

/// The guards on nodes.
#[derive(Default)]
struct Armed {
    on_nodes: Vec<Arc<Link>>,
    uncertain: Vec<Arc<Link>>,
    refused: Vec<String>,
}

impl Armed {
    async fn on(links: &[Arc<Link>], order: &GuardOrder, within: Duration) -> Self {
        let end = Instant::now() + within;
        let mut all = Self::default();
        let mut candidates = links.iter().take(ASKED).peekable();
        while all.on_nodes.len() < ON_NODES && candidates.peek().is_some() {
            let asked: Vec<_> = candidates.by_ref().take(ON_NODES - all.on_nodes.len()).collect();
            let armed = join_all(asked.iter().map(|link| timeout_at(end, arm(link, order)))).await;
            for (link, armed) in asked.into_iter().zip(armed) {
                match armed {
                    Ok(Ok(())) => all.on_nodes.push(Arc::clone(link)),
                    Ok(Err(error)) => all.refused.push(error.message),
                    Err(_elapsed) => {
                        all.refused.push(format!("{}: no guard in time", link.address()));
                        all.uncertain.push(Arc::clone(link));
                    }
                }
            }
        }
        all
    }
}

/// Lets these go; answers those that were not there any more as they had been armed.
async fn released(links: impl Iterator<Item = &Arc<Link>>) -> Vec<String> {
    let released = links.map(|link| async move {
        let address = link.address();
        match timeout(RELEASE_LIMIT, link.request_to_running(Request::ReleaseGuard)).await {
            Ok(Some(Ok(_released))) => None,
            Ok(Some(Err(error))) => Some(format!("{address}: {}", error.message)),
            Ok(None) => Some(format!("{address}: its agent is gone")),
            Err(_elapsed) => Some(format!("{address}: no answer")),
        }
    });
    join_all(released).await.into_iter().flatten().collect()
}

async fn arm(link: &Link, order: &GuardOrder) -> Result<(), NodeError> {
    match link.request(Request::Guard(order.clone())).await? {
        Reply::Done => Ok(()),
        other => Err(unexpected(link.address(), &other)),
    }
}
