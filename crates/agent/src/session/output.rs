//! The agent's side of the stream: frames in order, never waited for. A server that does not read is one that is
//! gone.

use std::io;
use std::time::Duration;

use cassy_agent_protocol::frame::encode;
use cassy_agent_protocol::{FromAgent, PREAMBLE};
use cassy_relay::Outgoing;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::AgentLoopError;
use super::work::defect;

/// Frames that wait for the server to read.
const QUEUE: usize = 64;
/// How long the last frames may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Output {
    frames: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<io::Result<()>>,
}

impl Output {
    /// Begins with the preamble. What is relayed comes after everything else that waits.
    pub(crate) fn start(
        stdout: impl AsyncWrite + Unpin + Send + 'static,
        relayed: mpsc::Receiver<Outgoing>,
    ) -> Self {
        let (frames, receiver) = mpsc::channel(QUEUE);
        Self { frames, task: tokio::spawn(write(stdout, receiver, relayed)) }
    }

    /// What may be left out: when the server is slow, the next one says more.
    pub(crate) fn offer(&self, message: &FromAgent) {
        if self.frames.capacity() > QUEUE / 2
            && let Ok(frame) = encode(message)
        {
            // Full or closed: the loop notices by itself.
            let _ = self.frames.try_send(frame);
        }
    }

    /// What must arrive.
    pub(crate) fn send(&self, message: &FromAgent) -> Result<(), AgentLoopError> {
        let frame = encode(message).or_else(|error| match message {
            FromAgent::Reply { id, .. } => encode(&FromAgent::Reply {
                id: *id,
                outcome: Err(defect(format!("the answer cannot be sent: {error}"))),
            }),
            _ => Err(error),
        });
        let frame = frame.map_err(AgentLoopError::Frame)?;
        self.frames.try_send(frame).map_err(|error| {
            AgentLoopError::Write(io::Error::new(io::ErrorKind::BrokenPipe, error.to_string()))
        })
    }

    /// Answers when writing has failed.
    pub(crate) async fn failed(&mut self) -> io::Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => io::ErrorKind::BrokenPipe.into(),
            Err(error) => io::Error::other(error),
        }
    }

    /// Writes what waits, as far as the server still reads.
    pub(crate) async fn stop(mut self) {
        drop(self.frames);
        if !self.task.is_finished() && tokio::time::timeout(LAST_WORDS, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn write(
    mut stdout: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Vec<u8>>,
    mut relayed: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    stdout.write_all(PREAMBLE).await?;
    stdout.flush().await?;
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv() => match frame {
                Some(frame) => frame,
                None => break,
            },
            Some((connection, frame)) = relayed.recv() => {
                encode(&FromAgent::Relay { connection, frame }).map_err(io::Error::other)?
            }
        };
        stdout.write_all(&frame).await?;
        if frames.is_empty() && relayed.is_empty() {
            stdout.flush().await?;
        }
    }
    stdout.flush().await
}
