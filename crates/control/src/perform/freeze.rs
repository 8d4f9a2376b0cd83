//! The freeze of a cluster-wide backup: everything from before the first Pause until after the last Unpause. Nothing of
//! it is stored, so nothing of it is ever taken up in the middle.

use std::collections::BTreeMap;
use std::time::Duration;

use cassy_agent_protocol::{GuardOrder, Instance};
use futures::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep, timeout_at};

use super::backup::{BackupPerformer, CASSANDRA_LIMIT, PREPARE_LIMIT, bounded, node};
use super::guards::Guards;
use super::snapshot::{Schema, Table, whole};
use super::{listed, permanent};
use crate::applications::{InstanceFailure, Pause};
use crate::cut::{Cut, stopped};
use crate::job::backup::cluster_wide::{FreezeReport, Frozen, PausedInstance};
use crate::job::{BackupJob, Failure};
use crate::nodes::{Cassandra, ClientActivity, NodeError, NodeErrorKind};
use crate::pauses::OpenPause;

/// How long the applications are asked to go on before that is left to the background.
const UNPAUSE_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a node that is at work for clients.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
const NOBODY_PAUSED: &str = "nobody was paused";
const GO_ON: &str = "the applications go on";
/// How long a guard tries.
const GUARD_TRIES: Duration = Duration::from_secs(3600);

/// A node with everything that a snapshot needs.
struct Ready<'a> {
    target: &'a str,
    cassandra: Box<dyn Cassandra>,
    schema: Schema,
    write_timeout: Duration,
}

/// What happened to the nodes while the applications were paused.
struct Taken {
    /// One for each node, in order.
    snapshots: Vec<(Duration, Result<(), NodeError>)>,
    /// Why they are not of one instant.
    unproven: Option<Failure>,
}

impl BackupPerformer {
    /// See the module.
    pub(super) async fn freeze(&self, job: &BackupJob) -> Result<Frozen, Failure> {
        let pauses = &self.pauses;
        let cut = &self.links.cut;
        let mut ready = cut.unless(bounded(PREPARE_LIMIT, self.make_ready(job))).await?;
        let instances = cut.unless(pauses.applications.find()).await?;
        let open = pauses.open(job, instances).await?;
        let order = order(job, &open.instances, pauses.longest);
        // Guards count from their arming.
        let deadline = Instant::now() + pauses.longest;
        let guards = match Guards::start(&*pauses.applications, &self.links, job, &order).await {
            Ok(guards) => guards,
            Err(failure) => {
                pauses.close(&open).await;
                return Err(failure);
            }
        };
        if cut.is_made() {
            guards.release().await;
            pauses.close(&open).await;
            return Err(stopped(NOBODY_PAUSED).into());
        }
        let (outcome, mut report) = self.paused(job, &mut ready, open, guards, deadline).await;
        let mut taken = outcome?;
        if taken.unproven.is_none() {
            taken.unproven = self.newcomers(&report).await;
        }
        let slowest = ready.iter().zip(&taken.snapshots).max_by_key(|(_, (took, _))| *took);
        if let Some((node, (took, _))) = slowest {
            node.target.clone_into(&mut report.slowest_node);
            report.slowest_snapshot_ms = millis(*took);
        }
        Ok(Frozen {
            nodes: self.checked(job, ready, taken.snapshots).await,
            unproven: taken.unproven,
            report,
        })
    }

    /// Sessions and schemas, so that nothing of that has to wait for while the applications are paused.
    async fn make_ready<'a>(&self, job: &'a BackupJob) -> Result<Vec<Ready<'a>>, NodeError> {
        let ready = job.nodes.keys().map(|target| async move {
            let mut cassandra = self.links.to(target).cassandra().await?;
            let schema = Schema::read(&mut *cassandra).await?;
            let write_timeout = cassandra.write_timeout().await?;
            cassandra.client_activity().await?;
            Ok(Ready { target, cassandra, schema, write_timeout })
        });
        try_join_all(ready).await
    }

    /// Pauses, takes the snapshots, unpauses whatever came of that.
    async fn paused(
        &self,
        job: &BackupJob,
        ready: &mut [Ready<'_>],
        open: OpenPause,
        guards: Guards<'_>,
        deadline: Instant,
    ) -> (Result<Taken, Failure>, FreezeReport) {
        let pauses = &self.pauses;
        let mut report = FreezeReport { started_at_ms: pauses.clock.now_ms(), ..FreezeReport::default() };
        report.notes.extend(guards.missing());
        // Half of the time is for the snapshots.
        let within = deadline.saturating_duration_since(Instant::now()) / 2;
        let pause = pauses.applications.pause(&open.instances, within).await;
        report.instances = answered(&open.instances, &*pause);
        let cut = &self.links.cut;
        let taking = async {
            match summed_up("the applications were not paused", pause.failures()) {
                Some(failure) => Err(failure),
                None => Ok(snapshots(job, ready, &*pause, deadline, cut).await),
            }
        };
        tokio::pin!(taking);
        let taken = tokio::select! {
            biased;
            () = cut.made() => None,
            taken = &mut taking => Some(taken),
        };
        let left = pause.unpause(UNPAUSE_LIMIT).await;
        report.ended_at_ms = pauses.clock.now_ms();
        report.notes.extend(left.iter().map(unacknowledged));
        if left.is_empty() {
            guards.release().await;
        } else {
            drop(guards);
        }
        pauses.see_to(open, left).await;
        let outcome = match taken {
            Some(outcome) => outcome,
            None => {
                // Calls under way end, so that their tags are there to be cleared.
                let _of_no_use = taking.await;
                Err(stopped(GO_ON).into())
            }
        };
        let outcome = outcome.map_err(|failure: Failure| with_notes(failure, &report.notes));
        (outcome, report)
    }

    /// Who came while the applications were paused was not.
    async fn newcomers(&self, report: &FreezeReport) -> Option<Failure> {
        let now = match self.pauses.applications.find().await {
            Ok(now) => now,
            Err(failure) => {
                let message =
                    format!("whether instances came in the meantime is not known: {}", failure.message);
                return Some(Failure { message, ..failure });
            }
        };
        let is_new = |instance: &&Instance| report.instances.iter().all(|known| known.instance != **instance);
        let new: Vec<_> = now.iter().filter(is_new).map(ToString::to_string).collect();
        (!new.is_empty()).then(|| Failure {
            unavailable: false,
            message: format!("instances came while the others were paused: {}", listed(&new)),
            hint: Some("take the backup again when nothing is being deployed or scaled".to_owned()),
        })
    }

    /// Which snapshots are whole. The applications go on already.
    async fn checked(
        &self,
        job: &BackupJob,
        ready: Vec<Ready<'_>>,
        snapshots: Vec<(Duration, Result<(), NodeError>)>,
    ) -> BTreeMap<String, Result<Vec<Table>, Failure>> {
        let checks = ready.into_iter().zip(snapshots).map(|(mut node, (_, taken))| async move {
            let link = self.links.to(node.target);
            let check = async {
                taken?;
                whole(job, node.target, &link, &mut *node.cassandra, node.schema).await
            };
            let outcome = bounded(CASSANDRA_LIMIT, check).await;
            (node.target.to_owned(), outcome.map_err(Failure::from))
        });
        join_all(checks).await.into_iter().collect()
    }
}

fn order(job: &BackupJob, instances: &[Instance], longest: Duration) -> GuardOrder {
    GuardOrder {
        job_id: job.backup_id.to_string(),
        instances: instances.to_vec(),
        deadline_ms: millis(longest),
        give_up_ms: millis(GUARD_TRIES),
    }
}

/// Takes all snapshots at once, and proves that nobody wrote meanwhile.
async fn snapshots(
    job: &BackupJob,
    ready: &mut [Ready<'_>],
    pause: &dyn Pause,
    deadline: Instant,
    cut: &Cut,
) -> Taken {
    let before = looked(ready, deadline).await;
    if cut.is_made() {
        return Taken { snapshots: Vec::new(), unproven: None };
    }
    let snapshots = join_all(ready.iter_mut().map(|node| taken(job, node, deadline))).await;
    let end = Instant::now();
    let left = deadline.saturating_duration_since(end);
    let idle = join_all(ready.iter_mut().map(|node| idle(node, end, deadline)));
    let (awake, after) = futures::join!(pause.check(left), idle);
    let unproven = not_paused(&awake).or_else(|| written(ready, &before, &after));
    Taken { snapshots, unproven }
}

/// Of one node, with how long it took.
async fn taken(
    job: &BackupJob,
    ready: &mut Ready<'_>,
    deadline: Instant,
) -> (Duration, Result<(), NodeError>) {
    let begun = Instant::now();
    let tag = match node(job, ready.target) {
        Ok(node) => job.tag(node).to_string(),
        Err(error) => return (Duration::ZERO, Err(error)),
    };
    let call = ready.cassandra.take_snapshot(&tag, &ready.schema.keyspaces);
    let outcome = timeout_at(deadline, call).await.unwrap_or_else(|_elapsed| {
        let hint = "raise max_pause_ms if the applications can be paused for longer";
        let error = permanent(format!(
            "{}: the snapshot did not end before the applications had to go on",
            ready.target
        ));
        Err(NodeError { hint: Some(hint.to_owned()), ..error })
    });
    (begun.elapsed(), outcome)
}

async fn looked(ready: &mut [Ready<'_>], deadline: Instant) -> Vec<Result<ClientActivity, NodeError>> {
    join_all(ready.iter_mut().map(|node| look(node, deadline))).await
}

async fn look(node: &mut Ready<'_>, deadline: Instant) -> Result<ClientActivity, NodeError> {
    timeout_at(deadline, node.cassandra.client_activity()).await.unwrap_or_else(|_elapsed| {
        let message = format!("{}: its write counters were not read in time", node.target);
        Err(NodeError::new(NodeErrorKind::Transient, message))
    })
}

/// What the node has counted when nothing that had begun before the end of the snapshots can still be under way: it was
/// seen idle, or a write timeout has passed.
async fn idle(node: &mut Ready<'_>, end: Instant, deadline: Instant) -> Result<ClientActivity, NodeError> {
    loop {
        let is_late = end.elapsed() >= node.write_timeout;
        let activity = look(node, deadline).await?;
        if activity.tasks == 0 || is_late {
            return Ok(activity);
        }
        sleep(LOOK_PAUSE).await;
    }
}

fn written(
    ready: &[Ready<'_>],
    before: &[Result<ClientActivity, NodeError>],
    after: &[Result<ClientActivity, NodeError>],
) -> Option<Failure> {
    let mut writers = Vec::new();
    for ((node, before), after) in ready.iter().zip(before).zip(after) {
        match (before, after) {
            (Ok(before), Ok(after)) if before.writes == after.writes => {}
            (Ok(before), Ok(after)) => {
                writers.push(format!("{} ({})", node.target, after.writes.abs_diff(before.writes)));
            }
            (Err(error), _) | (_, Err(error)) => return Some(error.clone().into()),
        }
    }
    (!writers.is_empty()).then(|| Failure {
        unavailable: false,
        message: format!(
            "clients wrote while the applications were paused; writes by coordinator: {}",
            listed(&writers)
        ),
        hint: Some(
            "somebody writes whom the SRV record does not name: nodetool clientstats --all on these nodes shows who"
                .to_owned(),
        ),
    })
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

fn unacknowledged(left: &InstanceFailure) -> String {
    format!(
        "{} has not acknowledged that it goes on: {}; it is asked again and again, and `cassy unpause` does so too",
        left.instance, left.failure.message
    )
}

fn with_notes(failure: Failure, notes: &[String]) -> Failure {
    let message = notes.iter().fold(failure.message, |text, note| format!("{text}; {note}"));
    Failure { message, ..failure }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
