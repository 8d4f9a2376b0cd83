//! Several jobs at once, requests sent again, and jobs that are cancelled.

use super::{Mutation, Test, agent, beside, within};

const fn control(target: &'static str, name: &'static str) -> Test {
    beside("cassy-control", target, name)
}

pub(super) const RULES: &[Mutation] = &[
    Mutation {
        name: "applications-paused-twice",
        removed: "only one backup at a time pauses the applications",
        file: "crates/control/src/runner.rs",
        find: "if pauses && other.pauses {",
        replace: "if false && pauses && other.pauses {",
        test: control("overlap", "only_one_backup_pauses_the_applications_also_of_several_clusters"),
    },
    Mutation {
        name: "one-node-two-jobs",
        removed: "two jobs never work on one node",
        file: "crates/control/src/runner.rs",
        find: "if let Some(target) = other.targets.iter().find(|target| targets.contains(target)) {",
        replace: "if let Some(target) = other.targets.iter().find(|target| false && targets.contains(target)) {",
        test: control("overlap", "a_second_job_on_a_node_is_refused_with_the_id_of_the_first"),
    },
    Mutation {
        name: "key-without-a-turn",
        removed: "of many calls with one key one makes the job",
        file: "crates/control/src/service/again.rs",
        find: "let turn = self.turns.of(key).await;",
        replace: "let turn = Arc::new(tokio::sync::Mutex::new(())).lock_owned().await;\n        let _ = Turns::of;",
        test: control("idempotency", "of_many_calls_at_the_same_instant_one_makes_the_job"),
    },
    Mutation {
        name: "key-of-another-request",
        removed: "a key is for one request",
        file: "crates/control/src/service/again.rs",
        find: "if other.is_empty() {",
        replace: "if true || other.is_empty() {",
        test: control("idempotency", "a_key_is_for_one_request"),
    },
    Mutation {
        name: "refused-keeps-its-key",
        removed: "a refused request frees its key",
        file: "crates/control/src/runner.rs",
        find: "frees_key: matches!(job.outcome(), Some(Outcome::Refused(_))),",
        replace: "frees_key: false && matches!(job.outcome(), Some(Outcome::Refused(_))),",
        test: control("idempotency", "a_refused_request_frees_its_key"),
    },
    Mutation {
        name: "cancelled-begins-anew",
        removed: "a cancelled backup does not begin anew after a restart",
        file: "crates/control/src/job/backup/mod.rs",
        find: "if let Some(cancelled) = self.cancelled.clone() {",
        replace: "if let Some(cancelled) = self.cancelled.clone().filter(|_| false) {",
        test: control("cancel", "a_cancelled_job_ends_as_cancelled_after_a_restart"),
    },
    Mutation {
        name: "cancelled-goes-on",
        removed: "what was not begun when a backup is cancelled is skipped",
        file: "crates/control/src/job/backup/mod.rs",
        find: "self.cancelled.as_ref().filter(|_| stage < BackupStage::Upload)",
        replace: "self.cancelled.as_ref().filter(|_| false && stage < BackupStage::Upload)",
        test: within(
            "cassy-control",
            "job::backup::tests::walks::a_node_whose_manifest_is_durable_stays_completed_and_the_others_are_cut",
        ),
    },
    Mutation {
        name: "cancelled-stays-paused",
        removed: "who is paused goes on at once when the backup is cancelled",
        file: "crates/control/src/perform/freeze/held.rs",
        find: "        () = cut.made() => stopped",
        replace: "        () = std::future::pending::<()>(), if !cut.is_made() || true => stopped",
        test: control("cancel", "who_is_paused_goes_on_before_the_snapshots_have_ended"),
    },
    Mutation {
        name: "cancelled-is-sent",
        removed: "snapshots of a cancelled backup of the whole cluster are not sent",
        file: "crates/control/src/job/backup/cluster_wide.rs",
        find: "        if let Some(cancelled) = &self.cancelled {",
        replace: "        if let Some(cancelled) = self.cancelled.as_ref().filter(|_| false) {",
        test: within("cassy-control", "job::backup::tests::walks::every_walk_ends_by_the_rules"),
    },
    Mutation {
        name: "upload-not-stopped",
        removed: "an upload is stopped when its job is cancelled",
        file: "crates/control/src/link.rs",
        find: "Request::Upload(_) => Some(STOP_LIMIT),",
        replace: "Request::Upload(_) => Some(STOP_LIMIT).filter(|_| false),",
        test: control("cancel", "a_backup_of_single_nodes_is_cancelled_in_every_stage"),
    },
    Mutation {
        name: "cut-restore-not-undone",
        removed: "what a cancelled restore has begun is taken back",
        file: "crates/control/src/job/restore.rs",
        find: "            return (self, vec![RestoreEffect::Undo(target)]);",
        replace: "            return self.undone(&target, None);",
        test: control("cancel", "a_restore_is_cancelled_in_every_stage"),
    },
    Mutation {
        name: "placed-files-undone",
        removed: "a restore that has placed files is not taken back",
        file: "crates/agent/src/restore/undo.rs",
        find: "let is_placed = !is_from_before && ",
        replace: "let is_placed = false && !is_from_before && ",
        test: agent(
            "restore::tests::undo::whatever_instant_its_agent_is_killed_at_it_is_undone_unless_files_are_placed",
        ),
    },
    Mutation {
        name: "half-of-the-data-undone",
        removed: "half of the data before is never started by undoing",
        file: "crates/agent/src/restore/undo.rs",
        find: "if aside::is_moved_by_others(facts)? {",
        replace: "if aside::is_moved_by_others(facts)? && false {",
        test: agent("restore::tests::undo::half_of_the_data_before_is_never_started_by_undoing"),
    },
    Mutation {
        name: "placing-stopped",
        removed: "placing is not stopped",
        file: "crates/agent/src/restore/mod.rs",
        find: "    on_thread(move || finish(&begun, &known, &whole, &layout)).await?;",
        replace: "    on_thread(move || finish(&begun, &known, &whole, &layout)).await?;\n    if context.cancel.is_cancelled() {\n        return Err(RestoreError::Cancelled);\n    }",
        test: agent("restore::tests::undo::whatever_instant_it_is_told_to_stop_at_it_is_undone_or_finishes"),
    },
    Mutation {
        name: "one-instant-with-increments",
        removed: "a restore of the whole cluster leaves increments out",
        file: "crates/control/src/service/restore.rs",
        find: "            if whole_cluster {\n",
        replace: "            if false {\n",
        test: control("freeze", "restored_as_a_whole_it_is_of_its_instant_whatever_was_added_since"),
    },
];
