//! The other end of a guard's pipe: starts the process, waits until it is armed, lets it go.
//!
//! Invariant: the pipe's end is held by the [`GuardHandle`] alone. Rust opens every descriptor so that no other child
//! inherits it; whoever has the handle and dies, in whatever way, ends the pipe.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cassy_agent_protocol::GuardOrder;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::{DONE, LINE_LIMIT_BYTES, OutOfReach, READY, Ready};

/// From the start to the message that the guard is armed.
const START_LIMIT: Duration = Duration::from_secs(5);
/// From the last word to the end of the process.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A guard that is armed. Dropped, it unpauses.
#[derive(Debug)]
pub struct GuardHandle {
    child: Child,
    pipe: ChildStdin,
    unreachable: Vec<OutOfReach>,
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardStartError {
    /// The process.
    #[error("the guard {program:?} cannot be started")]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The pipes to it.
    #[error("the guard cannot be spoken to")]
    Pipe(#[source] io::Error),
    /// It ended.
    #[error("the guard ended before it was armed: {status}")]
    Ended {
        /// How.
        status: ExitStatus,
    },
    /// It says something, but not that it is armed.
    #[error("the guard does not say that it is armed")]
    Odd,
    /// It says nothing.
    #[error("the guard was not armed within {} s", START_LIMIT.as_secs())]
    Late,
}

/// Starts `program guard` and waits until it is armed. What it has to say later goes to `errors`, which it holds open.
///
/// The process leads a session of its own, so that neither a terminal nor a signal to this process group ends it. It
/// works in `/`.
///
/// # Errors
/// When it is not armed; the process is ended then.
pub async fn start_guard(
    program: &Path,
    order: &GuardOrder,
    errors: Stdio,
) -> Result<GuardHandle, GuardStartError> {
    let mut command = Command::new(program);
    command.arg("guard").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).current_dir("/");
    let started = command.spawn();
    let mut child =
        started.map_err(|source| GuardStartError::Start { program: program.to_owned(), source })?;
    match timeout(START_LIMIT, arm(&mut child, order)).await {
        Ok(Ok((pipe, ready))) => Ok(GuardHandle { child, pipe, unreachable: ready.unreachable }),
        Ok(Err(error)) => Err(given_up(child, error).await),
        Err(_elapsed) => Err(given_up(child, GuardStartError::Late).await),
    }
}

async fn arm(child: &mut Child, order: &GuardOrder) -> Result<(ChildStdin, Ready), GuardStartError> {
    let (Some(mut pipe), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(GuardStartError::Odd);
    };
    let mut line = serde_json::to_vec(order).map_err(|error| GuardStartError::Pipe(error.into()))?;
    line.push(b'\n');
    // One that has ended says so with its status, below.
    let written = pipe.write_all(&line).await;
    let mut answer = String::new();
    let mut output = BufReader::new(output).take(LINE_LIMIT_BYTES);
    output.read_line(&mut answer).await.map_err(GuardStartError::Pipe)?;
    if answer.is_empty() {
        let status = child.wait().await.map_err(GuardStartError::Pipe)?;
        return Err(GuardStartError::Ended { status });
    }
    written.map_err(GuardStartError::Pipe)?;
    let ready = answer.strip_prefix(READY).and_then(|ready| serde_json::from_str(ready).ok());
    Ok((pipe, ready.ok_or(GuardStartError::Odd)?))
}

async fn given_up(mut child: Child, error: GuardStartError) -> GuardStartError {
    // It may have ended by itself.
    let _ = child.kill().await;
    error
}

impl GuardHandle {
    /// Those that the guard could not connect to when it was armed.
    #[must_use]
    pub fn unreachable(&self) -> &[OutOfReach] {
        &self.unreachable
    }

    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything is unpaused: the guard ends without doing anything.
    ///
    /// # Errors
    /// When it did not end so: it unpauses then, or has done so already.
    pub async fn release(self) -> io::Result<()> {
        let Self { mut child, mut pipe, .. } = self;
        let told = pipe.write_all(DONE).await;
        drop(pipe);
        let ended = timeout(END_LIMIT, child.wait()).await;
        match ended.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?? {
            status if status.success() => told,
            status => Err(io::Error::other(format!("it ended with {status}"))),
        }
    }
}
