//! Who wrote while the applications were paused: what each coordinator has counted, before and after.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::Ready;
use crate::job::{Failure, listed};
use crate::nodes::{ClientActivity, NodeError, NodeErrorKind};

/// Between two looks at a node that is at work for clients.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// Looks for two equal counts of what a node writes by itself; where it writes faster, nothing can be told apart.
const LOOKS: u32 = 50;

/// What a node had counted at one instant.
pub(super) struct Counted {
    writes: u64,
    /// Of them, those that the node made by itself.
    system_writes: u64,
}

impl Counted {
    /// `known` is what the node wrote by itself until now: when it is the same before and after the others are counted,
    /// all of it is of one instant.
    pub(super) async fn look(node: &mut Ready, known: u64, deadline: Instant) -> Result<Self, NodeError> {
        let mut known = known;
        for _ in 0..LOOKS {
            let writes = look(node, deadline).await?.writes;
            let system_writes = system_writes(node, deadline).await?;
            if system_writes == known {
                return Ok(Self { writes, system_writes });
            }
            known = system_writes;
        }
        let message = format!(
            "{}: it writes to keyspaces of the system all the time, so its clients' writes cannot be told apart",
            node.target
        );
        let hint = "wait until the repair has ended, or lower the probability of traces (nodetool settraceprobability)";
        Err(NodeError { hint: Some(hint.to_owned()), ..NodeError::new(NodeErrorKind::Permanent, message) })
    }

    /// The clients' writes since then, when nothing that had begun before `end` can still be under way: the node was
    /// seen idle, or a write timeout has passed. What a node writes to keyspaces of the system by itself does not count.
    pub(super) async fn writes_since(
        &self,
        node: &mut Ready,
        end: Instant,
        deadline: Instant,
    ) -> Result<u64, NodeError> {
        loop {
            let is_late = end.elapsed() >= node.write_timeout;
            let activity = look(node, deadline).await?;
            let clients = match activity.writes == self.writes {
                true => 0,
                false => {
                    let now = Self::look(node, self.system_writes, deadline).await?;
                    let system = now.system_writes.abs_diff(self.system_writes);
                    now.writes.abs_diff(self.writes).abs_diff(system)
                }
            };
            if is_late || clients > 0 || activity.tasks == 0 {
                return Ok(clients);
            }
            sleep(LOOK_PAUSE).await;
        }
    }
}

pub(super) async fn look(node: &mut Ready, deadline: Instant) -> Result<ClientActivity, NodeError> {
    let looked = timeout_at(deadline, node.cassandra.client_activity()).await;
    looked.unwrap_or_else(|_elapsed| Err(not_read_in_time(&node.target)))
}

pub(super) async fn system_writes(node: &mut Ready, deadline: Instant) -> Result<u64, NodeError> {
    let counted = timeout_at(deadline, node.cassandra.system_writes(&node.schema.tables)).await;
    counted.unwrap_or_else(|_elapsed| Err(not_read_in_time(&node.target)))
}

fn not_read_in_time(target: &str) -> NodeError {
    let message = format!("{target}: its write counters were not read in time");
    NodeError::new(NodeErrorKind::Transient, message)
}

/// Why the snapshots are not of one instant, if somebody wrote.
pub(super) fn written(ready: &[Ready], writes: &[Result<u64, NodeError>]) -> Option<Failure> {
    let mut writers = Vec::new();
    for (node, writes) in ready.iter().zip(writes) {
        match writes {
            Ok(0) => {}
            Ok(writes) => writers.push(format!("{} ({writes})", node.target)),
            Err(error) => return Some(error.clone().into()),
        }
    }
    (!writers.is_empty()).then(|| Failure {
        unavailable: false,
        message: format!(
            "clients wrote while the applications were paused; writes by coordinator: {}",
            listed(&writers)
        ),
        hint: Some(
            "somebody writes whom the SRV record does not name: nodetool clientstats --all on these nodes shows who"
                .to_owned(),
        ),
    })
}
