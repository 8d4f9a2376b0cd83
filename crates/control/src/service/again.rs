//! Requests with an idempotency key: whoever sends the same one again is answered by the same job, and never makes a
//! second one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cassy_catalog::JobKey;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedMutexGuard;

use super::{Service, answered, precondition};
use crate::machine::Machine;
use crate::operations::{BackupRequest, OperationError, OperationErrorKind, RestoreRequest};
use crate::runner::{database_failed, decode};

/// What a request asks for, without what it leaves at its default: a later version may know more of it.
pub(super) type Asked = Map<String, Value>;

/// The right to file the one job of a key. Dropped, the next one who asks has its turn.
pub(crate) struct Claim {
    pub(crate) key: JobKey,
    _turn: OwnedMutexGuard<()>,
}

/// One after another for each key.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn of(&self, key: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(key.to_owned(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// Who answers a request.
pub(super) enum Answerer {
    /// A job that is yet to be made; with the key's claim, if there is a key.
    New(Option<Claim>),
    /// The job with this id.
    Job(String),
}

impl Service {
    /// The job that was made for this request before, if it has a key and there is one. Waits for others with the same
    /// key until they have filed their job, or were refused.
    pub(super) async fn answerer(
        &self,
        key: Option<&String>,
        asked: Asked,
    ) -> Result<Answerer, OperationError> {
        let Some(key) = key else { return Ok(Answerer::New(None)) };
        let turn = self.turns.of(key).await;
        let known = self.parts.catalog.job_by_key(key).await;
        match known.map_err(|e| database_failed("look up the idempotency key", &e))? {
            Some((job_id, request_json)) => {
                same(key, &job_id, &request_json, &asked)?;
                Ok(Answerer::Job(job_id))
            }
            None => {
                let request_json = Value::Object(asked).to_string();
                Ok(Answerer::New(Some(Claim { key: JobKey { key: key.clone(), request_json }, _turn: turn })))
            }
        }
    }

    /// The job once `ready`: from the runner while it is under way, else as it was stored at its end.
    pub(super) async fn job_again<M: Machine>(
        &self,
        job_id: &str,
        ready: impl Fn(&M) -> bool,
    ) -> Result<M, OperationError> {
        // It may end between the two looks.
        for _ in 0..2 {
            let handle = self.runner.handles.of(job_id);
            if let Some(view) = handle.and_then(|handle| M::of_view(handle.view)) {
                return answered(view, ready).await;
            }
            let stored = self.parts.catalog.job(job_id).await;
            let stored = stored.map_err(|e| database_failed("look up a job", &e))?;
            if let Some(stored) = stored.filter(|job| job.finished) {
                return decode(&stored).map_err(|error| {
                    precondition(format!("the state of the job {job_id} cannot be read: {error}"))
                });
            }
        }
        let message = format!("the job {job_id} is not driven at this moment");
        Err(OperationError::new(OperationErrorKind::Unavailable, message)
            .hint("it goes on when the server is started again: the lists show it"))
    }
}

/// Fine when the job was made for this very request.
fn same(key: &str, job_id: &str, request_json: &str, asked: &Asked) -> Result<(), OperationError> {
    let before: Asked = serde_json::from_str(request_json).unwrap_or_default();
    let names = before.keys().chain(asked.keys());
    let mut other: Vec<&str> =
        names.filter(|name| before.get(*name) != asked.get(*name)).map(String::as_str).collect();
    if other.is_empty() {
        return Ok(());
    }
    other.sort_unstable();
    other.dedup();
    let message = match before.get("call").and_then(Value::as_str) {
        Some(call) if other.contains(&"call") => {
            format!("the idempotency_key {key:?} is that of the job {job_id}, a request of {call}")
        }
        _ => format!(
            "the idempotency_key {key:?} is that of the job {job_id}, whose request differs in {}",
            other.join(", ")
        ),
    };
    Err(precondition(message).hint("draw a new key for a new request"))
}

pub(super) fn asked_of_backup(request: &BackupRequest) -> Asked {
    let BackupRequest { cluster_id, target_ips, snapshot_id, backup_type, keep_unproven, idempotency_key: _ } =
        request;
    without_defaults(json!({
        "call": "TakeBackup",
        "cluster_id": cluster_id,
        "target_ips": sorted(target_ips),
        "snapshot_id": snapshot_id,
        "backup_type": *backup_type as u32,
        "keep_unproven": keep_unproven,
    }))
}

/// Of one that is no dry run.
pub(super) fn asked_of_restore(request: &RestoreRequest) -> Asked {
    let RestoreRequest {
        cluster_id,
        target_ips,
        snapshot_id,
        restore_type,
        snapshot_only,
        source_of,
        move_aside,
        dry_run: _,
        idempotency_key: _,
    } = request;
    without_defaults(json!({
        "call": "RestoreBackup",
        "cluster_id": cluster_id,
        "target_ips": sorted(target_ips),
        "snapshot_id": snapshot_id,
        "restore_type": *restore_type as u32,
        "snapshot_only": snapshot_only,
        "source_of": source_of,
        "move_aside": move_aside,
    }))
}

/// Their order means nothing.
fn sorted(target_ips: &[String]) -> Vec<String> {
    let mut sorted = target_ips.to_vec();
    sorted.sort_unstable();
    sorted
}

fn without_defaults(request: Value) -> Asked {
    let Value::Object(mut fields) = request else { return Asked::new() };
    fields.retain(|_, value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        _ => true,
    });
    fields
}
