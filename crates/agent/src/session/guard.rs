//! The guard that this agent started: a process of its own, which unpauses when the agent ends in whatever way.

use std::path::Path;
use std::process::Stdio;

use cassy_agent_protocol::{AgentError, AgentErrorKind, GuardOrder};
use cassy_pause::{GuardHandle, start_guard};
use tokio::sync::Mutex;

use crate::failure::chain;

/// So many instances are named.
const NAMED: usize = 5;

/// None, or one at a time.
#[derive(Default)]
pub(super) struct Guard(Mutex<Option<GuardHandle>>);

impl Guard {
    /// Refused when it would not reach every instance: such a guard could not keep its word.
    pub(super) async fn arm(&self, order: &GuardOrder) -> Result<(), AgentError> {
        // What it says would hold the server's connection open.
        let started = start_guard(Path::new("/proc/self/exe"), order, Stdio::null()).await;
        let guard = started.map_err(|error| failed(&chain(&error)))?;
        if !guard.unreachable().is_empty() {
            let out_of_reach = guard.unreachable();
            let named: Vec<_> = out_of_reach.iter().take(NAMED).map(ToString::to_string).collect();
            let message =
                format!("{} instances cannot be reached from here: {}", out_of_reach.len(), named.join("; "));
            if let Err(error) = guard.release().await {
                tracing::warn!(%error, "the guard was not released");
            }
            return Err(failed(&message));
        }
        *self.0.lock().await = Some(guard);
        Ok(())
    }

    /// An error when there is none, or when it has unpaused: whoever armed it then knows that this one was not there.
    pub(super) async fn release(&self) -> Result<(), AgentError> {
        match self.0.lock().await.take() {
            Some(guard) => guard.release().await.map_err(|error| failed(&error.to_string())),
            None => Err(failed("none is armed by this agent")),
        }
    }
}

fn failed(message: &str) -> AgentError {
    AgentError { kind: AgentErrorKind::Permanent, message: format!("no guard: {message}"), hint: None }
}
