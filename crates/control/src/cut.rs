//! A job's cancellation, as those see it who perform its effects: what may be stopped is, at once.

use cassy_agent_protocol::Progress;
use tokio_util::sync::CancellationToken;

use crate::nodes::{NodeError, NodeErrorKind};

/// See the module. Clones are of the same job.
#[derive(Clone, Default)]
pub(crate) struct Cut(CancellationToken);

impl Cut {
    /// The job is cancelled, and that is stored.
    pub(crate) fn make(&self) {
        self.0.cancel();
    }

    pub(crate) fn is_made(&self) -> bool {
        self.0.is_cancelled()
    }

    pub(crate) async fn made(&self) {
        self.0.cancelled().await;
    }

    /// Drops the work when the job is cut. For what leaves nothing behind that clearing does not find.
    pub(crate) async fn unless<T, E: From<NodeError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            () = self.made() => Err(stopped("it was stopped").into()),
            done = work => done,
        }
    }
}

/// Not to be tried again.
pub(crate) fn stopped(how_far: impl Into<String>) -> NodeError {
    NodeError::new(NodeErrorKind::Permanent, how_far)
}

/// `1.2 of 5.0 GiB sent`, in the unit of the whole.
pub(crate) fn amount(progress: Progress, done: &str) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (part, whole) = (progress.bytes_done, progress.bytes_total);
    let mut unit = None;
    let mut scale: u64 = 1;
    for name in UNITS {
        if whole / 1024 < scale {
            break;
        }
        (scale, unit) = (scale * 1024, Some(name));
    }
    let tenths = |bytes: u64| {
        let tenths = u128::from(bytes) * 10 / u128::from(scale);
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match unit {
        _ if whole == 0 => format!("nothing {done}"),
        None => format!("{part} of {whole} bytes {done}"),
        Some(unit) => format!("{} of {} {unit} {done}", tenths(part), tenths(whole)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_in_the_unit_of_the_whole() {
        let of = |bytes_done, bytes_total| {
            amount(Progress { bytes_done, bytes_total, ..Progress::default() }, "sent")
        };
        assert_eq!(of(0, 0), "nothing sent");
        assert_eq!(of(7, 1023), "7 of 1023 bytes sent");
        assert_eq!(of(512, 1024), "0.5 of 1.0 KiB sent");
        assert_eq!(of(1_288_490_189, 5 << 30), "1.2 of 5.0 GiB sent");
        assert_eq!(of(1, u64::MAX), "0.0 of 16777215.9 TiB sent");
    }
}
