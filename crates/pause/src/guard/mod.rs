//! A guard: a process that unpauses when the one that pauses cannot. It hangs on a pipe.
//!
//! One line of JSON comes in, the [`GuardOrder`]; `ready {"unreachable": [...]}` goes out when the guard is armed; then
//! the line `done` lets it go. Anything else that the pipe brings, its end above all, means that the other side is in no
//! state to unpause: the guard does it, and so it does when its deadline has passed or it is told to end.
//!
//! A Pause may be under way at that moment, and close a gate after its Unpause was acknowledged. Every Pause is over by
//! the deadline; as long, and once more after it, the guard unpauses again and again.

mod start;

use std::fmt;
use std::io;
use std::time::Duration;

use cassy_agent_protocol::{GuardOrder, Instance};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::PauseClient;
use crate::error::{InstanceError, chain};
use crate::pausing::LATE;
use crate::tls::{Tls, TlsTrustError};

pub use start::{GuardHandle, GuardStartError, start_guard};

/// Of an order, and of the answer to it: some ten thousand instances.
const LINE_LIMIT_BYTES: u64 = 4 << 20;
const READY: &str = "ready ";
const DONE: &[u8] = b"done\n";
/// From the start of the process to its order.
const ORDER_LIMIT: Duration = Duration::from_secs(10);
/// For the connections that say whom the guard reaches.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// No pause and no trying is longer; more is a mistake in the order.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Whom an armed guard cannot connect to.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ready {
    unreachable: Vec<OutOfReach>,
}

/// One whom a guard cannot connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfReach {
    /// Who.
    #[serde(flatten)]
    pub instance: Instance,
    /// Why not.
    pub reason: String,
    /// What to do.
    pub hint: String,
    /// Whether it could not be reached, rather than having been the wrong one.
    pub unavailable: bool,
}

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.instance, self.reason)
    }
}

impl From<InstanceError> for OutOfReach {
    fn from(error: InstanceError) -> Self {
        let InstanceError { instance, problem } = error;
        Self {
            instance,
            reason: chain(&problem),
            hint: problem.hint().to_owned(),
            unavailable: problem.is_unavailable(),
        }
    }
}

/// Why a guard unpaused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// The pipe ended.
    InputEnded,
    /// The pipe brought something that nobody sends.
    InputOdd,
    /// The deadline passed.
    Deadline,
    /// The guard was told to end.
    Terminated,
}

impl Alarm {
    /// The reason in words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::InputEnded => "the process that paused the applications is gone",
            Self::InputOdd => "the process that paused the applications sends nonsense",
            Self::Deadline => "the applications have been paused for too long",
            Self::Terminated => "this guard is told to end",
        }
    }
}

/// How a guard ended.
#[derive(Debug)]
pub enum Relief {
    /// It was let go, and did nothing.
    Released,
    /// It unpaused.
    Unpaused {
        /// Why.
        alarm: Alarm,
        /// Those that have not acknowledged it.
        left: Vec<InstanceError>,
    },
}

/// Why a guard was never armed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Nothing, or not all of it.
    #[error("no order came on the standard input within {} s", .0.as_secs())]
    Late(Duration),
    /// The input ended before.
    #[error("the standard input ended before the order")]
    Ended,
    /// Not one line of so many bytes.
    #[error("the order is longer than {LINE_LIMIT_BYTES} bytes")]
    TooLong,
    /// Not an order.
    #[error("the order is not understood")]
    Malformed(#[source] serde_json::Error),
    /// A time that nobody means.
    #[error("the order's {what} is longer than {} h", LONGEST.as_secs() / 3600)]
    Endless {
        /// Which.
        what: &'static str,
    },
    /// Nobody could be believed.
    #[error("the order's certificates cannot be used")]
    Trust(#[source] TlsTrustError),
    /// The pipe is broken.
    #[error("the order cannot be read")]
    Unreadable(#[source] io::Error),
}

/// Stands guard until it is let go, or has unpaused. `terminated` is a signal to end; `say` hears what happens.
///
/// # Errors
/// When no order came: nobody relies on this guard.
pub async fn stand_guard(
    mut input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    client: &PauseClient,
    terminated: impl Future<Output = ()>,
    say: impl Fn(&str),
) -> Result<Relief, OrderError> {
    let order = read_order(&mut input).await?;
    let client = match order.tls.clone() {
        Some(trust) => client.over_tls(Tls::of(trust).map_err(OrderError::Trust)?),
        None => client.clone(),
    };
    let deadline = Instant::now() + Duration::from_millis(order.deadline_ms);
    let unreachable = client.unreachable(&order.instances, REACH_LIMIT).await;
    let ready = Ready { unreachable: unreachable.into_iter().map(OutOfReach::from).collect() };
    announce(&mut output, &ready).await;
    let alarm = tokio::select! {
        alarm = watch(&mut input) => alarm,
        () = sleep_until(deadline) => Some(Alarm::Deadline),
        () = terminated => Some(Alarm::Terminated),
    };
    let Some(alarm) = alarm else { return Ok(Relief::Released) };
    say(&format!("job {}: {}; unpausing {} instances", order.job_id, alarm.text(), order.instances.len()));
    let late = deadline.saturating_duration_since(Instant::now()) + LATE;
    let within = late + Duration::from_millis(order.give_up_ms);
    let unpaused = client.unpause(&order.instances, late, within).await;
    Ok(Relief::Unpaused { alarm, left: unpaused.into_iter().filter_map(Result::err).collect() })
}

async fn read_order(input: &mut (impl AsyncBufRead + Unpin)) -> Result<GuardOrder, OrderError> {
    let line = timeout(ORDER_LIMIT, read_line(input, LINE_LIMIT_BYTES)).await;
    let line = line.map_err(|_elapsed| OrderError::Late(ORDER_LIMIT))?.map_err(OrderError::Unreadable)?;
    match line.strip_suffix(b"\n") {
        Some(line) => judged(serde_json::from_slice(line).map_err(OrderError::Malformed)?),
        None if line.len() as u64 > LINE_LIMIT_BYTES => Err(OrderError::TooLong),
        None => Err(OrderError::Ended),
    }
}

fn judged(order: GuardOrder) -> Result<GuardOrder, OrderError> {
    let too_long = |millis| Duration::from_millis(millis) > LONGEST;
    match () {
        () if too_long(order.deadline_ms) => Err(OrderError::Endless { what: "deadline_ms" }),
        () if too_long(order.give_up_ms) => Err(OrderError::Endless { what: "give_up_ms" }),
        () => Ok(order),
    }
}

/// Up to the end of a line, of the input, or one byte more than the limit.
async fn read_line(input: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.take(limit + 1).read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// Who does not listen is gone; the input will say so.
async fn announce(output: &mut (impl AsyncWrite + Unpin), ready: &Ready) {
    let text = serde_json::to_string(ready).unwrap_or_else(|_never| "{\"unreachable\":[]}".to_owned());
    let _ = output.write_all(format!("{READY}{text}\n").as_bytes()).await;
    let _ = output.flush().await;
}

/// Until the input says something. `None` when it lets the guard go.
async fn watch(input: &mut (impl AsyncBufRead + Unpin)) -> Option<Alarm> {
    match read_line(input, DONE.len() as u64).await {
        Ok(line) if line == DONE => None,
        // Nothing, or a word that was cut off.
        Ok(line) if DONE.starts_with(&line) => Some(Alarm::InputEnded),
        Ok(_) => Some(Alarm::InputOdd),
        Err(_broken) => Some(Alarm::InputEnded),
    }
}
