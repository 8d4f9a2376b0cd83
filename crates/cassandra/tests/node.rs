//! A node as it should be, and nodes that lie, over a fake JMX server on a real socket.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cassy_cassandra::{
    Deadlines, ErrorClass, Keyspaces, NodeError, NodeSession, OperationMode, SnapshotTag, TcpDialer,
};
use cassy_jmx::rmi::hash;
use cassy_jmx::stream::graph::Value;
use cassy_jmx::stream::reader::{self, Outcome, Reader};
use cassy_jmx::stream::writer::Writer;
use cassy_jmx::{Limits, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

const PLENTY: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

#[derive(Clone)]
enum Answer {
    Null,
    Bool(bool),
    Text(&'static str),
    Texts(Vec<String>),
    Map(Vec<(&'static str, &'static str)>),
    /// Object names.
    Names(Vec<&'static str>),
    /// A recorded reply.
    Recorded(&'static str),
    Silence,
}

/// Calls as text: `takeSnapshot(types) [arguments]`.
type Log = Arc<Mutex<Vec<String>>>;

struct Fake {
    port: u16,
    log: Log,
}

fn texts(items: &[&str]) -> Answer {
    Answer::Texts(items.iter().map(ToString::to_string).collect())
}

fn healthy() -> HashMap<&'static str, Answer> {
    HashMap::from([
        ("isRegistered", Answer::Bool(true)),
        ("getMBeanInfo", Answer::Recorded("server17-agent/57-getMBeanInfo")),
        ("ReleaseVersion", Answer::Text("5.0.9")),
        ("ClusterName", Answer::Text("Größe / <b>")),
        ("PartitionerName", Answer::Text("org.apache.cassandra.dht.Murmur3Partitioner")),
        ("OperationMode", Answer::Text("NORMAL")),
        ("LocalHostId", Answer::Text("6d194555-f6eb-41d0-c000-000000000001")),
        (
            "EndpointToHostId",
            Answer::Map(vec![
                ("10.0.0.2", "6d194555-f6eb-41d0-c000-000000000002"),
                ("0:0:0:0:0:0:0:1", "6d194555-f6eb-41d0-c000-000000000001"),
            ]),
        ),
        ("LiveNodes", texts(&["10.0.0.2", "0:0:0:0:0:0:0:1"])),
        ("UnreachableNodes", texts(&[])),
        ("JoiningNodes", texts(&[])),
        ("LeavingNodes", texts(&[])),
        ("MovingNodes", texts(&["10.0.0.3"])),
        ("Keyspaces", texts(&["system", "ks1"])),
        ("AllDataFileLocations", texts(&["/data/1/", "/data//2"])),
        ("CommitLogLocation", Answer::Text("/commitlog")),
        ("SavedCachesLocation", Answer::Null),
        ("IncrementalBackupsEnabled", Answer::Bool(true)),
        ("getTokens", texts(&["-9223372036854775808", "17"])),
        ("getDatacenter", Answer::Text("dc1")),
        ("getRack", Answer::Text("rack1")),
        (
            "queryNames",
            Answer::Names(vec![
                "org.apache.cassandra.db:type=Tables,keyspace=ks1,table=t2",
                "org.apache.cassandra.db:keyspace=ks1,table=\"t1\",type=Tables",
            ]),
        ),
        ("SnapshotDetails", Answer::Recorded("server17-agent/24-getAttribute-SnapshotDetails")),
        ("forceKeyspaceFlush", Answer::Null),
        ("takeSnapshot", Answer::Null),
        ("clearSnapshot", Answer::Null),
        ("close", Answer::Null),
    ])
}

async fn start(answers: HashMap<&'static str, Answer>) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let log = Log::default();
    let shared = log.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answers, log) = (answers.clone(), shared.clone());
            tokio::spawn(async move {
                let _hung_up: io::Result<()> = serve(stream, port, &answers, &log).await;
            });
        }
    });
    Fake { port, log }
}

/// A healthy node, but for one answer.
async fn lying(name: &'static str, answer: Answer) -> Fake {
    let mut answers = healthy();
    answers.insert(name, answer);
    start(answers).await
}

impl Fake {
    async fn connect(&self) -> Result<NodeSession, NodeError> {
        let deadlines = Deadlines { connect: PLENTY, read: PLENTY, list_snapshots: PLENTY };
        NodeSession::connect(Arc::new(TcpDialer), "127.0.0.1", self.port, deadlines).await
    }
}

async fn serve(
    mut stream: TcpStream,
    port: u16,
    answers: &HashMap<&'static str, Answer>,
    log: &Log,
) -> io::Result<()> {
    stream.read_exact(&mut [0; 13]).await?;
    stream.write_all(&[0x4e, 0, 1, b'x', 0, 0, 0, 1]).await?;
    loop {
        match stream.read_u8().await? {
            0x54 => drop(stream.read_exact(&mut [0; 14]).await?),
            _call => {
                let name = read_call(&mut stream, log).await?;
                let Some(reply) = reply(&name, port, answers) else { return std::future::pending().await };
                stream.write_all(&reply).await?;
            }
        }
    }
}

/// Reads a call to its end; answers the method, attribute or operation.
async fn read_call(stream: &mut TcpStream, log: &Log) -> io::Result<String> {
    let mut reader = Reader::new(&Limits::default());
    let mut block = None;
    let mut values = Vec::new();
    loop {
        let byte = stream.read_u8().await?;
        reader.push(&[byte]).expect("small");
        if block.is_none() && (reader.unread() < 40 || reader.poll_header().expect("a header").is_none()) {
            continue;
        }
        if block.is_none() {
            block = reader.poll_block().expect("a block");
        }
        let Some(block) = &block else { continue };
        let hash = i64::from_be_bytes(block[26..34].try_into().expect("8"));
        let (method, count) = method(hash);
        while values.len() < count {
            let Some(Outcome::Value(value)) = reader.poll_value().expect("a value") else { break };
            values.push(value);
        }
        if values.len() == count {
            return Ok(named(method, &reader, &values, log));
        }
    }
}

fn method(hash: i64) -> (&'static str, usize) {
    let known = [
        (hash::LOOKUP, "lookup", 1),
        (hash::NEW_CLIENT, "newClient", 1),
        (hash::GET_ATTRIBUTE, "getAttribute", 3),
        (hash::INVOKE, "invoke", 5),
        (hash::QUERY_NAMES, "queryNames", 3),
        (hash::IS_REGISTERED, "isRegistered", 2),
        (hash::GET_MBEAN_INFO, "getMBeanInfo", 2),
        (hash::CLOSE, "close", 0),
    ];
    known
        .into_iter()
        .find(|(method, ..)| method.hash == hash)
        .map(|(_, name, count)| (name, count))
        .expect("a known method")
}

fn named(method: &str, reader: &Reader, values: &[Value], log: &Log) -> String {
    let view = |index: usize| View::new(reader.graph(), values[index]);
    match method {
        "getAttribute" => view(1).as_str().expect("a name").to_owned(),
        "invoke" => {
            let name = view(1).as_str().expect("a name");
            let bytes = view(2).field("objBytes").and_then(View::as_bytes).expect("arguments");
            let (graph, outcome) =
                reader::parse(bytes, &Limits::default()).expect("legal").expect("complete");
            let Outcome::Value(arguments) = outcome else { panic!("{outcome:?}") };
            let arguments: Vec<String> =
                View::new(&graph, arguments).items().expect("an array").into_iter().map(argument).collect();
            let types = view(3).strings().expect("types").join(",");
            log.lock().expect("not poisoned").push(format!("{name}({types}) {}", arguments.join(" ")));
            name.to_owned()
        }
        other => other.to_owned(),
    }
}

fn argument(view: View<'_>) -> String {
    let map = view.string_pairs().map(|pairs| format!("{pairs:?}"));
    view.as_str()
        .map(str::to_owned)
        .or_else(|_| view.strings().map(|items| items.join(",")))
        .or(map)
        .expect("an argument")
}

fn recorded(name: &str) -> Vec<u8> {
    let file = format!("{}/../jmx/tests/vectors/{name}.resp.bin", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn stub(name: &str, port: u16) -> Vec<u8> {
    let mut bytes = recorded(name);
    let at = bytes.windows(9).position(|window| window == b"127.0.0.1").expect("a stub") + 9;
    bytes[at..at + 4].copy_from_slice(&u32::from(port).to_be_bytes());
    bytes
}

fn reply(name: &str, port: u16, answers: &HashMap<&'static str, Answer>) -> Option<Vec<u8>> {
    match name {
        "lookup" => return Some(stub("jvm17-client/00-lookup", port)),
        "newClient" => return Some(stub("jvm17-client/02-newClient-null", port)),
        _ => {}
    }
    let mut writer = Writer::rmi(vec![0x51]);
    let mut block = vec![1];
    block.extend([0; 14]);
    let answer = answers.get(name).unwrap_or_else(|| panic!("{name} is not expected"));
    if let (Answer::Bool(value), "isRegistered") = (answer, name) {
        block.push((*value).into());
        writer.block(&block);
        return Some(writer.into_bytes());
    }
    writer.block(&block);
    match answer {
        Answer::Null if name == "close" => {}
        Answer::Null => writer.null(),
        Answer::Bool(value) => writer.boolean(*value),
        Answer::Text(text) => writer.string(text),
        Answer::Texts(items) => writer.string_list(items),
        Answer::Map(pairs) => writer.string_map(pairs),
        Answer::Names(names) => {
            writer.objects(names.len());
            names.iter().for_each(|name| writer.object_name(name));
        }
        Answer::Recorded(name) => return Some(recorded(name)),
        Answer::Silence => return None,
    }
    Some(writer.into_bytes())
}

fn chain(error: &NodeError) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_healthy_node_is_read() {
    let mut node = start(healthy()).await.connect().await.expect("connects");
    let first: Uuid = "6d194555-f6eb-41d0-c000-000000000001".parse().expect("uuid");
    assert_eq!(
        (node.release_version().major, node.cluster_name().await.expect("read").as_str()),
        (5, "Größe / <b>")
    );
    assert!(node.partitioner().await.expect("read").ends_with("Murmur3Partitioner"));
    assert_eq!(node.operation_mode().await.expect("read"), OperationMode::Normal);
    assert_eq!(node.local_host_id().await.expect("read"), first);
    let ring = node.endpoint_to_host_id().await.expect("read");
    assert_eq!(ring.get(&"::1".parse().expect("ip")), Some(&first));
    assert_eq!(node.live_nodes().await.expect("read").len(), 2);
    assert!(node.unreachable_nodes().await.expect("read").is_empty());
    assert!(node.joining_nodes().await.expect("read").is_empty());
    assert!(node.leaving_nodes().await.expect("read").is_empty());
    assert_eq!(node.moving_nodes().await.expect("read").len(), 1);
    assert_eq!(node.keyspaces().await.expect("read"), ["ks1", "system"]);
    assert_eq!(node.data_file_locations().await.expect("read"), ["/data/1", "/data/2"]);
    assert_eq!(node.commit_log_location().await.expect("read").as_deref(), Some("/commitlog"));
    assert_eq!(node.saved_caches_location().await.expect("read"), None);
    assert!(node.incremental_backups_enabled().await.expect("read"));
    let address = "10.0.0.2".parse().expect("ip");
    assert_eq!(node.tokens(address).await.expect("read"), ["-9223372036854775808", "17"]);
    assert_eq!(
        (
            node.datacenter(address).await.expect("read").as_str(),
            node.rack(address).await.expect("read").as_str()
        ),
        ("dc1", "rack1")
    );
    let table = |table: &str| ("ks1".to_owned(), table.to_owned());
    assert_eq!(node.tables().await.expect("read"), [table("t1"), table("t2")]);
    let rows = node.snapshot_details().await.expect("read");
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row.tag.starts_with("snap")), "{rows:?}");
    node.close().await.expect("closes");
}

#[tokio::test]
async fn snapshots_name_their_tag_and_keyspaces() {
    let fake = start(healthy()).await;
    let mut node = fake.connect().await.expect("connects");
    let tag = SnapshotTag::of(Uuid::from_u128(7), 2);
    let keyspaces = Keyspaces::new(vec!["ks2".into(), "ks1".into()]).expect("valid");
    node.flush(&keyspaces, PLENTY).await.expect("flushes");
    node.take_snapshot(tag, &keyspaces, PLENTY).await.expect("snapshots");
    node.clear_snapshot(tag, &keyspaces, PLENTY).await.expect("clears");
    let log = fake.log.lock().expect("not poisoned").clone();
    let expected = [
        "forceKeyspaceFlush(java.lang.String,[Ljava.lang.String;) ks1 ".to_owned(),
        "forceKeyspaceFlush(java.lang.String,[Ljava.lang.String;) ks2 ".to_owned(),
        format!("takeSnapshot(java.lang.String,java.util.Map,[Ljava.lang.String;) {tag} [] ks1,ks2"),
        format!("clearSnapshot(java.util.Map,java.lang.String,[Ljava.lang.String;) [] {tag} ks1,ks2"),
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn a_snapshot_that_does_not_return_is_unknown() {
    let mut node = lying("takeSnapshot", Answer::Silence).await.connect().await.expect("connects");
    let keyspaces = Keyspaces::new(vec!["ks1".into()]).expect("valid");
    let tag = SnapshotTag::of(Uuid::nil(), 1);
    let error = node.take_snapshot(tag, &keyspaces, SHORT).await.expect_err("silent");
    assert!(matches!(error, NodeError::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Transient);
    node.clear_snapshot(tag, &keyspaces, PLENTY).await.expect("the session goes on");
    let refused =
        lying("takeSnapshot", Answer::Recorded("server17-agent/38-invoke-takeSnapshot-Map-IOException"))
            .await;
    let error = refused
        .connect()
        .await
        .expect("connects")
        .take_snapshot(tag, &keyspaces, PLENTY)
        .await
        .expect_err("refused");
    let expected = format!(
        "node 127.0.0.1:{}: Cassandra refused: takeSnapshot {tag}: java.io.IOException: Snapshot exists already exists.",
        refused.port
    );
    assert_eq!(chain(&error), expected);
}

#[tokio::test]
async fn versions_are_refused_by_name() {
    for (version, reason) in [
        ("6.0.0", "transactional log"),
        ("5.1-alpha", "transactional log"),
        ("3.0.29", "3.11"),
        ("2.2.19", "3.11"),
    ] {
        let error =
            lying("ReleaseVersion", Answer::Text(version)).await.connect().await.expect_err("refused");
        assert!(
            matches!(&error, NodeError::UnsupportedVersion { version: named, reason: said, .. } if named == version && said.contains(reason)),
            "{error:?}"
        );
    }
    let error =
        lying("ReleaseVersion", Answer::Text("new\u{1b}[2J")).await.connect().await.expect_err("refused");
    assert!(
        chain(&error).ends_with("implausible ReleaseVersion: not a version: \"new\\u{1b}[2J\""),
        "{}",
        chain(&error)
    );
    let error = lying("isRegistered", Answer::Bool(false)).await.connect().await.expect_err("refused");
    assert!(matches!(error, NodeError::NotCassandra { .. }), "{error:?}");
}

#[tokio::test]
async fn lies_are_refused() {
    async fn refused<T: std::fmt::Debug>(
        name: &'static str,
        answer: Answer,
        read: impl AsyncFnOnce(&mut NodeSession) -> Result<T, NodeError>,
    ) -> String {
        let mut node = lying(name, answer).await.connect().await.expect("connects");
        let error = read(&mut node).await.expect_err(name);
        assert!(matches!(error, NodeError::Implausible { .. }), "{error:?}");
        error.to_string()
    }
    for address in ["1.2.3.4;id", "node1.example", "fe80::1%eth0", "/10.0.0.1", ""] {
        let text =
            refused("LiveNodes", texts(&["10.0.0.2", address]), async |node| node.live_nodes().await).await;
        assert!(text.contains("implausible LiveNodes: not an IP address: "), "{text}");
    }
    let crowd = Answer::Texts(vec!["10.0.0.1".to_owned(); 10_001]);
    assert!(
        refused("LiveNodes", crowd, async |node| node.live_nodes().await).await.contains("10001 entries")
    );
    refused("LiveNodes", Answer::Text("10.0.0.1"), async |node| node.live_nodes().await).await;
    refused("LiveNodes", Answer::Null, async |node| node.live_nodes().await).await;
    for directory in ["/", "data", "/data/../..", "/data\n", ""] {
        refused("AllDataFileLocations", texts(&[directory]), async |node| node.data_file_locations().await)
            .await;
    }
    refused("CommitLogLocation", Answer::Text("/.."), async |node| node.commit_log_location().await).await;
    refused("LocalHostId", Answer::Text("1"), async |node| node.local_host_id().await).await;
    let host_id = "6d194555-f6eb-41d0-c000-000000000001";
    for ring in [
        vec![("10.0.0.1", "?")],
        vec![("a", host_id)],
        vec![("10.0.0.1", host_id), ("::ffff:10.0.0.1", host_id)],
    ] {
        refused("EndpointToHostId", Answer::Map(ring), async |node| node.endpoint_to_host_id().await).await;
    }
    refused("ClusterName", Answer::Text("a\nb"), async |node| node.cluster_name().await).await;
    refused("Keyspaces", texts(&["../etc"]), async |node| node.keyspaces().await).await;
    refused("IncrementalBackupsEnabled", Answer::Text("true"), async |node| {
        node.incremental_backups_enabled().await
    })
    .await;
    refused("getTokens", texts(&["1;2"]), async |node| node.tokens("10.0.0.2".parse().expect("ip")).await)
        .await;
    for name in ["nonsense", "d:type=Tables,keyspace=ks1", "d:type=Tables,keyspace=ks1,table=\"../t\""] {
        refused("queryNames", Answer::Names(vec![name]), async |node| node.tables().await).await;
    }
}

#[tokio::test]
async fn what_is_no_node_is_named_with_a_hint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let deadlines = Deadlines { connect: SHORT, ..Deadlines::default() };
    let dialer = Arc::new(TcpDialer);
    let error = NodeSession::connect(dialer.clone(), "127.0.0.1", port, deadlines).await.expect_err("silent");
    assert!(matches!(error, NodeError::Silent { .. }) && error.class() == ErrorClass::Transient, "{error:?}");
    assert!(error.hint().expect("a hint").contains("takes connections but nobody answers"));
    drop(listener);
    let error = NodeSession::connect(dialer.clone(), "127.0.0.1", port, deadlines).await.expect_err("closed");
    assert!(error.hint().expect("a hint").starts_with("Nothing listens there"), "{error:?}");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = server.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.expect("a client");
        stream.write_all(b"SSH-2.0-x\r\n").await.expect("sent");
        let _closed: io::Result<u8> = stream.read_u8().await;
    });
    let error = NodeSession::connect(dialer, "127.0.0.1", port, deadlines).await.expect_err("ssh");
    let expected = format!(
        "node 127.0.0.1:{port}: the configured JMX port is not JMX: 127.0.0.1:{port}: not a JMX port: this is an SSH server"
    );
    assert_eq!((chain(&error), error.class()), (expected, ErrorClass::Permanent));
}
