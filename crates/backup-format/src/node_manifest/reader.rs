//! Reads a node manifest, line by line, and believes none of it before it has been checked.

use std::io::Read;

use super::rules::Rules;
use super::{Footer, Header, ManifestError, SstableEntry};
use crate::lines::LineReader;

/// Reads a node manifest: an iterator over its SSTables.
///
/// The manifest as a whole is proven only when the iterator has ended without an error, that is, when
/// [`ManifestReader::footer`] is there. After an error the iterator ends.
pub struct ManifestReader<R: Read> {
    lines: LineReader<R>,
    header: Header,
    rules: Rules,
    state: State,
}

enum State {
    Reading,
    Ended(Footer),
    Failed,
}

impl<R: Read> ManifestReader<R> {
    /// Reads the header.
    pub fn open(inner: R) -> Result<Self, ManifestError> {
        let mut lines = LineReader::new(inner)?;
        lines.advance()?;
        lines.check_version()?;
        let header: Header = lines.parse()?;
        let rules = Rules::new(&header).map_err(|reason| lines.invalid(reason))?;
        Ok(Self { lines, header, rules, state: State::Reading })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The footer, once the iterator has ended and everything fits.
    pub fn footer(&self) -> Option<&Footer> {
        match &self.state {
            State::Ended(footer) => Some(footer),
            State::Reading | State::Failed => None,
        }
    }

    fn advance(&mut self) -> Result<Option<SstableEntry>, ManifestError> {
        self.lines.advance()?;
        if self.lines.is_footer() {
            let footer = self.check_footer()?;
            self.state = State::Ended(footer);
            return Ok(None);
        }
        let entry: SstableEntry = self.lines.parse()?;
        self.rules.admit(&entry).map_err(|reason| self.lines.invalid(reason))?;
        Ok(Some(entry))
    }

    fn check_footer(&mut self) -> Result<Footer, ManifestError> {
        let footer: Footer = self.lines.parse()?;
        let expected = self.rules.footer(self.lines.blake3_before());
        for (what, equal) in [
            ("its mark", footer.footer == expected.footer),
            ("the number of SSTables", footer.sstables == expected.sstables),
            ("the number of files", footer.files == expected.files),
            ("the number of bytes", footer.bytes == expected.bytes),
            ("the number of corrupt SSTables", footer.corrupt == expected.corrupt),
            ("the digest", footer.blake3 == expected.blake3),
        ] {
            if !equal {
                return Err(ManifestError::Mismatch { what });
            }
        }
        self.lines.end()?;
        Ok(footer)
    }
}

impl<R: Read> Iterator for ManifestReader<R> {
    type Item = Result<SstableEntry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !matches!(self.state, State::Reading) {
            return None;
        }
        match self.advance() {
            Ok(entry) => entry.map(Ok),
            Err(error) => {
                self.state = State::Failed;
                Some(Err(error))
            }
        }
    }
}
