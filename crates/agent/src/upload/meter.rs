//! Counting what is dealt with, for the progress that the server sees.

use std::sync::atomic::{AtomicU64, Ordering};

use cassy_agent_protocol::Progress;

use crate::context::ProgressSink;

/// Counts files and bytes of the whole snapshot. Each file counts once, however often it is read.
#[derive(Debug)]
pub(super) struct Meter {
    sink: ProgressSink,
    bytes_total: u64,
    files_total: u64,
    bytes_done: AtomicU64,
    files_done: AtomicU64,
}

impl Meter {
    pub(super) fn new(sink: ProgressSink, files_total: u64, bytes_total: u64) -> Self {
        let (bytes_done, files_done) = (AtomicU64::new(0), AtomicU64::new(0));
        let meter = Self { sink, bytes_total, files_total, bytes_done, files_done };
        meter.report();
        meter
    }

    /// Another pass over everything begins.
    pub(super) fn restart(&self) {
        self.bytes_done.store(0, Ordering::Relaxed);
        self.files_done.store(0, Ordering::Relaxed);
        self.report();
    }

    pub(super) fn bytes(&self, count: u64) {
        self.bytes_done.fetch_add(count, Ordering::Relaxed);
        self.report();
    }

    /// What is read may not count in the end: it is only compared, or has to be sent again.
    pub(super) fn look(&self) -> Look<'_> {
        Look { meter: self, bytes: 0 }
    }

    pub(super) fn files(&self, count: u64) {
        self.files_done.fetch_add(count, Ordering::Relaxed);
        self.report();
    }

    fn report(&self) {
        self.sink.set(Progress {
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bytes_total: self.bytes_total,
            files_done: self.files_done.load(Ordering::Relaxed),
            files_total: self.files_total,
        });
    }
}

/// What is read counts while it is read, as the server stops a request that makes no progress, and one file may take
/// hours; dropped, it counts no more.
pub(super) struct Look<'a> {
    meter: &'a Meter,
    bytes: u64,
}

impl Look<'_> {
    pub(super) fn bytes(&mut self, count: u64) {
        self.bytes += count;
        self.meter.bytes(count);
    }

    /// It counts for good, as so many files.
    pub(super) fn keep(mut self, files: u64) {
        self.bytes = 0;
        self.meter.files(files);
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        // Another pass may have begun in the meantime.
        let less = |done: u64| Some(done.saturating_sub(self.bytes));
        let _ = self.meter.bytes_done.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}
