//! Frames: whole, in pieces, and from peers that are no agent.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use cassy_agent_protocol::frame::{LIMIT_BYTES, LIMIT_VALUES, encode};
use cassy_agent_protocol::{
    AgentError, AgentErrorKind, DataDirectories, FrameDecoder, FrameError, FromAgent, PREAMBLE, Progress,
    Reply, Request, ServerHello, SweepRequest, ToAgent,
};
use proptest::prelude::*;

const TAG: &str = "cassy-0193b0a0-0000-7000-8000-000000000001-1";

fn messages() -> Vec<ToAgent> {
    let data = DataDirectories { data_directories: vec!["/d2".into()] };
    let tags = vec![TAG.parse().unwrap()];
    let sweep = SweepRequest { data_directories: vec!["/d\u{202e}1".into()], tags };
    vec![
        ToAgent::Hello(ServerHello { job_id: "j".into(), epoch: -1, heartbeat_ms: 1, silence_ms: u64::MAX }),
        ToAgent::Request { id: 1, request: Request::SweepSnapshots(sweep) },
        ToAgent::Request { id: 2, request: Request::ListSnapshots(data) },
        ToAgent::Cancel { id: 2 },
        ToAgent::Heartbeat,
    ]
}

fn stream(messages: &[ToAgent]) -> Vec<u8> {
    let mut bytes = PREAMBLE.to_vec();
    for message in messages {
        bytes.extend(encode(message).unwrap());
    }
    bytes
}

fn error_of(bytes: &[u8]) -> FrameError {
    let mut decoder = FrameDecoder::new();
    decoder.push(bytes);
    decoder.next::<ToAgent>().unwrap_err()
}

#[test]
fn replies_come_back_as_they_were() {
    let error = AgentError { kind: AgentErrorKind::Busy, message: "locked".into(), hint: None };
    for message in [
        FromAgent::Reply { id: 7, outcome: Err(error) },
        FromAgent::Reply { id: 7, outcome: Ok(Reply::Cleared { files: 3 }) },
        FromAgent::Reply { id: 7, outcome: Ok(Reply::Snapshots { tags: vec![TAG.parse().unwrap()] }) },
        FromAgent::Progress { id: 7, progress: Progress::default() },
    ] {
        let mut decoder = FrameDecoder::new();
        decoder.push(PREAMBLE);
        decoder.push(&encode(&message).unwrap());
        assert_eq!(decoder.next::<FromAgent>().unwrap(), Some(message));
    }
}

/// A frame with this text, whose reading would take some hundred MiB if nobody counted first.
fn framed(json: &str) -> Vec<u8> {
    let mut bytes = PREAMBLE.to_vec();
    bytes.extend(u32::try_from(json.len()).unwrap().to_be_bytes());
    bytes.extend(json.as_bytes());
    bytes
}

#[test]
fn frames_of_very_many_values_are_refused() {
    for (values, count) in [("0,", LIMIT_BYTES / 2 - 100), ("\"\":0,", LIMIT_VALUES), ("[],", LIMIT_VALUES)] {
        let (open, close) = if values.starts_with('"') { ("{", "\"\":0}") } else { ("[", "0]") };
        let many = format!("{open}{}{close}", values.repeat(count));
        let error = error_of(&framed(&format!("{{\"hello\":{many}}}")));
        assert!(matches!(error, FrameError::TooMany { values } if values > LIMIT_VALUES), "{error:?}");
    }
}

#[test]
fn values_within_texts_are_not_counted() {
    let odd = format!("\\\"{}", ",:[{\"\\".repeat(LIMIT_VALUES / 2));
    let data = DataDirectories { data_directories: vec![odd; 2] };
    let message = ToAgent::Request { id: 1, request: Request::ListSnapshots(data) };
    let mut decoder = FrameDecoder::new();
    decoder.push(&stream(std::slice::from_ref(&message)));
    assert_eq!(decoder.next::<ToAgent>().unwrap(), Some(message));
}

#[test]
fn a_message_of_very_many_values_is_not_sent() {
    let data = DataDirectories { data_directories: vec![String::new(); LIMIT_VALUES] };
    let message = ToAgent::Request { id: 1, request: Request::ListSnapshots(data) };
    assert!(matches!(encode(&message), Err(FrameError::TooMany { .. })));
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_messages(cuts in prop::collection::vec(1usize..40, 1..50)) {
        let (sent, mut got) = (messages(), Vec::new());
        let bytes = stream(&sent);
        let mut decoder = FrameDecoder::new();
        let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            decoder.push(piece);
            rest = after;
            while let Some(message) = decoder.next::<ToAgent>().unwrap() {
                got.push(message);
            }
        }
        prop_assert_eq!(got, sent);
        prop_assert!(decoder.end().is_ok());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), greeted: bool) {
        let mut decoder = FrameDecoder::new();
        if greeted {
            decoder.push(PREAMBLE);
        }
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next::<ToAgent>() {}
        let _ = decoder.end();
    }
}

#[test]
fn every_cut_off_end_is_seen() {
    let bytes = stream(&messages()[..1]);
    for end in 0..bytes.len() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&bytes[..end]);
        assert_eq!(decoder.next::<ToAgent>().unwrap(), None, "{end}");
        assert_eq!(decoder.end().is_ok(), end == PREAMBLE.len(), "{end}");
    }
}

#[test]
fn a_banner_is_shown_escaped_and_cut_short() {
    let banner = format!("Welcome \u{1b}[31m\u{202e}to node 1\r\n\0{}", "x".repeat(10_000));
    let error = error_of(banner.as_bytes());
    let text = error.to_string();
    assert!(text.contains(r"Welcome \u{1b}[31m\u{202e}to node 1\r\n\0xxx"), "{text}");
    assert!(text.len() < 400, "{text}");
    assert!(text.ends_with("…\""), "{text}");
}

#[test]
fn another_preamble_is_refused_at_its_first_other_byte() {
    for wrong in
        ["C a", "CASSY-AGENT 2\n", "CASSY-AGENT 1\r\n", " CASSY-AGENT 1\n", "\u{feff}CASSY-AGENT 1\n"]
    {
        assert!(matches!(error_of(wrong.as_bytes()), FrameError::WrongPreamble { .. }), "{wrong:?}");
    }
    assert!(matches!(error_of(b"\xff\xfe\0"), FrameError::WrongPreamble { .. }));
}

#[test]
fn a_declared_length_is_checked_and_reserves_nothing() {
    let limit = u32::try_from(LIMIT_BYTES).unwrap();
    for length in [limit + 1, u32::MAX, 1 << 31] {
        let error = error_of(&[PREAMBLE, &length.to_be_bytes()].concat());
        assert!(matches!(error, FrameError::TooLarge { bytes } if bytes == length as usize));
    }
    let mut decoder = FrameDecoder::new();
    decoder.push(&[PREAMBLE, &limit.to_be_bytes(), b"{"].concat());
    assert_eq!(decoder.next::<ToAgent>().unwrap(), None);
    assert!(matches!(decoder.end(), Err(FrameError::Truncated { .. })));
}

#[test]
fn too_large_a_message_is_not_sent() {
    let data_directories = vec!["x".repeat(LIMIT_BYTES)];
    let request = Request::SweepSnapshots(SweepRequest { data_directories, tags: vec![] });
    let error = encode(&ToAgent::Request { id: 1, request }).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { .. }));
}

/// Nothing but a tag of ours can be asked to be swept.
const FOREIGN_TAG: &str = "{\"type\":\"request\",\"id\":1,\"request\":{\"request\":\"sweep_snapshots\",\
     \"data_directories\":[],\"tags\":[\"daily\"]}}";

#[test]
fn what_is_not_a_message_is_an_error_again_and_again() {
    let deep = "[".repeat(100_000);
    for json in [
        "",
        "{}",
        "{\"type\":\"shutdown\"}",
        "{\"type\":\"cancel\",\"id\":-1}",
        "nul",
        "{\"type\":\"cancel\",\"id\":1}x",
        FOREIGN_TAG,
        &deep,
    ] {
        let length = u32::try_from(json.len()).unwrap().to_be_bytes();
        let mut decoder = FrameDecoder::new();
        decoder.push(&[PREAMBLE, &length, json.as_bytes()].concat());
        for _ in 0..2 {
            assert!(matches!(decoder.next::<ToAgent>(), Err(FrameError::Malformed(_))), "{json:.40}");
        }
    }
}
