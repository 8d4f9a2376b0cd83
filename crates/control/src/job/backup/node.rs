//! One node's part of a backup.

use cassy_agent_protocol::{ParentManifest, UploadSummary};
use cassy_backup_format::{ConfigurationFacts, HostId};
use serde::{Deserialize, Serialize};

use super::{BackupJob, BackupStage};
use crate::job::{Failure, HistoryEntry};
use crate::operations::Status;

/// One node's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupNode {
    /// Which node the ring had at this address when the backup was planned; `None` in a job of an earlier version.
    #[serde(default)]
    pub planned: Option<HostId>,
    /// Where it is; never a stage of the job alone, except to wait for it.
    pub stage: BackupStage,
    /// Counts the snapshots of this node: a resume before the end of the snapshot stage is a new attempt.
    pub attempt: u32,
    /// What the preparation found; set from then on.
    pub facts: Option<Box<BackupNodeFacts>>,
    /// `(keyspace, table)` of every table that the snapshot must hold; empty when it is sent.
    pub tables: Vec<(String, String)>,
    /// The manifest whose objects may be relied on.
    pub parent: Option<ParentManifest>,
    /// The node manifest, when it is durable.
    pub uploaded: Option<UploadSummary>,
    /// Why this node's part failed.
    pub failure: Option<Failure>,
    /// What could not be cleared.
    pub notes: Vec<String>,
    /// Whether its row is final: when its part is done, and the job's too if no other node is left.
    pub ended: bool,
}

impl Default for BackupNode {
    fn default() -> Self {
        Self {
            planned: None,
            stage: BackupStage::Prepare,
            attempt: 1,
            facts: None,
            tables: Vec::new(),
            parent: None,
            uploaded: None,
            failure: None,
            notes: Vec::new(),
            ended: false,
        }
    }
}

impl BackupNode {
    /// One whose part begins.
    pub fn planned(host_id: HostId) -> Self {
        Self { planned: Some(host_id), ..Self::default() }
    }

    /// Whether its snapshot is taken, or never will be.
    pub(super) fn is_past_the_snapshot(&self) -> bool {
        self.failure.is_some() || self.stage > BackupStage::Snapshot
    }

    /// What the history says of it.
    pub(super) fn entry(&self, target: &str, job: &BackupJob) -> HistoryEntry {
        let mut message = match (&self.failure, &self.uploaded) {
            (Some(failure), _) => failure.text(),
            (None, Some(summary)) => completed_message(summary),
            (None, None) => String::new(),
        };
        for left in &self.notes {
            message.push_str(&format!("; left for a later backup: {left}"));
        }
        if let Some(failure) = job.commit_failure.as_ref().filter(|_| !job.is_cluster_wide()) {
            message
                .push_str(&format!("; the summary of the whole backup was not written: {}", failure.text()));
        }
        if let Some(said) = job.cluster_wide.as_ref().and_then(|own| own.message(self.failure.is_some())) {
            message.push_str(&format!("; {said}"));
        }
        let status = match (self.ended, &self.failure) {
            (true, Some(_)) => Status::Failed,
            (true, None) => Status::Completed,
            (false, _) if self.stage > BackupStage::Snapshot => Status::Started,
            (false, _) => Status::Initialized,
        };
        HistoryEntry { target: target.to_owned(), status, message }
    }
}

/// What the preparation found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BackupNodeFacts {
    pub host_id: HostId,
    pub tokens: Vec<String>,
    pub datacenter: String,
    pub rack: String,
    pub cassandra_version: String,
    pub partitioner: String,
    pub data_directories: Vec<String>,
    pub configuration: ConfigurationFacts,
}

impl BackupNodeFacts {
    /// The directory that the node's lock is on.
    pub fn lock(&self) -> &str {
        self.data_directories.first().map(String::as_str).unwrap_or_default()
    }
}

pub(super) fn corrupt(summary: &UploadSummary) -> Option<Failure> {
    let first = summary.corrupt.first()?;
    let more = match summary.corrupt.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    Some(Failure {
        unavailable: false,
        message: format!("an SSTable does not match its own checksum: {first}{more}"),
        hint: Some(format!(
            "the disk or the file is damaged: scrub or repair the table; what could be read is kept under {}",
            summary.manifest
        )),
    })
}

fn completed_message(summary: &UploadSummary) -> String {
    let mut message = format!(
        "{} SSTables, {} files, {} bytes; {} bytes were new",
        summary.sstables, summary.files, summary.bytes, summary.sent_bytes
    );
    if summary.taken > 0 {
        message.push_str(&format!("; {} flushed SSTables were added", summary.taken));
    }
    if summary.left > 0 {
        let left = summary.left;
        message.push_str(&format!(
            "; {left} SSTables in backups/ without a whole TOC.txt are left for the next one"
        ));
    }
    message
}
