//! Writes a node manifest, line by line.

use std::io::Write;

use super::rules::Rules;
use super::{Footer, Header, ManifestError, SstableEntry};
use crate::check::check_version;
use crate::lines::LineWriter;

/// Writes a node manifest. What is dropped before [`ManifestWriter::finish`] is truncated, and no reader
/// believes it.
pub struct ManifestWriter<W: Write> {
    lines: LineWriter<W>,
    rules: Rules,
    line: u64,
}

impl<W: Write> ManifestWriter<W> {
    /// Writes the header. `header.format` is [`crate::FORMAT`], `header.least_reader` [`crate::LEAST_READER`].
    pub fn new(inner: W, header: &Header) -> Result<Self, ManifestError> {
        check_version(header.format, header.least_reader)?;
        let rules = Rules::new(header).map_err(|reason| ManifestError::Invalid { line: 1, reason })?;
        let mut lines = LineWriter::new(inner)?;
        lines.write(header)?;
        Ok(Self { lines, rules, line: 1 })
    }

    /// Writes the next SSTable. Entries come sorted by (table, index, name, directory). An entry that is refused
    /// as invalid leaves the manifest as it was; after another error the manifest cannot go on.
    pub fn push(&mut self, entry: &SstableEntry) -> Result<(), ManifestError> {
        let invalid = |reason| ManifestError::Invalid { line: self.line + 1, reason };
        self.rules.admit(entry).map_err(invalid)?;
        self.lines.write(entry)?;
        self.line += 1;
        Ok(())
    }

    /// Writes the footer and flushes.
    pub fn finish(mut self) -> Result<(W, Footer), ManifestError> {
        let footer = self.rules.footer(self.lines.blake3());
        self.lines.write(&footer)?;
        Ok((self.lines.finish()?, footer))
    }
}
