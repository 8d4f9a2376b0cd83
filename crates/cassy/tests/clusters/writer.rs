//! Somebody who writes all the time, to both keyspaces, and notes what was acknowledged.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cassy_testkit::cql::Cql;
use cassy_testkit::{Failure, Probe, wait_for};
use tokio::task::JoinSet;

const KEYSPACES: [&str; 2] = ["single", "triple"];
/// So that the rows stay few.
const PACE: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(60);

/// The rows of each keyspace.
pub(crate) type Acknowledged = [BTreeSet<u32>; 2];

/// Ends when it is dropped.
pub(crate) struct Writer {
    acknowledged: Arc<Mutex<Acknowledged>>,
    _writing: JoinSet<()>,
}

impl Writer {
    /// A node that is down fails the writes to it; these are not acknowledged, and it goes on.
    pub(crate) fn start(cql: Cql) -> Self {
        let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
        let cql = Arc::new(cql);
        let mut writing = JoinSet::new();
        for (index, keyspace) in KEYSPACES.into_iter().enumerate() {
            let (cql, acknowledged) = (Arc::clone(&cql), Arc::clone(&acknowledged));
            writing.spawn(async move {
                let mut pace = tokio::time::interval(PACE);
                for id in 0.. {
                    pace.tick().await;
                    let statement = format!("INSERT INTO {keyspace}.written (id) VALUES ({id})");
                    if cql.execute(&statement).await.is_ok() {
                        acknowledged.lock().unwrap_or_else(PoisonError::into_inner)[index].insert(id);
                    }
                }
            });
        }
        Self { acknowledged, _writing: writing }
    }

    /// What has been acknowledged so far.
    pub(crate) fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has been acknowledged so far does not count any more: some of it was lost, as no backup had it.
    pub(crate) fn forget(&self) {
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = Acknowledged::default();
    }

    /// Waits until more has been acknowledged, of both keyspaces.
    pub(crate) async fn writes(&self) -> Result<(), Failure> {
        let before = self.acknowledged();
        wait_for("writes are acknowledged", LIMIT, async || {
            let now = self.acknowledged();
            if now.iter().zip(&before).all(|(now, before)| now.len() > before.len()) {
                return Probe::Ready(());
            }
            Probe::NotYet(format!("{:?}", now.map(|rows| rows.len())))
        })
        .await
    }
}

/// Which of these rows are not there, `<keyspace> <id>`.
pub(crate) async fn missing(cql: &Cql, acknowledged: &Acknowledged) -> Result<Vec<String>, Failure> {
    let mut missing = Vec::new();
    for (keyspace, expected) in KEYSPACES.iter().zip(acknowledged) {
        assert!(!expected.is_empty(), "something was written to {keyspace}");
        let rows = cql.rows(&format!("SELECT id FROM {keyspace}.written")).await?;
        let found: BTreeSet<String> = rows.into_iter().flatten().collect();
        let lost = expected.iter().filter(|id| !found.contains(&format!("Int({id})")));
        missing.extend(lost.map(|id| format!("{keyspace} {id}")));
    }
    Ok(missing)
}
