//! One request after another: what each needs, and what the answer is made of.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use cassy_agent_protocol::{AgentError, AgentErrorKind, CheckStoreRequest, LockRequest, Reply, Request};
use cassy_store::{StoreAccess, StoreError};

use super::guard::Guard;
use super::lock::{Lock, Locks};
use super::spool::Spool;
use crate::context::Context;
use crate::failure::IntoAgentError;
use crate::inspect::{self, Machine};
use crate::{restore, snapshot, superseded, sweep, upload};

/// A lock on this makes the agent panic, in tests.
#[cfg(test)]
pub(crate) const PANICS: &str = "/dev/null/panic";

/// A lock on this goes on without bytes and files to count until it is cancelled, in tests.
#[cfg(test)]
pub(crate) const BEATS: &str = "/dev/null/beat";

/// What an agent holds from its first request to its end.
pub(crate) struct Worker {
    pub(crate) machine: Machine,
    pub(crate) spool: Spool,
    locks: Locks,
    guard: Guard,
}

impl Worker {
    pub(crate) fn new(machine: Machine, spool: Spool) -> Self {
        Self { machine, spool, locks: Locks::default(), guard: Guard::default() }
    }

    /// Does what is asked.
    pub(crate) async fn perform(
        self: Arc<Self>,
        context: Context,
        request: Request,
    ) -> Result<Reply, AgentError> {
        let context = Context { locks: self.locks.clone(), ..context };
        let spool = self.spool.path();
        if needs_lock(&request) && self.locks.is_empty() {
            return Err(defect("the node's lock has to be taken first"));
        }
        match request {
            Request::Lock(request) => self.lock(&context, &request).await,
            Request::Inspect(request) => {
                let machine = self.machine.clone();
                let facts = on_thread(move || inspect::inspect(&machine, &request)).await?;
                Ok(Reply::Inspected(Box::new(facts)))
            }
            Request::CheckStore(request) => check_store(&request).await,
            Request::ListSuperseded(request) => {
                let files = superseded::list(&context, &request, spool).await;
                files.map(|files| Reply::Superseded { files }).map_err(IntoAgentError::into_agent_error)
            }
            Request::CheckSnapshot(request) => {
                let broken = on_thread(move || snapshot::check(&context, &request)).await?;
                Ok(Reply::SnapshotChecked { broken })
            }
            Request::Upload(request) => {
                let summary = Box::pin(upload::run(&context, &request, spool)).await;
                summary.map(Reply::Uploaded).map_err(IntoAgentError::into_agent_error)
            }
            Request::ClearSuperseded(request) => {
                let files = superseded::clear(&context, &request, spool).await;
                files.map(|files| Reply::Cleared { files }).map_err(IntoAgentError::into_agent_error)
            }
            Request::ClearIncluded(request) => {
                let files = upload::clear_included(&context, &request, spool).await;
                files.map(|files| Reply::Cleared { files }).map_err(IntoAgentError::into_agent_error)
            }
            Request::ListSnapshots(request) => {
                let tags = on_thread(move || sweep::own_tags(&request)).await?;
                Ok(Reply::Snapshots { tags })
            }
            Request::SweepSnapshots(request) => {
                let files = on_thread(move || sweep::snapshots(&request)).await?;
                Ok(Reply::Cleared { files })
            }
            Request::Guard(order) => self.guard.arm(&order).await.map(|()| Reply::Done),
            Request::ReleaseGuard => self.guard.release().await.map(|()| Reply::Done),
            Request::ReadTokens(request) => {
                let machine = self.machine.clone();
                on_thread(move || restore::read_tokens(&machine, &request)).await
            }
            Request::PlanRestore(request) => {
                let plan = Box::pin(restore::plan(&context, &self.machine, &request, spool)).await;
                plan.map(Reply::Planned).map_err(IntoAgentError::into_agent_error)
            }
            Request::Restore(request) => {
                let summary = Box::pin(restore::run(&context, &self.machine, &request, spool)).await;
                summary.map(Reply::Restored).map_err(IntoAgentError::into_agent_error)
            }
            Request::UndoRestore(request) => {
                let left = Box::pin(restore::undo(&context, &self.machine, &request, spool)).await;
                left.map(|left| Reply::Undone { left }).map_err(IntoAgentError::into_agent_error)
            }
        }
    }

    /// The same directory again is fine.
    async fn lock(&self, context: &Context, request: &LockRequest) -> Result<Reply, AgentError> {
        #[cfg(test)]
        assert_ne!(request.directory, PANICS, "asked for by a test");
        #[cfg(test)]
        while request.directory == BEATS && !context.cancel.is_cancelled() {
            context.progress.beat();
            tokio::task::yield_now().await;
        }
        if self.locks.have(inspect::nearest_existing(Path::new(&request.directory))) {
            return Ok(Reply::Done);
        }
        let lock = Lock::take(&context.cancel, request).await.map_err(IntoAgentError::into_agent_error)?;
        self.locks.add(lock);
        Ok(Reply::Done)
    }
}

/// What only one agent at a time may do on a node.
fn needs_lock(request: &Request) -> bool {
    matches!(
        request,
        Request::Upload(_)
            | Request::Restore(_)
            | Request::UndoRestore(_)
            | Request::SweepSnapshots(_)
            | Request::ClearSuperseded(_)
            | Request::ClearIncluded(_)
    )
}

/// A defect of ours, here or in the server.
pub(crate) fn defect(message: impl Display) -> AgentError {
    AgentError { kind: AgentErrorKind::Bug, message: message.to_string(), hint: None }
}

/// What a task that ended without an answer means.
pub(crate) fn cut_short(error: tokio::task::JoinError) -> AgentError {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            defect(format!("the agent panicked: {text}"))
        }
        Err(error) => defect(format!("the agent's work was cut short: {error}")),
    }
}

async fn on_thread<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, AgentError>
where
    T: Send + 'static,
    E: IntoAgentError + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(cut_short)?.map_err(IntoAgentError::into_agent_error)
}

/// Node and server see the same store when the node reads what the server has just written.
async fn check_store(request: &CheckStoreRequest) -> Result<Reply, AgentError> {
    let access = StoreAccess::new(request.store.location.clone());
    let store = cassy_store::open(&access).map_err(IntoAgentError::into_agent_error)?;
    let limit_bytes = request.content.len() as u64;
    match store.get(&request.key, limit_bytes).await {
        Ok(content) if content == request.content.as_bytes() => {
            store.check().await.map_err(IntoAgentError::into_agent_error)?;
            Ok(Reply::Done)
        }
        Ok(_) | Err(StoreError::TooLarge { .. }) => {
            Err(another_store(request, "it has another content there"))
        }
        Err(error) if error.is_not_found() => Err(another_store(request, "it is not there")),
        Err(error) => Err(error.into_agent_error()),
    }
}

fn another_store(request: &CheckStoreRequest, reason: &str) -> AgentError {
    let location = &request.store.location;
    AgentError {
        kind: AgentErrorKind::Permanent,
        message: format!(
            "the node does not see the store that the server sees: of {} in {location}, which the server has just \
             written, {reason}",
            request.key
        ),
        hint: Some(format!(
            "Mount the same file system at the path of {location} on the server and on every node."
        )),
    }
}
