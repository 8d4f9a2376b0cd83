//! What a hostile server can send: whole sessions, damaged. Each ends in time, and what the agent says is well formed.

use std::path::PathBuf;
use std::time::Duration;

use cassy_agent_protocol::frame::encode;
use cassy_agent_protocol::{
    AgentErrorKind, FrameDecoder, FromAgent, PREAMBLE, Piece, RelayEnd, RelayFrame, Request, ServerHello,
    StoreGrant, SupersededRequest, SweepRequest, ToAgent,
};
use cassy_fuzz::Fuzz;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::{Instant, timeout};

use super::{Identity, serve};
use crate::inspect::Machine;

/// Other tests of this program run at the same time, and their memory counts.
const MEMORY_BYTES: u64 = 512 << 20;

fn hello() -> ToAgent {
    ToAgent::Hello(ServerHello { job_id: "j".into(), epoch: 1, heartbeat_ms: 1000, silence_ms: 30_000 })
}

fn relay(connection: u64, frame: RelayFrame) -> ToAgent {
    ToAgent::Relay { connection, frame }
}

/// Everything that may be sent here. Requests are only those that are refused as long as the lock is not held: a
/// damaged path must not make a test change what lies there.
fn is_harmless(stream: &[u8]) -> bool {
    let mut decoder = FrameDecoder::new();
    decoder.push(stream);
    while let Ok(Some(message)) = decoder.next::<ToAgent>() {
        let harmless = match message {
            ToAgent::Request { request, .. } => {
                matches!(request, Request::SweepSnapshots(_) | Request::ClearSuperseded(_))
            }
            // More heartbeats than anybody wants to count.
            ToAgent::Hello(hello) => hello.silence_ms / hello.heartbeat_ms.max(10) < 10_000,
            // No connection is made: no port has this number.
            ToAgent::Relay { frame: RelayFrame::Open { port }, .. } => port == 0,
            ToAgent::Relay { .. } | ToAgent::Cancel { .. } | ToAgent::Heartbeat => true,
        };
        if !harmless {
            return false;
        }
    }
    true
}

/// Whether the agent answered anything.
async fn converse(stream: &[u8], spools: &[PathBuf]) -> bool {
    let (mut input, stdin) = duplex(256 << 10);
    let (mut output, stdout) = duplex(256 << 10);
    let identity = Identity { build: "b".repeat(64), version: "1".to_owned() };
    input.write_all(stream).await.expect("the buffer is larger than any input");
    // Half of the servers hang up; the others fall silent.
    let kept = if stream.len().is_multiple_of(2) { None } else { Some(input) };
    let start = Instant::now();
    let agent = Box::pin(serve(stdin, stdout, identity, Machine::default(), spools));
    let answers = timeout(Duration::from_hours(1200), async {
        let mut answers = Vec::new();
        let _how_both_ended = tokio::join!(agent, output.read_to_end(&mut answers));
        answers
    })
    .await
    .expect("the agent ends");
    drop(kept);
    assert!(start.elapsed() <= Duration::from_millis(u64::from(u32::MAX) + 10_000), "{:?}", start.elapsed());
    let mut decoder = FrameDecoder::new();
    decoder.push(&answers);
    while let Some(message) = decoder.next::<FromAgent>().expect("an agent speaks properly") {
        let FromAgent::Reply { outcome, .. } = message else { continue };
        let refusal = outcome.expect_err("without the lock");
        assert!(!refusal.message.contains("panicked"), "{refusal:?}");
        assert_eq!(refusal.kind, AgentErrorKind::Bug);
    }
    decoder.end().expect("whole frames");
    answers.len() > PREAMBLE.len()
}

#[test]
fn an_agent_whose_server_misbehaves_ends_in_time_and_answers_properly() {
    let tags = vec!["cassy-01900000-0000-7000-8000-000000000001-1".parse().expect("a tag")];
    let sweep = SweepRequest { data_directories: vec!["/nonexistent".into()], tags };
    let superseded = SupersededRequest {
        store: StoreGrant { location: "file:///nonexistent".into() },
        cluster_id: "c-1".parse().expect("an id"),
        host_id: "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1".parse().expect("an id"),
        backup_id: "01900000-0000-7000-8000-000000000001".parse().expect("an id"),
        data_directories: vec!["/nonexistent".into()],
    };
    let messages = [
        hello(),
        ToAgent::Heartbeat,
        ToAgent::Request { id: 1, request: Request::SweepSnapshots(sweep) },
        ToAgent::Cancel { id: 1 },
        relay(1, RelayFrame::Open { port: 0 }),
        relay(1, RelayFrame::Data { piece: Piece::new(vec![7; 100]).expect("short") }),
        relay(1, RelayFrame::Taken),
        relay(2, RelayFrame::Open { port: 0 }),
        relay(2, RelayFrame::Closed { end: RelayEnd::Ended }),
        ToAgent::Request { id: 2, request: Request::ClearSuperseded(superseded) },
        ToAgent::Heartbeat,
    ];
    let frames: Vec<Vec<u8>> = messages.iter().map(|message| encode(message).expect("small")).collect();
    let mut seed = [PREAMBLE, &frames.concat()].concat();
    // Of an even length, so that this server hangs up.
    if !seed.len().is_multiple_of(2) {
        seed.extend(encode(&ToAgent::Cancel { id: 10 }).expect("small"));
    }
    let short = [PREAMBLE, &frames[0]].concat();
    let spool = tempfile::tempdir().expect("a directory");
    let spools = [spool.path().to_owned()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let frames = frames.into_iter().chain([PREAMBLE.to_vec()]);
    let fuzz =
        Fuzz::new("agent's session").seeds([seed, short]).words(frames).cost(10).memory_bytes(MEMORY_BYTES);
    fuzz.run(|stream| is_harmless(stream) && runtime.block_on(converse(stream, &spools)));
}
