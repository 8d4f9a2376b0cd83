//! Every rule of the machine, without anything around it.

mod cluster_wide;
mod walks;

use super::*;
use crate::operations::Status;

fn job(addresses: &[&str]) -> BackupJob {
    let nodes = addresses.iter().map(|&address| (address.to_owned(), Arc::default())).collect();
    BackupJob {
        backup_id: BackupId::at(0),
        base: None,
        cluster_wide: None,
        cluster_id: "c".parse().expect("an id"),
        cluster_name: "c".to_owned(),
        created_at_ms: 0,
        stage: BackupStage::Prepare,
        nodes,
        refusable: true,
        accepted: false,
        commit_failure: None,
        outcome: None,
        notes: Vec::new(),
        told: Vec::new(),
        cancelled: None,
    }
}

fn done(stage: BackupStage, target: &str) -> BackupEvent {
    BackupEvent::NodeDone(stage, target.to_owned(), NodeDone::Done)
}

fn failed(stage: BackupStage, target: &str) -> BackupEvent {
    let failure = Failure { unavailable: true, message: "down".to_owned(), hint: None };
    BackupEvent::NodeFailed(stage, target.to_owned(), failure)
}

fn effect_on(stage: BackupStage, target: &str) -> BackupEffect {
    BackupEffect::Node(stage, target.to_owned())
}

/// All events one after another; the effects of the last.
fn after(job: BackupJob, events: impl IntoIterator<Item = BackupEvent>) -> (BackupJob, Effects) {
    events.into_iter().fold((job, Vec::new()), |(job, _), event| job.step(event))
}

fn accepted(addresses: &[&str]) -> BackupJob {
    let prepared = addresses.iter().map(|target| done(BackupStage::Prepare, target));
    let (job, effects) = after(job(addresses), prepared);
    assert_eq!(effects, [BackupEffect::Pin]);
    job.step(BackupEvent::Pinned(BTreeMap::new())).0
}

#[test]
fn before_anything_is_touched_one_node_refuses_all() {
    let events = [failed(BackupStage::Prepare, "a"), done(BackupStage::Prepare, "b")];
    let (job, effects) = after(job(&["a", "b"]), events);
    assert_eq!(effects, [BackupEffect::Unpin]);
    assert!(!job.is_answerable() && job.history().is_empty());
    let (job, _) = job.step(BackupEvent::Unpinned(Vec::new()));
    assert!(job.is_answerable());
    assert!(matches!(job.outcome, Some(Outcome::Refused(refusals)) if refusals.len() == 1));
}

#[test]
fn a_slow_node_holds_none_of_the_others() {
    use BackupStage::{Clear, Flush, List, Snapshot, Upload};
    let job = accepted(&["fast", "slow"]);
    let (job, effects) = after(job, [List, Flush, Snapshot, Upload, Clear].map(|stage| done(stage, "fast")));
    assert_eq!((effects, job.stage), (Vec::new(), List));
    let states: Vec<_> = job.history().into_iter().map(|entry| (entry.target, entry.status)).collect();
    let expected = [("fast", Status::Completed), ("slow", Status::Initialized)];
    assert_eq!(states, expected.map(|(target, status)| (target.to_owned(), status)));
    assert!(!job.is_answerable());
    let (job, effects) = job.step(failed(List, "slow"));
    assert_eq!(effects, [effect_on(Clear, "slow")]);
    assert!(job.is_answerable());
    let (job, effects) = job.step(done(Clear, "slow"));
    assert_eq!(effects, [BackupEffect::Commit]);
    assert_eq!(job.history()[1].status, Status::Started, "the last row waits for the job");
    let (job, _) = after(job, [BackupEvent::Committed, BackupEvent::Unpinned(Vec::new())]);
    assert_eq!(job.history()[1].status, Status::Failed);
}

#[test]
fn after_a_restart_each_node_goes_on_where_it_can() {
    use BackupStage::{Flush, List, Prepare, Snapshot, Upload};
    let events = [done(List, "a"), done(List, "b"), done(Flush, "b"), done(Snapshot, "b")];
    let (job, _) = after(accepted(&["a", "b", "c"]), events);
    let (job, effects) = after(job, [failed(List, "c"), BackupEvent::Resumed]);
    assert_eq!(
        effects,
        [effect_on(Prepare, "a"), effect_on(Upload, "b"), effect_on(BackupStage::Clear, "c")]
    );
    assert_eq!(["a", "b"].map(|target| job.nodes[target].attempt), [2, 1]);
    let (job, effects) = job.step(done(Prepare, "a"));
    assert_eq!(effects, [effect_on(List, "a")]);
    let (job, _) = job.step(failed(List, "a"));
    assert!(job.outcome.is_none(), "an accepted job is not refused");
}

#[test]
fn a_job_that_was_taken_up_is_not_refused() {
    let events = [BackupEvent::Resumed, failed(BackupStage::Prepare, "a"), done(BackupStage::Prepare, "b")];
    let (job, effects) = after(job(&["a", "b"]), events);
    assert_eq!((effects, &job.outcome), (vec![BackupEffect::Pin], &None));
    let (_, effects) = job.step(BackupEvent::Pinned(BTreeMap::new()));
    assert_eq!(effects, [effect_on(BackupStage::Clear, "a"), effect_on(BackupStage::List, "b")]);
}

#[test]
fn what_comes_late_changes_nothing() {
    let (before, _) = accepted(&["a", "b"]).step(done(BackupStage::List, "a"));
    let late =
        [failed(BackupStage::List, "a"), done(BackupStage::List, "a"), done(BackupStage::List, "nobody")];
    for event in late {
        let (after, effects) = before.clone().step(event);
        assert!(after == before && effects.is_empty());
    }
}

#[test]
fn an_increment_supersedes_nothing() {
    let (job, _) =
        BackupJob { base: Some(BackupId::at(7)), ..job(&["a"]) }.step(done(BackupStage::Prepare, "a"));
    let (_, effects) = job.step(BackupEvent::Pinned(BTreeMap::new()));
    assert_eq!(effects, [effect_on(BackupStage::Flush, "a")]);
}
