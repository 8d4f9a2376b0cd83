//! Waiting for a condition. The only place of the kit, and of the tests, that knows a polling interval.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use crate::Failure;

const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// For what may last no longer than a few milliseconds.
const CLOSE_INTERVAL: Duration = Duration::from_millis(1);

/// What a look at the condition found.
#[derive(Debug)]
pub enum Probe<T> {
    /// It holds; this is what the caller was waiting for.
    Ready(T),
    /// It does not hold yet. The text is what a timeout prints.
    NotYet(String),
    /// It will never hold.
    Broken(Failure),
}

/// Looks until the condition holds; a timeout says what was seen last.
///
/// # Errors
/// When `limit` has passed, or as soon as the probe says [`Probe::Broken`].
pub async fn wait_for<T>(
    what: impl Display,
    limit: Duration,
    probe: impl AsyncFnMut() -> Probe<T>,
) -> Result<T, Failure> {
    look_every(POLL_INTERVAL, what, limit, probe).await
}

/// The same for a condition that passes quickly.
///
/// # Errors
/// As [`wait_for`].
pub async fn catch<T>(
    what: impl Display,
    limit: Duration,
    probe: impl AsyncFnMut() -> Probe<T>,
) -> Result<T, Failure> {
    look_every(CLOSE_INTERVAL, what, limit, probe).await
}

async fn look_every<T>(
    interval: Duration,
    what: impl Display,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Probe<T>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + limit;
    let mut last = "it was not looked at".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Probe::Ready(value)) => return Ok(value),
            Ok(Probe::Broken(failure)) => return Err(failure),
            Ok(Probe::NotYet(state)) => last = state,
            Err(_) => {
                return Err(Failure::new(format!(
                    "{what}: not within {limit:?}; a look at it did not end; seen before: {last}"
                )));
            }
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!("{what}: not within {limit:?}; last state: {last}")));
        }
        tokio::time::sleep(interval).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timeout_prints_the_last_state() {
        let mut looks = 0;
        let failure = wait_for("the moon", Duration::from_secs(1), async || {
            looks += 1;
            Probe::<()>::NotYet(format!("look {looks}"))
        })
        .await
        .unwrap_err();
        assert!(looks > 10);
        assert!(failure.to_string().contains(&format!("look {looks}")), "{failure}");
        assert!(failure.to_string().starts_with("the moon: not within 1s"), "{failure}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_cut() {
        let failure = wait_for("a port", Duration::from_secs(1), async || {
            std::future::pending::<()>().await;
            Probe::<()>::NotYet(String::new())
        })
        .await
        .unwrap_err();
        assert!(failure.to_string().contains("did not end"), "{failure}");
    }
}
