//! A peer on a real socket that plays recorded replies, and misbehaves as told.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cassy_jmx::rmi::hash::{LOOKUP, LOOKUP_BY_HASH, Method, NEW_CLIENT};
use cassy_jmx::{Channel, Credentials, Dialer, Error, JmxClient, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The host that the user gives. Nothing resolves it: the dialer knows the way.
pub(crate) const HOST: &str = "node.example";
pub(crate) const ACK: [u8; 9] = [0x4e, 0, 2, b'm', b'e', 0, 0, 0, 1];

/// What the peer does when it gets a call.
#[derive(Clone)]
pub(crate) enum Action {
    Reply(Vec<u8>),
    /// Byte by byte, with this pause between two.
    Drip(Vec<u8>, Duration),
    /// And hang up.
    Last(Vec<u8>),
    Silence,
}

/// A call as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) target: [u8; 22],
    pub(crate) operation: i32,
    pub(crate) hash: i64,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
}

impl Call {
    pub(crate) fn is(&self, method: Method) -> bool {
        (self.operation, self.hash) == (method.operation, method.hash)
    }
}

pub(crate) struct Fake {
    pub(crate) port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Fake {
    /// Greets, then acts on every call.
    pub(crate) async fn start(
        greeting: &'static [u8],
        act: impl Fn(Call, u16) -> Action + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (act, log) = (Arc::new(act), calls.clone());
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { break };
                let (act, log) = (act.clone(), log.clone());
                tokio::spawn(async move {
                    let served = serve(stream, greeting, |mut call| {
                        call.connection = connection;
                        log.lock().expect("not poisoned").push(call);
                        act(call, port)
                    });
                    let _client_hung_up: io::Result<()> = served.await;
                });
            }
        });
        Self { port, calls }
    }

    /// A well-behaved server whose calls after the login are answered by `act`.
    pub(crate) async fn server(act: impl Fn(Call) -> Action + Send + Sync + 'static) -> Self {
        Self::start(&ACK, move |call, port| login(call, port).unwrap_or_else(|| act(call))).await
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("not poisoned").clone()
    }

    pub(crate) fn count(&self, method: Method) -> usize {
        self.calls().iter().filter(|call| call.is(method)).count()
    }

    pub(crate) async fn connect(&self, within: Duration) -> Result<JmxClient, Error> {
        connect(&Arc::new(Recorder::default()), self.port, None, within).await
    }
}

/// Looks up and logs in as a server on this port does.
pub(crate) fn login(call: Call, port: u16) -> Option<Action> {
    if call.is(LOOKUP) || call.is(LOOKUP_BY_HASH) {
        return Some(Action::Reply(stub("jvm17-client/00-lookup", port)));
    }
    call.is(NEW_CLIENT).then(|| Action::Reply(stub("jvm17-client/02-newClient-null", port)))
}

pub(crate) async fn connect(
    dialer: &Arc<Recorder>,
    port: u16,
    credentials: Option<Credentials>,
    within: Duration,
) -> Result<JmxClient, Error> {
    JmxClient::connect(dialer.clone(), HOST, port, credentials, Limits::default(), within).await
}

/// A recorded reply.
pub(crate) fn recorded(name: &str) -> Vec<u8> {
    let file = format!("{}/tests/vectors/{name}.resp.bin", env!("CARGO_MANIFEST_DIR"));
    fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A recorded stub that advertises a host that must not be dialled, and this port.
pub(crate) fn stub(name: &str, port: u16) -> Vec<u8> {
    let mut bytes = recorded(name);
    let host = b"127.0.0.1";
    let at = bytes.windows(host.len()).position(|window| window == host).expect("a stub");
    bytes[at..at + host.len()].copy_from_slice(b"evil.test");
    bytes[at + 9..at + 13].copy_from_slice(&u32::from(port).to_be_bytes());
    bytes
}

async fn serve(
    mut stream: TcpStream,
    greeting: &[u8],
    mut act: impl FnMut(Call) -> Action,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if greeting.starts_with(b"SSH") {
        stream.write_all(greeting).await?;
    }
    let mut hello = [0; 13];
    stream.read_exact(&mut hello).await?;
    if !greeting.starts_with(b"SSH") {
        stream.write_all(greeting).await?;
    }
    if greeting.is_empty() {
        return Ok(());
    }
    loop {
        match stream.read_u8().await? {
            0x54 => drop(stream.read_exact(&mut [0; 14]).await?),
            0x50 => {
                // The client writes a call at once, so the rest of it comes with its head.
                let mut head = [0; 40];
                stream.read_exact(&mut head).await?;
                let mut rest = vec![0; 64 << 10];
                let _ignored: io::Result<usize> = stream.try_read(&mut rest);
                if !play(&mut stream, act(call(&head))).await? {
                    return Ok(());
                }
            }
            other => panic!("the client sent {other:#x}"),
        }
    }
}

fn call(head: &[u8; 40]) -> Call {
    Call {
        target: head[6..28].try_into().expect("22"),
        operation: i32::from_be_bytes(head[28..32].try_into().expect("4")),
        hash: i64::from_be_bytes(head[32..40].try_into().expect("8")),
        connection: 0,
    }
}

async fn play(stream: &mut TcpStream, action: Action) -> io::Result<bool> {
    match action {
        Action::Reply(bytes) => stream.write_all(&bytes).await?,
        Action::Drip(bytes, pause) => {
            for byte in bytes {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
        }
        Action::Last(bytes) => {
            stream.write_all(&bytes).await?;
            return Ok(false);
        }
        Action::Silence => std::future::pending().await,
    }
    Ok(true)
}

/// Dials the loopback interface whatever the host, and remembers what it was asked for.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) dialled: Mutex<Vec<(String, u16)>>,
    pub(crate) confidential: bool,
}

#[async_trait]
impl Dialer for Recorder {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Channel>> {
        self.dialled.lock().expect("not poisoned").push((host.to_owned(), port));
        Ok(Box::new(TcpStream::connect(("127.0.0.1", port)).await?))
    }

    fn is_confidential(&self, _host: &str) -> bool {
        self.confidential
    }
}
