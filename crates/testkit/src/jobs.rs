//! The server's stored jobs, watched from outside: a stage is stored before it starts, so who holds the database when
//! a stage has just been stored has the server exactly there.

use std::path::Path;
use std::time::Duration;

use crate::wait::catch;
use crate::{Doing, Failure, Probe};
use sqlx::{Connection, Executor, SqliteConnection};

const JOB_LIMIT: Duration = Duration::from_secs(300);
const NEWEST: &str =
    "SELECT rowid, job_id, snapshot_id, stage, finished FROM job ORDER BY rowid DESC LIMIT 1";

/// A row of the table of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredJob {
    /// Grows with each job.
    pub(crate) row: i64,
    pub(crate) job_id: String,
    pub(crate) snapshot_id: String,
    pub(crate) stage: String,
    pub(crate) finished: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Jobs {
    connection: SqliteConnection,
}

impl Jobs {
    pub(crate) async fn open(database: &Path) -> Result<Self, Failure> {
        let url = format!("sqlite://{}", database.display());
        let mut connection =
            SqliteConnection::connect(&url).await.doing(|| format!("open {}", database.display()))?;
        connection.execute("PRAGMA busy_timeout = 20000").await.doing(|| "set the database's patience")?;
        Ok(Self { connection })
    }

    /// The newest job, whoever asked for it.
    pub(crate) async fn newest(&mut self) -> Result<Option<StoredJob>, Failure> {
        let row = sqlx::query_as::<_, (i64, String, String, String, bool)>(NEWEST)
            .fetch_optional(&mut self.connection)
            .await
            .doing(|| "read the newest job")?;
        Ok(row.map(|(row, job_id, snapshot_id, stage, finished)| StoredJob {
            row,
            job_id,
            snapshot_id,
            stage,
            finished,
        }))
    }

    /// The newest job's row; 0 while there is none.
    pub(crate) async fn newest_row(&mut self) -> Result<i64, Failure> {
        Ok(self.newest().await?.map_or(0, |job| job.row))
    }

    /// Waits until the job after this row is as wanted, and looks often, as some stages take a millisecond.
    pub(crate) async fn watch(
        &mut self,
        after: i64,
        wanted: impl Fn(&StoredJob) -> bool,
    ) -> Result<StoredJob, Failure> {
        catch("the job is as wanted", JOB_LIMIT, async || match self.newest().await {
            Ok(Some(job)) if job.row > after && wanted(&job) => Probe::Ready(job),
            Ok(newest) => Probe::NotYet(format!("{newest:?}")),
            Err(failure) => Probe::Broken(failure),
        })
        .await
    }

    /// From now on nobody else writes: no stage begins.
    pub(crate) async fn hold(&mut self) -> Result<(), Failure> {
        self.connection.execute("BEGIN IMMEDIATE").await.map(drop).doing(|| "hold the database")
    }

    /// Lets the others write again.
    pub(crate) async fn release(&mut self) -> Result<(), Failure> {
        self.connection.execute("ROLLBACK").await.map(drop).doing(|| "let the database go")
    }
}
