//! Java object serialization, stream version 5 (Java Object Serialization Specification, chapter 6), as bounded data.
//!
//! [`reader`] turns bytes into a [`graph::Graph`], [`view`] reads typed values from it, [`writer`] writes the few JDK
//! classes that a JMX client has to send. Leaves out everything that needs classes: `readResolve`, externalizable data
//! without an end marker, code bases.

mod classes;
mod collections;
mod error;
pub mod graph;
pub mod limits;
pub mod mutf8;
mod objects;
pub mod reader;
pub(crate) mod states;
pub mod view;
pub mod writer;

pub use error::StreamError;

/// `STREAM_MAGIC` and `STREAM_VERSION` (`java.io.ObjectStreamConstants`).
pub const HEADER: [u8; 4] = [0xac, 0xed, 0x00, 0x05];

/// `baseWireHandle` (`java.io.ObjectStreamConstants`).
pub const FIRST_HANDLE: u32 = 0x007e_0000;

/// `TC_*` of `java.io.ObjectStreamConstants`.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod tag {
    pub const NULL: u8 = 0x70;
    pub const REFERENCE: u8 = 0x71;
    pub const CLASS_DESC: u8 = 0x72;
    pub const OBJECT: u8 = 0x73;
    pub const STRING: u8 = 0x74;
    pub const ARRAY: u8 = 0x75;
    pub const CLASS: u8 = 0x76;
    pub const BLOCK_DATA: u8 = 0x77;
    pub const END_BLOCK_DATA: u8 = 0x78;
    pub const RESET: u8 = 0x79;
    pub const BLOCK_DATA_LONG: u8 = 0x7a;
    pub const EXCEPTION: u8 = 0x7b;
    pub const LONG_STRING: u8 = 0x7c;
    pub const PROXY_CLASS_DESC: u8 = 0x7d;
    pub const ENUM: u8 = 0x7e;
}

/// `SC_*` of `java.io.ObjectStreamConstants`.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod flag {
    pub const WRITE_METHOD: u8 = 0x01;
    pub const SERIALIZABLE: u8 = 0x02;
    pub const EXTERNALIZABLE: u8 = 0x04;
    pub const BLOCK_DATA: u8 = 0x08;
    pub const ENUM: u8 = 0x10;
}

/// A class name from the peer as a message may show it: shortened and escaped.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(200).flat_map(char::escape_debug).collect()
}
