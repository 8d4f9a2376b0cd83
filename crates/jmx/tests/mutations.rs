//! Damaged replies: no panic, no hang, and the same outcome in whatever pieces they arrive.

use std::fs;

use cassy_jmx::rmi::reply::{Reply, ReplyReader, Returns};
use cassy_jmx::rmi::{stub, transport};
use cassy_jmx::stream::{StreamError, mutf8, reader};
use cassy_jmx::{Limits, MBeanInfo, ObjectName, RemoteException, View};
use proptest::prelude::*;

const SEEDS: [&str; 14] = [
    "dynamic-proxy-stub/00-lookup.resp.bin",
    "ssl-UnicastRef2-factory/00-lookup.resp.bin",
    "jvm17-client/08-getAttribute-SnapshotDetails.resp.bin",
    "jvm17-client/09-getAttributes.resp.bin",
    "jvm17-client/13-getMBeanInfo.resp.bin",
    "jvm17-client/14-invoke-testThrowIO-exception.resp.bin",
    "server17-agent/13-getAttribute-Keyspaces.resp.bin",
    "server17-agent/14-getAttribute-NonLocalStrategyKeyspaces.resp.bin",
    "server17-agent/27-getAttribute-TestUnicode.resp.bin",
    "server17-agent/33-queryNames.resp.bin",
    "server17-agent/35-isRegistered-false.resp.bin",
    "server17-agent/58-invoke-testZoo.resp.bin",
    "server17-agent/63-invoke-testThrowUnserializable-TC_EXCEPTION.resp.bin",
    "auth-ok/03-close.resp.bin",
];

fn seed(index: prop::sample::Index) -> Vec<u8> {
    let name = SEEDS[index.index(SEEDS.len())];
    fs::read(format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a vector")
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

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(4_000), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn damaged_replies_do_not_panic(
        index: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut: Option<prop::sample::Index>,
        returns in prop::sample::select(vec![Returns::Object, Returns::Object, Returns::Void, Returns::Boolean]),
        pieces in 1..200_usize,
    ) {
        let mut bytes = seed(index);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let whole = read(&bytes, returns, usize::MAX);
        let split = read(&bytes, returns, pieces);
        match (&whole, &split) {
            (Ok(whole), Ok(split)) => prop_assert_eq!(whole.is_some(), split.is_some()),
            (Err(whole), Err(split)) => prop_assert_eq!(whole, split),
            // Bytes after the end may come in a piece that is not read any more.
            (Err(_), Ok(split)) => prop_assert!(split.is_some()),
            (Ok(_), Err(error)) => prop_assert!(false, "refused in pieces only: {error}"),
        }
        if let Ok(Some(reply)) = &whole {
            look(reply.view(), 0);
        }
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _stream = reader::parse(&bytes, &limits());
        let _hello = transport::hello(&bytes);
        if let Ok(text) = mutf8::decode(&bytes) {
            let mut back = Vec::new();
            mutf8::encode(&text, &mut back);
            prop_assert_eq!(mutf8::decode(&back), Ok(text));
        }
    }

    #[test]
    fn any_name_round_trips(domain in "[a-z.]{0,8}", value in any::<String>(), text in any::<String>()) {
        let name = ObjectName::new(&domain).with("k", &value);
        prop_assert_eq!(ObjectName::parse(&name.to_string()), Ok(name));
        if let Ok(parsed) = ObjectName::parse(&text) {
            prop_assert_eq!(ObjectName::parse(&parsed.to_string()), Ok(parsed));
        }
    }
}
