//! What can go wrong with a node: what, where, and what to do about it.

use std::time::Duration;

use cassy_jmx::{Error as JmxError, RemoteException};

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It can: the node or the network was busy, slow or down.
    Transient,
    /// It cannot, until somebody changes something.
    Permanent,
    /// It cannot: we did something wrong.
    Bug,
}

/// A call to a node failed. `node` is host and JMX port as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The JMX port cannot be reached, or hangs up.
    #[error("node {node}: JMX cannot be reached")]
    Unreachable {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: Box<JmxError>,
    },
    /// The port is open, and no complete answer came in time.
    #[error("node {node}: JMX does not answer")]
    Silent {
        /// The node.
        node: String,
        /// What was asked.
        #[source]
        source: Box<JmxError>,
    },
    /// The port belongs to something else.
    #[error("node {node}: the configured JMX port is not JMX")]
    NotJmx {
        /// The node.
        node: String,
        /// What it is.
        #[source]
        source: Box<JmxError>,
    },
    /// The login was refused, or may not do this, or credentials would travel in clear text.
    #[error("node {node}: JMX login is not sufficient")]
    Login {
        /// The node.
        node: String,
        /// What the node says.
        #[source]
        source: Box<JmxError>,
    },
    /// The answer breaks the protocol, is too large, or asks for what we cannot do.
    #[error("node {node}: unusable JMX answer")]
    Protocol {
        /// The node.
        node: String,
        /// How.
        #[source]
        source: Box<JmxError>,
    },
    /// Cassandra says that it failed. The sources are its exceptions.
    #[error("node {node}: Cassandra refused: {operation}")]
    Refused {
        /// The node.
        node: String,
        /// What was asked.
        operation: String,
        /// Its exception, without the wrappers of the MBean server.
        #[source]
        source: RemoteException,
    },
    /// The connection or the time ended while the node was changing something. It may be done, or still going on.
    #[error("node {node}: it is unknown whether this was done: {operation}")]
    OutcomeUnknown {
        /// The node.
        node: String,
        /// What was asked.
        operation: String,
        /// How the call ended.
        #[source]
        source: Box<JmxError>,
    },
    /// JMX of something that is no Cassandra.
    #[error("node {node}: this is the JMX of something else than Cassandra")]
    NotCassandra {
        /// The node.
        node: String,
    },
    /// A version that is not supported.
    #[error("node {node}: Cassandra {version} is not supported: {reason}")]
    UnsupportedVersion {
        /// The node.
        node: String,
        /// As the node reports it.
        version: String,
        /// Why.
        reason: &'static str,
    },
    /// The node says something that cannot be true, or that we do not let pass.
    #[error("node {node}: implausible {what}: {problem}")]
    Implausible {
        /// The node.
        node: String,
        /// What it is about: "LiveNodes".
        what: String,
        /// What is wrong, with the value.
        problem: String,
    },
    /// No overload of an operation that we know.
    #[error("node {node}: this Cassandra offers no {operation} that is known here")]
    MissingOperation {
        /// The node.
        node: String,
        /// The operation.
        operation: &'static str,
    },
    /// The time ran out between two calls; what was begun is complete.
    #[error("node {node}: not done within {within:?}: {operation}")]
    OutOfTime {
        /// The node.
        node: String,
        /// What was asked.
        operation: String,
        /// The time there was.
        within: Duration,
    },
}

impl NodeError {
    /// Whether trying again can help.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::OutcomeUnknown { .. }
            | Self::OutOfTime { .. } => ErrorClass::Transient,
            Self::NotJmx { .. }
            | Self::NotCassandra { .. }
            | Self::Login { .. }
            | Self::Protocol { .. }
            | Self::Refused { .. }
            | Self::UnsupportedVersion { .. }
            | Self::Implausible { .. }
            | Self::MissingOperation { .. } => ErrorClass::Permanent,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { source, .. } => Some(unreachable_hint(source)),
            Self::Silent { .. } => Some(
                "The port takes connections but nobody answers: look whether Cassandra hangs (long garbage collection, stopped process), \
                 or whether something else listens there.",
            ),
            Self::NotJmx { .. } => Some(
                "Set jmx_port to the JMX port of the node (7199 unless cassandra-env.sh says otherwise); JMX over TLS is not supported.",
            ),
            Self::NotCassandra { .. } => {
                Some("Set jmx_port to the JMX port of Cassandra: another Java program answers on this one.")
            }
            Self::Login { source, .. } => Some(login_hint(source)),
            Self::Protocol { source, .. } if matches!(**source, JmxError::Limit { .. }) => Some(
                "A node with very many snapshots or tables gives such answers; clear snapshots that nobody needs.",
            ),
            Self::OutcomeUnknown { .. } => Some(
                "Look at the node's snapshots before trying again: the call cannot be cancelled, and may still be running.",
            ),
            Self::UnsupportedVersion { .. } => Some("Supported are Cassandra 3.11, 4.0, 4.1 and 5.0."),
            Self::Implausible { .. } => Some(
                "Check that address and port are those of a Cassandra node, and the node's cassandra.yaml.",
            ),
            Self::Protocol { .. }
            | Self::Refused { .. }
            | Self::MissingOperation { .. }
            | Self::OutOfTime { .. } => None,
        }
    }

    /// Sorts an error of a call that only reads.
    pub(crate) fn reading(node: String, operation: &str, source: JmxError) -> Self {
        if let JmxError::Remote { source, .. } = source {
            return Self::Refused { node, operation: operation.to_owned(), source: source.thrown().clone() };
        }
        let source = Box::new(source);
        match *source {
            JmxError::Io { .. } | JmxError::SessionGone { .. } => Self::Unreachable { node, source },
            JmxError::Timeout { .. } => Self::Silent { node, source },
            JmxError::NotJmx { .. } => Self::NotJmx { node, source },
            JmxError::Auth { .. } | JmxError::AccessDenied { .. } | JmxError::ClearText { .. } => {
                Self::Login { node, source }
            }
            _ => Self::Protocol { node, source },
        }
    }

    /// Sorts an error of a call that changes something.
    pub(crate) fn changing(node: String, operation: &str, source: JmxError) -> Self {
        let nothing_sent = matches!(&source, JmxError::Io { step, .. } | JmxError::Timeout { step, .. } if step == "connect");
        match source {
            JmxError::Io { .. }
            | JmxError::Timeout { .. }
            | JmxError::Malformed { .. }
            | JmxError::Limit { .. }
            | JmxError::Unsupported { .. }
                if !nothing_sent =>
            {
                Self::OutcomeUnknown { node, operation: operation.to_owned(), source: Box::new(source) }
            }
            other => Self::reading(node, operation, other),
        }
    }
}

fn unreachable_hint(source: &JmxError) -> &'static str {
    match source {
        JmxError::Io { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
            "Nothing listens there: look whether Cassandra is running, and whether jmx_port and the address JMX listens on are right."
        }
        JmxError::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            "The port hung up: it may be no JMX port, want TLS, or belong to a Cassandra that is just starting or stopping."
        }
        _ => "Look at the network between here and the node, and whether Cassandra is running.",
    }
}

fn login_hint(source: &JmxError) -> &'static str {
    match source {
        JmxError::ClearText { .. } => {
            "Reach JMX through SSH, or allow JMX credentials in clear text if the network is trusted."
        }
        _ => {
            "Check the configured JMX user and password, and what they may do (jmxremote.access or Cassandra's roles)."
        }
    }
}
