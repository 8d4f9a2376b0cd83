//! The jobs that this server drives, for those who ask for one by its id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::job::{BackupJob, RestoreJob};
use crate::machine::Machine;

/// How a job is now.
#[derive(Clone)]
pub(crate) enum View {
    Backup(watch::Receiver<BackupJob>),
    Restore(watch::Receiver<RestoreJob>),
}

/// All of them, those that wait for their nodes after a restart too.
#[derive(Default)]
pub(crate) struct Handles(Mutex<HashMap<String, View>>);

/// Keeps a job among them until it is dropped.
pub(crate) struct Entry<M> {
    job_id: String,
    handles: Arc<Handles>,
    pub(crate) view: watch::Sender<M>,
}

impl Handles {
    pub(crate) fn enter<M: Machine>(self: &Arc<Self>, job: &M) -> Entry<M> {
        let (view, viewer) = watch::channel(job.clone());
        self.lock().insert(job.job_id(), M::view(viewer));
        Entry { job_id: job.job_id(), handles: Arc::clone(self), view }
    }

    pub(crate) fn of(&self, job_id: &str) -> Option<View> {
        self.lock().get(job_id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, View>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Drop for Entry<M> {
    fn drop(&mut self) {
        self.handles.lock().remove(&self.job_id);
    }
}
