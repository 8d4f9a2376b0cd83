//! A hostile agent: a damaged conversation with the handle. Every request ends in time, with an answer or with a reason.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use cassy_agent_protocol::{
    AgentError, AgentErrorKind, AgentHello, DataDirectories, FromAgent, PREAMBLE, Progress, Reply, Request,
    RestorePlan, ServerHello, frame,
};
use cassy_fuzz::Fuzz;
use cassy_ssh::{AgentCallError, AgentHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

const SILENCE: Duration = Duration::from_secs(30);

/// Any request.
fn listing() -> Request {
    Request::ListSnapshots(DataDirectories { data_directories: Vec::new() })
}

fn hello() -> ServerHello {
    ServerHello { job_id: "j".into(), epoch: 7, heartbeat_ms: 5000, silence_ms: 30_000 }
}

/// Everything that an agent says, all at once after the greeting has been read; then it hangs up or falls silent.
async fn converse(words: &[u8]) -> bool {
    let (ours, theirs) = duplex(256 << 10);
    let (mut listening, mut speaking) = split(theirs);
    // It reads whatever it is sent, so that the handle is not ended by that.
    let reading =
        tokio::spawn(async move { while listening.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} });
    // What belongs to the second request may only come once there is one, so the last piece comes later.
    let (early, late) = words.split_at(words.len() / 2);
    speaking.write_all(early).await.unwrap();
    let (late, hangs_up) = (late.to_vec(), words.len().is_multiple_of(2));
    let talking = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _the_handle_has_hung_up = speaking.write_all(&late).await;
        if !hangs_up {
            std::future::pending::<()>().await;
        }
        speaking.shutdown().await.ok();
    });
    let start = Instant::now();
    let outcome = timeout(Duration::from_hours(1), requests(ours)).await.expect("it ends");
    assert!(start.elapsed() < SILENCE * 10, "{:?}", start.elapsed());
    talking.abort();
    reading.abort();
    outcome
}

async fn requests(stream: tokio::io::DuplexStream) -> bool {
    let handle = match AgentHandle::over(stream, hello()).await {
        Ok(handle) => handle,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let mut answered = 0;
    for _ in 0..3 {
        let (progress, _seen) = watch::channel(Progress::default());
        match handle.request(listing(), progress).await {
            Ok(_) | Err(AgentCallError::Failed(_)) => answered += 1,
            Err(AgentCallError::Gone(reason)) => {
                assert!(!reason.is_empty());
                assert_eq!(handle.gone().await, reason);
                break;
            }
        }
    }
    handle.close().await;
    answered > 0
}

#[test]
fn every_request_to_an_agent_that_misbehaves_ends_in_time() {
    let agent =
        AgentHello { build: "b".into(), version: "v".into(), hostname: "h".into(), pid: 1, user: "u".into() };
    let error = AgentError { kind: AgentErrorKind::Busy, message: "locked".into(), hint: None };
    let messages = [
        FromAgent::Hello(agent),
        FromAgent::Heartbeat,
        FromAgent::Heartbeat,
        FromAgent::Heartbeat,
        FromAgent::Heartbeat,
        FromAgent::Progress { id: 1, progress: Progress::default() },
        FromAgent::Reply { id: 1, outcome: Ok(Reply::Planned(RestorePlan::default())) },
    ];
    let frames = messages.map(|message| frame::encode(&message).unwrap());
    let second = frame::encode(&FromAgent::Reply { id: 2, outcome: Err(error) }).unwrap();
    let seed = [PREAMBLE, &frames.concat()].concat();
    let noisy = [b"Welcome to node 7\r\n", &seed[..]].concat();
    let words = frames.into_iter().chain([PREAMBLE.to_vec(), second]);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let fuzz = Fuzz::new("agent handle").seeds([seed, noisy]).words(words).cost(10);
    fuzz.run(|words| runtime.block_on(converse(words)));
}
