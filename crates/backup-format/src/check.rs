//! Checks that several formats share: versions, documents, plain names, digests, bounded lists, excerpts.

use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::DOCUMENT_LIMIT_BYTES;
use crate::node_manifest::ManifestError;

/// More entries than this in a list of short strings is an attack on memory, not a cluster.
const LIST_LIMIT: usize = 1 << 20;

/// A text for a message: escaped, at most 80 characters of it.
pub(crate) fn excerpt(text: &str) -> String {
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// Refuses a name that is not one path segment on a node, and says why.
pub(crate) fn plain_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name == "." || name == ".." {
        return Err("it names a directory");
    }
    if name.len() > 255 {
        return Err("it is longer than 255 bytes");
    }
    if name.contains('/') {
        return Err("it holds a slash");
    }
    if name.chars().any(char::is_control) {
        return Err("it holds a control character");
    }
    Ok(())
}

/// True for `digits` lower-case hex digits.
pub(crate) fn is_lower_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A list of strings of at most [`LIST_LIMIT`] entries.
pub(crate) fn bounded_strings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Strings;
    impl<'de> Visitor<'de> for Strings {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {LIST_LIMIT} strings")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut strings = Vec::new();
            while let Some(string) = list.next_element()? {
                if strings.len() == LIST_LIMIT {
                    return Err(serde::de::Error::invalid_length(LIST_LIMIT + 1, &self));
                }
                strings.push(string);
            }
            Ok(strings)
        }
    }
    deserializer.deserialize_seq(Strings)
}

/// Refuses what needs a later reader, and what no writer writes.
pub(crate) fn check_version(format: u32, least_reader: u32) -> Result<(), ManifestError> {
    if least_reader == 0 || least_reader > format {
        let reason = format!("format {format} with least reader {least_reader} does not exist");
        return Err(ManifestError::Invalid { line: 1, reason });
    }
    if least_reader > crate::LEAST_READER {
        return Err(ManifestError::Unsupported { format, least_reader });
    }
    Ok(())
}

/// The part of a header that every version understands. A pin has no `least_reader`: its format counts.
#[derive(Deserialize)]
struct Version {
    format: u32,
    least_reader: Option<u32>,
}

/// Looks at the version alone, as the rest of a later version's header may be anything.
pub(crate) fn check_version_of(json: &[u8]) -> Result<(), ManifestError> {
    if json.first() != Some(&b'{') {
        return Err(ManifestError::Invalid { line: 1, reason: "it does not begin with {".to_owned() });
    }
    let version: Version =
        serde_json::from_slice(json).map_err(|source| ManifestError::Json { line: 1, source })?;
    check_version(version.format, version.least_reader.unwrap_or(version.format))
}

/// A JSON document to store.
pub(crate) fn to_document(
    value: &impl Serialize,
    format: u32,
    least_reader: u32,
) -> Result<Vec<u8>, ManifestError> {
    check_version(format, least_reader)?;
    let mut document = serde_json::to_vec_pretty(value).map_err(ManifestError::Encode)?;
    document.push(b'\n');
    check_document_size(&document)?;
    Ok(document)
}

/// Reads a stored JSON document.
pub(crate) fn from_document<T: for<'de> Deserialize<'de>>(document: &[u8]) -> Result<T, ManifestError> {
    check_document_size(document)?;
    check_version_of(document)?;
    serde_json::from_slice(document).map_err(|source| ManifestError::Json { line: 1, source })
}

fn check_document_size(document: &[u8]) -> Result<(), ManifestError> {
    if document.len() > DOCUMENT_LIMIT_BYTES {
        return Err(ManifestError::TooLarge { what: "a document", limit_bytes: DOCUMENT_LIMIT_BYTES });
    }
    Ok(())
}
