//! Brings a node's data back: [`plan`] says what would be done and what stands in the way, [`run`] does it.
//!
//! Invariants: nothing outside the data directories is written, and nothing in them is overwritten; what is moved aside
//! stays in its own directory. From the
//! first change on, until everything is in place and durable, a sentinel keeps Cassandra from starting; whatever
//! instant the agent is killed at, a second call finishes. What fails before anything was placed, and would fail
//! again, leaves the node as it was.

mod aside;
mod error;
mod facts;
mod gather;
mod layout;
mod manifest;
mod marker;
mod object;
mod place;
mod plan;
mod retry;
mod schema;
mod spread;
mod stage;
mod tokens;
mod tree;
mod undo;

use std::path::Path;
use std::sync::Arc;

use cassy_agent_protocol::{AgentErrorKind, RestorePlan, RestoreRequest, RestoreSummary};
use cassy_sstable::is_plain_name;
use cassy_store::{Store, StoreAccess};
use tokio_util::task::TaskTracker;

use crate::context::{Context, ProgressSink};
use crate::inspect::Machine;
use crate::session::lock::Locks;
use error::RestoreError;
use facts::{Facts, Target};
use layout::Layout;
use manifest::Manifest;
use marker::Marker;
use place::Begun;
use stage::{Done, Stager};
pub(crate) use tokens::read as read_tokens;
use tree::Steps;

/// Says what a restore would do and what stands in its way. Changes nothing on the node but `spool`, a private
/// directory.
pub(crate) async fn plan(
    context: &Context,
    machine: &Machine,
    request: &RestoreRequest,
    spool: &Path,
) -> Result<RestorePlan, RestoreError> {
    let prepared = prepare(context, machine, request, spool).await?;
    Ok(plan::plan(&prepared.facts))
}

/// Restores. `spool` as in [`plan`].
pub(crate) async fn run(
    context: &Context,
    machine: &Machine,
    request: &RestoreRequest,
    spool: &Path,
) -> Result<RestoreSummary, RestoreError> {
    run_counted(context, machine, request, spool, Steps::default()).await
}

/// Takes back what a stopped restore has begun. `None` when the node was seen to be as it was before, else what remains.
/// `spool` as in [`plan`].
pub(crate) async fn undo(
    context: &Context,
    machine: &Machine,
    request: &RestoreRequest,
    spool: &Path,
) -> Result<Option<String>, RestoreError> {
    let Prepared { facts, .. } = prepare(context, machine, request, spool).await?;
    let locks = context.locks.clone();
    on_thread(move || {
        // Made since the node was locked by a parent of it.
        if let Some(first) = facts.roots.first().filter(|root| root.exists) {
            locks.hold(&first.path).map_err(RestoreError::Lock)?;
        }
        undo::undo(&facts, &Steps::default())
    })
    .await
}

/// What is known before anything is done.
struct Prepared {
    store: Arc<dyn Store>,
    manifest: Arc<Manifest>,
    facts: Arc<Facts>,
}

async fn prepare(
    context: &Context,
    machine: &Machine,
    request: &RestoreRequest,
    spool: &Path,
) -> Result<Prepared, RestoreError> {
    if let Some(job_id) = request.move_aside.as_ref().filter(|job_id| !is_plain_name(job_id)) {
        let (key, reason) =
            (request.manifest.key.clone(), format!("nothing can be moved aside for a job {job_id:?}"));
        return Err(RestoreError::Refused { key, reason });
    }
    let access = StoreAccess::new(request.store.location.clone());
    let store = cassy_store::open(&access).map_err(RestoreError::Store)?;
    let manifest = Arc::new(Manifest::fetch(context, store.as_ref(), request, spool).await?);
    let (machine, request, looked_at) = (machine.clone(), request.clone(), Arc::clone(&manifest));
    let facts = on_thread(move || gather::gather(&machine, &request, &looked_at)).await?;
    Ok(Prepared { store, manifest, facts: Arc::new(facts) })
}

async fn run_counted(
    context: &Context,
    machine: &Machine,
    request: &RestoreRequest,
    spool: &Path,
    steps: Steps,
) -> Result<RestoreSummary, RestoreError> {
    let Prepared { store, manifest, facts } = prepare(context, machine, request, spool).await?;
    let findings = plan::plan(&facts).findings;
    let layout = match &facts.target {
        Target::Known(known) if findings.is_empty() => known.layout.clone(),
        Target::Known(_) | Target::Unknown { .. } => None,
    };
    let Some(layout) = layout else { return Err(RestoreError::Findings { findings }) };
    let (marker, known, locks) = (Marker::of(request), Arc::clone(&facts), context.locks.clone());
    let begun = Arc::new(on_thread(move || begin(&known, &marker, &locks, &steps)).await?);
    let stager = Arc::new(Stager {
        context: context.clone(),
        store,
        manifest: Arc::clone(&manifest),
        layout: layout.clone(),
        destinations: begun.destinations.clone(),
        done: Done::default(),
        tasks: TaskTracker::new(),
    });
    if let Err(error) = stager.run().await {
        give_up(&error, &facts, &begun).await;
        return Err(error);
    }
    // From here on it is not stopped any more.
    if context.cancel.is_cancelled() {
        return Err(RestoreError::Cancelled);
    }
    let (known, whole) = (Arc::clone(&facts), Arc::clone(&manifest));
    let progress = context.progress.clone();
    on_thread(move || finish(&progress, &begun, &known, &whole, &layout)).await?;
    let mut notes = plan::notes(&facts);
    notes.extend(
        request.move_aside.as_deref().and_then(|job_id| plan::moved(&aside::moved_by(&facts, job_id))),
    );
    Ok(RestoreSummary { files: manifest.files, bytes: manifest.bytes, notes })
}

/// A restore that was complete is only looked at: its files are proven, and leftovers removed.
fn is_only_proven(facts: &Facts) -> bool {
    facts.complete && !facts.is_resumed()
}

fn begin(facts: &Facts, marker: &Marker, locks: &Locks, steps: &Steps) -> Result<Begun, RestoreError> {
    if is_only_proven(facts) { place::open(facts, steps) } else { place::begin(facts, marker, locks, steps) }
}

fn finish(
    progress: &ProgressSink,
    begun: &Begun,
    facts: &Facts,
    manifest: &Manifest,
    layout: &Layout,
) -> Result<(), RestoreError> {
    if is_only_proven(facts) { begun.unmark(facts) } else { begun.finish(progress, facts, manifest, layout) }
}

/// What would fail again leaves the node as it was, unless an earlier call has placed files. Everything else
/// stays for the next call.
async fn give_up(error: &RestoreError, facts: &Arc<Facts>, begun: &Arc<Begun>) {
    let nothing_placed =
        facts.moves_aside().is_some() || facts.roots.iter().all(|root| root.placed.count == 0);
    if error.kind() != AgentErrorKind::Permanent || !nothing_placed || is_only_proven(facts) {
        return;
    }
    let (begun, facts) = (Arc::clone(begun), Arc::clone(facts));
    let abandoned = tokio::task::spawn_blocking(move || begun.abandon(&facts)).await;
    if let Err(error) = abandoned {
        tracing::error!(%error, "what was staged could not be removed");
    }
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work).await.map_err(RestoreError::CutShort)?
}

#[cfg(test)]
mod tests;
