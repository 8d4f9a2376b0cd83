//! The frames between the server and an agent, over the agent's standard input and output. No I/O.
//!
//! A stream begins with [`PREAMBLE`]; then come frames ([`frame`]), each one JSON message
//! ([`ToAgent`], [`FromAgent`]). A peer with another preamble is another build: it is replaced, never
//! negotiated with. Everything from the wire is bounded by [`frame::LIMIT_BYTES`]. Connections to the node's own
//! loopback travel in the same frames ([`relay`]).

pub mod frame;
mod guard;
mod message;
pub mod relay;
mod tag;

pub use frame::{FrameDecoder, FrameError, PREAMBLE};
pub use guard::{GuardOrder, Instance, TlsTrust};
pub use message::*;
pub use relay::{Piece, RelayEnd, RelayFrame};
pub use tag::{ForeignTag, SnapshotTag};
