//! The agent's end of relayed connections: to its own loopback and to nothing else, whatever the server names.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cassy_agent_protocol::{RelayEnd, RelayFrame};
use cassy_relay::{Breach, Lanes, Outgoing};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The only addresses that are connected to, in this order.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A loopback that takes longer is full of connections that nobody accepts.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Relay {
    lanes: Lanes,
}

impl Relay {
    /// Without any connection; their frames come out of the queue.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (lanes, frames) = Lanes::new();
        (Self { lanes }, frames)
    }

    /// Takes what the server says of one connection.
    pub(crate) fn take(&mut self, connection: u64, frame: RelayFrame) -> Result<(), Breach> {
        match frame {
            RelayFrame::Open { port } => self.lanes.open(connection, |frames| async move {
                let stream = connect(port).await?;
                frames.send((connection, RelayFrame::Opened)).await.map_err(|_gone| RelayEnd::Ended)?;
                Ok(stream)
            }),
            RelayFrame::Data { piece } => self.lanes.data(connection, piece),
            RelayFrame::Taken => self.lanes.taken(connection),
            RelayFrame::Closed { end: _ } => {
                self.lanes.abort(connection);
                Ok(())
            }
            RelayFrame::Opened => Err(Breach::Misplaced),
        }
    }
}

async fn connect(port: u16) -> Result<TcpStream, RelayEnd> {
    let mut failure = None;
    for address in LOOPBACK {
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect((address, port))).await;
        let connected = connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            // What the first address says counts: many machines have no IPv6.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(match failure {
        Some(error) if error.kind() != io::ErrorKind::ConnectionRefused => {
            RelayEnd::Failed(error.to_string())
        }
        _ => RelayEnd::Refused,
    })
}
