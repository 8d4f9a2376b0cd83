//! One installation around a recorded node, that is broken again and again. After each fault: one final state, a retry
//! that succeeds, a restore that is equal byte for byte, nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cassy_api::proto::{BackupListingRequest, OperationStatus, RestoreStatusListingRequest};
use cassy_testkit::{Doing, Failure, RecordedNode, Recording, World, WorldBuilder, oracle};

use super::{Agent, Tmpfs, ambush, nothing_is_left};

/// SSTables of the table whose files come and go, and the bytes of each Data.db.
const SSTABLES: usize = 120;
const SSTABLES_IN_MEMORY: usize = 700;
const SSTABLE_BYTES: usize = 20_000;
/// Of a job that is to be caught in the middle, as a busy machine may look too late.
const TRIES: u32 = 10;
const DATABASE: &str = "database";

/// When the agent is stopped for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instant {
    /// A backup's first object is in the store, whole or not.
    Upload,
    /// A restore's first file is in staging.
    Staging,
    /// The first file of a restore is where Cassandra looks for it.
    Placing,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) snapshot_id: String,
    pub(crate) completed: bool,
    pub(crate) message: String,
    /// From the fault on.
    pub(crate) took: Duration,
}

/// See the module.
pub(crate) struct Scene {
    /// Unmounted first.
    pub(crate) mounts: Vec<Tmpfs>,
    pub(crate) world: World<RecordedNode>,
    pub(crate) cluster: String,
    /// The node's files as the recording has them.
    expected: oracle::Files,
    faults: Vec<String>,
}

impl Scene {
    /// On the machine's own disk.
    pub(crate) async fn start() -> Result<Self, Failure> {
        Self::of(SSTABLES, &[], |builder| builder).await
    }

    /// With a file system of so many bytes at this place below the world's directory. As it is so much faster than a
    /// disk, there are more files, so that there is a middle of the work.
    pub(crate) async fn mounted(place: &str, bytes: u64) -> Result<Self, Failure> {
        Self::of(SSTABLES_IN_MEMORY, &[(place, bytes)], |builder| builder).await
    }

    /// With the metadata database in a directory of its own, or a file system of so many bytes.
    pub(crate) async fn with_database(bytes: Option<u64>) -> Result<Self, Failure> {
        let mounted = bytes.map(|bytes| (DATABASE, bytes));
        Self::of(SSTABLES, mounted.as_slice(), |builder| {
            let directory = builder.path().join(DATABASE);
            fs::create_dir_all(&directory).expect("a directory can be made");
            let url = format!("jdbc:sqlite:{}", directory.join("cassy.db").display());
            builder.property("metadata_db_url", url)
        })
        .await
    }

    async fn of(
        sstables: usize,
        mounted: &[(&str, u64)],
        change: impl FnOnce(WorldBuilder<RecordedNode>) -> WorldBuilder<RecordedNode>,
    ) -> Result<Self, Failure> {
        let builder = World::recorded(&Recording::with_many_files(1, sstables, SSTABLE_BYTES)?)?;
        let root = builder.path().to_owned();
        let mounts = mounted.iter().map(|(place, bytes)| Tmpfs::mount(&root.join(place), *bytes));
        let mounts = mounts.collect::<Result<_, _>>()?;
        let world = change(builder).start().await?;
        let cluster = world.register().await?;
        let expected = oracle::placed(&world.node.data_directories())?;
        Ok(Self { mounts, world, cluster, expected, faults: Vec::new() })
    }

    /// The metadata database of [`Scene::with_database`].
    pub(crate) fn database(&self) -> PathBuf {
        self.world.path().join(DATABASE).join("cassy.db")
    }

    /// The node's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.world.node.data_directories().remove(0)
    }

    /// The only directory of this table.
    pub(crate) fn table(&self, keyspace: &str, table: &str) -> PathBuf {
        let inside = fs::read_dir(self.data().join(keyspace)).expect("the keyspace is there").flatten();
        let is_it = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{table}-")))
        };
        inside.map(|entry| entry.path()).find(is_it).expect("the table is there")
    }

    /// Where the many files are, in the snapshot of the backup under way.
    pub(crate) fn snapshot(&self) -> PathBuf {
        let snapshots =
            fs::read_dir(self.table("many", "files0").join("snapshots")).expect("a snapshot").flatten();
        snapshots.map(|entry| entry.path()).next().expect("a snapshot is there")
    }

    /// Takes a backup into an empty store; the agent stands still while the fault is done.
    pub(crate) async fn broken_backup(
        &self,
        fault: impl AsyncFnOnce(&Agent) -> Result<(), Failure>,
    ) -> Result<Ended, Failure> {
        for _ in 0..TRIES {
            self.empty_store()?;
            let agent = tokio::spawn(self.ambush(Instant::Upload));
            let snapshot_id = self.world.begin_backup(&self.cluster).await?;
            let agent = agent.await.doing(|| "wait for the agent")??;
            let begun = std::time::Instant::now();
            if self.is_in_the_middle(Instant::Upload) {
                fault(&agent).await?;
                agent.go_on();
                return self.backup_ended(snapshot_id, begun).await;
            }
            agent.go_on();
            self.world.backup_outcome(&snapshot_id).await?;
        }
        Err(Failure::new(format!("none of {TRIES} backups was caught in the middle")))
    }

    /// How the backup ends, from an instant on.
    pub(crate) async fn backup_ended(
        &self,
        snapshot_id: String,
        begun: std::time::Instant,
    ) -> Result<Ended, Failure> {
        let (status, message) = self.world.backup_outcome(&snapshot_id).await?;
        let completed = status == OperationStatus::Completed;
        Ok(Ended { snapshot_id, completed, message, took: begun.elapsed() })
    }

    /// Restores a backup to an empty node; the agent stands still while the fault is done.
    pub(crate) async fn broken_restore(
        &mut self,
        backup: &str,
        instant: Instant,
        fault: impl AsyncFnOnce(&Self, &Agent) -> Result<(), Failure>,
    ) -> Result<Ended, Failure> {
        for _ in 0..TRIES {
            self.empty_node().await?;
            let agent = tokio::spawn(self.ambush(instant));
            self.world.begin_restore(&self.cluster, backup).await?;
            let agent = agent.await.doing(|| "wait for the agent")??;
            let begun = std::time::Instant::now();
            if self.is_in_the_middle(instant) {
                fault(self, &agent).await?;
                agent.go_on();
                return self.restore_ended(backup, begun).await;
            }
            agent.go_on();
            self.world.restore_outcome(backup).await?;
            self.world.sshd.sessions_ended().await?;
        }
        Err(Failure::new(format!("none of {TRIES} restores was caught in the middle")))
    }

    async fn restore_ended(&self, backup: &str, begun: std::time::Instant) -> Result<Ended, Failure> {
        let (status, message) = self.world.restore_outcome(backup).await?;
        let completed = status == OperationStatus::Completed;
        Ok(Ended { snapshot_id: backup.to_owned(), completed, message, took: begun.elapsed() })
    }

    /// Whether the stopped agent has something left to do in this part of its work.
    fn is_in_the_middle(&self, instant: Instant) -> bool {
        match instant {
            Instant::Upload => !holds_a_file(&self.world.store().join("cassy"), "manifest", 4),
            Instant::Staging => !has_a_keyspace(&self.data()),
            Instant::Placing => holds_a_file(&self.data().join("node-backup"), "data", 0),
        }
    }

    /// After a backup's fault: another backup succeeds, nothing is left, and what was completed comes back.
    pub(crate) async fn backup_recovers(&mut self, fault: &str, ended: &Ended) -> Result<(), Failure> {
        self.told(fault, ended);
        let retry = self.world.back_up(&self.cluster).await.doing(|| format!("the backup after {fault}"))?;
        nothing_is_left(&self.world).await.doing(|| format!("after {fault}"))?;
        self.has_one_final_state(ended).await?;
        let completed = if ended.completed { &ended.snapshot_id } else { &retry };
        self.empty_node().await?;
        self.world.restore(&self.cluster, completed).await.doing(|| format!("the restore after {fault}"))?;
        self.is_back(fault).await
    }

    /// After a restore's fault: it is complete, or a second call completes it.
    pub(crate) async fn restore_recovers(&mut self, fault: &str, ended: &Ended) -> Result<(), Failure> {
        self.told(fault, ended);
        if !ended.completed {
            let again = self.world.restore(&self.cluster, &ended.snapshot_id).await;
            again.doing(|| format!("the second call after {fault}"))?;
        }
        self.is_back(fault).await?;
        let request =
            RestoreStatusListingRequest { snapshot_id: ended.snapshot_id.clone(), ..Default::default() };
        let mut client = self.world.server.client()?;
        let entries =
            client.list_restore_statuses(request).await.doing(|| "ListRestoreStatuses")?.into_inner().entries;
        assert!(entries.iter().all(|entry| is_final(entry.status())), "{fault}: {entries:?}");
        assert!(!entries.is_empty(), "{fault}: there is a row");
        nothing_is_left(&self.world).await.doing(|| format!("after {fault}"))
    }

    /// Notes a fault that was seen to happen, and prints what came of it.
    pub(crate) fn happened(&mut self, fault: &str, outcome: &str) {
        println!("{fault}: {outcome}");
        self.faults.push(fault.to_owned());
    }

    /// At the end of a test.
    pub(crate) fn all_faults_fired(&self, expected: usize) {
        assert_eq!(self.faults.len(), expected, "all faults fired: {:?}", self.faults);
        println!("all {expected} faults fired");
    }

    /// The node is stopped, and has no files.
    pub(crate) async fn empty_node(&mut self) -> Result<(), Failure> {
        self.world.node.stop().await?;
        self.world.node.wipe()
    }

    /// So that everything is sent, and there is something to interrupt.
    fn empty_store(&self) -> Result<(), Failure> {
        let backups = self.world.store().join("cassy");
        if backups.exists() {
            fs::remove_dir_all(&backups).doing(|| "empty the store")?;
        }
        Ok(())
    }

    /// Stops the agent at this instant.
    pub(crate) fn ambush(&self, instant: Instant) -> impl Future<Output = Result<Agent, Failure>> + use<> {
        let (store, data) = (self.world.store().join("cassy"), self.data());
        let staged = data.join("node-backup");
        let (what, seen): (_, Box<dyn Fn() -> bool + Send>) = match instant {
            Instant::Upload => ("an object is sent", Box::new(move || holds_a_file(&store, "data", 4))),
            Instant::Staging => ("a file is staged", Box::new(move || holds_a_file(&staged, "data", 0))),
            Instant::Placing => ("a file is placed", Box::new(move || has_a_keyspace(&data))),
        };
        ambush(self.world.path().join("agent"), what, seen)
    }

    fn told(&mut self, fault: &str, ended: &Ended) {
        let status = if ended.completed { "COMPLETED" } else { "FAILED" };
        let text = format!("{status} after {:.1} s: {}", ended.took.as_secs_f64(), ended.message);
        self.happened(fault, &text);
    }

    /// Everything is where it was, and the node starts on it.
    async fn is_back(&mut self, fault: &str) -> Result<(), Failure> {
        self.world.sshd.sessions_ended().await?;
        let found = oracle::placed(&self.world.node.data_directories())?;
        assert_eq!(oracle::differences(&self.expected, &found), Vec::<String>::new(), "after {fault}");
        assert!(!self.data().join("node-backup").exists(), "after {fault} staging is gone");
        self.world.node.start().await
    }

    async fn has_one_final_state(&self, ended: &Ended) -> Result<(), Failure> {
        let request = BackupListingRequest { snapshot_id: ended.snapshot_id.clone(), ..Default::default() };
        let mut client = self.world.server.client()?;
        let entries = client.list_backups(request).await.doing(|| "ListBackups")?.into_inner().entries;
        let [entry] = entries.as_slice() else { panic!("one row, one final state: {entries:?}") };
        assert_eq!(entry.status() == OperationStatus::Completed, ended.completed, "{entry:?}");
        assert_eq!(entry.message, ended.message);
        Ok(())
    }
}

fn is_final(status: OperationStatus) -> bool {
    matches!(status, OperationStatus::Completed | OperationStatus::Failed)
}

fn has_a_keyspace(data: &Path) -> bool {
    let mut entries = fs::read_dir(data).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name() != "node-backup")
}

/// Whether any file lies below a directory of this name, which is looked for so many levels down.
pub(crate) fn holds_a_file(directory: &Path, name: &str, levels: usize) -> bool {
    let entries = || fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let has_name = |path: &Path| path.file_name().is_some_and(|found| found == name);
    entries().any(|path| {
        path.is_dir()
            && if has_name(&path) {
                holds_any_file(&path)
            } else {
                levels > 0 && holds_a_file(&path, name, levels - 1)
            }
    })
}

fn holds_any_file(directory: &Path) -> bool {
    let mut entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.any(|path| if path.is_dir() { holds_any_file(&path) } else { true })
}
