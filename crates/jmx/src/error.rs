//! What can go wrong, and whose fault it is. Every error names the address it happened at; text from the peer is cut and
//! its control characters are escaped.

use std::fmt;
use std::time::Duration;

use crate::rmi::stub::BadStub;
use crate::stream::StreamError;
use crate::stream::view::{View, ViewError};

/// The host and port that were dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// As the caller gave it.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The network, or a peer that is down or slow: trying again may help.
    Network,
    /// The peer breaks the protocol, or attacks.
    Peer,
    /// The peer is what it should be, but asks for what this client cannot do.
    Unsupported,
    /// The peer works, and says that the request failed.
    Remote,
    /// The request or the configuration.
    Caller,
}

/// Why a JMX call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Dialling, reading or writing failed, or the peer closed the connection.
    #[error("{peer}: failed to {step}")]
    Io {
        /// Where.
        peer: Peer,
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// No complete answer in time. A call that changes something may still be running, or be done.
    #[error("{peer}: no complete answer within {within:?} to: {step}")]
    Timeout {
        /// Where.
        peer: Peer,
        /// What was being done.
        step: String,
        /// The deadline, counted from the start of the call.
        within: Duration,
    },
    /// Something answers that does not speak RMI.
    #[error("{peer}: not a JMX port: this is {looks_like}")]
    NotJmx {
        /// Where.
        peer: Peer,
        /// What it seems to be: "a TLS port".
        looks_like: String,
    },
    /// The reply breaks the protocol.
    #[error("{peer}: broken reply to: {step}")]
    Malformed {
        /// Where.
        peer: Peer,
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: Malformation,
    },
    /// The reply is larger than allowed.
    #[error("{peer}: too large a reply to: {step}")]
    Limit {
        /// Where.
        peer: Peer,
        /// What was being done.
        step: String,
        /// Which limit.
        #[source]
        source: StreamError,
    },
    /// The peer asks for something that this client cannot do.
    #[error("{peer}: {what}")]
    Unsupported {
        /// Where.
        peer: Peer,
        /// What it asks for.
        what: String,
    },
    /// The call reached the server and threw.
    #[error("{peer}: the server refused: {step}")]
    Remote {
        /// Where.
        peer: Peer,
        /// What was being done.
        step: String,
        /// What was thrown.
        #[source]
        source: RemoteException,
    },
    /// The login was refused. Servers do not tell an unknown user from a wrong password.
    #[error("{peer}: JMX login refused: {message}")]
    Auth {
        /// Where.
        peer: Peer,
        /// The server's words.
        message: String,
    },
    /// The login was accepted, but may not do this.
    #[error("{peer}: JMX access denied for: {step}: {message}")]
    AccessDenied {
        /// Where.
        peer: Peer,
        /// What was being done.
        step: String,
        /// The server's words.
        message: String,
    },
    /// The server has ended the session (it does after 120 s without a call, and when it restarts).
    #[error("{peer}: the JMX session has ended")]
    SessionGone {
        /// Where.
        peer: Peer,
    },
    /// Credentials were given, and the way to the server is neither encrypted nor local.
    #[error("{peer}: refusing to send JMX credentials in clear text")]
    ClearText {
        /// Where.
        peer: Peer,
    },
}

/// How a reply breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformation {
    /// The bytes.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A remote reference.
    #[error(transparent)]
    Stub(#[from] BadStub),
    /// The type of a value.
    #[error(transparent)]
    Value(#[from] ViewError),
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } | Self::Timeout { .. } | Self::SessionGone { .. } => Fault::Network,
            Self::NotJmx { .. } | Self::ClearText { .. } => Fault::Caller,
            Self::Malformed { .. } | Self::Limit { .. } => Fault::Peer,
            Self::Unsupported { .. } => Fault::Unsupported,
            Self::Remote { .. } | Self::Auth { .. } | Self::AccessDenied { .. } => Fault::Remote,
        }
    }

    /// The exception that the server threw, if it did.
    #[must_use]
    pub fn exception(&self) -> Option<&RemoteException> {
        match self {
            Self::Remote { source, .. } => Some(source),
            _ => None,
        }
    }

    pub(crate) fn stream(peer: &Peer, step: &str, source: StreamError) -> Self {
        let (peer, step) = (peer.clone(), step.to_owned());
        match source {
            StreamError::Limit { .. } => Self::Limit { peer, step, source },
            StreamError::Malformed { .. } => Self::Malformed { peer, step, source: source.into() },
            StreamError::Unsupported { ref class, .. } => Self::Unsupported {
                peer,
                what: format!("unreadable reply to: {step}: it holds an externalizable {class}"),
            },
        }
    }

    pub(crate) fn malformed(peer: &Peer, step: &str, source: impl Into<Malformation>) -> Self {
        Self::Malformed { peer: peer.clone(), step: step.to_owned(), source: source.into() }
    }
}

/// An exception that the server threw, with its causes as the error's sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteException {
    /// Class name.
    pub class: String,
    /// Message.
    pub message: Option<String>,
    /// What it wraps, or its cause.
    pub cause: Option<Box<RemoteException>>,
}

/// Characters of a class name or message that are kept.
const TEXT_CHARS: usize = 1_000;
/// Causes that are kept. A cause can be the exception itself (that is how a JVM writes "none").
const CAUSES: usize = 16;

impl RemoteException {
    /// Reads a throwable. Reads anything: what is missing is left out.
    #[must_use]
    pub fn read(view: View<'_>) -> Self {
        let mut chain = Vec::new();
        let mut seen = Vec::new();
        let mut next = Some(view);
        while let Some(view) = next.take().filter(|view| seen.len() < CAUSES && !seen.contains(&view.value()))
        {
            seen.push(view.value());
            let message = view.field("detailMessage").ok().and_then(|message| message.as_str().ok());
            chain.push((text(view.class_name().unwrap_or("an unknown class")), message.map(text)));
            // Where the wrappers of javax.management and java.rmi keep the real one (measured), then the cause.
            next = ["exception", "runtimeException", "error", "detail", "cause"].iter().find_map(|field| {
                let inner = view.field(field).ok()?.non_null()?;
                (!seen.contains(&inner.value()) && inner.class_name().is_some()).then_some(inner)
            });
        }
        let mut cause = None;
        while let Some((class, message)) = chain.pop() {
            cause = Some(Box::new(Self { class, message, cause }));
        }
        cause.map_or_else(
            || Self { class: "an unknown class".to_owned(), message: None, cause: None },
            |first| *first,
        )
    }

    /// The exception that the MBean threw, without the wrappers that the MBean server puts around it.
    #[must_use]
    pub fn thrown(&self) -> &Self {
        const WRAPPERS: [&str; 4] = [
            "javax.management.MBeanException",
            "javax.management.RuntimeMBeanException",
            "javax.management.RuntimeErrorException",
            "javax.management.ReflectionException",
        ];
        match &self.cause {
            Some(cause) if WRAPPERS.contains(&self.class.as_str()) => cause.thrown(),
            _ => self,
        }
    }

    /// Whether the call never reached the method: the server has then not read the arguments, and takes them for the
    /// next message (measured). The connection is lost.
    #[must_use]
    pub fn is_dispatch_error(&self) -> bool {
        self.class.starts_with("java.rmi.")
    }
}

impl fmt::Display for RemoteException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{}: {message}", self.class),
            None => f.write_str(&self.class),
        }
    }
}

impl std::error::Error for RemoteException {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

fn text(from_peer: &str) -> String {
    from_peer.chars().take(TEXT_CHARS).flat_map(escaped).collect()
}

fn escaped(character: char) -> Box<dyn Iterator<Item = char>> {
    if character.is_control() {
        Box::new(character.escape_default())
    } else {
        Box::new(std::iter::once(character))
    }
}
