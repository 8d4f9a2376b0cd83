//! What a cluster-wide backup (type 1) has of its own: all nodes wait for each other before the snapshots and before
//! the commit, and their rows are all or none.

use std::collections::BTreeMap;
use std::sync::Arc;

use cassy_agent_protocol::Instance;
use serde::{Deserialize, Serialize};

use super::{BackupEffect, BackupJob, BackupNode, BackupStage, Effects};
use crate::job::{Failure, listed};
use crate::nodes::Undelivered;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterWide {
    /// Whether snapshots that are not proven consistent are kept as those of single nodes.
    pub keep_unproven: bool,
    /// Why they are kept as such; from then on each node goes by itself.
    pub unproven: Option<Failure>,
    /// How the freeze went.
    pub freeze: Option<FreezeReport>,
}

impl ClusterWide {
    /// What the history says of it: what it is worth, unless it has failed, and how long the applications were paused.
    pub(crate) fn message(&self, has_failed: bool) -> Option<String> {
        let freeze = self.freeze.as_ref()?;
        let mut said = Vec::new();
        match &self.unproven {
            _ if has_failed => {}
            None => said.push("consistent across the cluster".to_owned()),
            Some(why) => said.push(format!(
                "kept as a backup of single nodes, not consistent across them: {}",
                why.text()
            )),
        }
        let paused_for = freeze.ended_at_ms.saturating_sub(freeze.started_at_ms);
        let mut paused = format!("{} instances paused for {paused_for} ms", freeze.instances.len());
        if !freeze.slowest_node.is_empty() {
            let (took, node) = (freeze.slowest_snapshot_ms, &freeze.slowest_node);
            paused.push_str(&format!(", the slowest snapshot took {took} ms ({node})"));
        }
        said.push(paused);
        said.extend(freeze.notes.iter().cloned());
        Some(said.join("; "))
    }
}

/// From the first Pause to the last acknowledged Unpause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeReport {
    /// When the first Pause was sent, in Unix milliseconds.
    pub started_at_ms: i64,
    /// When the last Unpause was acknowledged, or given up, in Unix milliseconds.
    pub ended_at_ms: i64,
    /// Whose snapshot took longest.
    pub slowest_node: String,
    /// How long that was.
    pub slowest_snapshot_ms: u64,
    /// All that were paused.
    pub instances: Vec<PausedInstance>,
    /// What nodes knew, by address, when the applications went on: an acknowledged write may be missing on some of its
    /// replicas. Without those that did not say it.
    #[serde(default)]
    pub undelivered: BTreeMap<String, Undelivered>,
    /// What the operator should know: who has not acknowledged its Unpause, which guards were missing.
    pub notes: Vec<String>,
}

impl FreezeReport {
    /// Keeps what nodes know of undelivered writes, and says where hints wait.
    pub(crate) fn knows(&mut self, undelivered: BTreeMap<String, Undelivered>) {
        let hinted = undelivered.iter().filter_map(|(target, known)| Some((target, known.hint_files?)));
        let hinted = hinted.filter(|(_, files)| *files > 0);
        let waiting: Vec<_> = hinted.map(|(target, files)| format!("{target} ({files} files)")).collect();
        if !waiting.is_empty() {
            self.notes.push(format!(
                "hints for other nodes wait on {}: repair after a restore, to bring these writes to all their replicas",
                listed(&waiting)
            ));
        }
        self.undelivered = undelivered;
    }
}

/// One instance's pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedInstance {
    /// Which.
    pub instance: Instance,
    /// From the Pause to its acknowledgement, in milliseconds.
    pub paused_after_ms: u64,
}

/// What a freeze came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Frozen {
    /// The tables that each node's snapshot holds, or why it has none that is whole.
    pub nodes: BTreeMap<String, Result<Vec<(String, String)>, Failure>>,
    /// Why the snapshots are not proven to be of one instant.
    pub unproven: Option<Failure>,
    /// How it went.
    pub report: FreezeReport,
}

impl BackupJob {
    /// Whether nodes wait for each other.
    pub fn is_cluster_wide(&self) -> bool {
        self.cluster_wide.as_ref().is_some_and(|own| own.unproven.is_none())
    }

    /// The snapshots are there; from here on it is known what they are worth.
    pub(super) fn frozen(&mut self, frozen: Frozen) -> Effects {
        if self.stage != BackupStage::Snapshot {
            return Vec::new();
        }
        for (target, outcome) in frozen.nodes {
            let outcome = outcome.map_err(|failure| self.as_cut(BackupStage::Snapshot, failure));
            let Some(node) = self.nodes.get_mut(&target).map(Arc::make_mut) else { continue };
            match outcome {
                Ok(tables) => node.tables = tables,
                Err(failure) => node.failure = Some(failure),
            }
        }
        let Some(own) = &mut self.cluster_wide else { return Vec::new() };
        own.freeze = Some(frozen.report);
        if let Some(cancelled) = &self.cancelled {
            return self.abandon(&cancelled.failure(self.stage.name(), None));
        }
        match frozen.unproven {
            Some(why) if own.keep_unproven => own.unproven = Some(why),
            Some(why) => return self.abandon(&why),
            None => {}
        }
        if self.is_cluster_wide() && self.nodes.values().any(|node| node.failure.is_some()) {
            return self.abandon_with_first();
        }
        for node in self.nodes.values_mut().map(Arc::make_mut) {
            node.stage = if node.failure.is_some() { BackupStage::Clear } else { BackupStage::Upload };
        }
        self.settle();
        self.effects()
    }

    /// What follows when a node of a cluster-wide backup has left a stage.
    pub(super) fn advance_together(&mut self, target: &str) -> Effects {
        let failed = self.nodes.values().any(|node| node.failure.is_some());
        match self.stage {
            BackupStage::Snapshot | BackupStage::Commit if failed && self.commit_failure.is_none() => {
                self.abandon_with_first()
            }
            BackupStage::Snapshot => vec![BackupEffect::Freeze],
            BackupStage::Commit => vec![BackupEffect::Commit],
            BackupStage::Unpin => vec![BackupEffect::Unpin],
            _ => self.nodes.get(target).and_then(|node| effect_together(target, node)).into_iter().collect(),
        }
    }

    /// Nothing of it counts: what the nodes have is cleared, and every row is FAILED.
    pub(super) fn abandon(&mut self, why: &Failure) -> Effects {
        for node in self.nodes.values_mut().map(Arc::make_mut) {
            node.failure.get_or_insert_with(|| why.clone());
        }
        self.clear_together()
    }

    pub(super) fn abandon_with_first(&mut self) -> Effects {
        let failed = self.nodes.iter().find_map(|(target, node)| Some((target, node.failure.as_ref()?)));
        let Some((target, failure)) = failed else { return self.clear_together() };
        let why = Failure {
            unavailable: failure.unavailable,
            message: format!("a cluster-wide backup is of all nodes or none; {target}: {}", failure.message),
            hint: failure.hint.clone(),
        };
        self.abandon(&why)
    }

    /// The commit is done, or will never be.
    pub(super) fn clear_together(&mut self) -> Effects {
        for node in self.nodes.values_mut().map(Arc::make_mut) {
            node.stage = BackupStage::Clear;
            node.tables = Vec::new();
        }
        self.settle();
        self.effects()
    }

    /// Where a node of a cluster-wide backup waits for the others when it has failed.
    pub(super) fn barrier_after(stage: BackupStage) -> BackupStage {
        if stage <= BackupStage::Snapshot { BackupStage::Snapshot } else { BackupStage::Commit }
    }
}

/// What a node's stage wants; nothing when it waits for the others or the job.
pub(super) fn effect_together(target: &str, node: &BackupNode) -> Option<BackupEffect> {
    use BackupStage::{Commit, Pin, Snapshot, Unpin};
    let waits = matches!(node.stage, Pin | Snapshot | Commit | Unpin);
    (!waits).then(|| BackupEffect::Node(node.stage, target.to_owned()))
}
