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
