//! A cheap first look at the whole snapshot: that it is whole, how much there is, and the manifest's header.

use std::path::{Path, PathBuf};

use cassy_agent_protocol::UploadRequest;
use cassy_backup_format::{
    BackupKind, ConfigurationFacts, FORMAT, Header, LEAST_READER, ParentRef, TableSchema, Truncation,
};

use super::error::UploadError;
use crate::context::Context;
use crate::failure::chain;
use crate::snapshot::{self, Amount, Missing, TableSnapshot};

/// What there is to send.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) tables: Vec<Surveyed>,
    pub(super) header: Header,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Every data directory, with its number in the manifest.
    pub(super) directories: Vec<(u32, PathBuf)>,
}

/// A table's snapshot, and how much it was when it was looked at.
#[derive(Debug)]
pub(super) struct Surveyed {
    pub(super) snapshot: TableSnapshot,
    pub(super) amount: Amount,
}

/// Looks at everything. Blocks.
pub(super) fn survey(ctx: &Context, request: &UploadRequest) -> Result<Survey, UploadError> {
    let wanted = &request.snapshot;
    let found = snapshot::tables(&wanted.data_directories, wanted.tag)?;
    // It was whole when it was taken.
    let (gone, explained): (Vec<_>, Vec<_>) =
        snapshot::missing(wanted, &found).into_iter().partition(Missing::is_unexplained);
    if !gone.is_empty() {
        let tables = gone.into_iter().map(|missing| missing.table).collect();
        return Err(UploadError::Gone { tag: wanted.tag, tables });
    }
    let (configuration, directories) = number_directories(request)?;
    let mut broken: Vec<String> = explained.iter().map(|missing| missing.told(wanted.tag)).collect();
    let mut tables = Vec::new();
    let mut schema = Vec::new();
    for mut snapshot in found {
        ctx.check()?;
        // From here on everything is in the manifest's order.
        snapshot.renumber(&directories);
        let mut content = snapshot.read()?;
        let cql = content.schema.take();
        let (amount, problems) = snapshot::examine(&ctx.progress, content)?;
        if problems.is_empty() {
            schema.extend(cql.map(|cql| table_schema(&snapshot, &cql)));
            tables.push(Surveyed { snapshot, amount });
        } else if snapshot::is_wanted(wanted, &snapshot.table) {
            broken.extend(problems.describe(&snapshot.table));
        } else {
            let problems = problems.describe(&snapshot.table);
            // Dropped while the snapshot was taken, or made after it: nobody asked for it.
            tracing::warn!(
                ?problems,
                "a table that was not asked for has no whole snapshot, and is left out"
            );
        }
    }
    if !broken.is_empty() {
        return Err(UploadError::NotWhole { tag: wanted.tag, broken });
    }
    let mut header = header(request, configuration, &tables, schema);
    header.truncations = truncations(request, &tables)?;
    let files = tables.iter().map(|table| table.amount.files).sum();
    let bytes = tables.iter().map(|table| table.amount.bytes).sum();
    let paths = wanted.data_directories.iter().map(PathBuf::from);
    let directories = directories.into_iter().zip(paths).collect();
    Ok(Survey { tables, header, files, bytes, directories })
}

/// A snapshot is as good without them; only there are no increments on it then.
fn truncations(request: &UploadRequest, tables: &[Surveyed]) -> Result<Option<Vec<Truncation>>, UploadError> {
    match snapshot::truncated(tables.iter().map(|table| &table.snapshot)) {
        Ok(truncations) => Ok(Some(truncations)),
        Err(source) if request.kind == BackupKind::Incremental => Err(UploadError::Truncations { source }),
        Err(error) => {
            tracing::warn!(error = chain(&error), "when tables were truncated is not recorded");
            Ok(None)
        }
    }
}

fn table_schema(snapshot: &TableSnapshot, cql: &[u8]) -> TableSchema {
    TableSchema { table: snapshot.table.clone(), cql: String::from_utf8_lossy(cql).into_owned() }
}

/// The manifest counts directories in the configuration's list. One that Cassandra names and the configuration does
/// not list among them, as the directory of the local system keyspaces, is added at the list's end.
fn number_directories(request: &UploadRequest) -> Result<(ConfigurationFacts, Vec<u32>), UploadError> {
    let mut configuration = request.configuration.clone();
    let listed = &mut configuration.data_directories;
    let mut numbers = Vec::new();
    for directory in &request.snapshot.data_directories {
        let place = match listed.iter().position(|known| is_same(known, directory)) {
            Some(place) => {
                // The spelling that the files were found under is the one that the next backup compares with.
                if let Some(known) = listed.get_mut(place) {
                    known.clone_from(directory);
                }
                place
            }
            None => {
                listed.push(directory.clone());
                listed.len() - 1
            }
        };
        numbers.push(u32::try_from(place).unwrap_or(u32::MAX));
    }
    Ok((configuration, numbers))
}

/// The same path, or two paths of one directory.
pub(super) fn is_same(a: &str, b: &str) -> bool {
    let identity = |path: &str| std::fs::canonicalize(path).ok();
    Path::new(a) == Path::new(b) || identity(a).is_some_and(|a| identity(b) == Some(a))
}

fn header(
    request: &UploadRequest,
    configuration: ConfigurationFacts,
    tables: &[Surveyed],
    schema: Vec<TableSchema>,
) -> Header {
    Header {
        format: FORMAT,
        least_reader: LEAST_READER,
        cluster_id: request.cluster_id.clone(),
        cluster_name: request.cluster_name.clone(),
        host_id: request.host_id,
        address: request.address.clone(),
        tokens: request.tokens.clone(),
        datacenter: request.datacenter.clone(),
        rack: request.rack.clone(),
        cassandra_version: request.cassandra_version.clone(),
        partitioner: request.partitioner.clone(),
        backup_id: request.backup_id,
        kind: request.kind,
        created_at_ms: request.created_at_ms,
        parent: request.parent.as_ref().map(|parent| ParentRef {
            key: parent.key.clone(),
            backup_id: parent.backup_id,
            blake3: parent.blake3.clone(),
        }),
        base: request.base,
        truncations: None,
        configuration,
        tables: tables.iter().map(|table| table.snapshot.table.clone()).collect(),
        schema,
    }
}

impl Surveyed {
    /// Compares what a table is now with what it was when it was looked at.
    pub(super) fn check(&self, now: Amount) -> Result<(), UploadError> {
        if now == self.amount {
            return Ok(());
        }
        let table = &self.snapshot.table;
        Err(UploadError::SnapshotChanged {
            table: format!("{}.{}", table.keyspace, table.table),
            before: self.amount.to_string(),
            now: now.to_string(),
        })
    }
}
