//! The Java RMI wire protocol (JRMP) as a client needs it: sans-IO. Leaves out distributed garbage collection, the
//! activator, the multiplexing and the single-operation protocol.

pub mod hash;
pub mod reply;
pub mod stub;
pub mod transport;

/// The 14 bytes of a `java.rmi.server.UID` in RMI's raw order: unique, time, count.
pub type Uid = [u8; 14];

/// A `java.rmi.server.ObjID` in RMI's raw order: number, then a UID. Opaque to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjId(pub [u8; 22]);

impl ObjId {
    /// The registry: number 0 and a UID of zeros (`java.rmi.server.ObjID.REGISTRY_ID`).
    pub const REGISTRY: Self = Self([0; 22]);
}
