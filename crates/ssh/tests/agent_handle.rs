//! The handle against an agent in the same process: every way in which a conversation can go.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::task::Poll;
use std::time::Duration;

use cassy_agent_protocol::relay::{CONNECTIONS_LIMIT, PIECE_BYTES};
use cassy_agent_protocol::{
    AgentError, AgentErrorKind, AgentHello, DataDirectories, FrameDecoder, FromAgent, PREAMBLE, Piece,
    Progress, RelayEnd, RelayFrame, Reply, Request, ServerHello, ToAgent, frame,
};
use cassy_ssh::{AgentCallError, AgentHandle, GreetingError, LoopbackStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);

/// The agent's end of a stream.
struct FakeAgent {
    stream: DuplexStream,
    decoder: FrameDecoder,
}

impl FakeAgent {
    async fn send(&mut self, message: &FromAgent) {
        self.stream.write_all(&frame::encode(message).unwrap()).await.unwrap();
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Option<ToAgent> {
        loop {
            if let Some(message) = self.decoder.next().unwrap() {
                return Some(message);
            }
            let mut chunk = [0; 1000];
            match timeout(DEADLINE, self.stream.read(&mut chunk)).await.unwrap().unwrap() {
                0 => return None,
                count => self.decoder.push(&chunk[..count]),
            }
        }
    }

    /// The next message that is no heartbeat.
    async fn order(&mut self) -> Option<ToAgent> {
        loop {
            match self.next().await {
                Some(ToAgent::Heartbeat) => {}
                other => return other,
            }
        }
    }

    async fn request(&mut self) -> u64 {
        match self.order().await {
            Some(ToAgent::Request { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn reply(&mut self, id: u64, outcome: Result<Reply, AgentError>) {
        self.send(&FromAgent::Reply { id, outcome }).await;
    }
}

/// Any request.
fn listing() -> Request {
    Request::ListSnapshots(DataDirectories { data_directories: Vec::new() })
}

fn hello() -> ServerHello {
    ServerHello { job_id: "j".into(), epoch: 7, heartbeat_ms: 20, silence_ms: 5000 }
}

fn impatient() -> ServerHello {
    ServerHello { silence_ms: 300, ..hello() }
}

fn agent_hello() -> AgentHello {
    AgentHello { build: "b".into(), version: "v".into(), hostname: "h".into(), pid: 1, user: "u".into() }
}

/// An agent that has greeted, after this noise.
async fn pair_after(noise: &[u8], hello: ServerHello) -> (AgentHandle, FakeAgent) {
    let (ours, stream) = tokio::io::duplex(64 << 10);
    let mut agent = FakeAgent { stream, decoder: FrameDecoder::new() };
    let greeting = async {
        agent.stream.write_all(noise).await.unwrap();
        agent.stream.write_all(PREAMBLE).await.unwrap();
        agent.send(&FromAgent::Hello(agent_hello())).await;
        assert_eq!(agent.order().await, Some(ToAgent::Hello(hello.clone())));
    };
    let (handle, ()) = tokio::join!(AgentHandle::over(ours, hello.clone()), greeting);
    (handle.unwrap(), agent)
}

async fn pair() -> (AgentHandle, FakeAgent) {
    pair_after(b"", hello()).await
}

fn nobody() -> watch::Sender<Progress> {
    watch::channel(Progress::default()).0
}

#[tokio::test]
async fn a_request_its_progress_and_its_reply() {
    let (handle, mut agent) = pair().await;
    assert_eq!(handle.hello(), &agent_hello());
    let (progress, mut seen) = watch::channel(Progress::default());
    let half = Progress { bytes_done: 1, bytes_total: 2, files_done: 3, files_total: 4 };
    let work = async {
        let id = agent.request().await;
        agent.send(&FromAgent::Progress { id, progress: half }).await;
        assert_eq!(*seen.wait_for(|progress| progress.bytes_done > 0).await.unwrap(), half);
        agent.reply(id, Ok(Reply::Cleared { files: 5 })).await;
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), progress), work);
    assert_eq!(reply.unwrap(), Reply::Cleared { files: 5 });

    let error = AgentError { kind: AgentErrorKind::Busy, message: "another".into(), hint: None };
    let work = async {
        let id = agent.request().await;
        agent.reply(id, Err(error.clone())).await;
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
    assert!(matches!(reply, Err(AgentCallError::Failed(failed)) if failed == error));
}

#[tokio::test]
async fn noise_before_the_greeting_is_passed_over() {
    pair_after("Welcome to node 7\r\n\u{feff}".as_bytes(), hello()).await;
    pair_after(&[b'x'; 60_000], hello()).await;
}

#[tokio::test]
async fn strangers_are_not_agents() {
    let shown = |words: Vec<u8>| async move {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(&words).await.unwrap();
        theirs.shutdown().await.unwrap();
        timeout(DEADLINE, AgentHandle::over(ours, hello())).await.unwrap().unwrap_err()
    };
    assert!(matches!(shown(vec![]).await, GreetingError::Ended(_)));
    assert!(
        matches!(shown(b"no such file\n".to_vec()).await, GreetingError::Ended(said) if said.contains("no such file"))
    );
    assert!(matches!(shown(vec![b'x'; 200_000]).await, GreetingError::Stranger(_)));
    assert!(matches!(shown(b"CASSY-AGENT 2\n....".to_vec()).await, GreetingError::Stranger(_)));
    let with = |frame: Vec<u8>| [PREAMBLE, &frame].concat();
    assert!(matches!(shown(with(frame::encode(&FromAgent::Heartbeat).unwrap())).await, GreetingError::Rude));
    assert!(matches!(shown(with(vec![0xff; 100])).await, GreetingError::Stranger(_)));
    // An echo.
    assert!(matches!(
        shown(with(frame::encode(&ToAgent::Hello(hello())).unwrap())).await,
        GreetingError::Stranger(_)
    ));
}

#[tokio::test]
async fn requests_go_one_after_another() {
    let (handle, mut agent) = pair().await;
    let work = async {
        let first = agent.request().await;
        for _ in 0..5 {
            assert_eq!(agent.next().await, Some(ToAgent::Heartbeat), "no second request yet");
        }
        agent.reply(first, Ok(Reply::Cleared { files: 1 })).await;
        let second = agent.request().await;
        assert!(second > first);
        agent.reply(second, Ok(Reply::Cleared { files: 2 })).await;
    };
    let first = handle.request(listing(), nobody());
    let second = handle.request(listing(), nobody());
    let (first, second, ()) = tokio::join!(first, second, work);
    assert_eq!((first.unwrap(), second.unwrap()), (Reply::Cleared { files: 1 }, Reply::Cleared { files: 2 }));
}

#[tokio::test]
async fn a_cancelled_request_is_still_answered() {
    let (handle, mut agent) = pair().await;
    handle.cancel().await;
    let work = async {
        let id = agent.request().await;
        handle.cancel().await;
        handle.cancel().await;
        assert_eq!(agent.order().await, Some(ToAgent::Cancel { id }));
        agent.reply(id, Ok(Reply::Done)).await;
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
    assert_eq!(reply.unwrap(), Reply::Done);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_and_the_next_one_waits() {
    let (handle, mut agent) = pair().await;
    let abandoned = handle.request(listing(), nobody());
    let id = tokio::select! {
        _ = abandoned => panic!("nobody replied"),
        id = agent.request() => id,
    };
    assert_eq!(agent.order().await, Some(ToAgent::Cancel { id }));
    let work = async {
        for _ in 0..5 {
            assert_eq!(agent.next().await, Some(ToAgent::Heartbeat), "the first is not answered yet");
        }
        agent.reply(id, Ok(Reply::Cleared { files: 1 })).await;
        let id = agent.request().await;
        agent.reply(id, Ok(Reply::Cleared { files: 2 })).await;
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
    assert_eq!(reply.unwrap(), Reply::Cleared { files: 2 });
}

/// A request that was sent, and whose caller has gone away: the agent was told.
async fn abandoned(handle: &AgentHandle, agent: &mut FakeAgent) -> u64 {
    let id = tokio::select! {
        _ = handle.request(listing(), nobody()) => panic!("nobody replied"),
        id = agent.request() => id,
    };
    assert_eq!(agent.order().await, Some(ToAgent::Cancel { id }));
    id
}

#[tokio::test]
async fn a_request_that_waits_is_cancelled_and_never_sent() {
    let (handle, mut agent) = pair().await;
    let first = abandoned(&handle, &mut agent).await;
    let waiting = handle.request(listing(), nobody());
    let cancel = async {
        // The request's turn comes first; its order is sent before this one.
        tokio::task::yield_now().await;
        handle.cancel().await;
    };
    let (outcome, ()) = timeout(DEADLINE, async { tokio::join!(waiting, cancel) }).await.unwrap();
    let Err(AgentCallError::Failed(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind, AgentErrorKind::Cancelled);
    assert!(error.message.contains("before it was sent"), "{error}");

    agent.reply(first, Ok(Reply::Done)).await;
    let work = async {
        let id = agent.request().await;
        assert_eq!(id, first + 1, "the next one is the first after the abandoned one");
        handle.cancel().await;
        assert_eq!(agent.order().await, Some(ToAgent::Cancel { id }), "one that was sent is still cancelled");
        agent.reply(id, Ok(Reply::Cleared { files: 3 })).await;
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
    assert_eq!(reply.unwrap(), Reply::Cleared { files: 3 });
}

#[tokio::test]
async fn a_request_that_waits_and_loses_its_caller_is_never_sent() {
    let (handle, mut agent) = pair().await;
    let first = abandoned(&handle, &mut agent).await;
    let mut waiting = Box::pin(handle.request(listing(), nobody()));
    // Once it was polled, the pump has it or will.
    let polled = std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context))).await;
    assert!(polled.is_pending());
    drop(waiting);
    agent.reply(first, Ok(Reply::Done)).await;
    let work = async {
        let id = agent.request().await;
        assert_eq!(id, first + 1, "nothing was sent in between");
        agent.reply(id, Ok(Reply::Cleared { files: 4 })).await;
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
    assert_eq!(reply.unwrap(), Reply::Cleared { files: 4 });
}

#[tokio::test]
async fn an_agent_that_ends_is_gone() {
    let (handle, mut agent) = pair().await;
    let work = async move {
        agent.request().await;
        drop(agent);
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
    assert!(matches!(reply, Err(AgentCallError::Gone(reason)) if reason.contains("stream ended")));
    assert!(handle.gone().await.contains("stream ended"));
    let again = handle.request(listing(), nobody()).await;
    assert!(matches!(again, Err(AgentCallError::Gone(reason)) if reason.contains("stream ended")));
    handle.cancel().await;
    handle.close().await;
}

#[tokio::test]
async fn a_silent_agent_is_gone() {
    let (handle, mut agent) = pair_after(b"", impatient()).await;
    let drain = async { while agent.next().await.is_some() {} };
    // What it was sent ends too: a hung agent is told by its standard input.
    let (reason, ()) = timeout(DEADLINE, async { tokio::join!(handle.gone(), drain) }).await.unwrap();
    assert!(reason.contains("no sign of life"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_shows_life_is_waited_for() {
    let (handle, mut agent) = pair_after(b"", impatient()).await;
    let work = async {
        let id = agent.request().await;
        let began = tokio::time::Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            agent.next().await;
            agent.send(&FromAgent::Heartbeat).await;
        }
        agent.reply(id, Ok(Reply::Done)).await;
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
    assert_eq!(reply.unwrap(), Reply::Done);
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_gone() {
    let (ours, mut theirs) = tokio::io::duplex(256);
    let greeting = async {
        theirs.write_all(PREAMBLE).await.unwrap();
        theirs.write_all(&frame::encode(&FromAgent::Hello(agent_hello())).unwrap()).await.unwrap();
    };
    let (handle, ()) = tokio::join!(AgentHandle::over(ours, impatient()), greeting);
    let handle = handle.unwrap();
    let beats = async {
        let beat = frame::encode(&FromAgent::Heartbeat).unwrap();
        while theirs.write_all(&beat).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (reason, ()) = timeout(DEADLINE, async { tokio::join!(handle.gone(), beats) }).await.unwrap();
    assert!(reason.contains("does not read"), "{reason}");
}

#[tokio::test]
async fn breaches_of_the_protocol_end_it() {
    let breaches = [
        FromAgent::Hello(agent_hello()),
        FromAgent::Reply { id: 99, outcome: Ok(Reply::Done) },
        FromAgent::Progress { id: 99, progress: Progress::default() },
    ];
    for breach in breaches {
        let (handle, mut agent) = pair().await;
        let work = async {
            agent.request().await;
            agent.send(&breach).await;
        };
        let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
        assert!(matches!(reply, Err(AgentCallError::Gone(_))), "{breach:?}: {reply:?}");
    }
    let (handle, mut agent) = pair().await;
    agent.stream.write_all(&[0xff; 8]).await.unwrap();
    assert!(timeout(DEADLINE, handle.gone()).await.unwrap().contains("longer than the limit"));
}

#[tokio::test]
async fn dropping_and_closing_end_the_stream() {
    let (handle, mut agent) = pair().await;
    drop(handle);
    assert_eq!(agent.order().await, None);

    let (handle, mut agent) = pair().await;
    let work = async move {
        assert_eq!(agent.order().await, None);
        drop(agent);
    };
    timeout(DEADLINE, async { tokio::join!(handle.close(), work) }).await.unwrap();
}

/// A connection that the agent has made, by its number.
async fn dialled(handle: &AgentHandle, agent: &mut FakeAgent, port: u16) -> (LoopbackStream, u64) {
    let open = async {
        let Some(ToAgent::Relay { connection, frame }) = agent.order().await else { panic!("no dial") };
        assert_eq!(frame, RelayFrame::Open { port });
        agent.relay(connection, RelayFrame::Opened).await;
        connection
    };
    let (stream, connection) = tokio::join!(handle.dial(port), open);
    (stream.unwrap(), connection)
}

fn data(bytes: &[u8]) -> RelayFrame {
    RelayFrame::Data { piece: Piece::new(bytes.to_vec()).unwrap() }
}

impl FakeAgent {
    async fn relay(&mut self, connection: u64, frame: RelayFrame) {
        self.send(&FromAgent::Relay { connection, frame }).await;
    }
}

#[tokio::test]
async fn bytes_travel_through_the_agent_while_it_works() {
    let (handle, mut agent) = pair().await;
    let work = async {
        let id = agent.request().await;
        let (mut stream, connection) = dialled(&handle, &mut agent, 7199).await;
        stream.write_all(b"ping").await.unwrap();
        assert_eq!(agent.order().await, Some(ToAgent::Relay { connection, frame: data(b"ping") }));
        agent.relay(connection, RelayFrame::Taken).await;
        agent.relay(connection, data(b"po")).await;
        agent.relay(connection, data(b"ng")).await;
        agent.relay(connection, RelayFrame::Closed { end: RelayEnd::Ended }).await;
        let mut text = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        assert_eq!(text, "pong");
        agent.reply(id, Ok(Reply::Done)).await;
    };
    let (reply, ()) = tokio::join!(handle.request(listing(), nobody()), work);
    assert_eq!(reply.unwrap(), Reply::Done);
}

#[tokio::test]
async fn what_the_agent_cannot_connect_to_is_an_error_that_says_why() {
    for (end, kind, part) in [
        (RelayEnd::Refused, std::io::ErrorKind::ConnectionRefused, "nothing listens on port 7199"),
        (
            RelayEnd::Failed("too \x1b[31m many files".into()),
            std::io::ErrorKind::Other,
            "too \\u{1b}[31m many",
        ),
        (RelayEnd::Ended, std::io::ErrorKind::UnexpectedEof, "closed the connection"),
    ] {
        let (handle, mut agent) = pair().await;
        let answer = async {
            let Some(ToAgent::Relay { connection, .. }) = agent.order().await else { panic!("no dial") };
            agent.relay(connection, RelayFrame::Closed { end }).await;
        };
        let (error, ()) = tokio::join!(handle.dial(7199), answer);
        let error = error.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(part), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_says_so_after_what_had_come() {
    let (handle, mut agent) = pair().await;
    let (mut broken, first) = dialled(&handle, &mut agent, 1).await;
    let (mut lost, second) = dialled(&handle, &mut agent, 2).await;
    agent.relay(first, data(b"half")).await;
    agent.relay(first, RelayFrame::Closed { end: RelayEnd::Failed("reset".into()) }).await;
    let mut got = Vec::new();
    let error = timeout(DEADLINE, broken.read_to_end(&mut got)).await.unwrap().unwrap_err();
    assert_eq!((got.as_slice(), error.to_string()), (&b"half"[..], "reset".to_owned()));
    assert!(second > first);
    drop(agent);
    let error = timeout(DEADLINE, lost.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("the agent is gone: its stream ended"), "{error}");
    let error = handle.dial(3).await.unwrap_err();
    assert!(error.to_string().contains("the agent is gone: its stream ended"), "{error}");
}

#[tokio::test]
async fn a_connection_that_nobody_wants_any_more_is_closed_and_makes_room() {
    let (handle, mut agent) = pair().await;
    let mut streams = Vec::new();
    for port in (0_u16..).take(CONNECTIONS_LIMIT) {
        streams.push(dialled(&handle, &mut agent, port).await.0);
    }
    let error = handle.dial(99).await.unwrap_err();
    assert!(error.to_string().contains("16 connections through one agent are open already"), "{error}");
    streams.pop();
    let closed = agent.order().await;
    let end = RelayFrame::Closed { end: RelayEnd::Ended };
    assert!(matches!(&closed, Some(ToAgent::Relay { frame, .. }) if *frame == end), "{closed:?}");
    // So does a dial that is given up.
    let dial = handle.dial(98);
    let connection = tokio::select! {
        _ = dial => panic!("nobody answered"),
        order = agent.order() => match order {
            Some(ToAgent::Relay { connection, frame: RelayFrame::Open { port: 98 } }) => connection,
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(agent.order().await, Some(ToAgent::Relay { connection, frame: end }));
    dialled(&handle, &mut agent, 97).await;
}

#[tokio::test]
async fn an_agent_that_breaks_the_rules_of_the_relay_is_gone() {
    let breaches: [(u64, RelayFrame); 4] = [
        (99, RelayFrame::Opened),
        (1, RelayFrame::Open { port: 1 }),
        (1, RelayFrame::Taken),
        (7, data(b"from nowhere")),
    ];
    for (connection, frame) in breaches {
        let (handle, mut agent) = pair().await;
        let (_stream, _) = dialled(&handle, &mut agent, 1).await;
        agent.relay(connection, frame.clone()).await;
        let reason = timeout(DEADLINE, handle.gone()).await.unwrap();
        assert!(reason.starts_with("it sent "), "{frame:?}: {reason}");
    }
    // More than the window holds, as nobody reads.
    let (handle, mut agent) = pair().await;
    let (_unread, connection) = dialled(&handle, &mut agent, 1).await;
    let flood = async {
        let frame = frame::encode(&FromAgent::Relay { connection, frame: data(&[7; PIECE_BYTES]) }).unwrap();
        while agent.stream.write_all(&frame).await.is_ok() {}
    };
    let (reason, ()) = timeout(DEADLINE, async { tokio::join!(handle.gone(), flood) }).await.unwrap();
    assert!(reason.contains("more data for a relayed connection than its window holds"), "{reason}");
}
