//! How much memory the process takes: the highest size of its address space, as the kernel counts it. A counting
//! allocator would be finer, but cannot be written without `unsafe`.
//!
//! Reserved memory counts whether or not it is touched, so a declared length that is believed is seen at once. Blocks
//! above 128 KiB go back to the kernel when they are freed (musl), so the size says what is live.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Notices when the address space grows by more than it may.
pub(super) struct Meter {
    status: File,
    /// Bytes.
    most: u64,
    before: u64,
}

impl Meter {
    pub(super) fn start(growth_bytes: u64) -> Self {
        let status = File::open("/proc/self/status").expect("Linux has /proc");
        let (peak, size) = (line(&status, "VmPeak:"), line(&status, "VmSize:"));
        // A peak from before this run hides lower ones.
        Self { status, most: peak.max(size + growth_bytes), before: size }
    }

    /// By how many bytes the process grew, when that is too much.
    pub(super) fn exceeded(&self) -> Option<u64> {
        let peak = line(&self.status, "VmPeak:");
        (peak > self.most).then(|| peak.saturating_sub(self.before))
    }
}

/// A line of `/proc/self/status`, in bytes.
fn line(status: &File, name: &str) -> u64 {
    let mut text = [0; 2048];
    let read = status.read_at(&mut text, 0).expect("our own status can be read");
    let text = String::from_utf8_lossy(text.get(..read).unwrap_or_default());
    let rest = text.split_once(name).map_or("", |(_, rest)| rest);
    let number = rest.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    number.expect("the kernel tells the size of the address space in kB") * 1024
}
