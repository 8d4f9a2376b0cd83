//! The digest that Cassandra keeps beside Data.db.

use crate::plain::excerpt;

/// Why a Digest.crc32 is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{component} is not a CRC-32 in decimal digits: {content}")]
pub struct DigestError {
    component: String,
    content: String,
}

/// What the digest of an SSTable says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// `Digest.crc32`: CRC-32 (zlib) of all bytes of Data.db as they are on disk.
    Crc32(u32),
    /// `Digest.adler32`, `Digest.sha1` and the like of Cassandra before 3.0: not verified.
    NotVerified,
}

impl Digest {
    /// `None` when the component is no digest.
    pub fn parse(component: &str, content: &[u8]) -> Option<Result<Self, DigestError>> {
        let kind = component.strip_prefix("Digest.")?;
        if kind != "crc32" {
            return Some(Ok(Self::NotVerified));
        }
        Some(parse_crc32(content).map(Self::Crc32).ok_or_else(|| DigestError {
            component: component.to_owned(),
            content: excerpt(&String::from_utf8_lossy(content.get(..64).unwrap_or(content))),
        }))
    }
}

/// Decimal digits; the end of a line, where somebody's editor left one, is not part of them.
fn parse_crc32(content: &[u8]) -> Option<u32> {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    if content.len() > 10 || !content.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(content).ok()?.parse().ok()
}
