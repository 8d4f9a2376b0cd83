//! What a connection is doing: how many requests are under way on it, and since when none is.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::Limits;

/// Shared by a connection and its requests.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    any_yet: bool,
    quiet_since: Instant,
}

/// Held by a request from its headers to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Activity {
    /// A new connection.
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { under_way: 0, any_yet: false, quiet_since: Instant::now() }) }
    }

    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.with(|state| {
            state.under_way += 1;
            state.any_yet = true;
        });
        Busy(Arc::clone(self))
    }

    /// Returns once no request was under way for as long as the limits allow.
    pub(crate) async fn idle(&self, limits: &Limits) {
        loop {
            match self.with(|state| state.idle_from(limits)) {
                None => tokio::time::sleep(limits.idle_time).await,
                Some(instant) if instant <= Instant::now() => return,
                Some(instant) => tokio::time::sleep_until(instant).await,
            }
        }
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.with(|state| state.under_way > 0)
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn idle_from(&self, limits: &Limits) -> Option<Instant> {
        let allowed = if self.any_yet { limits.idle_time } else { limits.first_request_time };
        (self.under_way == 0).then(|| self.quiet_since + allowed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.under_way -= 1;
            state.quiet_since = Instant::now();
        });
    }
}
