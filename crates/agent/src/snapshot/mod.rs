//! The files of a snapshot on this node, and whether it is whole.

mod inventory;
mod sstables;
mod truncations;
mod whole;

use std::collections::BTreeSet;
use std::path::Path;

use cassy_agent_protocol::{AgentError, AgentErrorKind, CheckSnapshotRequest, SnapshotTag};
use cassy_backup_format::TableRef;
use cassy_sstable::SNAPSHOTS_DIRECTORY;

pub(crate) use inventory::{TableSnapshot, incremental, tables};
pub(crate) use sstables::{SstableFiles, Sstables};
pub(crate) use truncations::{TruncationsError, truncated};
use whole::examine_until;
pub(crate) use whole::{Amount, Linked, LookedAt, Problems, examine, how_linked};

use crate::context::Context;
use crate::directory::{Directory, FileError};
use crate::failure::{IntoAgentError, agent_error};

/// Why a snapshot cannot be looked at. That it is not whole is an answer, not an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("cannot look at the snapshot {tag}")]
    File {
        tag: SnapshotTag,
        #[source]
        source: FileError,
    },
    #[error("stopped")]
    Cancelled,
}

impl IntoAgentError for SnapshotError {
    fn into_agent_error(self) -> AgentError {
        match &self {
            Self::File { source, .. } => {
                AgentError { hint: source.hint(), ..agent_error(&self, source.kind()) }
            }
            Self::Cancelled => agent_error(&self, AgentErrorKind::Cancelled),
        }
    }
}

/// Says which of the request's tables lack a whole snapshot: `keyspace.table: what is wrong`. Whether a table that
/// has none was dropped meanwhile is for the caller to find out.
pub(crate) fn check(ctx: &Context, request: &CheckSnapshotRequest) -> Result<Vec<String>, SnapshotError> {
    let error = |source| SnapshotError::File { tag: request.tag, source };
    let found = tables(&request.data_directories, request.tag).map_err(error)?;
    let mut broken: Vec<String> =
        missing(request, &found).iter().map(|gone| gone.told(request.tag)).collect();
    for snapshot in found.iter().filter(|snapshot| is_wanted(request, &snapshot.table)) {
        let cancelled = || ctx.cancel.is_cancelled();
        match snapshot.read().and_then(|content| examine_until(cancelled, &ctx.progress, content)) {
            _ if cancelled() => return Err(SnapshotError::Cancelled),
            Ok((_, problems)) => broken.extend(problems.describe(&snapshot.table)),
            Err(odd @ (FileError::NotPlain { .. } | FileError::Vanished { .. })) => {
                broken.extend(Problems::one(odd.to_string()).describe(&snapshot.table));
            }
            Err(other) => return Err(error(other)),
        }
    }
    Ok(broken)
}

/// True for a table that the request names.
pub(crate) fn is_wanted(request: &CheckSnapshotRequest, table: &TableRef) -> bool {
    request.tables.iter().any(|(keyspace, name)| table.keyspace == *keyspace && table.table == *name)
}

/// A table without any snapshot.
#[derive(Debug)]
pub(crate) struct Missing {
    /// `keyspace.table`
    pub(crate) table: String,
    /// What explains it, in words.
    why: Option<String>,
}

impl Missing {
    /// As [`check`] tells it.
    pub(crate) fn told(&self, tag: SnapshotTag) -> String {
        let why: String = self.why.iter().map(|why| format!("; {why}")).collect();
        format!("{}: it has no snapshot {tag}{why}", self.table)
    }

    /// When it had one before: somebody has removed it.
    pub(crate) fn is_unexplained(&self) -> bool {
        self.why.is_none()
    }
}

/// The request's tables that have no snapshot at all.
pub(crate) fn missing(request: &CheckSnapshotRequest, found: &[TableSnapshot]) -> Vec<Missing> {
    let found: BTreeSet<(&str, &str)> =
        found.iter().map(|found| (found.table.keyspace.as_str(), found.table.table.as_str())).collect();
    let is_missing =
        |(keyspace, table): &&(String, String)| !found.contains(&(keyspace.as_str(), table.as_str()));
    let explain = |(keyspace, table): &(String, String)| {
        let link = linked(&request.data_directories, keyspace).map(|link| link.to_string());
        let why = link.or_else(|| without_id(request, keyspace, table));
        Missing { table: format!("{keyspace}.{table}"), why }
    };
    request.tables.iter().filter(is_missing).map(explain).collect()
}

/// A keyspace's directory that is a symbolic link explains a missing snapshot: it is not followed.
fn linked(data_directories: &[String], keyspace: &str) -> Option<FileError> {
    data_directories.iter().find_map(|data| match Directory::below(Path::new(data), [keyspace]) {
        Err(error @ FileError::NotPlain { .. }) => Some(error),
        _ => None,
    })
}

/// Cassandra goes on with the directory of a table that it made before 2.1, `<table>` without an id
/// (`Directories`, "use existing directories"), also for the table's snapshots.
fn without_id(request: &CheckSnapshotRequest, keyspace: &str, table: &str) -> Option<String> {
    let tag = request.tag.to_string();
    let old = request.data_directories.iter().find_map(|data| {
        let path = [keyspace, table, SNAPSHOTS_DIRECTORY, tag.as_str()];
        Directory::below(Path::new(data), path)
            .ok()
            .flatten()
            .map(|_| Path::new(data).join(keyspace).join(table))
    })?;
    Some(format!(
        "it is a table of before Cassandra 2.1, whose directory {} has no table id in its name, and such tables are not \
         backed up: create a new table, copy the rows into it, and drop this one",
        old.display()
    ))
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
