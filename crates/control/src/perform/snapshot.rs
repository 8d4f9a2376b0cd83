//! Flush and snapshot: of the keyspaces and tables of the moment, which come and go while a backup runs.
//!
//! A call that fails because a keyspace or a table was dropped meanwhile is begun again with those that are left.
//! What was dropped before the snapshot is not in the backup, what was dropped after it is.

use std::collections::BTreeSet;

use cassy_agent_protocol::{CheckSnapshotRequest, Reply, Request};
use tokio::time::timeout;

use super::backup::{CASSANDRA_LIMIT, facts, node};
use super::clear::{forget, sweep};
use super::{permanent, unexpected};
use crate::job::BackupJob;
use crate::job::backup::{BackupNodeFacts, NodeDone};
use crate::job::listed;
use crate::link::Link;
use crate::nodes::{Cassandra, NodeError, NodeErrorKind};

/// So often a call is begun when each time something is dropped meanwhile.
const TRIES: u32 = 5;

/// `(keyspace, table)`
pub(super) type Table = (String, String);

/// What there is to back up.
pub(super) struct Schema {
    pub(super) keyspaces: Vec<String>,
    /// All of these keyspaces.
    pub(super) tables: Vec<Table>,
}

impl Schema {
    pub(super) async fn read(cassandra: &mut dyn Cassandra) -> Result<Self, NodeError> {
        let keyspaces = cassandra.keyspaces().await?;
        let mut tables = cassandra.tables().await?;
        tables.retain(|(keyspace, _)| keyspaces.contains(keyspace));
        Ok(Self { keyspaces, tables })
    }

    /// What of this is not there later, in words.
    fn dropped_until(&self, later: &Self) -> Vec<String> {
        let keyspaces = self.keyspaces.iter().filter(|keyspace| !later.keyspaces.contains(keyspace));
        let later_tables: BTreeSet<_> = later.tables.iter().collect();
        let is_dropped = |table: &&Table| later.keyspaces.contains(&table.0) && !later_tables.contains(table);
        let tables = self.tables.iter().filter(is_dropped);
        let tables = tables.map(|(keyspace, table)| format!("the table {keyspace}.{table}"));
        keyspaces.map(|keyspace| format!("the keyspace {keyspace}")).chain(tables).collect()
    }
}

/// Writes all memtables.
pub(super) async fn flush(target: &str, link: &Link) -> Result<NodeDone, NodeError> {
    let mut cassandra = link.cassandra().await?;
    let mut tries = 0;
    loop {
        let schema = Schema::read(&mut *cassandra).await?;
        let Err(error) = cassandra.flush(&schema.keyspaces).await else { return Ok(NodeDone::Done) };
        let dropped = dropped_meanwhile(&mut *cassandra, &schema, &error).await?;
        tries += 1;
        if dropped.is_empty() || tries == TRIES {
            return Err(explained(target, &dropped, error));
        }
    }
}

/// Takes the snapshot. What it must hold are the tables that were there before and after it.
pub(super) async fn take(job: &BackupJob, target: &str, link: &Link) -> Result<NodeDone, NodeError> {
    let facts = facts(job, target)?;
    let tag = job.tag(node(job, target)?);
    let mut cassandra = in_time(target, link.cassandra()).await?;
    let mut tries = 0;
    loop {
        let schema = in_time(target, Schema::read(&mut *cassandra)).await?;
        let taken = in_time(target, cassandra.take_snapshot(&tag.to_string(), &schema.keyspaces)).await;
        let Err(error) = taken else {
            let tables = whole(job, target, link, &mut *cassandra, schema).await?;
            return Ok(NodeDone::Snapshotted(tables));
        };
        let dropped = in_time(target, dropped_meanwhile(&mut *cassandra, &schema, &error)).await?;
        tries += 1;
        if dropped.is_empty() && error.is_transient() {
            return Err(error);
        }
        if dropped.is_empty() {
            let broken = broken(job, facts, target, link, &schema.tables).await?;
            return Err(tables_named(target, &broken, error));
        }
        if tries == TRIES {
            return Err(explained(target, &dropped, error));
        }
        // Nothing of it is adopted: the tag is free again when all of it is gone.
        link.locked_request(facts.lock(), sweep(&facts.data_directories, vec![tag])).await?;
        in_time(target, forget(&mut *cassandra, &[tag], &schema.keyspaces)).await?;
    }
}

/// What Cassandra does has a limit each time; the agent's look at what it did has none but its silence: it says how far it
/// is, however long a cold disk takes.
async fn in_time<T>(target: &str, work: impl Future<Output = Result<T, NodeError>>) -> Result<T, NodeError> {
    timeout(CASSANDRA_LIMIT, work).await.unwrap_or_else(|_elapsed| {
        let message = format!("{target}: the snapshot did not end within {} s", CASSANDRA_LIMIT.as_secs());
        Err(NodeError::new(NodeErrorKind::Transient, message))
    })
}

/// What explains the failure of a call. Nothing does when its answer did not come: it may still be running, and is not
/// begun again.
async fn dropped_meanwhile(
    cassandra: &mut dyn Cassandra,
    before: &Schema,
    error: &NodeError,
) -> Result<Vec<String>, NodeError> {
    if error.is_transient() {
        return Ok(Vec::new());
    }
    let dropped = before.dropped_until(&Schema::read(cassandra).await?);
    if !dropped.is_empty() {
        tracing::info!(?dropped, error = %error, "dropped meanwhile; beginning again without it");
    }
    Ok(dropped)
}

/// Fine when the snapshot holds every table that was there before it and still is: these.
pub(super) async fn whole(
    job: &BackupJob,
    target: &str,
    link: &Link,
    cassandra: &mut dyn Cassandra,
    before: Schema,
) -> Result<Vec<Table>, NodeError> {
    let facts = facts(job, target)?;
    let mut tables = before.tables;
    let mut missed: Option<Vec<String>> = None;
    loop {
        let now: BTreeSet<_> = in_time(target, cassandra.tables()).await?.into_iter().collect();
        let count = tables.len();
        tables.retain(|table| now.contains(table));
        // Only a drop that became visible since the last look can explain what that one missed.
        if let Some(missed) = missed.filter(|_| tables.len() == count) {
            return Err(not_whole(target, &missed));
        }
        let broken = broken(job, facts, target, link, &tables).await?;
        if broken.is_empty() {
            return Ok(tables);
        }
        missed = Some(broken);
    }
}

/// Which of these tables lack a whole snapshot, and why.
async fn broken(
    job: &BackupJob,
    facts: &BackupNodeFacts,
    target: &str,
    link: &Link,
    tables: &[Table],
) -> Result<Vec<String>, NodeError> {
    let check = CheckSnapshotRequest {
        data_directories: facts.data_directories.clone(),
        tag: job.tag(node(job, target)?),
        tables: tables.to_vec(),
    };
    match link.request(Request::CheckSnapshot(check)).await? {
        Reply::SnapshotChecked { broken } => Ok(broken),
        other => Err(unexpected(target, &other)),
    }
}

fn not_whole(target: &str, broken: &[String]) -> NodeError {
    let hint = "Cassandra's log says why it skipped a table; what is named as no component of an SSTable is not Cassandra's: move it elsewhere.";
    let error = permanent(format!("{target}: the snapshot is not whole: {}", listed(broken)));
    NodeError { hint: Some(hint.to_owned()), ..error }
}

/// The tables come first, as Cassandra's own answer rarely names one.
fn tables_named(target: &str, broken: &[String], error: NodeError) -> NodeError {
    if broken.is_empty() {
        return error;
    }
    let NodeError { message, hint, .. } = not_whole(target, broken);
    NodeError { message: format!("{message}: {}", error.message), hint: error.hint.clone().or(hint), ..error }
}

/// The cause comes first.
fn explained(target: &str, dropped: &[String], error: NodeError) -> NodeError {
    if dropped.is_empty() {
        return error;
    }
    let message = format!(
        "{target}: dropped while the backup was taken, again and again: {}: {}",
        listed(dropped),
        error.message
    );
    let hint = "Take another backup when the schema is at rest.";
    NodeError { message, hint: Some(hint.to_owned()), ..error }
}
