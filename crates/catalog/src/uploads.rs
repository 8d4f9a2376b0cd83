//! Upload sessions: which prefix of object keys belongs to whom, known before the first byte is sent, so that
//! what a killed agent left in the store can be told from what another one is sending right now.

use crate::error::during;
use crate::{Catalog, CatalogError};
use sqlx::Row;
use sqlx::any::AnyRow;

/// One sending session of one agent on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadSession {
    /// Part of every attempt that this session draws.
    pub session_id: String,
    /// Where it sends to.
    pub cluster_id: String,
    /// Whose files it sends.
    pub host_id: String,
    /// For which job.
    pub job_id: String,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Nothing is sent under this session any more.
    pub closed: bool,
}

const OPEN: &str = "open an upload session";
const CLOSE: &str = "close an upload session";
const LIST: &str = "list upload sessions";

impl Catalog {
    /// Stores a session, before its agent is told of it.
    pub async fn open_upload_session(&self, epoch: i64, session: &UploadSession) -> Result<(), CatalogError> {
        let mut tx = self.begin_guarded(OPEN, epoch).await?;
        sqlx::query(
            "INSERT INTO upload_session (session_id, cluster_id, host_id, job_id, created_at, closed) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&session.session_id)
        .bind(&session.cluster_id)
        .bind(&session.host_id)
        .bind(&session.job_id)
        .bind(session.created_at)
        .bind(i32::from(session.closed))
        .execute(&mut *tx)
        .await
        .map_err(during(OPEN))?;
        tx.commit().await.map_err(during(OPEN))
    }

    /// Notes that nothing is sent under this session any more. Closing twice, or closing an unknown one, is fine.
    pub async fn close_upload_session(&self, epoch: i64, session_id: &str) -> Result<(), CatalogError> {
        let mut tx = self.begin_guarded(CLOSE, epoch).await?;
        sqlx::query("UPDATE upload_session SET closed = 1 WHERE session_id = $1")
            .bind(session_id)
            .execute(&mut *tx)
            .await
            .map_err(during(CLOSE))?;
        tx.commit().await.map_err(during(CLOSE))
    }

    /// The sessions of a node in which nobody sends any more, oldest first: they are open, and of this job, or of one
    /// that has ended or is not known. Whoever asks has seen to it that nobody sends for this job.
    pub async fn dead_upload_sessions(
        &self,
        cluster_id: &str,
        host_id: &str,
        job_id: &str,
    ) -> Result<Vec<UploadSession>, CatalogError> {
        let rows = sqlx::query(
            "SELECT session_id, cluster_id, host_id, job_id, created_at, closed FROM upload_session s \
             WHERE cluster_id = $1 AND host_id = $2 AND closed = 0 AND (job_id = $3 OR NOT EXISTS \
             (SELECT 1 FROM job WHERE job.job_id = s.job_id AND job.finished = 0)) ORDER BY created_at, session_id",
        )
        .bind(cluster_id)
        .bind(host_id)
        .bind(job_id)
        .fetch_all(&self.reads)
        .await
        .map_err(during(LIST))?;
        rows.iter().map(session).collect::<Result<_, _>>().map_err(during(LIST))
    }

    /// All sessions of a node, closed ones too, oldest first.
    pub async fn upload_sessions(
        &self,
        cluster_id: &str,
        host_id: &str,
    ) -> Result<Vec<UploadSession>, CatalogError> {
        let rows = sqlx::query(
            "SELECT session_id, cluster_id, host_id, job_id, created_at, closed FROM upload_session \
             WHERE cluster_id = $1 AND host_id = $2 ORDER BY created_at, session_id",
        )
        .bind(cluster_id)
        .bind(host_id)
        .fetch_all(&self.reads)
        .await
        .map_err(during(LIST))?;
        rows.iter().map(session).collect::<Result<_, _>>().map_err(during(LIST))
    }
}

fn session(row: &AnyRow) -> Result<UploadSession, sqlx::Error> {
    Ok(UploadSession {
        session_id: row.try_get(0)?,
        cluster_id: row.try_get(1)?,
        host_id: row.try_get(2)?,
        job_id: row.try_get(3)?,
        created_at: row.try_get(4)?,
        closed: row.try_get::<i64, _>(5)? != 0,
    })
}
