//! A computer with a clock of its own that stands still until it is told to go on: a tokio runtime on this thread.
//!
//! [`Machine::settle`] runs everything that can run and comes back when nothing can, at the same instant of its clock.
//! Work that was handed in by other threads (the database's answers) is taken up only when nothing else is left, so that
//! its order does not depend on how fast these are.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

pub(crate) struct Machine {
    runtime: Runtime,
    idle: Arc<Idle>,
}

/// Noted by the runtime's own hook, at the instant at which it would go to sleep.
#[derive(Default)]
struct Idle {
    reached: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Idle {
    /// The wake-up keeps the runtime from sleeping, and its clock from jumping to the next timer.
    fn note(&self) {
        self.reached.store(true, Ordering::SeqCst);
        if let Some(waiting) = self.waiting.lock().unwrap().take() {
            waiting.wake();
        }
    }
}

impl Machine {
    pub(crate) fn boot() -> Self {
        let idle = Arc::<Idle>::default();
        let noting = Arc::clone(&idle);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .global_queue_interval(u32::MAX)
            .max_blocking_threads(1)
            .on_thread_park(move || noting.note())
            .build();
        Self { runtime: runtime.unwrap(), idle }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Runs until nothing can run any more.
    pub(crate) fn settle(&self) {
        self.idle.reached.store(false, Ordering::SeqCst);
        let settled = poll_fn(|context| {
            if self.idle.reached.load(Ordering::SeqCst) {
                return Poll::Ready(());
            }
            *self.idle.waiting.lock().unwrap() = Some(context.waker().clone());
            Poll::Pending
        });
        self.runtime.block_on(settled);
    }

    /// Whether somebody else has handed in work since it settled.
    pub(crate) fn is_wanted(&self) -> bool {
        self.runtime.metrics().global_queue_depth() > 0
    }

    /// Waits for what runs on the one thread beside this one, for all that was handed to it so far.
    pub(crate) fn await_blocking(&self) {
        self.runtime.block_on(self.runtime.spawn_blocking(|| ())).unwrap();
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.runtime.block_on(tokio::time::advance(time));
    }

    /// Does this, and whatever becomes possible with it meanwhile.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Everything on it ends at once, without a word.
    pub(crate) fn pull_the_plug(self) {
        self.runtime.shutdown_background();
    }
}
