//! Recorded replies of real JVMs (JDK 17 and 25), and hostile streams. Rejections first.

mod notation;

use std::fs;
use std::path::PathBuf;

use cassy_jmx::rmi::reply::{self, Ending, Reply, ReplyReader, Returns};
use cassy_jmx::stream::StreamError;
use cassy_jmx::stream::reader::{self, Outcome};
use cassy_jmx::stream::writer::Writer;
use cassy_jmx::{Limits, MBeanInfo, RemoteException, View, ViewError};

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/vectors", name].iter().collect()
}

fn read(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn expected() -> Vec<(String, String)> {
    let text = String::from_utf8(read("expected.txt")).expect("text");
    text.lines()
        .map(|line| line.split_once("  ").expect("file, value"))
        .map(|(file, value)| (file.into(), value.into()))
        .collect()
}

/// What a method returns follows from the length of the reply's block.
fn returns(bytes: &[u8]) -> Returns {
    match (bytes.len(), bytes[6], bytes[7]) {
        (22, 15, 1) => Returns::Void,
        (_, 16, _) => Returns::Boolean,
        _ => Returns::Object,
    }
}

fn parse(name: &str) -> Reply {
    let bytes = read(name);
    let parsed = reply::parse(&bytes, returns(&bytes), &Limits::default());
    parsed.unwrap_or_else(|error| panic!("{name}: {error}")).unwrap_or_else(|| panic!("{name}: incomplete"))
}

#[derive(Debug, PartialEq)]
enum Hostile {
    Malformed,
    Limit,
    Unsupported,
    /// Ends without a value: a client goes on waiting, within its deadline and its limit of bytes.
    Waits,
    Survives,
}

#[test]
fn hostile_streams_are_refused_or_survived() {
    use Hostile::*;
    let cases = [
        ("amplify-chain", Survives),
        ("array-len-2g", Limit),
        ("array-len-negative", Malformed),
        ("bad-handle", Malformed),
        ("bad-mutf8", Malformed),
        ("billion-laughs-30", Survives),
        ("billion-laughs-60", Survives),
        ("blocklong-negative", Malformed),
        ("bytearray-len-2g", Limit),
        ("deep-2000", Limit),
        ("endless-empty-blocks", Waits),
        ("endless-resets", Waits),
        ("enum-bad-name", Malformed),
        ("exception-nested", Malformed),
        ("externalizable-v1", Unsupported),
        ("field-type-bad", Malformed),
        ("handle-below-base", Malformed),
        ("longstring-2^62", Limit),
        ("longstring-negative", Malformed),
        ("many-fields", Survives),
        ("mutf8-truncated", Malformed),
        ("proxy-many-ifaces", Limit),
        ("self-super", Malformed),
        ("super-chain-500", Limit),
    ];
    let files = fs::read_dir(path("hostile")).expect("directory").count();
    assert_eq!(files, cases.len());
    for (name, outcome) in cases {
        let found = match reader::parse(&read(&format!("hostile/{name}.bin")), &Limits::default()) {
            Ok(Some(_)) => Survives,
            Ok(None) => Waits,
            Err(StreamError::Malformed { .. }) => Malformed,
            Err(StreamError::Limit { .. }) => Limit,
            Err(StreamError::Unsupported { .. }) => Unsupported,
            Err(other) => panic!("{name}: {other}"),
        };
        assert_eq!(found, outcome, "{name}");
    }
}

#[test]
fn endless_streams_meet_the_memory_limit() {
    let limits = Limits { memory_bytes: 256 << 10, ..Limits::default() };
    for name in [
        "hostile/endless-empty-blocks.bin",
        "hostile/endless-resets.bin",
        "hostile/amplify-chain.bin",
        "hostile/many-fields.bin",
    ] {
        assert!(matches!(reader::parse(&read(name), &limits), Err(StreamError::Limit { .. })), "{name}");
    }
    let limits = Limits { reply_bytes: 100, ..Limits::default() };
    assert!(matches!(
        reader::parse(&read("hostile/many-fields.bin"), &limits),
        Err(StreamError::Limit { .. })
    ));
}

#[test]
fn an_unfolding_graph_meets_the_view_limit() {
    fn walk(view: View<'_>, visited: &mut u64) -> Result<(), ViewError> {
        *visited += 1;
        match view.items() {
            Ok(items) => items.into_iter().try_for_each(|item| walk(item, visited)),
            Err(ViewError::TooMany) => Err(ViewError::TooMany),
            Err(_leaf) => Ok(()),
        }
    }
    let limits = Limits { view_values: 100_000, ..Limits::default() };
    let (graph, outcome) =
        reader::parse(&read("hostile/billion-laughs-30.bin"), &limits).expect("legal").expect("complete");
    let Outcome::Value(value) = outcome else { panic!("{outcome:?}") };
    let mut visited = 0;
    assert_eq!(walk(View::new(&graph, value), &mut visited), Err(ViewError::TooMany));
    assert!(visited <= 100_000, "{visited}");
}

#[test]
fn a_text_that_is_referred_to_many_times_meets_the_view_limit() {
    let mut writer = Writer::rmi(Vec::new());
    let long = "x".repeat(60_000);
    writer.strings(&vec![long; 10_000]);
    let (graph, outcome) =
        reader::parse(&writer.into_bytes(), &Limits::default()).expect("legal").expect("complete");
    let Outcome::Value(value) = outcome else { panic!("{outcome:?}") };
    assert_eq!(View::new(&graph, value).strings(), Err(ViewError::TooMany));
}

#[test]
fn every_reply_decodes_to_its_expected_value() {
    let mut seen = 0;
    for (file, value) in expected() {
        let bytes = read(&file);
        let returns = returns(&bytes);
        let found = match reply::parse(&bytes, returns, &Limits::default()) {
            Ok(Some(reply)) => notation::reply(&reply, returns == Returns::Boolean, returns == Returns::Void),
            Err(StreamError::Unsupported { class, .. }) => {
                format!("unreadable (externalizable {class}, protocol version 1: no end marker)")
            }
            other => panic!("{file}: {other:?}"),
        };
        assert_eq!(notation::cut(&found), value, "{file}");
        seen += 1;
    }
    assert_eq!(seen, 126);
}

#[test]
fn every_proper_prefix_needs_more() {
    for (file, _) in expected() {
        let bytes = read(&file);
        let mut reader = ReplyReader::new(returns(&bytes), &Limits::default());
        for (index, byte) in bytes.iter().enumerate() {
            let last = index + 1 == bytes.len();
            match reader.push(&[*byte]) {
                Ok(complete) => assert_eq!(complete, last, "{file}: byte {index}"),
                Err(StreamError::Unsupported { .. }) => {
                    assert!(file.contains("testExternalizable"), "{file}: byte {index}");
                }
                Err(error) => panic!("{file}: byte {index}: {error}"),
            }
        }
    }
}

#[test]
fn a_byte_too_many_is_refused() {
    for (file, _) in expected() {
        let mut bytes = read(&file);
        bytes.push(0x70);
        assert!(
            reply::parse(&bytes, returns(&bytes[..bytes.len() - 1]), &Limits::default()).is_err(),
            "{file}"
        );
    }
}

#[test]
fn a_reply_to_another_kind_of_method_is_refused() {
    let cases = [
        ("auth-ok/03-close.resp.bin", Returns::Boolean),
        ("jvm17-client/12-isRegistered.resp.bin", Returns::Void),
        ("jvm17-client/12-isRegistered.resp.bin", Returns::Object),
        ("auth-ok/02-getAttribute-ClusterName.resp.bin", Returns::Void),
    ];
    for (file, returns) in cases {
        assert!(
            matches!(
                reply::parse(&read(file), returns, &Limits::default()),
                Err(StreamError::Malformed { .. })
            ),
            "{file}"
        );
    }
    // A void method's reply is the beginning of one with an object.
    let void = reply::parse(&read("auth-ok/03-close.resp.bin"), Returns::Object, &Limits::default());
    assert!(matches!(void, Ok(None)));
}

#[test]
fn typed_views_read_what_a_node_sends() {
    let value = parse("server17-agent/08-getAttribute-LiveNodes.resp.bin");
    assert_eq!(value.view().strings(), Ok(vec!["127.0.0.1", "127.0.0.2", "127.0.0.3"]));
    let value = parse("server17-agent/20-getAttribute-EndpointToHostId.resp.bin");
    assert_eq!(value.view().string_pairs().expect("map").len(), 2);
    assert_eq!(
        parse("server17-agent/31-getAttribute-IncrementalBackupsEnabled.resp.bin").view().as_bool(),
        Ok(true)
    );
    assert_eq!(
        parse("server17-agent/49-invoke-trueSnapshotsSize.resp.bin").view().as_i64(),
        Ok(123_456_789_012)
    );
    assert_eq!(parse("server17-agent/25-getAttribute-TraceProbability.resp.bin").view().as_f64(), Ok(0.0));
    assert!(parse("server17-agent/16-getAttribute-SavedCachesLocation.resp.bin").view().is_null());
    assert!(parse("server17-agent/35-isRegistered-false.resp.bin").view().as_bool() == Ok(false));
    let value = parse("jvm17-client/11-queryNames.resp.bin");
    let names = value.view().object_names().expect("names");
    assert!(names.contains(&"org.apache.cassandra.db:type=EndpointSnitchInfo"), "{names:?}");
    let value = parse("jvm17-client/09-getAttributes.resp.bin");
    let attributes = value.view().attributes().expect("attributes");
    assert_eq!(attributes.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["ClusterName", "LiveNodes"]);
    let wrong = parse("server17-agent/05-getAttribute-ClusterName.resp.bin");
    assert_eq!(
        wrong.view().strings().expect_err("a string").to_string(),
        "expected a list or set, found a string"
    );
}

#[test]
fn snapshot_details_are_read_by_column() {
    let value = parse("server25-cassandra/24-getAttribute-SnapshotDetails.resp.bin");
    let mut found = Vec::new();
    for (tag, table) in value.view().pairs().expect("map") {
        for row in table.rows().expect("table") {
            let column = |name| row.column(name).and_then(View::as_str).expect("column");
            assert_eq!(column("Snapshot name"), tag.as_str().expect("tag"));
            found.push((
                column("Snapshot name").to_owned(),
                column("Keyspace name").to_owned(),
                column("Column family name").to_owned(),
            ));
            assert!(matches!(row.column("No such column"), Err(ViewError::Missing { .. })));
        }
    }
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn mbean_info_tells_the_overloads() {
    let info = MBeanInfo::read(parse("jvm17-client/13-getMBeanInfo.resp.bin").view()).expect("info");
    assert!(info.has_attribute("SnapshotDetails") && !info.has_attribute("Nope"));
    assert!(
        info.has_operation("takeSnapshot", &["java.lang.String", "java.util.Map", "[Ljava.lang.String;"])
    );
    assert!(!info.has_operation("takeSnapshot", &["java.lang.String"]));
    let flag = info
        .attributes
        .iter()
        .find(|attribute| attribute.name == "IncrementalBackupsEnabled")
        .expect("attribute");
    assert!(flag.writable && flag.type_name == "boolean");
}

#[test]
fn exceptions_are_unwrapped() {
    let reply = parse("server17-agent/54-invoke-testThrowIO.resp.bin");
    assert!(matches!(reply.ending(), Ending::Threw(_)));
    let exception = RemoteException::read(reply.view());
    assert_eq!(exception.class, "javax.management.MBeanException");
    assert_eq!(exception.thrown().to_string(), "java.io.IOException: boom é");
    let cause = exception.thrown().cause.as_ref().expect("cause");
    assert_eq!(
        (cause.to_string().as_str(), cause.cause.is_none()),
        ("java.lang.IllegalStateException: inner cause", true)
    );
    let gone = RemoteException::read(parse("server17-agent/68-close.resp.bin").view());
    assert!(gone.is_dispatch_error());
}
