//! From decoded replies to plausible values: lists, all of them bounded.

use cassy_jmx::View;

use crate::plausible::{self, Implausible, Plausible};

/// How many entries of each kind a node may name.
pub(crate) mod most {
    pub(crate) const NODES: usize = 10_000;
    pub(crate) const TOKENS: usize = 10_000;
    pub(crate) const KEYSPACES: usize = 50_000;
    pub(crate) const TABLES: usize = 200_000;
    pub(crate) const DIRECTORIES: usize = 1_000;
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

/// The files of `PendingHintsInfo.asMap`, for all nodes together.
pub(crate) fn pending_hint_files(view: View<'_>) -> Plausible<u64> {
    let nodes = view.items().map_err(|error| Implausible(error.to_string()))?;
    bounded(nodes.len(), most::NODES)?;
    let files = |node: View<'_>| {
        let pairs = node.string_pairs().map_err(|error| Implausible(error.to_string()))?;
        let files = pairs.iter().find(|(key, _)| *key == "total_files").map_or("", |(_, files)| files);
        files.parse::<u64>().or_else(|_error| plausible::refuse("not a count of files", files))
    };
    nodes.into_iter().try_fold(0_u64, |sum, node| Ok(sum.saturating_add(files(node)?)))
}
