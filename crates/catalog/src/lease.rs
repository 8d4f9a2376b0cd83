//! Who may write. One row per lease; its epoch grows each time it is taken and never goes back.

use crate::error::during;
use crate::{Catalog, CatalogError, ErrorClass};
use sqlx::{Any, Executor, Row, Transaction};
use std::time::Duration;

/// The lease under which jobs are run: its epoch is the one that every write of a job carries.
pub const SERVER_LEASE: &str = "server";

/// A lease that was taken. Dropping it gives nothing back: it expires, or is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which lease.
    pub name: String,
    /// Who has it.
    pub holder: String,
    /// Greater than every earlier one.
    pub epoch: i64,
    /// For how long it is valid after each renewal.
    pub ttl: Duration,
}

/// Why a lease could not be taken, kept or given back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has it.
    #[error(
        "the metadata database is in use by another server ({holder}), whose lease ends in {} s",
        .expires_in.as_secs_f64().ceil()
    )]
    HeldBy {
        /// Who.
        holder: String,
        /// Until when, unless it is renewed.
        expires_in: Duration,
    },
    /// It was taken over by somebody else, or released.
    #[error("the lease {name} with epoch {epoch} is over: {}", whose(holder))]
    Lost {
        /// Which lease.
        name: String,
        /// The epoch that is over.
        epoch: i64,
        /// Who has it now; empty when nobody has.
        holder: String,
    },
    /// The database failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl LeaseError {
    /// Whether trying again can help.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::HeldBy { .. } => ErrorClass::Transient,
            Self::Lost { .. } => ErrorClass::Permanent,
            Self::Catalog(error) => error.class(),
        }
    }
}

fn whose(holder: &str) -> String {
    match holder {
        "" => "nobody holds it".to_owned(),
        holder => format!("another server has taken it over ({holder})"),
    }
}

/// The database's clock in Unix milliseconds, as an SQL expression.
macro_rules! now {
    () => {
        "CAST(ROUND(unixepoch('now', 'subsec') * 1000) AS BIGINT)"
    };
}

const TAKE: &str = "take the lease";
const RENEW: &str = "renew the lease";
const RETAKE: &str = "take the lease again";
const RELEASE: &str = "release the lease";

impl Catalog {
    /// Takes the lease when it is free, expired, released, or its holder is known to be dead. `holder` names
    /// this process and no other (host, process id and start time, say); `is_dead` is asked about the present
    /// holder only, and must be quick.
    pub async fn take_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
        is_dead: impl Fn(&str) -> bool + Send,
    ) -> Result<Lease, LeaseError> {
        let mut tx = self.writes.begin().await.map_err(during(TAKE))?;
        ensure_row(&mut tx, name).await?;
        let present = present(&mut *tx, TAKE, name).await?;
        if !present.is_free() && present.holder != holder && !is_dead(&present.holder) {
            return Err(LeaseError::HeldBy { holder: present.holder, expires_in: present.remaining });
        }
        let epoch = present.epoch + 1;
        let taken = sqlx::query(concat!(
            "UPDATE lease SET holder = $1, epoch = $2, expires_at = ",
            now!(),
            " + $3 WHERE name = $4 AND epoch = $5"
        ))
        .bind(holder)
        .bind(epoch)
        .bind(millis(ttl))
        .bind(name)
        .bind(present.epoch)
        .execute(&mut *tx)
        .await
        .map_err(during(TAKE))?;
        if taken.rows_affected() != 1 {
            return Err(LeaseError::Lost { name: name.to_owned(), epoch, holder: present.holder });
        }
        tx.commit().await.map_err(during(TAKE))?;
        Ok(Lease { name: name.to_owned(), holder: holder.to_owned(), epoch, ttl })
    }

    /// Makes the lease valid for its whole time again, also when it has expired but nobody took it over.
    pub async fn renew(&self, lease: &Lease) -> Result<(), LeaseError> {
        let renewed = sqlx::query(concat!(
            "UPDATE lease SET expires_at = ",
            now!(),
            " + $1 WHERE name = $2 AND holder = $3 AND epoch = $4"
        ))
        .bind(millis(lease.ttl))
        .bind(&lease.name)
        .bind(&lease.holder)
        .bind(lease.epoch)
        .execute(&self.writes)
        .await
        .map_err(during(RENEW))?;
        self.kept(RENEW, lease, renewed.rows_affected()).await
    }

    /// Takes the lease again, with a new epoch, after a time in which it could not be renewed; it is lost when
    /// anybody else had it in that time, even if they have given it back. What this process still had under way
    /// with the old epoch writes nothing any more.
    pub async fn retake(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let mut tx = self.writes.begin().await.map_err(during(RETAKE))?;
        // Not by the epoch: an earlier try may have been stored without our hearing of it.
        let retaken = sqlx::query(concat!(
            "UPDATE lease SET epoch = epoch + 1, expires_at = ",
            now!(),
            " + $1 WHERE name = $2 AND holder = $3"
        ))
        .bind(millis(lease.ttl))
        .bind(&lease.name)
        .bind(&lease.holder)
        .execute(&mut *tx)
        .await
        .map_err(during(RETAKE))?;
        let present = present(&mut *tx, RETAKE, &lease.name).await?;
        if retaken.rows_affected() != 1 {
            return Err(lost(lease, present.holder));
        }
        tx.commit().await.map_err(during(RETAKE))?;
        Ok(Lease { epoch: present.epoch, ..lease.clone() })
    }

    /// Gives the lease back: the next server need not wait, and no write with this epoch succeeds any more.
    pub async fn release(&self, lease: &Lease) -> Result<(), LeaseError> {
        let released = sqlx::query(
            "UPDATE lease SET holder = '', epoch = epoch + 1, expires_at = 0 \
             WHERE name = $1 AND holder = $2 AND epoch = $3",
        )
        .bind(&lease.name)
        .bind(&lease.holder)
        .bind(lease.epoch)
        .execute(&self.writes)
        .await
        .map_err(during(RELEASE))?;
        self.kept(RELEASE, lease, released.rows_affected()).await
    }

    async fn kept(
        &self,
        operation: &'static str,
        lease: &Lease,
        rows_affected: u64,
    ) -> Result<(), LeaseError> {
        if rows_affected == 1 {
            return Ok(());
        }
        let present = present(&self.reads, operation, &lease.name).await?;
        Err(lost(lease, present.holder))
    }

    /// Begins a transaction that goes on only while `epoch` is that of [`SERVER_LEASE`]. Its first statement
    /// is a write, so that it holds the write lock from its beginning, and never has to upgrade a read.
    pub(crate) async fn begin_guarded(
        &self,
        operation: &'static str,
        epoch: i64,
    ) -> Result<Transaction<'static, Any>, CatalogError> {
        let mut tx = self.writes.begin().await.map_err(during(operation))?;
        let current = sqlx::query("UPDATE lease SET epoch = epoch WHERE name = $1 AND epoch = $2")
            .bind(SERVER_LEASE)
            .bind(epoch)
            .execute(&mut *tx)
            .await
            .map_err(during(operation))?;
        match current.rows_affected() {
            1 => Ok(tx),
            _ => Err(CatalogError::StaleEpoch { operation, epoch }),
        }
    }
}

/// The lease as it is now.
struct Present {
    holder: String,
    epoch: i64,
    remaining: Duration,
}

impl Present {
    fn is_free(&self) -> bool {
        self.holder.is_empty() || self.remaining.is_zero()
    }
}

/// The first statement of a take-over, and a write: see [`Catalog::begin_guarded`].
async fn ensure_row(tx: &mut Transaction<'static, Any>, name: &str) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO lease (name, holder, epoch, expires_at) \
         SELECT $1, '', 0, 0 WHERE NOT EXISTS (SELECT 1 FROM lease WHERE name = $2)",
    )
    .bind(name)
    .bind(name)
    .execute(&mut **tx)
    .await
    .map_err(during(TAKE))?;
    Ok(())
}

async fn present<'c>(
    database: impl Executor<'c, Database = Any>,
    operation: &'static str,
    name: &str,
) -> Result<Present, CatalogError> {
    let read = |row: sqlx::any::AnyRow| {
        let remaining = row.try_get::<i64, _>(2)?;
        Ok(Present {
            holder: row.try_get(0)?,
            epoch: row.try_get(1)?,
            remaining: Duration::from_millis(u64::try_from(remaining).unwrap_or(0)),
        })
    };
    sqlx::query(concat!("SELECT holder, epoch, expires_at - ", now!(), " FROM lease WHERE name = $1"))
        .bind(name)
        .fetch_one(database)
        .await
        .and_then(read)
        .map_err(during(operation))
}

fn lost(lease: &Lease, holder: String) -> LeaseError {
    LeaseError::Lost { name: lease.name.clone(), epoch: lease.epoch, holder }
}

fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4)
}
