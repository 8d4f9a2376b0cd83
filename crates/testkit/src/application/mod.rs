//! Applications that stand in for real ones: an instance with a gate and the service `rpc.Admin`, of both generations,
//! that misbehaves as it is told; in memory, or on loopback by TCP.

mod instance;
mod network;
mod service;

/// The gate is that of the example: it is what applications are told to copy.
#[path = "../../../pause/examples/pausable/gate.rs"]
#[allow(missing_docs, unreachable_pub, reason = "an example of its own")]
mod gate;

pub use gate::{Gate, Pass};
pub use instance::FakeApplication;
pub use network::FakeNetwork;
pub use service::{Behaviour, Calls, Generation};
