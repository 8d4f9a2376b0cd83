//! Pause intents: which applications may be paused, known before the first of them is asked to.

use crate::error::during;
use crate::{Catalog, CatalogError};
use sqlx::Row;
use sqlx::any::AnyRow;

/// Who may be paused, and until when at the latest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseIntent {
    /// One pause of one job.
    pub intent_id: String,
    /// The job.
    pub job_id: String,
    /// The instances, JSON of the caller.
    pub instances_json: String,
    /// When the pause ends at the latest, in Unix milliseconds.
    pub deadline_at: i64,
    /// Unix milliseconds.
    pub created_at: i64,
}

const OPEN: &str = "open a pause intent";
const CLOSE: &str = "close a pause intent";
const LIST: &str = "list open pause intents";

impl Catalog {
    /// Stores an intent, on the disk when this returns.
    pub async fn open_pause_intent(&self, epoch: i64, intent: &PauseIntent) -> Result<(), CatalogError> {
        let mut tx = self.begin_guarded(OPEN, epoch).await?;
        sqlx::query(
            "INSERT INTO pause_intent (intent_id, job_id, instances, deadline_at, created_at, closed) \
             VALUES ($1, $2, $3, $4, $5, 0)",
        )
        .bind(&intent.intent_id)
        .bind(&intent.job_id)
        .bind(&intent.instances_json)
        .bind(intent.deadline_at)
        .bind(intent.created_at)
        .execute(&mut *tx)
        .await
        .map_err(during(OPEN))?;
        tx.commit().await.map_err(during(OPEN))
    }

    /// All instances of the intent have acknowledged that they go on.
    pub async fn close_pause_intent(&self, epoch: i64, intent_id: &str) -> Result<(), CatalogError> {
        let mut tx = self.begin_guarded(CLOSE, epoch).await?;
        sqlx::query("UPDATE pause_intent SET closed = 1 WHERE intent_id = $1")
            .bind(intent_id)
            .execute(&mut *tx)
            .await
            .map_err(during(CLOSE))?;
        tx.commit().await.map_err(during(CLOSE))
    }

    /// Oldest first.
    pub async fn open_pause_intents(&self) -> Result<Vec<PauseIntent>, CatalogError> {
        let rows = sqlx::query(
            "SELECT intent_id, job_id, instances, deadline_at, created_at FROM pause_intent \
             WHERE closed = 0 ORDER BY created_at, intent_id",
        )
        .fetch_all(&self.reads)
        .await
        .map_err(during(LIST))?;
        rows.iter().map(intent).collect::<Result<_, _>>().map_err(during(LIST))
    }
}

fn intent(row: &AnyRow) -> Result<PauseIntent, sqlx::Error> {
    Ok(PauseIntent {
        intent_id: row.try_get(0)?,
        job_id: row.try_get(1)?,
        instances_json: row.try_get(2)?,
        deadline_at: row.try_get(3)?,
        created_at: row.try_get(4)?,
    })
}
