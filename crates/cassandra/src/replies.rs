//! From decoded replies to plausible values: lists and rows, all of them bounded.

use cassy_jmx::View;

use crate::plausible::{self, Implausible, Plausible};

/// How many entries of each kind a node may name.
pub(crate) mod most {
    pub(crate) const NODES: usize = 10_000;
    pub(crate) const TOKENS: usize = 10_000;
    pub(crate) const KEYSPACES: usize = 50_000;
    pub(crate) const TABLES: usize = 200_000;
    pub(crate) const DIRECTORIES: usize = 1_000;
    pub(crate) const SNAPSHOT_ROWS: usize = 200_000;
}

/// One line of the list of snapshots: a table in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotRow {
    /// The tag, whoever chose it; Cassandra takes snapshots of its own (`truncated-<ms>-<table>`).
    pub tag: String,
    /// The keyspace.
    pub keyspace: String,
    /// The table.
    pub table: String,
}

pub(crate) fn bounded(count: usize, most: usize) -> Plausible<()> {
    if count > most { Err(Implausible(format!("{count} entries, more than {most}"))) } else { Ok(()) }
}

pub(crate) fn text_of(view: View<'_>) -> Plausible<&str> {
    view.as_str().map_err(|error| Implausible(error.to_string()))
}

pub(crate) fn many<T>(view: View<'_>, most: usize, read: impl Fn(&str) -> Plausible<T>) -> Plausible<Vec<T>> {
    let items = view.items().map_err(|error| Implausible(error.to_string()))?;
    bounded(items.len(), most)?;
    items.into_iter().map(|item| read(text_of(item)?)).collect()
}

pub(crate) fn optional_directory(view: View<'_>) -> Plausible<Option<String>> {
    view.non_null().map(|view| plausible::directory(text_of(view)?)).transpose()
}

/// A map from tags to tables of rows. Columns are found by name: versions added some (measured).
pub(crate) fn snapshot_rows(view: View<'_>) -> Plausible<Vec<SnapshotRow>> {
    let wrong = |error: cassy_jmx::ViewError| Implausible(error.to_string());
    let mut found = Vec::new();
    for (tag, table) in view.pairs().map_err(wrong)? {
        let tag = plausible::tag(text_of(tag)?)?;
        for row in table.rows().map_err(wrong)? {
            bounded(found.len() + 1, most::SNAPSHOT_ROWS)?;
            let column = |name| row.column(name).map_err(wrong).and_then(text_of);
            let keyspace = plausible::name(column("Keyspace name")?)?;
            let table = plausible::name(column("Column family name")?)?;
            found.push(SnapshotRow { tag: tag.clone(), keyspace, table });
        }
    }
    Ok(found)
}
