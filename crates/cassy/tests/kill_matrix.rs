//! Server, agent, and both killed at the beginning of every stage of a backup and of a restore, when the first object
//! has been sent, at the agent's own steps of a restore (sentinel, staging, placing), and at seeded instants: each time
//! one final state, nothing left behind, and a restore that is equal. On a recorded node, so that a round takes seconds;
//! the same on a real Cassandra, fewer, in `kills.rs`.

#![allow(clippy::print_stdout, reason = "the counts are for who reads the output")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cassy_control::job::{BackupStage, RestoreStage};
use cassy_testkit::{
    Aim, Failure, Killer, RecordedNode, Recording, Runtime, Seeded, Struck, Victim, World, oracle,
};
use tokio::sync::OnceCell;

/// Seeded instants for each victim, for backups and for restores: with `./test --all`, and without.
const OFFSETS_OF_ALL: usize = 20;
const OFFSETS: usize = 2;

const STEPS_OF_A_RESTORE: [Aim; 3] = [Aim::Marked, Aim::Staging, Aim::Placing];

/// Hits by kind of job, and by stage and by aim.
type Counts = BTreeMap<(&'static str, String), usize>;

#[tokio::test]
async fn a_server_that_is_killed_anywhere_leaves_one_final_state_and_no_trace() -> Result<(), Failure> {
    matrix(Victim::Server).await
}

#[tokio::test]
async fn an_agent_that_is_killed_anywhere_leaves_one_final_state_and_no_trace() -> Result<(), Failure> {
    matrix(Victim::Agent).await
}

#[tokio::test]
async fn both_killed_anywhere_leave_one_final_state_and_no_trace() -> Result<(), Failure> {
    matrix(Victim::Both).await
}

async fn matrix(victim: Victim) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut world = World::recorded(recording().await?)?.start().await?;
    let expected = expected(&world)?;
    let cluster = world.register().await?;
    let mut matrix = Matrix {
        victim,
        expected,
        seeded: Seeded::new()?.branch(victim as u64),
        killer: Killer::new(&mut world, &cluster).await?,
        counts: Counts::new(),
    };
    let offsets = if std::env::var_os("CASSY_TEST_ALL").is_some() { OFFSETS_OF_ALL } else { OFFSETS };
    matrix.run(offsets).await?;
    matrix.report(offsets, begun);
    Ok(())
}

/// One for all tests: of a real Cassandra, or made up where there is no JVM.
async fn recording() -> Result<&'static Recording, Failure> {
    static RECORDING: OnceCell<Recording> = OnceCell::const_new();
    let made = RECORDING.get_or_try_init(async || match Runtime::or_skip().await {
        Some(runtime) => Recording::of_cassandra(&runtime).await,
        None => Recording::synthetic(),
    });
    made.await
}

/// All files that a snapshot holds, by an operator's.
fn expected(world: &World<RecordedNode>) -> Result<oracle::Files, Failure> {
    world.node.snapshot("operators-own")?;
    let taken = oracle::snapshot(&world.node.data_directories(), "operators-own")?;
    Ok(oracle::sstable_files(&taken))
}

struct Matrix<'a> {
    victim: Victim,
    expected: oracle::Files,
    seeded: Seeded,
    killer: Killer<'a, RecordedNode>,
    counts: Counts,
}

/// No agent is at work when the job writes its summary.
fn backup_stages(victim: Victim) -> impl Iterator<Item = BackupStage> {
    let has_agents = |stage: &BackupStage| *stage < BackupStage::Commit;
    BackupStage::ALL.into_iter().filter(move |stage| victim == Victim::Server || has_agents(stage))
}

impl Matrix<'_> {
    /// Each backup that was made under a kill is restored, under a kill as long as there are such to do.
    async fn run(&mut self, offsets: usize) -> Result<(), Failure> {
        let [backup, restore] = self.killer.measure().await?;
        println!("undisturbed: a backup takes {backup:?}, a restore {restore:?}");
        let mut backups: Vec<Option<Aim>> =
            backup_stages(self.victim).map(|stage| Some(Aim::Stage(stage.name()))).collect();
        let mut restores: Vec<Option<Aim>> =
            RestoreStage::ALL.map(|stage| Some(Aim::Stage(stage.name()))).to_vec();
        backups.push(Some(Aim::Sending));
        restores.extend(STEPS_OF_A_RESTORE.map(Some));
        // Where no aim is given: a seeded instant.
        backups.extend([None].repeat(offsets));
        restores.extend([None].repeat(offsets));
        let mut restores = restores.into_iter();
        for (round, aim) in backups.into_iter().enumerate() {
            // With an empty store all is sent, else there is a parent to rely on: pinning wants one.
            if round % 2 == 1 {
                self.killer.world.remove_backups()?;
            }
            let struck = self.backup(aim, backup).await?;
            match restores.next() {
                Some(aim) => self.restore(&struck.snapshot_id, aim, restore).await?,
                None => self.undisturbed_restore(&struck.snapshot_id).await?,
            }
        }
        Ok(())
    }

    async fn backup(&mut self, aim: Option<Aim>, time: Duration) -> Result<Struck, Failure> {
        let begun = Instant::now();
        let mut instants = self.seeded.instants(time);
        let aims = || aim.unwrap_or_else(|| Aim::After(instants()));
        let struck = self.killer.backup(self.victim, aims).await?;
        self.note("backup", aim, &struck, begun);
        Ok(struck)
    }

    async fn restore(&mut self, snapshot_id: &str, aim: Option<Aim>, time: Duration) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut instants = self.seeded.instants(time);
        let aims = || aim.unwrap_or_else(|| Aim::After(instants()));
        let struck = self.killer.restore(snapshot_id, self.victim, aims).await?;
        self.note("restore", aim, &struck, begun);
        self.compare().await
    }

    async fn undisturbed_restore(&mut self, snapshot_id: &str) -> Result<(), Failure> {
        self.killer.empty_node().await?;
        self.killer.world.restore(self.killer.cluster(), snapshot_id).await?;
        self.compare().await
    }

    /// Names and content of all files are those of the recording; the node starts on them.
    async fn compare(&mut self) -> Result<(), Failure> {
        let node = &mut self.killer.world.node;
        let placed = oracle::placed(&node.data_directories())?;
        assert_eq!(oracle::differences(&self.expected, &placed), Vec::<String>::new(), "{:?}", self.victim);
        node.start().await
    }

    fn note(&mut self, kind: &'static str, aim: Option<Aim>, struck: &Struck, begun: Instant) {
        let Struck { aim: at, stage, retried, .. } = struck;
        println!("{:?} {kind} {at:?}: in {stage}, retried: {retried}, {:?}", self.victim, begun.elapsed());
        *self.counts.entry((kind, format!("in {stage}"))).or_default() += 1;
        let wanted = aim.map_or_else(|| "seeded".to_owned(), |aim| format!("{aim:?}"));
        *self.counts.entry((kind, wanted)).or_default() += 1;
    }

    fn report(&self, offsets: usize, begun: Instant) {
        println!("{:?} killed, by stage and by aim, in {:?}:", self.victim, begun.elapsed());
        for ((kind, what), count) in &self.counts {
            println!("  {kind} {what}: {count}");
        }
        let count = |kind, what: String| self.counts.get(&(kind, what)).copied().unwrap_or_default();
        let aimed = |kind, aim: Aim| count(kind, format!("{aim:?}"));
        for stage in backup_stages(self.victim) {
            assert_eq!(aimed("backup", Aim::Stage(stage.name())), 1, "{stage:?}");
            assert!(count("backup", format!("in {}", stage.name())) >= 1, "{stage:?}");
        }
        for stage in RestoreStage::ALL {
            assert_eq!(aimed("restore", Aim::Stage(stage.name())), 1, "{stage:?}");
            assert!(count("restore", format!("in {}", stage.name())) >= 1, "{stage:?}");
        }
        assert_eq!(aimed("backup", Aim::Sending), 1);
        for step in STEPS_OF_A_RESTORE {
            assert_eq!(aimed("restore", step), 1, "{step:?}");
        }
        let seeded = |kind| count(kind, "seeded".to_owned());
        assert_eq!((seeded("backup"), seeded("restore")), (offsets, offsets));
    }
}
