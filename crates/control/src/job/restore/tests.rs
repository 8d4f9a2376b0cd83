//! Walks through a restore, each effect with any outcome, restarts and a cancellation at any step.

use super::*;

const NODES: [&str; 2] = ["a", "b"];

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit as u64).expect("small")
    }
}

fn job() -> RestoreJob {
    let node = RestoreNode {
        host_id: "6a5c7f0e-0000-4000-8000-000000000001".parse().expect("an id"),
        replaces: None,
        manifest: ParentManifest {
            key: "a/manifest".parse().expect("a key"),
            backup_id: BackupId::at(1),
            blake3: String::new(),
        },
        plan: None,
        restored: None,
        failure: None,
        cut: None,
        unchanged: false,
    };
    RestoreJob {
        job_id: "j".to_owned(),
        backup_id: BackupId::at(1),
        cluster_id: "c".parse().expect("an id"),
        created_at_ms: 1,
        whole_cluster: false,
        copy: None,
        others: Vec::new(),
        move_aside: false,
        stage: RestoreStage::Plan,
        nodes: NODES.map(|target| (target.to_owned(), Arc::new(node.clone()))).into(),
        outcome: None,
        told: Vec::new(),
        cancelled: None,
    }
}

fn outcome(effect: RestoreEffect, dice: &mut Dice) -> RestoreEvent {
    let failure = Failure { unavailable: false, message: "down".to_owned(), hint: None };
    let fails = dice.below(8) == 0;
    match effect {
        RestoreEffect::Plan(target) | RestoreEffect::Restore(target) | RestoreEffect::Undo(target)
            if fails =>
        {
            RestoreEvent::NodeFailed(target, failure)
        }
        RestoreEffect::Plan(target) => {
            let findings = if dice.below(8) == 0 { vec!["it runs".to_owned()] } else { Vec::new() };
            RestoreEvent::Planned(target, RestorePlan { findings, ..RestorePlan::default() })
        }
        RestoreEffect::Restore(target) => RestoreEvent::Restored(target, RestoreSummary::default()),
        RestoreEffect::Undo(target) => {
            let left = (dice.below(4) == 0).then(|| "files are in place already".to_owned());
            RestoreEvent::Undone(target, left)
        }
    }
}

fn walk(number: u64) -> RestoreJob {
    let mut dice = Dice(number);
    let is_to_be_cancelled = dice.below(2) == 0;
    let (mut job, mut waiting) = job().step(RestoreEvent::Created);
    for _ in 0..200 {
        if job.stage == RestoreStage::Finished {
            assert!(waiting.is_empty(), "walk {number}");
            return job;
        }
        assert!(!waiting.is_empty(), "walk {number}: nothing to wait for: {job:?}");
        let event = if is_to_be_cancelled && dice.below(5) == 0 {
            RestoreEvent::Cancelled
        } else if dice.below(12) == 0 {
            waiting.clear();
            RestoreEvent::Resumed
        } else {
            let chosen = dice.below(waiting.len());
            outcome(waiting.remove(chosen), &mut dice)
        };
        let (next, effects) = job.step(event);
        let is_undoing = |effect: &RestoreEffect| matches!(effect, RestoreEffect::Undo(_));
        assert!(effects.iter().all(|effect| is_undoing(effect) == next.cancelled.is_some()), "walk {number}");
        waiting.extend(effects);
        job = next;
    }
    panic!("walk {number} does not end: {job:?}");
}

#[test]
fn every_walk_ends_and_what_is_cancelled_begins_nothing() {
    let (mut completed, mut failed, mut refused, mut undone) = (0, 0, 0, 0);
    for job in (0..4_000).map(walk) {
        let rows = job.history();
        let told = rows.iter().filter(|row| row.message.starts_with("cancelled while restore: ")).count();
        undone += told;
        assert!(told == 0 || job.cancelled.is_some());
        match &job.outcome {
            Some(Outcome::Completed) => completed += 1,
            Some(Outcome::Failed) => failed += 1,
            Some(Outcome::Refused(_)) => refused += 1,
            None => panic!("an end without an outcome"),
        }
        if matches!(job.outcome, Some(Outcome::Refused(_))) {
            assert!(rows.is_empty() && job.cancelled.is_none());
        } else {
            assert!(rows.len() == 2 && rows.iter().all(|row| row.status as u8 >= 3), "{rows:?}");
        }
    }
    let all = (completed, failed, refused, undone);
    assert!(completed > 200 && failed > 200 && refused > 200 && undone > 50, "{all:?}");
}

#[test]
fn a_cluster_that_was_cut_halfway_is_not_to_be_started() {
    let planned = NODES.map(|target| RestoreEvent::Planned(target.to_owned(), RestorePlan::default()));
    let whole = RestoreJob { whole_cluster: true, ..job() };
    let job = planned.into_iter().fold(whole, |job, event| job.step(event).0);
    let stopped = Failure { unavailable: false, message: "1 of 7 bytes fetched".to_owned(), hint: None };
    let events = [
        RestoreEvent::Restored("a".to_owned(), RestoreSummary::default()),
        RestoreEvent::Cancelled,
        RestoreEvent::NodeFailed("b".to_owned(), stopped),
        RestoreEvent::Undone("b".to_owned(), None),
    ];
    let job = events.into_iter().fold(job, |job, event| job.step(event).0);
    let row = &job.history()[1];
    assert!(row.message.contains("start no node of the cluster: a are of the instant"), "{row:?}");
}

#[test]
fn what_was_cut_is_undone_before_the_row_is_final() {
    let planned = NODES.map(|target| RestoreEvent::Planned(target.to_owned(), RestorePlan::default()));
    let job = planned.into_iter().fold(job(), |job, event| job.step(event).0);
    let (job, _) = job.step(RestoreEvent::Restored("a".to_owned(), RestoreSummary::default()));
    let (job, effects) = job.step(RestoreEvent::Cancelled);
    assert!(effects.is_empty(), "its agent is asked to stop");
    let stopped = Failure { unavailable: false, message: "1 of 7 bytes fetched".to_owned(), hint: None };
    let (job, effects) = job.step(RestoreEvent::NodeFailed("b".to_owned(), stopped));
    assert_eq!(effects, [RestoreEffect::Undo("b".to_owned())]);
    assert_eq!(job.history()[1].status, Status::Started);
    let (job, effects) = job.step(RestoreEvent::Resumed);
    assert_eq!(effects, [RestoreEffect::Undo("b".to_owned())], "again after a restart");
    let (job, _) = job.step(RestoreEvent::Undone("b".to_owned(), None));
    let rows = job.history();
    assert_eq!((rows[0].status, rows[1].status), (Status::Completed, Status::Failed));
    assert_eq!(
        rows[1].message,
        "cancelled while restore: 1 of 2 nodes had finished; 1 of 7 bytes fetched; the node is as it was before"
    );
}
