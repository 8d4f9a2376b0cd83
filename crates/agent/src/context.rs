//! What every request has while it runs: a way to be stopped, and a place to say how far it is.

use std::sync::{Arc, Mutex, PoisonError};

use cassy_agent_protocol::Progress;
use tokio_util::sync::CancellationToken;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Context {
    /// Cancelled when the server asks for it, or is gone.
    pub(crate) cancel: CancellationToken,
    /// How far the request is.
    pub(crate) progress: ProgressSink,
}

/// Holds the latest progress: set by the work, read by the session as often as it reports.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProgressSink(Arc<Mutex<Progress>>);

impl ProgressSink {
    pub(crate) fn set(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    pub(crate) fn latest(&self) -> Progress {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
