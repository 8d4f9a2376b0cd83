//! Frames that no peer of this build sends: each is refused with a reason, whatever it holds.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::error::Error;

use cassy_agent_protocol::frame::LIMIT_BYTES;
use cassy_agent_protocol::{FrameDecoder, FrameError, FromAgent, PREAMBLE, Request, ToAgent};

const CHECK: &str = r#"{"type":"request","id":1,"request":{"request":"check_store","store":{"location":"file:///s"},"key":"a/b","content":"x"}}"#;
const LOCK: &str =
    r#"{"type":"request","id":1,"request":{"request":"lock","directory":"/data","wait_ms":5}}"#;
const SWEEP: &str = r#"{"type":"request","id":1,"request":{"request":"sweep_snapshots","data_directories":["/data"],"tags":["cassy-0193b0a0-0000-7000-8000-000000000001-1"]}}"#;
const PROGRESS: &str = r#"{"type":"progress","id":1,"progress":{"bytes_done":1,"bytes_total":2,"files_done":3,"files_total":4}}"#;

fn decoded<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, FrameError> {
    let length = u32::try_from(json.len()).unwrap().to_be_bytes();
    let mut decoder = FrameDecoder::new();
    decoder.push(&[PREAMBLE, &length, json].concat());
    decoder.next().map(|message| message.expect("the frame is whole"))
}

/// Why this is no message to an agent.
fn refused(json: impl AsRef<[u8]>) -> String {
    let error = decoded::<ToAgent>(json.as_ref()).unwrap_err();
    assert!(matches!(error, FrameError::Malformed(_)), "{error:?}");
    format!("{error}: {}", error.source().unwrap())
}

#[test]
fn what_these_tests_change_is_a_message() {
    for json in [CHECK, LOCK, SWEEP] {
        assert!(matches!(decoded::<ToAgent>(json.as_bytes()).unwrap(), ToAgent::Request { id: 1, .. }));
    }
    assert!(matches!(decoded::<FromAgent>(PROGRESS.as_bytes()).unwrap(), FromAgent::Progress { .. }));
}

#[test]
fn keys_that_could_leave_the_store_are_refused() {
    let (long_segment, long_key) = ("x".repeat(256), ["x"; 513].join("/"));
    for (key, reason) in [
        ("a/", "empty segment"),
        ("a//b", "empty segment"),
        ("/etc/passwd", "empty segment"),
        ("", "empty segment"),
        ("../b", "segment . or .."),
        ("a/./b", "segment . or .."),
        ("a\\u0000b", "control character"),
        (&long_segment, "more than 255 bytes"),
        (&long_key, "longer than 1024 bytes"),
    ] {
        let text = refused(CHECK.replacen("a/b", key, 1));
        assert!(text.contains(reason) && text.len() < 500, "{key}: {text}");
    }
}

#[test]
fn other_tags_than_ours_are_refused() {
    for tag in [
        "",
        "..",
        "a/b",
        "a b",
        "a\\u0000",
        "a\\nb",
        ";rm -rf",
        "$(id)",
        "--option",
        "cassy-../../x-1",
        "cassy-0193b0a0-0000-7000-8000-000000000001-01",
        "cassy-0193b0a0-0000-7000-8000-000000000001-1/..",
        "cassy-0193B0A0-0000-7000-8000-000000000001-1",
        "cassy-0193b0a0-0000-7000-8000-000000000001-99999999999",
    ] {
        let text = refused(SWEEP.replacen("cassy-0193b0a0-0000-7000-8000-000000000001-1", tag, 1));
        assert!(text.contains("snapshot tags"), "{tag}: {text}");
    }
}

#[test]
fn other_encodings_than_utf_8_are_refused() {
    for bytes in
        [&b"\xff"[..], b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\\ud800"]
    {
        let (before, after) = LOCK.split_once("data").unwrap();
        refused([before.as_bytes(), bytes, after.as_bytes()].concat());
    }
    let utf16: Vec<u8> = LOCK.encode_utf16().flat_map(u16::to_le_bytes).collect();
    refused(&utf16);
    refused([&[0xff, 0xfe][..], &utf16].concat());
    refused(format!("\u{feff}{LOCK}"));
}

#[test]
fn every_truncated_message_is_refused() {
    for json in [CHECK, LOCK, SWEEP] {
        for end in 0..json.len() {
            refused(&json[..end]);
        }
        refused(format!("{json}{json}"));
    }
}

#[test]
fn a_field_that_is_there_twice_is_refused() {
    for (from, to) in [
        ("\"id\":1", "\"id\":1,\"id\":2"),
        ("\"type\":\"request\"", "\"type\":\"request\",\"type\":\"request\""),
        ("\"wait_ms\":5", "\"wait_ms\":5,\"wait_ms\":6"),
        ("\"directory\":\"/data\"", "\"directory\":\"/data\",\"directory\":\"/other\""),
        ("\"request\":\"lock\"", "\"request\":\"lock\",\"request\":\"clear_superseded\""),
    ] {
        assert!(LOCK.contains(from), "{from}");
        let text = refused(LOCK.replacen(from, to, 1));
        assert!(text.contains("duplicate field"), "{to}: {text}");
    }
}

#[test]
fn numbers_that_fit_nowhere_are_refused() {
    for number in ["-1", "1e400", "NaN", "18446744073709551616", "1.5", "\"5\"", "null", "Infinity"] {
        refused(LOCK.replacen("\"wait_ms\":5", &format!("\"wait_ms\":{number}"), 1));
        refused(LOCK.replacen("\"id\":1", &format!("\"id\":{number}"), 1));
        let progress = PROGRESS.replacen("\"bytes_done\":1", &format!("\"bytes_done\":{number}"), 1);
        assert!(decoded::<FromAgent>(progress.as_bytes()).is_err(), "{number}");
    }
    let most = LOCK.replacen("\"wait_ms\":5", "\"wait_ms\":18446744073709551615", 1);
    let ToAgent::Request { request: Request::Lock(lock), .. } = decoded(most.as_bytes()).unwrap() else {
        panic!("a lock");
    };
    assert_eq!(lock.wait_ms, u64::MAX);
}

/// The greatest list that a frame can hold is read; a longer one cannot be announced.
#[test]
fn lists_end_with_their_frame() {
    let tag = "\"cassy-0193b0a0-0000-7000-8000-000000000001-1\"";
    let tags = vec![tag; 300_000].join(",");
    let ToAgent::Request { request: Request::SweepSnapshots(sweep), .. } =
        decoded(SWEEP.replacen(tag, &tags, 1).as_bytes()).unwrap()
    else {
        panic!("a sweep");
    };
    assert_eq!(sweep.tags.len(), 300_000);
    let ten_million = u32::try_from(10_000_000 * tag.len()).unwrap();
    assert!(ten_million as usize > LIMIT_BYTES);
    let mut decoder = FrameDecoder::new();
    decoder.push(&[PREAMBLE, &ten_million.to_be_bytes()].concat());
    assert!(matches!(decoder.next::<ToAgent>(), Err(FrameError::TooLarge { .. })));
}
