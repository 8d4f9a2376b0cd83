//! What can go wrong between the server and a node's shell. Every message names `host:port`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A failure of another crate's code, whatever its type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What an error means for the one who retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Another try may succeed.
    Transient,
    /// Another try fails in the same way until somebody acts.
    Permanent,
    /// A defect of ours.
    Bug,
}

/// Where an SSH server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// A key of the configuration holds what cannot work.
    #[error("{key} is not usable: {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The host's name has no address.
    #[error("no address for {node}")]
    Resolve {
        /// The node.
        node: Endpoint,
        /// The resolver's answer; absent when it answered with an empty list.
        #[source]
        source: Option<std::io::Error>,
    },
    /// Nothing listens there.
    #[error("{node} refused the connection: nothing listens there")]
    Refused {
        /// The node.
        node: Endpoint,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// No way to the node.
    #[error("{node} cannot be reached")]
    Unreachable {
        /// The node.
        node: Endpoint,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("{node} did not answer within {} s while {doing}", after.as_secs())]
    Timeout {
        /// The node.
        node: Endpoint,
        /// What was waited for.
        doing: &'static str,
        /// How long.
        after: Duration,
    },
    /// The address is of a kind that no node has.
    #[error("{node} is not connected to: its address {address} is refused: {reason}")]
    AddressRefused {
        /// The node.
        node: Endpoint,
        /// The address that the host's name led to.
        address: IpAddr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The port takes connections, and closes them before it has said anything.
    #[error("{node} accepted the connection and closed it at once, without a word")]
    ClosedAtOnce {
        /// The node.
        node: Endpoint,
    },
    /// Something else listens there.
    #[error("{node} is not an SSH server: {said}")]
    NotSsh {
        /// The node.
        node: Endpoint,
        /// What it said, escaped and cut short.
        said: String,
    },
    /// Both sides have nothing in common.
    #[error("{node} and Cassy have no {what} algorithm in common; the node offers {theirs}, Cassy {ours}")]
    NoCommonAlgorithm {
        /// The node.
        node: Endpoint,
        /// What kind of algorithm.
        what: String,
        /// Ours.
        ours: String,
        /// The node's.
        theirs: String,
    },
    /// The known_hosts file cannot be read.
    #[error("cannot read {}", path.display())]
    KnownHosts {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The remembered host keys cannot be read or written.
    #[error("the remembered host key of {node} cannot be {what}")]
    HostKeyStore {
        /// The node.
        node: Endpoint,
        /// `read` or `stored`.
        what: &'static str,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// Another key than the known one.
    #[error("the host key of {node} has changed: {known_in} has {known}, the node shows {shown}")]
    HostKeyChanged {
        /// The node.
        node: Endpoint,
        /// `file:line`, or what Cassy remembers.
        known_in: Box<KnownIn>,
        /// The known key's type and fingerprint.
        known: String,
        /// The shown key's type and fingerprint.
        shown: String,
        /// The file that new keys are added to.
        file: PathBuf,
    },
    /// Marked `@revoked`.
    #[error("the host key of {node} is revoked by {known_in}: {shown}")]
    HostKeyRevoked {
        /// The node.
        node: Endpoint,
        /// `file:line`.
        known_in: KnownIn,
        /// The shown key's type and fingerprint.
        shown: String,
    },
    /// Not known, and the strict mode is on.
    #[error("the host key of {node} is not known: it shows {shown}, and unknown keys are refused")]
    HostKeyUnknown {
        /// The node.
        node: Endpoint,
        /// The shown key's type and fingerprint.
        shown: String,
        /// The file to add it to.
        file: PathBuf,
    },
    /// The key file cannot be used.
    #[error("the SSH key {} cannot be used: {reason}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, for the operator.
        reason: String,
        /// The decoder's error, if there is one.
        #[source]
        source: Option<BoxError>,
    },
    /// The node does not let us in.
    #[error("{node} does not accept user {user} with key {fingerprint}{remark}")]
    AuthenticationRefused {
        /// The node.
        node: Endpoint,
        /// The user.
        user: String,
        /// The key's fingerprint.
        fingerprint: String,
        /// What else the node said, with its separator; or nothing.
        remark: String,
    },
    /// The connection broke.
    #[error("the connection to {node} was lost while {doing}: {reason}")]
    Lost {
        /// The node.
        node: Endpoint,
        /// What was being done.
        doing: &'static str,
        /// What is known of the reason.
        reason: String,
    },
    /// The protocol failed.
    #[error("SSH to {node} failed while {doing}")]
    Protocol {
        /// The node.
        node: Endpoint,
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<russh::Error>,
    },
    /// The account's shell does not run our commands.
    #[error("the shell of {user} on {node} does not run commands: {said}")]
    Shell {
        /// The node.
        node: Endpoint,
        /// The user.
        user: String,
        /// What came instead.
        said: String,
    },
    /// Another operating system or processor.
    #[error("{node} needs an agent for {theirs}, but this server's executable is for {ours}")]
    Architecture {
        /// The node.
        node: Endpoint,
        /// What `uname` said.
        theirs: String,
        /// What this executable is for.
        ours: String,
    },
    /// No directory can take the agent.
    #[error("no directory on {node} can hold and run the agent: {tried}")]
    NoDirectory {
        /// The node.
        node: Endpoint,
        /// Each directory with what is wrong.
        tried: String,
    },
    /// The own executable cannot be read.
    #[error("cannot read the server's executable {}", path.display())]
    OwnBinary {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The own executable is not what it was when the server started.
    #[error("the server's executable {} was replaced while the server runs", path.display())]
    OwnBinaryChanged {
        /// The file.
        path: PathBuf,
    },
    /// The agent cannot be written on the node.
    #[error("the agent cannot be put into {directory} on {node}: {reason}")]
    Push {
        /// The node.
        node: Endpoint,
        /// The directory.
        directory: String,
        /// What is wrong.
        reason: PushFailure,
    },
    /// The agent did not start or did not greet.
    #[error("the agent {path} on {node} did not start: {reason}")]
    Launch {
        /// The node.
        node: Endpoint,
        /// The agent's path on the node.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Behind the command prefix, the agent did not start or did not greet.
    #[error("the agent {path} on {node} did not start behind `{}`: {reason}", prefix.join(" "))]
    Prefix {
        /// The node.
        node: Endpoint,
        /// Who logged in.
        user: Box<str>,
        /// The words of the prefix.
        prefix: Box<[String]>,
        /// The agent's path on the node.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The agent is of another build, though its file was ours.
    #[error("the agent {path} on {node} is of build {theirs}, not {ours}")]
    WrongBuild {
        /// The node.
        node: Endpoint,
        /// The agent's path on the node.
        path: String,
        /// What it says.
        theirs: String,
        /// This server's.
        ours: String,
    },
}

/// Where a host key is known from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownIn {
    /// A line of a known_hosts file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// What Cassy saw at the first connection.
    FirstSeen,
}

impl fmt::Display for KnownIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::FirstSeen => f.write_str("what Cassy saw at the first connection"),
        }
    }
}

/// Why a push failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushFailure {
    /// The file system is full, or the user's quota is used up.
    Full(String),
    /// What arrived is not what was sent.
    Damaged,
    /// The node has no program that computes SHA-256.
    NoDigest,
    /// Anything else, in the node's words.
    Other(String),
}

impl fmt::Display for PushFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(said) => write!(f, "no room ({said})"),
            Self::Damaged => f.write_str("what arrived is not what was sent"),
            Self::NoDigest => f.write_str("the node has neither sha256sum nor openssl"),
            Self::Other(said) => f.write_str(said),
        }
    }
}

impl SshError {
    /// What the error means for the one who retries.
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::ClosedAtOnce { .. }
            | Self::Timeout { .. }
            | Self::HostKeyStore { .. }
            | Self::Lost { .. }
            | Self::Protocol { .. }
            | Self::Launch { .. }
            | Self::Push { reason: PushFailure::Damaged, .. } => Class::Transient,
            // A resolver's failure passes; an empty answer does not.
            Self::Resolve { source, .. } if source.is_some() => Class::Transient,
            Self::Prefix { reason, .. } if !is_refusal(reason) => Class::Transient,
            Self::WrongBuild { .. } => Class::Bug,
            Self::Config { .. }
            | Self::Resolve { .. }
            | Self::AddressRefused { .. }
            | Self::NotSsh { .. }
            | Self::NoCommonAlgorithm { .. }
            | Self::KnownHosts { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyRevoked { .. }
            | Self::HostKeyUnknown { .. }
            | Self::KeyFile { .. }
            | Self::AuthenticationRefused { .. }
            | Self::Shell { .. }
            | Self::Architecture { .. }
            | Self::NoDirectory { .. }
            | Self::OwnBinary { .. }
            | Self::OwnBinaryChanged { .. }
            | Self::Prefix { .. }
            | Self::Push { .. } => Class::Permanent,
        }
    }

    /// What the operator can do, as a sentence.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused { .. } => "Is sshd running on the node, and is ssh_port its port?".into(),
            Self::Resolve { .. } | Self::Unreachable { .. } => {
                "Check the node's address and the network between this machine and the node.".into()
            }
            Self::Timeout { .. } => {
                "Check for a firewall between this machine and the node, and that ssh_port is sshd's.".into()
            }
            Self::AddressRefused { .. } => {
                "Give an address of the Cassandra node, or correct what its name resolves to.".into()
            }
            Self::ClosedAtOnce { .. } => {
                "The node's sshd may turn this machine away (MaxStartups, PerSourcePenalties or hosts.deny; its log \
                 says so), or ssh_port is the port of something else."
                    .into()
            }
            Self::Lost { .. } => {
                "Check the node and the network to it; the log of its sshd says why it closed a connection.".into()
            }
            Self::NotSsh { .. } => "Set ssh_port to the port of the node's sshd.".into(),
            Self::NoCommonAlgorithm { .. } => {
                "Allow one of Cassy's algorithms in the node's sshd_config.".into()
            }
            Self::HostKeyChanged { node, known_in, file, .. } => changed_hint(node, known_in, file),
            Self::HostKeyUnknown { node, file, .. } => format!(
                "Compare the fingerprint with the node's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), \
                 then add the key: ssh-keyscan -p {} {} >> {}",
                node.port,
                node.host,
                file.display()
            ),
            Self::AuthenticationRefused { node, user, .. } => format!(
                "Check ssh_user and ssh_private_key_path, that the public key is in ~{user}/.ssh/authorized_keys on \
                 {}, and the modes of that file and its directories; the node's sshd log says why.",
                node.host
            ),
            Self::Shell { .. } => {
                "The account needs a login shell that runs commands, no forced command, and `sh` in its PATH."
                    .into()
            }
            Self::Architecture { .. } => {
                "Run a server of the node's architecture; one server for several comes with a later version."
                    .into()
            }
            Self::NoDirectory { .. } => {
                "Set slave_command_path to a directory that ssh_user owns, on a file system without noexec."
                    .into()
            }
            Self::Prefix { user, prefix, path, reason, .. } => prefix_hint(user, prefix, path, reason),
            Self::OwnBinaryChanged { .. } => "Restart the server.".into(),
            Self::Push { reason: PushFailure::Full(_), .. } => {
                "Free some space there, or set slave_command_path to another directory.".into()
            }
            _ => return None,
        })
    }
}

/// Whether sudo, or what is like it, does not let the user do this: nothing that passes by itself.
fn is_refusal(reason: &str) -> bool {
    const WORDS: [&str; 6] = [
        "password is required",
        "not allowed",
        "may not run",
        "not in the sudoers",
        "must have a tty",
        "no tty present",
    ];
    WORDS.iter().any(|words| reason.contains(words))
}

fn prefix_hint(user: &str, prefix: &[String], path: &str, reason: &str) -> String {
    if is_refusal(reason) {
        let target = target_user(prefix);
        let path: String = path.chars().flat_map(in_sudoers).collect();
        return format!("Add to sudoers on the node (visudo): {user} ALL=({target}) NOPASSWD: {path}");
    }
    let prefix = prefix.join(" ");
    format!(
        "Try it on the node as {user}: {prefix} {path} --version; the key ssh_command_prefix says what stands before the path."
    )
}

/// Whom sudo is to become.
fn target_user(prefix: &[String]) -> &str {
    let mut words = prefix.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let named = match word {
            "-u" | "--user" => words.next(),
            word => word.strip_prefix("--user=").or_else(|| word.strip_prefix("-u")),
        };
        if let Some(user) = named {
            return user;
        }
    }
    "root"
}

/// A character of a path as sudoers(5) wants it.
fn in_sudoers(c: char) -> impl Iterator<Item = char> {
    let special = matches!(c, ' ' | ',' | ':' | '=' | '\\' | '*' | '?' | '[' | ']' | '!' | '#' | '(' | ')');
    special.then_some('\\').into_iter().chain([c])
}

fn changed_hint(node: &Endpoint, known_in: &KnownIn, file: &Path) -> String {
    let check = "Somebody may sit in between. If the node was set up anew, compare the shown fingerprint with the \
                 node's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then";
    let name = match node.port {
        22 => node.host.clone(),
        port => format!("[{}]:{port}", node.host),
    };
    match known_in {
        KnownIn::File { path, .. } => format!(
            "{check} replace the entry: ssh-keygen -R '{name}' -f {file}; ssh-keyscan -p {port} {host} >> {file}",
            file = path.display(),
            port = node.port,
            host = node.host
        ),
        KnownIn::FirstSeen => format!(
            "{check} add the new key to known_hosts, which goes before what Cassy remembers: \
             ssh-keyscan -p {} {} >> {}",
            node.port,
            node.host,
            file.display()
        ),
    }
}
