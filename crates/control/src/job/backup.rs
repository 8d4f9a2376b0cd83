//! A backup of type 2: a snapshot of each node, each a restore unit of its own.
//!
//! Up to and including [`BackupStage::Prepare`] nothing is touched, and one failing node refuses the whole
//! request. From then on a failing node fails alone. All nodes pass from stage to stage together, so that all
//! snapshots start at once.

use std::collections::BTreeMap;

use cassy_agent_protocol::{ParentManifest, SnapshotTag, UploadSummary};
use cassy_backup_format::{BackupId, ClusterId, ConfigurationFacts, HostId};
use serde::{Deserialize, Serialize};

use super::{Failure, HistoryEntry, Outcome};
use crate::operations::Status;

/// Stored before it starts; every stage may be performed twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStage {
    /// Reach every node, its agent, its Cassandra and the store; clear leftovers of dead jobs.
    Prepare,
    /// Note the files that the coming snapshot supersedes.
    List,
    /// Flush, so that the flush inside the snapshot is short.
    Flush,
    /// Take the snapshots, and check that they are whole.
    Snapshot,
    /// Choose the manifests whose objects may be relied on, and pin them.
    Pin,
    /// Send what is new; the node manifest is the last object.
    Upload,
    /// Write the cluster manifest.
    Commit,
    /// Clear the snapshot, what it superseded, the pin, and objects of dead sessions.
    Clear,
    /// The end.
    Finished,
}

impl BackupStage {
    /// Every stage in which something happens, in order.
    pub const ALL: [Self; 8] = [
        Self::Prepare,
        Self::List,
        Self::Flush,
        Self::Snapshot,
        Self::Pin,
        Self::Upload,
        Self::Commit,
        Self::Clear,
    ];

    /// The name in the database and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::List => "list",
            Self::Flush => "flush",
            Self::Snapshot => "snapshot",
            Self::Pin => "pin",
            Self::Upload => "upload",
            Self::Commit => "commit",
            Self::Clear => "clear",
            Self::Finished => "finished",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Prepare => Self::List,
            Self::List => Self::Flush,
            Self::Flush => Self::Snapshot,
            Self::Snapshot => Self::Pin,
            Self::Pin => Self::Upload,
            Self::Upload => Self::Commit,
            Self::Commit => Self::Clear,
            Self::Clear | Self::Finished => Self::Finished,
        }
    }
}

/// The job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupJob {
    /// The backup, which is also the job's id.
    pub backup_id: BackupId,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its own name.
    pub cluster_name: String,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// Counts the snapshots of this job: a resume before the end of the snapshot stage is a new attempt.
    pub attempt: u32,
    /// Where it is.
    pub stage: BackupStage,
    /// By address.
    pub nodes: BTreeMap<String, BackupNode>,
    /// Why the commit failed, when it did.
    pub commit_failure: Option<Failure>,
    /// Set at the end.
    pub outcome: Option<Outcome>,
    /// What could not be cleared, `<address>: <what>`.
    pub notes: Vec<String>,
}

/// One node's part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupNode {
    /// What the preparation found; set from then on.
    pub facts: Option<Box<BackupNodeFacts>>,
    /// `(keyspace, table)` of every table that the snapshot must hold.
    pub tables: Vec<(String, String)>,
    /// The manifest whose objects may be relied on.
    pub parent: Option<ParentManifest>,
    /// The node manifest, when it is durable.
    pub uploaded: Option<UploadSummary>,
    /// Why this node's part failed.
    pub failure: Option<Failure>,
    /// Whether this node has finished the current stage.
    pub stage_done: bool,
}

/// What the preparation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BackupNodeFacts {
    pub host_id: HostId,
    pub tokens: Vec<String>,
    pub datacenter: String,
    pub rack: String,
    pub cassandra_version: String,
    pub partitioner: String,
    pub data_directories: Vec<String>,
    pub configuration: ConfigurationFacts,
}

impl BackupNodeFacts {
    /// The directory that the node's lock is on.
    pub fn lock(&self) -> &str {
        self.data_directories.first().map(String::as_str).unwrap_or_default()
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum BackupEvent {
    /// The job was just made.
    Created,
    /// The server started and found the job unfinished.
    Resumed,
    /// A node has finished the current stage.
    NodeDone(String, NodeDone),
    /// A node has failed in the current stage.
    NodeFailed(String, Failure),
    /// The parents are chosen and pinned.
    Pinned(BTreeMap<String, ParentManifest>),
    /// The cluster manifest is durable, or there was nothing to write.
    Committed,
    /// The pin or the commit failed.
    JobFailed(Failure),
    /// The job's part of the clearing is done; what could not be cleared.
    Cleared(Vec<String>),
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
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEffect {
    /// Perform the stage on the node.
    Node(BackupStage, String),
    /// Choose parents and pin them.
    Pin,
    /// Write the cluster manifest.
    Commit,
    /// Remove the pin and the objects of dead sessions, clear the nodes.
    Clear,
}

impl BackupJob {
    /// The tag of the current attempt's snapshot.
    pub fn tag(&self) -> SnapshotTag {
        SnapshotTag::of(self.backup_id, self.attempt)
    }

    /// The tags of all attempts so far.
    pub fn tags(&self) -> Vec<SnapshotTag> {
        (1..=self.attempt).map(|attempt| SnapshotTag::of(self.backup_id, attempt)).collect()
    }

    /// The addresses that have not failed.
    pub fn alive(&self) -> impl Iterator<Item = (&String, &BackupNode)> {
        self.nodes.iter().filter(|(_, node)| node.failure.is_none())
    }

    /// What the history says; empty until the request is accepted.
    pub fn history(&self) -> Vec<HistoryEntry> {
        if self.stage == BackupStage::Prepare || matches!(self.outcome, Some(Outcome::Refused(_))) {
            return Vec::new();
        }
        self.nodes.iter().map(|(target, node)| self.entry(target, node)).collect()
    }

    /// A final status is told when nothing of the job is left to do, clearing included.
    fn entry(&self, target: &str, node: &BackupNode) -> HistoryEntry {
        let failure = node.failure.as_ref().or(self.commit_failure.as_ref());
        let mut message = match (failure, &node.uploaded) {
            (Some(failure), _) => failure.text(),
            (None, Some(summary)) => completed_message(summary),
            (None, None) => String::new(),
        };
        for left in self.notes.iter().filter_map(|note| note.strip_prefix(target)?.strip_prefix(": ")) {
            message.push_str(&format!("; left for a later backup: {left}"));
        }
        let status = match (self.stage, failure) {
            (BackupStage::Finished, Some(_)) => Status::Failed,
            (BackupStage::Finished, None) => Status::Completed,
            (stage, _) if stage > BackupStage::Snapshot => Status::Started,
            _ => Status::Initialized,
        };
        HistoryEntry { target: target.to_owned(), status, message }
    }

    /// The next job, and what to do.
    #[must_use]
    pub fn step(mut self, event: BackupEvent) -> (Self, Vec<BackupEffect>) {
        if self.stage == BackupStage::Finished {
            return (self, Vec::new());
        }
        match event {
            BackupEvent::Created => self.enter(BackupStage::Prepare),
            BackupEvent::Resumed => self.resume(),
            BackupEvent::NodeDone(target, done) => self.node_done(&target, done),
            BackupEvent::NodeFailed(target, failure) => self.node_failed(&target, failure),
            BackupEvent::Pinned(parents) => self.pinned(parents),
            BackupEvent::Committed => self.enter(BackupStage::Clear),
            BackupEvent::JobFailed(failure) => {
                self.commit_failure = Some(failure);
                self.enter(BackupStage::Clear)
            }
            BackupEvent::Cleared(left) => self.cleared(left),
        }
    }

    fn enter(mut self, stage: BackupStage) -> (Self, Vec<BackupEffect>) {
        self.stage = stage;
        for node in self.nodes.values_mut() {
            node.stage_done = false;
        }
        let effects = self.effects();
        (self, effects)
    }

    fn effects(&self) -> Vec<BackupEffect> {
        match self.stage {
            BackupStage::Pin => vec![BackupEffect::Pin],
            BackupStage::Commit => vec![BackupEffect::Commit],
            BackupStage::Clear => vec![BackupEffect::Clear],
            BackupStage::Finished => Vec::new(),
            stage => self
                .alive()
                .filter(|(_, node)| !node.stage_done)
                .map(|(target, _)| BackupEffect::Node(stage, target.clone()))
                .collect(),
        }
    }

    /// What was known up to the snapshot is gone with the agents, so the job goes back to the start with a new
    /// attempt: a tag is never adopted. Later stages go on where they were.
    fn resume(mut self) -> (Self, Vec<BackupEffect>) {
        if self.stage <= BackupStage::Snapshot {
            self.attempt += 1;
            return self.enter(BackupStage::Prepare);
        }
        let effects = self.effects();
        (self, effects)
    }

    fn node_done(mut self, target: &str, done: NodeDone) -> (Self, Vec<BackupEffect>) {
        let Some(node) = self.nodes.get_mut(target).filter(|node| !node.stage_done) else {
            return (self, Vec::new());
        };
        node.stage_done = true;
        match done {
            NodeDone::Prepared(facts) => node.facts = Some(facts),
            NodeDone::Snapshotted(tables) => node.tables = tables,
            NodeDone::Uploaded(summary) => {
                node.failure = corrupt(&summary);
                node.uploaded = Some(summary);
            }
            NodeDone::Done => {}
        }
        self.advance()
    }

    fn node_failed(mut self, target: &str, failure: Failure) -> (Self, Vec<BackupEffect>) {
        let Some(node) = self.nodes.get_mut(target).filter(|node| !node.stage_done) else {
            return (self, Vec::new());
        };
        node.stage_done = true;
        node.failure = Some(failure);
        self.advance()
    }

    /// Goes on to the next stage when every node has finished this one.
    fn advance(self) -> (Self, Vec<BackupEffect>) {
        if self.nodes.values().any(|node| node.failure.is_none() && !node.stage_done) {
            return (self, Vec::new());
        }
        // A job that was accepted once is not refused by the checks of a resume: its nodes fail alone.
        let first_checks = self.stage == BackupStage::Prepare && self.attempt == 1;
        if first_checks && self.nodes.values().any(|n| n.failure.is_some()) {
            return self.refuse();
        }
        if self.alive().next().is_none() {
            return self.enter(BackupStage::Clear);
        }
        let next = self.stage.next();
        self.enter(next)
    }

    /// Nothing was touched yet.
    fn refuse(mut self) -> (Self, Vec<BackupEffect>) {
        let refusals = self
            .nodes
            .iter()
            .filter_map(|(target, node)| node.failure.as_ref().map(|f| f.refusal(target)))
            .collect();
        self.outcome = Some(Outcome::Refused(refusals));
        self.stage = BackupStage::Finished;
        (self, Vec::new())
    }

    fn pinned(mut self, parents: BTreeMap<String, ParentManifest>) -> (Self, Vec<BackupEffect>) {
        for (target, parent) in parents {
            if let Some(node) = self.nodes.get_mut(&target) {
                node.parent = Some(parent);
            }
        }
        self.enter(BackupStage::Upload)
    }

    fn cleared(mut self, left: Vec<String>) -> (Self, Vec<BackupEffect>) {
        self.notes.extend(left);
        let failed = self.commit_failure.is_some() || self.nodes.values().any(|n| n.failure.is_some());
        self.outcome = Some(if failed { Outcome::Failed } else { Outcome::Completed });
        self.stage = BackupStage::Finished;
        (self, Vec::new())
    }
}

fn corrupt(summary: &UploadSummary) -> Option<Failure> {
    let first = summary.corrupt.first()?;
    let more = match summary.corrupt.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    Some(Failure {
        unavailable: false,
        message: format!("an SSTable does not match its own checksum: {first}{more}"),
        hint: Some(format!(
            "the disk or the file is damaged: scrub or repair the table; what could be read is kept under {}",
            summary.manifest
        )),
    })
}

fn completed_message(summary: &UploadSummary) -> String {
    format!(
        "{} SSTables, {} files, {} bytes; {} bytes were new",
        summary.sstables, summary.files, summary.bytes, summary.sent_bytes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(stage: BackupStage, attempt: u32, addresses: [&str; 2]) -> BackupJob {
        BackupJob {
            backup_id: BackupId::at(0),
            cluster_id: "c".parse().expect("an id"),
            cluster_name: "c".to_owned(),
            created_at_ms: 0,
            attempt,
            stage,
            nodes: addresses.map(|address| (address.to_owned(), BackupNode::default())).into(),
            commit_failure: None,
            outcome: None,
            notes: Vec::new(),
        }
    }

    fn failure() -> Failure {
        Failure { unavailable: true, message: "down".to_owned(), hint: None }
    }

    #[test]
    fn before_anything_is_touched_one_node_refuses_all() {
        let (job, _) = job(BackupStage::Prepare, 1, ["a", "b"]).step(BackupEvent::Created);
        let (job, _) = job.step(BackupEvent::NodeFailed("a".to_owned(), failure()));
        let (job, effects) = job.step(BackupEvent::NodeDone("b".to_owned(), NodeDone::Done));
        assert!(effects.is_empty() && job.history().is_empty());
        assert!(matches!(job.outcome, Some(Outcome::Refused(refusals)) if refusals.len() == 1));
    }

    #[test]
    fn from_then_on_a_node_fails_alone_also_after_a_restart() {
        let (job, _) =
            job(BackupStage::Flush, 1, ["a", "b"]).step(BackupEvent::NodeFailed("a".to_owned(), failure()));
        let (job, effects) = job.step(BackupEvent::Resumed);
        assert_eq!((job.stage, job.attempt), (BackupStage::Prepare, 2));
        assert_eq!(effects, [BackupEffect::Node(BackupStage::Prepare, "b".to_owned())]);
        let (job, effects) = job.step(BackupEvent::NodeDone("b".to_owned(), NodeDone::Done));
        assert_eq!(effects, [BackupEffect::Node(BackupStage::List, "b".to_owned())]);
        assert!(job.outcome.is_none());
    }

    #[test]
    fn what_comes_late_changes_nothing() {
        let (before, _) = job(BackupStage::Upload, 1, ["a", "b"])
            .step(BackupEvent::NodeDone("a".to_owned(), NodeDone::Done));
        for event in [
            BackupEvent::NodeFailed("a".to_owned(), failure()),
            BackupEvent::NodeDone("a".to_owned(), NodeDone::Done),
            BackupEvent::NodeDone("nobody".to_owned(), NodeDone::Done),
        ] {
            let (after, effects) = before.clone().step(event);
            assert!(after == before && effects.is_empty());
        }
    }
}
