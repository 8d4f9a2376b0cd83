//! The lines that a manifest has of a table, and what lies in the table's `backups/`, side by side: both come in the
//! manifest's order, and no more than what has one name is in memory.

use std::iter::Peekable;
use std::path::PathBuf;

use cassy_backup_format::TableRef;

use super::super::error::UploadError;
use super::super::parent::{Candidate, Cursor};
use crate::snapshot::{self, SstableFiles, Sstables};

/// Index and name of an SSTable; the order is that of the manifest.
pub(super) type Name = (Option<String>, String);

/// What has one name: mostly one line or one SSTable, several in several data directories.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: Name,
    pub(super) lines: Vec<Candidate>,
    pub(super) found: Vec<SstableFiles>,
}

/// See the module.
pub(super) struct Groups {
    cursor: Cursor,
    /// The first line that is not given yet.
    line: Option<Candidate>,
    table: TableRef,
    found: Peekable<Sstables>,
}

impl Groups {
    /// Those of a table. Tables are asked for in the manifest's order.
    pub(super) fn of(
        mut cursor: Cursor,
        directories: &[(u32, PathBuf)],
        table: &TableRef,
    ) -> Result<Self, UploadError> {
        let line = cursor.next_of(table)?;
        let found = snapshot::incremental(directories, table)?.peekable();
        Ok(Self { cursor, line, table: table.clone(), found })
    }

    /// For the next table, when there is nothing left of this one.
    pub(super) fn into_cursor(self) -> Cursor {
        self.cursor
    }

    /// The next name.
    pub(super) fn next(&mut self) -> Result<Option<Group>, UploadError> {
        let line = self.line.as_ref().map(|line| (line.entry.index.clone(), line.entry.name.clone()));
        let found = match self.found.peek() {
            Some(Ok(sstable)) => Some(name_of(sstable)),
            Some(Err(_)) => return self.found.next().transpose().map(|_| None).map_err(UploadError::from),
            None => None,
        };
        let Some(name) = line.into_iter().chain(found).min() else { return Ok(None) };
        let mut group = Group { name, lines: Vec::new(), found: Vec::new() };
        while let Some(line) = self.line.take() {
            if (&line.entry.index, &line.entry.name) != (&group.name.0, &group.name.1) {
                self.line = Some(line);
                break;
            }
            group.lines.push(line);
            self.line = self.cursor.next_of(&self.table)?;
        }
        let is_here =
            |next: &Result<SstableFiles, _>| next.as_ref().is_ok_and(|next| name_of(next) == group.name);
        while let Some(sstable) = self.found.next_if(is_here) {
            group.found.push(sstable?);
        }
        Ok(Some(group))
    }
}

fn name_of(sstable: &SstableFiles) -> Name {
    (sstable.index().map(str::to_owned), sstable.name.clone())
}
