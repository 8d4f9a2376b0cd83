//! Connections that travel in the frames between server and agent: what both ends of them do. [`Lanes`] holds the open
//! ones of one stream of frames; each moves bytes between its own end (a socket of the node, or the stream that the
//! server reads) and its frames.
//!
//! What it leaves out: the stream of frames itself, and who may open what.
//!
//! Invariants: a frame that comes in is taken at once, or is a breach; a lane that nobody reads holds no more than its
//! window and stops nobody else; lanes end with their [`Lanes`].

#![warn(clippy::indexing_slicing)]

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cassy_agent_protocol::relay::{CONNECTIONS_LIMIT, PIECE_BYTES, WINDOW_PIECES};
use cassy_agent_protocol::{Piece, RelayEnd, RelayFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// Frames of all lanes that wait to be written to the stream.
const QUEUE: usize = 4;

/// A frame, and the connection that it belongs to.
pub type Outgoing = (u64, RelayFrame);

/// The peer breaks the rules of `cassy_agent_protocol::relay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// Too much data that was not taken yet.
    #[error("more data for a relayed connection than its window holds")]
    Window,
    /// More was taken than was sent.
    #[error("an acknowledgement of data of a relayed connection that was not sent")]
    Unsent,
    /// One connection too many.
    #[error("more relayed connections than {CONNECTIONS_LIMIT}")]
    Connections,
    /// Two connections of one number.
    #[error("a second relayed connection of the same number")]
    Reused,
    /// A frame that only the other side sends, or about a connection that never was.
    #[error("a frame of a relayed connection that has no place there")]
    Misplaced,
}

/// See the module.
#[derive(Debug)]
pub struct Lanes {
    open: HashMap<u64, Lane>,
    frames: mpsc::Sender<Outgoing>,
}

#[derive(Debug)]
struct Lane {
    inbox: mpsc::Sender<Piece>,
    credit: Arc<Credit>,
    task: AbortOnDropHandle<()>,
}

/// What may still be sent, and what was sent and is not taken yet.
#[derive(Debug)]
struct Credit {
    pieces: Semaphore,
    under_way: AtomicUsize,
}

impl Lanes {
    /// Without any lane; what they send comes out of the queue.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (frames, queue) = mpsc::channel(QUEUE);
        (Self { open: HashMap::new(), frames }, queue)
    }

    /// Opens a lane. Its end on this side is made first, in a task of the lane; until then, what comes waits.
    ///
    /// # Errors
    /// [`Breach`], when there are too many or the number is in use.
    pub fn open<S, F>(
        &mut self,
        connection: u64,
        make: impl FnOnce(mpsc::Sender<Outgoing>) -> F,
    ) -> Result<(), Breach>
    where
        S: AsyncRead + AsyncWrite + Send,
        F: Future<Output = Result<S, RelayEnd>> + Send + 'static,
    {
        if !self.has_room() {
            return Err(Breach::Connections);
        }
        if self.is_open(connection) {
            return Err(Breach::Reused);
        }
        let (inbox, pieces) = mpsc::channel(WINDOW_PIECES);
        let credit =
            Arc::new(Credit { pieces: Semaphore::new(WINDOW_PIECES), under_way: AtomicUsize::new(0) });
        let (frames, sending, end) = (self.frames.clone(), Arc::clone(&credit), make(self.frames.clone()));
        let task = tokio::spawn(async move {
            let end = match end.await {
                Ok(stream) => carry(stream, connection, pieces, &sending, &frames).await,
                Err(end) => end,
            };
            // Without a stream of frames there is nobody to be told.
            frames.send((connection, RelayFrame::Closed { end })).await.ok();
        });
        self.open.insert(connection, Lane { inbox, credit, task: AbortOnDropHandle::new(task) });
        Ok(())
    }

    /// Whether one more lane may be opened.
    pub fn has_room(&mut self) -> bool {
        self.open.retain(|_, lane| !lane.task.is_finished());
        self.open.len() < CONNECTIONS_LIMIT
    }

    /// Whether this lane is open.
    #[must_use]
    pub fn is_open(&self, connection: u64) -> bool {
        self.open.contains_key(&connection)
    }

    /// A piece has come. That of a lane which has ended is passed over.
    ///
    /// # Errors
    /// [`Breach::Window`].
    pub fn data(&mut self, connection: u64, piece: Piece) -> Result<(), Breach> {
        let Some(lane) = self.open.get(&connection) else { return Ok(()) };
        match lane.inbox.try_send(piece) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Breach::Window),
        }
    }

    /// The other side has taken a piece.
    ///
    /// # Errors
    /// [`Breach::Unsent`].
    pub fn taken(&mut self, connection: u64) -> Result<(), Breach> {
        let Some(lane) = self.open.get(&connection) else { return Ok(()) };
        let less = |pieces: usize| pieces.checked_sub(1);
        let under_way = &lane.credit.under_way;
        under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).map_err(|_none| Breach::Unsent)?;
        lane.credit.pieces.add_permits(1);
        Ok(())
    }

    /// The other side has closed the connection: what has come is still delivered to whoever reads it.
    pub fn finish(&mut self, connection: u64) {
        if let Some(lane) = self.open.remove(&connection) {
            drop(lane.task.detach());
        }
    }

    /// The other side has closed the connection, and nobody wants what has come.
    pub fn abort(&mut self, connection: u64) {
        self.open.remove(&connection);
    }
}

/// Moves bytes both ways until one of them ends, and says why.
async fn carry(
    stream: impl AsyncRead + AsyncWrite,
    connection: u64,
    mut inbox: mpsc::Receiver<Piece>,
    credit: &Credit,
    frames: &mpsc::Sender<Outgoing>,
) -> RelayEnd {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let outward = async {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let Ok(permit) = credit.pieces.acquire().await else { return Ok(()) };
            let read = reader.read(&mut buffer).await?;
            let Some(Ok(piece)) = buffer.get(..read).map(|bytes| Piece::new(bytes.to_vec())) else {
                return Ok(());
            };
            permit.forget();
            credit.under_way.fetch_add(1, Ordering::AcqRel);
            if frames.send((connection, RelayFrame::Data { piece })).await.is_err() {
                return Ok(());
            }
        }
    };
    let inward = async {
        while let Some(piece) = inbox.recv().await {
            writer.write_all(piece.bytes()).await?;
            writer.flush().await?;
            if frames.send((connection, RelayFrame::Taken)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let ended: io::Result<()> = tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
    };
    ended.map_or_else(|error| RelayEnd::Failed(error.to_string()), |()| RelayEnd::Ended)
}
