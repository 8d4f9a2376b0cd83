//! What can go wrong with the database, and whether trying again can help.

use sqlx::Error as SqlError;

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The same call may succeed later: the database is busy, or its disk is full.
    Transient,
    /// It will not, unless somebody changes something.
    Permanent,
}

/// Why a call to the catalog failed. Nothing of the call has been stored.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The database refused or could not be asked.
    #[error("cannot {operation} in the metadata database")]
    Database {
        /// What was to be done, as an infinitive.
        operation: &'static str,
        /// The driver's error.
        #[source]
        source: SqlError,
    },
    /// The lease under which the caller acts has been taken over, or given back.
    #[error("cannot {operation}: another server has taken over since (epoch {epoch} is over)")]
    StaleEpoch {
        /// What was to be done.
        operation: &'static str,
        /// The epoch that the caller came with.
        epoch: i64,
    },
    /// There is no such job.
    #[error("cannot {operation}: there is no job {job_id}")]
    UnknownJob {
        /// What was to be done.
        operation: &'static str,
        /// The id that was asked for.
        job_id: String,
    },
    /// The job is in its final state, which never changes.
    #[error("cannot {operation}: the job {job_id} is finished already")]
    JobFinished {
        /// What was to be done.
        operation: &'static str,
        /// The finished job.
        job_id: String,
    },
    /// A row with this key is there already.
    #[error("cannot {operation}: a row with the same key exists already")]
    AlreadyExists {
        /// What was to be done.
        operation: &'static str,
        /// The driver's error, which names the columns.
        #[source]
        source: SqlError,
    },
    /// A value that the tables cannot hold.
    #[error("cannot {operation}: {field} {value:?} {problem}")]
    InvalidValue {
        /// What was to be done.
        operation: &'static str,
        /// Which field.
        field: &'static str,
        /// What it was.
        value: String,
        /// Why it cannot be stored.
        problem: &'static str,
    },
    /// A stored value that no version of ours has written.
    #[error("cannot {operation}: the column {column} holds {value:?}, which this version does not know")]
    UnknownValue {
        /// What was to be done.
        operation: &'static str,
        /// Which column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
}

impl CatalogError {
    /// Whether trying again can help.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Database { source, .. } => class_of(source),
            Self::StaleEpoch { .. }
            | Self::UnknownJob { .. }
            | Self::JobFinished { .. }
            | Self::AlreadyExists { .. }
            | Self::InvalidValue { .. }
            | Self::UnknownValue { .. } => ErrorClass::Permanent,
        }
    }
}

/// Turns a driver's error into ours; `operation` is an infinitive.
pub(crate) fn during(operation: &'static str) -> impl Fn(SqlError) -> CatalogError + Copy {
    move |source| match &source {
        SqlError::Database(error) if error.is_unique_violation() => {
            CatalogError::AlreadyExists { operation, source }
        }
        _ => CatalogError::Database { operation, source },
    }
}

/// Busy, locked, full, and a pool that had no connection left, pass; all else stays.
pub(crate) fn class_of(error: &SqlError) -> ErrorClass {
    let transient = match error {
        SqlError::PoolTimedOut => true,
        SqlError::Database(_) => {
            matches!(sqlite_code(error), Some(SQLITE_BUSY | SQLITE_LOCKED | SQLITE_FULL | SQLITE_NOMEM))
        }
        _ => false,
    };
    if transient { ErrorClass::Transient } else { ErrorClass::Permanent }
}

pub(crate) const SQLITE_BUSY: i32 = 5;
pub(crate) const SQLITE_LOCKED: i32 = 6;
pub(crate) const SQLITE_NOMEM: i32 = 7;
pub(crate) const SQLITE_FULL: i32 = 13;
pub(crate) const SQLITE_CORRUPT: i32 = 11;
pub(crate) const SQLITE_NOT_A_DATABASE: i32 = 26;

/// The primary result code (the extended one without its upper bytes).
pub(crate) fn sqlite_code(error: &SqlError) -> Option<i32> {
    let SqlError::Database(error) = error else {
        return None;
    };
    let extended: i32 = error.code()?.parse().ok()?;
    Some(extended & 0xff)
}
