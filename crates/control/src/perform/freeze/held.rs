//! From the arming of the guards until everybody goes on. It is a task of its own: whoever gave it up (a server that
//! stops, a lease that was lost), it ends by unpausing.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::{GuardOrder, Instance};
use futures::future::{join_all, try_join_all};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Ready;
use super::writes::{Counted, look, system_writes, written};
use crate::applications::{InstanceFailure, Pause};
use crate::cut::{Cut, stopped};
use crate::job::backup::cluster_wide::{FreezeReport, PausedInstance};
use crate::job::{BackupJob, Failure, listed};
use crate::link::Link;
use crate::nodes::NodeError;
use crate::pauses::{LATE, OpenPause, Pauses};
use crate::perform::backup::node;
use crate::perform::guards::Guards;
use crate::perform::permanent;

/// How long the applications are asked to go on before that is left to the background.
const UNPAUSE_LIMIT: Duration = Duration::from_secs(30);
/// The same when the server is stopping: what is left then is up to the guards, and to the next start.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// For the answer of instances that have just answered.
const CHECK_LIMIT: Duration = Duration::from_secs(2);
const NO_SNAPSHOT: &str = "the pause was ended";
/// How long a guard tries.
const GUARD_TRIES: Duration = Duration::from_secs(3600);

/// What it takes, and what came of it.
pub(super) struct Held {
    pub(super) job: BackupJob,
    pub(super) pauses: Arc<Pauses>,
    pub(super) cut: Cut,
    /// To each node, in order.
    pub(super) links: Vec<Arc<Link>>,
    /// In the same order.
    pub(super) ready: Vec<Ready>,
    pub(super) report: FreezeReport,
}

/// Why there are no snapshots.
pub(super) enum NotTaken {
    /// Of one node, by its place.
    Node(usize, NodeError),
    /// Of all.
    All(Failure),
}

impl From<Failure> for NotTaken {
    fn from(failure: Failure) -> Self {
        Self::All(failure)
    }
}

/// How the time of the pause ended.
enum Ended {
    All(Result<Taken, NotTaken>),
    /// A snapshot has failed; others are under way.
    Failing,
    GivenUp(Failure),
}

/// What happened to the nodes while the applications were paused.
pub(super) struct Taken {
    /// How long each snapshot took, in order.
    pub(super) snapshots: Vec<Duration>,
    /// Why they are not of one instant.
    pub(super) unproven: Option<Failure>,
}

impl Held {
    pub(super) async fn run(mut self, open: OpenPause) -> (Self, Result<Taken, NotTaken>) {
        let outcome = self.guarded(open).await;
        (self, outcome)
    }

    /// Arms the guards, and looks once more whether every node answers: nobody is paused before that.
    async fn guarded(&mut self, open: OpenPause) -> Result<Taken, NotTaken> {
        let pauses = Arc::clone(&self.pauses);
        let order = order(&self.job, open.instances(), &pauses);
        // Guards count from their arming.
        let deadline = Instant::now() + pauses.longest;
        let within = Guards::time_to_arm(pauses.longest);
        let guards = match Guards::start(&*pauses.applications, &self.links, &order, within).await {
            Ok(guards) => guards,
            Err(failure) => {
                open.close().await;
                return Err(failure.into());
            }
        };
        let known = try_join_all(self.ready.iter_mut().map(|node| async move {
            look(node, deadline).await?;
            system_writes(node, deadline).await
        }));
        match known.await {
            Ok(known) if !self.cut.is_made() => self.paused(open, guards, &known, deadline).await,
            outcome => {
                let_go(open, guards, Vec::new()).await;
                let error = outcome.err().unwrap_or_else(|| stopped("nobody was paused"));
                Err(Failure::from(error).into())
            }
        }
    }

    /// Pauses, takes the snapshots, unpauses whatever came of that.
    async fn paused(
        &mut self,
        open: OpenPause,
        guards: Guards,
        known: &[u64],
        deadline: Instant,
    ) -> Result<Taken, NotTaken> {
        let pauses = Arc::clone(&self.pauses);
        let begun = Instant::now();
        let Self { job, cut, ready, report, .. } = self;
        report.started_at_ms = pauses.clock.now_ms();
        report.notes.extend(guards.missing());
        // Half of the time is for the snapshots.
        let within = deadline.saturating_duration_since(begun) / 2;
        let asked = pauses.applications.pause(open.instances(), within);
        let pause = tokio::select! {
            biased;
            why = given_up(&pauses.stop, cut) => Err(why),
            pause = asked => Ok(pause),
        };
        let pause = match pause {
            Ok(pause) => pause,
            Err(why) => {
                let late = within + LATE;
                let limit = unpause_limit(&pauses.stop);
                let left = pauses.applications.unpause(open.instances(), late, limit).await;
                over(report, begun, &left);
                let_go(open, guards, left).await;
                return Err(why.into());
            }
        };
        let asked_at = pause.asked_at();
        let opening = asked_at.saturating_duration_since(begun);
        report.started_at_ms = report.started_at_ms.saturating_add(millis_i64(opening));
        report.instances = answered(open.instances(), &*pause);
        let failed = Notify::new();
        let mut taking = pin!(taken(job, ready, &*pause, known, deadline, &failed, cut));
        let ended = tokio::select! {
            biased;
            why = given_up(&pauses.stop, cut) => Ended::GivenUp(why),
            () = failed.notified() => Ended::Failing,
            taken = &mut taking => Ended::All(taken),
        };
        let left = pause.unpause(unpause_limit(&pauses.stop)).await;
        over(report, asked_at, &left);
        let rest = async {
            match ended {
                Ended::All(outcome) => outcome,
                Ended::GivenUp(why) if pauses.stop.is_cancelled() => Err(why.into()),
                // Snapshots under way end first, so that their tags are there to be cleared.
                Ended::GivenUp(why) => {
                    let _of_no_use = taking.await;
                    Err(why.into())
                }
                Ended::Failing => taking.await,
            }
        };
        let (alarmed, outcome) = futures::join!(let_go(open, guards, left), rest);
        let mut taken = outcome?;
        taken.unproven = taken.unproven.or_else(|| alarmed_guards(&alarmed));
        Ok(taken)
    }
}

/// Nobody is paused any more, as far as that is known.
fn over(report: &mut FreezeReport, begun: Instant, left: &[InstanceFailure]) {
    report.ended_at_ms = report.started_at_ms.saturating_add(millis_i64(begun.elapsed()));
    report.notes.extend(left.iter().map(unacknowledged));
}

/// Lets the guards go, and closes the intent, or leaves both to the background; answers the guards that were alarmed,
/// or may have been.
async fn let_go(open: OpenPause, guards: Guards, left: Vec<InstanceFailure>) -> Vec<String> {
    if let Some(first) = left.first() {
        let not_asked = format!("they are kept, as {} has not acknowledged that it goes on", first.instance);
        open.see_to(left, guards);
        return vec![not_asked];
    }
    let alarmed = guards.release().await;
    // A guard that was alarmed unpauses again and again until its end: as long, nobody is paused for another backup.
    if alarmed.is_empty() {
        open.close().await;
    }
    alarmed
}

/// Takes all snapshots at once, and proves that nobody wrote meanwhile. At the first failure everybody may go on.
async fn taken(
    job: &BackupJob,
    ready: &mut [Ready],
    pause: &dyn Pause,
    known: &[u64],
    deadline: Instant,
    failed: &Notify,
    cut: &Cut,
) -> Result<Taken, NotTaken> {
    if let Some(failure) = summed_up("the applications were not paused", pause.failures()) {
        return Err(failure.into());
    }
    let looks = ready.iter_mut().zip(known).map(|(node, known)| Counted::look(node, *known, deadline));
    let before = try_join_all(looks).await.map_err(Failure::from)?;
    if cut.is_made() {
        return Err(Failure::from(stopped(NO_SNAPSHOT)).into());
    }
    let snapshots = ready.iter_mut().enumerate().map(|(place, node)| async move {
        let taken = snapshot(job, node, deadline).await;
        taken.map_err(|error| {
            failed.notify_one();
            NotTaken::Node(place, error)
        })
    });
    let snapshots: Result<Vec<_>, _> = join_all(snapshots).await.into_iter().collect();
    let snapshots = snapshots?;
    let end = Instant::now();
    let left = deadline.saturating_duration_since(end).min(CHECK_LIMIT);
    let looks = ready.iter_mut().zip(&before);
    let looks = join_all(looks.map(|(node, before)| before.writes_since(node, end, deadline)));
    let (awake, writes) = futures::join!(pause.check(left), looks);
    let unproven = not_paused(&awake).or_else(|| written(ready, &writes));
    Ok(Taken { snapshots, unproven })
}

/// Of one node; answers how long it took.
async fn snapshot(job: &BackupJob, ready: &mut Ready, deadline: Instant) -> Result<Duration, NodeError> {
    let begun = Instant::now();
    let tag = job.tag(node(job, &ready.target)?).to_string();
    let call = ready.cassandra.take_snapshot(&tag, &ready.schema.keyspaces);
    let outcome = timeout_at(deadline, call).await.unwrap_or_else(|_elapsed| {
        let hint = "raise max_pause_ms if the applications can be paused for longer";
        let error = permanent(format!(
            "{}: the snapshot did not end before the applications had to go on",
            ready.target
        ));
        Err(NodeError { hint: Some(hint.to_owned()), ..error })
    });
    outcome.map(|()| begun.elapsed())
}

fn order(job: &BackupJob, instances: &[Instance], pauses: &Pauses) -> GuardOrder {
    GuardOrder {
        job_id: job.backup_id.to_string(),
        instances: instances.to_vec(),
        deadline_ms: millis(pauses.longest),
        give_up_ms: millis(GUARD_TRIES),
        tls: pauses.applications.tls().cloned(),
    }
}

fn answered(instances: &[Instance], pause: &dyn Pause) -> Vec<PausedInstance> {
    let answers = instances.iter().zip(pause.answered_within());
    let paused = answers.filter_map(|(instance, after)| {
        Some(PausedInstance { instance: instance.clone(), paused_after_ms: millis(after?) })
    });
    paused.collect()
}

/// All of them in one, after what they mean; nothing when there are none.
fn summed_up(what: &str, failures: &[InstanceFailure]) -> Option<Failure> {
    let first = failures.first()?;
    let named: Vec<_> =
        failures.iter().map(|failed| format!("{}: {}", failed.instance, failed.failure.message)).collect();
    Some(Failure {
        unavailable: failures.iter().all(|failed| failed.failure.unavailable),
        message: format!("{what}: {}", listed(&named)),
        hint: first.failure.hint.clone(),
    })
}

fn not_paused(awake: &[InstanceFailure]) -> Option<Failure> {
    summed_up("not known to have been paused until the last snapshot", awake)
}

/// A guard that was alarmed has unpaused somebody, who may have written one half before the snapshots and the other
/// after them, and be paused again.
fn alarmed_guards(alarmed: &[String]) -> Option<Failure> {
    (!alarmed.is_empty()).then(|| Failure {
        unavailable: true,
        message: format!("guards may have unpaused the applications in the meantime: {}", listed(alarmed)),
        hint: Some("take the backup again; the log says why a guard was alarmed".to_owned()),
    })
}

fn unacknowledged(left: &InstanceFailure) -> String {
    format!(
        "{} has not acknowledged that it goes on: {}; it is asked again and again, and `cassy unpause` does so too",
        left.instance, left.failure.message
    )
}

/// Why the freeze is given up, when it is.
async fn given_up(stop: &CancellationToken, cut: &Cut) -> Failure {
    tokio::select! {
        biased;
        () = stop.cancelled() => stopping(),
        () = cut.made() => stopped(NO_SNAPSHOT).into(),
    }
}

fn unpause_limit(stop: &CancellationToken) -> Duration {
    if stop.is_cancelled() { STOP_LIMIT } else { UNPAUSE_LIMIT }
}

fn stopping() -> Failure {
    Failure {
        unavailable: true,
        message: "the server is stopping".to_owned(),
        hint: Some("the backup is begun again when the server is back".to_owned()),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn millis_i64(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
