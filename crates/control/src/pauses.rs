//! Pause intents: whom a freeze may have paused, on the disk before the first is asked to, until all go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_backup_format::BackupId;
use cassy_catalog::{Catalog, CatalogError, PauseIntent};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::applications::{Applications, InstanceFailure};
use crate::clock::Clock;
use crate::job::{BackupJob, Failure, listed};
use crate::perform::chain;
use crate::perform::guards::Guards;

/// How much later than its deadline a Pause, or a guard, may act: it travels, and clocks differ.
pub(crate) const LATE: Duration = Duration::from_secs(1);
/// How much later than the intent a guard may be armed, which counts from then.
const ARMED_AFTER: Duration = Duration::from_secs(10);
/// One round of the tries beside everything else.
const ROUND: Duration = Duration::from_secs(60);
/// An instance that has not answered for so long, and that no record names any more, is taken for gone.
const GONE_AFTER: Duration = Duration::from_secs(3600);
/// Between two tries to close an intent.
const CLOSE_PAUSE: Duration = Duration::from_secs(1);
/// Of what has to end when the server stops.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// See the module.
pub(crate) struct Pauses {
    pub(crate) applications: Arc<dyn Applications>,
    /// The longest time from the first Pause to the last Unpause.
    pub(crate) longest: Duration,
    pub(crate) catalog: Catalog,
    pub(crate) epoch: i64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: CancellationToken,
    /// What goes on although nobody waits for it.
    pub(crate) tasks: TaskTracker,
    /// An intent was closed.
    pub(crate) closed: Notify,
    /// By intent, those that have not acknowledged yet that they go on.
    pub(crate) deaf: Mutex<HashMap<String, Vec<Instance>>>,
}

/// An intent that is open. Dropped, everybody is unpaused in the background until nothing of this pause acts any more.
pub(crate) struct OpenPause {
    pauses: Arc<Pauses>,
    intent_id: String,
    /// `None` when it is seen to.
    instances: Option<Vec<Instance>>,
    /// Until then Pauses and guards may act.
    settled: Instant,
}

impl Pauses {
    /// Before the first Pause is sent, when [`Self::none_is_open`].
    pub(crate) async fn open(
        self: &Arc<Self>,
        job: &BackupJob,
        instances: Vec<Instance>,
    ) -> Result<OpenPause, Failure> {
        let now = self.clock.now_ms();
        let span = self.longest + ARMED_AFTER + LATE;
        let intent = PauseIntent {
            intent_id: BackupId::at(now).to_string(),
            job_id: job.backup_id.to_string(),
            instances_json: serde_json::to_string(&instances).expect("instances are texts"),
            deadline_at: now.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
            created_at: now,
        };
        let stored = self.catalog.open_pause_intent(self.epoch, &intent).await;
        let open = self.opened(intent.intent_id, instances, span);
        if let Err(error) = stored {
            // It may be there all the same.
            open.close().await;
            return Err(not_stored(&error));
        }
        Ok(open)
    }

    fn opened(self: &Arc<Self>, intent_id: String, instances: Vec<Instance>, span: Duration) -> OpenPause {
        let settled = Instant::now() + span;
        OpenPause { pauses: Arc::clone(self), intent_id, instances: Some(instances), settled }
    }

    /// Waits until the earlier ones are closed, as their Unpauses would end a new pause: as long as their guards may act,
    /// and a round more.
    pub(crate) async fn none_is_open(&self) -> Result<(), Failure> {
        let mut end = None;
        loop {
            let closed = self.closed.notified();
            let open = self.catalog.open_pause_intents().await.map_err(|error| not_stored(&error))?;
            let Some(earlier) = open.first() else { return Ok(()) };
            let longest = open.iter().map(span).max().unwrap_or_default();
            let end = *end.get_or_insert_with(|| Instant::now() + longest + ROUND);
            if timeout_at(end, closed).await.is_err() {
                return Err(self.still_open(earlier));
            }
        }
    }

    /// Who stands in the way, since when, how long at most, and what to do.
    fn still_open(&self, intent: &PauseIntent) -> Failure {
        let deaf = self.deaf().get(&intent.intent_id).cloned();
        let deaf: Vec<_> =
            deaf.unwrap_or_else(|| instances_of(intent)).iter().map(ToString::to_string).collect();
        let minutes = self.clock.now_ms().saturating_sub(intent.created_at) / 60_000;
        Failure {
            unavailable: false,
            message: format!(
                "of the applications that the backup {} paused {minutes} min ago these have not acknowledged that they go on: {}",
                intent.job_id,
                listed(&deaf)
            ),
            hint: Some(format!(
                "see whether they run and can be reached: they are asked again and again, and `cassy unpause` does so too. One \
                 that the SRV record (srv_service_url) does not name any more is waited for at most {} min",
                GONE_AFTER.as_secs() / 60
            )),
        }
    }

    fn deaf(&self) -> MutexGuard<'_, HashMap<String, Vec<Instance>>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unpauses what an earlier server has left paused, beside everything else: its guards and its Pauses may act as
    /// long as a pause takes, counted from now, as clocks may have been set meanwhile.
    pub(crate) async fn take_up(self: &Arc<Self>) -> Result<(), CatalogError> {
        for intent in self.catalog.open_pause_intents().await? {
            let instances = instances_of(&intent);
            tracing::warn!(
                job = intent.job_id,
                instances = instances.len(),
                "unpausing what an earlier server has left"
            );
            drop(self.opened(intent.intent_id.clone(), instances, span(&intent)));
        }
        Ok(())
    }

    /// Ends what is under way; what is left of it is taken up at the next start.
    pub(crate) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::error!("a pause has not ended in time; its guards end it");
        }
    }

    async fn keep_unpausing(&self, intent_id: &str, mut instances: Vec<Instance>, settled: Instant) {
        let begun = Instant::now();
        while !instances.is_empty() {
            self.deaf().insert(intent_id.to_owned(), instances.clone());
            let late = settled.saturating_duration_since(Instant::now());
            let left = self.applications.unpause(&instances, late, late + ROUND).await;
            for failure in &left {
                tracing::error!(instance = %failure.instance, why = failure.failure.text(), "not known to go on; trying again");
            }
            instances = left.into_iter().map(|failure| failure.instance).collect();
            if begun.elapsed() > GONE_AFTER {
                instances = self.still_named(instances).await;
            }
        }
        self.deaf().remove(intent_id);
        tracing::info!("all instances go on");
    }

    /// Those that are not named any more are gone with their hosts.
    async fn still_named(&self, instances: Vec<Instance>) -> Vec<Instance> {
        let Ok(named) = self.applications.find().await else { return instances };
        let is_named = |instance: &Instance| named.iter().any(|named| named.address == instance.address);
        let (named, gone): (Vec<_>, Vec<_>) = instances.into_iter().partition(is_named);
        for instance in gone {
            tracing::error!(%instance, "does not answer, and no record names it any more: taken for gone");
        }
        named
    }

    /// Closes the intent; false when the database is out of reach.
    async fn close_once(&self, intent_id: &str) -> bool {
        let closed = self.catalog.close_pause_intent(self.epoch, intent_id).await;
        if let Err(error) = &closed {
            tracing::error!(error = chain(error), "the intent of a pause stays open");
        }
        self.closed.notify_waiters();
        !matches!(closed, Err(CatalogError::Database { .. }))
    }

    /// Closes the intent, however long the database is out of reach.
    async fn close(&self, intent_id: &str) {
        while !self.close_once(intent_id).await {
            sleep(CLOSE_PAUSE).await;
        }
    }
}

/// Whom the database knows to have been paused, by pauses that are not known to be over.
///
/// # Errors
/// When the database cannot be read.
pub async fn left_paused(catalog: &Catalog) -> Result<Vec<Instance>, CatalogError> {
    let intents = catalog.open_pause_intents().await?;
    Ok(intents.iter().flat_map(instances_of).collect())
}

/// What cannot be read was written by nobody of ours, and pauses nobody.
fn instances_of(intent: &PauseIntent) -> Vec<Instance> {
    serde_json::from_str(&intent.instances_json).unwrap_or_else(|error| {
        tracing::error!(job = intent.job_id, %error, "the intent of a pause cannot be read: cassy unpause, if an application is paused");
        Vec::new()
    })
}

impl OpenPause {
    pub(crate) fn instances(&self) -> &[Instance] {
        self.instances.as_deref().unwrap_or_default()
    }

    /// Everybody goes on. A database that is out of reach hears of it later.
    pub(crate) async fn close(mut self) {
        self.instances = None;
        let (pauses, intent_id) = (Arc::clone(&self.pauses), std::mem::take(&mut self.intent_id));
        if !pauses.close_once(&intent_id).await {
            self.in_background(async move { pauses.close(&intent_id).await });
        }
    }

    /// Some have not acknowledged that they go on: they are asked again and again, also as long as the guards may act.
    pub(crate) fn see_to(mut self, left: Vec<InstanceFailure>, guards: Guards) {
        self.instances = None;
        let left = left.into_iter().map(|failure| failure.instance).collect();
        self.keep_unpausing(left, Some(guards));
    }

    fn keep_unpausing(&mut self, instances: Vec<Instance>, guards: Option<Guards>) {
        let (pauses, settled) = (Arc::clone(&self.pauses), self.settled);
        let intent_id = std::mem::take(&mut self.intent_id);
        self.in_background(async move {
            pauses.keep_unpausing(&intent_id, instances, settled).await;
            if let Some(guards) = guards {
                guards.release().await;
            }
            pauses.close(&intent_id).await;
        });
    }

    /// Until the server stops.
    fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.pauses.stop.clone();
        if stop.is_cancelled() {
            return;
        }
        let until_stopped = async move { stop.run_until_cancelled(work).await };
        // Without a runtime the process is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.pauses.tasks.spawn_on(until_stopped, &runtime);
        }
    }
}

impl Drop for OpenPause {
    fn drop(&mut self) {
        if let Some(instances) = self.instances.take() {
            self.keep_unpausing(instances, None);
        }
    }
}

/// As long its Pauses and guards may act.
fn span(intent: &PauseIntent) -> Duration {
    Duration::from_millis(u64::try_from(intent.deadline_at.saturating_sub(intent.created_at)).unwrap_or(0))
}

fn not_stored(error: &CatalogError) -> Failure {
    Failure {
        unavailable: true,
        message: format!("the intent to pause the applications was not stored: {}", chain(error)),
        hint: Some("nothing was paused; see to the metadata database (metadata_db_url)".to_owned()),
    }
}
