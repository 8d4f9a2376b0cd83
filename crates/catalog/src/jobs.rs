//! Jobs, and the rows of the history tables that belong to them. Both change in one transaction, guarded by the
//! epoch of the server's lease. A finished job never changes again.

use crate::error::during;
use crate::history::history_table;
use crate::{Catalog, CatalogError};
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row, Transaction};

/// Which history table the rows of a job are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// `backup_history`
    Backup,
    /// `restore_history`
    Restore,
}

impl JobKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }

    fn of(name: String, operation: &'static str) -> Result<Self, CatalogError> {
        match name.as_str() {
            "backup" => Ok(Self::Backup),
            "restore" => Ok(Self::Restore),
            _ => Err(CatalogError::UnknownValue { operation, column: "job.kind", value: name }),
        }
    }
}

/// A job to be stored for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewJob {
    pub job_id: String,
    pub kind: JobKind,
    /// The `backup_type` or `restore_type` of its history rows.
    pub operation_type: u32,
    pub cluster_id: String,
    pub snapshot_id: String,
    pub stage: String,
    /// Its state without that of its parts.
    pub state_json: String,
    /// All of them.
    pub parts: Vec<JobPart>,
    /// Unix milliseconds; also that of its history rows, whose key it is part of.
    pub created_at: i64,
    /// The history rows that are known already; more may come with updates.
    pub rows: Vec<NodeRow>,
    /// By which its client asks for it again.
    pub key: Option<JobKey>,
}

/// A client's own name for its request. No two jobs have the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobKey {
    /// The name.
    pub key: String,
    /// The request, JSON of the caller.
    pub request_json: String,
}

/// A job that has moved on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct JobUpdate {
    pub job_id: String,
    pub stage: String,
    /// Its state without that of its parts.
    pub state_json: String,
    /// The parts that change; those that do not exist yet are created.
    pub parts: Vec<JobPart>,
    /// This is its final state.
    pub finished: bool,
    /// It was refused: its client's key may name another job.
    pub frees_key: bool,
    /// The history rows that change; those that do not exist yet are created.
    pub rows: Vec<NodeRow>,
}

/// One node's part of a job's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPart {
    /// The node's address.
    pub name: String,
    /// What the job knows of it.
    pub state_json: String,
}

/// One node's history row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// The node's address.
    pub target_ip: String,
    /// With the numbers of the public interface.
    pub status: u8,
    /// Why it failed, or what it did; may be empty.
    pub message: String,
}

/// A job as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Job {
    pub job_id: String,
    pub kind: JobKind,
    pub operation_type: u32,
    pub cluster_id: String,
    pub snapshot_id: String,
    pub stage: String,
    /// Its state without that of its parts.
    pub state_json: String,
    /// By name.
    pub parts: Vec<JobPart>,
    /// That of the last write.
    pub epoch: i64,
    pub created_at: i64,
    pub updated_at: i64,
    pub finished: bool,
}

/// How far one node's part of a job is, in bytes of files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NodeProgress {
    pub job_id: String,
    pub target_ip: String,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

const CREATE: &str = "store a new job";
const SAVE: &str = "store a job";
const PROGRESS: &str = "store the progress of jobs";
const UNFINISHED: &str = "list unfinished jobs";
const FIND: &str = "look up a job";
const FIND_BY_KEY: &str = "look up a job by its idempotency key";

const COLUMNS: &str = "job_id, kind, cluster_id, snapshot_id, operation_type, stage, state, epoch, created_at, \
                       updated_at, finished";

impl Catalog {
    /// Stores a job and its first history rows. A job id, a key or a history row that exists already is
    /// [`CatalogError::AlreadyExists`].
    pub async fn create_job(&self, epoch: i64, job: &NewJob) -> Result<(), CatalogError> {
        let mut tx = self.begin_guarded(CREATE, epoch).await?;
        insert_job(&mut tx, epoch, job).await?;
        save_parts(&mut tx, CREATE, &job.job_id, &job.parts).await?;
        let parent = Parent {
            job_id: &job.job_id,
            kind: job.kind,
            operation_type: i64::from(job.operation_type),
            cluster_id: &job.cluster_id,
            snapshot_id: &job.snapshot_id,
            created_at: job.created_at,
            now: job.created_at,
        };
        for row in &job.rows {
            parent.insert(&mut tx, CREATE, row).await?;
        }
        tx.commit().await.map_err(during(CREATE))
    }

    /// Stores what a job has come to, together with its history rows: all or nothing.
    pub async fn save_job(&self, epoch: i64, update: &JobUpdate, now: i64) -> Result<(), CatalogError> {
        let mut tx = self.begin_guarded(SAVE, epoch).await?;
        let job = find(&mut *tx, SAVE, &update.job_id).await?;
        let job =
            job.ok_or_else(|| CatalogError::UnknownJob { operation: SAVE, job_id: update.job_id.clone() })?;
        if job.finished {
            return Err(CatalogError::JobFinished { operation: SAVE, job_id: update.job_id.clone() });
        }
        update_job(&mut tx, epoch, update, now).await?;
        save_parts(&mut tx, SAVE, &update.job_id, &update.parts).await?;
        let parent = Parent {
            job_id: &job.job_id,
            kind: job.kind,
            operation_type: i64::from(job.operation_type),
            cluster_id: &job.cluster_id,
            snapshot_id: &job.snapshot_id,
            created_at: job.created_at,
            now,
        };
        for row in &update.rows {
            parent.save(&mut tx, row).await?;
        }
        tx.commit().await.map_err(during(SAVE))
    }

    /// Stores how far nodes are, for all jobs at once. Nodes without a history row are passed over.
    pub async fn save_progress(&self, epoch: i64, progress: &[NodeProgress]) -> Result<(), CatalogError> {
        let mut tx = self.begin_guarded(PROGRESS, epoch).await?;
        for node in progress {
            sqlx::query(
                "UPDATE job_node SET bytes_done = $1, bytes_total = $2 WHERE job_id = $3 AND target_ip = $4",
            )
            .bind(stored(node.bytes_done))
            .bind(stored(node.bytes_total))
            .bind(&node.job_id)
            .bind(&node.target_ip)
            .execute(&mut *tx)
            .await
            .map_err(during(PROGRESS))?;
        }
        tx.commit().await.map_err(during(PROGRESS))
    }

    /// All jobs that are not in a final state, oldest first.
    pub async fn unfinished_jobs(&self) -> Result<Vec<Job>, CatalogError> {
        let sql = format!("SELECT {COLUMNS} FROM job WHERE finished = 0 ORDER BY created_at, job_id");
        let rows =
            sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.reads).await.map_err(during(UNFINISHED))?;
        let mut jobs: Vec<Job> =
            rows.iter().map(|row| job(row, UNFINISHED)).collect::<Result<_, CatalogError>>()?;
        for job in &mut jobs {
            job.parts = self.parts(UNFINISHED, &job.job_id).await?;
        }
        Ok(jobs)
    }

    /// One job, finished or not.
    pub async fn job(&self, job_id: &str) -> Result<Option<Job>, CatalogError> {
        let mut found = find(&self.reads, FIND, job_id).await?;
        if let Some(job) = &mut found {
            job.parts = self.parts(FIND, job_id).await?;
        }
        Ok(found)
    }

    /// One job, finished or not, without what is stored of its nodes.
    pub async fn job_alone(&self, job_id: &str) -> Result<Option<Job>, CatalogError> {
        find(&self.reads, FIND, job_id).await
    }

    /// The id of the job with this key, and the request that it was made for.
    pub async fn job_by_key(&self, key: &str) -> Result<Option<(String, String)>, CatalogError> {
        let found = sqlx::query("SELECT job_id, request FROM job WHERE idempotency_key = $1")
            .bind(key)
            .fetch_optional(&self.reads)
            .await
            .map_err(during(FIND_BY_KEY))?;
        let both = |row: AnyRow| Ok((row.try_get(0)?, row.try_get(1)?));
        found.map(both).transpose().map_err(during(FIND_BY_KEY))
    }

    async fn parts(&self, operation: &'static str, job_id: &str) -> Result<Vec<JobPart>, CatalogError> {
        let rows = sqlx::query("SELECT name, state FROM job_part WHERE job_id = $1 ORDER BY name")
            .bind(job_id)
            .fetch_all(&self.reads)
            .await
            .map_err(during(operation))?;
        let part = |row: &AnyRow| Ok(JobPart { name: row.try_get(0)?, state_json: row.try_get(1)? });
        rows.iter().map(part).collect::<Result<_, _>>().map_err(during(operation))
    }
}

/// What the rows of a job have from it.
struct Parent<'a> {
    job_id: &'a str,
    kind: JobKind,
    operation_type: i64,
    cluster_id: &'a str,
    snapshot_id: &'a str,
    created_at: i64,
    now: i64,
}

impl Parent<'_> {
    async fn insert(
        &self,
        tx: &mut Transaction<'static, Any>,
        operation: &'static str,
        row: &NodeRow,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "INSERT INTO job_node (job_id, target_ip, kind, cluster_id, snapshot_id, created_at, message, \
             bytes_done, bytes_total) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0)",
        )
        .bind(self.job_id)
        .bind(&row.target_ip)
        .bind(self.kind.name())
        .bind(self.cluster_id)
        .bind(self.snapshot_id)
        .bind(self.created_at)
        .bind(&row.message)
        .execute(&mut **tx)
        .await
        .map_err(during(operation))?;
        self.insert_history(tx, operation, row).await
    }

    async fn insert_history(
        &self,
        tx: &mut Transaction<'static, Any>,
        operation: &'static str,
        row: &NodeRow,
    ) -> Result<(), CatalogError> {
        let (table, type_column) = history_table(self.kind);
        let sql = format!(
            "INSERT INTO {table} (cluster_id, target_ip, snapshot_id, created_at, updated_at, {type_column}, status) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.cluster_id)
            .bind(&row.target_ip)
            .bind(self.snapshot_id)
            .bind(self.created_at)
            .bind(self.now)
            .bind(self.operation_type)
            .bind(i32::from(row.status))
            .execute(&mut **tx)
            .await
            .map_err(during(operation))?;
        Ok(())
    }

    async fn save(&self, tx: &mut Transaction<'static, Any>, row: &NodeRow) -> Result<(), CatalogError> {
        let known = sqlx::query("UPDATE job_node SET message = $1 WHERE job_id = $2 AND target_ip = $3")
            .bind(&row.message)
            .bind(self.job_id)
            .bind(&row.target_ip)
            .execute(&mut **tx)
            .await
            .map_err(during(SAVE))?;
        if known.rows_affected() == 0 {
            return self.insert(tx, SAVE, row).await;
        }
        if self.update_history(tx, row).await? == 0 {
            // Somebody has tidied up in Java Cassy's tables.
            return self.insert_history(tx, SAVE, row).await;
        }
        Ok(())
    }

    async fn update_history(
        &self,
        tx: &mut Transaction<'static, Any>,
        row: &NodeRow,
    ) -> Result<u64, CatalogError> {
        let (table, _) = history_table(self.kind);
        let sql = format!(
            "UPDATE {table} SET status = $1, updated_at = $2 \
             WHERE cluster_id = $3 AND target_ip = $4 AND snapshot_id = $5 AND created_at = $6"
        );
        let updated = sqlx::query(AssertSqlSafe(sql))
            .bind(i32::from(row.status))
            .bind(self.now)
            .bind(self.cluster_id)
            .bind(&row.target_ip)
            .bind(self.snapshot_id)
            .bind(self.created_at)
            .execute(&mut **tx)
            .await
            .map_err(during(SAVE))?;
        Ok(updated.rows_affected())
    }
}

async fn insert_job(
    tx: &mut Transaction<'static, Any>,
    epoch: i64,
    job: &NewJob,
) -> Result<(), CatalogError> {
    let sql = format!(
        "INSERT INTO job ({COLUMNS}, idempotency_key, request) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $11, $12)"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(&job.job_id)
        .bind(job.kind.name())
        .bind(&job.cluster_id)
        .bind(&job.snapshot_id)
        .bind(i64::from(job.operation_type))
        .bind(&job.stage)
        .bind(&job.state_json)
        .bind(epoch)
        .bind(job.created_at)
        .bind(job.created_at)
        .bind(job.key.as_ref().map(|key| key.key.as_str()))
        .bind(job.key.as_ref().map(|key| key.request_json.as_str()))
        .execute(&mut **tx)
        .await
        .map_err(during(CREATE))?;
    Ok(())
}

async fn save_parts(
    tx: &mut Transaction<'static, Any>,
    operation: &'static str,
    job_id: &str,
    parts: &[JobPart],
) -> Result<(), CatalogError> {
    const STATEMENTS: [&str; 2] = [
        "UPDATE job_part SET state = $3 WHERE job_id = $1 AND name = $2",
        "INSERT INTO job_part (job_id, name, state) VALUES ($1, $2, $3)",
    ];
    for part in parts {
        for statement in STATEMENTS {
            let query = sqlx::query(statement).bind(job_id).bind(&part.name).bind(&part.state_json);
            let written = query.execute(&mut **tx).await.map_err(during(operation))?;
            if written.rows_affected() == 1 {
                break;
            }
        }
    }
    Ok(())
}

async fn update_job(
    tx: &mut Transaction<'static, Any>,
    epoch: i64,
    update: &JobUpdate,
    now: i64,
) -> Result<(), CatalogError> {
    sqlx::query(
        "UPDATE job SET stage = $1, state = $2, finished = $3, epoch = $4, updated_at = $5, \
         idempotency_key = CASE WHEN $6 <> 0 THEN NULL ELSE idempotency_key END WHERE job_id = $7",
    )
    .bind(&update.stage)
    .bind(&update.state_json)
    .bind(i32::from(update.finished))
    .bind(epoch)
    .bind(now)
    .bind(i32::from(update.frees_key))
    .bind(&update.job_id)
    .execute(&mut **tx)
    .await
    .map_err(during(SAVE))?;
    Ok(())
}

async fn find<'e>(
    executor: impl sqlx::Executor<'e, Database = Any>,
    operation: &'static str,
    job_id: &str,
) -> Result<Option<Job>, CatalogError> {
    let row = sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM job WHERE job_id = $1")))
        .bind(job_id)
        .fetch_optional(executor)
        .await
        .map_err(during(operation))?;
    row.map(|row| job(&row, operation)).transpose()
}

fn job(row: &AnyRow, operation: &'static str) -> Result<Job, CatalogError> {
    let kind = row.try_get("kind").map_err(during(operation))?;
    let kind = JobKind::of(kind, operation)?;
    job_of_kind(row, kind).map_err(during(operation))
}

fn job_of_kind(row: &AnyRow, kind: JobKind) -> Result<Job, sqlx::Error> {
    Ok(Job {
        job_id: row.try_get("job_id")?,
        kind,
        operation_type: u32::try_from(row.try_get::<i64, _>("operation_type")?).unwrap_or(0),
        cluster_id: row.try_get("cluster_id")?,
        snapshot_id: row.try_get("snapshot_id")?,
        stage: row.try_get("stage")?,
        state_json: row.try_get("state")?,
        parts: Vec::new(),
        epoch: row.try_get("epoch")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        finished: row.try_get::<i64, _>("finished")? != 0,
    })
}

fn stored(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
