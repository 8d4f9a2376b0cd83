//! What tests ask of a server by its public interface, and waiting for how it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use cassy_api::proto::{
    BackupListingRequest, BackupRequest, BackupResponse, ClusterRegistrationRequest,
    ClusterRegistrationResponse, OperationStatus, RestoreRequest, RestoreResponse,
    RestoreStatusListingRequest,
};

use crate::{CassyServer, Doing, Failure, Probe, wait_for};

const JOB_LIMIT: Duration = Duration::from_secs(600);
pub(crate) const NODE_BACKUP: u32 = 2;
const INCREMENT: u32 = 3;
pub(crate) const NODE_RESTORE: u32 = 2;

/// How one node's part ended, and the message.
pub type Outcome = (OperationStatus, String);

/// By address.
pub type Outcomes = BTreeMap<String, Outcome>;

impl CassyServer {
    /// Registers the cluster that this host belongs to.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn register(&self, host: &str) -> Result<ClusterRegistrationResponse, Failure> {
        let request = ClusterRegistrationRequest { cassandra_host: host.to_owned() };
        let answer = self.client()?.register_cluster(request).await.doing(|| "RegisterCluster")?;
        Ok(answer.into_inner())
    }

    /// Begins a backup of type 2: of these nodes, or of all.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn begin_backup(
        &self,
        cluster_id: &str,
        targets: &[String],
    ) -> Result<BackupResponse, Failure> {
        let request = BackupRequest {
            cluster_id: cluster_id.to_owned(),
            target_ips: targets.to_vec(),
            backup_type: NODE_BACKUP,
            ..BackupRequest::default()
        };
        Ok(self.client()?.take_backup(request).await.doing(|| "TakeBackup")?.into_inner())
    }

    /// Begins a backup of type 3, on this snapshot.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn begin_increment(
        &self,
        cluster_id: &str,
        snapshot_id: &str,
    ) -> Result<BackupResponse, Failure> {
        let request = BackupRequest {
            cluster_id: cluster_id.to_owned(),
            snapshot_id: snapshot_id.to_owned(),
            backup_type: INCREMENT,
            ..BackupRequest::default()
        };
        Ok(self.client()?.take_backup(request).await.doing(|| "TakeBackup")?.into_inner())
    }

    /// Begins a restore of type 2: of these nodes, or of all in the backup.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn begin_restore(
        &self,
        cluster_id: &str,
        snapshot_id: &str,
        targets: &[String],
    ) -> Result<RestoreResponse, Failure> {
        let request = RestoreRequest {
            cluster_id: cluster_id.to_owned(),
            snapshot_id: snapshot_id.to_owned(),
            target_ips: targets.to_vec(),
            restore_type: NODE_RESTORE,
            ..RestoreRequest::default()
        };
        Ok(self.client()?.restore_backup(request).await.doing(|| "RestoreBackup")?.into_inner())
    }

    /// Waits until the newest part of each node of this backup has ended, also over restarts of the server.
    ///
    /// # Errors
    /// When one does not end in time.
    pub async fn backup_outcomes(&self, snapshot_id: &str) -> Result<Outcomes, Failure> {
        let request =
            BackupListingRequest { snapshot_id: snapshot_id.to_owned(), ..BackupListingRequest::default() };
        let mut client = self.client()?;
        wait_for("the backup ends", JOB_LIMIT, async || match client.list_backups(request.clone()).await {
            Ok(answer) => outcomes(answer.into_inner().entries.into_iter().map(|entry| {
                let status = entry.status();
                (entry.target_ip, (status, entry.message))
            })),
            Err(status) => Probe::NotYet(status.to_string()),
        })
        .await
    }

    /// The same for the newest restores of this backup.
    ///
    /// # Errors
    /// When one does not end in time.
    pub async fn restore_outcomes(&self, snapshot_id: &str) -> Result<Outcomes, Failure> {
        let request = RestoreStatusListingRequest {
            snapshot_id: snapshot_id.to_owned(),
            ..RestoreStatusListingRequest::default()
        };
        let mut client = self.client()?;
        let mut list = async || client.list_restore_statuses(request.clone()).await;
        wait_for("the restore ends", JOB_LIMIT, async || match list().await {
            Ok(answer) => outcomes(answer.into_inner().entries.into_iter().map(|entry| {
                let status = entry.status();
                (entry.target_ip, (status, entry.message))
            })),
            Err(status) => Probe::NotYet(status.to_string()),
        })
        .await
    }
}

/// Of each node the first entry, as the lists show the newest first.
fn outcomes(entries: impl Iterator<Item = (String, Outcome)>) -> Probe<Outcomes> {
    let mut newest = Outcomes::new();
    for (target, outcome) in entries {
        newest.entry(target).or_insert(outcome);
    }
    let is_final =
        |(status, _): &Outcome| matches!(status, OperationStatus::Completed | OperationStatus::Failed);
    if !newest.is_empty() && newest.values().all(is_final) {
        return Probe::Ready(newest);
    }
    Probe::NotYet(format!("{newest:?}"))
}
