//! What can be seen from outside after each step: gates, calls, and pauses that last too long.

use super::Run;
use crate::faults::Kind;
use crate::guards::Guardian;
use crate::nodes::Node;
use crate::world::{Mark, State, Violation};

/// A pause may last so much longer than its deadline: a second, and two steps of the clock.
const LATE_MS: u64 = 1050;
/// How long whoever tries may need once nothing is in the way: a connection, a call and a pause between tries, each
/// given up at its limit.
const GRACE_MS: u64 = 13_000;
/// From a look at the applications to the Pause.
const HOT_MS: u64 = 2000;

impl Run {
    pub(super) fn build(&mut self) {
        self.world.lock().nodes = (0..self.plan.nodes).map(Node::new).collect();
        (0..self.plan.apps).for_each(|_| self.add_app(true));
    }

    pub(super) fn observe(&mut self) {
        let now = self.world.now();
        let mut fired = Vec::new();
        let mut said = Vec::new();
        let mut state = self.world.lock();
        let state = &mut *state;
        for key in &state.cut_off {
            state.obstacles.insert(*key, now);
        }
        for (index, app) in state.apps.iter_mut().enumerate() {
            let (is_paused, calls) = (app.process.is_paused(), app.process.calls());
            if is_paused != app.is_paused {
                said.push(format!("app{} {}", index + 1, if is_paused { "is paused" } else { "goes on" }));
            }
            app.is_paused = is_paused;
            if calls != app.seen {
                let paused = calls.pause > app.seen.pause;
                fired.extend(app.faults.iter().filter(|kind| match kind {
                    Kind::InstanceHangs => true,
                    Kind::PauseRefused | Kind::PauseLate | Kind::GateLeftOpen => paused,
                    _ => false,
                }));
                if paused {
                    state.marks.entry(Mark::Paused).or_insert(now);
                }
                app.seen = calls;
            }
            let mut deaf = 0;
            app.process.behave(|behaviour| deaf = behaviour.refuses_unpauses);
            if deaf < app.deaf {
                fired.push(Kind::UnpauseFails);
                app.deaf = deaf;
                app.obstacle = Some(now);
            }
            if [Kind::InstanceHangs, Kind::InstanceFrozen].iter().any(|kind| app.faults.contains(kind)) {
                app.obstacle = Some(now);
            }
        }
        if state.pauses.last().is_some_and(|pause| now < pause.began + HOT_MS)
            || state.apps.iter().any(|app| app.is_paused)
        {
            self.hot_until = now + 100;
        }
        let overdue = overdue(state, now, self.server_up_since);
        for index in overdue {
            let text = format!("app{} at {now} ms", index + 1);
            state.violations.push(Violation::PausedForTooLong(text));
        }
        state.trace.extend(said.into_iter().map(|text| (now, text)));
        for kind in fired {
            *state.fired.entry(kind).or_default() += 1;
        }
    }
}

/// Who is paused although somebody who lives and reaches it should have ended that. The first time only.
fn overdue(state: &State, now: u64, server_up_since: Option<u64>) -> Vec<usize> {
    let known = state.violations.len();
    let paused = state.apps.iter().enumerate().filter(|(_, app)| app.is_paused && known == 0);
    let overdue = paused.filter(|(index, app)| {
        let Some(pause) = state.pauses.iter().rev().find(|pause| pause.instances.contains(&app.instance))
        else {
            return true;
        };
        let reached =
            |guardian: &Guardian| state.obstacles.get(&(guardian.host, *index)).copied().max(app.obstacle);
        let should = |guardian: &&Guardian| {
            let cleared = reached(guardian).map_or(0, |obstacle| obstacle + GRACE_MS);
            now > (guardian.deadline + LATE_MS).max(cleared)
        };
        let mut guardians = pause.guardians.iter().enumerate();
        guardians.any(|(number, guardian)| match (number, server_up_since) {
            // A server that was killed is followed by one that takes up the intent; one that was suspended goes on.
            (0, Some(since)) if since > pause.began => now > since + GRACE_MS && should(&guardian),
            (0, None) => false,
            _ => !guardian.killed && should(&guardian),
        })
    });
    overdue.map(|(index, _)| index).collect()
}
