//! The applications over Cassandra: their instances are paused while the snapshots of a cluster-wide backup are taken,
//! and unpaused whatever happens.
//!
//! An instance is a gRPC endpoint with the service `rpc.Admin` (`proto/admin.proto`). [`PauseClient`] pauses and
//! unpauses many at once, over whatever a [`Dial`] connects. Nothing here knows backups, jobs or the database.
//!
//! Invariants: every wait has a deadline; a connection that is lost is seen and never silently made again, as an
//! instance that answers on the connection on which it was paused is still the process that was paused.

mod admin;
mod backoff;
mod client;
mod dial;
mod error;
mod pausing;
mod unpausing;

pub use client::PauseClient;
pub use dial::{ByteStream, Dial, TcpDial};
pub use error::{Call, InstanceError, Problem};
pub use pausing::Pausing;
pub use unpausing::Unpaused;

/// The wire types, the client and the server that are generated from `proto/admin.proto`. The server is for those who
/// stand in for an application.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("rpc");
}
