//! Cancelling a job: it is told, and answered once it has ended.

use cassy_catalog::JobKind;

use super::{Service, precondition};
use crate::job::{BackupJob, Outcome, RestoreJob};
use crate::machine::Machine;
use crate::operations::{
    CancelAnswer, CancelledNode, JobSelector, OperationError, OperationErrorKind, Status,
};
use crate::runner::database_failed;

const SHOW: &str = "ListBackups and ListRestoreStatuses show the job_id of each entry";

impl Service {
    /// That it is told does not depend on the caller, who may hang up.
    pub(super) async fn cancel(&self, selector: &JobSelector) -> Result<CancelAnswer, OperationError> {
        let job_id = match selector {
            JobSelector::Job(job_id) => job_id.clone(),
            JobSelector::Snapshot(snapshot_id) => self.only_job_of(snapshot_id)?,
        };
        if let Some(handle) = self.runner.handles.of(&job_id) {
            handle.cancel.cancel();
        }
        let stored = self.parts.catalog.job(&job_id).await;
        let stored = stored.map_err(|e| database_failed("look up the job", &e))?;
        let kind = stored.map(|job| job.kind);
        match kind.ok_or_else(|| not_found(format!("there is no job {job_id}")))? {
            JobKind::Backup => ended(&self.job_again::<BackupJob>(&job_id, Machine::finished).await?),
            JobKind::Restore => ended(&self.job_again::<RestoreJob>(&job_id, Machine::finished).await?),
        }
    }

    fn only_job_of(&self, snapshot_id: &str) -> Result<String, OperationError> {
        let mut jobs = self.runner.handles.of_snapshot(snapshot_id);
        match (jobs.pop(), jobs.len()) {
            (Some(only), 0) => Ok(only),
            (Some(last), _) => {
                jobs.push(last);
                let message =
                    format!("several jobs of the snapshot {snapshot_id} are under way: {}", jobs.join(", "));
                Err(precondition(message).hint("name one of them in job_id"))
            }
            (None, _) => Err(not_found(format!("no job of the snapshot {snapshot_id} is under way"))),
        }
    }
}

fn not_found(message: String) -> OperationError {
    OperationError::new(OperationErrorKind::NotFound, message).hint(SHOW)
}

/// What a cancelled job came to; one that ended before it could be cancelled is named with its outcome.
fn ended<M: Machine>(job: &M) -> Result<CancelAnswer, OperationError> {
    let job_id = job.job_id();
    let (outcome, status) = match job.outcome() {
        Some(Outcome::Completed) => ("COMPLETED", Status::Completed),
        Some(Outcome::Refused(_)) => ("refused", Status::Failed),
        _ => ("FAILED", Status::Failed),
    };
    let Some(cancellation) = job.cancellation() else {
        return Err(precondition(format!("the job {job_id} has ended already: {outcome}")));
    };
    let message = match job.outcome() {
        Some(Outcome::Completed) => format!("{}; nothing was left to be cut", cancellation.text()),
        _ => cancellation.text(),
    };
    let nodes = job.history().into_iter().map(|entry| CancelledNode {
        target_ip: entry.target,
        status: entry.status,
        message: entry.message,
    });
    Ok(CancelAnswer { job_id, snapshot_id: job.snapshot_id(), status, message, nodes: nodes.collect() })
}
