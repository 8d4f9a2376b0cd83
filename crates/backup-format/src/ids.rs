//! The ids: of clusters, nodes, backups, sending sessions and attempts. Strings on every wire.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::{NoContext, Timestamp, Uuid};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text} is not valid: {reason}")]
pub struct IdError {
    what: &'static str,
    /// Escaped and cut short.
    text: String,
    reason: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, reason: &'static str) -> Self {
        Self { what, text: crate::check::excerpt(text), reason }
    }
}

/// Strings on the wire, for a type with `Display`, `FromStr` and `TryFrom<String>`.
macro_rules! as_string {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

/// A cluster: `<cluster name>-<uuid>`, 1 to 255 characters without control characters. The name may hold
/// anything else: a slash, HTML, right-to-left marks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(String);

impl ClusterId {
    /// An id for a cluster that is registered for the first time.
    pub fn new(cluster_name: &str, unique: Uuid) -> Result<Self, IdError> {
        format!("{cluster_name}-{unique}").parse()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = |reason| Err(IdError::new("cluster id", text, reason));
        if text.is_empty() {
            return error("it is empty");
        }
        if text.chars().nth(255).is_some() {
            return error("it has more than 255 characters");
        }
        if text.chars().any(char::is_control) {
            return error("it holds a control character");
        }
        Ok(Self(text.to_owned()))
    }
}

as_string!(ClusterId);

/// Only the form with hyphens: one text, one id.
fn parse_uuid(what: &'static str, text: &str) -> Result<Uuid, IdError> {
    let invalid = || IdError::new(what, text, "it is not a UUID like 01234567-89ab-cdef-0123-456789abcdef");
    let uuid = Uuid::try_parse(text).ok().ok_or_else(invalid)?;
    if text.len() == uuid::fmt::Hyphenated::LENGTH { Ok(uuid) } else { Err(invalid()) }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// The UUID.
            pub fn uuid(&self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_uuid($what, text).map(Self)
            }
        }

        as_string!($name);
    };
}

uuid_id!(
    /// A node, by the host id that Cassandra gave it.
    HostId,
    "host id"
);

uuid_id!(
    /// A backup; the public interfaces call it `snapshot_id`. Ours are of version 7, so that a listing is in
    /// the order of time.
    BackupId,
    "backup id"
);

impl BackupId {
    /// A new id of version 7 for this moment (Unix milliseconds); moments before 1970 count as 1970.
    pub fn at(unix_ms: i64) -> Self {
        let ms = u64::try_from(unix_ms).unwrap_or(0);
        let nanos = u32::try_from(ms % 1000 * 1_000_000).expect("below 10^9");
        Self(Uuid::new_v7(Timestamp::from_unix(NoContext, ms / 1000, nanos)))
    }

    /// The moment that it was made for, in Unix milliseconds; 0 for one that is not of version 7.
    pub fn created_at_ms(&self) -> i64 {
        let (seconds, nanos) = self.0.get_timestamp().map_or((0, 0), |at| at.to_unix());
        let ms = seconds.saturating_mul(1000).saturating_add(u64::from(nanos / 1_000_000));
        i64::try_from(ms).unwrap_or(i64::MAX)
    }
}

/// One sending session of one agent on one node: 96 random bits, stored by the server before sending begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId([u8; 12]);

impl SessionId {
    /// A fresh one.
    pub fn random() -> Self {
        let [a, b, c, d, e, f, _, _, _, g, h, i, j, k, l, _] = Uuid::new_v4().into_bytes();
        Self([a, b, c, d, e, f, g, h, i, j, k, l])
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for SessionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        lower_hex(text)
            .map(Self)
            .ok_or_else(|| IdError::new("session id", text, "it is not 24 lower-case hex digits"))
    }
}

as_string!(SessionId);

/// One attempt to send one SSTable: a session and a number within it. No key is ever used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Attempt {
    session: SessionId,
    counter: u32,
}

impl Attempt {
    /// The attempt of this number; the caller never draws a number twice.
    pub fn new(session: SessionId, counter: u32) -> Self {
        Self { session, counter }
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The number within the session.
    pub fn counter(&self) -> u32 {
        self.counter
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:08x}", self.session, self.counter)
    }
}

impl FromStr for Attempt {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes: [u8; 16] = lower_hex(text)
            .ok_or_else(|| IdError::new("attempt", text, "it is not 32 lower-case hex digits"))?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, w, x, y, z] = bytes;
        let session = SessionId([a, b, c, d, e, f, g, h, i, j, k, l]);
        Ok(Self { session, counter: u32::from_be_bytes([w, x, y, z]) })
    }
}

as_string!(Attempt);

fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}
