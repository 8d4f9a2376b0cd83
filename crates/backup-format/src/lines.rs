//! JSON lines in one zstd frame, with a running BLAKE3: the carrier of node manifests and trash lists.
//!
//! Streams both ways in bounded memory: one line, and zstd's window.

use std::io::{BufRead, BufReader, Read, Write};

use serde::Serialize;

use crate::check::check_version_of;
use crate::node_manifest::ManifestError;

/// No line is longer, its end included.
pub const LINE_LIMIT_BYTES: usize = 64 << 20;

/// 2^24 bytes: what a hostile frame can make the reader allocate for its window.
const WINDOW_LOG_MAX: u32 = 24;
const ZSTD_LEVEL: i32 = 3;

pub(crate) struct LineWriter<W: Write> {
    encoder: zstd::Encoder<'static, W>,
    hasher: blake3::Hasher,
    line: Vec<u8>,
}

impl<W: Write> LineWriter<W> {
    pub(crate) fn new(inner: W) -> Result<Self, ManifestError> {
        let mut encoder = zstd::Encoder::new(inner, ZSTD_LEVEL).map_err(ManifestError::Write)?;
        encoder.include_checksum(true).map_err(ManifestError::Write)?;
        Ok(Self { encoder, hasher: blake3::Hasher::new(), line: Vec::new() })
    }

    /// Writes nothing when it fails for another reason than the inner writer.
    pub(crate) fn write(&mut self, value: &impl Serialize) -> Result<(), ManifestError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, value).map_err(ManifestError::Encode)?;
        self.line.push(b'\n');
        if self.line.len() > LINE_LIMIT_BYTES {
            return Err(ManifestError::TooLarge { what: "a line", limit_bytes: LINE_LIMIT_BYTES });
        }
        self.hasher.update(&self.line);
        self.encoder.write_all(&self.line).map_err(ManifestError::Write)
    }

    /// Hex of all lines so far.
    pub(crate) fn blake3(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    pub(crate) fn finish(self) -> Result<W, ManifestError> {
        let mut inner = self.encoder.finish().map_err(ManifestError::Write)?;
        inner.flush().map_err(ManifestError::Write)?;
        Ok(inner)
    }
}

pub(crate) struct LineReader<R: Read> {
    lines: BufReader<zstd::Decoder<'static, BufReader<R>>>,
    hasher: blake3::Hasher,
    line: Vec<u8>,
    number: u64,
}

impl<R: Read> LineReader<R> {
    pub(crate) fn new(inner: R) -> Result<Self, ManifestError> {
        let mut decoder = zstd::Decoder::new(inner).map_err(ManifestError::Read)?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(ManifestError::Read)?;
        Ok(Self {
            lines: BufReader::new(decoder),
            hasher: blake3::Hasher::new(),
            line: Vec::new(),
            number: 0,
        })
    }

    /// Reads the next line into [`LineReader::line`]; the end of the stream instead of a line is a truncation.
    pub(crate) fn advance(&mut self) -> Result<(), ManifestError> {
        self.hasher.update(&self.line);
        self.line.clear();
        self.number += 1;
        let limit = LINE_LIMIT_BYTES as u64;
        let mut bounded = (&mut self.lines).take(limit);
        bounded.read_until(b'\n', &mut self.line).map_err(ManifestError::Read)?;
        if self.line.last() == Some(&b'\n') {
            return Ok(());
        }
        if self.line.len() < LINE_LIMIT_BYTES {
            return Err(ManifestError::Truncated);
        }
        Err(ManifestError::TooLarge { what: "a line", limit_bytes: LINE_LIMIT_BYTES })
    }

    /// Hex of all lines before the current one.
    pub(crate) fn blake3_before(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    pub(crate) fn is_footer(&self) -> bool {
        self.line.starts_with(br#"{"footer":"#)
    }

    pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, ManifestError> {
        if !matches!(self.line.first(), Some(b'{' | b'"')) {
            return Err(self.invalid("it does not begin with { or \""));
        }
        serde_json::from_slice(&self.line).map_err(|source| ManifestError::Json { line: self.number, source })
    }

    /// For the first line: refuses a later version before anything else of the line is looked at.
    pub(crate) fn check_version(&self) -> Result<(), ManifestError> {
        check_version_of(&self.line)
    }

    pub(crate) fn invalid(&self, reason: impl Into<String>) -> ManifestError {
        ManifestError::Invalid { line: self.number, reason: reason.into() }
    }

    /// Nothing follows the current line, neither in the frame nor after it.
    pub(crate) fn end(&mut self) -> Result<(), ManifestError> {
        let in_frame = !self.lines.fill_buf().map_err(ManifestError::Read)?.is_empty();
        let stored = self.lines.get_mut().get_mut();
        let after_frame = !in_frame && !stored.fill_buf().map_err(ManifestError::Read)?.is_empty();
        if in_frame || after_frame { Err(ManifestError::TrailingData) } else { Ok(()) }
    }
}
