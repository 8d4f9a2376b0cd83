//! A backup. Up to and including [`BackupStage::Pin`] nothing is touched, and one failing node refuses the whole request.
//!
//! In types 2 and 3 each node is a restore unit of its own: from then on all nodes go from stage to stage by themselves,
//! a slow or failing node holds none of the others, and its row is final as soon as nothing of its part is left to do.
//! In type 1 they wait for each other ([`cluster_wide`]).

mod cancel;
pub mod cluster_wide;
mod node;
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use cassy_agent_protocol::{ParentManifest, SnapshotTag, UploadSummary};
use cassy_backup_format::{BackupId, ClusterId};
use serde::{Deserialize, Serialize};

use super::{Cancellation, Failure, HistoryEntry, Nodes, Outcome, Refusal};
use cluster_wide::{ClusterWide, Frozen, effect_together};
pub use node::{BackupNode, BackupNodeFacts};
pub use stage::BackupStage;

/// The job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupJob {
    /// The backup, which is also the job's id.
    pub backup_id: BackupId,
    /// For an increment: the snapshot that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BackupId>,
    /// For a cluster-wide backup: what it has of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_wide: Option<ClusterWide>,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its own name.
    pub cluster_name: String,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// That of the node that is least far.
    pub stage: BackupStage,
    /// By address; stored one by one.
    #[serde(skip)]
    pub nodes: Nodes<BackupNode>,
    /// Whether a failing check still refuses the request: before anything is touched, and before a restart.
    pub refusable: bool,
    /// Whether every node has passed its checks.
    pub accepted: bool,
    /// Why the cluster manifest was not written.
    pub commit_failure: Option<Failure>,
    /// Set at the end.
    pub outcome: Option<Outcome>,
    /// What of the job's own could not be cleared.
    pub notes: Vec<String>,
    /// What the operator is told with the answer: it was known before the job was made.
    #[serde(default)]
    pub told: Vec<String>,
    /// Set when it is cancelled.
    #[serde(default)]
    pub cancelled: Option<Cancellation>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum BackupEvent {
    /// The job was just made.
    Created,
    /// The server started and found the job unfinished.
    Resumed,
    /// Nothing more is to begin, and what may be cut is being stopped.
    Cancelled,
    /// A node has finished this stage.
    NodeDone(BackupStage, String, NodeDone),
    /// A node has failed in this stage.
    NodeFailed(BackupStage, String, Failure),
    /// The parents are chosen and pinned.
    Pinned(BTreeMap<String, ParentManifest>),
    /// They are not.
    PinFailed(Failure),
    /// All snapshots of a cluster-wide backup were tried, and the applications are unpaused.
    Frozen(Box<Frozen>),
    /// It did not come to snapshots.
    FreezeFailed(Failure),
    /// The cluster manifest is durable, or there was nothing to write.
    Committed,
    /// It is not.
    CommitFailed(Failure),
    /// The pin is removed; what of the job's own could not be.
    Unpinned(Vec<String>),
}

/// What a node brought back from a stage.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeDone {
    /// From [`BackupStage::Prepare`].
    Prepared(Box<BackupNodeFacts>),
    /// From a stage without a result.
    Done,
    /// From [`BackupStage::Snapshot`]: the tables that the snapshot holds.
    Snapshotted(Vec<(String, String)>),
    /// From [`BackupStage::Upload`].
    Uploaded(UploadSummary),
    /// From [`BackupStage::Clear`]: what could not be cleared.
    Cleared(Vec<String>),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEffect {
    /// Perform the stage on the node.
    Node(BackupStage, String),
    /// Choose parents and pin them.
    Pin,
    /// Pause the applications, take the snapshots of all nodes at once, prove that they are of one instant, unpause.
    Freeze,
    /// Write the cluster manifest.
    Commit,
    /// Remove the pin and the probe.
    Unpin,
}

type Effects = Vec<BackupEffect>;

impl BackupJob {
    /// The addresses that have not failed.
    pub fn alive(&self) -> impl Iterator<Item = (&String, &BackupNode)> {
        self.nodes.iter().filter(|(_, node)| node.failure.is_none()).map(|(target, node)| (target, &**node))
    }

    /// The tag of the current attempt's snapshot of a node.
    pub fn tag(&self, node: &BackupNode) -> SnapshotTag {
        SnapshotTag::of(self.backup_id, node.attempt)
    }

    /// The tags of all attempts of a node so far.
    pub fn tags(&self, node: &BackupNode) -> Vec<SnapshotTag> {
        (1..=node.attempt).map(|attempt| SnapshotTag::of(self.backup_id, attempt)).collect()
    }

    /// Whether the request can be answered. A refusal waits until the job has let go of its nodes, so that the same
    /// request may come again at once.
    pub fn is_answerable(&self) -> bool {
        if matches!(self.outcome, Some(Outcome::Refused(_))) {
            return self.stage == BackupStage::Finished;
        }
        // A cluster-wide backup that has failed is answered as such, with its rows.
        let will_fail = self.is_cluster_wide() && self.nodes.values().any(|node| node.failure.is_some());
        let is_under_way = self.accepted && self.nodes.values().all(|node| node.is_past_the_snapshot());
        self.outcome.is_some() || (is_under_way && !will_fail)
    }

    /// Whether nothing of a node's part is left to do.
    pub fn is_done(&self, node: &BackupNode) -> bool {
        node.stage == if self.is_cluster_wide() { BackupStage::Unpin } else { BackupStage::Commit }
    }

    /// What the history says; empty until the request is accepted.
    pub fn history(&self) -> Vec<HistoryEntry> {
        if !self.accepted {
            return Vec::new();
        }
        self.nodes.iter().map(|(target, node)| node.entry(target, self)).collect()
    }

    /// The next job, and what to do.
    #[must_use]
    pub fn step(mut self, event: BackupEvent) -> (Self, Effects) {
        if self.stage == BackupStage::Finished {
            return (self, Vec::new());
        }
        let effects = match event {
            BackupEvent::Created => self.effects(),
            BackupEvent::Resumed => self.resume(),
            BackupEvent::Cancelled => self.cancel(),
            BackupEvent::NodeDone(stage, target, done) => self.node_done(stage, &target, done),
            BackupEvent::NodeFailed(stage, target, failure) => {
                let failure = self.as_cut(stage, failure);
                self.node_failed(stage, &target, failure)
            }
            BackupEvent::Pinned(parents) => self.pinned(parents),
            BackupEvent::PinFailed(failure) => self.pin_failed(failure),
            BackupEvent::Frozen(frozen) => self.frozen(*frozen),
            BackupEvent::FreezeFailed(failure) if self.stage == BackupStage::Snapshot => {
                self.abandon(&self.as_cut(BackupStage::Snapshot, failure))
            }
            BackupEvent::FreezeFailed(_) => Vec::new(),
            BackupEvent::Committed if self.is_cluster_wide() => self.clear_together(),
            BackupEvent::CommitFailed(failure) if self.is_cluster_wide() => {
                self.commit_failure = Some(failure.clone());
                self.abandon(&failure)
            }
            BackupEvent::Committed => self.enter(BackupStage::Unpin),
            BackupEvent::CommitFailed(failure) => {
                self.commit_failure = Some(failure);
                self.enter(BackupStage::Unpin)
            }
            BackupEvent::Unpinned(left) => self.finish(left),
        };
        (self, effects)
    }

    /// All that has to be done now, from the start or after a restart.
    fn effects(&self) -> Effects {
        match self.stage {
            BackupStage::Pin => vec![BackupEffect::Pin],
            BackupStage::Commit => vec![BackupEffect::Commit],
            BackupStage::Unpin => vec![BackupEffect::Unpin],
            BackupStage::Finished => Vec::new(),
            BackupStage::Snapshot if self.is_cluster_wide() => vec![BackupEffect::Freeze],
            _ => self.nodes.iter().filter_map(|(target, node)| self.effect(target, node)).collect(),
        }
    }

    /// What a node's stage wants; nothing when it waits for the job or is done.
    fn effect(&self, target: &str, node: &BackupNode) -> Option<BackupEffect> {
        if self.is_cluster_wide() {
            return effect_together(target, node);
        }
        let waits = matches!(node.stage, BackupStage::Pin | BackupStage::Commit);
        (!waits).then(|| BackupEffect::Node(node.stage, target.to_owned()))
    }

    fn enter(&mut self, stage: BackupStage) -> Effects {
        self.stage = stage;
        self.effects()
    }

    /// What was known up to the snapshot is gone with the agents, so those nodes go back to the start with a new
    /// attempt: a tag is never adopted. Later stages go on where they were.
    fn resume(&mut self) -> Effects {
        self.refusable = false;
        if let Some(cancelled) = self.cancelled.clone() {
            return self.resume_cancelled(&cancelled);
        }
        for node in self.nodes.values_mut() {
            if node.failure.is_none() && node.stage <= BackupStage::Snapshot {
                let node = Arc::make_mut(node);
                node.attempt += 1;
                node.stage = BackupStage::Prepare;
            }
        }
        self.settle();
        self.effects()
    }

    /// The node, if it is still in this stage.
    fn open(&mut self, stage: BackupStage, target: &str) -> Option<&mut BackupNode> {
        self.nodes.get_mut(target).filter(|node| node.stage == stage).map(Arc::make_mut)
    }

    fn node_done(&mut self, stage: BackupStage, target: &str, done: NodeDone) -> Effects {
        if let Some(cancelled) = self.cancelled.as_ref().filter(|_| stage < BackupStage::Upload) {
            let failure = cancelled.failure(stage.name(), None);
            self.keep_facts(stage, target, done);
            return self.node_failed(stage, target, failure);
        }
        let (is_increment, accepted) = (self.base.is_some(), self.accepted);
        let together = self.is_cluster_wide();
        let Some(node) = self.open(stage, target) else { return Vec::new() };
        node.stage = match stage.next(together) {
            // Only the first time does it wait for the others.
            BackupStage::Pin if accepted => BackupStage::List,
            next => next,
        };
        if is_increment && node.stage == BackupStage::List {
            node.stage = BackupStage::Flush;
        }
        match done {
            NodeDone::Prepared(facts) => node.facts = Some(facts),
            NodeDone::Snapshotted(tables) => node.tables = tables,
            NodeDone::Uploaded(summary) => {
                node.failure = node::corrupt(&summary);
                node.tables = Vec::new();
                node.uploaded = Some(summary);
            }
            NodeDone::Cleared(left) => node.notes.extend(left),
            NodeDone::Done => {}
        }
        self.advance(target)
    }

    fn node_failed(&mut self, stage: BackupStage, target: &str, failure: Failure) -> Effects {
        let (accepted, together) = (self.accepted, self.is_cluster_wide());
        let Some(node) = self.open(stage, target) else { return Vec::new() };
        if stage == BackupStage::Clear {
            node.notes.push(failure.text());
            node.stage = stage.next(together);
        } else {
            node.failure = Some(failure);
            node.stage = match (accepted, together) {
                (false, _) => BackupStage::Pin,
                (true, true) => Self::barrier_after(stage),
                (true, false) => BackupStage::Clear,
            };
        }
        self.advance(target)
    }

    /// What follows when a node has left a stage.
    fn advance(&mut self, target: &str) -> Effects {
        let before = self.stage;
        self.settle();
        if self.accepted && self.is_cluster_wide() {
            return self.advance_together(target);
        }
        if self.accepted {
            if self.stage == BackupStage::Commit {
                return vec![BackupEffect::Commit];
            }
            let Some(node) = self.nodes.get(target) else { return Vec::new() };
            let (is_done, wanted) = (self.is_done(node), self.effect(target, node));
            if let Some(node) = self.nodes.get_mut(target).filter(|_| is_done) {
                Arc::make_mut(node).ended = true;
            }
            return wanted.into_iter().collect();
        }
        if self.stage == before {
            return Vec::new();
        }
        if self.refusable && self.nodes.values().any(|node| node.failure.is_some()) {
            return self.refuse();
        }
        if self.alive().next().is_some() { vec![BackupEffect::Pin] } else { self.accept() }
    }

    /// The job is where the node is that is least far.
    fn settle(&mut self) {
        if self.outcome.is_none() && (self.stage <= BackupStage::Commit || self.is_cluster_wide()) {
            let least = self.nodes.values().map(|node| node.stage).min();
            self.stage = least.unwrap_or(BackupStage::Commit);
        }
    }

    /// Nothing was touched yet.
    fn refuse(&mut self) -> Effects {
        let refusals = self
            .nodes
            .iter()
            .filter_map(|(target, node)| node.failure.as_ref().map(|f| f.refusal(target)))
            .collect();
        self.refused(refusals)
    }

    /// The request can be answered; what the checks themselves have left is removed.
    fn refused(&mut self, refusals: Vec<Refusal>) -> Effects {
        self.outcome = Some(Outcome::Refused(refusals));
        self.enter(BackupStage::Unpin)
    }

    fn pinned(&mut self, parents: BTreeMap<String, ParentManifest>) -> Effects {
        for (target, parent) in parents {
            if let Some(node) = self.nodes.get_mut(&target) {
                Arc::make_mut(node).parent = Some(parent);
            }
        }
        self.accept()
    }

    fn pin_failed(&mut self, failure: Failure) -> Effects {
        if self.refusable {
            let Failure { unavailable, message, hint } = failure;
            return self.refused(vec![Refusal { target: None, unavailable, message, hint }]);
        }
        for node in self.nodes.values_mut().filter(|node| node.failure.is_none()) {
            Arc::make_mut(node).failure = Some(failure.clone());
        }
        self.accept()
    }

    /// From here on every node goes by itself; one that has failed already is only cleared.
    fn accept(&mut self) -> Effects {
        self.accepted = true;
        let first = if self.base.is_some() { BackupStage::Flush } else { BackupStage::List };
        let after_failure = if self.is_cluster_wide() { BackupStage::Snapshot } else { BackupStage::Clear };
        for node in self.nodes.values_mut() {
            let stage = if node.failure.is_some() { after_failure } else { first };
            Arc::make_mut(node).stage = stage;
        }
        self.settle();
        if self.is_cluster_wide() && self.alive().next().is_none() {
            return self.abandon_with_first();
        }
        self.effects()
    }

    fn finish(&mut self, left: Vec<String>) -> Effects {
        for node in self.nodes.values_mut().filter(|node| !node.ended) {
            Arc::make_mut(node).ended = true;
        }
        self.notes.extend(left);
        let failed = self.commit_failure.is_some() || self.nodes.values().any(|n| n.failure.is_some());
        self.outcome.get_or_insert(if failed { Outcome::Failed } else { Outcome::Completed });
        self.stage = BackupStage::Finished;
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
