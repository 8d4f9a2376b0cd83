//! The fake node's schema, which may change in the middle of a call, and its snapshots.

#![allow(dead_code, reason = "each file of tests uses its own part of the fake world")]

use std::collections::{BTreeMap, VecDeque};

use cassy_agent_protocol::{CheckSnapshotRequest, SnapshotTag};
use cassy_backup_format::TableRef;
use cassy_control::nodes::{NodeError, NodeErrorKind};

use super::Ring;

/// `(keyspace, table)` of every table; at first there is one.
pub(crate) struct Schema(pub(crate) Vec<(String, String)>);

/// By call: what the schema is when the call is in its middle, the first time, the second time.
pub(crate) type Changes = BTreeMap<&'static str, VecDeque<Schema>>;

impl Default for Schema {
    fn default() -> Self {
        Self::of(&["ks.t"])
    }
}

impl Schema {
    /// Of names like `ks.t`.
    pub(crate) fn of(tables: &[&str]) -> Self {
        let split = |name: &&str| {
            let (keyspace, table) = name.split_once('.').unwrap();
            (keyspace.to_owned(), table.to_owned())
        };
        Self(tables.iter().map(split).collect())
    }

    pub(crate) fn keyspaces(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.iter().map(|(keyspace, _)| keyspace.clone()).collect();
        names.dedup();
        names
    }
}

impl Ring {
    /// In the middle of the next such calls the schema becomes these, one after another.
    pub(crate) fn schema_in(&self, call: &'static str, schemas: impl IntoIterator<Item = Schema>) {
        self.changes.lock().unwrap().insert(call, schemas.into_iter().collect());
    }

    pub(crate) fn schema_changes(&self, call: &'static str) {
        let next = self.changes.lock().unwrap().get_mut(call).and_then(VecDeque::pop_front);
        if let Some(next) = next {
            *self.schema.lock().unwrap() = next;
        }
    }

    /// Cassandra refuses a call that names a keyspace which it does not have.
    pub(crate) fn all_exist(&self, keyspaces: &[String]) -> Result<(), NodeError> {
        let known = self.schema.lock().unwrap().keyspaces();
        match keyspaces.iter().find(|keyspace| !known.contains(keyspace)) {
            Some(gone) => {
                Err(NodeError::new(NodeErrorKind::Permanent, format!("Keyspace {gone} does not exist")))
            }
            None => Ok(()),
        }
    }

    /// What was made to be broken, and the tables of keyspaces that the snapshot was not taken of.
    pub(crate) fn broken(&self, check: &CheckSnapshotRequest) -> Vec<String> {
        let snapshots = self.snapshots.lock().unwrap();
        let taken = snapshots.get(&check.tag.to_string()).cloned().unwrap_or_default();
        let lacking = check.tables.iter().filter(|(keyspace, _)| !taken.contains(keyspace));
        let lacking = lacking.map(|(keyspace, table)| format!("{keyspace}.{table}: it has no snapshot"));
        self.broken.lock().unwrap().iter().cloned().chain(lacking).collect()
    }

    pub(crate) fn own_tags(&self) -> Vec<SnapshotTag> {
        self.snapshots.lock().unwrap().keys().filter_map(|tag| tag.parse().ok()).collect()
    }
}

pub(crate) fn table((keyspace, table): &(String, String)) -> TableRef {
    TableRef { keyspace: keyspace.clone(), table: table.clone(), id: "0".repeat(32) }
}
