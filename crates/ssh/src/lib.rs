//! From a node's address to a running agent: connect, host keys, push, launch.
//!
//! [`Ssh::agent`] gives out an [`AgentHandle`]; [`AgentHandle::over`] makes one of any stream. What the frames say
//! is not known here, and nothing is retried: each error says whether that helps ([`SshError::class`]) and what
//! to do ([`SshError::hint`]).
//!
//! Invariants: a host key that differs from the known one is refused before anything is sent; nothing on the node
//! is run but `sh` and exactly our own executable; an agent never outlives its handle's connection.

#![warn(clippy::indexing_slicing)]

mod agent;
mod connection;
mod dial;
mod error;
mod greeting;
mod host_keys;
mod key_file;
mod overheard;
mod process;
mod pump;
mod push;
mod stderr_log;
mod text;
mod watcher;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::ServerHello;

pub use agent::{AgentCallError, AgentHandle, GreetingError};
pub use dial::LoopbackStream;
pub use error::{BoxError, Class, Endpoint, KnownIn, PushFailure, SshError};
pub use host_keys::HostKeys;
pub use key_file::check_private_key;

use connection::Connection;
use push::{OwnBinary, Wish};

/// How nodes are reached.
#[derive(Debug, Clone)]
pub struct SshConfig {
    /// The user on the nodes.
    pub user: String,
    /// The private key, in OpenSSH or PEM format, without a passphrase. It is read for each connection.
    pub private_key_path: PathBuf,
    /// The nodes' SSH port.
    pub port: u16,
    /// The known_hosts file; when absent, the user's and the system's.
    pub known_hosts_path: Option<PathBuf>,
    /// Refuse hosts that are not known, instead of remembering their keys.
    pub strict_host_keys: bool,
    /// Why an address is never connected to, whatever name led to it.
    pub refused_address: fn(IpAddr) -> Option<&'static str>,
    /// How long a node may take for each of: TCP, key exchange, login.
    pub connect_timeout: Duration,
    /// A directory on the nodes, absolute: a `cassy` in it is used when it is ours, else the agent is put there
    /// if it can be.
    pub slave_command_path: Option<String>,
    /// What the agent's command is put behind, so that it runs as another user; words, empty for nothing.
    pub command_prefix: Vec<String>,
    /// The running executable, which is pushed; best `/proc/self/exe`, which stays the same file when the
    /// installed one is replaced.
    pub own_binary: PathBuf,
}

impl SshConfig {
    /// Checks what can be checked without a node.
    pub fn validate(&self) -> Result<(), SshError> {
        let refuse = |key, reason: &str| Err(SshError::Config { key, reason: reason.into() });
        if self.user.is_empty() || self.user.chars().any(char::is_control) {
            return refuse("ssh_user", "a user's name is expected");
        }
        if self.connect_timeout.is_zero() {
            return refuse("ssh connect timeout", "more than zero is expected");
        }
        let prefix = &self.command_prefix;
        if prefix.first().is_some_and(String::is_empty)
            || prefix.iter().any(|word| word.contains(char::is_control))
        {
            return refuse("ssh_command_prefix", "a command without control characters is expected");
        }
        match self.slave_command_path.as_deref() {
            Some(path) if !path.starts_with('/') || path.chars().any(char::is_control) => {
                refuse("slave_command_path", "an absolute path without control characters is expected")
            }
            _ => Ok(()),
        }
    }
}

/// Starts agents.
pub struct Ssh {
    config: SshConfig,
    memory: Arc<dyn HostKeys>,
    binary: OwnBinary,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Ssh {
    /// Nothing is connected yet; the configuration is checked.
    pub fn new(config: SshConfig, memory: Arc<dyn HostKeys>) -> Result<Self, SshError> {
        config.validate()?;
        let binary = OwnBinary::new(config.own_binary.clone());
        Ok(Self { config, memory, binary })
    }

    /// Connects, puts our executable on the node when it is not there, and starts it as the agent.
    pub async fn agent(&self, host: &str, hello: ServerHello) -> Result<AgentHandle, SshError> {
        let connection = Box::pin(Connection::open(&self.config, &*self.memory, host)).await?;
        let placed = Box::pin(push::place(&connection, &self.binary, self.wish())).await?;
        Box::pin(self.launch(connection, placed.path, hello)).await
    }

    /// Connects, and puts our executable on the node when it is not there, without starting it. Answers its path
    /// there, and whether it had to be sent.
    pub async fn push(&self, host: &str) -> Result<(String, bool), SshError> {
        let connection = Box::pin(Connection::open(&self.config, &*self.memory, host)).await?;
        let placed = Box::pin(push::place(&connection, &self.binary, self.wish())).await?;
        connection.close().await;
        Ok((placed.path, placed.sent))
    }

    /// Can the node be logged in to? Its host key is remembered when it is seen for the first time.
    pub async fn check(&self, host: &str) -> Result<(), SshError> {
        let connection = Box::pin(Connection::open(&self.config, &*self.memory, host)).await?;
        connection.close().await;
        Ok(())
    }

    /// Where the agent is wanted.
    fn wish(&self) -> Wish<'_> {
        Wish {
            directory: self.config.slave_command_path.as_deref(),
            shared: !self.config.command_prefix.is_empty(),
        }
    }

    async fn launch(
        &self,
        connection: Connection,
        path: String,
        hello: ServerHello,
    ) -> Result<AgentHandle, SshError> {
        let prefix = &self.config.command_prefix;
        let command = push::launch_command(prefix, &path);
        let (stdout, stdin) = process::spawn(&connection, &command, "starting the agent").await?;
        let node = connection.node.clone();
        let agent = match AgentHandle::over_halves(stdout, stdin, hello).await {
            Ok(agent) => agent.within(connection),
            Err(error) if prefix.is_empty() => {
                return Err(SshError::Launch { node, path, reason: error.told() });
            }
            Err(error) => {
                let (user, prefix) = (self.config.user.as_str().into(), prefix.as_slice().into());
                return Err(SshError::Prefix { node, user, prefix, path, reason: error.told() });
            }
        };
        let ours = self.binary.sha256().await?;
        let theirs = &agent.hello().build;
        if theirs != ours {
            let theirs = text::printable(theirs);
            return Err(SshError::WrongBuild { node, path, theirs, ours: ours.to_owned() });
        }
        Ok(agent)
    }
}
