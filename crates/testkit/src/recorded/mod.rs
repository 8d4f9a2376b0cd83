//! A recorded node: stands in for Cassandra where thousands of rounds are wanted, or misbehaviour that no Cassandra
//! shows on demand. It speaks the real wire of JMX, about SSTables that a real Cassandra has written once.
//!
//! It is no Cassandra. What only a real one can prove (that it starts on restored files, that rows come back) is
//! proven on a real one.

mod identity;
mod mbeans;
mod node;
mod orders;
mod process;
mod recording;
mod tables;
mod wire;

pub use node::{RecordedBuilder, RecordedNode};
pub use orders::Order;
pub use process::run as run_recorded_node;
pub use recording::Recording;
