//! The metadata database: migrations and typed queries. The only place with SQL.
//!
//! [`Catalog`] is the one entry point. What it holds is a cache of what the object store says (clusters,
//! histories) plus what only the server knows (its lease, its jobs, SSH host keys).
//!
//! - Every write of a job carries the epoch of the lease under which it was decided, and is refused with
//!   [`CatalogError::StaleEpoch`] in the same transaction when another server has taken over since.
//! - A job and its rows in the history tables change in one transaction.
//! - Times are Unix milliseconds given by the caller; only leases go by the database's own clock.
//! - All values are bound, none is ever part of a statement's text.

mod clusters;
mod error;
mod history;
mod hosts;
mod intents;
mod jobs;
mod lease;
mod lenient;
mod open;
mod uploads;
mod url;

pub use clusters::{ClusterNode, ClusterRow, ClusterSelector};
pub use error::{CatalogError, ErrorClass};
pub use history::{HistoryEntry, HistorySelector, LISTED_MOST};
pub use intents::PauseIntent;
pub use jobs::{Job, JobKey, JobKind, JobPart, JobUpdate, NewJob, NodeProgress, NodeRow};
pub use lease::{Lease, LeaseError, SERVER_LEASE};
pub use open::{Catalog, OpenError};
pub use uploads::UploadSession;
pub use url::{MetadataUrl, MetadataUrlError};
