//! The server's half of JMX over RMI: calls in, replies out. The serialization is the client crate's own; what it does
//! not write (remote references, an exception, the description of an MBean) are recorded bytes of a real JVM.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;

use cassy_jmx::View;
use cassy_jmx::rmi::hash::Method;
use cassy_jmx::rmi::transport;
use cassy_jmx::stream::graph::{Graph, Value};
use cassy_jmx::stream::reader::{Outcome, Reader};
use cassy_jmx::stream::writer::Writer;
use cassy_jmx::stream::{StreamError, tag};
use cassy_jmx::{Limits, stream::reader};

/// Host "127.0.0.1", port 1: what a client does not use.
const ACK: [u8; 16] = *b"\x4e\x00\x09127.0.0.1\x00\x00\x00\x01";
const PING: u8 = 0x52;
const PING_ACK: u8 = 0x53;
const RETURNED: u8 = 1;
/// Names a reply in an acknowledgement, which is never looked up here.
const UID: [u8; 14] = [7; 14];

macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../jmx/tests/vectors/", $name, ".resp.bin"))
    };
}
const REGISTRY_STUB: &[u8] = recorded!("jvm17-client/00-lookup");
const CONNECTION_STUB: &[u8] = recorded!("jvm17-client/02-newClient-null");
const MBEAN_INFO: &[u8] = recorded!("jvm17-client/13-getMBeanInfo");
const EXCEPTION: &[u8] = recorded!("server17-agent/38-invoke-takeSnapshot-Map-IOException");
const STUB_HOST: &[u8] = b"127.0.0.1";
const EXCEPTION_TEXT: &str = "Snapshot exists already exists.";

/// A call as it arrived.
pub(super) struct Call {
    pub(super) operation: i32,
    pub(super) hash: i64,
    graph: Graph,
    arguments: Vec<Value>,
}

impl Call {
    pub(super) fn is(&self, method: Method) -> bool {
        (self.operation, self.hash) == (method.operation, method.hash)
    }

    /// Null when there are not so many.
    pub(super) fn argument(&self, index: usize) -> View<'_> {
        View::new(&self.graph, self.arguments.get(index).copied().unwrap_or(Value::Null))
    }

    /// The parameters inside the `MarshalledObject` at this place.
    pub(super) fn marshalled(&self, index: usize) -> io::Result<Parameters> {
        let bytes = self.argument(index).field("objBytes").and_then(View::as_bytes).map_err(invalid)?;
        match reader::parse(bytes, &Limits::default()).map_err(invalid)? {
            Some((graph, Outcome::Value(root))) => Ok(Parameters { graph, root }),
            _ => Err(invalid_text("parameters that are cut off")),
        }
    }
}

/// The parameters of an operation.
pub(super) struct Parameters {
    graph: Graph,
    root: Value,
}

impl Parameters {
    pub(super) fn all(&self) -> io::Result<Vec<View<'_>>> {
        View::new(&self.graph, self.root).items().map_err(invalid)
    }
}

/// What a call is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Of a method that returns nothing at all.
    Void,
    /// Null, which is also what an operation returns that is `void`.
    Null,
    /// A primitive boolean.
    Primitive(bool),
    Flag(bool),
    Number(i64),
    Text(String),
    List(Vec<String>),
    Array(Vec<String>),
    Map(Vec<(String, String)>),
    /// A real server sends a set; the client takes any collection.
    ObjectNames(Vec<String>),
    /// A `java.io.IOException` out of the MBean.
    Threw(String),
    /// References to the two objects that every session begins with; they live on this port.
    Registry(u16),
    Connection(u16),
    MbeanInfo,
    Raw(Vec<u8>),
}

impl Answer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let returned = |write: &dyn Fn(&mut Writer)| {
            let mut writer = begin(&[RETURNED]);
            write(&mut writer);
            writer.into_bytes()
        };
        match self {
            Self::Void => returned(&|_| ()),
            Self::Null => returned(&Writer::null),
            Self::Primitive(value) => {
                let mut block = vec![RETURNED];
                block.extend(UID);
                block.push(value.into());
                let mut writer = Writer::rmi(vec![transport::RETURN_DATA]);
                writer.block(&block);
                writer.into_bytes()
            }
            Self::Flag(value) => returned(&|writer| writer.boolean(value)),
            Self::Number(number) => returned(&|writer| writer.long(number)),
            Self::Text(text) => returned(&|writer| writer.string(&text)),
            Self::List(items) => returned(&|writer| writer.string_list(&items)),
            Self::Array(items) => returned(&|writer| writer.strings(&items)),
            Self::Map(pairs) => returned(&|writer| writer.string_map(&pairs)),
            Self::ObjectNames(names) => returned(&|writer| {
                writer.objects(names.len());
                names.iter().for_each(|name| writer.object_name(name));
            }),
            Self::Threw(message) => exception(&message),
            Self::Registry(port) => stub(REGISTRY_STUB, port),
            Self::Connection(port) => stub(CONNECTION_STUB, port),
            Self::MbeanInfo => MBEAN_INFO.to_vec(),
            Self::Raw(bytes) => bytes,
        }
    }
}

fn begin(kind: &[u8]) -> Writer {
    let mut writer = Writer::rmi(vec![transport::RETURN_DATA]);
    writer.block(&[kind, &UID].concat());
    writer
}

/// The recorded reference, with this port in place of its own.
fn stub(recorded: &[u8], port: u16) -> Vec<u8> {
    let mut bytes = recorded.to_vec();
    let host = bytes.windows(STUB_HOST.len()).position(|window| window == STUB_HOST);
    let port_at = host.expect("the recorded reference names its host") + STUB_HOST.len();
    bytes[port_at..port_at + 4].copy_from_slice(&u32::from(port).to_be_bytes());
    bytes
}

/// The recorded exception, with this message in place of its own, in the wrapper too.
fn exception(message: &str) -> Vec<u8> {
    let class = "java.io.IOException: ";
    let bytes = replaced(EXCEPTION, &format!("{class}{EXCEPTION_TEXT}"), &format!("{class}{message}"));
    replaced(&bytes, EXCEPTION_TEXT, message)
}

fn replaced(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    let (old, new) = (java_string(old), java_string(new));
    let at = bytes.windows(old.len()).position(|window| window == old);
    let at = at.expect("the recorded exception has its text as a string of its own");
    [&bytes[..at], &new, &bytes[at + old.len()..]].concat()
}

/// Plain ASCII is the same in Java's modified UTF-8; what is not is left out.
fn java_string(text: &str) -> Vec<u8> {
    let ascii: Vec<u8> = text.bytes().filter(u8::is_ascii).take(60_000).collect();
    let length = u16::try_from(ascii.len()).expect("cut above");
    [&[tag::STRING], &length.to_be_bytes()[..], &ascii].concat()
}

/// Serves one connection until the client hangs up.
pub(super) fn serve(stream: TcpStream, answer: &dyn Fn(&Call) -> io::Result<Answer>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let mut hello = [0; transport::HELLO.len()];
    input.read_exact(&mut hello)?;
    if hello[..7] != transport::HELLO[..7] {
        return Err(invalid_text("no RMI client"));
    }
    output.write_all(&ACK)?;
    loop {
        match byte(&mut input)? {
            transport::DGC_ACK => input.read_exact(&mut [0; 14])?,
            PING => output.write_all(&[PING_ACK])?,
            transport::CALL => {
                let call = read_call(&mut input)?;
                output.write_all(&answer(&call)?.into_bytes())?;
            }
            other => return Err(invalid_text(&format!("a message of kind {other:#x}"))),
        }
    }
}

/// Byte by byte, as nothing says where a call ends, and what follows is another message's.
fn read_call(input: &mut impl Read) -> io::Result<Call> {
    let mut reader = Reader::new(&Limits::default());
    until(input, &mut reader, Reader::poll_header)?;
    let block = until(input, &mut reader, Reader::poll_block)?;
    let rest = block.get(22..34).ok_or_else(|| invalid_text("a call without a method"))?;
    let (operation, hash) = rest.split_at(4);
    let operation = i32::from_be_bytes(operation.try_into().map_err(invalid)?);
    let hash = i64::from_be_bytes(hash.try_into().map_err(invalid)?);
    let mut arguments = Vec::new();
    for _ in 0..arity(operation, hash)? {
        match until(input, &mut reader, Reader::poll_value)? {
            Outcome::Value(value) => arguments.push(value),
            Outcome::Aborted(_) => return Err(invalid_text("the client failed to write its call")),
        }
    }
    Ok(Call { operation, hash, graph: reader.into_graph(), arguments })
}

/// How many objects follow: as many as the method has parameters.
fn arity(operation: i32, hash: i64) -> io::Result<usize> {
    use cassy_jmx::rmi::hash::{ALL, LOOKUP};
    if (operation, hash) == (LOOKUP.operation, LOOKUP.hash) {
        return Ok(1);
    }
    let method = ALL.iter().find(|method| (method.operation, method.hash) == (operation, hash));
    let method = method.ok_or_else(|| invalid_text(&format!("an unknown method {operation} {hash}")))?;
    let parameters = method.signature.split(['(', ')']).nth(1).unwrap_or_default();
    Ok(parameters.matches(';').count())
}

fn until<T>(
    input: &mut impl Read,
    reader: &mut Reader,
    mut poll: impl FnMut(&mut Reader) -> Result<Option<T>, StreamError>,
) -> io::Result<T> {
    loop {
        if let Some(done) = poll(reader).map_err(invalid)? {
            return Ok(done);
        }
        let next = byte(input)?;
        reader.push(&[next]).map_err(invalid)?;
    }
}

fn byte(input: &mut impl Read) -> io::Result<u8> {
    let mut one = [0];
    input.read_exact(&mut one)?;
    Ok(one[0])
}

pub(super) fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn invalid_text(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
