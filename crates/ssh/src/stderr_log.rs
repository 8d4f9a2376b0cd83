//! What an agent writes to its standard error, as lines of the server's log. A node's words are data: each line
//! is escaped and cut, and a flood of them is counted instead of logged.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Endpoint;
use crate::text::printable_within;

/// A longer line is cut.
const LINE_BYTES: usize = 2000;

/// So many lines are logged within [`WINDOW`]; more are only counted.
const LINES_PER_WINDOW: u32 = 200;
const WINDOW: Duration = Duration::from_secs(10);

pub(crate) struct StderrLog {
    node: Endpoint,
    line: Vec<u8>,
    last: String,
    window_began: Instant,
    logged: u32,
    dropped: u64,
}

impl StderrLog {
    pub(crate) fn new(node: Endpoint) -> Self {
        Self {
            node,
            line: Vec::new(),
            last: String::new(),
            window_began: Instant::now(),
            logged: 0,
            dropped: 0,
        }
    }

    pub(crate) fn add(&mut self, data: &[u8]) {
        for byte in data {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
    }

    /// To be called at the end: an unfinished line is logged too.
    pub(crate) fn finish(&mut self) {
        self.end_line();
        self.report_dropped();
    }

    /// The last line, for a message about the agent's end; empty when there was none.
    pub(crate) fn last_words(&self) -> String {
        match self.last.is_empty() {
            true => String::new(),
            false => format!("; its last words: \"{}\"", self.last),
        }
    }

    fn end_line(&mut self) {
        let line = printable_within(&String::from_utf8_lossy(&std::mem::take(&mut self.line)), LINE_BYTES);
        if line.is_empty() {
            return;
        }
        if self.window_began.elapsed() > WINDOW {
            self.report_dropped();
            self.window_began = Instant::now();
            self.logged = 0;
        }
        if self.logged < LINES_PER_WINDOW {
            self.logged += 1;
            tracing::info!(target: "agent", node = %self.node.host, "{line}");
        } else {
            self.dropped += 1;
        }
        self.last = line;
    }

    fn report_dropped(&mut self) {
        if self.dropped > 0 {
            tracing::warn!(target: "agent", node = %self.node.host, lines = self.dropped, "the agent wrote too much; lines left out");
            self.dropped = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_the_last_is_kept() {
        let mut log = StderrLog::new(Endpoint { host: "n1".into(), port: 22 });
        log.add(&[b'x'; 1 << 20]);
        assert_eq!(log.line.len(), LINE_BYTES);
        log.add(b"\nfirst\nla");
        log.add(b"st\x1b[0m");
        log.finish();
        assert_eq!(log.last_words(), "; its last words: \"last\\u{1b}[0m\"");
    }

    #[test]
    fn floods_are_counted() {
        let mut log = StderrLog::new(Endpoint { host: "n1".into(), port: 22 });
        for _ in 0..=LINES_PER_WINDOW {
            log.add(b"again\n");
        }
        assert_eq!((log.logged, log.dropped), (LINES_PER_WINDOW, 1));
    }
}
