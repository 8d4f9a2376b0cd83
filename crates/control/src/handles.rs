//! The jobs that this server drives, for those who ask for one by its id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::job::{BackupJob, RestoreJob};
use crate::machine::Machine;

/// How a job is now.
#[derive(Clone)]
pub(crate) enum View {
    Backup(watch::Receiver<BackupJob>),
    Restore(watch::Receiver<RestoreJob>),
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Handle {
    snapshot_id: String,
    pub(crate) view: View,
    /// Cancels it.
    pub(crate) cancel: CancellationToken,
}

/// All of them, those that wait for their nodes after a restart too.
#[derive(Default)]
pub(crate) struct Handles(Mutex<HashMap<String, Handle>>);

/// Keeps a job among them until it is dropped.
pub(crate) struct Entry<M> {
    job_id: String,
    handles: Arc<Handles>,
    pub(crate) view: watch::Sender<M>,
    /// When somebody wants the job to be cancelled.
    pub(crate) cancel: CancellationToken,
}

impl Handles {
    pub(crate) fn enter<M: Machine>(self: &Arc<Self>, job: &M) -> Entry<M> {
        let (view, viewer) = watch::channel(job.clone());
        let cancel = CancellationToken::new();
        let handle = Handle { snapshot_id: job.snapshot_id(), view: M::view(viewer), cancel: cancel.clone() };
        self.lock().insert(job.job_id(), handle);
        Entry { job_id: job.job_id(), handles: Arc::clone(self), view, cancel }
    }

    pub(crate) fn of(&self, job_id: &str) -> Option<Handle> {
        self.lock().get(job_id).cloned()
    }

    /// The jobs that are about a snapshot.
    pub(crate) fn of_snapshot(&self, snapshot_id: &str) -> Vec<String> {
        let all = self.lock();
        let about = all.iter().filter(|(_, handle)| handle.snapshot_id == snapshot_id);
        about.map(|(job_id, _)| job_id.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Drop for Entry<M> {
    fn drop(&mut self) {
        self.handles.lock().remove(&self.job_id);
    }
}
