//! Clients that are slow, large, many, or do not speak HTTP/2 at all.

use std::time::Duration;

use bytes::Bytes;
use cassy_api::{Limits, proto};
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, metadata::MetadataValue};

use crate::played::{CLUSTER, Part, Server, until, within};

const SOON: Duration = Duration::from_millis(200);

fn listing() -> proto::BackupListingRequest {
    proto::BackupListingRequest { cluster_id: CLUSTER.into(), ..Default::default() }
}

fn framed(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &body].concat().into()
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://cassy{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// HTTP/2 by hand; with `window` bytes of answer taken unasked.
async fn by_hand(server: &Server, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) =
        h2::client::Builder::new().initial_window_size(window).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

#[tokio::test]
async fn whoever_does_not_speak_http2_is_disconnected() {
    let server =
        Server::with(Limits { first_request_time: SOON, shutdown_time: SOON, ..Limits::default() }).await;
    for start in [
        &b""[..],
        b"PRI * HTTP",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 100],
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(start).await.unwrap();
        within("the end of the connection", async {
            while stream.read(&mut [0; 1024]).await.unwrap_or(0) > 0 {}
        })
        .await;
    }
    server.client().await.list_backups(listing()).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_ends_and_the_client_makes_another() {
    let server =
        Server::with(Limits { first_request_time: SOON, idle_time: SOON, ..Limits::default() }).await;
    let mut client = server.client().await;
    client.list_backups(listing()).await.unwrap();
    let mut by_hand = by_hand(&server, 65_535).await;
    let (answer, _) = by_hand.send_request(post("/rpc.Cassy/None"), true).unwrap();
    answer.await.unwrap();
    within("the end of the connection", async {
        while by_hand.clone().ready().await.is_ok() {
            tokio::time::sleep(SOON / 20).await;
        }
    })
    .await;
    client.list_backups(listing()).await.unwrap();
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_not_idle() {
    let limits = Limits {
        idle_time: SOON / 4,
        first_request_time: SOON / 4,
        request_time: SOON / 4,
        ..Limits::default()
    };
    let server = Server::with(Limits { response_time: SOON / 4, shutdown_time: SOON / 4, ..limits }).await;
    server.played.plays(Part::Wait);
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.list_backups(listing()).await });
    until("the call arrives", || server.played.under_way() == 1).await;
    tokio::time::sleep(SOON * 2).await;
    server.played.release.add_permits(1);
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_drips_is_refused() {
    let server = Server::with(Limits { request_time: SOON, ..Limits::default() }).await;
    let mut client = by_hand(&server, 65_535).await;
    let (answer, mut body) = client.send_request(post("/rpc.Cassy/ListBackups"), false).unwrap();
    body.send_data(framed(&listing()).slice(..7), false).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4", "{answer:?}");
    assert_eq!(server.played.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_disconnected() {
    let server = Server::with(Limits { response_time: SOON, ..Limits::default() }).await;
    server.played.plays(Part::AnswerMuch);
    let mut client = by_hand(&server, 10).await;
    let (answer, mut body) = client.send_request(post("/rpc.Cassy/ListBackups"), false).unwrap();
    body.send_data(framed(&listing()), true).unwrap();
    let mut answer = within("the headers", answer).await.unwrap().into_body();
    within("the start of the answer", answer.data()).await.unwrap().unwrap();
    let end = within("the end of the connection", answer.data()).await;
    assert!(end.is_none_or(|data| data.is_err()));
}

#[tokio::test]
async fn a_listing_that_is_too_large_for_clients_says_so() {
    let server = Server::start().await;
    server.played.plays(Part::AnswerMuch);
    let answer = server.client().await.list_backups(listing()).await.unwrap();
    let answer = answer.into_inner();
    assert!(answer.truncated && answer.entries.len() < 20_000, "{}", answer.entries.len());
}

#[tokio::test]
async fn oversized_requests_are_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let huge = proto::BackupRequest { target_ips: vec!["x".repeat(2 << 20)], ..Default::default() };
    let status = client.take_backup(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let mut request = tonic::Request::new(listing());
    request.metadata_mut().insert("x-large", MetadataValue::try_from("x".repeat(64 << 10)).unwrap());
    client.list_backups(request).await.unwrap_err();
    assert_eq!(server.played.take_calls(), Vec::<String>::new());
    server.client().await.list_backups(listing()).await.unwrap();
}

/// A length that is announced and never sent takes no memory, and one above the limit is refused at once.
#[tokio::test]
async fn an_announced_length_is_not_believed() {
    let server = Server::with(Limits { request_time: SOON, ..Limits::default() }).await;
    // OUT_OF_RANGE at once; the end of the time; INTERNAL.
    let announced: [([u8; 5], &str); 4] = [
        ([0, 0xff, 0xff, 0xff, 0xff], "11"),
        ([0, 0, 0x0f, 0xff, 0xff], "4"),
        ([1, 0, 0, 0, 1], "13"),
        ([7, 0, 0, 0, 1], "13"),
    ];
    for (announced, code) in announced {
        let mut client = by_hand(&server, 65_535).await;
        let (answer, mut body) = client.send_request(post("/rpc.Cassy/ListBackups"), false).unwrap();
        body.send_data(Bytes::copy_from_slice(&announced), false).unwrap();
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], code, "{answer:?}");
    }
    assert_eq!(server.played.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let server = Server::start().await;
    let mut client = by_hand(&server, 65_535).await;
    for bytes in
        [&[0, 0, 0, 0, 2, 0x0a, 0x7f][..], &[0, 0, 0, 0, 3, 0x0a, 0x01, 0xff], &[0, 0, 0, 0, 1, 0xff], b""]
    {
        let (answer, mut body) = client.send_request(post("/rpc.Cassy/ListBackups"), false).unwrap();
        body.send_data(Bytes::copy_from_slice(bytes), true).unwrap();
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "13", "{bytes:?}: {answer:?}");
    }
    assert_eq!(server.played.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn unknown_calls_are_unimplemented() {
    let server = Server::start().await;
    let mut client = by_hand(&server, 65_535).await;
    for path in [
        "/rpc.Cassy/DropEverything",
        "/rpc.CassyOps/Purge",
        "/",
        "/v1/clusters",
        "/grpc.health.v1.Health/Check",
    ] {
        let (answer, _) = client.send_request(post(path), true).unwrap();
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "12", "{path}");
    }
}

#[tokio::test]
async fn a_thousand_at_once_are_served_or_refused() {
    let server = Server::start().await;
    server.played.plays(Part::Wait);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let client = server.client().await;
        for _ in 0..100 {
            let mut client = client.clone();
            calls.spawn(async move {
                client.list_backups(listing()).await.map(drop).map_err(|status| status.code())
            });
        }
    }
    let most = Limits::default().requests;
    let mut refused = 0;
    while refused < 1_000 - most {
        let answer = within("a refusal", calls.join_next()).await.unwrap().unwrap();
        assert_eq!(answer, Err(Code::ResourceExhausted));
        refused += 1;
    }
    assert_eq!(server.played.under_way(), most);
    server.played.release.add_permits(most);
    while let Some(answer) = within("an answer", calls.join_next()).await {
        assert_eq!(answer.unwrap(), Ok(()));
    }
    server.played.plays(Part::Answer);
    server.client().await.list_backups(listing()).await.unwrap();
}

#[tokio::test]
async fn connections_have_a_limit_that_frees_itself() {
    let server = Server::with(Limits { connections: 2, ..Limits::default() }).await;
    let mut first = server.client().await;
    first.list_backups(listing()).await.unwrap();
    let mut second = server.client().await;
    second.list_backups(listing()).await.unwrap();
    let mut third = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(within("the refusal", third.read(&mut [0; 1])).await.unwrap_or(0), 0);
    drop(second);
    within("a free place", async {
        while !matches!(tokio::spawn(connected(server.address)).await, Ok(true)) {}
    })
    .await;
    first.list_backups(listing()).await.unwrap();
}

async fn connected(address: std::net::SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    stream.read(&mut [0; 1]).await.is_ok_and(|bytes| bytes > 0)
}

#[tokio::test]
async fn stopping_is_bounded() {
    let server = Server::with(Limits { shutdown_time: SOON, ..Limits::default() }).await;
    server.played.plays(Part::Wait);
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.list_backups(listing()).await });
    until("the call arrives", || server.played.under_way() == 1).await;
    let _never_speaks = TcpStream::connect(server.address).await.unwrap();
    server.stop.cancel();
    within("the end", server.ended).await.unwrap().unwrap();
    assert!(within("the client's error", call).await.unwrap().is_err());
    until("the call is dropped", || server.played.under_way() == 0).await;
}
