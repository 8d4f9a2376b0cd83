//! What every request has while it runs: a way to be stopped, a place to say how far it is, and the agent's locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cassy_agent_protocol::Progress;
use tokio_util::sync::CancellationToken;

use crate::session::lock::Locks;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Context {
    /// Cancelled when the server asks for it, or is gone.
    pub(crate) cancel: CancellationToken,
    /// How far the request is.
    pub(crate) progress: ProgressSink,
    /// What the agent has locked.
    pub(crate) locks: Locks,
}

/// Holds the latest progress: set by the work, read by the session as often as it reports.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProgressSink {
    latest: Arc<Mutex<Progress>>,
    beats: Arc<AtomicU64>,
    /// Everything that was ever set, in order.
    #[cfg(test)]
    all: Arc<Mutex<Vec<Progress>>>,
}

impl ProgressSink {
    pub(crate) fn set(&self, progress: Progress) {
        #[cfg(test)]
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(progress);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Something was done that moves neither bytes nor files, such as looking at one. The server stops a request that
    /// reports nothing for long, and there may be very many.
    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub(crate) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    pub(crate) fn latest(&self) -> Progress {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most bytes that no report was made between. Reports of several threads may come out of order.
    #[cfg(test)]
    pub(crate) fn widest_gap(&self) -> u64 {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let reported = all.iter().map(|progress| progress.bytes_done);
        let done: std::collections::BTreeSet<u64> = std::iter::once(0).chain(reported).collect();
        done.iter().zip(done.iter().skip(1)).map(|(one, next)| next - one).max().unwrap_or_default()
    }
}
