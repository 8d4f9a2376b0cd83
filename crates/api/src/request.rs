//! Wire requests to our own terms: every field is checked before the operations see it.
//!
//! A listing that can match nothing (an id of unknown form) is `None` and answered with an empty list, as users of the
//! Java implementation expect. What later versions bring is refused last, when all arguments are known to be right.

use std::collections::{BTreeMap, HashMap, HashSet};

use cassy_control::{
    BackupRequest, BackupType, ClusterSelector, HistorySelector, JobSelector, OperationError,
    OperationErrorKind, RestoreRequest, RestoreType,
};
use uuid::Uuid;

use crate::{address, proto};

/// Ids are stored in columns of this width.
const TEXT_CHARS: usize = 255;
const TARGETS: usize = 10_000;
const KEY_CHARS: usize = 128;
const SHOWN_CHARS: usize = 80;

const UNKNOWN_CLUSTER: &str = "The specified cluster cannot be found.";
const INCONSISTENT: &str = "The request is invalid or inconsistent.";
const NO_HOST: &str = "cassandra_host is not set correctly.";

/// The host to register.
pub(crate) fn cassandra_host(request: &proto::ClusterRegistrationRequest) -> Result<String, OperationError> {
    let host = &request.cassandra_host;
    if host.chars().all(char::is_whitespace) {
        return Err(invalid(NO_HOST)
            .hint("Name one node of the cluster in cassandra_host, by host name or IP address."));
    }
    address::parse_host(host).map_err(|reason| {
        invalid(format!("{NO_HOST} {} is refused: {reason}", shown(host)))
            .hint("Name one node of the cluster in cassandra_host, by host name or IP address, without scheme and port.")
    })
}

/// Which clusters to list.
pub(crate) fn clusters(request: proto::ClusterListingRequest) -> Result<ClusterSelector, OperationError> {
    let cluster_id = optional_text("cluster_id", request.cluster_id)?;
    Ok(ClusterSelector { cluster_id, limit: limit(request.limit) })
}

/// Which backups to list.
pub(crate) fn backup_history(
    request: proto::BackupListingRequest,
) -> Result<Option<HistorySelector>, OperationError> {
    history(request.cluster_id, request.target_ip, request.snapshot_id, request.limit)
}

/// Which restores to list.
pub(crate) fn restore_history(
    request: proto::RestoreStatusListingRequest,
) -> Result<Option<HistorySelector>, OperationError> {
    history(request.cluster_id, request.target_ip, request.snapshot_id, request.limit)
}

/// Which backup to take.
pub(crate) fn backup(request: proto::BackupRequest) -> Result<BackupRequest, OperationError> {
    let cluster_id = required_cluster(request.cluster_id)?;
    let target_ips = target_ips(&request.target_ips)?;
    let backup_type = backup_type(request.backup_type)?;
    let snapshot_id = match (backup_type, optional_text("snapshot_id", request.snapshot_id)?) {
        (BackupType::Incremental, Some(id)) => Some(required_uuid(&id)?),
        (BackupType::Incremental, None) => {
            return Err(invalid(INCONSISTENT)
                .hint("backup_type 3 adds to a snapshot: set snapshot_id to one that ListBackups shows."));
        }
        (BackupType::Cluster | BackupType::Node, Some(_)) => {
            return Err(
                invalid(INCONSISTENT).hint("backup_types 1 and 2 draw a new id: leave snapshot_id empty.")
            );
        }
        (BackupType::Cluster | BackupType::Node, None) => None,
    };
    let keep_unproven = request.keep_unproven;
    if keep_unproven && backup_type != BackupType::Cluster {
        return Err(invalid("keep_unproven is for backup_type 1 only"));
    }
    let idempotency_key = idempotency_key(request.idempotency_key)?;
    Ok(BackupRequest { cluster_id, target_ips, snapshot_id, backup_type, keep_unproven, idempotency_key })
}

/// What to restore.
pub(crate) fn restore(request: proto::RestoreRequest) -> Result<RestoreRequest, OperationError> {
    let cluster_id = required_cluster(request.cluster_id)?;
    let target_ips = target_ips(&request.target_ips)?;
    let restore_type = restore_type(request.restore_type)?;
    let Some(snapshot_id) = optional_text("snapshot_id", request.snapshot_id)? else {
        return Err(invalid("snapshot_id is not set").hint("Set snapshot_id to one that ListBackups shows."));
    };
    let snapshot_id = required_uuid(&snapshot_id)?;
    let snapshot_only = request.snapshot_only || request.snapshot_only_alias;
    let source_of = source_of(request.source_of)?;
    let (move_aside, dry_run) = (request.move_aside, request.dry_run);
    Ok(RestoreRequest {
        cluster_id,
        target_ips,
        snapshot_id,
        restore_type,
        snapshot_only,
        source_of,
        move_aside,
        dry_run,
        idempotency_key: idempotency_key(request.idempotency_key)?,
    })
}

/// Which job to cancel.
pub(crate) fn cancel(request: proto::CancelJobRequest) -> Result<JobSelector, OperationError> {
    let usual = |field: &str, id: Option<String>| {
        let wrong = |id: &String| invalid(format!("{field} {} is not a UUID", shown(id)));
        id.map(|id| usual_uuid(&id).ok_or_else(|| wrong(&id))).transpose()
    };
    let job_id = usual("job_id", optional_text("job_id", request.job_id)?)?;
    let snapshot_id = usual("snapshot_id", optional_text("snapshot_id", request.snapshot_id)?)?;
    match (job_id, snapshot_id) {
        (Some(job_id), None) => Ok(JobSelector::Job(job_id)),
        (None, Some(snapshot_id)) => Ok(JobSelector::Snapshot(snapshot_id)),
        _ => Err(invalid(INCONSISTENT).hint("Set either job_id or snapshot_id, as the lists show them.")),
    }
}

fn history(
    cluster_id: String,
    target_ip: String,
    snapshot_id: String,
    limit_field: i32,
) -> Result<Option<HistorySelector>, OperationError> {
    let cluster_id = optional_text("cluster_id", cluster_id)?;
    let target_ip = optional_text("target_ip", target_ip)?;
    let snapshot_id = optional_text("snapshot_id", snapshot_id)?;
    if cluster_id.is_none() && snapshot_id.is_none() {
        return Err(invalid(INCONSISTENT).hint("Set cluster_id, snapshot_id or both."));
    }
    let (Some(target_ip), Some(snapshot_id)) =
        (understood(target_ip, usual_ip), understood(snapshot_id, usual_uuid))
    else {
        return Ok(None);
    };
    Ok(Some(HistorySelector { cluster_id, target_ip, snapshot_id, limit: limit(limit_field) }))
}

/// Nothing asked for is fine; something asked for that `parse` does not know is `None`.
fn understood(text: Option<String>, parse: impl Fn(&str) -> Option<String>) -> Option<Option<String>> {
    text.map_or(Some(None), |text| parse(&text).map(Some))
}

fn required_cluster(cluster_id: String) -> Result<String, OperationError> {
    optional_text("cluster_id", cluster_id)?
        .ok_or_else(|| invalid(UNKNOWN_CLUSTER).hint("Set cluster_id to one that ListClusters shows."))
}

fn required_uuid(snapshot_id: &str) -> Result<String, OperationError> {
    usual_uuid(snapshot_id).ok_or_else(|| {
        invalid(format!("snapshot_id {} is not a UUID", shown(snapshot_id)))
            .hint("Set snapshot_id to one that ListBackups shows.")
    })
}

/// One spelling only, 8-4-4-4-12 digits, in lower case.
fn usual_uuid(text: &str) -> Option<String> {
    let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    hyphenated.then(|| Uuid::try_parse(text).ok()).flatten().map(|id| id.to_string())
}

fn usual_ip(text: &str) -> Option<String> {
    address::parse_ip(text).map(|address| address.to_string())
}

fn target_ips(texts: &[String]) -> Result<Vec<String>, OperationError> {
    if texts.len() > TARGETS {
        return Err(invalid(format!(
            "target_ips holds {} addresses; at most {TARGETS} are allowed",
            texts.len()
        )));
    }
    let mut seen = HashSet::new();
    texts.iter().map(|text| target_ip(text, &mut seen)).collect()
}

fn target_ip(text: &str, seen: &mut HashSet<String>) -> Result<String, OperationError> {
    let Some(address) = usual_ip(text) else {
        return Err(invalid(format!("target_ips holds {}, which is not an IP address", shown(text)))
            .hint("Spell nodes as ListClusters shows them; leave target_ips empty for all."));
    };
    if !seen.insert(address.clone()) {
        return Err(invalid(format!("target_ips names {address} more than once")));
    }
    Ok(address)
}

fn source_of(texts: HashMap<String, String>) -> Result<BTreeMap<String, String>, OperationError> {
    if texts.len() > TARGETS {
        let count = texts.len();
        return Err(invalid(format!("source_of holds {count} entries; at most {TARGETS} are allowed")));
    }
    let hint =
        "Name an IP address for each target, and the IP address or the host id that it had in the backup.";
    let wrong = |what: &str, text: &str| {
        invalid(format!("source_of holds {}, which is not {what}", shown(text))).hint(hint)
    };
    let mut sources = BTreeMap::new();
    for (target, source) in texts {
        let address = usual_ip(&target).ok_or_else(|| wrong("an IP address", &target))?;
        let usual = usual_ip(&source).or_else(|| usual_uuid(&source));
        let usual = usual.ok_or_else(|| wrong("an IP address or a host id", &source))?;
        if sources.insert(address.clone(), usual).is_some() {
            return Err(invalid(format!("source_of names {address} more than once")).hint(hint));
        }
    }
    Ok(sources)
}

/// One that is set and empty is a script's mistake, and not the wish to have none.
fn idempotency_key(key: Option<String>) -> Result<Option<String>, OperationError> {
    let is_usual = |key: &String| {
        (1..=KEY_CHARS).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    match key {
        Some(key) if !is_usual(&key) => Err(invalid(format!("idempotency_key is {}", shown(&key))).hint(
            format!("Use 1 to {KEY_CHARS} printable ASCII characters, such as a UUID; or leave it out."),
        )),
        key => Ok(key),
    }
}

fn backup_type(number: u32) -> Result<BackupType, OperationError> {
    match number {
        1 => Ok(BackupType::Cluster),
        2 => Ok(BackupType::Node),
        3 => Ok(BackupType::Incremental),
        _ => Err(invalid(format!("backup_type {number} is unknown"))
            .hint("Set backup_type to 1 (cluster snapshot), 2 (node snapshot) or 3 (node incremental).")),
    }
}

fn restore_type(number: u32) -> Result<RestoreType, OperationError> {
    match number {
        1 => Ok(RestoreType::Cluster),
        2 => Ok(RestoreType::Node),
        _ => Err(invalid(format!("restore_type {number} is unknown"))
            .hint("Set restore_type to 1 (cluster) or 2 (node).")),
    }
}

fn limit(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|limit| *limit > 0)
}

fn optional_text(field: &str, text: String) -> Result<Option<String>, OperationError> {
    if text.chars().count() > TEXT_CHARS {
        return Err(invalid(format!("{field} is longer than {TEXT_CHARS} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(format!("{field} holds control characters: {}", shown(&text))));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn invalid(message: impl Into<String>) -> OperationError {
    OperationError::new(OperationErrorKind::InvalidArgument, message)
}

/// Quoted, shortened, and with everything escaped that a terminal or a log would act on.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(SHOWN_CHARS).collect();
    let rest = if start.len() < text.len() { "..." } else { "" };
    format!("{start:?}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_less_is_no_limit() {
        assert_eq!(
            [i32::MIN, -1, 0, 1, i32::MAX].map(limit),
            [None, None, None, Some(1), Some(2_147_483_647)]
        );
    }

    #[test]
    fn a_uuid_has_one_spelling() {
        let usual = "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3";
        assert_eq!(usual_uuid(&usual.to_uppercase()).as_deref(), Some(usual));
        for text in [
            "",
            "{0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3}",
            "0192f0c12d3e7a4b8c5d6e7f8091a2b3",
            "../../etc/passwd",
        ] {
            assert_eq!(usual_uuid(text), None, "{text}");
        }
    }

    #[test]
    fn shown_text_is_short_and_harmless() {
        assert_eq!(shown("a\u{202e}\u{1b}[31m\n"), r#""a\u{202e}\u{1b}[31m\n""#);
        assert_eq!(shown(&"x".repeat(500)).len(), SHOWN_CHARS + 5);
    }
}
