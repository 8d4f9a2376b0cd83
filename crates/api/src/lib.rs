//! The public gRPC interface: wire types, services over [`cassy_control::Operations`], reflection, error to status.
//!
//! The only crate that knows the public wire. It decides nothing about backups: a request is checked field by field,
//! handed to the operations, and their answer is put into wire types. A handler awaits the operations and nothing else,
//! so that a client that hangs up drops a future and no work.

mod activity;
mod address;
mod answer;
mod connection;
mod exchange;
mod limits;
mod request;
mod serve;
mod service;
mod status;

pub use address::refused_address;
pub use limits::Limits;
pub use serve::{ServeError, serve};
pub use service::{CassyService, service};

/// The wire types, server and client that are generated from `proto/cassy.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("rpc");

    /// The descriptors of `cassy.proto`, encoded, as reflection serves them: without the default `json_name`s.
    pub const REFLECTED_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reflected.bin"));
}
