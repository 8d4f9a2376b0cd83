//! What the runner needs of a kind of job.

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::handles::View;
use crate::job::backup::BackupNode;
use crate::job::restore::RestoreNode;
use crate::job::{
    BackupEffect, BackupEvent, BackupJob, BackupStage, Cancellation, Failure, HistoryEntry, Nodes, Outcome,
    RestoreEffect, RestoreEvent, RestoreJob, RestoreStage,
};

/// A pure state machine that the runner can store and drive.
pub(crate) trait Machine: Clone + Eq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What is stored of a node.
    type Part: Clone + Eq + Serialize + DeserializeOwned + Send + Sync + 'static;
    type Event: Send + 'static;
    type Effect: Clone + Send + Sync + 'static;

    const CREATED: fn() -> Self::Event;
    const RESUMED: fn() -> Self::Event;
    const CANCELLED: fn() -> Self::Event;

    fn job_id(&self) -> String;
    fn stage_name(&self) -> &'static str;
    fn finished(&self) -> bool;
    /// Set at the end.
    fn outcome(&self) -> Option<&Outcome>;
    /// Set when it is cancelled.
    fn cancellation(&self) -> Option<&Cancellation>;
    /// The snapshot that it is about.
    fn snapshot_id(&self) -> String;
    fn view(viewer: watch::Receiver<Self>) -> View;
    /// `None` when it is of another kind.
    fn of_view(view: View) -> Option<watch::Receiver<Self>>;
    fn history(&self) -> Vec<HistoryEntry>;
    fn nodes(&self) -> &Nodes<Self::Part>;
    fn nodes_mut(&mut self) -> &mut Nodes<Self::Part>;
    /// The nodes that other jobs have to keep away from.
    fn busy(&self) -> Vec<String>;
    /// Whether it may yet pause the applications.
    fn may_pause(&self) -> bool;
    fn step(self, event: Self::Event) -> (Self, Vec<Self::Effect>);
    /// The event for an effect that ended in a defect of ours.
    fn failed(effect: &Self::Effect, failure: Failure) -> Self::Event;
}

/// Performs the effects of one job. Every effect may be performed again.
#[async_trait]
pub(crate) trait Perform<M: Machine>: Send + Sync + 'static {
    /// Does it, and says what came of it.
    async fn perform(&self, job: &M, effect: &M::Effect) -> M::Event;
    /// Stops what may be cut, from now on; the effects then end soon, and say so. The job knows that it is cancelled.
    fn cut(&self);
    /// Lets go of everything that the job held.
    async fn release(&self);
}

impl Machine for BackupJob {
    type Part = BackupNode;
    type Event = BackupEvent;
    type Effect = BackupEffect;

    const CREATED: fn() -> BackupEvent = || BackupEvent::Created;
    const RESUMED: fn() -> BackupEvent = || BackupEvent::Resumed;
    const CANCELLED: fn() -> BackupEvent = || BackupEvent::Cancelled;

    fn job_id(&self) -> String {
        self.backup_id.to_string()
    }

    fn stage_name(&self) -> &'static str {
        self.stage.name()
    }

    fn finished(&self) -> bool {
        self.stage == BackupStage::Finished
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    fn cancellation(&self) -> Option<&Cancellation> {
        self.cancelled.as_ref()
    }

    fn snapshot_id(&self) -> String {
        self.base.unwrap_or(self.backup_id).to_string()
    }

    fn view(viewer: watch::Receiver<Self>) -> View {
        View::Backup(viewer)
    }

    fn of_view(view: View) -> Option<watch::Receiver<Self>> {
        if let View::Backup(viewer) = view { Some(viewer) } else { None }
    }

    fn history(&self) -> Vec<HistoryEntry> {
        Self::history(self)
    }

    fn nodes(&self) -> &Nodes<Self::Part> {
        &self.nodes
    }

    fn nodes_mut(&mut self) -> &mut Nodes<Self::Part> {
        &mut self.nodes
    }

    fn busy(&self) -> Vec<String> {
        let busy = self.nodes.iter().filter(|(_, node)| !self.is_done(node));
        busy.map(|(target, _)| target.clone()).collect()
    }

    fn may_pause(&self) -> bool {
        self.cluster_wide.is_some() && self.stage <= BackupStage::Snapshot
    }

    fn step(self, event: BackupEvent) -> (Self, Vec<BackupEffect>) {
        Self::step(self, event)
    }

    fn failed(effect: &BackupEffect, failure: Failure) -> BackupEvent {
        match effect {
            BackupEffect::Node(stage, target) => BackupEvent::NodeFailed(*stage, target.clone(), failure),
            BackupEffect::Pin => BackupEvent::PinFailed(failure),
            BackupEffect::Freeze => BackupEvent::FreezeFailed(failure),
            BackupEffect::Commit => BackupEvent::CommitFailed(failure),
            BackupEffect::Unpin => BackupEvent::Unpinned(vec![failure.text()]),
        }
    }
}

impl Machine for RestoreJob {
    type Part = RestoreNode;
    type Event = RestoreEvent;
    type Effect = RestoreEffect;

    const CREATED: fn() -> RestoreEvent = || RestoreEvent::Created;
    const RESUMED: fn() -> RestoreEvent = || RestoreEvent::Resumed;
    const CANCELLED: fn() -> RestoreEvent = || RestoreEvent::Cancelled;

    fn job_id(&self) -> String {
        self.job_id.clone()
    }

    fn stage_name(&self) -> &'static str {
        self.stage.name()
    }

    fn finished(&self) -> bool {
        self.stage == RestoreStage::Finished
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    fn cancellation(&self) -> Option<&Cancellation> {
        self.cancelled.as_ref()
    }

    fn snapshot_id(&self) -> String {
        self.backup_id.to_string()
    }

    fn view(viewer: watch::Receiver<Self>) -> View {
        View::Restore(viewer)
    }

    fn of_view(view: View) -> Option<watch::Receiver<Self>> {
        if let View::Restore(viewer) = view { Some(viewer) } else { None }
    }

    fn history(&self) -> Vec<HistoryEntry> {
        Self::history(self)
    }

    fn nodes(&self) -> &Nodes<Self::Part> {
        &self.nodes
    }

    fn nodes_mut(&mut self) -> &mut Nodes<Self::Part> {
        &mut self.nodes
    }

    fn busy(&self) -> Vec<String> {
        let busy = self.nodes.iter().filter(|(_, node)| node.restored.is_none() && node.failure.is_none());
        busy.map(|(target, _)| target.clone()).collect()
    }

    fn may_pause(&self) -> bool {
        false
    }

    fn step(self, event: RestoreEvent) -> (Self, Vec<RestoreEffect>) {
        Self::step(self, event)
    }

    fn failed(effect: &RestoreEffect, failure: Failure) -> RestoreEvent {
        match effect {
            RestoreEffect::Plan(target) | RestoreEffect::Restore(target) | RestoreEffect::Undo(target) => {
                RestoreEvent::NodeFailed(target.clone(), failure)
            }
        }
    }
}
