//! Connections to the node's own loopback, over real sockets.

use cassy_agent_protocol::relay::{CONNECTIONS_LIMIT, PIECE_BYTES, WINDOW_PIECES};
use cassy_agent_protocol::{FromAgent, Piece, RelayEnd, RelayFrame, ToAgent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{AgentLoopError, LONG, Reply, Server, lock};

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn piece(bytes: &[u8]) -> RelayFrame {
    RelayFrame::Data { piece: Piece::new(bytes.to_vec()).unwrap() }
}

impl Server {
    async fn relay(&mut self, connection: u64, frame: RelayFrame) {
        self.send(&ToAgent::Relay { connection, frame }).await;
    }

    /// The next frame that is relayed.
    async fn relayed(&mut self) -> (u64, RelayFrame) {
        loop {
            if let FromAgent::Relay { connection, frame } = self.next().await {
                return (connection, frame);
            }
        }
    }

    async fn opened(&mut self, connection: u64, listener: &TcpListener) -> TcpStream {
        let port = listener.local_addr().unwrap().port();
        self.relay(connection, RelayFrame::Open { port }).await;
        let (stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        assert_eq!(self.relayed().await, (connection, RelayFrame::Opened));
        stream
    }
}

#[tokio::test]
async fn bytes_travel_both_ways_while_a_request_runs() {
    let mut server = Server::greeted(60_000).await;
    let (listener, _) = listener().await;
    let held = tempfile::tempdir().unwrap();
    let mut other = Server::greeted(60_000).await;
    other.request(1, lock(held.path(), 0)).await;
    other.reply(1).await.unwrap();
    server.request(1, lock(held.path(), 600_000)).await;

    let mut peer = server.opened(7, &listener).await;
    server.relay(7, piece(b"ping")).await;
    let mut got = [0; 4];
    timeout(LONG, peer.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(&got, b"ping");
    assert_eq!(server.relayed().await, (7, RelayFrame::Taken));
    peer.write_all(b"pong").await.unwrap();
    assert_eq!(server.relayed().await, (7, piece(b"pong")));
    server.relay(7, RelayFrame::Taken).await;
    drop(peer);
    assert_eq!(server.relayed().await, (7, RelayFrame::Closed { end: RelayEnd::Ended }));
    // The request was under way all the time.
    other.input = None;
    assert_eq!(server.reply(1).await, Ok(Reply::Done));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_refused() {
    let mut server = Server::greeted(60_000).await;
    let (closed, port) = listener().await;
    drop(closed);
    server.relay(1, RelayFrame::Open { port }).await;
    assert_eq!(server.relayed().await, (1, RelayFrame::Closed { end: RelayEnd::Refused }));
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_neither_heartbeats_nor_replies() {
    let mut server = Server::greeted(60_000).await;
    let (listener, _) = listener().await;
    let silent = server.opened(1, &listener).await;
    // As much as the peer's and the agent's sockets hold, and then the window.
    let mut under_way = 0;
    while under_way < WINDOW_PIECES {
        server.relay(1, piece(&[7; PIECE_BYTES])).await;
        under_way += 1;
        let pieces_before = under_way;
        // Heartbeats come every 20 ms: two without an acknowledgement say that nothing is taken.
        let mut beats = 0;
        while beats < 2 {
            match server.next().await {
                FromAgent::Relay { frame: RelayFrame::Taken, .. } => under_way -= 1,
                FromAgent::Heartbeat => beats += 1,
                other => panic!("{other:?}"),
            }
            if under_way < pieces_before {
                break;
            }
        }
    }
    let node = tempfile::tempdir().unwrap();
    server.request(1, lock(node.path(), 0)).await;
    assert_eq!(server.reply(1).await, Ok(Reply::Done));
    // A server that goes on sending has lost count; one piece is on its way to the socket.
    for _ in 0..2 {
        server.relay(1, piece(&[7; PIECE_BYTES])).await;
    }
    assert!(matches!(server.ended().await, Err(AgentLoopError::Relay(_))));
    drop(silent);
}

#[tokio::test]
async fn connections_end_with_the_agent_and_when_the_server_says_so() {
    let mut server = Server::greeted(60_000).await;
    let (listener, _) = listener().await;
    let (mut first, mut second) = (server.opened(1, &listener).await, server.opened(2, &listener).await);
    server.relay(1, RelayFrame::Closed { end: RelayEnd::Ended }).await;
    assert_eq!(timeout(LONG, first.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    server.input = None;
    server.ended().await.unwrap();
    assert_eq!(timeout(LONG, second.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn more_connections_than_agreed_end_the_session() {
    let mut server = Server::greeted(60_000).await;
    let (listener, port) = listener().await;
    let mut peers = Vec::new();
    for connection in 0..CONNECTIONS_LIMIT as u64 {
        peers.push(server.opened(connection, &listener).await);
    }
    server.relay(99, RelayFrame::Open { port }).await;
    assert!(matches!(server.ended().await, Err(AgentLoopError::Relay(_))));
}
