//! The freeze of a cluster-wide backup: everything from before the first Pause until after the last Unpause. Nothing of
//! it is stored, so nothing of it is ever taken up in the middle.

mod held;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cassy_agent_protocol::Instance;
use futures::future::{join_all, try_join_all};
use tokio::time::timeout;

use super::backup::{BackupPerformer, PREPARE_LIMIT, bounded, facts};
use super::permanent;
use super::snapshot::{Schema, Table, whole};
use crate::job::backup::cluster_wide::{FreezeReport, Frozen};
use crate::job::{BackupJob, Failure, listed};
use crate::nodes::{Cassandra, NodeDescription, NodeError, Undelivered};
use held::{Held, NotTaken, millis};

/// Of the flush right before the pause: a node ends a session that is idle for two minutes, and all wait for the last.
const FLUSH_LIMIT: Duration = Duration::from_secs(90);
/// Of one look-up of the instances.
const FIND_LIMIT: Duration = Duration::from_secs(30);
/// A job that a restart found unfinished pauses the applications only as long as somebody may still expect it to.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// So often it is begun: a server that dies in each pause does not pause for ever.
const ATTEMPTS: u32 = 3;

/// A node with everything that a snapshot needs.
struct Ready {
    target: String,
    cassandra: Box<dyn Cassandra>,
    schema: Schema,
    write_timeout: Duration,
}

/// What the nodes are found to be, once the applications go on.
#[derive(Default)]
struct Checked {
    /// The tables of each snapshot, or why it is not whole.
    nodes: BTreeMap<String, Result<Vec<Table>, Failure>>,
    /// What was not the same all the time.
    changed: Option<Failure>,
    undelivered: BTreeMap<String, Undelivered>,
}

impl BackupPerformer {
    /// See the module.
    pub(super) async fn freeze(&self, job: &BackupJob) -> Result<Frozen, Failure> {
        self.may_still_pause(job)?;
        let pauses = &self.pauses;
        let cut = self.links.cut.clone();
        cut.unless(pauses.none_is_open()).await?;
        let mut ready = cut.unless(bounded(PREPARE_LIMIT, self.make_ready(job))).await?;
        cut.unless(try_join_all(ready.iter_mut().map(flushed))).await?;
        let instances = cut.unless(self.find()).await?;
        cut.unless(pauses.none_is_open()).await?;
        let open = pauses.open(job, instances).await?;
        let links = ready.iter().map(|node| self.links.to(&node.target)).collect();
        let (job_of_its_own, pauses) = (job.clone(), pauses.clone());
        let held = Held {
            job: job_of_its_own,
            pauses,
            cut: cut.clone(),
            links,
            ready,
            report: FreezeReport::default(),
        };
        let (held, outcome) = self.pauses.tasks.spawn(held.run(open)).await.map_err(|_panicked| Failure {
            unavailable: false,
            message: "a defect of Cassy while the applications were paused".to_owned(),
            hint: Some("the server's log has the details; the applications are unpaused".to_owned()),
        })?;
        let Held { mut report, ready, .. } = held;
        let taken = match outcome {
            Ok(taken) => taken,
            Err(NotTaken::Node(place, error)) => {
                let nodes = BTreeMap::from([(ready[place].target.clone(), Err(error.into()))]);
                return Ok(Frozen { nodes, unproven: None, report });
            }
            // Nobody was paused, so there is nothing to report.
            Err(NotTaken::All(failure)) if report.started_at_ms == 0 => return Err(failure),
            Err(NotTaken::All(failure)) => {
                return Ok(Frozen { nodes: of_all(job, &failure), unproven: None, report });
            }
        };
        if let Some((node, took)) = ready.iter().zip(&taken.snapshots).max_by_key(|(_, took)| **took) {
            node.target.clone_into(&mut report.slowest_node);
            report.slowest_snapshot_ms = millis(*took);
        }
        let mut unproven = taken.unproven;
        if unproven.is_none() {
            unproven = self.newcomers(&report).await;
        }
        let checked = async { Ok(self.checked(job, ready).await) };
        let Checked { nodes, changed, undelivered } = match cut.unless(checked).await {
            Ok(checked) => checked,
            Err(stopped) => Checked { nodes: of_all(job, &stopped), ..Checked::default() },
        };
        report.knows(undelivered);
        Ok(Frozen { nodes, unproven: unproven.or(changed), report })
    }

    /// Nobody waits any more for a job that was taken up again late, or again and again.
    fn may_still_pause(&self, job: &BackupJob) -> Result<(), Failure> {
        let attempt = job.nodes.values().map(|node| node.attempt).max().unwrap_or_default();
        let age = self.clock.now_ms().saturating_sub(job.created_at_ms);
        let fresh = i64::try_from(FRESH.as_millis()).unwrap_or(i64::MAX);
        if attempt <= 1 || (attempt <= ATTEMPTS && age <= fresh) {
            return Ok(());
        }
        Err(Failure {
            unavailable: true,
            message: format!(
                "the server was started anew while it took this backup, which was asked for {} min ago (attempt {attempt}); \
                 the applications are not paused for it any more",
                age / 60_000
            ),
            hint: Some("take the backup again".to_owned()),
        })
    }

    async fn find(&self) -> Result<Vec<Instance>, Failure> {
        let found = timeout(FIND_LIMIT, self.pauses.applications.find()).await;
        found.unwrap_or_else(|_elapsed| {
            Err(Failure {
                unavailable: true,
                message: format!("the applications were not found within {} s", FIND_LIMIT.as_secs()),
                hint: Some("look whether the DNS server answers (srv_service_url, dns_server)".to_owned()),
            })
        })
    }

    /// Sessions and schemas, so that nothing of that has to wait for while the applications are paused.
    async fn make_ready(&self, job: &BackupJob) -> Result<Vec<Ready>, NodeError> {
        let ready = job.nodes.keys().map(|target| async move {
            let mut cassandra = self.links.to(target).cassandra().await?;
            same_ring(job, target, &cassandra.describe().await?)?;
            let schema = Schema::read(&mut *cassandra).await?;
            let write_timeout = cassandra.write_timeout().await?;
            Ok(Ready { target: target.clone(), cassandra, schema, write_timeout })
        });
        try_join_all(ready).await
    }

    /// Who came while the applications were paused was not.
    async fn newcomers(&self, report: &FreezeReport) -> Option<Failure> {
        let now = match self.find().await {
            Ok(now) => now,
            Err(failure) => {
                let message =
                    format!("whether instances came in the meantime is not known: {}", failure.message);
                return Some(Failure { message, ..failure });
            }
        };
        let known: BTreeSet<_> = report.instances.iter().map(|known| known.instance.address).collect();
        let new = now.iter().filter(|instance| !known.contains(&instance.address));
        let new: Vec<_> = new.map(ToString::to_string).collect();
        (!new.is_empty()).then(|| Failure {
            unavailable: false,
            message: format!("instances came while the others were paused: {}", listed(&new)),
            hint: Some("take the backup again when nothing is being deployed or scaled".to_owned()),
        })
    }

    /// Which snapshots are whole, and whether the cluster was the same all the time. The applications go on already.
    async fn checked(&self, job: &BackupJob, ready: Vec<Ready>) -> Checked {
        let checks = ready.into_iter().map(|mut node| async move {
            let changed = bounded(PREPARE_LIMIT, unchanged(job, &mut node)).await.err();
            let undelivered = bounded(PREPARE_LIMIT, node.cassandra.undelivered()).await;
            let Ready { target, mut cassandra, schema, .. } = node;
            let link = self.links.to(&target);
            let outcome = whole(job, &target, &link, &mut *cassandra, schema).await;
            (target, outcome.map_err(Failure::from), changed.map(Failure::from), undelivered)
        });
        let mut checked = Checked::default();
        for (target, outcome, changed, undelivered) in join_all(checks).await {
            match undelivered {
                Ok(known) => _ = checked.undelivered.insert(target.clone(), known),
                Err(error) => tracing::warn!(node = target, %error, "hints and dropped writes are not known"),
            }
            checked.nodes.insert(target, outcome);
            checked.changed = checked.changed.or(changed);
        }
        checked
    }
}

/// Why no node has a snapshot.
fn of_all(job: &BackupJob, failure: &Failure) -> BTreeMap<String, Result<Vec<Table>, Failure>> {
    job.nodes.keys().map(|target| (target.clone(), Err(failure.clone()))).collect()
}

/// Writes what has come into the memtables since the flush before: in the pause there is less of it to write.
async fn flushed(node: &mut Ready) -> Result<(), NodeError> {
    match timeout(FLUSH_LIMIT, node.cassandra.flush(&node.schema.keyspaces)).await {
        Ok(Ok(())) => Ok(()),
        // A keyspace that was just dropped; the snapshot will say what matters.
        Ok(Err(error)) if !error.is_transient() => {
            tracing::info!(node = node.target, error = %error, "not flushed before the pause");
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => Err(permanent(format!(
            "{}: the flush right before the pause did not end within {} s, so nobody was paused",
            node.target,
            FLUSH_LIMIT.as_secs()
        ))),
    }
}

/// What a cluster-wide backup is of is the whole ring, at its instant.
fn same_ring(job: &BackupJob, target: &str, described: &NodeDescription) -> Result<(), NodeError> {
    let mut expected = BTreeMap::new();
    for target in job.nodes.keys() {
        expected.insert(target, facts(job, target)?.host_id);
    }
    let is_same = described.ring.iter().eq(expected.iter().map(|(target, host_id)| (*target, host_id)));
    if is_same && described.joining.is_empty() && described.leaving.is_empty() && described.moving.is_empty()
    {
        return Ok(());
    }
    let on_the_way = described.joining.iter().chain(&described.leaving).chain(&described.moving);
    let strange =
        described.ring.iter().filter(|(node, id)| expected.get(node) != Some(id)).map(|(node, _)| node);
    let gone = expected.keys().copied().filter(|node| !described.ring.contains_key(*node));
    let differing: BTreeSet<_> = on_the_way.chain(strange).chain(gone).cloned().collect();
    let differing: Vec<_> = differing.into_iter().collect();
    let hint = "take the backup again when no node joins, leaves or moves";
    let error = permanent(format!(
        "{target}: the ring is not the one that the backup began with: {}",
        listed(&differing)
    ));
    Err(NodeError { hint: Some(hint.to_owned()), ..error })
}

/// The ring is the same, and no keyspace has come that the snapshots do not know.
async fn unchanged(job: &BackupJob, node: &mut Ready) -> Result<(), NodeError> {
    same_ring(job, &node.target, &node.cassandra.describe().await?)?;
    let now = node.cassandra.keyspaces().await?;
    let new: Vec<_> = now.into_iter().filter(|keyspace| !node.schema.keyspaces.contains(keyspace)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let hint = "take the backup again when nobody changes the schema";
    let error = permanent(format!("{}: keyspaces came during the backup: {}", node.target, listed(&new)));
    Err(NodeError { hint: Some(hint.to_owned()), ..error })
}
