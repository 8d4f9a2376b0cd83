//! What the tests of clusters share: rows that must come back, somebody who writes all the time, applications that can
//! be paused, what a backup's snapshots held, and the agents on a node.

mod agents;
mod applications;
mod bank;
mod kept;
mod rows;
mod writer;

pub(crate) use agents::{Agents, Watch, is_locked, manifest_exists, thaw};
pub(crate) use applications::{Applications, freeze, frozen};
pub(crate) use bank::{Accounts, Bank, accounts, is_whole};
pub(crate) use kept::{Kept, KeptFiles, back_up, files_are_back, nothing_of_ours_is_left};
pub(crate) use rows::{SIMPLE, SPREAD, fingerprints, write};
pub(crate) use writer::{Acknowledged, Writer, missing};

use cassy_api::proto::OperationStatus;
use cassy_testkit::Outcomes;

/// Every node's part is complete.
pub(crate) fn assert_completed(what: &str, outcomes: &Outcomes, addresses: &[String]) {
    let named: Vec<&String> = outcomes.keys().collect();
    let mut wanted: Vec<&String> = addresses.iter().collect();
    wanted.sort();
    assert_eq!(named, wanted, "{what}");
    let completed = outcomes.values().all(|(status, _)| *status == OperationStatus::Completed);
    assert!(completed, "{what}: {outcomes:?}");
}
