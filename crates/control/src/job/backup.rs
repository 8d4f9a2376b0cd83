//! A backup of types 2 and 3: each node is a restore unit of its own.
//!
//! Up to and including [`BackupStage::Pin`] nothing is touched, and one failing node refuses the whole request. From
//! then on all nodes go from stage to stage by themselves: a slow or failing node holds none of the others, and its
//! row is final as soon as nothing of its part is left to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use cassy_agent_protocol::{ParentManifest, SnapshotTag, UploadSummary};
use cassy_backup_format::{BackupId, ClusterId, ConfigurationFacts, HostId};
use serde::{Deserialize, Serialize};

use super::{Failure, HistoryEntry, Nodes, Outcome, Refusal};
use crate::operations::Status;

/// Stored before it starts; every stage may be performed twice. [`BackupStage::Pin`], [`BackupStage::Commit`] and
/// [`BackupStage::Unpin`] are the job's, all others a node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStage {
    /// Reach every node, its agent, its Cassandra and the store; clear leftovers of dead jobs.
    Prepare,
    /// Choose the manifests whose objects may be relied on, and pin them.
    Pin,
    /// Note the files that the coming snapshot supersedes.
    List,
    /// Flush, so that the flush inside the snapshot is short.
    Flush,
    /// Take the snapshot, and check that it is whole.
    Snapshot,
    /// Send what is new; the node manifest is the last object.
    Upload,
    /// Clear the snapshot, what it superseded, and objects of dead sessions.
    Clear,
    /// Write the cluster manifest, the summary. A node in this stage has done its part.
    Commit,
    /// Remove the pin and the probe.
    Unpin,
    /// The end.
    Finished,
}

impl BackupStage {
    /// Every stage in which something happens, in order.
    pub const ALL: [Self; 9] = [
        Self::Prepare,
        Self::Pin,
        Self::List,
        Self::Flush,
        Self::Snapshot,
        Self::Upload,
        Self::Clear,
        Self::Commit,
        Self::Unpin,
    ];

    /// The name in the database and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Pin => "pin",
            Self::List => "list",
            Self::Flush => "flush",
            Self::Snapshot => "snapshot",
            Self::Upload => "upload",
            Self::Clear => "clear",
            Self::Commit => "commit",
            Self::Unpin => "unpin",
            Self::Finished => "finished",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Prepare => Self::Pin,
            Self::Pin => Self::List,
            Self::List => Self::Flush,
            Self::Flush => Self::Snapshot,
            Self::Snapshot => Self::Upload,
            Self::Upload => Self::Clear,
            Self::Clear => Self::Commit,
            Self::Commit => Self::Unpin,
            Self::Unpin | Self::Finished => Self::Finished,
        }
    }
}

/// The job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupJob {
    /// The backup, which is also the job's id.
    pub backup_id: BackupId,
    /// For an increment: the snapshot that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BackupId>,
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
    /// Why the summary was not written.
    pub commit_failure: Option<Failure>,
    /// Set at the end.
    pub outcome: Option<Outcome>,
    /// What of the job's own could not be cleared.
    pub notes: Vec<String>,
}

/// One node's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupNode {
    /// Where it is; never a stage of the job alone, except to wait for it.
    pub stage: BackupStage,
    /// Counts the snapshots of this node: a resume before the end of the snapshot stage is a new attempt.
    pub attempt: u32,
    /// What the preparation found; set from then on.
    pub facts: Option<Box<BackupNodeFacts>>,
    /// `(keyspace, table)` of every table that the snapshot must hold; empty when it is sent.
    pub tables: Vec<(String, String)>,
    /// The manifest whose objects may be relied on.
    pub parent: Option<ParentManifest>,
    /// The node manifest, when it is durable.
    pub uploaded: Option<UploadSummary>,
    /// Why this node's part failed.
    pub failure: Option<Failure>,
    /// What could not be cleared.
    pub notes: Vec<String>,
    /// Whether its row is final: when its part is done, and the job's too if no other node is left.
    pub ended: bool,
}

impl Default for BackupNode {
    fn default() -> Self {
        Self {
            stage: BackupStage::Prepare,
            attempt: 1,
            facts: None,
            tables: Vec::new(),
            parent: None,
            uploaded: None,
            failure: None,
            notes: Vec::new(),
            ended: false,
        }
    }
}

impl BackupNode {
    /// Whether its snapshot is taken, or never will be.
    fn is_past_the_snapshot(&self) -> bool {
        self.failure.is_some() || self.stage > BackupStage::Snapshot
    }

    /// Whether nothing of its part is left to do.
    pub fn is_done(&self) -> bool {
        self.stage == BackupStage::Commit
    }

    /// What the history says of it.
    fn entry(&self, target: &str, job: &BackupJob) -> HistoryEntry {
        let mut message = match (&self.failure, &self.uploaded) {
            (Some(failure), _) => failure.text(),
            (None, Some(summary)) => completed_message(summary),
            (None, None) => String::new(),
        };
        for left in &self.notes {
            message.push_str(&format!("; left for a later backup: {left}"));
        }
        if let Some(failure) = &job.commit_failure {
            message
                .push_str(&format!("; the summary of the whole backup was not written: {}", failure.text()));
        }
        let status = match (self.ended, &self.failure) {
            (true, Some(_)) => Status::Failed,
            (true, None) => Status::Completed,
            (false, _) if self.stage > BackupStage::Snapshot => Status::Started,
            (false, _) => Status::Initialized,
        };
        HistoryEntry { target: target.to_owned(), status, message }
    }
}

/// What the preparation found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A node has finished this stage.
    NodeDone(BackupStage, String, NodeDone),
    /// A node has failed in this stage.
    NodeFailed(BackupStage, String, Failure),
    /// The parents are chosen and pinned.
    Pinned(BTreeMap<String, ParentManifest>),
    /// They are not.
    PinFailed(Failure),
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

    /// Whether the request can be answered.
    pub fn is_answerable(&self) -> bool {
        self.outcome.is_some() || (self.accepted && self.nodes.values().all(|n| n.is_past_the_snapshot()))
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
            BackupEvent::NodeDone(stage, target, done) => self.node_done(stage, &target, done),
            BackupEvent::NodeFailed(stage, target, failure) => self.node_failed(stage, &target, failure),
            BackupEvent::Pinned(parents) => self.pinned(parents),
            BackupEvent::PinFailed(failure) => self.pin_failed(failure),
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
            _ => self.nodes.iter().filter_map(|(target, node)| effect(target, node)).collect(),
        }
    }

    fn enter(&mut self, stage: BackupStage) -> Effects {
        self.stage = stage;
        self.effects()
    }

    /// What was known up to the snapshot is gone with the agents, so those nodes go back to the start with a new
    /// attempt: a tag is never adopted. Later stages go on where they were.
    fn resume(&mut self) -> Effects {
        self.refusable = false;
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
        let (is_increment, accepted) = (self.base.is_some(), self.accepted);
        let Some(node) = self.open(stage, target) else { return Vec::new() };
        node.stage = match stage.next() {
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
                node.failure = corrupt(&summary);
                node.tables = Vec::new();
                node.uploaded = Some(summary);
            }
            NodeDone::Cleared(left) => node.notes.extend(left),
            NodeDone::Done => {}
        }
        self.advance(target)
    }

    fn node_failed(&mut self, stage: BackupStage, target: &str, failure: Failure) -> Effects {
        let accepted = self.accepted;
        let Some(node) = self.open(stage, target) else { return Vec::new() };
        if stage == BackupStage::Clear {
            node.notes.push(failure.text());
            node.stage = BackupStage::Commit;
        } else {
            node.failure = Some(failure);
            node.stage = if accepted { BackupStage::Clear } else { BackupStage::Pin };
        }
        self.advance(target)
    }

    /// What follows when a node has left a stage.
    fn advance(&mut self, target: &str) -> Effects {
        let before = self.stage;
        self.settle();
        if self.accepted {
            if self.stage == BackupStage::Commit {
                return vec![BackupEffect::Commit];
            }
            let Some(node) = self.nodes.get_mut(target) else { return Vec::new() };
            if node.is_done() {
                Arc::make_mut(node).ended = true;
            }
            return effect(target, node).into_iter().collect();
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
        if self.stage <= BackupStage::Commit {
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
        for node in self.nodes.values_mut() {
            let stage = if node.failure.is_some() { BackupStage::Clear } else { first };
            Arc::make_mut(node).stage = stage;
        }
        self.settle();
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

/// What a node's stage wants; nothing when it waits for the job or is done.
fn effect(target: &str, node: &BackupNode) -> Option<BackupEffect> {
    let waits = matches!(node.stage, BackupStage::Pin | BackupStage::Commit);
    (!waits).then(|| BackupEffect::Node(node.stage, target.to_owned()))
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
    let mut message = format!(
        "{} SSTables, {} files, {} bytes; {} bytes were new",
        summary.sstables, summary.files, summary.bytes, summary.sent_bytes
    );
    if summary.taken > 0 {
        message.push_str(&format!("; {} flushed SSTables were added", summary.taken));
    }
    if summary.left > 0 {
        let left = summary.left;
        message.push_str(&format!(
            "; {left} SSTables in backups/ without a whole TOC.txt are left for the next one"
        ));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(addresses: &[&str]) -> BackupJob {
        let nodes = addresses.iter().map(|&address| (address.to_owned(), Arc::default())).collect();
        BackupJob {
            backup_id: BackupId::at(0),
            base: None,
            cluster_id: "c".parse().expect("an id"),
            cluster_name: "c".to_owned(),
            created_at_ms: 0,
            stage: BackupStage::Prepare,
            nodes,
            refusable: true,
            accepted: false,
            commit_failure: None,
            outcome: None,
            notes: Vec::new(),
        }
    }

    fn done(stage: BackupStage, target: &str) -> BackupEvent {
        BackupEvent::NodeDone(stage, target.to_owned(), NodeDone::Done)
    }

    fn failed(stage: BackupStage, target: &str) -> BackupEvent {
        let failure = Failure { unavailable: true, message: "down".to_owned(), hint: None };
        BackupEvent::NodeFailed(stage, target.to_owned(), failure)
    }

    fn effect_on(stage: BackupStage, target: &str) -> BackupEffect {
        BackupEffect::Node(stage, target.to_owned())
    }

    /// All events one after another; the effects of the last.
    fn after(job: BackupJob, events: impl IntoIterator<Item = BackupEvent>) -> (BackupJob, Effects) {
        events.into_iter().fold((job, Vec::new()), |(job, _), event| job.step(event))
    }

    fn accepted(addresses: &[&str]) -> BackupJob {
        let prepared = addresses.iter().map(|target| done(BackupStage::Prepare, target));
        let (job, effects) = after(job(addresses), prepared);
        assert_eq!(effects, [BackupEffect::Pin]);
        job.step(BackupEvent::Pinned(BTreeMap::new())).0
    }

    #[test]
    fn before_anything_is_touched_one_node_refuses_all() {
        let events = [failed(BackupStage::Prepare, "a"), done(BackupStage::Prepare, "b")];
        let (job, effects) = after(job(&["a", "b"]), events);
        assert_eq!(effects, [BackupEffect::Unpin]);
        assert!(job.is_answerable() && job.history().is_empty());
        let (job, _) = job.step(BackupEvent::Unpinned(Vec::new()));
        assert!(matches!(job.outcome, Some(Outcome::Refused(refusals)) if refusals.len() == 1));
    }

    #[test]
    fn a_slow_node_holds_none_of_the_others() {
        use BackupStage::{Clear, Flush, List, Snapshot, Upload};
        let job = accepted(&["fast", "slow"]);
        let (job, effects) =
            after(job, [List, Flush, Snapshot, Upload, Clear].map(|stage| done(stage, "fast")));
        assert_eq!((effects, job.stage), (Vec::new(), List));
        let states: Vec<_> = job.history().into_iter().map(|entry| (entry.target, entry.status)).collect();
        let expected = [("fast", Status::Completed), ("slow", Status::Initialized)];
        assert_eq!(states, expected.map(|(target, status)| (target.to_owned(), status)));
        assert!(!job.is_answerable());
        let (job, effects) = job.step(failed(List, "slow"));
        assert_eq!(effects, [effect_on(Clear, "slow")]);
        assert!(job.is_answerable());
        let (job, effects) = job.step(done(Clear, "slow"));
        assert_eq!(effects, [BackupEffect::Commit]);
        assert_eq!(job.history()[1].status, Status::Started, "the last row waits for the job");
        let (job, _) = after(job, [BackupEvent::Committed, BackupEvent::Unpinned(Vec::new())]);
        assert_eq!(job.history()[1].status, Status::Failed);
    }

    #[test]
    fn after_a_restart_each_node_goes_on_where_it_can() {
        use BackupStage::{Flush, List, Prepare, Snapshot, Upload};
        let events = [done(List, "a"), done(List, "b"), done(Flush, "b"), done(Snapshot, "b")];
        let (job, _) = after(accepted(&["a", "b", "c"]), events);
        let (job, effects) = after(job, [failed(List, "c"), BackupEvent::Resumed]);
        assert_eq!(
            effects,
            [effect_on(Prepare, "a"), effect_on(Upload, "b"), effect_on(BackupStage::Clear, "c")]
        );
        assert_eq!(["a", "b"].map(|target| job.nodes[target].attempt), [2, 1]);
        let (job, effects) = job.step(done(Prepare, "a"));
        assert_eq!(effects, [effect_on(List, "a")]);
        let (job, _) = job.step(failed(List, "a"));
        assert!(job.outcome.is_none(), "an accepted job is not refused");
    }

    #[test]
    fn a_job_that_was_taken_up_is_not_refused() {
        let events =
            [BackupEvent::Resumed, failed(BackupStage::Prepare, "a"), done(BackupStage::Prepare, "b")];
        let (job, effects) = after(job(&["a", "b"]), events);
        assert_eq!((effects, &job.outcome), (vec![BackupEffect::Pin], &None));
        let (_, effects) = job.step(BackupEvent::Pinned(BTreeMap::new()));
        assert_eq!(effects, [effect_on(BackupStage::Clear, "a"), effect_on(BackupStage::List, "b")]);
    }

    #[test]
    fn what_comes_late_changes_nothing() {
        let (before, _) = accepted(&["a", "b"]).step(done(BackupStage::List, "a"));
        let late =
            [failed(BackupStage::List, "a"), done(BackupStage::List, "a"), done(BackupStage::List, "nobody")];
        for event in late {
            let (after, effects) = before.clone().step(event);
            assert!(after == before && effects.is_empty());
        }
    }

    #[test]
    fn an_increment_supersedes_nothing() {
        let (job, _) =
            BackupJob { base: Some(BackupId::at(7)), ..job(&["a"]) }.step(done(BackupStage::Prepare, "a"));
        let (_, effects) = job.step(BackupEvent::Pinned(BTreeMap::new()));
        assert_eq!(effects, [effect_on(BackupStage::Flush, "a")]);
    }
}
