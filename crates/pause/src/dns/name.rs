//! Domain names as bytes of a message and as text (RFC 1035, sections 3.1 and 4.1.4; RFC 2181, section 11).

use std::fmt;

use super::message::{MessageError, Reader};

const LABEL_LIMIT: usize = 63;
/// Of a name in a message, with the length of each label and the root.
const NAME_LIMIT: usize = 255;
/// The two high bits of a length say that it is a place in the message instead.
const POINTER: u8 = 0xc0;

/// An absolute name in lower case, without a dot at its end; the root is empty. Bytes that no host name has are written
/// as a backslash and three digits, so that different names are different texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(String);

impl Name {
    /// A name as people write it. `None` when it cannot be asked for.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let fits = |label: &str| (1..=LABEL_LIMIT).contains(&label.len()) && label.bytes().all(is_plain);
        (text.len() + 2 <= NAME_LIMIT && text.split('.').all(fits)).then_some(Self(text))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a host can have this name.
    pub(crate) fn is_host(&self) -> bool {
        !self.is_root() && !self.0.contains('\\')
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Adds it to a message, uncompressed. Only names that were [parsed](Self::parse) are written.
    pub(crate) fn write(&self, message: &mut Vec<u8>) {
        for label in self.0.split('.') {
            message.push(u8::try_from(label.len()).unwrap_or(0));
            message.extend_from_slice(label.as_bytes());
        }
        message.push(0);
    }

    /// Reads one where the reader stands, and what it points to. A pointer leads to an earlier place than the piece that
    /// it ends, so that no name leads in a circle.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let (mut text, mut length) = (String::new(), 0);
        let mut piece_start = reader.position();
        // Where a pointer leads; until then the reader itself moves on.
        let mut elsewhere: Option<Reader<'_>> = None;
        loop {
            let source = elsewhere.as_mut().unwrap_or(reader);
            let size = source.byte()?;
            if size & POINTER == POINTER {
                let target = usize::from(u16::from_be_bytes([size & !POINTER, source.byte()?]));
                if target >= piece_start {
                    return Err(MessageError::Pointer);
                }
                piece_start = target;
                elsewhere = Some(reader.at(target));
                continue;
            }
            let size = usize::from(size);
            length += size + 1;
            if size > LABEL_LIMIT || length > NAME_LIMIT {
                return Err(MessageError::Name);
            }
            if size == 0 {
                return Ok(Self(text));
            }
            if !text.is_empty() {
                text.push('.');
            }
            source.take(size)?.iter().for_each(|byte| push(&mut text, *byte));
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { &self.0 })
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn push(text: &mut String, byte: u8) {
    match is_plain(byte) {
        true => text.push(char::from(byte.to_ascii_lowercase())),
        false => text.push_str(&format!("\\{byte:03}")),
    }
}
