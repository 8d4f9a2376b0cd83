//! The loop, in process, over an in-memory stream.

mod bad_inputs;
mod relay;
mod round_trip;

use std::time::Duration;

use cassy_agent_protocol::frame::encode;
use cassy_agent_protocol::{
    AgentErrorKind, CheckStoreRequest, FrameDecoder, FromAgent, InspectRequest, LockRequest, PREAMBLE,
    Progress, Reply, Request, ServerHello, StoreGrant, SupersededRequest, SweepRequest, ToAgent,
};
use cassy_backup_format::ObjectKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{AgentLoopError, Identity, serve};
use crate::inspect::Machine;

/// The server's end of a stream to an agent.
struct Server {
    input: Option<DuplexStream>,
    output: DuplexStream,
    decoder: FrameDecoder,
    agent: JoinHandle<Result<(), AgentLoopError>>,
    cache: tempfile::TempDir,
}

const LONG: Duration = Duration::from_secs(60);

impl Server {
    fn start() -> Self {
        let (input, stdin) = duplex(1 << 20);
        let (output, stdout) = duplex(1 << 20);
        let cache = tempfile::tempdir().unwrap();
        let spools = vec![cache.path().to_owned()];
        let identity = Identity { build: "b".repeat(64), version: "1".to_owned() };
        let agent = tokio::spawn(async move {
            Box::pin(serve(stdin, stdout, identity, Machine::default(), &spools)).await
        });
        Self { input: Some(input), output, decoder: FrameDecoder::new(), agent, cache }
    }

    async fn greeted(silence_ms: u64) -> Self {
        let mut server = Self::start();
        server.write(PREAMBLE).await;
        let hello = ServerHello { job_id: "j".to_owned(), epoch: 1, heartbeat_ms: 20, silence_ms };
        server.send(&ToAgent::Hello(hello)).await;
        match server.next().await {
            FromAgent::Hello(hello) => assert_eq!((hello.build.len(), hello.pid), (64, std::process::id())),
            other => panic!("{other:?}"),
        }
        server
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).await.unwrap();
    }

    async fn send(&mut self, message: &ToAgent) {
        self.write(&encode(message).unwrap()).await;
    }

    async fn request(&mut self, id: u64, request: Request) {
        self.send(&ToAgent::Request { id, request }).await;
    }

    async fn next(&mut self) -> FromAgent {
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return message;
            }
            let mut buffer = [0; 4096];
            let read =
                timeout(LONG, self.output.read(&mut buffer)).await.expect("the agent is silent").unwrap();
            assert!(read > 0, "the agent has ended");
            self.decoder.push(&buffer[..read]);
        }
    }

    async fn reply(&mut self, wanted: u64) -> Result<Reply, cassy_agent_protocol::AgentError> {
        loop {
            if let FromAgent::Reply { id, outcome } = self.next().await {
                assert_eq!(id, wanted);
                return outcome;
            }
        }
    }

    /// How the loop ended; the spool directory is gone then.
    async fn ended(self) -> Result<(), AgentLoopError> {
        let outcome = timeout(LONG, self.agent).await.expect("the agent does not end").unwrap();
        assert_eq!(std::fs::read_dir(self.cache.path().join("cassy")).unwrap().count(), 0);
        outcome
    }
}

fn lock(directory: &std::path::Path, wait_ms: u64) -> Request {
    Request::Lock(LockRequest { directory: directory.to_str().unwrap().to_owned(), wait_ms })
}

#[tokio::test]
async fn a_second_hello_ends_the_agent() {
    let mut server = Server::greeted(60_000).await;
    let hello = ServerHello { job_id: "other".to_owned(), epoch: 2, heartbeat_ms: 20, silence_ms: 60_000 };
    server.send(&ToAgent::Hello(hello)).await;
    let error = server.ended().await.expect_err("one server has one job");
    assert!(matches!(error, AgentLoopError::Unexpected { what: "a second hello" }), "{error:?}");
}

#[tokio::test]
async fn it_greets_works_and_ends_with_its_input() {
    let mut server = Server::greeted(60_000).await;
    let node = tempfile::tempdir().unwrap();
    server.request(1, lock(node.path(), 0)).await;
    assert_eq!(server.reply(1).await, Ok(Reply::Done));
    // The same lock again is fine.
    server.request(2, lock(node.path(), 0)).await;
    assert_eq!(server.reply(2).await, Ok(Reply::Done));
    server
        .request(3, Request::Inspect(InspectRequest { data_directories: vec!["/nonexistent".to_owned()] }))
        .await;
    assert_eq!(server.reply(3).await.unwrap_err().kind, AgentErrorKind::Permanent);
    while server.next().await != FromAgent::Heartbeat {}
    server.input = None;
    server.ended().await.unwrap();
}

#[tokio::test]
async fn another_agent_is_busy_until_the_first_ends() {
    let node = tempfile::tempdir().unwrap();
    let mut first = Server::greeted(60_000).await;
    first.request(1, lock(node.path(), 0)).await;
    first.reply(1).await.unwrap();
    let mut second = Server::greeted(60_000).await;
    second.request(1, lock(node.path(), 0)).await;
    let error = second.reply(1).await.unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Busy);
    assert!(error.message.contains(node.path().to_str().unwrap()));
    second.request(2, lock(node.path(), 60_000)).await;
    first.input = None;
    first.ended().await.unwrap();
    second.reply(2).await.unwrap();
}

#[tokio::test]
async fn silence_ends_it_and_heartbeats_keep_it() {
    let mut server = Server::greeted(400).await;
    for _ in 0..60 {
        server.send(&ToAgent::Heartbeat).await;
        server.next().await;
    }
    assert!(!server.agent.is_finished());
    let node = tempfile::tempdir().unwrap();
    let held = tempfile::tempdir().unwrap();
    let _other = crate::session::lock::Lock::take(
        &Default::default(),
        &LockRequest { directory: held.path().to_str().unwrap().to_owned(), wait_ms: 0 },
    )
    .await
    .unwrap();
    server.request(1, lock(node.path(), 0)).await;
    server.reply(1).await.unwrap();
    // Also in the middle of work, which is stopped.
    server.request(2, lock(held.path(), 600_000)).await;
    assert!(matches!(server.ended().await, Err(AgentLoopError::Silence(_))));
}

/// About the list of a backup, in the store below this directory.
fn superseded(base: &std::path::Path, data_directories: Vec<String>) -> SupersededRequest {
    SupersededRequest {
        store: StoreGrant { location: format!("file://{}/store", base.display()) },
        cluster_id: "Test/Cluster-1".parse().unwrap(),
        host_id: "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1".parse().unwrap(),
        backup_id: "01900000-0000-7000-8000-000000000001".parse().unwrap(),
        data_directories,
    }
}

/// Needs the node's lock.
fn sweep() -> Request {
    Request::SweepSnapshots(SweepRequest { data_directories: Vec::new(), tags: Vec::new() })
}

#[tokio::test]
async fn a_cancelled_request_is_answered() {
    let mut server = Server::greeted(60_000).await;
    let held = tempfile::tempdir().unwrap();
    let request = LockRequest { directory: held.path().to_str().unwrap().to_owned(), wait_ms: 600_000 };
    let _other = crate::session::lock::Lock::take(&Default::default(), &request).await.unwrap();
    server.request(7, Request::Lock(request)).await;
    server.request(8, sweep()).await;
    assert_eq!(server.reply(8).await.unwrap_err().kind, AgentErrorKind::Bug);
    server.send(&ToAgent::Cancel { id: 6 }).await;
    server.send(&ToAgent::Cancel { id: 7 }).await;
    assert_eq!(server.reply(7).await.unwrap_err().kind, AgentErrorKind::Cancelled);
    server.request(9, sweep()).await;
    assert_eq!(server.reply(9).await.unwrap_err().kind, AgentErrorKind::Bug);
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let error = tokio::spawn(async { panic!("on {}", "purpose") }).await.unwrap_err();
    let error = super::cut_short(error);
    assert_eq!((error.kind, error.message.as_str()), (AgentErrorKind::Bug, "the agent panicked: on purpose"));
    let mut server = Server::greeted(60_000).await;
    server.request(1, lock(std::path::Path::new(super::work::PANICS), 0)).await;
    assert_eq!(server.reply(1).await.unwrap_err().kind, AgentErrorKind::Bug);
    // The next request is served; this one wants the node's lock first.
    server.request(2, sweep()).await;
    assert!(server.reply(2).await.unwrap_err().message.contains("lock has to be taken first"));
}

/// The server stops a request that reports nothing for long.
#[tokio::test]
async fn what_moves_neither_bytes_nor_files_is_reported_too() {
    let mut server = Server::greeted(60_000).await;
    server.request(1, lock(std::path::Path::new(super::work::BEATS), 0)).await;
    let mut reports = 0;
    while reports < 2 {
        match server.next().await {
            FromAgent::Progress { id: 1, progress } if progress == Progress::default() => reports += 1,
            FromAgent::Heartbeat => {}
            other => panic!("{other:?}"),
        }
    }
    server.send(&ToAgent::Cancel { id: 1 }).await;
    server.reply(1).await.unwrap_err();
}

#[tokio::test]
async fn what_is_no_server_is_refused() {
    for (bytes, part) in [
        (&b"GET / HTTP/1.1\r\n"[..], "speak this protocol"),
        (b"CASSY-AGENT 2\n", "speak this protocol"),
        (b"CASSY-AGENT 1\n\xff\xff\xff\xff", "speak this protocol"),
        (b"CASSY-AGENT 1\n\0\0\0\x02{}", "speak this protocol"),
        (b"CASSY-AGENT 1\n\0\0\0\x14{\"type\":\"heartbeat\"}", "something else than a hello"),
    ] {
        let mut server = Server::start();
        server.write(bytes).await;
        let error = server.ended().await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    let mut cut = Server::greeted(60_000).await;
    cut.write(&[0, 0, 1]).await;
    cut.input = None;
    assert!(matches!(cut.ended().await, Err(AgentLoopError::Frame(_))));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_greets_is_not_waited_for() {
    let mut server = Server::start();
    server.write(PREAMBLE).await;
    let outcome = timeout(Duration::from_secs(100), &mut server.agent).await.unwrap().unwrap();
    assert!(matches!(outcome, Err(AgentLoopError::Silence(_))));
}

#[tokio::test]
async fn a_server_that_is_gone_ends_it() {
    let server = Server::greeted(60_000).await;
    let Server { input, output, agent, .. } = server;
    drop(output);
    let outcome = timeout(LONG, agent).await.unwrap().unwrap();
    assert!(matches!(outcome, Err(AgentLoopError::Write(_))));
    drop(input);
}

#[tokio::test]
async fn the_store_has_to_be_the_servers() {
    let root = tempfile::tempdir().unwrap();
    let mut server = Server::greeted(60_000).await;
    let location = format!("file://{}", root.path().display());
    let key: ObjectKey = "cassy/1/c/probe/p".parse().unwrap();
    let store = cassy_store::open(&cassy_store::StoreAccess::new(location.clone())).unwrap();
    store.put(&key, bytes::Bytes::from_static(b"written")).await.unwrap();
    let check = |key: &ObjectKey, location: &str, content: &str| {
        Request::CheckStore(CheckStoreRequest {
            store: StoreGrant { location: location.to_owned() },
            key: key.clone(),
            content: content.to_owned(),
        })
    };
    server.request(1, check(&key, &location, "written")).await;
    assert_eq!(server.reply(1).await, Ok(Reply::Done));
    for (id, content) in [(2, "other_w"), (3, "short")] {
        server.request(id, check(&key, &location, content)).await;
        let error = server.reply(id).await.unwrap_err();
        assert_eq!(error.kind, AgentErrorKind::Permanent);
        assert!(error.message.contains("the node does not see the store that the server sees"), "{error}");
    }
    server.request(4, check(&"cassy/1/c/probe/q".parse().unwrap(), &location, "written")).await;
    let error = server.reply(4).await.unwrap_err();
    assert!(error.message.contains("it is not there") && error.hint.is_some(), "{error}");
    server.request(5, check(&key, "file:///nonexistent/cassy", "written")).await;
    assert_eq!(server.reply(5).await.unwrap_err().kind, AgentErrorKind::Permanent);
}
