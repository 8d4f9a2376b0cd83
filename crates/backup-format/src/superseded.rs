//! The list of the incremental files that a coming snapshot supersedes. Written before the snapshot, read when its
//! backup is durable: JSON lines in one zstd frame, a [`SupersededHeader`], one line per file, a footer. Without its
//! footer it is truncated.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::check::{check_version, excerpt, plain_name};
use crate::ids::{BackupId, ClusterId, HostId};
use crate::lines::{LineReader, LineWriter};
use crate::node_manifest::{ManifestError, TableRef};

/// The first line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededHeader {
    /// [`crate::FORMAT`] of the writer.
    pub format: u32,
    /// [`crate::LEAST_READER`] of the writer: an older reader must refuse.
    pub least_reader: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub host_id: HostId,
    /// The backup that supersedes the files.
    pub backup_id: BackupId,
}

/// A file in a table's `backups/`, and what makes it the same one later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededFile {
    /// The path of the data directory.
    pub data_directory: String,
    /// The table.
    pub table: TableRef,
    /// For a file of a secondary index: the name of its directory, with the leading dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// The file's name.
    pub name: String,
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// The inode.
    pub inode: u64,
    /// The time of birth, where the file system knows it, Unix nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth_ns: Option<i64>,
}

impl SupersededFile {
    /// Refuses names that are not one segment each.
    fn check(&self) -> Result<(), String> {
        let names = [&self.table.keyspace, &self.table.table, &self.table.id, &self.name];
        for name in names.into_iter().chain(&self.index) {
            plain_name(name).map_err(|reason| format!("{}: {reason}", excerpt(name)))?;
        }
        match &self.index {
            Some(index) if !index.starts_with('.') => {
                Err(format!("index directory {} does not begin with a dot", excerpt(index)))
            }
            _ => Ok(()),
        }
    }
}

#[derive(PartialEq, Serialize, Deserialize)]
struct SupersededFooter {
    footer: bool,
    files: u64,
    blake3: String,
}

/// Writes the list. What is dropped before [`SupersededWriter::finish`] is truncated.
pub struct SupersededWriter<W: Write> {
    lines: LineWriter<W>,
    files: u64,
}

impl<W: Write> SupersededWriter<W> {
    /// Writes the header.
    pub fn new(inner: W, header: &SupersededHeader) -> Result<Self, ManifestError> {
        check_version(header.format, header.least_reader)?;
        let mut lines = LineWriter::new(inner)?;
        lines.write(header)?;
        Ok(Self { lines, files: 0 })
    }

    /// Writes the next file.
    pub fn push(&mut self, file: &SupersededFile) -> Result<(), ManifestError> {
        file.check().map_err(|reason| ManifestError::Invalid { line: self.files + 2, reason })?;
        self.lines.write(file)?;
        self.files += 1;
        Ok(())
    }

    /// Writes the footer and flushes; gives the number of files.
    pub fn finish(mut self) -> Result<(W, u64), ManifestError> {
        let footer = SupersededFooter { footer: true, files: self.files, blake3: self.lines.blake3() };
        self.lines.write(&footer)?;
        Ok((self.lines.finish()?, self.files))
    }
}

/// Reads the list: an iterator over its files. The list is whole only when the iterator has ended without an error;
/// after an error it ends.
pub struct SupersededList<R: Read> {
    lines: LineReader<R>,
    header: SupersededHeader,
    files: u64,
    ended: bool,
}

impl<R: Read> SupersededList<R> {
    /// Reads the header.
    pub fn open(inner: R) -> Result<Self, ManifestError> {
        let mut lines = LineReader::new(inner)?;
        lines.advance()?;
        lines.check_version()?;
        let header = lines.parse()?;
        Ok(Self { lines, header, files: 0, ended: false })
    }

    /// The header.
    pub fn header(&self) -> &SupersededHeader {
        &self.header
    }

    fn advance(&mut self) -> Result<Option<SupersededFile>, ManifestError> {
        self.lines.advance()?;
        if self.lines.is_footer() {
            let blake3 = self.lines.blake3_before();
            let expected = SupersededFooter { footer: true, files: self.files, blake3 };
            if self.lines.parse::<SupersededFooter>()? != expected {
                return Err(ManifestError::Mismatch { what: "their number or digest" });
            }
            self.lines.end()?;
            return Ok(None);
        }
        let file: SupersededFile = self.lines.parse()?;
        file.check().map_err(|reason| self.lines.invalid(reason))?;
        self.files += 1;
        Ok(Some(file))
    }
}

impl<R: Read> Iterator for SupersededList<R> {
    type Item = Result<SupersededFile, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
