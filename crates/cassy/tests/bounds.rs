//! What does not grow: the memory of server and agent with the number of files, and what is lost when everybody asks
//! at once. The node is a recorded one; server, agent and sshd are real.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use cassy_api::proto::{
    BackupListingRequest, BackupRequest, ClusterRegistrationRequest, OperationStatus, RestoreRequest,
};
use cassy_testkit::{Client, Doing, Failure, RecordedNode, Recording, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tonic::{Code, Status};

/// Between a node of few files and one of many.
const MOST_GROWTH_BYTES: u64 = 10 << 20;
/// SSTables of a table, of three files each.
const SSTABLES: usize = 333;
const FILES_EACH: usize = 3;
/// At once, each on a connection of its own.
const REQUESTS: usize = 1_000;
/// The soft limit of open files that most systems start a service with.
const USUAL_OPEN_FILES: u64 = 1_024;

/// Tables, and SSTables of each: some 20,000 files; with `./test --all` 200,000, also all in one table.
fn many() -> Vec<(usize, usize)> {
    match std::env::var_os("CASSY_TEST_ALL") {
        Some(_) => vec![(200, SSTABLES), (1, 200 * SSTABLES)],
        None => vec![(20, SSTABLES)],
    }
}

/// The most memory that each process has had: what the kernel says of it (`VmHWM`, proc(5)).
#[derive(Debug, Clone, Copy, Default)]
struct Peaks {
    server: u64,
    agent: u64,
}

#[tokio::test]
async fn memory_does_not_grow_with_the_number_of_files() -> Result<(), Failure> {
    let few = measured(1, SSTABLES).await?;
    for (tables, sstables) in many() {
        let many = measured(tables, sstables).await?;
        let all = [few.server, few.agent, many.server, many.agent];
        assert!(all.iter().all(|peak| *peak > 0), "every process was seen: {few:?}, {many:?}");
        assert!(many.server < few.server + MOST_GROWTH_BYTES, "server: {few:?}, {many:?}");
        assert!(many.agent < few.agent + MOST_GROWTH_BYTES, "agent: {few:?}, {many:?}");
    }
    Ok(())
}

/// A backup, a second one that reuses all, and a restore of this many tables of this many SSTables.
async fn measured(tables: usize, sstables: usize) -> Result<Peaks, Failure> {
    let recording = Recording::with_many_files(tables, sstables, 1)?;
    let mut world = World::recorded(&recording)?.start().await?;
    let watch = Watch::agents_below(&world.path().join("agent"));
    let cluster = world.register().await?;
    let mut backup = String::new();
    for _ in 0..2 {
        backup = world.back_up(&cluster).await?;
    }
    world.node.stop().await?;
    world.node.wipe()?;
    world.restore(&cluster, &backup).await?;
    let agent = watch.peak();
    let peaks = Peaks { server: peak_of(&proc(world.server.process().pid())).unwrap_or_default(), agent };
    eprintln!("{} files in {tables} tables: {peaks:?}", tables * sstables * FILES_EACH);
    Ok(peaks)
}

/// Looks at every agent as often as it can, as one ends with its job.
struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<u64>,
}

impl Watch {
    fn agents_below(directory: &Path) -> Self {
        let (stop, directory) = (Arc::new(AtomicBool::new(false)), directory.to_owned());
        let stopped = Arc::clone(&stop);
        let looking = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Acquire) {
                peak = agents(&directory).iter().filter_map(|agent| peak_of(agent)).fold(peak, u64::max);
                std::thread::yield_now();
            }
            peak
        });
        Self { stop, looking }
    }

    fn peak(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.looking.join().expect("looking does not panic")
    }
}

fn proc(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// Processes whose program lies in this directory.
fn agents(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let below = |path: &PathBuf| {
        std::fs::read_link(path.join("exe")).is_ok_and(|program| program.starts_with(directory))
    };
    entries.map(|entry| entry.path()).filter(below).collect()
}

fn peak_of(process: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_served_or_refused_and_no_job_is_lost() -> Result<(), Failure> {
    let hard = getrlimit(Resource::Nofile).maximum;
    limit_open_files(hard, hard)?;
    let mut world = World::recorded(&Recording::synthetic()?)?.start().await?;
    // The server alone; the other ends of all connections are here and in the stand-in.
    world.server.stop().await?;
    limit_open_files(Some(USUAL_OPEN_FILES), hard)?;
    let started = world.server.start_again().await;
    limit_open_files(hard, hard)?;
    started?;
    let cluster = world.register().await?;
    let mut asked = Vec::new();
    for _ in 0..REQUESTS {
        asked.push(tokio::spawn(ask(asked.len(), world.server.client()?, cluster.clone())));
    }
    let mut answers: BTreeMap<String, (usize, Status)> = BTreeMap::new();
    let (mut accepted, mut others) = (BTreeSet::new(), 0);
    // A connection that is cut or refused would be Unknown; there is no such backup to restore.
    let fitting = [Code::FailedPrecondition, Code::ResourceExhausted, Code::Unavailable, Code::NotFound];
    for answer in asked {
        match answer.await.expect("a request does not panic") {
            Ok(Some(snapshot_id)) => _ = accepted.insert(snapshot_id),
            Ok(None) => others += 1,
            Err(status) => {
                assert!(fitting.contains(&status.code()), "the server's own answer: {status:?}");
                let (count, _) = answers.entry(format!("{:?}", status.code())).or_insert((0, status));
                *count += 1;
            }
        }
    }
    eprintln!(
        "{} backups and {others} others accepted, refused, with an example: {answers:#?}",
        accepted.len()
    );
    assert!(!accepted.is_empty());
    for snapshot_id in &accepted {
        let (status, message) = world.backup_outcome(snapshot_id).await?;
        assert_eq!(status, OperationStatus::Completed, "{message}");
    }
    let mut listed = rows(&world, &cluster).await?;
    listed.sort();
    assert_eq!(listed, Vec::from_iter(accepted), "a row for each job that was accepted, and none else");
    world.back_up(&cluster).await?;
    Ok(())
}

/// Of this process, and of those that it starts from now on.
fn limit_open_files(current: Option<u64>, maximum: Option<u64>) -> Result<(), Failure> {
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).doing(|| "limit the open files")
}

/// Mostly backups: the backup that came of it, `None` for what makes none, or why it was refused. The others are calls
/// that also work on jobs and nodes, and one backup that is asked for again and again under its key.
async fn ask(number: usize, mut client: Client, cluster_id: String) -> Result<Option<String>, Status> {
    let backup = BackupRequest { cluster_id: cluster_id.clone(), backup_type: 2, ..Default::default() };
    match number % 10 {
        7 => {
            let request = ClusterRegistrationRequest { cassandra_host: "127.0.0.1".to_owned() };
            client.register_cluster(request).await.map(|_| None)
        }
        8 => {
            let snapshot_id = "0197a5ac-0000-7000-8000-000000000000".to_owned();
            let request = RestoreRequest { cluster_id, snapshot_id, restore_type: 2, ..Default::default() };
            client.restore_backup(request).await.map(|_| None)
        }
        9 => {
            let request = BackupRequest { idempotency_key: Some("once".to_owned()), ..backup };
            client.take_backup(request).await.map(|answer| Some(answer.into_inner().snapshot_id))
        }
        _ => client.take_backup(backup).await.map(|answer| Some(answer.into_inner().snapshot_id)),
    }
}

async fn rows(world: &World<RecordedNode>, cluster: &str) -> Result<Vec<String>, Failure> {
    let request = BackupListingRequest { cluster_id: cluster.to_owned(), ..Default::default() };
    let answer = world.server.client()?.list_backups(request).await.doing(|| "ListBackups")?;
    Ok(answer.into_inner().entries.into_iter().map(|entry| entry.snapshot_id).collect())
}
