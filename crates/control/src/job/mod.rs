//! Jobs as pure state machines: no clock, no I/O, no randomness.
//!
//! `step` takes a job and an event and answers the next job and the effects that bring it forward. The runner
//! stores the job before it performs the effects; so a job that is found unfinished at a start is driven on by
//! [`BackupEvent::Resumed`] or [`RestoreEvent::Resumed`], and every effect is safe to perform again.

pub mod backup;
pub mod restore;

pub use backup::{BackupEffect, BackupEvent, BackupJob, BackupStage};
pub use restore::{RestoreEffect, RestoreEvent, RestoreJob, RestoreStage};

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::operations::Status;

/// The nodes of a job, by address. Shared, as a job of many nodes is copied often and changes little at a time.
pub type Nodes<T> = BTreeMap<String, Arc<T>>;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing was touched: what stood in the way, one entry each.
    Refused(Vec<Refusal>),
    /// The work was done for every node.
    Completed,
    /// At least one node failed; the nodes say why.
    Failed,
}

/// That a job was cancelled, and how far it was then. It begins nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    /// The stage of the job.
    pub stage: String,
    /// Nodes whose part was done.
    pub finished: usize,
    /// All nodes.
    pub nodes: usize,
}

impl Cancellation {
    /// For the job as a whole.
    pub fn text(&self) -> String {
        self.text_in(&self.stage)
    }

    fn text_in(&self, stage: &str) -> String {
        format!("cancelled while {stage}: {} of {} nodes had finished", self.finished, self.nodes)
    }

    /// For the part of a node that was in this stage, with what was cut of it.
    fn failure(&self, stage: &str, cut: Option<&str>) -> Failure {
        let cut = cut.map(|cut| format!("; {cut}")).unwrap_or_default();
        Failure { unavailable: false, message: format!("{}{cut}", self.text_in(stage)), hint: None }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The node, where there is one.
    pub target: Option<String>,
    /// Whether it could not be reached, rather than being in the wrong state.
    pub unavailable: bool,
    /// What, where, why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Why an effect failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whether it could not be reached, rather than being in the wrong state.
    pub unavailable: bool,
    /// What, where, why: the whole chain.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Failure {
    /// The text for the history: the message, and the hint where there is one.
    pub fn text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; hint: {hint}", self.message),
            None => self.message.clone(),
        }
    }

    fn refusal(&self, target: &str) -> Refusal {
        Refusal {
            target: Some(target.to_owned()),
            unavailable: self.unavailable,
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}

/// What the history says of one node's part of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HistoryEntry {
    /// The node's address.
    pub target: String,
    /// Its state.
    pub status: Status,
    /// Why it failed, or what it did.
    pub message: String,
}

/// So many names are told.
const TOLD: usize = 10;

/// The names, or the first of them.
pub(crate) fn listed(items: &[String]) -> String {
    let mut text = items.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > TOLD {
        text.push_str(&format!(" and {} more", items.len() - TOLD));
    }
    text
}
