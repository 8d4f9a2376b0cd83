//! What a hostile JMX server can send: damaged replies, and damaged conversations with a client. No panic, no hang,
//! bounded memory, and the same outcome in whatever pieces a reply arrives.

#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "fuzz/conversation.rs"]
mod conversation;

use std::fs;
use std::path::Path;

use cassy_fuzz::Fuzz;
use cassy_jmx::rmi::reply::{self, Reply, ReplyReader, Returns};
use cassy_jmx::rmi::transport::Hello;
use cassy_jmx::rmi::{stub, transport};
use cassy_jmx::stream::{StreamError, mutf8, reader};
use cassy_jmx::{Limits, MBeanInfo, ObjectName, RemoteException, View};

/// All recorded files whose names end so.
fn vectors(suffix: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut paths = Vec::new();
    for directory in fs::read_dir(root).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        paths.extend(fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.path()));
    }
    paths.retain(|path| path.to_str().unwrap().ends_with(suffix));
    paths.sort();
    let mut contents: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    // Many replies differ in their ids only.
    contents.dedup_by_key(|content| content.len());
    assert!(contents.len() > 10, "{suffix}");
    contents
}

/// Class names, tags and the like.
fn words() -> Vec<Vec<u8>> {
    let classes = [
        "java.util.ArrayList",
        "java.util.HashMap",
        "java.util.LinkedHashMap",
        "java.util.TreeMap",
        "java.util.HashSet",
        "java.util.Collections$UnmodifiableMap",
        "java.util.ImmutableCollections$ListN",
        "java.util.CollSer",
        "javax.management.openmbean.TabularDataSupport",
        "javax.management.openmbean.CompositeDataSupport",
        "javax.management.ObjectName",
        "java.rmi.server.RemoteObject",
        "java.lang.Integer",
        "[B",
        "[Ljava.lang.Object;",
    ];
    let with_length = classes.map(|class| {
        let length = u16::try_from(class.len()).unwrap().to_be_bytes();
        [&length[..], class.as_bytes()].concat()
    });
    let tags: [&[u8]; 10] = [
        b"\x71\x00\x7e\x00\x00",
        b"\x71\x00\x7e\x00\x05",
        b"\x73\x71\x00\x7e\x00\x02",
        b"\x70",
        b"\x78",
        b"\x79",
        b"\x7b",
        b"\x77\x00",
        b"\x7a\x7f\xff\xff\xff",
        b"\x75\x72\x00\x02[B\xac\xf3\x17\xf8\x06\x08\x54\xe0\x02\x00\x00\x78\x70",
    ];
    with_length.into_iter().chain(tags.map(<[u8]>::to_vec)).collect()
}

fn limits() -> Limits {
    Limits { memory_bytes: 4 << 20, view_values: 50_000, ..Limits::default() }
}

fn read(bytes: &[u8], returns: Returns, pieces: usize) -> Result<Option<Reply>, StreamError> {
    let mut reader = ReplyReader::new(returns, &limits());
    for piece in bytes.chunks(pieces.max(1)) {
        if reader.push(piece)? {
            break;
        }
    }
    Ok(reader.finish())
}

/// Looks at a value in every way there is.
fn look(view: View<'_>, depth: usize) {
    let _texts = (
        view.as_str(),
        view.as_bool(),
        view.as_i64(),
        view.as_f64(),
        view.as_object_name(),
        view.as_enum(),
        view.as_bytes(),
    );
    let _strings = (
        view.strings(),
        view.string_pairs(),
        view.object_names(),
        view.attributes().is_ok(),
        view.column("x").is_ok(),
    );
    let _parts =
        (stub::remote_ref(view), MBeanInfo::read(view), RemoteException::read(view).thrown().to_string());
    if depth > 4 {
        return;
    }
    for item in view.items().unwrap_or_default().into_iter().chain(view.rows().unwrap_or_default()).take(50) {
        look(item, depth + 1);
    }
    for (key, value) in view.pairs().unwrap_or_default().into_iter().take(50) {
        look(key, depth + 1);
        look(value, depth + 1);
    }
}

#[test]
fn a_damaged_reply_is_read_alike_in_one_piece_and_in_many() {
    Fuzz::new("jmx reply").cost(2).seeds(vectors(".resp.bin")).words(words()).memory_bytes(32 << 20).run(
        |bytes| {
            // As the real methods do: what returns nothing or a boolean has a short reply.
            let returns = match (bytes.len(), bytes.get(6)) {
                (0..=22, Some(15)) => Returns::Void,
                (_, Some(16)) => Returns::Boolean,
                _ => Returns::Object,
            };
            let whole = reply::parse(bytes, returns, &limits());
            let split = read(bytes, returns, 1 + bytes.len() % 97);
            match (&whole, &split) {
                (Ok(whole), Ok(split)) => assert_eq!(whole.is_some(), split.is_some()),
                (Err(whole), Err(split)) => assert_eq!(whole, split),
                // Bytes after the end may come in a piece that is not read any more.
                (Err(_), Ok(split)) => assert!(split.is_some()),
                (Ok(_), Err(error)) => panic!("refused in pieces only: {error}"),
            }
            let Ok(Some(reply)) = &whole else { return false };
            look(reply.view(), 0);
            true
        },
    );
}

#[test]
fn a_stream_without_a_reply_around_it_is_data_too() {
    // Behind the byte that starts a reply comes a stream with header and block.
    let streams = vectors(".resp.bin").into_iter().map(|reply| [&reply[1..5], &reply[22..]].concat());
    let seeds = streams.filter(|stream| stream.len() > 4).chain(vectors(".bin"));
    Fuzz::new("jmx stream").cost(4).seeds(seeds).words(words()).memory_bytes(32 << 20).run(|bytes| {
        let parsed = reader::parse(bytes, &limits());
        let Ok(Some((graph, reader::Outcome::Value(value) | reader::Outcome::Aborted(value)))) = &parsed
        else {
            return false;
        };
        look(View::new(graph, *value), 0);
        true
    });
}

#[test]
fn a_damaged_greeting_is_named() {
    let seeds: [&[u8]; 6] = [
        b"\x4e\x00\x09127.0.0.1\x00\x00\x1c\x1f",
        b"\x4e\x00\x00\x00\x00\x00\x01",
        b"\x4f",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x50",
    ];
    Fuzz::new("jmx greeting").seeds(seeds).run(|bytes| match transport::hello(bytes) {
        Hello::Rmi(used) => {
            assert!(used <= bytes.len());
            true
        }
        Hello::NeedMore => false,
        Hello::Other(text) => {
            assert!(text.len() < 200 && !text.contains(char::is_control), "{text:?}");
            false
        }
    });
}

#[test]
fn modified_utf_8_round_trips_when_it_is_accepted() {
    let seeds: [&[u8]; 5] =
        [b"", b"plain", "Gr\u{f6}\u{df}e \u{6c34}".as_bytes(), b"a\xc0\x80b", b"\xed\xa0\xbd\xed\xb8\x80"];
    Fuzz::new("jmx modified UTF-8").seeds(seeds).words([b"\xed\xa0\xbd"]).run(|bytes| {
        let Ok(text) = mutf8::decode(bytes) else { return false };
        let mut back = Vec::new();
        mutf8::encode(&text, &mut back);
        assert_eq!(mutf8::decode(&back), Ok(text));
        true
    });
}

#[test]
fn object_names_round_trip_when_they_are_accepted() {
    let seeds = [
        "org.apache.cassandra.db:type=StorageService",
        "org.apache.cassandra.db:keyspace=ks1,table=\"t\\\"1\\\\\",type=Tables",
        "d:k=\"\\n\\*\\?\",l=1",
        ":a=b",
    ];
    let words = ["=", ",", ":", "\"", "\\", "\\n", "*", "?"];
    Fuzz::new("jmx object name").seeds(seeds).words(words).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Ok(name) = ObjectName::parse(text) else { return false };
        assert_eq!(ObjectName::parse(&name.to_string()), Ok(name));
        true
    });
}
