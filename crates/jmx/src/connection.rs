//! One TCP connection: handshake, then strictly one call at a time. Whoever holds it must drop it after any error.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::call::Request;
use crate::dial::{Channel, Dialer};
use crate::error::{Error, Peer};
use crate::rmi::reply::{Reply, ReplyReader};
use crate::rmi::transport::{self, Hello};
use crate::rmi::{ObjId, Uid};
use crate::stream::limits::Limits;

/// The end of the time for a call and all its parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    within: Duration,
}

impl Deadline {
    pub(crate) fn after(within: Duration) -> Self {
        // A time that a clock cannot express is as good as a month.
        let at = Instant::now().checked_add(within);
        Self { at: at.unwrap_or_else(|| Instant::now() + Duration::from_secs(30 * 86_400)), within }
    }

    pub(crate) async fn bound<T>(
        self,
        peer: &Peer,
        step: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match timeout_at(self.at, work).await {
            Ok(result) => result,
            Err(_elapsed) => {
                Err(Error::Timeout { peer: peer.clone(), step: step.to_owned(), within: self.within })
            }
        }
    }
}

pub(crate) struct Connection {
    channel: Box<dyn Channel>,
    peer: Peer,
}

impl Connection {
    pub(crate) async fn open(dialer: &dyn Dialer, peer: Peer, deadline: Deadline) -> Result<Self, Error> {
        let dialling = async {
            dialer.dial(&peer.host, peer.port).await.map_err(|source| io_error(&peer, "connect", source))
        };
        let channel = deadline.bound(&peer, "connect", dialling).await?;
        let mut connection = Self { channel, peer };
        let peer = connection.peer.clone();
        deadline.bound(&peer, "RMI handshake", connection.shake_hands()).await?;
        Ok(connection)
    }

    async fn shake_hands(&mut self) -> Result<(), Error> {
        const STEP: &str = "shake hands (RMI)";
        let sent = self.send(&transport::HELLO).await;
        let mut answer = Vec::new();
        loop {
            let mut buffer = [0; 512];
            let count = self.channel.read(&mut buffer).await.map_err(|source| self.io_error(STEP, source))?;
            answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
            match transport::hello(&answer) {
                Hello::Rmi(used) if used == answer.len() => {
                    return sent.map_err(|source| self.io_error(STEP, source));
                }
                Hello::Rmi(_) => return Err(self.not_jmx("something that talks out of turn".to_owned())),
                Hello::Other(looks_like) => return Err(self.not_jmx(looks_like)),
                Hello::NeedMore if count == 0 => return Err(self.io_error(STEP, closed(answer.len()))),
                Hello::NeedMore => {}
            }
        }
    }

    /// Sends a request and reads its reply.
    pub(crate) async fn exchange(
        &mut self,
        request: &mut Request,
        target: ObjId,
        limits: &Limits,
        deadline: Deadline,
    ) -> Result<Reply, Error> {
        let peer = self.peer.clone();
        let label = request.label.clone();
        deadline.bound(&peer, &label, self.exchange_unbounded(request, target, limits)).await
    }

    async fn exchange_unbounded(
        &mut self,
        request: &mut Request,
        target: ObjId,
        limits: &Limits,
    ) -> Result<Reply, Error> {
        let sent = self.send(request.aim(target)).await;
        sent.map_err(|source| self.io_error(&request.label, source))?;
        let mut reader = ReplyReader::new(request.returns, limits);
        let mut buffer = vec![0; 16 << 10];
        let mut seen = 0;
        loop {
            let count = self
                .channel
                .read(&mut buffer)
                .await
                .map_err(|source| self.io_error(&request.label, source))?;
            if count == 0 {
                return Err(self.io_error(&request.label, closed(seen)));
            }
            seen += count;
            let complete = reader.push(buffer.get(..count).unwrap_or_default());
            if complete.map_err(|source| Error::stream(&self.peer, &request.label, source))? {
                break;
            }
        }
        reader.finish().ok_or_else(|| self.io_error(&request.label, closed(seen)))
    }

    /// Tells the server that a remote reference arrived; there is no answer.
    pub(crate) async fn acknowledge(&mut self, uid: Uid, deadline: Deadline) -> Result<(), Error> {
        const STEP: &str = "acknowledge a reference";
        let mut message = vec![transport::DGC_ACK];
        message.extend(uid);
        let peer = self.peer.clone();
        let sending = async { self.send(&message).await.map_err(|source| io_error(&peer, STEP, source)) };
        deadline.bound(&peer, STEP, sending).await
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.channel.write_all(bytes).await?;
        self.channel.flush().await
    }

    fn not_jmx(&self, looks_like: String) -> Error {
        Error::NotJmx { peer: self.peer.clone(), looks_like }
    }

    fn io_error(&self, step: &str, source: io::Error) -> Error {
        io_error(&self.peer, step, source)
    }
}

fn io_error(peer: &Peer, step: &str, source: io::Error) -> Error {
    Error::Io { peer: peer.clone(), step: step.to_owned(), source }
}

fn closed(seen: usize) -> io::Error {
    let text = if seen == 0 {
        "the other side closed the connection without a word"
    } else {
        "the other side closed the connection in the middle of its answer"
    };
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}
