//! A TCP relay on loopback that stands between two real peers and breaks the way between them as told.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Doing, Failure};

const BUFFER_BYTES: usize = 64 << 10;

/// The state of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Every byte goes through.
    Open,
    /// Connections stay open, and no byte goes through in either direction; new ones are accepted and stall, too.
    Stalled,
    /// Connections are closed towards the client only: the server's side does not hear of it.
    HalfOpen,
    /// Connections are reset on both sides; new ones are closed at once.
    Cut,
}

/// Relays from a port of its own to another port on loopback.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    way: watch::Sender<Way>,
    _accepting: JoinSet<()>,
}

impl Relay {
    /// Starts to relay to this port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn to(port: u16) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.doing(|| "bind a relay")?;
        let own = listener.local_addr().doing(|| "ask the relay's port")?.port();
        let (way, seen) = watch::channel(Way::Open);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), seen));
        Ok(Self { port: own, way, _accepting: accepting })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the way, for connections that are open and for new ones.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, way: watch::Receiver<Way>) {
    let mut pairs = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while pairs.try_join_next().is_some() {}
        if *way.borrow() != Way::Cut {
            pairs.spawn(relay(client, server, way.clone()));
        }
    }
}

async fn relay(client: TcpStream, server: SocketAddr, mut way: watch::Receiver<Way>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut broken = way.clone();
    let carried = async {
        tokio::join!(
            carry(&mut from_client, &mut to_server, way.clone()),
            carry(&mut from_server, &mut to_client, way.clone())
        )
    };
    let seen = tokio::select! {
        _both_ended = carried => return,
        seen = broken.wait_for(|way| matches!(way, Way::Cut | Way::HalfOpen)) => {
            seen.map_or(Way::Cut, |way| *way)
        }
    };
    let (Ok(client), Ok(server)) = (from_client.reunite(to_client), from_server.reunite(to_server)) else {
        return;
    };
    let _best_effort = client.set_zero_linger();
    drop(client);
    if seen == Way::HalfOpen {
        // The server is not told before the way is cut, or the relay ends.
        let _relay_ended = way.wait_for(|way| *way == Way::Cut).await;
    }
    let _best_effort = server.set_zero_linger();
}

/// Carries bytes in one direction while the way is open. Ends at the end of the stream, or when it is broken.
async fn carry(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let open = way.wait_for(|way| *way != Way::Stalled).await.is_ok();
        if !open || to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _peer_may_be_gone = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn connected() -> Result<(Relay, TcpStream, TcpStream), Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.doing(|| "bind")?;
        let relay = Relay::to(listener.local_addr().doing(|| "ask the port")?.port()).await?;
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).await.doing(|| "connect")?;
        let (server, _) = listener.accept().await.doing(|| "accept")?;
        Ok((relay, client, server))
    }

    #[tokio::test]
    async fn bytes_go_through_while_the_way_is_open() -> Result<(), Failure> {
        let (relay, mut client, mut server) = connected().await?;
        let mut seen = [0; 4];
        client.write_all(b"ping").await.doing(|| "write")?;
        server.read_exact(&mut seen).await.doing(|| "read")?;
        relay.set(Way::Stalled);
        server.write_all(b"pong").await.doing(|| "write")?;
        let stalled =
            tokio::time::timeout(std::time::Duration::from_millis(200), client.read(&mut seen)).await;
        assert!(stalled.is_err(), "no byte goes through");
        relay.set(Way::Open);
        client.read_exact(&mut seen).await.doing(|| "read")?;
        assert_eq!(&seen, b"pong");
        Ok(())
    }

    #[tokio::test]
    async fn a_half_open_way_is_closed_for_the_client_alone() -> Result<(), Failure> {
        let (relay, mut client, mut server) = connected().await?;
        let mut seen = [0; 4];
        relay.set(Way::HalfOpen);
        assert!(client.read(&mut seen).await.is_err(), "the client is told");
        let told = tokio::time::timeout(std::time::Duration::from_millis(200), server.read(&mut seen)).await;
        assert!(told.is_err(), "the server is not");
        relay.set(Way::Cut);
        assert!(server.read(&mut seen).await.is_err(), "now it is");
        Ok(())
    }
}
