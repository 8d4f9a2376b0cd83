//! Connections to ports of a node's own loopback, through its agent: the server's end of the relay.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use cassy_agent_protocol::relay::{CONNECTIONS_LIMIT, PIECE_BYTES};
use cassy_agent_protocol::{RelayEnd, RelayFrame};
use cassy_relay::{Breach, Lanes, Outgoing};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::{mpsc, oneshot, watch};

use crate::text::printable;

/// Between a lane and who reads or writes.
const BUFFER_BYTES: usize = 2 * PIECE_BYTES;

/// A connection to a port of the node's own loopback. To shut it down closes it in both directions. How it broke, or
/// why the agent is gone, is an error after everything that had come before.
#[derive(Debug)]
pub struct LoopbackStream {
    near: DuplexStream,
    end: End,
    gone: watch::Receiver<Option<String>>,
}

/// What the agent said of a connection's end.
type End = Arc<OnceLock<RelayEnd>>;

/// Where the outcome of a dial goes.
pub(crate) type Answer = oneshot::Sender<io::Result<LoopbackStream>>;

/// All connections through one agent.
#[derive(Debug)]
pub(crate) struct Dials {
    lanes: Lanes,
    dialled: HashMap<u64, Dialled>,
    /// No number is used twice.
    next: u64,
    gone: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct Dialled {
    /// Until the agent has answered.
    opened: Option<oneshot::Sender<()>>,
    end: End,
}

impl Dials {
    /// Without any connection; their frames come out of the queue.
    pub(crate) fn new(gone: watch::Receiver<Option<String>>) -> (Self, mpsc::Receiver<Outgoing>) {
        let (lanes, frames) = Lanes::new();
        (Self { lanes, dialled: HashMap::new(), next: 1, gone }, frames)
    }

    /// Asks the agent for a connection to this port.
    pub(crate) fn dial(&mut self, port: u16, answer: Answer) -> Result<(), Breach> {
        if !self.lanes.has_room() {
            let full = format!("{CONNECTIONS_LIMIT} connections through one agent are open already");
            // Nobody may wait for it any more.
            answer.send(Err(io::Error::new(io::ErrorKind::QuotaExceeded, full))).ok();
            return Ok(());
        }
        let connection = self.next;
        self.next += 1;
        let (opened, is_open) = oneshot::channel();
        let (end, gone) = (End::default(), self.gone.clone());
        self.dialled.retain(|known, _| self.lanes.is_open(*known));
        self.dialled.insert(connection, Dialled { opened: Some(opened), end: Arc::clone(&end) });
        self.lanes.open(connection, |frames| async move {
            frames.send((connection, RelayFrame::Open { port })).await.map_err(|_gone| RelayEnd::Ended)?;
            wait(port, answer, is_open, end, gone).await
        })
    }

    /// Takes what the agent says of one connection.
    pub(crate) fn take(&mut self, connection: u64, frame: RelayFrame) -> Result<(), Breach> {
        if connection >= self.next {
            return Err(Breach::Misplaced);
        }
        match frame {
            RelayFrame::Open { .. } => Err(Breach::Misplaced),
            RelayFrame::Opened => {
                if let Some(opened) = self.dialled.get_mut(&connection).and_then(|one| one.opened.take()) {
                    // Who dialled may have gone away.
                    opened.send(()).ok();
                }
                Ok(())
            }
            RelayFrame::Data { piece } => self.lanes.data(connection, piece),
            RelayFrame::Taken => self.lanes.taken(connection),
            RelayFrame::Closed { end } => {
                if let Some(dialled) = self.dialled.remove(&connection) {
                    // The first word counts.
                    dialled.end.set(end).ok();
                }
                self.lanes.finish(connection);
                Ok(())
            }
        }
    }
}

/// Waits for the agent's answer and hands out the near end of the connection; gives the far one to the lane.
async fn wait(
    port: u16,
    mut answer: Answer,
    is_open: oneshot::Receiver<()>,
    end: End,
    gone: watch::Receiver<Option<String>>,
) -> Result<DuplexStream, RelayEnd> {
    let opened = tokio::select! {
        opened = is_open => opened.is_ok(),
        () = answer.closed() => return Err(RelayEnd::Ended),
    };
    let (near, far) = duplex(BUFFER_BYTES);
    let outcome = match opened {
        true => Ok(LoopbackStream { near, end, gone }),
        false => Err(refusal(port, end.get())),
    };
    // A near end that nobody takes ends the lane.
    answer.send(outcome).ok();
    if opened { Ok(far) } else { Err(RelayEnd::Ended) }
}

fn refusal(port: u16, end: Option<&RelayEnd>) -> io::Error {
    let place = format!("port {port} of the node's own loopback");
    match end {
        Some(RelayEnd::Refused) => {
            io::Error::new(io::ErrorKind::ConnectionRefused, format!("nothing listens on {place}"))
        }
        Some(RelayEnd::Failed(said)) => io::Error::other(format!("{place}: {}", printable(said))),
        _ => {
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("{place}: the agent closed the connection"))
        }
    }
}

impl LoopbackStream {
    /// Why there is nothing more to come, when that is an error.
    fn failure(&self) -> Option<io::Error> {
        match self.end.get() {
            Some(RelayEnd::Failed(said)) => return Some(io::Error::other(printable(said))),
            Some(_) => return None,
            None => {}
        }
        let gone = self.gone.borrow();
        let reason = gone.as_ref()?;
        Some(io::Error::new(io::ErrorKind::ConnectionAborted, format!("the agent is gone: {reason}")))
    }
}

impl AsyncRead for LoopbackStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.remaining();
        ready!(Pin::new(&mut self.near).poll_read(cx, buf))?;
        let at_end = before > 0 && buf.remaining() == before;
        Poll::Ready(self.failure().filter(|_| at_end).map_or(Ok(()), Err))
    }
}

impl AsyncWrite for LoopbackStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.near).poll_write(cx, buf));
        Poll::Ready(written.map_err(|error| self.failure().unwrap_or(error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}
