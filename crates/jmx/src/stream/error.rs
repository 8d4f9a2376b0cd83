//! What can be wrong with a stream. Positions are offsets from the first byte of the message.

/// Why a stream was refused. Every one of these costs the TCP connection that it came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The bytes do not follow the grammar.
    #[error("byte {offset}: {problem}")]
    Malformed {
        /// Offset from the first byte of the message.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The bytes may follow the grammar, but ask for more than [`Limits`](super::limits::Limits) allow.
    #[error("byte {offset}: more than {allowed} {what}")]
    Limit {
        /// Offset from the first byte of the message.
        offset: u64,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        allowed: u64,
    },
    /// The stream is legal, but cannot be read without the classes.
    #[error("byte {offset}: class {class} writes data that only that class can read")]
    Unsupported {
        /// Offset from the first byte of the message.
        offset: u64,
        /// The class name as the peer sent it, control characters escaped.
        class: String,
    },
}
