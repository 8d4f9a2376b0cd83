//! The applications over Cassandra: their instances are paused while the snapshots of a cluster-wide backup are taken,
//! and unpaused whatever happens.
//!
//! An instance is a gRPC endpoint with the service `rpc.Admin` (`proto/admin.proto`). [`PauseClient`] pauses and
//! unpauses many at once, over whatever a [`Dial`] connects, by [`Tls`] or plain. Nothing here knows backups, jobs or the database.
//!
//! The instances are those that an SRV record names ([`find_instances`], [`Dns`]).
//!
//! A guard is a process of its own that unpauses when the one that pauses is gone ([`start_guard`], [`stand_guard`]).
//!
//! Invariants: every wait has a deadline; a connection that is lost is seen and never silently made again, as an
//! instance that answers on the connection on which it was paused is still the process that was paused.

mod admin;
mod backoff;
mod client;
mod dial;
mod dns;
mod error;
mod grpc;
mod guard;
mod pausing;
mod resolve;
mod tls;
mod unpausing;

pub use client::PauseClient;
pub use dial::{ByteStream, Dial, TcpDial};
pub use dns::Dns;
pub use error::{Call, InstanceError, Problem};
pub use guard::{
    Alarm, GuardHandle, GuardStartError, OrderError, OutOfReach, Relief, stand_guard, start_guard,
};
pub use pausing::Pausing;
pub use resolve::{Resolve, ResolveError, find_instances};
pub use tls::{Tls, TlsError, TlsTrustError};
pub use unpausing::Unpaused;

/// The wire types and the server that are generated from `proto/admin.proto`. The server is for those who
/// stand in for an application.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("rpc");
}
