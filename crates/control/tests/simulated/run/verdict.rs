//! The checks at the end of a run, when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use cassy_backup_format::ClusterManifest;
use cassy_catalog::{HistoryEntry, HistorySelector};

use super::Run;
use crate::world::{Deed, State, Violation};

const COMPLETED: u8 = 3;
const FAILED: u8 = 4;
const KEPT: &str = "kept as a backup of single nodes";
const CONSISTENT: &str = "consistent across the cluster;";

impl Run {
    pub(super) fn judge(&self) {
        let rows = self.rows();
        let manifests = self.manifests();
        let mut found = self.of_jobs(&rows);
        let state = self.world.lock();
        for manifest in manifests.values().filter(|manifest| manifest.consistent) {
            found.extend(falsely_consistent(&state, manifest));
        }
        let jobs: BTreeMap<_, Vec<_>> =
            rows.iter().fold(BTreeMap::new(), |mut jobs: BTreeMap<_, Vec<_>>, row| {
                jobs.entry(row.snapshot_id.clone()).or_default().push(row);
                jobs
            });
        for (id, rows) in jobs {
            found.extend(
                of_rows(&rows, manifests.get(&id)).map(|what| Violation::Lost(format!("{id}: {what}"))),
            );
        }
        found.extend(self.left(&state));
        drop(state);
        for row in &rows {
            let job = self.world.job(&row.snapshot_id);
            self.world.say(format!("{job} {} {}", row.target_ip, row.status));
        }
        self.world.lock().violations.extend(found);
    }

    fn rows(&self) -> Vec<HistoryEntry> {
        let server = self.server.as_ref().expect("it was started again");
        let selector =
            HistorySelector { cluster_id: Some(self.cluster.clone()), ..HistorySelector::default() };
        server.ask(&self.desk, server.catalog.backups(&selector)).unwrap()
    }

    fn manifests(&self) -> BTreeMap<String, ClusterManifest> {
        let stored = self.world.store.with("/backup/");
        let manifests = stored.iter().map(|(_, body)| ClusterManifest::from_json(body).unwrap());
        manifests.map(|manifest| (manifest.backup_id.to_string(), manifest)).collect()
    }

    /// What was promised is in the history, and the last backup, without faults, is whole.
    fn of_jobs(&self, rows: &[HistoryEntry]) -> Vec<Violation> {
        let answers = self.answers.lock().unwrap();
        let known: BTreeSet<_> = rows.iter().map(|row| row.snapshot_id.as_str()).collect();
        let lost = answers.iter().flatten().filter(|answer| !known.contains(answer.snapshot_id.as_str()));
        let mut found: Vec<_> = lost
            .map(|answer| Violation::Lost(format!("{} is not in the history", answer.snapshot_id)))
            .collect();
        let whole = answers.last().is_some_and(|answer| {
            answer.as_ref().is_ok_and(|answer| {
                let rows: Vec<_> = rows.iter().filter(|row| row.snapshot_id == answer.snapshot_id).collect();
                rows.len() == self.plan.nodes
                    && rows.iter().all(|row| row.status == COMPLETED && row.message.contains(CONSISTENT))
            })
        });
        if !whole {
            found.push(Violation::Lost(format!("the backup without faults failed: {:?}", answers.last())));
        }
        found
    }

    /// What no job may leave behind when another one has followed it.
    fn left(&self, state: &State) -> Vec<Violation> {
        let tags =
            state.nodes.iter().flat_map(|node| node.snapshots.keys().map(|tag| format!("the tag {tag}")));
        let marks = ["/pin/", "/probe/"].into_iter().flat_map(|kind| self.world.store.with(kind));
        let marks = marks.map(|(key, _)| format!("the object {key}"));
        tags.chain(marks).map(Violation::Left).collect()
    }
}

/// One final state of all rows, and the manifest that it promises.
fn of_rows(rows: &[&HistoryEntry], manifest: Option<&ClusterManifest>) -> Option<String> {
    let is = |status: u8| rows.iter().all(|row| row.status == status);
    let is_kept = rows.iter().any(|row| row.message.contains(KEPT));
    let claims = rows.iter().any(|row| row.status == COMPLETED && row.message.contains(CONSISTENT));
    match manifest {
        _ if !rows.iter().all(|row| row.status == COMPLETED || row.status == FAILED) => {
            Some("a row is not final".to_owned())
        }
        _ if !is_kept && !is(COMPLETED) && !is(FAILED) => {
            Some("some rows are COMPLETED, some FAILED".to_owned())
        }
        Some(manifest) if manifest.consistent && !is(COMPLETED) => {
            Some("a consistent manifest, and rows that failed".to_owned())
        }
        manifest if claims && !manifest.is_some_and(|manifest| manifest.consistent) => {
            Some("rows that claim what the manifest does not".to_owned())
        }
        _ => None,
    }
}

/// What happened between the first and the last of its snapshots: a write, whoever made it, or a request through a gate
/// that was to be closed. (Nobody knows of a gate whose instance DNS does not name; what passes it is seen when it writes.)
fn falsely_consistent(state: &State, manifest: &ClusterManifest) -> Option<Violation> {
    let id = manifest.backup_id.to_string();
    let taken: Vec<u64> = state.nodes.iter().map(|node| node.taken[&node.sent[&id]]).collect();
    let (first, last) = (*taken.iter().min()?, *taken.iter().max()?);
    let pause = state.pauses.iter().rev().find(|pause| pause.job_id == id)?;
    let told = state.deeds.iter().find_map(|deed| match deed {
        Deed::Written(place, node) if (first..last).contains(place) => {
            Some(format!("a write on node {node}"))
        }
        Deed::Passed(place, app)
            if (first..last).contains(place) && pause.instances.contains(&state.apps[*app].instance) =>
        {
            Some(format!("a request through the gate of app{}", app + 1))
        }
        _ => None,
    });
    told.map(Violation::FalselyConsistent)
}
