//! Remote references: where the object behind a stub lives.
//!
//! Four variants occur (all measured): `UnicastRef`; `UnicastRef2` with format byte 0 (server socket factory, as
//! Cassandra's local JMX); `UnicastRef2` with format byte 1 and a client socket factory; and a dynamic proxy around either
//! of them. All keep the reference in what `java.rmi.server.RemoteObject` writes.

use super::ObjId;
use crate::stream::graph::Item;
use crate::stream::view::View;

/// Where a remote object lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteRef {
    /// The host as the server advertises it: never dialled, never resolved, text for messages only.
    pub advertised_host: String,
    /// The port. Used, on the host that the user gave.
    pub port: u16,
    /// The object.
    pub object: ObjId,
    /// Class of the client socket factory that the server asks for: means TLS.
    pub socket_factory: Option<String>,
}

/// What is wrong with a stub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadStub(&'static str);

const REMOTE_OBJECT: &str = "java.rmi.server.RemoteObject";

/// Proxies inside proxies that are followed.
const HOPS: usize = 4;

/// Reads the reference from a stub.
///
/// # Errors
/// [`BadStub`] when the value is no stub, or its reference is of an unknown kind.
pub fn remote_ref(stub: View<'_>) -> Result<RemoteRef, BadStub> {
    let mut view = stub;
    for _ in 0..HOPS {
        if let Some(annotation) = view.annotation(REMOTE_OBJECT) {
            return parse(view, annotation);
        }
        view = view.field("h").map_err(|_no_proxy| BadStub("no reference to a remote object"))?;
    }
    Err(BadStub("a proxy inside a proxy"))
}

fn parse(stub: View<'_>, annotation: &[Item]) -> Result<RemoteRef, BadStub> {
    let mut bytes = Vec::new();
    let mut factory = None;
    for item in annotation {
        match item {
            Item::Block(block) => bytes.extend_from_slice(block),
            Item::Value(value) => {
                let class = stub.sibling(*value).class_name().unwrap_or("unknown");
                factory = Some(crate::stream::shown(class));
            }
        }
    }
    let (kind, rest) = utf(&bytes)?;
    let rest = match (kind.as_str(), rest) {
        ("UnicastRef", rest) => rest,
        ("UnicastRef2", [0 | 1, rest @ ..]) => rest,
        _ => return Err(BadStub("a remote reference of an unknown kind")),
    };
    let (advertised_host, rest) = utf(rest)?;
    let (port, rest) = rest.split_first_chunk().ok_or(BadStub("a remote reference that is cut off"))?;
    let (object, rest) = rest.split_first_chunk().ok_or(BadStub("a remote reference that is cut off"))?;
    if rest.len() != 1 {
        return Err(BadStub("a remote reference of the wrong length"));
    }
    let port = u16::try_from(i32::from_be_bytes(*port)).ok().filter(|port| *port != 0);
    let port = port.ok_or(BadStub("a remote reference to a port that does not exist"))?;
    Ok(RemoteRef { advertised_host, port, object: ObjId(*object), socket_factory: factory })
}

fn utf(bytes: &[u8]) -> Result<(String, &[u8]), BadStub> {
    const BAD: BadStub = BadStub("a remote reference with a broken text");
    let (length, rest) = bytes.split_first_chunk().ok_or(BAD)?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(BAD)?;
    let text = crate::stream::mutf8::decode(text).map_err(|_broken| BAD)?;
    Ok((crate::stream::shown(&text), rest))
}
