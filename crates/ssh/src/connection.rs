//! One authenticated SSH connection to one node. It ends when it is dropped, whatever the node does.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult, Msg};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{Channel, Preferred, cipher, compression, kex};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::SshConfig;
use crate::error::{Endpoint, SshError};
use crate::host_keys::{self, HostKeys, KnownKeys, Trust};
use crate::key_file;
use crate::overheard::{FirstBytes, Overheard};
use crate::text::{printable, printable_bytes};
use crate::watcher::{Heard, Seen, Watcher};

/// Bytes that a node may send before we acknowledge: hides the round trips of far nodes.
const WINDOW_BYTES: u32 = 16 << 20;

/// The largest packet that the protocol allows.
const PACKET_BYTES: u32 = 65_535;

/// Silence after which the node is asked for a sign of life; so often unanswered, the connection is dead.
const KEEPALIVE: (Duration, usize) = (Duration::from_secs(15), 4);

/// How long a node may take to open a channel.
const CHANNEL_DEADLINE: Duration = Duration::from_secs(30);

/// The pause before the second attempt; each is twice the one before, up to the last.
const CHANNEL_PAUSE: Duration = Duration::from_millis(20);
const CHANNEL_LAST_PAUSE: Duration = Duration::from_secs(1);

/// How long a goodbye may take.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);

pub(crate) struct Connection {
    pub(crate) node: Endpoint,
    pub(crate) user: String,
    handle: client::Handle<Watcher>,
    heard: Heard,
    /// Held to be dropped with the connection.
    _socket: CloseOnDrop,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("node", &self.node)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, checks the host key, logs in; a key seen for the first time is then remembered.
    pub(crate) async fn open(
        config: &SshConfig,
        memory: &dyn HostKeys,
        host: &str,
    ) -> Result<Self, SshError> {
        let node = Endpoint { host: host.to_owned(), port: config.port };
        let key = key_file::load(&config.private_key_path).await?;
        let known =
            KnownKeys::read(&node, config.known_hosts_path.as_deref(), config.strict_host_keys, memory)
                .await?;
        let socket = dial(&node, config).await?;
        let (mut connection, seen) = shake_hands(node, config, socket, known).await?;
        connection.log_in(key, config.connect_timeout).await?;
        if seen.trust == Trust::FirstSeen {
            connection.remember(memory, &seen.key).await?;
        }
        Ok(connection)
    }

    /// Opens a channel for one command. A node with `MaxSessions 1` counts the command before for a moment after
    /// it has ended, so a refusal is not taken at once.
    pub(crate) async fn channel(&self) -> Result<Channel<Msg>, SshError> {
        const DOING: &str = "opening a channel";
        let mut pause = CHANNEL_PAUSE;
        loop {
            let opened = timeout(CHANNEL_DEADLINE, self.handle.channel_open_session()).await;
            match opened {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(russh::Error::ChannelOpenFailure(_))) if pause < CHANNEL_LAST_PAUSE => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Ok(Err(error)) => return Err(self.failed(DOING, error)),
                Err(_) => return Err(self.timeout(DOING, CHANNEL_DEADLINE)),
            }
        }
    }

    pub(crate) fn timeout(&self, doing: &'static str, after: Duration) -> SshError {
        SshError::Timeout { node: self.node.clone(), doing, after }
    }

    /// An error of the library, or the lost connection behind it.
    pub(crate) fn failed(&self, doing: &'static str, error: russh::Error) -> SshError {
        match self.handle.is_closed() {
            true => self.lost(doing),
            false => SshError::Protocol { node: self.node.clone(), doing, source: Box::new(error) },
        }
    }

    pub(crate) fn lost(&self, doing: &'static str) -> SshError {
        SshError::Lost { node: self.node.clone(), doing, reason: self.heard.ending() }
    }

    /// What is known of the connection's end, once it has ended.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Says goodbye, so that the node's log does not show a broken connection. Best effort.
    pub(crate) async fn close(mut self) {
        let goodbye = async {
            self.handle.disconnect(russh::Disconnect::ByApplication, "", "en").await.ok();
            (&mut self.handle).await.ok();
        };
        timeout(GOODBYE_DEADLINE, goodbye).await.ok();
    }

    async fn log_in(&mut self, key: Arc<PrivateKey>, deadline: Duration) -> Result<(), SshError> {
        const DOING: &str = "logging in";
        let fingerprint = key_file::fingerprint(&key);
        let result = match timeout(deadline, self.offer(key, &fingerprint)).await {
            Ok(result) => result?,
            Err(_) => return Err(self.timeout(DOING, deadline)),
        };
        let AuthResult::Failure { partial_success, remaining_methods } = result else { return Ok(()) };
        // A node that hangs up at this point (too many attempts, a forbidden user) is told from one that says no
        // by the methods it leaves open.
        if remaining_methods.is_empty() && !partial_success && self.handle.is_closed() {
            return Err(self.lost(DOING));
        }
        let remark = match partial_success {
            true => ": it wants a second factor after the key".to_owned(),
            false => self.banner(),
        };
        Err(self.refused(fingerprint, remark))
    }

    /// What the node said before the login, for a message.
    fn banner(&self) -> String {
        let banner = self.heard.lock().banner.take();
        banner.map(|said| format!("; it says \"{said}\"")).unwrap_or_default()
    }

    async fn offer(&mut self, key: Arc<PrivateKey>, fingerprint: &str) -> Result<AuthResult, SshError> {
        if !key.algorithm().is_rsa() {
            return self.sign_in(key, None).await;
        }
        let best = self.handle.best_supported_rsa_hash().await;
        let best = match best.map_err(|error| self.failed("logging in", error))? {
            // The node does not say what it can; every server of the last ten years can this.
            Some(Some(HashAlg::Sha512)) | None => HashAlg::Sha512,
            Some(Some(hash)) => hash,
            Some(None) => {
                let remark = ": it takes RSA keys with SHA-1 signatures only, which are not safe; \
                              use an Ed25519 key";
                return Err(self.refused(fingerprint.to_owned(), remark.into()));
            }
        };
        let refused = match self.sign_in(Arc::clone(&key), Some(best)).await? {
            refused @ AuthResult::Failure { partial_success: false, .. } => refused,
            done => return Ok(done),
        };
        // What a node says it can is not always what it accepts of this user.
        let other = if best == HashAlg::Sha512 { HashAlg::Sha256 } else { HashAlg::Sha512 };
        Ok(self.sign_in(key, Some(other)).await.unwrap_or(refused))
    }

    async fn sign_in(&mut self, key: Arc<PrivateKey>, hash: Option<HashAlg>) -> Result<AuthResult, SshError> {
        let key = PrivateKeyWithHashAlg::new(key, hash);
        let result = self.handle.authenticate_publickey(self.user.clone(), key).await;
        result.map_err(|error| self.failed("logging in", error))
    }

    fn refused(&self, fingerprint: String, remark: String) -> SshError {
        SshError::AuthenticationRefused {
            node: self.node.clone(),
            user: self.user.clone(),
            fingerprint,
            remark,
        }
    }

    async fn remember(&self, memory: &dyn HostKeys, key: &PublicKey) -> Result<(), SshError> {
        let failed = |source| SshError::HostKeyStore { node: self.node.clone(), what: "stored", source };
        let bare = PublicKey::new(key.key_data().clone(), "");
        let text = bare.to_openssh().map_err(|error| failed(error.into()))?;
        memory.remember(&self.node.host, self.node.port, &text).await.map_err(failed)?;
        tracing::info!(node = %self.node, key = %host_keys::described(key), "host key seen for the first time, remembered");
        Ok(())
    }
}

/// The name is looked up once: what was judged is what is connected to.
async fn dial(node: &Endpoint, config: &SshConfig) -> Result<TcpStream, SshError> {
    use std::io::ErrorKind::{ConnectionRefused, TimedOut};
    let deadline = config.connect_timeout;
    let attempt = async {
        let resolved = tokio::net::lookup_host((node.host.as_str(), node.port)).await;
        let addresses: Vec<_> = match resolved {
            Ok(addresses) => addresses.collect(),
            Err(error) => return Err(SshError::Resolve { node: node.clone(), source: Some(error) }),
        };
        if addresses.is_empty() {
            return Err(SshError::Resolve { node: node.clone(), source: None });
        }
        for address in addresses.iter().map(SocketAddr::ip) {
            if let Some(reason) = (config.refused_address)(address) {
                return Err(SshError::AddressRefused { node: node.clone(), address, reason });
            }
        }
        TcpStream::connect(addresses.as_slice()).await.map_err(|source| match source.kind() {
            ConnectionRefused => SshError::Refused { node: node.clone(), source },
            TimedOut => SshError::Timeout { node: node.clone(), doing: DIALLING, after: deadline },
            _ => SshError::Unreachable { node: node.clone(), source },
        })
    };
    match timeout(deadline, attempt).await {
        Ok(result) => result,
        Err(_) => Err(SshError::Timeout { node: node.clone(), doing: DIALLING, after: deadline }),
    }
}

const DIALLING: &str = "connecting";

async fn shake_hands(
    node: Endpoint,
    config: &SshConfig,
    socket: TcpStream,
    known: KnownKeys,
) -> Result<(Connection, Seen), SshError> {
    const DOING: &str = "exchanging keys";
    let broken = |source| SshError::Unreachable { node: node.clone(), source };
    socket.set_nodelay(true).map_err(broken)?;
    let socket = socket.into_std().map_err(broken)?;
    let closer = CloseOnDrop(socket.try_clone().map_err(broken)?);
    let (stream, said) = Overheard::new(TcpStream::from_std(socket).map_err(broken)?);

    let heard = Heard::default();
    let settings = Arc::new(settings(&known));
    let watcher = Watcher { known, heard: heard.clone() };
    let shaken = Box::pin(client::connect_stream(settings, stream, watcher));
    let Ok(result) = timeout(config.connect_timeout, shaken).await else {
        let doing = if said.is_ssh() { DOING } else { "waiting for its SSH greeting" };
        return Err(SshError::Timeout { node, doing, after: config.connect_timeout });
    };
    let judged = heard.lock().judged.take();
    match (result, judged) {
        (Ok(handle), Some(Ok(seen))) => {
            Ok((Connection { node, user: config.user.clone(), handle, heard, _socket: closer }, seen))
        }
        (_, Some(Err(refusal))) => Err(refusal),
        (Err(error), _) => Err(handshake_error(node, DOING, error, &said)),
        // The library asks for the verdict before it gives a handle out.
        (Ok(_), None) => {
            Err(SshError::Protocol { node, doing: DOING, source: Box::new(russh::Error::UnknownKey) })
        }
    }
}

fn handshake_error(node: Endpoint, doing: &'static str, error: russh::Error, said: &FirstBytes) -> SshError {
    if !said.is_ssh() {
        return match said.bytes().as_slice() {
            [] => SshError::ClosedAtOnce { node },
            said => SshError::NotSsh { node, said: format!("it says \"{}\"", printable_bytes(said)) },
        };
    }
    match error {
        russh::Error::NoCommonAlgo { kind, ours, theirs } => SshError::NoCommonAlgorithm {
            node,
            what: format!("{kind:?}").to_lowercase(),
            ours: ours.join(","),
            theirs: printable(&theirs.join(",")),
        },
        russh::Error::Disconnect | russh::Error::HUP | russh::Error::IO(_) => {
            SshError::Lost { node, doing, reason: printable(&error.to_string()) }
        }
        error => SshError::Protocol { node, doing, source: Box::new(error) },
    }
}

fn settings(known: &KnownKeys) -> client::Config {
    let mut exchanges = vec![kex::MLKEM768X25519_SHA256, kex::CURVE25519, kex::CURVE25519_PRE_RFC_8731];
    exchanges.extend([kex::ECDH_SHA2_NISTP256, kex::ECDH_SHA2_NISTP384, kex::ECDH_SHA2_NISTP521]);
    exchanges.extend(
        Preferred::DEFAULT.kex.iter().filter(|name| !exchanges.contains(name)).copied().collect::<Vec<_>>(),
    );
    client::Config {
        client_id: russh::SshId::Standard(concat!("SSH-2.0-Cassy_", env!("CARGO_PKG_VERSION")).into()),
        window_size: WINDOW_BYTES,
        maximum_packet_size: PACKET_BYTES,
        keepalive_interval: Some(KEEPALIVE.0),
        keepalive_max: KEEPALIVE.1,
        nodelay: true,
        preferred: Preferred {
            kex: exchanges.into(),
            key: known.algorithms().into(),
            cipher: vec![
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_128_CTR,
            ]
            .into(),
            compression: vec![compression::NONE].into(),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

/// A second handle of the connection's socket. The session's task may be blocked by a full channel, or waiting for
/// a node that is silent; a closed socket ends it in any case.
struct CloseOnDrop(std::net::TcpStream);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // An error says that it is closed already.
        self.0.shutdown(Shutdown::Both).ok();
    }
}
