//! A DNS server on loopback, over UDP and TCP: answers from a table that can be changed while it runs, or wrongly, as it
//! is told.
//!
//! It writes messages by itself and shares nothing with the resolver that it tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::{Doing, Failure};

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;
/// What fits into a datagram.
const DATAGRAM_BYTES: usize = 512;
const HEADER_BYTES: usize = 12;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answers {
    /// As it should; what is too long for a datagram comes over TCP.
    #[default]
    Well,
    /// One record over UDP, and not a word of the others.
    PartOverUdp,
    /// Truncated, over TCP, too.
    Truncated,
    /// No name exists.
    NoName,
    /// SERVFAIL.
    Fails,
    /// Bytes that are no message.
    Garbage,
    /// Not at all.
    Never,
    /// First with another number, and another answer; then well.
    ForgedFirst,
    /// An alias without what it leads to.
    AliasOnly,
}

/// See the module. Ends when dropped.
pub struct DnsServer {
    address: SocketAddr,
    table: Arc<Mutex<Table>>,
    _tasks: JoinSet<()>,
    /// Keeps others from the TCP port where nobody is to listen.
    _port: Option<TcpSocket>,
}

#[derive(Default)]
struct Table {
    records: BTreeMap<(String, u16), Vec<Vec<u8>>>,
    answers: Answers,
    queries: u32,
    over_tcp: u32,
}

impl DnsServer {
    /// Listens on 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free for both UDP and TCP.
    pub async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.doing(|| "listen for DNS")?;
        let address = listener.local_addr().doing(|| "ask for the port of DNS")?;
        let socket = UdpSocket::bind(address).await.doing(|| format!("listen on UDP {address}"))?;
        let table = Arc::<Mutex<Table>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(socket, Arc::clone(&table)));
        tasks.spawn(serve_tcp(listener, Arc::clone(&table)));
        Ok(Self { address, table, _tasks: tasks, _port: None })
    }

    /// Listens on 127.0.0.1 over UDP alone: connections are refused.
    ///
    /// # Errors
    /// When no port is free for both UDP and TCP.
    pub async fn start_without_tcp() -> Result<Self, Failure> {
        let port = TcpSocket::new_v4().doing(|| "open a socket for DNS")?;
        port.bind((Ipv4Addr::LOCALHOST, 0).into()).doing(|| "take a port for DNS")?;
        let address = port.local_addr().doing(|| "ask for the port of DNS")?;
        let socket = UdpSocket::bind(address).await.doing(|| format!("listen on UDP {address}"))?;
        let table = Arc::<Mutex<Table>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(socket, Arc::clone(&table)));
        Ok(Self { address, table, _tasks: tasks, _port: Some(port) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a target to an SRV record.
    pub fn srv(&self, name: &str, target: &str, port: u16) {
        let data = [&[0, 0, 0, 0][..], &port.to_be_bytes(), &encoded(target)].concat();
        self.add(name, SRV, data);
    }

    /// Adds an address of a host.
    pub fn address_of(&self, host: &str, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.add(host, A, v4.octets().to_vec()),
            IpAddr::V6(v6) => self.add(host, AAAA, v6.octets().to_vec()),
        }
    }

    /// Makes a name the alias of another one.
    pub fn alias(&self, name: &str, target: &str) {
        self.add(name, CNAME, encoded(target));
    }

    /// Forgets a name.
    pub fn forget(&self, name: &str) {
        self.with(|table| table.records.retain(|(known, _), _| known != name));
    }

    /// Answers like this from now on.
    pub fn answer(&self, answers: Answers) {
        self.with(|table| table.answers = answers);
    }

    /// How many questions came so far.
    pub fn queries(&self) -> u32 {
        self.with(|table| table.queries)
    }

    /// How many of them came over TCP.
    pub fn queries_over_tcp(&self) -> u32 {
        self.with(|table| table.over_tcp)
    }

    fn add(&self, name: &str, kind: u16, data: Vec<u8>) {
        self.with(|table| table.records.entry((name.to_lowercase(), kind)).or_default().push(data));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve_udp(socket: UdpSocket, table: Arc<Mutex<Table>>) {
    let mut datagram = [0; DATAGRAM_BYTES];
    while let Ok((length, client)) = socket.recv_from(&mut datagram).await {
        for mut answer in answers(&table, &datagram[..length], false) {
            if answer.len() > DATAGRAM_BYTES {
                answer.truncate(length);
                answer[2] |= 0x02;
                answer[6..8].fill(0);
            }
            // The client may be gone.
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, table: Arc<Mutex<Table>>) {
    while let Ok((client, _)) = listener.accept().await {
        // A client that breaks off harms nobody else.
        let _ = serve_client(client, &table).await;
    }
}

async fn serve_client(mut client: TcpStream, table: &Mutex<Table>) -> std::io::Result<()> {
    let mut query = vec![0; usize::from(client.read_u16().await?)];
    client.read_exact(&mut query).await?;
    for answer in answers(table, &query, true) {
        let length = u16::try_from(answer.len()).expect("a table of a test is not larger than 64 KiB");
        client.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
    Ok(())
}

/// What is sent back, one message after another.
fn answers(table: &Mutex<Table>, query: &[u8], over_tcp: bool) -> Vec<Vec<u8>> {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.queries += 1;
    table.over_tcp += u32::from(over_tcp);
    let Some((name, kind, end)) = question(query) else { return Vec::new() };
    let question = &query[..end];
    let well = || table.answer(question, &name, kind, usize::MAX);
    match table.answers {
        Answers::Well => vec![well()],
        Answers::PartOverUdp if over_tcp => vec![well()],
        Answers::PartOverUdp => vec![table.answer(question, &name, kind, 1)],
        Answers::Truncated => vec![message(question, 0x8380, &[])],
        Answers::NoName => vec![message(question, 0x8183, &[])],
        Answers::Fails => vec![message(question, 0x8182, &[])],
        Answers::Garbage => vec![vec![0xff; 40], b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()],
        Answers::Never => Vec::new(),
        Answers::ForgedFirst => {
            let data = [&[0, 0, 0, 0, 0, 9][..], &encoded("forged.example.com")].concat();
            let mut forged = message(question, 0x8180, &[(SRV, encoded(&name), data)]);
            forged[0] ^= 0xff;
            vec![forged, well()]
        }
        Answers::AliasOnly => {
            let aliases = table.records.get(&(name.clone(), CNAME)).into_iter().flatten();
            let records: Vec<_> = aliases.map(|data| (CNAME, encoded(&name), data.clone())).collect();
            vec![if records.is_empty() { well() } else { message(question, 0x8180, &records) }]
        }
    }
}

type Written = (u16, Vec<u8>, Vec<u8>);

impl Table {
    /// The records of the name, at most so many; of an alias, with all that it leads to.
    fn answer(&self, question: &[u8], name: &str, kind: u16, at_most: usize) -> Vec<u8> {
        let mut name = name.to_owned();
        let mut records: Vec<Written> = Vec::new();
        for _ in 0..10 {
            let of = |kind| self.records.get(&(name.clone(), kind)).into_iter().flatten();
            records.extend(of(kind).map(|data| (kind, encoded(&name), data.clone())));
            let Some(target) = of(CNAME).next() else { break };
            records.push((CNAME, encoded(&name), target.clone()));
            name = decoded(target);
        }
        let exists = self.records.keys().any(|(known, _)| *known == name);
        records.truncate(at_most);
        message(question, if exists { 0x8180 } else { 0x8183 }, &records)
    }
}

fn message(question: &[u8], flags: u16, records: &[Written]) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    let count = u16::try_from(records.len()).expect("a table of a test is small");
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message[8..12].fill(0);
    for (kind, owner, data) in records {
        // As servers do: the name in the question is pointed to.
        let same = question[HEADER_BYTES..].to_ascii_lowercase().starts_with(owner);
        message.extend_from_slice(if same { &[0xc0, 12] } else { owner });
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 1]);
        let length = u16::try_from(data.len()).expect("a record is small");
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(data);
    }
    message
}

/// The name, the type, and where the question ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let name = decoded(query.get(HEADER_BYTES..)?);
    let end = HEADER_BYTES + encoded(&name).len();
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    (query.len() >= end + 4).then_some((name.to_lowercase(), kind, end + 4))
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a label is short"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn decoded(mut bytes: &[u8]) -> String {
    let mut labels = Vec::new();
    while let Some((length, rest)) = bytes.split_first().filter(|(length, _)| **length > 0) {
        let (label, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        labels.push(String::from_utf8_lossy(label).into_owned());
        bytes = rest;
    }
    labels.join(".")
}
