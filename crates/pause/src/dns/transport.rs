//! One question to one server: over UDP, and over TCP when the answer does not fit (RFC 1035, section 4.2; RFC 7766).

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Answer, Kind, MessageError, Query};
use super::name::Name;

/// For an answer over UDP; then another try.
const UDP_LIMIT: Duration = Duration::from_secs(2);
/// For connection and answer.
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
}

/// Asks the server once.
pub(crate) async fn ask(server: SocketAddr, name: &Name, kind: Kind) -> Result<Answer, ExchangeError> {
    let query = Query { id: random(), name: name.clone(), kind };
    let mut nonsense = None;
    let answer = match timeout(UDP_LIMIT, over_udp(server, &query, &mut nonsense)).await {
        Ok(answer) => answer?,
        Err(_elapsed) => {
            return Err(nonsense.map_or(ExchangeError::Silent(UDP_LIMIT), ExchangeError::Nonsense));
        }
    };
    if !answer.truncated {
        return Ok(answer);
    }
    let silent = |_elapsed| ExchangeError::Silent(TCP_LIMIT);
    timeout(TCP_LIMIT, over_tcp(server, &query)).await.map_err(silent)?
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

async fn over_tcp(server: SocketAddr, query: &Query) -> Result<Answer, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    let message = query.encode();
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    let answer = Answer::read(query, &message)?;
    // Over TCP there is no rest that could come another way.
    if answer.truncated { Err(MessageError::Short.into()) } else { Ok(answer) }
}

/// Hard to guess: the keys of the hasher are the system's random bytes.
fn random() -> u16 {
    let [low, high, ..] = RandomState::new().hash_one(0).to_le_bytes();
    u16::from_le_bytes([low, high])
}
