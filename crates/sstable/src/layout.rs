//! Where things lie in a data directory. Told by depth, never by a name alone: keyspaces and tables may be
//! called `snapshots` and `backups`.
//!
//! ```text
//! <keyspace>/<table>-<id>/<file>                                 live
//! <keyspace>/<table>-<id>/.<index>/<file>                        live, of a secondary index
//! <keyspace>/<table>-<id>/snapshots/<tag>/[.<index>/]<file>
//! <keyspace>/<table>-<id>/backups/[.<index>/]<file>
//! ```

use std::fmt;

use crate::plain::is_plain_name;

/// A table's snapshots are in here, each under its tag.
pub const SNAPSHOTS_DIRECTORY: &str = "snapshots";
/// A table's incremental backups are in here.
pub const BACKUPS_DIRECTORY: &str = "backups";

/// With [`SENTINEL_FILE`]: as long as `<data directory>/<any directory>/RESTORE_INCOMPLETE/aa-1-big-Data.db` exists,
/// Cassandra does not start. Its `StartupChecks.checkSSTablesFormat` walks the data directories and fails with
/// "Detected unreadable sstables" on a name whose version it does not read, whatever the file holds. Observed on
/// 3.11.19, 4.0.19, 4.1.10 and 5.0.9, which all start again once the file is gone.
pub const SENTINEL_TABLE_DIRECTORY: &str = "RESTORE_INCOMPLETE";
/// See [`SENTINEL_TABLE_DIRECTORY`]; the version `aa` is older than any that these Cassandras read.
pub const SENTINEL_FILE: &str = "aa-1-big-Data.db";

/// A table's directory: `<table>-<32 hex digits of its id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableDirectory {
    /// The table's name, its case kept.
    pub table: String,
    /// 32 lower-case hex digits.
    pub id: String,
}

impl TableDirectory {
    /// `None` for a directory without an id, as `_paxos_repair_state`: no table's.
    pub fn parse(name: &str) -> Option<Self> {
        let (table, id) = name.rsplit_once('-')?;
        let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let fits = is_id && is_plain_name(name) && !table.is_empty() && !table.starts_with(['.', '-']);
        fits.then(|| Self { table: table.to_owned(), id: id.to_owned() })
    }
}

impl fmt::Display for TableDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.table, self.id)
    }
}

/// True for the directory of a secondary index: a dot and its name (Cassandra's
/// `Directories.isSecondaryIndexFolder`).
pub fn is_index_directory(name: &str) -> bool {
    is_plain_name(name) && name.starts_with('.')
}

/// What a file in a data directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<'a> {
    /// The keyspace.
    pub keyspace: &'a str,
    /// The table.
    pub table: TableDirectory,
    /// In which of the table's places.
    pub place: Place<'a>,
    /// The directory of the index that it belongs to, with its leading dot.
    pub index: Option<&'a str>,
    /// The file's name.
    pub file: &'a str,
}

/// A place within a table's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// What Cassandra reads and writes.
    Live,
    /// A snapshot.
    Snapshot {
        /// Its tag.
        tag: &'a str,
    },
    /// Incremental backups.
    Backups,
}

/// Says what a file is, by the segments of its path below a data directory; `None` when it is nothing of a table's.
pub fn locate<'a>(segments: &[&'a str]) -> Option<Located<'a>> {
    if !segments.iter().all(|segment| is_plain_name(segment)) {
        return None;
    }
    let (keyspace, table, rest) = match segments {
        [keyspace, table, rest @ ..] => (*keyspace, TableDirectory::parse(table)?, rest),
        _ => return None,
    };
    let (place, rest) = match rest {
        [SNAPSHOTS_DIRECTORY, tag, rest @ ..] if !rest.is_empty() => (Place::Snapshot { tag }, rest),
        [BACKUPS_DIRECTORY, rest @ ..] if !rest.is_empty() => (Place::Backups, rest),
        rest => (Place::Live, rest),
    };
    let (index, file) = match rest {
        [file] => (None, *file),
        [index, file] if is_index_directory(index) => (Some(*index), *file),
        _ => return None,
    };
    Some(Located { keyspace, table, place, index, file })
}
