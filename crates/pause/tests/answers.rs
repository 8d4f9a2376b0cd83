//! Answers that no application gives by itself: of proxies, of servers of something else, of somebody who means harm.
//! Each is an error that says what it is, none is a panic.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::error::Error;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_agent_protocol::Instance;
use cassy_pause::{ByteStream, Dial, PauseClient};
use expect_test::{Expect, expect};
use http::{HeaderMap, Response};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

const WITHIN: Duration = Duration::from_secs(30);

/// What the other side does with each call.
#[derive(Clone, Default)]
struct Script {
    status: u16,
    head: Vec<(&'static str, &'static str)>,
    body: Option<Vec<u8>>,
    trailers: Vec<(&'static str, &'static str)>,
    /// In place of an end.
    reset: Option<h2::Reason>,
}

impl Script {
    fn ok(body: &[u8], trailers: &[(&'static str, &'static str)]) -> Self {
        Self { status: 200, body: Some(body.to_vec()), trailers: trailers.to_vec(), ..Self::default() }
    }

    async fn serve(self, stream: DuplexStream) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_request, mut answer))) = connection.accept().await {
            let mut head = Response::builder().status(self.status);
            for (name, value) in &self.head {
                head = head.header(*name, *value);
            }
            let only_head = self.body.is_none() && self.trailers.is_empty() && self.reset.is_none();
            let mut sent = answer.send_response(head.body(()).unwrap(), only_head).unwrap();
            if let Some(body) = &self.body {
                let ends = self.trailers.is_empty() && self.reset.is_none();
                sent.send_data(Bytes::from(body.clone()), ends).unwrap();
            }
            if let Some(reason) = self.reset {
                sent.send_reset(reason);
            } else if !self.trailers.is_empty() {
                let mut trailers = HeaderMap::new();
                for (name, value) in &self.trailers {
                    trailers.insert(*name, value.parse().unwrap());
                }
                sent.send_trailers(trailers).unwrap();
            }
        }
    }
}

/// Whoever answers.
struct Somebody<F>(F);

#[async_trait]
impl<F: Fn(DuplexStream) + Send + Sync + 'static> Dial for Somebody<F> {
    async fn dial(&self, _instance: &Instance) -> io::Result<Box<dyn ByteStream>> {
        let (near, far) = duplex(256 << 10);
        (self.0)(far);
        Ok(Box::new(near))
    }
}

async fn asked(answers: impl Fn(DuplexStream) + Send + Sync + 'static) -> String {
    let instances = [Instance { host: "app".to_owned(), address: "10.0.0.1:1".parse().unwrap() }];
    let pausing = PauseClient::new(Somebody(answers)).pause(&instances, WITHIN).await;
    let told = |failure: &cassy_pause::InstanceError| {
        let cause = failure.problem.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{}{cause}", failure.problem)
    };
    pausing.failures().iter().map(told).collect::<Vec<_>>().join("; ")
}

#[allow(clippy::needless_pass_by_value, reason = "reads better where it is called")]
async fn check(script: Script, expected: Expect) {
    let serve = move |stream| drop(tokio::spawn(script.clone().serve(stream)));
    expected.assert_eq(&asked(serve).await);
}

const EMPTY: &[u8] = &[0, 0, 0, 0, 0];
const DONE: &[(&str, &str)] = &[("grpc-status", "0")];

#[tokio::test(start_paused = true)]
async fn odd_answers_are_told() {
    check(
        Script::ok(EMPTY, &[("grpc-status", "7"), ("grpc-message", "no%0A%ff")]),
        expect![[r#"refused Pause with PermissionDenied: no\n�"#]],
    )
    .await;
    check(Script::ok(EMPTY, &[("grpc-status", "x")]), expect!["refused Pause with Unknown: "]).await;
    let details = [("grpc-status", "9"), ("grpc-status-details-bin", "this is no base64")];
    check(Script::ok(EMPTY, &details), expect!["refused Pause with FailedPrecondition: "]).await;
    check(
        Script { status: 200, head: details.to_vec(), ..Script::default() },
        expect!["refused Pause with FailedPrecondition: "],
    )
    .await;
    check(
        Script { status: 503, ..Script::default() },
        expect!["refused Pause with Unavailable: the answer has the HTTP status 503"],
    )
    .await;
    check(
        Script { status: 524, ..Script::default() },
        expect!["refused Pause with Unavailable: the answer has the HTTP status 524"],
    )
    .await;
    check(
        Script { status: 404, ..Script::default() },
        expect!["refused Pause with Unimplemented: the answer has the HTTP status 404"],
    )
    .await;
    check(
        Script { status: 200, ..Script::default() },
        expect!["the connection broke during Pause: the answer ended without a status"],
    )
    .await;
    check(
        Script::ok(EMPTY, &[("other", "0")]),
        expect!["the connection broke during Pause: the answer ended without a status"],
    )
    .await;
    check(Script::ok(b"", DONE), expect!["refused Pause with Internal: the answer is not understood"]).await;
    check(
        Script::ok(&[1, 0, 0, 0, 0], DONE),
        expect!["refused Pause with Internal: the answer is not understood"],
    )
    .await;
    check(
        Script::ok(&[0, 0xff, 0xff, 0xff, 0xff], DONE),
        expect!["refused Pause with Internal: the answer is not understood"],
    )
    .await;
    check(
        Script::ok(&[0, 0, 0, 0, 1, 0xff], DONE),
        expect!["refused Pause with Internal: the answer is not understood"],
    )
    .await;
    check(
        Script::ok(&vec![0; 70_000], DONE),
        expect!["refused Pause with OutOfRange: the answer is longer than 65536 bytes"],
    )
    .await;
    let reset = |reason| Script { reset: Some(reason), ..Script::ok(EMPTY, &[]) };
    check(
        reset(h2::Reason::NO_ERROR),
        expect!["the connection broke during Pause: stream error received: not a result of an error"],
    )
    .await;
    check(reset(h2::Reason::REFUSED_STREAM), expect!["the connection broke during Pause: stream error received: refused stream before processing any application logic"]).await;
}

#[tokio::test(start_paused = true)]
async fn who_speaks_something_else_is_told_before_anybody_is_asked() {
    let says = |words: &'static [u8]| {
        move |mut stream: DuplexStream| {
            tokio::spawn(async move {
                let _ = stream.write_all(words).await;
                // Open until the other side closes it.
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    };
    let http = asked(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    expect!["does not speak HTTP/2: what it says is something else"].assert_eq(&http);
    expect!["does not speak HTTP/2: what it says is something else"]
        .assert_eq(&asked(says(b"\x15\x03\x03\x00\x02\x02\x46")).await);
    expect!["does not speak HTTP/2: what it says is something else"]
        .assert_eq(&asked(says(b"220 mail.example.com ESMTP\r\n")).await);
    expect!["cannot be connected to: no answer within 5000 ms"].assert_eq(&asked(says(b"")).await);
    expect!["does not speak HTTP/2: it cut the connection off (broken pipe)"].assert_eq(&asked(drop).await);
}
