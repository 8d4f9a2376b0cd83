//! The loop of an agent: greets, works on one request at a time, relays connections beside it, says that it is alive,
//! and ends with its input.
//!
//! Invariants: the loop never waits for work, for the disk, for a relayed peer or for a reader of its output; when it ends, all work
//! has been told to stop; a panic in a request is an answer, not the end.

mod guard;
pub(crate) mod lock;
mod output;
mod spool;
mod work;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::{
    AgentError, AgentHello, FrameDecoder, FrameError, FromAgent, Progress, Reply, Request, ServerHello,
    ToAgent,
};
use cassy_relay::Breach;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::context::Context;
use crate::inspect::Machine;
use crate::inspect::account::Accounts;
use crate::relay::Relay;
use output::Output;
use spool::Spool;
use work::{Worker, cut_short, defect};

/// How long the server has for its hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(60);
/// How long work has to stop when the agent ends.
const GRACE: Duration = Duration::from_secs(5);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Below these a stall of the machine passes for a lost peer.
const LEAST_HEARTBEAT_MS: u64 = 10;
const LEAST_SILENCE_MS: u64 = 50;
const READ_BYTES: usize = 64 << 10;

/// What this executable is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 of the executable, lower-case hex digits.
    pub build: String,
    /// The version of the package.
    pub version: String,
}

/// Why the loop ended otherwise than by the end of its input.
#[derive(Debug, thiserror::Error)]
pub enum AgentLoopError {
    /// The input failed.
    #[error("cannot read from the server")]
    Read(#[source] std::io::Error),
    /// The output failed, or nobody reads it.
    #[error("cannot write to the server")]
    Write(#[source] std::io::Error),
    /// The input is not what a server of this build sends.
    #[error("the server does not speak this protocol")]
    Frame(#[source] FrameError),
    /// A message that has no place there.
    #[error("the server sent {what}")]
    Unexpected {
        /// What.
        what: &'static str,
    },
    /// Relayed connections against their rules.
    #[error("the server breaks the protocol")]
    Relay(#[source] Breach),
    /// The server is taken for gone.
    #[error("nothing was heard from the server for {} ms", .0.as_millis())]
    Silence(Duration),
    /// There is no place for the agent's own files.
    #[error(
        "no directory for the agent's own files can be made under $XDG_CACHE_HOME, $HOME/.cache or /var/tmp"
    )]
    Spool(#[source] std::io::Error),
}

/// Serves one server until its input ends. Afterwards the process should end at once: work that cannot be stopped
/// may still hold a thread, and the node's lock with it.
pub async fn run(
    stdin: impl AsyncRead + Unpin,
    stdout: impl AsyncWrite + Unpin + Send + 'static,
    identity: Identity,
) -> Result<(), AgentLoopError> {
    serve(stdin, stdout, identity, Machine::default(), &spool::default_bases()).await
}

async fn serve(
    stdin: impl AsyncRead + Unpin,
    stdout: impl AsyncWrite + Unpin + Send + 'static,
    identity: Identity,
    machine: Machine,
    spools: &[PathBuf],
) -> Result<(), AgentLoopError> {
    let spool = Spool::make(spools).map_err(AgentLoopError::Spool)?;
    let worker = Arc::new(Worker::new(machine, spool));
    let (relay, relayed) = Relay::new();
    let mut session = Session {
        worker: Arc::clone(&worker),
        output: Output::start(stdout, relayed),
        relay,
        identity,
        peer: None,
        job: None,
        heard: Instant::now(),
    };
    let outcome = session.turn(stdin).await;
    if let Err(error) = &outcome {
        tracing::warn!(error = crate::failure::chain(error), "the agent ends");
    }
    if !session.stop().await {
        // The lock and the spool stay until the process ends: a thread of ours may still be at work.
        Box::leak(Box::new(worker));
    }
    outcome
}

struct Session {
    worker: Arc<Worker>,
    output: Output,
    relay: Relay,
    identity: Identity,
    /// After the server's hello.
    peer: Option<Peer>,
    job: Option<Job>,
    /// When the last frame came.
    heard: Instant,
}

struct Peer {
    heartbeat: Interval,
    silence: Duration,
}

/// A request under way.
struct Job {
    id: u64,
    context: Context,
    task: JoinHandle<Result<Reply, AgentError>>,
    /// And how many beats there had been.
    reported: (Progress, u64),
    report: Interval,
}

/// What happened next.
enum Event {
    Input(std::io::Result<usize>),
    Heartbeat,
    Report,
    Finished(Result<Reply, AgentError>),
    Silence(Duration),
    OutputFailed(std::io::Error),
}

impl Session {
    async fn turn(&mut self, mut stdin: impl AsyncRead + Unpin) -> Result<(), AgentLoopError> {
        let mut decoder = FrameDecoder::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.next(&mut stdin, &mut buffer).await {
                Event::Input(Ok(0)) => return decoder.end().map_err(AgentLoopError::Frame),
                Event::Input(Ok(read)) => {
                    decoder.push(buffer.get(..read).unwrap_or_default());
                    self.take(&mut decoder)?;
                }
                Event::Input(Err(error)) => return Err(AgentLoopError::Read(error)),
                Event::Heartbeat => self.output.offer(&FromAgent::Heartbeat),
                Event::Report => self.report(),
                Event::Finished(outcome) => self.finished(outcome)?,
                Event::Silence(silence) => return Err(AgentLoopError::Silence(silence)),
                Event::OutputFailed(error) => return Err(AgentLoopError::Write(error)),
            }
        }
    }

    async fn next(&mut self, stdin: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Event {
        let silence = self.peer.as_ref().map_or(HELLO_DEADLINE, |peer| peer.silence);
        let deadline = self.heard + silence;
        let (mut task, mut report) = (None, None);
        if let Some(job) = &mut self.job {
            task = Some(&mut job.task);
            report = Some(&mut job.report);
        }
        tokio::select! {
            read = stdin.read(buffer) => Event::Input(read),
            () = tick(self.peer.as_mut().map(|peer| &mut peer.heartbeat)) => Event::Heartbeat,
            () = tick(report) => Event::Report,
            outcome = finished(task) => Event::Finished(outcome),
            () = sleep_until(deadline) => Event::Silence(silence),
            error = self.output.failed() => Event::OutputFailed(error),
        }
    }

    fn take(&mut self, decoder: &mut FrameDecoder) -> Result<(), AgentLoopError> {
        while let Some(message) = decoder.next().map_err(AgentLoopError::Frame)? {
            self.heard = Instant::now();
            self.message(message)?;
        }
        Ok(())
    }

    fn message(&mut self, message: ToAgent) -> Result<(), AgentLoopError> {
        match (message, &self.peer) {
            (ToAgent::Hello(hello), None) => self.greet(&hello),
            (ToAgent::Hello(_), Some(_)) => Err(AgentLoopError::Unexpected { what: "a second hello" }),
            (_, None) => Err(AgentLoopError::Unexpected { what: "something else than a hello first" }),
            (ToAgent::Request { id, request }, Some(_)) => self.begin(id, request),
            (ToAgent::Cancel { id }, Some(_)) => {
                if let Some(job) = self.job.as_ref().filter(|job| job.id == id) {
                    job.context.cancel.cancel();
                }
                Ok(())
            }
            (ToAgent::Relay { connection, frame }, Some(_)) => {
                self.relay.take(connection, frame).map_err(AgentLoopError::Relay)
            }
            (ToAgent::Heartbeat, Some(_)) => Ok(()),
        }
    }

    fn greet(&mut self, hello: &ServerHello) -> Result<(), AgentLoopError> {
        tracing::info!(job = hello.job_id, epoch = hello.epoch, "the server greets");
        let mut heartbeat = interval(Duration::from_millis(hello.heartbeat_ms.max(LEAST_HEARTBEAT_MS)));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let silence = Duration::from_millis(hello.silence_ms.clamp(LEAST_SILENCE_MS, u64::from(u32::MAX)));
        self.peer = Some(Peer { heartbeat, silence });
        let answer = AgentHello {
            build: self.identity.build.clone(),
            version: self.identity.version.clone(),
            hostname: hostname(&self.worker.machine),
            pid: std::process::id(),
            user: Accounts::read(&self.worker.machine.passwd).name(rustix::process::geteuid().as_raw()),
        };
        self.output.send(&FromAgent::Hello(answer))
    }

    fn begin(&mut self, id: u64, request: Request) -> Result<(), AgentLoopError> {
        if self.job.is_some() {
            let outcome = Err(defect("a request is under way, and an agent works on one at a time"));
            return self.output.send(&FromAgent::Reply { id, outcome });
        }
        let context = Context::default();
        let work = Box::pin(Arc::clone(&self.worker).perform(context.clone(), request));
        let mut report = interval(PROGRESS_INTERVAL);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        report.reset();
        self.job = Some(Job { id, context, task: tokio::spawn(work), reported: Default::default(), report });
        Ok(())
    }

    fn report(&mut self) {
        let Some(job) = &mut self.job else { return };
        let sink = &job.context.progress;
        let (progress, beats) = (sink.latest(), sink.beats());
        if (progress, beats) != job.reported {
            job.reported = (progress, beats);
            self.output.offer(&FromAgent::Progress { id: job.id, progress });
        }
    }

    fn finished(&mut self, outcome: Result<Reply, AgentError>) -> Result<(), AgentLoopError> {
        let Some(Job { id, .. }) = self.job.take() else { return Ok(()) };
        if let Err(error) = &outcome {
            tracing::warn!(id, kind = ?error.kind, error = error.message, "the request failed");
        }
        self.output.send(&FromAgent::Reply { id, outcome })
    }

    /// Stops the work and the output; false when the work did not stop in time.
    async fn stop(self) -> bool {
        let stopped = match self.job {
            Some(mut job) => {
                job.context.cancel.cancel();
                tokio::time::timeout(GRACE, &mut job.task).await.inspect_err(|_| job.task.abort()).is_ok()
            }
            None => true,
        };
        self.output.stop().await;
        stopped
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => pending().await,
    }
}

async fn finished(task: Option<&mut JoinHandle<Result<Reply, AgentError>>>) -> Result<Reply, AgentError> {
    match task {
        Some(task) => task.await.unwrap_or_else(|error| Err(cut_short(error))),
        None => pending().await,
    }
}

fn hostname(machine: &Machine) -> String {
    let name = std::fs::read_to_string(machine.proc_root.join("sys/kernel/hostname"));
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
