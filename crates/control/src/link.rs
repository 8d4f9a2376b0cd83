//! One job's connection to one node: an agent that is started when it is needed, holds the node's lock, and is
//! replaced when it is gone.

use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::{LockRequest, Progress, Reply, Request, ServerHello};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::cut::{Cut, amount, stopped};
use crate::nodes::{Agent, Cassandra, NodeAccess, NodeError, NodeErrorKind};
use crate::told::told;

/// Between two heartbeats of either side.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// After such a silence the other side is taken for gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);
/// To start an agent, its binary pushed first if need be.
const START_LIMIT: Duration = Duration::from_secs(120);
/// An agent of a dead server ends within its silence; then its lock is free.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// A request without any progress for so long is stopped.
const STALL_LIMIT: Duration = Duration::from_secs(600);
/// An agent that is asked to stop sending ends at its next piece.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Placing is not stopped, and waits for the file system once or twice.
const PLACING_LIMIT: Duration = Duration::from_secs(600);
/// Pauses between tries of what may be repeated.
pub(crate) const BACKOFF: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

/// The tries of one request that have failed.
#[derive(Default)]
pub(crate) struct Tries {
    count: usize,
    /// Why the last one failed.
    before: Option<String>,
}

/// See the module.
pub(crate) struct Link {
    address: String,
    job_id: String,
    epoch: i64,
    access: Arc<dyn NodeAccess>,
    agent: Mutex<Option<Arc<dyn Agent>>>,
    progress: watch::Sender<Progress>,
    cut: Cut,
}

impl Link {
    pub(crate) fn new(
        address: &str,
        job_id: &str,
        epoch: i64,
        access: Arc<dyn NodeAccess>,
        cut: Cut,
    ) -> Self {
        Self {
            address: address.to_owned(),
            job_id: job_id.to_owned(),
            epoch,
            access,
            agent: Mutex::new(None),
            progress: watch::channel(Progress::default()).0,
            cut,
        }
    }

    /// The node's.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How far the request under way is.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// All bytes of the request that has ended are dealt with.
    pub(crate) fn completed(&self, bytes: u64) {
        self.progress.send_modify(|now| (now.bytes_done, now.bytes_total) = (bytes, bytes));
    }

    /// A session with the node's Cassandra. It may go through the agent; one that is gone is replaced.
    pub(crate) async fn cassandra(&self) -> Result<Box<dyn Cassandra>, NodeError> {
        let outcome = self.running_agent().await?.cassandra().await;
        if !matches!(&outcome, Err(e) if e.kind == NodeErrorKind::Gone) {
            return outcome;
        }
        self.agent.lock().await.take();
        self.running_agent().await?.cassandra().await
    }

    /// Takes the node's lock with the current agent.
    pub(crate) async fn lock(&self, directory: &str) -> Result<(), NodeError> {
        let wait_ms = u64::try_from(LOCK_WAIT.as_millis()).unwrap_or(u64::MAX);
        let lock = LockRequest { directory: directory.to_owned(), wait_ms };
        self.request(Request::Lock(lock)).await.map(|_| ())
    }

    /// Sends a request once.
    pub(crate) async fn request(&self, request: Request) -> Result<Reply, NodeError> {
        let agent = self.running_agent().await?;
        self.ask(&*agent, request).await
    }

    async fn ask(&self, agent: &dyn Agent, request: Request) -> Result<Reply, NodeError> {
        let outcome = self.watched(agent, request).await;
        if matches!(&outcome, Err(e) if e.kind == NodeErrorKind::Gone) {
            self.agent.lock().await.take();
        }
        outcome
    }

    /// Sends a request to the agent that runs; `None` when none does.
    pub(crate) async fn request_to_running(&self, request: Request) -> Option<Result<Reply, NodeError>> {
        let agent = self.agent.lock().await.clone()?;
        Some(self.watched(&*agent, request).await)
    }

    /// Sends a request that may be repeated as it is, under the node's lock.
    pub(crate) async fn request_repeatedly(&self, lock: &str, request: &Request) -> Result<Reply, NodeError> {
        let mut tries = Tries::default();
        loop {
            match self.locked_request(lock, request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(error) if stop_limit(request).is_some() => {
                    self.cut.unless(self.pause_before_retry(&mut tries, error)).await?;
                }
                Err(error) => self.pause_before_retry(&mut tries, error).await?,
            }
        }
    }

    /// How far the request was that was cut.
    pub(crate) fn stopped(&self, done: &str) -> NodeError {
        stopped(amount(*self.progress.borrow(), done))
    }

    /// Waits for the next try; gives the error back when there is none, with the one before, which it may hide. A
    /// lock that was not free within [`LOCK_WAIT`] is of an agent that neither works for us nor ends by itself.
    pub(crate) async fn pause_before_retry(
        &self,
        tries: &mut Tries,
        error: NodeError,
    ) -> Result<(), NodeError> {
        let again = error.is_transient() && error.kind != NodeErrorKind::Busy;
        let Some(pause) = BACKOFF.get(tries.count).filter(|_| again) else {
            return Err(match tries.before.take().filter(|before| *before != error.message) {
                Some(before) => {
                    NodeError { message: format!("{}; before that: {before}", error.message), ..error }
                }
                None => error,
            });
        };
        tries.count += 1;
        tries.before = Some(error.message.clone());
        tracing::warn!(node = self.address, job = self.job_id, error = %error, "trying again");
        tokio::time::sleep(*pause).await;
        Ok(())
    }

    /// Sends a request once, under the node's lock: an agent that has it already is told so at once.
    pub(crate) async fn locked_request(&self, lock: &str, request: Request) -> Result<Reply, NodeError> {
        let locked = async {
            self.lock(lock).await?;
            self.running_agent().await
        };
        let agent = match stop_limit(&request) {
            Some(_) => self.cut.unless(locked).await?,
            None => locked.await?,
        };
        self.ask(&*agent, request).await
    }

    /// Ends the agent.
    pub(crate) async fn close(&self) {
        if let Some(agent) = self.agent.lock().await.take() {
            agent.close().await;
        }
    }

    async fn running_agent(&self) -> Result<Arc<dyn Agent>, NodeError> {
        let mut slot = self.agent.lock().await;
        if let Some(agent) = &*slot {
            return Ok(Arc::clone(agent));
        }
        let hello = ServerHello {
            job_id: self.job_id.clone(),
            epoch: self.epoch,
            heartbeat_ms: u64::try_from(HEARTBEAT.as_millis()).unwrap_or(u64::MAX),
            silence_ms: u64::try_from(SILENCE.as_millis()).unwrap_or(u64::MAX),
        };
        let started = timeout(START_LIMIT, self.access.agent(&self.address, hello)).await;
        let agent: Arc<dyn Agent> = match started {
            Ok(agent) => agent?.into(),
            Err(_elapsed) => return Err(self.too_slow("starting the agent", START_LIMIT)),
        };
        *slot = Some(Arc::clone(&agent));
        Ok(agent)
    }

    /// Stops a request that makes no progress. One that may be cut is asked to stop when the job is: its answer says what
    /// was done until then. An agent that does not answer is cut off.
    async fn watched(&self, agent: &dyn Agent, request: Request) -> Result<Reply, NodeError> {
        let stop_limit = stop_limit(&request);
        let mut cut_off: Option<Instant> = None;
        let progress = self.progress.clone();
        let work = agent.request(
            request,
            Arc::new(move |now| {
                progress.send_replace(now);
            }),
        );
        tokio::pin!(work);
        let mut moved = self.progress.subscribe();
        loop {
            tokio::select! {
                // The request is on its way before it is stopped.
                biased;
                outcome = &mut work => return told(outcome),
                limit = self.cut_after(stop_limit), if cut_off.is_none() => {
                    cut_off = Some(Instant::now() + limit);
                    agent.cancel().await;
                }
                () = sleep_until(cut_off.unwrap_or_else(Instant::now)), if cut_off.is_some() => {
                    self.agent.lock().await.take();
                    return Err(self.too_slow("stopping the agent's request", stop_limit.unwrap_or_default()));
                }
                change = timeout(STALL_LIMIT, moved.changed()) => if change.is_err() {
                    agent.cancel().await;
                    self.agent.lock().await.take();
                    return Err(self.too_slow("the agent's request", STALL_LIMIT));
                },
            }
        }
    }

    /// When the job is cut; then how long such a request may take to stop. Never for one that is not cut.
    async fn cut_after(&self, stop_limit: Option<Duration>) -> Duration {
        match stop_limit {
            Some(limit) => {
                self.cut.made().await;
                limit
            }
            None => std::future::pending().await,
        }
    }

    fn too_slow(&self, what: &str, limit: Duration) -> NodeError {
        let message = format!("{}: {what} made no progress for {} s", self.address, limit.as_secs());
        NodeError::new(NodeErrorKind::Transient, message)
    }
}

/// How long a request may take to stop when its job is cancelled; `None` for one that is never cut.
fn stop_limit(request: &Request) -> Option<Duration> {
    match request {
        Request::Upload(_) | Request::CheckSnapshot(_) => Some(STOP_LIMIT),
        Request::Restore(_) => Some(PLACING_LIMIT),
        _ => None,
    }
}
