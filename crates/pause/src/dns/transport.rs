//! One question to one server: over TCP (RFC 7766), and over UDP only where TCP cannot be reached. Over UDP some servers
//! send what fits, or a few records of many, and do not say so; whom they leave out would not be paused.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Answer, Kind, MessageError, Query};
use super::name::Name;

/// For an answer over UDP; then another try.
const UDP_LIMIT: Duration = Duration::from_secs(2);
/// For a connection; then TCP cannot be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// For an answer over TCP.
const TCP_LIMIT: Duration = Duration::from_secs(4);
/// Without EDNS a datagram has 512 bytes at most; some servers send more.
const DATAGRAM_BYTES: usize = 4096;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("its answer makes no sense: {0}")]
    Nonsense(#[from] MessageError),
    /// There is a rest, and no way to it.
    #[error("its answer does not fit into a datagram, and TCP cannot be reached: {no_tcp}")]
    NoTcp { no_tcp: String },
}

/// Asks servers, and remembers which of them cannot be reached over TCP.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transport {
    /// With the reason.
    without_tcp: Arc<Mutex<BTreeMap<SocketAddr, String>>>,
}

impl Transport {
    /// Asks the server once.
    pub(crate) async fn ask(
        &self,
        server: SocketAddr,
        name: &Name,
        kind: Kind,
    ) -> Result<Answer, ExchangeError> {
        let query = Query { id: random(), name: name.clone(), kind };
        let no_tcp = match self.no_tcp(server) {
            Some(no_tcp) => no_tcp,
            None => match connected(server).await {
                Ok(stream) => {
                    let silent = |_elapsed| ExchangeError::Silent(TCP_LIMIT);
                    return timeout(TCP_LIMIT, over_tcp(stream, &query)).await.map_err(silent)?;
                }
                Err(error) => self.remember(server, error.to_string()),
            },
        };
        let answer = within_udp(server, &query).await?;
        if answer.truncated { Err(ExchangeError::NoTcp { no_tcp }) } else { Ok(answer) }
    }

    fn no_tcp(&self, server: SocketAddr) -> Option<String> {
        self.without_tcp.lock().unwrap_or_else(PoisonError::into_inner).get(&server).cloned()
    }

    fn remember(&self, server: SocketAddr, no_tcp: String) -> String {
        let mut known = self.without_tcp.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(server, no_tcp.clone());
        no_tcp
    }
}

async fn connected(server: SocketAddr) -> Result<TcpStream, ExchangeError> {
    let silent = |_elapsed| ExchangeError::Silent(CONNECT_LIMIT);
    Ok(timeout(CONNECT_LIMIT, TcpStream::connect(server)).await.map_err(silent)??)
}

async fn within_udp(server: SocketAddr, query: &Query) -> Result<Answer, ExchangeError> {
    let mut nonsense = None;
    let answer = timeout(UDP_LIMIT, over_udp(server, query, &mut nonsense)).await;
    answer.unwrap_or_else(|_elapsed| {
        Err(nonsense.map_or(ExchangeError::Silent(UDP_LIMIT), ExchangeError::Nonsense))
    })
}

/// What is not the answer may come from somebody who guesses: it is passed over, and the true one waited for.
async fn over_udp(
    server: SocketAddr,
    query: &Query,
    nonsense: &mut Option<MessageError>,
) -> Result<Answer, ExchangeError> {
    let own: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own for each question; only the server's datagrams come through.
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(server).await?;
    socket.send(&query.encode()).await?;
    let mut datagram = vec![0; DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut datagram).await?;
        match Answer::read(query, datagram.get(..length).unwrap_or_default()) {
            Ok(answer) => return Ok(answer),
            Err(error) => *nonsense = Some(error),
        }
    }
}

async fn over_tcp(mut stream: TcpStream, query: &Query) -> Result<Answer, ExchangeError> {
    let message = query.encode();
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).await?;
    let message = read_message(&mut stream).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => MessageError::Short.into(),
        _ => ExchangeError::Io(error),
    })?;
    let answer = Answer::read(query, &message)?;
    // Over TCP there is no rest that could come another way.
    if answer.truncated { Err(MessageError::Short.into()) } else { Ok(answer) }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Hard to guess: the keys of the hasher are the system's random bytes.
fn random() -> u16 {
    let [low, high, ..] = RandomState::new().hash_one(0).to_le_bytes();
    u16::from_le_bytes([low, high])
}
