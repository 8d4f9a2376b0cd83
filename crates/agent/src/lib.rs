//! The agent: what runs on a node, as a child of the server's SSH session.
//!
//! [`run`] speaks the frames of `cassy-agent-protocol` over standard input and output, works on one request at a
//! time, relays connections to the node's own loopback beside it, and ends with its input. Logs go to `tracing`, never to standard output. What it leaves out: SSH, JMX,
//! and every decision about a job, which is the server's.

#![warn(clippy::indexing_slicing)]

mod context;
mod directory;
mod failure;
mod inspect;
mod relay;
mod restore;
mod session;
mod snapshot;
mod superseded;
mod sweep;
mod upload;

pub use session::{AgentLoopError, Identity, run};
