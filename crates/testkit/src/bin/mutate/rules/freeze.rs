//! The rules of a cluster-wide backup: who is paused goes on, and nothing is called consistent that is not proven to be.

use super::{Mutation, Test, beside, control};

const CLUSTER_WIDE: &str = "crates/control/src/job/backup/cluster_wide.rs";
const FREEZE: &str = "crates/control/src/perform/freeze/mod.rs";
const HELD: &str = "crates/control/src/perform/freeze/held.rs";
const WRITES: &str = "crates/control/src/perform/freeze/writes.rs";
const PAUSES: &str = "crates/control/src/pauses.rs";
const PAUSING: &str = "crates/pause/src/pausing.rs";

const fn pausing(name: &'static str) -> Test {
    beside("cassy-pause", "pausing", name)
}

pub(super) const RULES: &[Mutation] = &[
    Mutation {
        name: "awake-instance-believed",
        removed: "consistent only when every instance is still paused after the snapshots",
        file: HELD,
        find: "not_paused(&awake).or_else(|| written(ready, &writes))",
        replace: "{ let _ = not_paused(&awake); written(ready, &writes) }",
        test: control("freeze::an_instance_that_is_not_really_paused_is_caught"),
    },
    Mutation {
        name: "writers-not-counted",
        removed: "consistent only when no coordinator counted a client's write",
        file: HELD,
        find: "not_paused(&awake).or_else(|| written(ready, &writes))",
        replace: "{ let _ = written(ready, &writes); not_paused(&awake) }",
        test: control("freeze::a_writer_that_dns_does_not_name_is_caught"),
    },
    Mutation {
        name: "write-under-way-passed-over",
        removed: "consistent only when no write was under way at the last look",
        file: WRITES,
        find: "if is_late || clients > 0 || activity.tasks == 0 {",
        replace: "if is_late || clients > 0 || activity.tasks < 99 {",
        test: control("freeze::a_writer_that_dns_does_not_name_is_caught"),
    },
    Mutation {
        name: "system-writes-taken-for-clients",
        removed: "what a node writes to keyspaces of the system is no client's write",
        file: WRITES,
        find: "now.writes.abs_diff(self.writes).abs_diff(system)",
        replace: "now.writes.abs_diff(self.writes).max(system)",
        test: control("freeze::what_a_node_writes_to_the_systems_keyspaces_is_no_clients_write"),
    },
    Mutation {
        name: "alarmed-guard-believed",
        removed: "consistent only when no guard has unpaused",
        file: HELD,
        find: "taken.unproven.or_else(|| alarmed_guards(&alarmed))",
        replace: "{ let _ = alarmed_guards(&alarmed); taken.unproven }",
        test: control("freeze::a_guard_that_has_unpaused_is_no_proof"),
    },
    Mutation {
        name: "newcomers-not-looked-for",
        removed: "consistent only when the SRV record names nobody new",
        file: FREEZE,
        find: "        if unproven.is_none() {",
        replace: "        if false {",
        test: control("freeze::an_instance_that_comes_meanwhile_is_caught"),
    },
    Mutation {
        name: "new-ring-not-looked-for",
        removed: "consistent only when the ring is the same before and after",
        file: FREEZE,
        find: "    if is_same && described",
        replace: "    if is_same || true || described",
        test: control("freeze::a_node_that_joins_meanwhile_makes_it_another_cluster"),
    },
    Mutation {
        name: "new-keyspace-passed-over",
        removed: "consistent only when no keyspace has come that the snapshots do not know",
        file: FREEZE,
        find: "    if new.is_empty() {\n        return Ok(());",
        replace: "    if new.len() < 99 {\n        return Ok(());",
        test: control("freeze::a_keyspace_that_comes_meanwhile_is_not_passed_over"),
    },
    Mutation {
        name: "paused-for-ever-again",
        removed: "a backup that is taken up again and again pauses no more",
        file: FREEZE,
        find: "if attempt <= 1 || (attempt <= ATTEMPTS && age <= fresh) {",
        replace: "if attempt <= 1 || ATTEMPTS > 0 || age <= fresh {",
        test: control("freeze::a_backup_that_is_taken_up_again_and_again_pauses_no_more"),
    },
    Mutation {
        name: "stopped-without-unpausing",
        removed: "a server that stops unpauses before it ends",
        file: PAUSES,
        find: "        if timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {",
        replace: "        if STOP_LIMIT.is_zero() {",
        test: control("freeze::a_server_that_stops_in_the_freeze_unpauses_before_it_ends"),
    },
    Mutation {
        name: "part-of-a-cluster-kept",
        removed: "a cluster-wide backup is of all nodes or none",
        file: CLUSTER_WIDE,
        find: "BackupStage::Snapshot | BackupStage::Commit if failed && self.commit_failure.is_none() => {",
        replace: "BackupStage::Snapshot | BackupStage::Commit if false && failed => {",
        test: control("freeze::one_node_that_fails_fails_all_and_the_next_backup_is_whole"),
    },
    Mutation {
        name: "intents-left-open",
        removed: "what a dead server has left paused is unpaused at the start",
        file: PAUSES,
        find: "for intent in self.catalog.open_pause_intents().await? {",
        replace: "for intent in self.catalog.open_pause_intents().await?.into_iter().take(0) {",
        test: control("freeze::what_a_dead_server_left_paused_goes_on_before_anything_else"),
    },
    Mutation {
        name: "asked-before-all-are-connected",
        removed: "nobody is paused before all can be connected to",
        file: PAUSING,
        find: "        if is_open {",
        replace: "        if is_open || true {",
        test: pausing("nobody_is_asked_to_pause_when_one_cannot_be_connected_to"),
    },
    Mutation {
        name: "kept-paused-after-a-refusal",
        removed: "one refusal ends the pause of all at once",
        file: PAUSING,
        find: "end = end.min(Instant::now() + GRACE);",
        replace: "let _ = GRACE;",
        test: pausing("one_refusal_ends_the_wait_for_those_that_take_long"),
    },
];
