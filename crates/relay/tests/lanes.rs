//! Lanes between two ends, as server and agent have them, and against a peer that keeps no rule.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::time::Duration;

use cassy_agent_protocol::relay::{CONNECTIONS_LIMIT, PIECE_BYTES, WINDOW_PIECES};
use cassy_agent_protocol::{Piece, RelayEnd, RelayFrame};
use cassy_fuzz::Fuzz;
use cassy_relay::{Breach, Lanes, Outgoing};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

fn piece(bytes: &[u8]) -> Piece {
    Piece::new(bytes.to_vec()).unwrap()
}

/// A lane, and who stands at its end.
fn opened(lanes: &mut Lanes, connection: u64) -> DuplexStream {
    let (near, far) = duplex(PIECE_BYTES);
    lanes.open(connection, |_frames| async move { Ok(far) }).unwrap();
    near
}

async fn next(queue: &mut mpsc::Receiver<Outgoing>) -> Outgoing {
    timeout(LONG, queue.recv()).await.expect("no frame comes").expect("the lanes are there")
}

/// Hands on what one side sends to the other.
fn hand_on(to: &mut Lanes, (connection, frame): Outgoing) {
    match frame {
        RelayFrame::Data { piece } => to.data(connection, piece).unwrap(),
        RelayFrame::Taken => to.taken(connection).unwrap(),
        RelayFrame::Closed { .. } => to.finish(connection),
        RelayFrame::Open { .. } | RelayFrame::Opened => panic!("{frame:?}"),
    }
}

#[tokio::test]
async fn bytes_of_many_lanes_arrive_in_order_whatever_their_number() {
    let ((mut here, mut out), (mut there, mut back)) = (Lanes::new(), Lanes::new());
    let mut work = tokio::task::JoinSet::new();
    for connection in 1..=3_u8 {
        let (near, far) = (opened(&mut here, connection.into()), opened(&mut there, connection.into()));
        let sent: Vec<u8> =
            (0..=250).cycle().map(|at: u8| at ^ connection).take(4 * WINDOW_PIECES * PIECE_BYTES).collect();
        work.spawn(async move {
            let ((mut from, mut to), mut got) = (tokio::io::split(near), vec![0; sent.len()]);
            // An echo at the other end.
            let (mut theirs, mut ours) = tokio::io::split(far);
            let echo = tokio::spawn(async move { tokio::io::copy(&mut theirs, &mut ours).await });
            let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut got));
            written.unwrap();
            read.unwrap();
            echo.abort();
            assert!(got == sent, "every byte is the same");
        });
    }
    let relaying = async {
        loop {
            tokio::select! {
                frame = next(&mut out) => hand_on(&mut there, frame),
                frame = next(&mut back) => hand_on(&mut here, frame),
            }
        }
    };
    tokio::select! {
        () = relaying => {}
        () = async { while let Some(done) = work.join_next().await { done.unwrap() } } => {}
    }
}

#[tokio::test]
async fn a_lane_that_nobody_takes_from_stops_at_its_window_and_stops_no_other() {
    let (mut lanes, mut queue) = Lanes::new();
    let (mut flood, mut other) = (opened(&mut lanes, 1), opened(&mut lanes, 2));
    let flooding = tokio::spawn(async move { flood.write_all(&[7; 64 * PIECE_BYTES]).await });
    for _ in 0..WINDOW_PIECES {
        assert!(matches!(next(&mut queue).await, (1, RelayFrame::Data { .. })));
    }
    other.write_all(b"x").await.unwrap();
    assert_eq!(next(&mut queue).await, (2, RelayFrame::Data { piece: piece(b"x") }));
    assert!(!flooding.is_finished());
    lanes.taken(1).unwrap();
    assert!(matches!(next(&mut queue).await, (1, RelayFrame::Data { .. })));
    // Taken is what was sent, and nothing else.
    for _ in 0..WINDOW_PIECES {
        lanes.taken(1).unwrap();
    }
    flooding.abort();
    assert_eq!(lanes.taken(2), Ok(()));
    assert_eq!(lanes.taken(2), Err(Breach::Unsent));
}

#[tokio::test]
async fn a_peer_that_sends_more_than_the_window_holds_is_found_out() {
    let (mut lanes, mut queue) = Lanes::new();
    // Nobody reads at the end of the first lane.
    let (silent, mut read) = (opened(&mut lanes, 1), opened(&mut lanes, 2));
    let mut sent = 0;
    let breach = loop {
        match lanes.data(1, piece(&[1; PIECE_BYTES])) {
            Ok(()) => sent += 1,
            Err(breach) => break breach,
        }
        assert!(sent < 100);
    };
    assert_eq!((breach, sent), (Breach::Window, WINDOW_PIECES));
    lanes.data(2, piece(b"hello")).unwrap();
    let mut got = [0; 5];
    timeout(LONG, read.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(&got, b"hello");
    loop {
        if next(&mut queue).await == (2, RelayFrame::Taken) {
            break;
        }
    }
    drop(silent);
}

#[tokio::test]
async fn what_came_before_the_end_is_still_delivered() {
    let (mut lanes, mut queue) = Lanes::new();
    let mut near = opened(&mut lanes, 1);
    for byte in *b"abc" {
        lanes.data(1, piece(&[byte])).unwrap();
    }
    lanes.finish(1);
    let mut text = String::new();
    timeout(LONG, near.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "abc");
    for _ in 0..3 {
        assert_eq!(next(&mut queue).await, (1, RelayFrame::Taken));
    }
    assert_eq!(next(&mut queue).await, (1, RelayFrame::Closed { end: RelayEnd::Ended }));
    // Late frames are passed over.
    assert_eq!((lanes.data(1, piece(b"x")), lanes.taken(1)), (Ok(()), Ok(())));
}

#[tokio::test]
async fn a_lane_ends_with_its_own_end_when_it_is_aborted_and_with_all_lanes() {
    let (mut lanes, mut queue) = Lanes::new();
    drop(opened(&mut lanes, 1));
    assert_eq!(next(&mut queue).await, (1, RelayFrame::Closed { end: RelayEnd::Ended }));
    let (mut aborted, mut with_all) = (opened(&mut lanes, 2), opened(&mut lanes, 3));
    lanes.data(2, piece(b"nobody wants this")).unwrap();
    lanes.abort(2);
    // To whatever had been delivered already.
    timeout(LONG, aborted.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    drop(lanes);
    assert_eq!(timeout(LONG, with_all.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn there_are_only_so_many_lanes_and_one_that_ended_makes_room() {
    let (mut lanes, mut queue) = Lanes::new();
    let mut ends: Vec<_> = (0..CONNECTIONS_LIMIT as u64).map(|id| opened(&mut lanes, id)).collect();
    let refused = |lanes: &mut Lanes, id| {
        lanes.open(id, |_frames| async { Err::<DuplexStream, _>(RelayEnd::Ended) }).unwrap_err()
    };
    assert!(!lanes.has_room());
    assert_eq!(refused(&mut lanes, 99), Breach::Connections);
    ends.pop();
    assert!(matches!(next(&mut queue).await, (_, RelayFrame::Closed { .. })));
    timeout(LONG, async {
        while !lanes.has_room() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(refused(&mut lanes, 0), Breach::Reused);
    lanes.open(99, |_frames| async { Err::<DuplexStream, _>(RelayEnd::Refused) }).unwrap();
    assert_eq!(next(&mut queue).await, (99, RelayFrame::Closed { end: RelayEnd::Refused }));
}

/// Three bytes an order: what, for which lane, how much.
async fn obey(orders: &[u8]) -> bool {
    let (mut lanes, mut queue) = Lanes::new();
    let mut ends = Vec::new();
    let mut kept = true;
    for order in orders.chunks_exact(3) {
        let [what, lane, much] = order else { continue };
        let connection = u64::from(lane % 4);
        let outcome = match what % 7 {
            0 => {
                let (near, far) = duplex(PIECE_BYTES);
                ends.push(near);
                lanes.open(connection, |_frames| async move { Ok(far) })
            }
            1 => lanes.data(connection, piece(&vec![*much; 1 + usize::from(*much)])),
            2 => lanes.taken(connection),
            3 => {
                lanes.finish(connection);
                Ok(())
            }
            4 => {
                lanes.abort(connection);
                Ok(())
            }
            5 => {
                ends.truncate(usize::from(*much));
                Ok(())
            }
            _ => {
                for end in &mut ends {
                    let _full_or_closed = timeout(Duration::ZERO, end.write_all(&[1; 3000])).await;
                    let _empty_or_closed = timeout(Duration::ZERO, end.read(&mut [0; 3000])).await;
                }
                Ok(())
            }
        };
        while let Ok((_, frame)) = queue.try_recv() {
            assert!(!matches!(frame, RelayFrame::Open { .. } | RelayFrame::Opened));
        }
        kept &= outcome.is_ok();
        tokio::task::yield_now().await;
    }
    kept
}

#[test]
fn whatever_a_peer_orders_every_frame_is_taken_at_once_or_is_a_breach() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let seeds: [Vec<u8>; 3] = [
        [[0, 1, 0], [1, 1, 9], [6, 0, 0], [2, 1, 0], [1, 1, 255], [3, 1, 0]].concat(),
        [[0, 0, 0], [0, 1, 0], [0, 2, 0], [6, 0, 0], [5, 0, 1], [4, 1, 0], [0, 1, 0]].concat(),
        [[0, 3, 0]].into_iter().chain(std::iter::repeat_n([1, 3, 200], 20)).flatten().collect(),
    ];
    let fuzz = Fuzz::new("relayed lanes").seeds(seeds).cost(10);
    fuzz.run(|orders| runtime.block_on(obey(orders)));
}
