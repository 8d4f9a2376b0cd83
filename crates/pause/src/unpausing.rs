//! Unpausing one instance: as long as it may be paused, and there is time.
//!
//! The rule:
//! - An acknowledged Unpause ends it, if it was sent when no Pause could take effect any more. A Pause that got no
//!   answer (it timed out, or its connection broke) may close the gate late: until its own time is over, acknowledged
//!   Unpauses are repeated, and then once more.
//! - One that answers late, or again after it did not, may hold a Pause that it took in long ago: its process was
//!   stopped, and which of its connections has its turn first is nobody's choice. For [`LATE`] from then on, acknowledged
//!   Unpauses are repeated, and then once more.
//! - A process that is gone is not paused, and one that is started anew begins unpaused. It is gone when, after that
//!   time, its host refuses connections again and again for [`GONE_AFTER`]: the host is up, nobody listens.
//! - One that was never asked to pause, as there was no connection, is not paused.
//! - One that is merely unreachable (no answer, no route, a broken connection) may be paused: it is tried to the end.

use std::io;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use tokio::time::{Instant, sleep_until};

use crate::admin::{Connection, Way};
use crate::backoff::Backoff;
use crate::client::CONNECT_LIMIT;
use crate::error::{InstanceError, Problem};
use crate::pausing::LATE;

/// For one answer; then another connection may do better.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// A process that is started anew listens again before that, or is down.
const GONE_AFTER: Duration = Duration::from_secs(3);
/// One refusal may be a packet filter that is just being changed.
const GONE_REFUSALS: u32 = 3;

/// An instance that is not paused any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpaused {
    /// It says so.
    Acknowledged,
    /// Nobody listens at its address: the process is gone, and its pause with it.
    Gone,
    /// It was never asked to pause.
    NeverAsked,
}

/// One instance that is being unpaused.
pub(crate) struct Unpausing<'a> {
    pub(crate) way: &'a Way,
    pub(crate) instance: &'a Instance,
    /// The way to try first.
    pub(crate) connection: Option<Connection>,
    /// A Pause that was sent before may take effect until then.
    pub(crate) late_until: Instant,
    pub(crate) deadline: Instant,
}

impl Unpausing<'_> {
    /// Tries until it is certain, or the deadline has passed.
    pub(crate) async fn run(mut self) -> Result<Unpaused, InstanceError> {
        let mut backoff = Backoff::new();
        let mut refusals = Refusals::default();
        let mut last = None;
        let mut was_silent = false;
        loop {
            let begun = Instant::now();
            let tried = self.attempt().await;
            refusals.note(&tried);
            let is_late = begun.elapsed() >= LATE;
            if tried.is_ok() && (was_silent || is_late) {
                self.late_until = self.late_until.max(Instant::now() + LATE);
            }
            was_silent = tried.as_ref().is_err_and(is_silence);
            let settled = begun >= self.late_until;
            match tried {
                Ok(()) if settled => return Ok(Unpaused::Acknowledged),
                Err(_) if settled && refusals.mean_gone() => return Ok(Unpaused::Gone),
                Ok(()) => last = Some(Problem::MayStillPause { left: self.late_until - Instant::now() }),
                // One that the deadline cut short says less than the one before.
                Err(problem) if Instant::now() < self.deadline || last.is_none() => last = Some(problem),
                Err(_cut_short) => {}
            }
            let now = Instant::now();
            if let Some(problem) = last.clone().filter(|_| now >= self.deadline) {
                return Err(InstanceError::new(self.instance, problem));
            }
            let mut next = (now + backoff.next()).min(self.deadline);
            if !settled {
                next = next.min(self.late_until);
            }
            sleep_until(next).await;
        }
    }

    /// One Unpause, on the connection at hand or a new one. A connection that does not answer is given up.
    async fn attempt(&mut self) -> Result<(), Problem> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.way, self.instance, self.limit(CONNECT_LIMIT)).await?,
        };
        let unpaused = connection.unpause(self.limit(CALL_LIMIT) - Instant::now()).await;
        if matches!(unpaused, Ok(()) | Err(Problem::Refused { .. })) {
            self.connection = Some(connection);
        }
        unpaused
    }

    fn limit(&self, longest: Duration) -> Instant {
        self.deadline.min(Instant::now() + longest)
    }
}

/// Whether nothing was heard of the process, which may have taken in what was sent.
fn is_silence(problem: &Problem) -> bool {
    match problem {
        Problem::TimedOut { .. } => true,
        Problem::Unreachable(error) => error.kind() == io::ErrorKind::TimedOut,
        _ => false,
    }
}

/// Connections that the instance's host has refused, one after another.
#[derive(Debug, Default)]
struct Refusals {
    since: Option<Instant>,
    count: u32,
}

impl Refusals {
    fn note(&mut self, tried: &Result<(), Problem>) {
        let refused = matches!(tried, Err(Problem::Unreachable(error))
            if error.kind() == io::ErrorKind::ConnectionRefused);
        if refused {
            self.since.get_or_insert_with(Instant::now);
            self.count += 1;
        } else {
            *self = Self::default();
        }
    }

    fn mean_gone(&self) -> bool {
        self.count >= GONE_REFUSALS && self.since.is_some_and(|since| since.elapsed() >= GONE_AFTER)
    }
}
