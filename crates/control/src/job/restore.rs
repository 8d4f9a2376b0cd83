//! A restore: of nodes, each from its own backup (type 2), or of a whole cluster to one instant (type 1).
//!
//! [`RestoreStage::Plan`] changes nothing, and whatever it finds in the way refuses the whole request. From
//! then on a failing node fails alone, and a second request resumes it.

use std::sync::Arc;

use cassy_agent_protocol::{MovedAside, ParentManifest, RestorePlan, RestoreSummary};
use cassy_backup_format::{BackupId, ClusterId, HostId};
use serde::{Deserialize, Serialize};

use super::{Cancellation, Failure, HistoryEntry, Nodes, Outcome, Refusal, listed};
use crate::operations::Status;

/// Stored before it starts; every stage may be performed twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStage {
    /// Ask every node what would be done and what stands in the way.
    Plan,
    /// Download, verify, place.
    Restore,
    /// The end.
    Finished,
}

impl RestoreStage {
    /// Every stage in which something happens, in order.
    pub const ALL: [Self; 2] = [Self::Plan, Self::Restore];

    /// The name in the database and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Restore => "restore",
            Self::Finished => "finished",
        }
    }
}

/// The job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreJob {
    /// The job's id; a backup may be restored many times.
    pub job_id: String,
    /// The backup.
    pub backup_id: BackupId,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// All nodes go to one instant (type 1), and not each by itself (type 2).
    #[serde(default)]
    pub whole_cluster: bool,
    /// Of a copy, under new addresses only: the nodes of the original cluster that are alive.
    #[serde(default)]
    pub copy: Option<Vec<String>>,
    /// Of a whole cluster: addresses that are registered as nodes of it, and are not of the backup.
    #[serde(default)]
    pub others: Vec<String>,
    /// What is in the way on the targets is moved aside.
    #[serde(default)]
    pub move_aside: bool,
    /// Where it is.
    pub stage: RestoreStage,
    /// By address; stored one by one.
    #[serde(skip)]
    pub nodes: Nodes<RestoreNode>,
    /// Set at the end.
    pub outcome: Option<Outcome>,
    /// What the operator is told with the answer: it was known before the job was made.
    #[serde(default)]
    pub told: Vec<String>,
    /// Set when it is cancelled.
    #[serde(default)]
    pub cancelled: Option<Cancellation>,
}

/// One node's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreNode {
    /// Whose data it is.
    pub host_id: HostId,
    /// The address of that node, when the target has another one and takes its place.
    pub replaces: Option<String>,
    /// The node manifest.
    pub manifest: ParentManifest,
    /// What the node says would be done.
    pub plan: Option<RestorePlan>,
    /// What was done.
    pub restored: Option<RestoreSummary>,
    /// Why this node's part failed.
    pub failure: Option<Failure>,
    /// What was cut of it, when it was cancelled: from then on it is being undone.
    #[serde(default)]
    pub cut: Option<String>,
    /// The node was seen to be as it was before, although its part has failed.
    #[serde(default)]
    pub unchanged: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum RestoreEvent {
    /// The job was just made.
    Created,
    /// The server started and found the job unfinished.
    Resumed,
    /// Nothing more is to begin, and what may be cut is being stopped.
    Cancelled,
    /// A node has answered its plan.
    Planned(String, RestorePlan),
    /// A node is restored.
    Restored(String, RestoreSummary),
    /// What was begun on a node is undone; or what remains of it, in words.
    Undone(String, Option<String>),
    /// A node has failed in the current stage.
    NodeFailed(String, Failure),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreEffect {
    /// Ask the node for its plan.
    Plan(String),
    /// Restore the node.
    Restore(String),
    /// Take back what was begun there and cut, as long as nothing was placed.
    Undo(String),
}

impl RestoreJob {
    /// What the history says; empty until the request is accepted.
    pub fn history(&self) -> Vec<HistoryEntry> {
        if self.stage == RestoreStage::Plan || matches!(self.outcome, Some(Outcome::Refused(_))) {
            return Vec::new();
        }
        self.nodes.iter().map(|(target, node)| entry(target, node)).collect()
    }

    /// What the operator should know before the work starts.
    pub fn warnings(&self) -> Vec<String> {
        let of_node = |node: &RestoreNode| {
            let plan = node.plan.clone().unwrap_or_default();
            let moved = plan.moved_aside.iter().map(|moved| {
                let MovedAside { directory, to, files, bytes } = moved;
                format!("{files} files in {directory} ({bytes} bytes) are moved to {to}")
            });
            moved.chain(plan.warnings.iter().cloned()).collect::<Vec<_>>()
        };
        let nodes = self.nodes.iter();
        nodes
            .flat_map(|(target, node)| of_node(node).into_iter().map(move |w| format!("{target}: {w}")))
            .collect()
    }

    /// The next job, and what to do.
    #[must_use]
    pub fn step(mut self, event: RestoreEvent) -> (Self, Vec<RestoreEffect>) {
        match (self.stage, event) {
            (RestoreStage::Finished, _) => (self, Vec::new()),
            (_, RestoreEvent::Created) => {
                let effects = self.nodes.keys().cloned().map(RestoreEffect::Plan).collect();
                (self, effects)
            }
            (_, RestoreEvent::Cancelled) => self.cancel(),
            (RestoreStage::Plan, RestoreEvent::Resumed) if self.cancelled.is_some() => self.cut_in_plan(),
            (RestoreStage::Plan, RestoreEvent::Resumed) => self.never_accepted(),
            (RestoreStage::Restore, RestoreEvent::Resumed) => {
                self.cut_what_was_open();
                let effects = self.restore_effects();
                (self, effects)
            }
            (stage, RestoreEvent::Planned(target, plan)) => {
                let Some(node) = self.open(&target, stage, RestoreStage::Plan) else {
                    return (self, Vec::new());
                };
                node.plan = Some(plan);
                self.planned()
            }
            (stage, RestoreEvent::Restored(target, summary)) => {
                let Some(node) = self.open(&target, stage, RestoreStage::Restore) else {
                    return (self, Vec::new());
                };
                node.restored = Some(summary);
                self.restored()
            }
            (_, RestoreEvent::Undone(target, left)) => self.undone(&target, left),
            (RestoreStage::Restore, RestoreEvent::NodeFailed(target, failure))
                if self.cancelled.is_some() =>
            {
                self.failed_while_cancelled(target, &failure)
            }
            (stage, RestoreEvent::NodeFailed(target, failure)) => {
                let Some(node) = self.open(&target, stage, stage) else {
                    return (self, Vec::new());
                };
                node.failure = Some(failure);
                if stage == RestoreStage::Plan { self.planned() } else { self.restored() }
            }
        }
    }

    /// The node, if this stage still waits for it.
    fn open(&mut self, target: &str, now: RestoreStage, wanted: RestoreStage) -> Option<&mut RestoreNode> {
        let node = Arc::make_mut(self.nodes.get_mut(target)?);
        let waiting = match wanted {
            RestoreStage::Plan => node.plan.is_none(),
            _ => node.restored.is_none(),
        };
        (now == wanted && waiting && node.failure.is_none()).then_some(node)
    }

    /// The client never heard that its request was accepted, so nothing is done behind its back.
    fn never_accepted(mut self) -> (Self, Vec<RestoreEffect>) {
        self.outcome = Some(Outcome::Refused(vec![Refusal {
            target: None,
            unavailable: true,
            message: "the server was restarted before the restore was accepted".to_owned(),
            hint: Some("send the request again".to_owned()),
        }]));
        self.stage = RestoreStage::Finished;
        (self, Vec::new())
    }

    fn planned(mut self) -> (Self, Vec<RestoreEffect>) {
        if self.nodes.values().any(|n| n.plan.is_none() && n.failure.is_none()) {
            return (self, Vec::new());
        }
        if self.cancelled.is_some() {
            return self.cut_in_plan();
        }
        let refusals: Vec<_> = self.nodes.iter().flat_map(|(target, node)| refusals(target, node)).collect();
        if !refusals.is_empty() {
            self.outcome = Some(Outcome::Refused(refusals));
            self.stage = RestoreStage::Finished;
            return (self, Vec::new());
        }
        self.stage = RestoreStage::Restore;
        let effects = self.restore_effects();
        (self, effects)
    }

    fn restore_effects(&self) -> Vec<RestoreEffect> {
        let open = |node: &RestoreNode| node.restored.is_none() && node.failure.is_none();
        self.nodes
            .iter()
            .filter(|(_, node)| open(node))
            .map(|(target, node)| match node.cut {
                None => RestoreEffect::Restore(target.clone()),
                Some(_) => RestoreEffect::Undo(target.clone()),
            })
            .collect()
    }

    fn restored(mut self) -> (Self, Vec<RestoreEffect>) {
        if self.nodes.values().any(|n| n.restored.is_none() && n.failure.is_none()) {
            return (self, Vec::new());
        }
        self.warn_of_a_mixture();
        let failed = self.nodes.values().any(|n| n.failure.is_some());
        self.outcome = Some(if failed { Outcome::Failed } else { Outcome::Completed });
        self.stage = RestoreStage::Finished;
        (self, Vec::new())
    }
}

/// What cancelling makes of it.
impl RestoreJob {
    fn cancel(mut self) -> (Self, Vec<RestoreEffect>) {
        if self.cancelled.is_none() {
            self.cancelled = Some(Cancellation {
                stage: self.stage.name().to_owned(),
                finished: self.nodes.values().filter(|node| node.restored.is_some()).count(),
                nodes: self.nodes.len(),
            });
        }
        (self, Vec::new())
    }

    /// Nothing was touched; but unlike a refusal it is told in the history.
    fn cut_in_plan(mut self) -> (Self, Vec<RestoreEffect>) {
        let Some(cancelled) = &self.cancelled else { return (self, Vec::new()) };
        for node in self.nodes.values_mut().map(Arc::make_mut) {
            node.failure = Some(cancelled.failure(RestoreStage::Plan.name(), None));
            node.unchanged = true;
        }
        self.outcome = Some(Outcome::Failed);
        self.stage = RestoreStage::Finished;
        (self, Vec::new())
    }

    /// Of a cancelled restore nothing begins anew after a restart.
    fn cut_what_was_open(&mut self) {
        if self.cancelled.is_none() {
            return;
        }
        let open = |node: &&mut Arc<RestoreNode>| node.restored.is_none() && node.failure.is_none();
        for node in self.nodes.values_mut().filter(open).map(Arc::make_mut) {
            node.cut.get_or_insert_with(|| "the server was restarted meanwhile".to_owned());
        }
    }

    /// The restore of a node was cut, and is undone; or it could not be undone.
    fn failed_while_cancelled(mut self, target: String, failure: &Failure) -> (Self, Vec<RestoreEffect>) {
        let stage = self.stage;
        let Some(node) = self.open(&target, stage, RestoreStage::Restore) else { return (self, Vec::new()) };
        if node.cut.is_none() {
            node.cut = Some(failure.text());
            return (self, vec![RestoreEffect::Undo(target)]);
        }
        let left = format!(
            "what was staged could not be removed, and Cassandra does not start until the same restore is called again \
             (which can be cancelled as well): {}",
            failure.text()
        );
        self.undone(&target, Some(left))
    }

    /// Of a whole cluster that was cancelled halfway, some nodes are of the backup's instant, and others are not.
    fn warn_of_a_mixture(&mut self) {
        let done = self.nodes.iter().filter(|(_, node)| node.restored.is_some());
        let done: Vec<_> = done.map(|(target, _)| target.clone()).collect();
        if self.cancelled.is_none() || !self.whole_cluster || done.is_empty() {
            return;
        }
        let hint = format!(
            "start no node of the cluster: {} are of the instant of the backup already and the others are not; call the \
             same restore again, or see to them by hand",
            listed(&done)
        );
        for failure in self.nodes.values_mut().filter_map(|node| Arc::make_mut(node).failure.as_mut()) {
            failure.hint = Some(hint.clone());
        }
    }

    fn undone(mut self, target: &str, left: Option<String>) -> (Self, Vec<RestoreEffect>) {
        let (stage, cancelled) = (self.stage, self.cancelled.clone());
        let (Some(cancelled), Some(node)) = (cancelled, self.open(target, stage, RestoreStage::Restore))
        else {
            return (self, Vec::new());
        };
        let cut = node.cut.clone().unwrap_or_default();
        node.unchanged = left.is_none();
        let left = left.unwrap_or_else(|| "the node is as it was before".to_owned());
        node.failure = Some(cancelled.failure(RestoreStage::Restore.name(), Some(&format!("{cut}; {left}"))));
        self.restored()
    }
}

fn refusals(target: &str, node: &RestoreNode) -> Vec<Refusal> {
    if let Some(failure) = &node.failure {
        return vec![failure.refusal(target)];
    }
    let findings = node.plan.iter().flat_map(|plan| &plan.findings);
    findings
        .map(|finding| Refusal {
            target: Some(target.to_owned()),
            unavailable: false,
            message: finding.clone(),
            hint: None,
        })
        .collect()
}

fn entry(target: &str, node: &RestoreNode) -> HistoryEntry {
    let (status, message) = match (&node.failure, &node.restored) {
        (Some(failure), _) => (Status::Failed, failure.text()),
        (None, Some(summary)) => (Status::Completed, summary.notes.join("; ")),
        (None, None) => (Status::Started, String::new()),
    };
    HistoryEntry { target: target.to_owned(), status, message }
}

#[cfg(test)]
mod tests;
