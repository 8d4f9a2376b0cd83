//! Pause intents: whom a freeze may have paused, on the disk before the first is asked to, until all go on.

use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_backup_format::BackupId;
use cassy_catalog::{Catalog, CatalogError, PauseIntent};
use tokio_util::sync::CancellationToken;

use crate::applications::{Applications, InstanceFailure};
use crate::clock::Clock;
use crate::job::{BackupJob, Failure};
use crate::perform::chain;

/// How long a start waits for instances that an earlier server has left; then it goes on beside it.
const START_LIMIT: Duration = Duration::from_secs(30);
/// One round of the tries beside everything else.
const ROUND: Duration = Duration::from_secs(60);
/// Between two tries to store that a pause is over.
const CLOSE_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Pauses {
    pub(crate) applications: Arc<dyn Applications>,
    /// The longest time from the first Pause to the last Unpause.
    pub(crate) longest: Duration,
    pub(crate) catalog: Catalog,
    pub(crate) epoch: i64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: CancellationToken,
}

/// An intent that is open.
pub(crate) struct OpenPause {
    intent_id: String,
    pub(crate) instances: Vec<Instance>,
}

impl Pauses {
    /// Before the first Pause is sent. Refused as long as an earlier pause is not over: its Unpauses would end this one.
    pub(crate) async fn open(&self, job: &BackupJob, instances: Vec<Instance>) -> Result<OpenPause, Failure> {
        let open = self.catalog.open_pause_intents().await.map_err(|error| not_stored(&error))?;
        if let Some(earlier) = open.first() {
            return Err(Failure {
                unavailable: false,
                message: format!(
                    "the applications that the backup {} paused have not all acknowledged that they go on",
                    earlier.job_id
                ),
                hint: Some("they are asked again and again: the server's log names them".to_owned()),
            });
        }
        let now = self.clock.now_ms();
        let intent = PauseIntent {
            intent_id: BackupId::at(now).to_string(),
            job_id: job.backup_id.to_string(),
            instances_json: serde_json::to_string(&instances).expect("instances are texts"),
            deadline_at: now.saturating_add(i64::try_from(self.longest.as_millis()).unwrap_or(i64::MAX)),
            created_at: now,
        };
        let stored = self.catalog.open_pause_intent(self.epoch, &intent).await;
        stored.map_err(|error| not_stored(&error))?;
        Ok(OpenPause { intent_id: intent.intent_id, instances })
    }

    /// Everybody goes on. What the database does not take now is tried again beside everything else: as long as the
    /// intent is open, nobody is paused for another backup.
    pub(crate) async fn close(self: &Arc<Self>, pause: &OpenPause) {
        if self.is_closed(&pause.intent_id).await {
            return;
        }
        let (pauses, intent_id) = (Arc::clone(self), pause.intent_id.clone());
        let keep_closing = async move {
            loop {
                tokio::time::sleep(CLOSE_PAUSE).await;
                if pauses.is_closed(&intent_id).await {
                    return;
                }
            }
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(keep_closing).await });
    }

    /// Whether nothing is left to try.
    async fn is_closed(&self, intent_id: &str) -> bool {
        match self.catalog.close_pause_intent(self.epoch, intent_id).await {
            Ok(()) => true,
            Err(error @ CatalogError::Database { .. }) => {
                tracing::warn!(error = chain(&error), "the intent of a pause was not closed; trying again");
                false
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "the intent of a pause stays open until the next start"
                );
                true
            }
        }
    }

    /// Unpauses what an earlier server has left paused. What does not acknowledge in time is tried on beside everything
    /// else.
    pub(crate) async fn take_up(self: &Arc<Self>) -> Result<(), CatalogError> {
        for intent in self.catalog.open_pause_intents().await? {
            let pause = match serde_json::from_str(&intent.instances_json) {
                Ok(instances) => OpenPause { intent_id: intent.intent_id, instances },
                Err(error) => {
                    tracing::error!(job = intent.job_id, %error, "the intent of a pause cannot be read: cassy unpause, if an application is paused");
                    continue;
                }
            };
            tracing::warn!(
                job = intent.job_id,
                instances = pause.instances.len(),
                "unpausing what an earlier server has left"
            );
            let late = u64::try_from(intent.deadline_at.saturating_sub(self.clock.now_ms())).unwrap_or(0);
            let late = Duration::from_millis(late).min(self.longest);
            let left = self.applications.unpause(&pause.instances, late, late + START_LIMIT).await;
            self.see_to(pause, left).await;
        }
        Ok(())
    }

    /// Closes the intent when nobody is left, else goes on in the background.
    pub(crate) async fn see_to(self: &Arc<Self>, pause: OpenPause, left: Vec<InstanceFailure>) {
        if left.is_empty() {
            return self.close(&pause).await;
        }
        let pauses = Arc::clone(self);
        tokio::spawn(async move {
            let stop = pauses.stop.clone();
            stop.run_until_cancelled(Arc::clone(&pauses).keep_unpausing(pause, left)).await;
        });
    }

    async fn keep_unpausing(self: Arc<Self>, pause: OpenPause, mut left: Vec<InstanceFailure>) {
        while !left.is_empty() {
            for failure in &left {
                tracing::error!(instance = %failure.instance, why = failure.failure.text(), "not known to go on; trying again");
            }
            let instances: Vec<_> = left.into_iter().map(|failure| failure.instance).collect();
            left = self.applications.unpause(&instances, Duration::ZERO, ROUND).await;
        }
        tracing::info!("all instances go on");
        self.close(&pause).await;
    }
}

fn not_stored(error: &CatalogError) -> Failure {
    Failure {
        unavailable: true,
        message: format!("the intent to pause the applications was not stored: {}", chain(error)),
        hint: Some("nothing was paused; see to the metadata database (metadata_db_url)".to_owned()),
    }
}
