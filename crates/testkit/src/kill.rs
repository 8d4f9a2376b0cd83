//! Rounds in which the server, the agent or both are killed (SIGKILL) in the middle of a job, and what must be true
//! after each: one final state, at most one retry, nothing left behind.

use std::path::Path;
use std::time::Duration;

use cassy_api::proto::{
    BackupListingRequest, BackupRequest, OperationStatus, RestoreRequest, RestoreStatusListingRequest,
};
use tokio::time::Instant;

use crate::jobs::{Jobs, StoredJob};
use crate::requests::{NODE_BACKUP, NODE_RESTORE};
use crate::wait::catch;
use crate::world::Node;
use crate::{Doing, Failure, Probe, World, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
/// A kill that comes after the job's end shows nothing and is repeated, so often.
const TRIES: usize = 20;
/// What an agent has found out in these stages is gone with it, so that a job may end as FAILED, or be refused.
const FOR_NOTHING: [&str; 4] = ["prepare", "list", "flush", "snapshot"];
/// In the message of a job that could not clear all.
const LEFT_TO_LATER: &str = "left for a later backup";

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Victim {
    Server,
    Agent,
    Both,
}

impl Victim {
    /// Each.
    pub const ALL: [Self; 3] = [Self::Server, Self::Agent, Self::Both];
}

/// When the victim is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// When this stage has been stored: its work has just begun.
    Stage(&'static str),
    /// So long after the job was filed.
    After(Duration),
    /// When the first object has been sent, to a store that was empty.
    Sending,
    /// When the sentinel of a restore has been put down, before anything else.
    Marked,
    /// When the first file of a restore has been staged.
    Staging,
    /// When the first file has been placed.
    Placing,
}

/// A kill that hit a job under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struck {
    /// When.
    pub aim: Aim,
    /// The stage that was stored then.
    pub stage: String,
    /// A complete backup: the job's own, else that of the retry; for a restore the one that was restored.
    pub snapshot_id: String,
    /// The job did not bring it about by itself.
    pub retried: bool,
}

/// Kills in one world.
#[derive(Debug)]
pub struct Killer<'a, N: Node> {
    /// The world.
    pub world: &'a mut World<N>,
    jobs: Jobs,
    cluster: String,
    server_is_dead: bool,
}

impl<'a, N: Node> Killer<'a, N> {
    /// A killer for the jobs of a registered cluster.
    ///
    /// # Errors
    /// When the server's database cannot be opened.
    pub async fn new(world: &'a mut World<N>, cluster: &str) -> Result<Self, Failure> {
        let jobs = Jobs::open(&world.database()).await?;
        Ok(Self { world, jobs, cluster: cluster.to_owned(), server_is_dead: false })
    }

    /// How long a backup and its restore take when nobody is killed, each from its filing. The node runs before and
    /// after.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn measure(&mut self) -> Result<[Duration; 2], Failure> {
        let known = self.jobs.newest_row().await?;
        let asked = self.ask_for_backup()?;
        let backup = self.time_to_end(known).await?;
        asked.await.doing(|| "wait for the answer")?.doing(|| "TakeBackup")?;
        let snapshot_id = self.jobs.newest().await?.map(|job| job.snapshot_id).unwrap_or_default();
        self.empty_node().await?;
        let known = self.jobs.newest_row().await?;
        let asked = self.ask_for_restore(&snapshot_id)?;
        let restore = self.time_to_end(known).await?;
        asked.await.doing(|| "wait for the answer")?.doing(|| "RestoreBackup")?;
        self.world.node.start().await?;
        Ok([backup, restore])
    }

    /// Kills in a backup; a kill that came too late is repeated, with another aim. The node runs.
    ///
    /// # Errors
    /// When anything is not as it must be afterwards, or every kill came too late.
    pub async fn backup(&mut self, victim: Victim, mut aims: impl FnMut() -> Aim) -> Result<Struck, Failure> {
        for _ in 0..TRIES {
            if let Some(struck) = self.try_backup(victim, aims()).await? {
                return Ok(struck);
            }
        }
        Err(Failure::new(format!("{victim:?}: no kill in a backup came in time")))
    }

    /// Empties the node and kills in a restore; a kill that came too late is repeated, with another aim. The node runs
    /// no more. That the data is equal is for the caller to see.
    ///
    /// # Errors
    /// As [`Killer::backup`].
    pub async fn restore(
        &mut self,
        snapshot_id: &str,
        victim: Victim,
        mut aims: impl FnMut() -> Aim,
    ) -> Result<Struck, Failure> {
        for _ in 0..TRIES {
            if let Some(struck) = self.try_restore(snapshot_id, victim, aims()).await? {
                return Ok(struck);
            }
        }
        Err(Failure::new(format!("{victim:?}: no kill in a restore came in time")))
    }

    async fn try_backup(&mut self, victim: Victim, aim: Aim) -> Result<Option<Struck>, Failure> {
        if aim == Aim::Sending {
            self.world.remove_backups()?;
        }
        let known = self.jobs.newest_row().await?;
        let sent = self.world.objects()?;
        let asked = self.ask_for_backup()?;
        let came = |killer: &Self| match aim {
            Aim::Sending => Ok(killer.world.objects()?.difference(&sent).any(|key| key.contains("/data/"))),
            _ => Err(Failure::new(format!("{aim:?} is not of a backup"))),
        };
        let struck = self.strike(known, victim, aim, came).await?;
        self.revive().await?;
        // Refused, accepted, or the answer was lost with the server: the job says it.
        let _answer = asked.await;
        let job = self.jobs.watch(known, |job| job.finished).await?;
        let (completed, message) = self.backup_row(&job).await?;
        let stage = struck.as_ref().map(|struck| struck.stage.as_str());
        let excused = victim == Victim::Agent && stage.is_some_and(|stage| FOR_NOTHING.contains(&stage));
        let told = format!("{victim:?} killed in {stage:?}: {message}");
        if !completed && !excused {
            return Err(Failure::new(format!("the backup must complete by itself; {told}")));
        }
        let snapshot_id = if completed { job.snapshot_id } else { self.world.back_up(&self.cluster).await? };
        let mut left = self.world.leftovers().await?;
        if message.contains(LEFT_TO_LATER) && !left.is_empty() {
            self.world.back_up(&self.cluster).await?;
            left = self.world.leftovers().await?;
        }
        if !left.is_empty() {
            return Err(Failure::new(format!("left behind: {}; {told}", left.join(", "))));
        }
        Ok(struck.map(|struck| Struck { aim, stage: struck.stage, snapshot_id, retried: !completed }))
    }

    async fn try_restore(
        &mut self,
        snapshot_id: &str,
        victim: Victim,
        aim: Aim,
    ) -> Result<Option<Struck>, Failure> {
        self.empty_node().await?;
        let rows_before = self.restore_rows(snapshot_id).await?.len();
        let known = self.jobs.newest_row().await?;
        let asked = self.ask_for_restore(snapshot_id)?;
        let data = self.world.node.data_directories();
        let came = |killer: &Self| match aim {
            Aim::Marked => Ok(killer.world.has_sentinel()),
            Aim::Staging => Ok(has_file(&data[0].join("node-backup"))),
            Aim::Placing => Ok(has_keyspace(&data[0])),
            _ => Err(Failure::new(format!("{aim:?} is not of a restore"))),
        };
        let struck = self.strike(known, victim, aim, came).await?;
        let started = match &struck {
            Some(_) => self.start_on_half_a_restore(victim).await?,
            None => false,
        };
        self.revive().await?;
        let _answer = asked.await;
        self.jobs.watch(known, |job| job.finished).await?;
        let rows = self.restore_rows(snapshot_id).await?;
        let stage = struck.as_ref().map_or("no stage", |struck| struck.stage.as_str());
        let told = format!("{victim:?} killed in {stage}: {rows:?}");
        if rows.len() > rows_before + 1 || rows.iter().any(|(status, _)| !is_final(*status)) {
            return Err(Failure::new(format!("one row and one final state; {told}")));
        }
        // The newest is the first.
        let own = rows.first().filter(|_| rows.len() > rows_before);
        let completed = own.is_some_and(|(status, _)| *status == OperationStatus::Completed);
        let in_the_way = own.is_some_and(|(_, message)| message.contains("Cassandra is running"));
        // The server may still tell of its agent's end before its own comes.
        let agent_died_first = victim == Victim::Both && struck.is_none() && own.is_none();
        let excused = stage == "plan" || agent_died_first || (victim == Victim::Agent && in_the_way);
        if !completed && !excused {
            return Err(Failure::new(format!("the restore must complete by itself; {told}")));
        }
        // Where Cassandra started, all was in place and only the answer was lost.
        if !completed && !started {
            self.world.restore(&self.cluster, snapshot_id).await?;
        }
        let left = self.world.leftovers().await?;
        if !left.is_empty() {
            return Err(Failure::new(format!("left behind: {}; {told}", left.join(", "))));
        }
        let snapshot_id = snapshot_id.to_owned();
        Ok(struck.map(|struck| Struck { aim, stage: struck.stage, snapshot_id, retried: !completed }))
    }

    /// The cluster whose jobs are struck.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Stops the node and removes all that it has written.
    ///
    /// # Errors
    /// When it does not stop, or a file cannot be removed.
    pub async fn empty_node(&mut self) -> Result<(), Failure> {
        self.world.node.stop().await?;
        self.world.node.wipe()
    }

    fn ask_for_backup(&self) -> Result<Asked, Failure> {
        let mut client = self.world.server.client()?;
        let request = BackupRequest {
            cluster_id: self.cluster.clone(),
            backup_type: NODE_BACKUP,
            ..BackupRequest::default()
        };
        Ok(tokio::spawn(async move { client.take_backup(request).await.map(drop) }))
    }

    fn ask_for_restore(&self, snapshot_id: &str) -> Result<Asked, Failure> {
        let mut client = self.world.server.client()?;
        let request = RestoreRequest {
            cluster_id: self.cluster.clone(),
            snapshot_id: snapshot_id.to_owned(),
            restore_type: NODE_RESTORE,
            ..RestoreRequest::default()
        };
        Ok(tokio::spawn(async move { client.restore_backup(request).await.map(drop) }))
    }

    async fn time_to_end(&mut self, known: i64) -> Result<Duration, Failure> {
        self.jobs.watch(known, |_| true).await?;
        let filed = Instant::now();
        self.jobs.watch(known, |job| job.finished).await?;
        Ok(filed.elapsed())
    }

    /// Waits for the moment and kills; `None` when the job ended first.
    async fn strike(
        &mut self,
        known: i64,
        victim: Victim,
        aim: Aim,
        came: impl Fn(&Self) -> Result<bool, Failure>,
    ) -> Result<Option<StoredJob>, Failure> {
        let job = self.jobs.watch(known, |_| true).await?;
        let filed = Instant::now();
        match aim {
            Aim::Stage(stage) => return self.strike_in(known, stage, victim).await,
            Aim::After(offset) => tokio::time::sleep_until(filed + offset).await,
            Aim::Sending | Aim::Marked | Aim::Staging | Aim::Placing => {
                catch("the first file is there", LIMIT, async || match came(self) {
                    Ok(true) => Probe::Ready(()),
                    Ok(false) => Probe::NotYet(format!("{aim:?}: {job:?}")),
                    Err(failure) => Probe::Broken(failure),
                })
                .await?;
            }
        }
        if victim == Victim::Agent && self.no_agent_came(known).await? {
            return Ok(None);
        }
        let Some(job) = self.jobs.newest().await?.filter(|job| !job.finished) else { return Ok(None) };
        let hit = self.kill(victim);
        // A dead server stores nothing, so what is stored now was so at the kill.
        let job = if victim == Victim::Agent { Some(job) } else { self.jobs.newest().await? };
        Ok(job.filter(|job| hit && !job.finished))
    }

    /// With the database held the stage cannot pass while the victim is killed.
    async fn strike_in(
        &mut self,
        known: i64,
        stage: &str,
        victim: Victim,
    ) -> Result<Option<StoredJob>, Failure> {
        self.jobs.watch(known, |job| job.stage == stage || job.finished).await?;
        self.jobs.hold().await?;
        let job = self.jobs.newest().await?.filter(|job| job.stage == stage);
        if job.is_some() {
            if victim != Victim::Server {
                self.agent_runs().await?;
            }
            self.kill(victim);
        }
        self.jobs.release().await?;
        Ok(job)
    }

    /// Waits for an agent, as a job begins without one; whether the job ended first.
    async fn no_agent_came(&mut self, known: i64) -> Result<bool, Failure> {
        catch("an agent runs, or the job ends", LIMIT, async || {
            if !self.world.sshd.agents().is_empty() {
                return Probe::Ready(false);
            }
            match self.jobs.newest().await {
                Ok(Some(job)) if job.row > known && job.finished => Probe::Ready(true),
                Ok(newest) => Probe::NotYet(format!("{newest:?}")),
                Err(failure) => Probe::Broken(failure),
            }
        })
        .await
    }

    async fn agent_runs(&self) -> Result<(), Failure> {
        wait_for("an agent runs", LIMIT, async || match self.world.sshd.agents() {
            agents if agents.is_empty() => Probe::NotYet("there is none".to_owned()),
            _ => Probe::Ready(()),
        })
        .await
    }

    /// Whether the victim was there to be killed.
    fn kill(&mut self, victim: Victim) -> bool {
        let mut hit = false;
        if victim != Victim::Server {
            for agent in self.world.sshd.agents() {
                agent.kill();
                hit = true;
            }
        }
        if victim != Victim::Agent {
            self.world.server.kill();
            self.server_is_dead = true;
            hit = true;
        }
        hit
    }

    async fn revive(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.server_is_dead) {
            self.world.server.start_again().await?;
        }
        Ok(())
    }

    /// While the sentinel is there an operator's start must fail. Where only the agent died the server brings in
    /// another one at once, so the sentinel may go meanwhile; then the restore is complete, and starting is right.
    async fn start_on_half_a_restore(&mut self, victim: Victim) -> Result<bool, Failure> {
        agent_ended(&self.world.node.data_directories()[0]).await?;
        if !self.world.has_sentinel() {
            return Ok(false);
        }
        let started = self.world.node.start().await;
        match started {
            Ok(()) if victim == Victim::Agent && !self.world.has_sentinel() => return Ok(true),
            Ok(()) => return Err(Failure::new(format!("{victim:?}: the node started on half a restore"))),
            Err(refused) if self.world.node.log().contains("unreadable sstables") => drop(refused),
            Err(other) => return Err(other),
        }
        self.world.node.kill();
        Ok(false)
    }

    /// Whether the job's one row says COMPLETED, and its message. A job that was refused has no row.
    async fn backup_row(&self, job: &StoredJob) -> Result<(bool, String), Failure> {
        let request =
            BackupListingRequest { snapshot_id: job.snapshot_id.clone(), ..BackupListingRequest::default() };
        let listed = self.world.server.client()?.list_backups(request).await.doing(|| "ListBackups")?;
        match listed.into_inner().entries.as_slice() {
            [] => Ok((false, "refused".to_owned())),
            [row] if is_final(row.status()) => {
                Ok((row.status() == OperationStatus::Completed, row.message.clone()))
            }
            rows => Err(Failure::new(format!("one row and one final state for {}: {rows:?}", job.job_id))),
        }
    }

    async fn restore_rows(&self, snapshot_id: &str) -> Result<Vec<(OperationStatus, String)>, Failure> {
        let request = RestoreStatusListingRequest {
            snapshot_id: snapshot_id.to_owned(),
            ..RestoreStatusListingRequest::default()
        };
        let listed = self.world.server.client()?.list_restore_statuses(request).await;
        let entries = listed.doing(|| "ListRestoreStatuses")?.into_inner().entries;
        Ok(entries.into_iter().map(|entry| (entry.status(), entry.message)).collect())
    }
}

type Asked = tokio::task::JoinHandle<Result<(), tonic::Status>>;

fn is_final(status: OperationStatus) -> bool {
    matches!(status, OperationStatus::Completed | OperationStatus::Failed)
}

/// In it, or in any directory below it.
fn has_file(directory: &Path) -> bool {
    let mut entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.any(|path| !path.is_dir() || has_file(&path))
}

fn has_keyspace(data: &Path) -> bool {
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name() != "node-backup")
}

/// An agent holds the lock of the first data directory until it ends.
async fn agent_ended(data: &Path) -> Result<(), Failure> {
    wait_for("the agent ends", LIMIT, async || {
        match std::fs::File::open(data).map(|directory| directory.try_lock().is_ok()) {
            Ok(true) => Probe::Ready(()),
            outcome => Probe::NotYet(format!("{outcome:?}")),
        }
    })
    .await
}
