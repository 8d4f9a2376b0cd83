//! Which SSTables a truncation has ruled out.

use std::collections::HashMap;

use cassy_backup_format::{FileEntry, SstableEntry, Truncation};
use cassy_sstable::DATA_COMPONENT;

use crate::directory::FileStat;
use crate::snapshot::SstableFiles;

/// By table id the last truncation, in Unix milliseconds.
#[derive(Debug, Default)]
pub(super) struct Truncated(HashMap<String, i64>);

impl Truncated {
    pub(super) fn new<'a>(truncations: impl IntoIterator<Item = &'a Truncation>) -> Self {
        Self(truncations.into_iter().map(|truncation| (truncation.id.clone(), truncation.at_ms)).collect())
    }

    /// True when a file that was born (or, where that is not known, last written) then is older than the last
    /// truncation of the table. Both are read from the node's own clock, the file's from one that may be behind by a
    /// tick: what Cassandra has discarded was complete before the truncation, so that equal is older.
    pub(super) fn is_older(&self, table_id: &str, birth_ns: Option<i64>, mtime_ns: i64) -> bool {
        let ms = birth_ns.unwrap_or(mtime_ns).div_euclid(1_000_000);
        self.0.get(table_id).is_some_and(|at_ms| ms <= *at_ms)
    }

    pub(super) fn rules_out_line(&self, entry: &SstableEntry) -> bool {
        let data = data_of(entry);
        data.is_some_and(|data| self.is_older(&entry.table.id, data.birth_ns, data.mtime_ns))
    }

    pub(super) fn rules_out(&self, table_id: &str, sstable: &SstableFiles) -> bool {
        let data = sstable.files.get(DATA_COMPONENT);
        data.is_some_and(|data| self.is_older(table_id, data.birth_ns, data.mtime_ns))
    }
}

/// The file of the rows, which no Cassandra ever writes again.
pub(super) fn data_of(entry: &SstableEntry) -> Option<&FileEntry> {
    let name = format!("{}-{DATA_COMPONENT}", entry.name);
    entry.files.iter().find(|file| file.name == name)
}

/// Whether it is the same file as when the manifest was made.
pub(super) fn is_same_file(file: &FileEntry, stat: &FileStat) -> bool {
    (file.size, file.inode, file.mtime_ns, file.birth_ns)
        == (stat.size, stat.inode, stat.mtime_ns, stat.birth_ns)
}
