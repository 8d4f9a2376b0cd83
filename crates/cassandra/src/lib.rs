//! A Cassandra node, typed, over JMX: what it says about itself and its ring, flush, snapshot, clear.
//!
//! Invariants:
//! * Everything a node says is data: addresses are IP addresses, host ids are UUIDs, directories are absolute paths, and
//!   every list is bounded. What does not fit is refused, never passed on.
//! * An empty tag or an empty list of keyspaces, which Cassandra takes for "all", cannot be written ([`SnapshotTag`],
//!   [`Keyspaces`]).
//! * Which overload of an operation is called follows from what the node's MBean offers, not from its version.
//!
//! It leaves out CQL, the node's files, and deciding anything.

mod error;
#[cfg(test)]
mod fuzz;
mod names;
mod plausible;
mod quirks;
mod replies;
mod session;
mod version;

pub use cassy_jmx::{Channel, Credentials, Dialer, TcpDialer};
pub use error::{ErrorClass, NodeError};
pub use names::{Keyspaces, NotOurTag, SnapshotTag};
pub use session::{ClientActivity, Deadlines, NodeSession, OperationMode, Undelivered};
pub use version::ReleaseVersion;
