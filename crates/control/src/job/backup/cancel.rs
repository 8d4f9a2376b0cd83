//! What cancelling makes of a backup. Whatever was begun is cleared as after a failure; a node whose manifest is durable
//! stays COMPLETED, except in a cluster-wide backup, which is of all nodes or none.

use std::sync::Arc;

use super::{BackupJob, BackupNode, BackupStage, Effects, NodeDone};
use crate::job::{Cancellation, Failure};

impl BackupJob {
    /// What runs comes back as an event: cut, or done where nothing is cut.
    pub(super) fn cancel(&mut self) -> Effects {
        if self.cancelled.is_some() || self.outcome.is_some() {
            return Vec::new();
        }
        let is_finished = |node: &&Arc<BackupNode>| node.uploaded.is_some() && node.failure.is_none();
        let cancelled = Cancellation {
            stage: self.stage.name().to_owned(),
            finished: self.nodes.values().filter(is_finished).count(),
            nodes: self.nodes.len(),
        };
        self.refusable = false;
        if !self.accepted {
            // Nothing comes back for those that are prepared and wait for the others, or for the pin.
            let waits =
                |node: &&mut Arc<BackupNode>| node.failure.is_none() && node.stage == BackupStage::Pin;
            for node in self.nodes.values_mut().filter(waits) {
                Arc::make_mut(node).failure = Some(cancelled.failure(&cancelled.stage, None));
            }
        }
        self.cancelled = Some(cancelled);
        Vec::new()
    }

    /// A node's failure, which is the cut when the job is cancelled.
    pub(super) fn as_cut(&self, stage: BackupStage, failure: Failure) -> Failure {
        match &self.cancelled {
            Some(cancelled) if stage < BackupStage::Clear => {
                cancelled.failure(stage.name(), Some(&failure.text()))
            }
            _ => failure,
        }
    }

    /// What clearing needs to know.
    pub(super) fn keep_facts(&mut self, stage: BackupStage, target: &str, done: NodeDone) {
        if let (NodeDone::Prepared(facts), Some(node)) = (done, self.open(stage, target)) {
            node.facts = Some(facts);
        }
    }

    /// Nothing that was cut begins anew.
    pub(super) fn resume_cancelled(&mut self, cancelled: &Cancellation) -> Effects {
        let restarted = Some("the server was restarted meanwhile");
        let is_open = |node: &&mut Arc<BackupNode>| node.failure.is_none() && node.stage < BackupStage::Clear;
        for node in self.nodes.values_mut().filter(is_open) {
            let failure = cancelled.failure(node.stage.name(), restarted);
            Arc::make_mut(node).failure = Some(failure);
        }
        self.accepted = true;
        if self.is_cluster_wide() {
            if self.stage < BackupStage::Clear {
                return self.abandon_with_first();
            }
            return self.effects();
        }
        for node in self.nodes.values_mut().filter(|node| node.stage < BackupStage::Clear) {
            Arc::make_mut(node).stage = BackupStage::Clear;
        }
        self.settle();
        self.effects()
    }
}
