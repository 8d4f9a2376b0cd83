//! Real Cassandra, sshd and Cassy servers on loopback, for tests and for the quickstart; and a recorded node, which
//! stands in for Cassandra where a test wants thousands of rounds or misbehaviour.
//!
//! Nothing of it is part of the product, and no crate of the product depends on it but for tests. What is started
//! here binds 127.0.0.1 only, or an address of a network of its own, lives below one directory, and ends with the
//! process that started it.

pub mod application;
mod cassandra;
mod cassandra_files;
mod cassy_server;
pub mod certificates;
mod cluster;
pub mod cql;
mod daemon;
pub mod dataset;
pub mod dns;
mod failure;
mod jars;
mod java;
mod jobs;
mod kill;
mod leftovers;
pub mod oracle;
pub mod peers;
mod port;
mod process;
mod recorded;
mod relay;
mod requests;
mod runtime;
pub mod s3_server;
mod seat;
mod seeded;
mod sshd;
mod version;
mod wait;
mod world;

pub use cassandra::{Cassandra, CassandraBuilder, JmxAccess};
pub use cassy_server::{CassyServer, Client, ServerSettings};
pub use cluster::{Cluster, ClusterBuilder, ClusterNode};
pub use cql::{Consistency, Cql};
pub use failure::{Doing, Failure};
pub use kill::{Aim, Killer, Struck, Victim};
pub use port::Port;
pub use process::{Launch, Lifetime, Process, ProcessId};
pub use recorded::{Order, RecordedBuilder, RecordedNode, Recording, run_recorded_node};
pub use relay::{Relay, Way};
pub use requests::{Outcome, Outcomes};
pub use runtime::Runtime;
pub use s3_server::S3Server;
pub use seeded::Seeded;
pub use sshd::Sshd;
pub use version::{CassandraVersion, Feature};
pub use wait::{Probe, catch, wait_for};
pub use world::{Node, World, WorldBuilder};
