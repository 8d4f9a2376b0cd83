//! The one place where a restore tries again: transient failures of the store, a few times, with growing pauses.

use std::future::Future;
use std::time::Duration;

use cassy_agent_protocol::AgentErrorKind;

use super::error::RestoreError;
use crate::context::Context;

const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Runs the work until it succeeds, fails for good, or has failed too often; stops when cancelled.
pub(crate) async fn transient<T, F>(context: &Context, mut work: impl FnMut() -> F) -> Result<T, RestoreError>
where
    F: Future<Output = Result<T, RestoreError>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        let outcome = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(RestoreError::Cancelled),
            outcome = work() => outcome,
        };
        match outcome {
            Err(error @ (RestoreError::Store(_) | RestoreError::Stalled { .. }))
                if error.kind() == AgentErrorKind::Transient =>
            {
                tracing::warn!(
                    error = crate::failure::chain(&error),
                    ?pause,
                    "the store failed; trying again"
                );
            }
            outcome => return outcome,
        }
        tokio::select! {
            () = context.cancel.cancelled() => return Err(RestoreError::Cancelled),
            () = tokio::time::sleep(pause) => pause *= 2,
        }
    }
    work().await
}
