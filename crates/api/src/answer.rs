//! Answers of the operations in wire types.

use cassy_control::{
    BackupAnswer, CancelAnswer, CancelledNode, Cluster, FreezeReport, NodeEntry, PausedInstance,
    RestoreAnswer, Status, Undelivered,
};

use crate::proto;

impl From<Cluster> for proto::ClusterRegistrationResponse {
    fn from(cluster: Cluster) -> Self {
        Self {
            cluster_id: cluster.cluster_id,
            cluster_name: cluster.cluster_name,
            target_ips: cluster.target_ips,
            keyspaces: cluster.keyspaces,
            data_dir: cluster.data_dir,
        }
    }
}

impl From<Cluster> for proto::cluster_listing_response::Entry {
    fn from(cluster: Cluster) -> Self {
        Self {
            cluster_id: cluster.cluster_id,
            cluster_name: cluster.cluster_name,
            target_ips: cluster.target_ips,
            keyspaces: cluster.keyspaces,
            data_dir: cluster.data_dir,
            created_at: millis(cluster.created_at),
            updated_at: millis(cluster.updated_at),
        }
    }
}

impl From<NodeEntry> for proto::backup_listing_response::Entry {
    fn from(mut entry: NodeEntry) -> Self {
        // What each node knew is in its own entry.
        if let Some(freeze) = &mut entry.freeze {
            freeze.undelivered.retain(|node, _| *node == entry.target_ip);
        }
        Self {
            cluster_id: entry.cluster_id,
            target_ip: entry.target_ip,
            snapshot_id: entry.snapshot_id,
            created_at: millis(entry.created_at),
            updated_at: millis(entry.updated_at),
            backup_type: entry.operation_type,
            status: status(entry.status).into(),
            message: entry.message,
            bytes_done: entry.progress.bytes_done,
            bytes_total: entry.progress.bytes_total,
            pause: entry.freeze.map(proto::backup_listing_response::Pause::from),
            job_id: entry.job_id.unwrap_or_default(),
        }
    }
}

impl From<FreezeReport> for proto::backup_listing_response::Pause {
    fn from(report: FreezeReport) -> Self {
        let paused = |paused: PausedInstance| proto::backup_listing_response::PausedInstance {
            instance: paused.instance.to_string(),
            paused_after_ms: paused.paused_after_ms,
        };
        let undelivered = report.undelivered.into_iter().map(|(target_ip, known)| {
            let Undelivered { hint_files, dropped_writes } = known;
            proto::backup_listing_response::Undelivered { target_ip, hint_files, dropped_writes }
        });
        Self {
            started_at: millis(report.started_at_ms),
            ended_at: millis(report.ended_at_ms),
            slowest_node: report.slowest_node,
            slowest_snapshot_ms: report.slowest_snapshot_ms,
            instances: report.instances.into_iter().map(paused).collect(),
            undelivered: undelivered.collect(),
        }
    }
}

impl From<NodeEntry> for proto::restore_status_listing_response::Entry {
    fn from(entry: NodeEntry) -> Self {
        Self {
            target_ip: entry.target_ip,
            snapshot_id: entry.snapshot_id,
            created_at: millis(entry.created_at),
            updated_at: millis(entry.updated_at),
            restore_type: entry.operation_type,
            status: status(entry.status).into(),
            message: entry.message,
            bytes_done: entry.progress.bytes_done,
            bytes_total: entry.progress.bytes_total,
            job_id: entry.job_id.unwrap_or_default(),
        }
    }
}

impl From<BackupAnswer> for proto::BackupResponse {
    fn from(answer: BackupAnswer) -> Self {
        Self {
            status: status(answer.status).into(),
            cluster_id: answer.cluster_id,
            target_ips: answer.target_ips,
            snapshot_id: answer.snapshot_id,
            created_at: millis(answer.created_at),
            backup_type: answer.backup_type as u32,
            message: answer.message,
            job_id: answer.job_id,
        }
    }
}

impl From<RestoreAnswer> for proto::RestoreResponse {
    fn from(answer: RestoreAnswer) -> Self {
        Self {
            status: status(answer.status).into(),
            cluster_id: answer.cluster_id,
            target_ips: answer.target_ips,
            snapshot_id: answer.snapshot_id,
            restore_type: answer.restore_type as u32,
            snapshot_only: answer.snapshot_only,
            message: answer.message,
            job_id: answer.job_id.unwrap_or_default(),
        }
    }
}

impl From<CancelAnswer> for proto::CancelJobResponse {
    fn from(answer: CancelAnswer) -> Self {
        let node = |node: CancelledNode| proto::cancel_job_response::Node {
            target_ip: node.target_ip,
            status: status(node.status).into(),
            message: node.message,
        };
        Self {
            status: status(answer.status).into(),
            job_id: answer.job_id,
            snapshot_id: answer.snapshot_id,
            message: answer.message,
            nodes: answer.nodes.into_iter().map(node).collect(),
        }
    }
}

fn status(status: Status) -> proto::OperationStatus {
    match status {
        Status::Unknown => proto::OperationStatus::Unknown,
        Status::Initialized => proto::OperationStatus::Initialized,
        Status::Started => proto::OperationStatus::Started,
        Status::Completed => proto::OperationStatus::Completed,
        Status::Failed => proto::OperationStatus::Failed,
    }
}

/// A time before 1970 can only be a damaged row; it is shown as no time at all.
fn millis(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(0)
}
