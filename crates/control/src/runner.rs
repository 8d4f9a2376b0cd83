//! Drives jobs: stores the job, then performs its effects, then steps on with what came of them.
//!
//! A job belongs to the runner, never to the request that asked for it. What is stored carries the epoch of the
//! server's lease: a server that has lost it stops driving.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cassy_catalog::{Catalog, CatalogError, Job, JobKind, JobPart, JobUpdate, NewJob, NodeRow};
use futures::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::handles::{Entry, Handles};
use crate::job::{Failure, HistoryEntry, Outcome};
use crate::machine::{Machine, Perform};
use crate::operations::{OperationError, OperationErrorKind};
use crate::perform::chain;
use crate::service::Claim;

/// Jobs under way at once; more are refused.
const LIVE_LIMIT: usize = 64;
/// The first pause between two tries to store a job.
const SAVE_PAUSE: Duration = Duration::from_millis(200);
/// The longest one.
const SAVE_PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Runner {
    catalog: Catalog,
    epoch: i64,
    clock: Arc<dyn Clock>,
    live: Mutex<HashMap<String, LiveJob>>,
    pub(crate) handles: Arc<Handles>,
    released: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct LiveJob {
    snapshot_id: String,
    targets: Vec<String>,
    /// Whether it may yet pause the applications. All clusters of a server have the same ones.
    pauses: bool,
}

/// What the database wants to know of a new job.
pub(crate) struct Filing {
    pub(crate) kind: JobKind,
    pub(crate) operation_type: u32,
    pub(crate) cluster_id: String,
    pub(crate) snapshot_id: String,
    pub(crate) created_at_ms: i64,
}

impl Runner {
    pub(crate) fn new(catalog: Catalog, epoch: i64, clock: Arc<dyn Clock>) -> Self {
        Self {
            catalog,
            epoch,
            clock,
            live: Mutex::default(),
            handles: Arc::default(),
            released: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Files a new job and drives it; refuses when a node of it is at work for another job, or when both would pause the
    /// applications. With a claim it is the job of that key.
    pub(crate) async fn start<M: Machine>(
        self: &Arc<Self>,
        job: M,
        filing: Filing,
        claim: Option<Claim>,
        performer: Arc<dyn Perform<M>>,
    ) -> Result<watch::Receiver<M>, OperationError> {
        let reservation = self.reserve(&job, &filing)?;
        let new = NewJob {
            job_id: job.job_id(),
            kind: filing.kind,
            operation_type: filing.operation_type,
            cluster_id: filing.cluster_id,
            snapshot_id: filing.snapshot_id,
            stage: job.stage_name().to_owned(),
            state_json: encode(&job),
            parts: job.nodes().iter().map(part::<M>).collect(),
            created_at: filing.created_at_ms,
            rows: Vec::new(),
            key: claim.as_ref().map(|claim| claim.key.clone()),
        };
        // In a task of its own: a client that hangs up while the job is filed does not leave it to nobody.
        let runner = Arc::clone(self);
        let filed = self.tasks.spawn(async move {
            runner.file(&new).await?;
            let entry = runner.handles.enter(&job);
            let viewer = entry.view.subscribe();
            runner.spawn(job, M::CREATED(), performer, reservation, entry);
            // From here on the same key finds the job.
            drop(claim);
            Ok(viewer)
        });
        filed.await.unwrap_or_else(|error| {
            Err(OperationError::new(OperationErrorKind::Internal, format!("the job was not filed: {error}")))
        })
    }

    /// Stores a new job. An error does not say that it is not there, as only its acknowledgement may be lost; nobody else
    /// draws its id. One that is there is driven, not removed: who waits is answered as if nothing had happened, the same
    /// key finds it, and it does not run unasked after a restart. Until the database says so, its nodes and its key stay
    /// reserved; who waits is told within the time of the lease that it does not answer.
    async fn file(&self, new: &NewJob) -> Result<(), OperationError> {
        let Err(error) = self.catalog.create_job(self.epoch, new).await else { return Ok(()) };
        if matches!(error, CatalogError::StaleEpoch { .. }) {
            return Err(database_failed("file the job", &error));
        }
        let mut pause = SAVE_PAUSE;
        loop {
            match self.catalog.job_alone(&new.job_id).await {
                Ok(None) => return Err(database_failed("file the job", &error)),
                Ok(Some(_)) => {
                    tracing::warn!(job = new.job_id, error = chain(&error), "the job is stored all the same");
                    return Ok(());
                }
                Err(unknown) => {
                    let (job, error) = (&new.job_id, chain(&unknown));
                    tracing::error!(job, error, "whether the job was stored is not known; looking again");
                }
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                let message = "the server is stopping, and whether the job is stored is not known";
                return Err(OperationError::new(OperationErrorKind::Unavailable, message)
                    .hint("when it is back: the lists show the job, or send the request with its idempotency_key again"));
            }
            pause = SAVE_PAUSE_LIMIT.min(pause * 2);
        }
    }

    /// Drives a job that was found unfinished at the start, as soon as its nodes are free.
    pub(crate) fn resume<M: Machine>(
        self: &Arc<Self>,
        job: M,
        filing: Filing,
        performer: Arc<dyn Perform<M>>,
    ) {
        let runner = Arc::clone(self);
        let entry = self.handles.enter(&job);
        let waiting = async move {
            loop {
                let released = runner.released.notified();
                match runner.reserve(&job, &filing) {
                    Ok(reservation) => {
                        break runner.spawn(job, M::RESUMED(), performer, reservation, entry);
                    }
                    Err(error) => tracing::info!(job = job.job_id(), why = %error, "the job waits"),
                }
                released.await;
            }
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(waiting).await });
    }

    /// Stops driving; the jobs go on at the next start.
    pub(crate) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, LiveJob>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve<M: Machine>(
        self: &Arc<Self>,
        job: &M,
        filing: &Filing,
    ) -> Result<Reservation, OperationError> {
        let (job_id, targets, pauses) = (job.job_id(), job.busy(), job.may_pause());
        let mut live = self.lock();
        if live.len() >= LIVE_LIMIT {
            let message = format!("{LIVE_LIMIT} jobs are under way already");
            return Err(OperationError::new(OperationErrorKind::Exhausted, message)
                .hint("send the request again when one of them has ended"));
        }
        // An address is one node, in whichever cluster it was registered.
        for (other_id, other) in live.iter() {
            if let Some(target) = other.targets.iter().find(|target| targets.contains(target)) {
                let message =
                    format!("{target} is at work for the job {other_id} (snapshot {})", other.snapshot_id);
                return Err(OperationError::new(OperationErrorKind::FailedPrecondition, message)
                    .hint("wait until that job has ended: ListBackups and ListRestoreStatuses show it"));
            }
            if pauses && other.pauses {
                let message = format!(
                    "the applications are to be paused for the job {other_id} (snapshot {})",
                    other.snapshot_id
                );
                return Err(OperationError::new(OperationErrorKind::FailedPrecondition, message)
                    .hint("wait until its snapshots are taken: ListBackups shows them as STARTED"));
            }
        }
        let entry = LiveJob { snapshot_id: filing.snapshot_id.clone(), targets, pauses };
        live.insert(job_id.clone(), entry);
        Ok(Reservation { job_id, runner: Arc::clone(self) })
    }

    fn spawn<M: Machine>(
        self: &Arc<Self>,
        job: M,
        first: M::Event,
        performer: Arc<dyn Perform<M>>,
        reservation: Reservation,
        entry: Entry<M>,
    ) {
        let runner = Arc::clone(self);
        self.tasks.spawn(async move {
            let job_id = job.job_id();
            let mut reservation = Some(reservation);
            let driven = runner.drive(job, first, &performer, &entry, &mut reservation);
            if runner.stop.run_until_cancelled(driven).await.is_none() {
                tracing::info!(job = job_id, "stopped; the job goes on at the next start");
            }
            performer.release().await;
        });
    }

    /// The loop: step, store, perform. At the end the nodes are let go before anybody can read that it is the end.
    async fn drive<M: Machine>(
        &self,
        mut job: M,
        first: M::Event,
        performer: &Arc<dyn Perform<M>>,
        entry: &Entry<M>,
        reservation: &mut Option<Reservation>,
    ) {
        let mut effects = JoinSet::new();
        let mut events = vec![first];
        let mut is_cancelled = false;
        loop {
            let (next, wanted) = stepped(job.clone(), events.drain(..));
            if next.finished() {
                performer.release().await;
                reservation.take();
            }
            if let Some(reservation) = reservation {
                reservation.keep(next.busy(), next.may_pause());
            }
            if next != job {
                if !self.save(&next, &job).await {
                    return;
                }
                job = next;
                entry.view.send_replace(job.clone());
            }
            if job.finished() {
                tracing::info!(job = job.job_id(), "finished");
                return;
            }
            if is_cancelled {
                performer.cut();
            }
            let stored = Arc::new(job.clone());
            for effect in wanted {
                effects.spawn(perform(Arc::clone(performer), Arc::clone(&stored), effect));
            }
            let ended = tokio::select! {
                biased;
                () = entry.cancel.cancelled(), if !is_cancelled => {
                    (is_cancelled, events) = (true, vec![M::CANCELLED()]);
                    continue;
                }
                ended = next_events::<M>(&mut effects) => ended,
            };
            match ended {
                Ok(ended) if ended.is_empty() => {
                    let stage = job.stage_name();
                    tracing::error!(job = job.job_id(), stage, "the job has nothing to wait for");
                    return;
                }
                Ok(ended) => events = ended,
                Err(error) => {
                    tracing::error!(job = job.job_id(), error = %error, "an effect was lost; the job waits for a restart");
                    return;
                }
            }
        }
    }

    /// Stores the job, however long the database is out of reach; false when the job is no longer this server's.
    async fn save<M: Machine>(&self, job: &M, before: &M) -> bool {
        let known: HashSet<HistoryEntry> = before.history().into_iter().collect();
        let changed = job.history().into_iter().filter(|entry| !known.contains(entry));
        let is_new = |name: &String, node| before.nodes().get(name).is_none_or(|old| !Arc::ptr_eq(old, node));
        let parts = job.nodes().iter().filter(|(name, node)| is_new(name, node));
        let update = JobUpdate {
            job_id: job.job_id(),
            stage: job.stage_name().to_owned(),
            state_json: encode(job),
            parts: parts.map(part::<M>).collect(),
            finished: job.finished(),
            frees_key: matches!(job.outcome(), Some(Outcome::Refused(_))),
            rows: changed.map(row).collect(),
        };
        let mut pause = SAVE_PAUSE;
        loop {
            match self.catalog.save_job(self.epoch, &update, self.clock.now_ms()).await {
                Ok(()) => return true,
                Err(error @ CatalogError::Database { .. }) => {
                    tracing::error!(
                        job = update.job_id,
                        error = chain(&error),
                        "the job was not stored; trying again"
                    );
                }
                Err(error) => {
                    tracing::error!(
                        job = update.job_id,
                        error = chain(&error),
                        "the job is no longer this server's"
                    );
                    return false;
                }
            }
            tokio::time::sleep(pause).await;
            pause = SAVE_PAUSE_LIMIT.min(pause * 2);
        }
    }
}

/// What several events come to, and what they want done.
fn stepped<M: Machine>(job: M, events: impl Iterator<Item = M::Event>) -> (M, Vec<M::Effect>) {
    events.fold((job, Vec::new()), |(job, mut wanted), event| {
        let (next, more) = job.step(event);
        wanted.extend(more);
        (next, wanted)
    })
}

/// Waits for an effect to end; with it come all that have ended as well, so that they are stored together.
async fn next_events<M: Machine>(effects: &mut JoinSet<M::Event>) -> Result<Vec<M::Event>, JoinError> {
    let mut ended: Vec<M::Event> = effects.join_next().await.transpose()?.into_iter().collect();
    while let Some(event) = effects.try_join_next() {
        ended.push(event?);
    }
    Ok(ended)
}

/// Performs one effect. A panic in it fails the effect, not the server.
async fn perform<M: Machine>(performer: Arc<dyn Perform<M>>, job: Arc<M>, effect: M::Effect) -> M::Event {
    let outcome = AssertUnwindSafe(performer.perform(&job, &effect)).catch_unwind().await;
    outcome.unwrap_or_else(|_panic| {
        tracing::error!(
            job = job.job_id(),
            stage = job.stage_name(),
            "a defect of Cassy: the stage panicked"
        );
        let failure = Failure {
            unavailable: false,
            message: format!("a defect of Cassy in the stage {}", job.stage_name()),
            hint: Some("the server's log has the details".to_owned()),
        };
        M::failed(&effect, failure)
    })
}

fn encode<M: Machine>(job: &M) -> String {
    serde_json::to_string(job).expect("a job holds nothing that JSON cannot express")
}

fn part<M: Machine>((name, node): (&String, &Arc<M::Part>)) -> JobPart {
    let state_json = serde_json::to_string(&**node).expect("a part holds nothing that JSON cannot express");
    JobPart { name: name.clone(), state_json }
}

/// A job as it was stored.
pub(crate) fn decode<M: Machine>(stored: &Job) -> Result<M, serde_json::Error> {
    let mut job: M = serde_json::from_str(&stored.state_json)?;
    for part in &stored.parts {
        job.nodes_mut().insert(part.name.clone(), Arc::new(serde_json::from_str(&part.state_json)?));
    }
    Ok(job)
}

fn row(entry: HistoryEntry) -> NodeRow {
    NodeRow { target_ip: entry.target, status: entry.status as u8, message: entry.message }
}

/// The answer when the database does not do its part.
pub(crate) fn database_failed(what: &str, error: &CatalogError) -> OperationError {
    let message = format!("cannot {what}: {}", chain(error));
    OperationError::new(OperationErrorKind::Unavailable, message).hint(
        "check the metadata database (metadata_db_url): its disk, its permissions, who else has it open",
    )
}

/// The answer when the work goes on without whoever waits for it.
pub(crate) fn stopping() -> OperationError {
    OperationError::new(OperationErrorKind::Unavailable, "the server is stopping")
        .hint("the job goes on when it is back: the lists show it")
}

/// Keeps the job's nodes, and the applications if it pauses them, from other jobs until it is dropped.
struct Reservation {
    job_id: String,
    runner: Arc<Runner>,
}

impl Reservation {
    /// Only these are still at work, and only so are the applications.
    fn keep(&self, busy: Vec<String>, pauses: bool) {
        let mut live = self.runner.lock();
        let Some(job) = live.get_mut(&self.job_id) else { return };
        if job.targets.len() != busy.len() || job.pauses != pauses {
            (job.targets, job.pauses) = (busy, pauses);
            self.runner.released.notify_waiters();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.runner.lock().remove(&self.job_id);
        self.runner.released.notify_waiters();
    }
}
