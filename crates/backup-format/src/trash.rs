//! The trash list of a purge: the keys that it will delete. Written before the purge's grace period; a backup
//! reads the lists right before its commit. JSON lines in one zstd frame: a [`TrashHeader`], one string per key
//! in strictly ascending order, a footer. Without its footer it is truncated.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::check::check_version;
use crate::keys::ObjectKey;
use crate::lines::{LineReader, LineWriter};
use crate::node_manifest::ManifestError;

/// The first line of a trash list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashHeader {
    /// [`crate::FORMAT`] of the writer.
    pub format: u32,
    /// [`crate::LEAST_READER`] of the writer: an older reader must refuse.
    pub least_reader: u32,
    /// The purge's name, as in the list's key.
    pub purge: String,
    /// When the list was written, Unix milliseconds.
    pub created_at_ms: i64,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct TrashFooter {
    footer: bool,
    keys: u64,
    blake3: String,
}

/// Writes a trash list. What is dropped before [`TrashWriter::finish`] is truncated.
pub struct TrashWriter<W: Write> {
    lines: LineWriter<W>,
    last: Option<ObjectKey>,
    keys: u64,
}

impl<W: Write> TrashWriter<W> {
    /// Writes the header.
    pub fn new(inner: W, header: &TrashHeader) -> Result<Self, ManifestError> {
        check_version(header.format, header.least_reader)?;
        let mut lines = LineWriter::new(inner)?;
        lines.write(header)?;
        Ok(Self { lines, last: None, keys: 0 })
    }

    /// Writes the next key; keys come in strictly ascending order.
    pub fn push(&mut self, key: &ObjectKey) -> Result<(), ManifestError> {
        if self.last.as_ref() >= Some(key) {
            return Err(ManifestError::Invalid { line: self.keys + 2, reason: out_of_order(key) });
        }
        self.lines.write(key)?;
        self.last = Some(key.clone());
        self.keys += 1;
        Ok(())
    }

    /// Writes the footer and flushes; gives the number of keys.
    pub fn finish(mut self) -> Result<(W, u64), ManifestError> {
        let footer = TrashFooter { footer: true, keys: self.keys, blake3: self.lines.blake3() };
        self.lines.write(&footer)?;
        Ok((self.lines.finish()?, self.keys))
    }
}

/// Reads a trash list: an iterator over its keys. The list is whole only when the iterator has ended without an
/// error; after an error it ends.
pub struct TrashList<R: Read> {
    lines: LineReader<R>,
    header: TrashHeader,
    last: Option<ObjectKey>,
    keys: u64,
    ended: bool,
}

impl<R: Read> TrashList<R> {
    /// Reads the header.
    pub fn open(inner: R) -> Result<Self, ManifestError> {
        let mut lines = LineReader::new(inner)?;
        lines.advance()?;
        lines.check_version()?;
        let header = lines.parse()?;
        Ok(Self { lines, header, last: None, keys: 0, ended: false })
    }

    /// The header.
    pub fn header(&self) -> &TrashHeader {
        &self.header
    }

    fn advance(&mut self) -> Result<Option<ObjectKey>, ManifestError> {
        self.lines.advance()?;
        if self.lines.is_footer() {
            let expected = TrashFooter { footer: true, keys: self.keys, blake3: self.lines.blake3_before() };
            if self.lines.parse::<TrashFooter>()? != expected {
                return Err(ManifestError::Mismatch { what: "their number or digest" });
            }
            self.lines.end()?;
            return Ok(None);
        }
        let key: ObjectKey = self.lines.parse()?;
        if self.last.as_ref() >= Some(&key) {
            return Err(self.lines.invalid(out_of_order(&key)));
        }
        self.last = Some(key.clone());
        self.keys += 1;
        Ok(Some(key))
    }
}

impl<R: Read> Iterator for TrashList<R> {
    type Item = Result<ObjectKey, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

fn out_of_order(key: &ObjectKey) -> String {
    format!("key {} is there twice or not in its order", crate::check::excerpt(key.as_str()))
}
