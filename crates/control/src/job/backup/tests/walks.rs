//! Many walks through the machine, each effect with any outcome, restarts and a cancellation at any step: it always
//! ends, and the rules hold on the way.

use super::*;
use crate::job::backup::cluster_wide::FreezeReport;

const NODES: [&str; 3] = ["a", "b", "c"];
const WALKS: u64 = 6_000;

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit as u64).expect("small")
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

fn down() -> Failure {
    Failure { unavailable: false, message: "down".to_owned(), hint: None }
}

fn uploaded() -> UploadSummary {
    UploadSummary {
        manifest: "a/manifest".parse().expect("a key"),
        blake3: String::new(),
        size: 1,
        sstables: 1,
        files: 1,
        bytes: 1,
        sent_bytes: 1,
        left_orphans: false,
        taken: 0,
        left: 0,
        tables: Vec::new(),
        corrupt: Vec::new(),
    }
}

/// What an effect may come to.
fn outcome(effect: BackupEffect, dice: &mut Dice) -> BackupEvent {
    let fails = dice.one_in(12);
    match effect {
        BackupEffect::Node(stage, target) if fails => BackupEvent::NodeFailed(stage, target, down()),
        BackupEffect::Node(BackupStage::Upload, target) => {
            BackupEvent::NodeDone(BackupStage::Upload, target, NodeDone::Uploaded(uploaded()))
        }
        BackupEffect::Node(stage, target) => BackupEvent::NodeDone(stage, target, NodeDone::Done),
        BackupEffect::Pin if fails => BackupEvent::PinFailed(down()),
        BackupEffect::Pin => BackupEvent::Pinned(BTreeMap::new()),
        BackupEffect::Freeze if fails => BackupEvent::FreezeFailed(down()),
        BackupEffect::Freeze => {
            let mut taken = |target: &str| {
                (target.to_owned(), if dice.one_in(12) { Err(down()) } else { Ok(Vec::new()) })
            };
            let nodes = NODES.map(&mut taken).into();
            let unproven = dice.one_in(8).then(down);
            BackupEvent::Frozen(Box::new(Frozen { nodes, unproven, report: FreezeReport::default() }))
        }
        BackupEffect::Commit if fails => BackupEvent::CommitFailed(down()),
        BackupEffect::Commit => BackupEvent::Committed,
        BackupEffect::Unpin => BackupEvent::Unpinned(Vec::new()),
    }
}

/// Whether an effect begins something of a backup, rather than ending or clearing it.
fn begins(effect: &BackupEffect) -> bool {
    match effect {
        BackupEffect::Node(stage, _) => *stage < BackupStage::Clear,
        BackupEffect::Pin | BackupEffect::Freeze => true,
        BackupEffect::Commit | BackupEffect::Unpin => false,
    }
}

#[track_caller]
fn check_effects(job: &BackupJob, effects: &[BackupEffect], waiting: &[BackupEffect], walk: u64) {
    if job.cancelled.is_some() {
        assert!(!effects.iter().any(begins), "walk {walk}: it is cancelled, and begins {effects:?}");
    }
    for effect in effects {
        assert!(!waiting.contains(effect), "walk {walk}: {effect:?} is under way already");
        if *effect == BackupEffect::Commit && job.is_cluster_wide() {
            let is_whole = |node: &Arc<BackupNode>| node.failure.is_none() && node.uploaded.is_some();
            assert!(job.nodes.values().all(is_whole), "walk {walk}: a part of a cluster is committed");
        }
        if *effect == BackupEffect::Unpin {
            assert!(waiting.is_empty(), "walk {walk}: {waiting:?} still rely on the pin");
        }
    }
}

#[track_caller]
fn check_end(job: &BackupJob, walk: u64) {
    let rows = job.history();
    if matches!(job.outcome, Some(Outcome::Refused(_))) {
        assert!(rows.is_empty() && job.cancelled.is_none(), "walk {walk}: {rows:?}");
        return;
    }
    assert_eq!(rows.len(), NODES.len(), "walk {walk}");
    for (row, node) in rows.iter().zip(job.nodes.values()) {
        let expected = if node.failure.is_some() { Status::Failed } else { Status::Completed };
        assert_eq!(row.status, expected, "walk {walk}: {row:?}");
        assert!(node.failure.is_some() || node.uploaded.is_some(), "walk {walk}: {row:?}");
        let was_cut = row.message.starts_with("cancelled while ");
        assert!(!was_cut || job.cancelled.is_some(), "walk {walk}: {row:?}");
    }
    if job.is_cluster_wide() {
        assert!(rows.iter().all(|row| row.status == rows[0].status), "walk {walk}: all or none: {rows:?}");
    }
}

fn walk(number: u64) -> BackupJob {
    let mut dice = Dice(number);
    let mut job = job(&NODES);
    match dice.below(3) {
        0 => job.base = Some(BackupId::at(7)),
        1 => {
            let keep_unproven = dice.one_in(2);
            job.cluster_wide = Some(ClusterWide { keep_unproven, ..ClusterWide::default() });
        }
        _ => {}
    }
    let is_to_be_cancelled = dice.one_in(2);
    let (next, mut waiting) = job.step(BackupEvent::Created);
    job = next;
    for _ in 0..400 {
        if job.stage == BackupStage::Finished {
            assert!(waiting.is_empty(), "walk {number}: {waiting:?} at the end");
            check_end(&job, number);
            return job;
        }
        assert!(!waiting.is_empty(), "walk {number}: nothing to wait for in {:?}", job.stage);
        let event = if is_to_be_cancelled && dice.one_in(10) {
            BackupEvent::Cancelled
        } else if dice.one_in(25) {
            waiting.clear();
            BackupEvent::Resumed
        } else {
            let chosen = dice.below(waiting.len());
            outcome(waiting.remove(chosen), &mut dice)
        };
        let (next, effects) = job.step(event);
        check_effects(&next, &effects, &waiting, number);
        waiting.extend(effects);
        job = next;
    }
    panic!("walk {number} does not end: {job:?}");
}

#[test]
fn every_walk_ends_by_the_rules() {
    let (mut completed, mut failed, mut refused, mut kept) = (0, 0, 0, 0);
    for job in (0..WALKS).map(walk) {
        let has_finished = |node: &Arc<BackupNode>| node.failure.is_none();
        kept += usize::from(job.cancelled.is_some() && job.nodes.values().any(has_finished));
        match job.outcome {
            Some(Outcome::Completed) => completed += 1,
            Some(Outcome::Failed) => failed += 1,
            Some(Outcome::Refused(_)) => refused += 1,
            None => panic!("an end without an outcome"),
        }
    }
    let all = (completed, failed, refused, kept);
    assert!(completed > 200 && failed > 1_000 && refused > 200 && kept > 100, "{all:?}");
}

#[test]
fn a_node_whose_manifest_is_durable_stays_completed_and_the_others_are_cut() {
    use BackupStage::{Clear, Flush, List, Snapshot, Upload};
    let done_by_a = [List, Flush, Snapshot].map(|stage| done(stage, "a"));
    let (job, _) = after(accepted(&["a", "b"]), done_by_a);
    let uploaded = BackupEvent::NodeDone(Upload, "a".to_owned(), NodeDone::Uploaded(uploaded()));
    let (job, _) = after(job, [uploaded, BackupEvent::Cancelled]);
    let (job, effects) = job.step(done(List, "b"));
    assert_eq!(effects, [effect_on(Clear, "b")], "what was not begun is skipped");
    let (job, effects) = after(job, [done(Clear, "a"), done(Clear, "b")]);
    assert_eq!(effects, [BackupEffect::Commit]);
    let (job, _) = after(job, [BackupEvent::Committed, BackupEvent::Unpinned(Vec::new())]);
    let rows = job.history();
    assert_eq!(rows[0].status, Status::Completed);
    assert_eq!(
        (rows[1].status, rows[1].message.as_str()),
        (Status::Failed, "cancelled while list: 1 of 2 nodes had finished")
    );
    assert_eq!(
        job.cancelled.map(|cancelled| cancelled.text()).as_deref(),
        Some("cancelled while list: 1 of 2 nodes had finished")
    );
}

#[test]
fn cancelled_twice_is_cancelled_once_and_an_ended_job_is_not() {
    let (once, _) = accepted(&["a"]).step(BackupEvent::Cancelled);
    let (twice, effects) = once.clone().step(BackupEvent::Cancelled);
    assert!(twice == once && effects.is_empty());
    let refused = after(job(&["a"]), [failed(BackupStage::Prepare, "a"), BackupEvent::Cancelled]).0;
    assert_eq!(refused.cancelled, None, "nothing was touched");
}
