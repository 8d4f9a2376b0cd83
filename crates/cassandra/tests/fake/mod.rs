//! A fake JMX server on a real socket: a healthy node, or one that lies in one answer.

#![allow(dead_code, reason = "each test program uses its own part of it")]

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cassy_cassandra::{Deadlines, NodeError, NodeSession, TcpDialer};
use cassy_jmx::rmi::hash;
use cassy_jmx::stream::graph::Value;
use cassy_jmx::stream::reader::{self, Outcome, Reader};
use cassy_jmx::stream::writer::Writer;
use cassy_jmx::{Limits, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const PLENTY: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub(crate) enum Answer {
    Null,
    Bool(bool),
    Text(&'static str),
    Texts(Vec<String>),
    Map(Vec<(&'static str, &'static str)>),
    /// Object names.
    Names(Vec<&'static str>),
    /// A recorded reply.
    Recorded(&'static str),
    /// A serialized value, byte for byte.
    Raw(Vec<u8>),
    Silence,
}

/// Calls as text: `takeSnapshot(types) [arguments]`.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

pub(crate) struct Fake {
    pub(crate) port: u16,
    pub(crate) log: Log,
}

pub(crate) fn texts(items: &[&str]) -> Answer {
    Answer::Texts(items.iter().map(ToString::to_string).collect())
}

pub(crate) fn healthy() -> HashMap<&'static str, Answer> {
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
        ("forceKeyspaceFlush", Answer::Null),
        ("takeSnapshot", Answer::Null),
        ("clearSnapshot", Answer::Null),
        ("close", Answer::Null),
    ])
}

pub(crate) async fn start(answers: HashMap<&'static str, Answer>) -> Fake {
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
pub(crate) async fn lying(name: &'static str, answer: Answer) -> Fake {
    let mut answers = healthy();
    answers.insert(name, answer);
    start(answers).await
}

impl Fake {
    pub(crate) async fn connect(&self) -> Result<NodeSession, NodeError> {
        let deadlines = Deadlines { connect: PLENTY, read: PLENTY };
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
        Answer::Raw(bytes) => return Some([writer.into_bytes(), bytes.clone()].concat()),
        Answer::Silence => return None,
    }
    Some(writer.into_bytes())
}

pub(crate) fn chain(error: &NodeError) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
