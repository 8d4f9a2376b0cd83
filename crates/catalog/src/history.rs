//! The histories of backups and restores: Java Cassy's tables, joined with what our own jobs know beyond them.

use crate::error::during;
use crate::jobs::JobKind;
use crate::lenient::{self, Column, Lenient};
use crate::{Catalog, CatalogError};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};
use std::collections::BTreeSet;

/// Which history rows to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistorySelector {
    /// Only this cluster's.
    pub cluster_id: Option<String>,
    /// Only this node's.
    pub target_ip: Option<String>,
    /// Only this snapshot's; the cluster id is then not looked at.
    pub snapshot_id: Option<String>,
    /// At most so many, and never more than [`LISTED_MOST`].
    pub limit: Option<u32>,
}

/// One node's part of one backup or restore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HistoryEntry {
    pub cluster_id: String,
    pub target_ip: String,
    pub snapshot_id: String,
    pub created_at: i64,
    pub updated_at: i64,
    /// `backup_type` or `restore_type`.
    pub operation_type: u32,
    /// With the numbers of the public interface; 0 (unknown) for one that it does not have.
    pub status: u8,
    /// The job behind it; `None` for a row that Java Cassy has written.
    pub job_id: Option<String>,
    /// Why it failed, or what it did; empty for a row without a job.
    pub message: String,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// Entries that are listed at most.
pub const LISTED_MOST: u32 = 10_000;

const BACKUPS: &str = "list backups";
const RESTORES: &str = "list restores";
const ADDRESSES: &str = "list the nodes of a backup";
const ENDED: &str = "list the backups that have ended";

const TEXTS: [Column<'static>; 5] = [
    ("h.cluster_id", "cluster_id"),
    ("h.target_ip", "target_ip"),
    ("h.snapshot_id", "snapshot_id"),
    ("n.job_id", "job_id"),
    ("n.message", "message"),
];

/// The greatest status of the public interface.
const LAST_STATUS: u8 = 4;

/// The table of this kind, and its column for the type.
pub(crate) fn history_table(kind: JobKind) -> (&'static str, &'static str) {
    match kind {
        JobKind::Backup => ("backup_history", "backup_type"),
        JobKind::Restore => ("restore_history", "restore_type"),
    }
}

impl Catalog {
    /// Newest first, one entry per node and call.
    pub async fn backups(&self, selector: &HistorySelector) -> Result<Vec<HistoryEntry>, CatalogError> {
        self.history(JobKind::Backup, BACKUPS, selector).await
    }

    /// Newest first, one entry per node and call.
    pub async fn restores(&self, selector: &HistorySelector) -> Result<Vec<HistoryEntry>, CatalogError> {
        self.history(JobKind::Restore, RESTORES, selector).await
    }

    async fn history(
        &self,
        kind: JobKind,
        operation: &'static str,
        selector: &HistorySelector,
    ) -> Result<Vec<HistoryEntry>, CatalogError> {
        let chosen = selector.chosen();
        let mut query = sqlx::query(AssertSqlSafe(history_sql(kind, &chosen))).bind(kind.name());
        for (_, value) in &chosen {
            query = query.bind(*value);
        }
        let limit = i64::from(selector.limit.unwrap_or(LISTED_MOST).min(LISTED_MOST));
        let rows = query.bind(limit).fetch_all(&self.reads).await.map_err(during(operation))?;
        let (table, _) = history_table(kind);
        rows.iter().map(|row| entry(row, table)).collect::<Result<_, _>>().map_err(during(operation))
    }

    /// Whom this backup, and the increments on it, were of, however many rows there are. Without addresses that are no
    /// texts.
    pub async fn backed_up_addresses(
        &self,
        cluster_id: &str,
        snapshot_id: &str,
    ) -> Result<BTreeSet<String>, CatalogError> {
        let rows = sqlx::query(
            "SELECT DISTINCT CAST(target_ip AS BLOB) FROM backup_history \
             WHERE cluster_id = $1 AND snapshot_id = $2 AND typeof(target_ip) = 'text'",
        )
        .bind(cluster_id)
        .bind(snapshot_id)
        .fetch_all(&self.reads)
        .await
        .map_err(during(ADDRESSES))?;
        let addresses: Result<Vec<Vec<u8>>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        let addresses = addresses.map_err(during(ADDRESSES))?;
        Ok(addresses.into_iter().filter_map(|address| String::from_utf8(address).ok()).collect())
    }

    /// The backup jobs of this cluster that have ended: their ids are part of the tags of their snapshots and of the
    /// names of what they wrote beside the data.
    pub async fn ended_backups(&self, cluster_id: &str) -> Result<BTreeSet<String>, CatalogError> {
        let rows =
            sqlx::query("SELECT job_id FROM job WHERE cluster_id = $1 AND kind = $2 AND finished <> 0")
                .bind(cluster_id)
                .bind(JobKind::Backup.name())
                .fetch_all(&self.reads)
                .await
                .map_err(during(ENDED))?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(during(ENDED))
    }
}

impl HistorySelector {
    /// The columns that are compared, with the values to compare them with.
    fn chosen(&self) -> Vec<(&'static str, &str)> {
        let cluster_id = if self.snapshot_id.is_some() { None } else { self.cluster_id.as_deref() };
        [
            ("h.snapshot_id", self.snapshot_id.as_deref()),
            ("h.cluster_id", cluster_id),
            ("h.target_ip", self.target_ip.as_deref()),
        ]
        .into_iter()
        .filter_map(|(column, value)| Some((column, value?)))
        .collect()
    }
}

/// `$1` is the kind, then come the chosen values, then the limit.
fn history_sql(kind: JobKind, chosen: &[(&'static str, &str)]) -> String {
    let (table, type_column) = history_table(kind);
    let mut conditions = String::new();
    for (index, (column, _)) in chosen.iter().enumerate() {
        let before = if index == 0 { "WHERE" } else { "AND" };
        conditions.push_str(&format!("{before} {column} = ${} ", index + 2));
    }
    let operation_type = format!("h.{type_column}");
    let numbers = [
        ("h.created_at", "created_at"),
        ("h.updated_at", "updated_at"),
        (operation_type.as_str(), "operation_type"),
        ("h.status", "status"),
        ("n.bytes_done", "bytes_done"),
        ("n.bytes_total", "bytes_total"),
    ];
    let selection = lenient::selection(&TEXTS, &numbers);
    format!(
        "SELECT {selection} \
         FROM {table} h LEFT JOIN job_node n ON n.kind = $1 AND n.snapshot_id = h.snapshot_id \
         AND n.cluster_id = h.cluster_id AND n.target_ip = h.target_ip AND n.created_at = h.created_at \
         {conditions}ORDER BY h.created_at DESC, h.snapshot_id DESC, h.target_ip LIMIT ${}",
        chosen.len() + 2
    )
}

/// A row that nobody of ours has written is an entry without a status, which says so.
fn entry(row: &AnyRow, table: &str) -> Result<HistoryEntry, sqlx::Error> {
    let mut row = Lenient::of(row)?;
    let created_at = row.number("created_at")?.unwrap_or(0);
    let count = |row: &Lenient<'_>, column| Ok::<_, sqlx::Error>(row.number(column)?.unwrap_or(0));
    let status = u8::try_from(count(&row, "status")?).unwrap_or(0);
    let mut entry = HistoryEntry {
        cluster_id: row.text("cluster_id")?.unwrap_or_default(),
        target_ip: row.text("target_ip")?.unwrap_or_default(),
        snapshot_id: row.text("snapshot_id")?.unwrap_or_default(),
        created_at,
        updated_at: row.number("updated_at")?.unwrap_or(created_at),
        operation_type: u32::try_from(count(&row, "operation_type")?).unwrap_or(0),
        status: if status <= LAST_STATUS { status } else { 0 },
        job_id: row.text("job_id")?,
        message: row.text("message")?.unwrap_or_default(),
        bytes_done: u64::try_from(count(&row, "bytes_done")?).unwrap_or(0),
        bytes_total: u64::try_from(count(&row, "bytes_total")?).unwrap_or(0),
    };
    let odd = row.odd();
    if !odd.is_empty() {
        entry.status = 0;
        entry.message = format!(
            "no version of Cassy has written this row of the table {table} (cluster_id {:?}, target_ip {:?}, \
             snapshot_id {:?}, created_at {created_at}): see its {}; correct or delete it",
            entry.cluster_id,
            entry.target_ip,
            entry.snapshot_id,
            odd.join(", ")
        );
    }
    Ok(entry)
}
