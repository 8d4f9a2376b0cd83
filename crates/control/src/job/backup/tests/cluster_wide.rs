//! A cluster-wide backup step by step: all nodes wait for each other, and nothing of it counts when one fails.

use super::*;
use crate::job::backup::cluster_wide::FreezeReport;

const BOTH: [&str; 2] = ["a", "b"];

fn together(keep_unproven: bool) -> BackupJob {
    let own = ClusterWide { keep_unproven, ..ClusterWide::default() };
    let job = BackupJob { cluster_wide: Some(own), ..job(&BOTH) };
    let prepared = BOTH.map(|target| done(BackupStage::Prepare, target));
    let (job, effects) = after(job, prepared);
    assert_eq!(effects, [BackupEffect::Pin]);
    let (job, effects) = job.step(BackupEvent::Pinned(BTreeMap::new()));
    assert_eq!(effects, BOTH.map(|target| effect_on(BackupStage::List, target)));
    job
}

fn both(stage: BackupStage) -> [BackupEvent; 2] {
    BOTH.map(|target| done(stage, target))
}

fn down() -> Failure {
    Failure { unavailable: true, message: "down".to_owned(), hint: None }
}

fn frozen(unproven: Option<Failure>) -> BackupEvent {
    let nodes = BOTH.map(|target| (target.to_owned(), Ok(Vec::new())));
    BackupEvent::Frozen(Box::new(Frozen { nodes: nodes.into(), unproven, report: FreezeReport::default() }))
}

/// All that is left to do, one after the other; the effects in their order.
fn to_the_end(mut job: BackupJob, first: Effects) -> (BackupJob, Effects) {
    let (mut all, mut waiting) = (first.clone(), first);
    while !waiting.is_empty() {
        let event = match waiting.remove(0) {
            BackupEffect::Node(stage, target) => done(stage, &target),
            BackupEffect::Pin => BackupEvent::Pinned(BTreeMap::new()),
            BackupEffect::Freeze => frozen(None),
            BackupEffect::Commit => BackupEvent::Committed,
            BackupEffect::Unpin => BackupEvent::Unpinned(Vec::new()),
        };
        let (next, more) = job.step(event);
        all.extend(more.iter().cloned());
        waiting.extend(more);
        job = next;
    }
    (job, all)
}

fn statuses(job: &BackupJob) -> Vec<Status> {
    job.history().into_iter().map(|entry| entry.status).collect()
}

#[test]
fn uploads_then_the_commit_then_the_clearing_then_the_pin() {
    use BackupStage::{Clear, Flush, List, Upload};
    let (job, effects) = after(together(false), both(List).into_iter().chain(both(Flush)));
    assert_eq!(effects, [BackupEffect::Freeze], "once all are there");
    let (job, uploads) = job.step(frozen(None));
    assert_eq!(uploads, BOTH.map(|target| effect_on(Upload, target)));
    let (job, effects) = job.step(done(Upload, "a"));
    assert!(effects.is_empty(), "it waits for the other one");
    let (job, effects) = job.step(done(Upload, "b"));
    assert_eq!(effects, [BackupEffect::Commit]);
    assert_eq!(statuses(&job), [Status::Started; 2]);
    let (job, effects) = job.step(BackupEvent::Committed);
    assert_eq!(effects, BOTH.map(|target| effect_on(Clear, target)));
    let (job, effects) = after(job, both(Clear));
    assert_eq!((effects, statuses(&job)), (vec![BackupEffect::Unpin], vec![Status::Started; 2]));
    let (job, _) = job.step(BackupEvent::Unpinned(Vec::new()));
    assert_eq!((statuses(&job), job.outcome), (vec![Status::Completed; 2], Some(Outcome::Completed)));
}

#[test]
fn a_node_that_fails_in_any_stage_fails_all_and_nothing_is_committed() {
    use BackupStage::{Flush, List, Snapshot, Upload};
    for stage in [List, Flush, Snapshot, Upload] {
        let mut job = together(false);
        let mut effects = Vec::new();
        for earlier in [List, Flush, Snapshot, Upload].into_iter().take_while(|earlier| *earlier < stage) {
            let events = if earlier == Snapshot { vec![frozen(None)] } else { both(earlier).to_vec() };
            (job, effects) = after(job, events);
        }
        let events = match stage {
            Snapshot => vec![BackupEvent::FreezeFailed(down())],
            stage => vec![failed(stage, "a"), done(stage, "b")],
        };
        let (mut waiting, next) = (Vec::new(), after(job, events));
        (job, effects) = (next.0, {
            waiting.extend(effects);
            next.1
        });
        let (job, all) = to_the_end(job, effects);
        let is_wrong = |effect: &BackupEffect| matches!(effect, BackupEffect::Commit | BackupEffect::Freeze);
        assert!(!all.iter().any(is_wrong), "{stage:?}: {all:?}");
        assert_eq!(all.last(), Some(&BackupEffect::Unpin), "{stage:?}: {all:?}");
        assert_eq!(statuses(&job), [Status::Failed; 2], "{stage:?}");
        assert!(job.history().iter().all(|entry| entry.message.contains("down")), "{:?}", job.history());
    }
}

#[test]
fn what_is_not_proven_fails_or_is_kept_as_backups_of_single_nodes() {
    use BackupStage::{Clear, Flush, List, Upload};
    for keep_unproven in [false, true] {
        let (job, _) = after(together(keep_unproven), both(List).into_iter().chain(both(Flush)));
        let (job, effects) = job.step(frozen(Some(down())));
        let stage = if keep_unproven { Upload } else { Clear };
        assert_eq!(effects, BOTH.map(|target| effect_on(stage, target)));
        assert_eq!(job.is_cluster_wide(), !keep_unproven);
        let (job, all) = to_the_end(job, effects);
        assert_eq!(all.contains(&BackupEffect::Commit), keep_unproven);
        let status = if keep_unproven { Status::Completed } else { Status::Failed };
        assert_eq!(statuses(&job), [status; 2]);
    }
}

#[test]
fn a_commit_that_fails_clears_all_and_fails_all() {
    use BackupStage::{Clear, Flush, List, Upload};
    let events = both(List).into_iter().chain(both(Flush)).chain([frozen(None)]).chain(both(Upload));
    let (job, effects) = after(together(false), events);
    assert_eq!(effects, [BackupEffect::Commit]);
    let (job, effects) = job.step(BackupEvent::CommitFailed(down()));
    assert_eq!(effects, BOTH.map(|target| effect_on(Clear, target)));
    assert_eq!(statuses(&to_the_end(job, effects).0), [Status::Failed; 2]);
}

#[test]
fn after_a_restart_before_the_snapshots_it_is_a_new_attempt_with_a_new_freeze() {
    use BackupStage::{Flush, List, Prepare};
    let (job, _) = after(together(false), both(List).into_iter().chain(both(Flush)));
    let (job, effects) = job.step(BackupEvent::Resumed);
    assert_eq!(effects, BOTH.map(|target| effect_on(Prepare, target)));
    assert!(job.nodes.values().all(|node| node.attempt == 2));
    // What the old freeze brought comes to nobody.
    let (job, effects) = job.step(frozen(None));
    assert!(effects.is_empty());
    let (_, effects) = after(job, both(Prepare).into_iter().chain(both(List)).chain(both(Flush)));
    assert_eq!(effects, [BackupEffect::Freeze]);
}
