//! Performing the effects of jobs: the only place where jobs meet nodes and the store.

pub(crate) mod backup;
mod clear;
mod freeze;
pub(crate) mod guards;
pub(crate) mod increments;
pub(crate) mod orphans;
pub(crate) mod pins;
pub(crate) mod restore;
mod snapshot;
mod uploaded;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cassy_store::{Class, StoreError};

use crate::cut::Cut;
use crate::link::Link;
use crate::nodes::{NodeAccess, NodeError, NodeErrorKind};
use crate::progress::ProgressBoard;

/// The connections of one job, by address, made when they are first asked for.
pub(crate) struct Links {
    job_id: String,
    epoch: i64,
    access: Arc<dyn NodeAccess>,
    progress: Arc<ProgressBoard>,
    by_address: Mutex<HashMap<String, Arc<Link>>>,
    pub(crate) cut: Cut,
}

impl Links {
    pub(crate) fn new(
        job_id: String,
        epoch: i64,
        access: Arc<dyn NodeAccess>,
        progress: Arc<ProgressBoard>,
    ) -> Self {
        Self { job_id, epoch, access, progress, by_address: Mutex::default(), cut: Cut::default() }
    }

    pub(crate) fn to(&self, address: &str) -> Arc<Link> {
        let mut links = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(address.to_owned()).or_insert_with(|| {
            let link =
                Link::new(address, &self.job_id, self.epoch, Arc::clone(&self.access), self.cut.clone());
            self.progress.watch(&self.job_id, address, link.progress());
            Arc::new(link)
        });
        Arc::clone(link)
    }

    /// Ends the agent of one node.
    pub(crate) async fn close_one(&self, address: &str) {
        let link = self.by_address.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
        if let Some(link) = link {
            link.close().await;
        }
    }

    pub(crate) async fn close(&self) {
        let links: Vec<_> = {
            let mut links = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            links.drain().map(|(_, link)| link).collect()
        };
        // The agents first: the database may be what keeps us waiting.
        futures::future::join_all(links.iter().map(|link| link.close())).await;
        self.progress.forget(&self.job_id).await;
    }
}

fn permanent(message: impl Into<String>) -> NodeError {
    NodeError::new(NodeErrorKind::Permanent, message)
}

fn unexpected(address: &str, reply: &cassy_agent_protocol::Reply) -> NodeError {
    let mut shown = format!("{reply:?}");
    shown.truncate(shown.floor_char_boundary(200));
    permanent(format!("{address}: the agent gave an answer of another kind: {shown}"))
}

fn store_error(error: &StoreError) -> NodeError {
    let kind = match error.class() {
        Class::Transient => NodeErrorKind::Transient,
        Class::Permanent | Class::Bug => NodeErrorKind::Permanent,
    };
    NodeError { kind, message: chain(error), hint: error.hint() }
}

/// The whole chain of an error in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
