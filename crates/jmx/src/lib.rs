//! A client for JMX over RMI (the standard RMI connector of the JDK) without a JVM.
//!
//! Layers, from the bottom:
//! * [`stream`]: Java object serialization as bounded data. Sans-IO: bytes in, values out. Nothing is ever instantiated
//!   by class name; class names are display text.
//! * [`rmi`]: the JRMP wire: handshake, calls, replies, remote references, method hashes. Sans-IO too.
//! * [`JmxClient`]: a session over tokio streams that a [`Dialer`] opens.
//!
//! Invariants:
//! * The host that is dialled is always the one the caller gave; addresses a server advertises are data.
//! * No length that the peer declares is allocated before the data arrived ([`Limits`]).
//! * Every call has a wall-clock deadline for its whole reply.
//! * A parse error, a time-out or a dispatch-level exception costs the TCP connection, never the session.
//! * No distributed garbage collection calls are sent: a lease that is taken and not renewed would end the session
//!   (measured on JDK 17 and 25).
//!
//! It leaves out TLS, notifications and everything that knows Cassandra.
#![warn(clippy::indexing_slicing)]

mod call;
mod client;
mod connection;
mod dial;
mod error;
mod mbean;
mod object_name;
pub mod rmi;
pub mod stream;

pub use call::{Argument, Request};
pub use client::{Credentials, JmxClient};
pub use dial::{Channel, Dialer, TcpDialer};
pub use error::{Error, Fault, Peer, RemoteException};
pub use mbean::{AttributeInfo, MBeanInfo, OperationInfo};
pub use object_name::{ObjectName, ObjectNameError};
pub use rmi::reply::Reply;
pub use stream::limits::Limits;
pub use stream::view::{View, ViewError};
