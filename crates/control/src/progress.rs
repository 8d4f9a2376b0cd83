//! How far the nodes of all running jobs are, written to the database once a second in one batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cassy_agent_protocol::Progress;
use cassy_catalog::{Catalog, NodeProgress};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

const PERIOD: Duration = Duration::from_secs(1);

type Key = (String, String);

/// See the module.
pub(crate) struct ProgressBoard {
    catalog: Catalog,
    epoch: i64,
    watched: Mutex<HashMap<Key, watch::Receiver<Progress>>>,
}

impl ProgressBoard {
    pub(crate) fn new(catalog: Catalog, epoch: i64) -> Self {
        Self { catalog, epoch, watched: Mutex::default() }
    }

    pub(crate) fn watch(&self, job_id: &str, target: &str, progress: watch::Receiver<Progress>) {
        self.lock().insert((job_id.to_owned(), target.to_owned()), progress);
    }

    /// Writes what is not written yet, and forgets the job.
    pub(crate) async fn forget(&self, job_id: &str) {
        self.save().await;
        self.lock().retain(|(job, _), _| job != job_id);
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.save().await;
        }
    }

    async fn save(&self) {
        let changed = self.changed();
        if changed.is_empty() {
            return;
        }
        if let Err(error) = self.catalog.save_progress(self.epoch, &changed).await {
            tracing::debug!(error = %error, "progress was not saved");
        }
    }

    fn changed(&self) -> Vec<NodeProgress> {
        let mut watched = self.lock();
        let changed = watched.iter_mut().filter(|(_, progress)| progress.has_changed().unwrap_or(false));
        changed
            .map(|((job_id, target_ip), progress)| {
                let now = *progress.borrow_and_update();
                NodeProgress {
                    job_id: job_id.clone(),
                    target_ip: target_ip.clone(),
                    bytes_done: now.bytes_done,
                    bytes_total: now.bytes_total,
                }
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, watch::Receiver<Progress>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
