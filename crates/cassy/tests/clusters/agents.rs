//! The agents on a node, as the kernel knows them: all processes in its network namespace that are agents, whoever
//! started them, and which of them work.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cassy_testkit::{Cluster, ClusterNode, Doing, Failure, Probe, ProcessId, wait_for};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(15);

/// The agents of one node.
#[derive(Debug, Clone)]
pub(crate) struct Agents {
    network: PathBuf,
    /// Where an agent that works has files open.
    places: Vec<PathBuf>,
}

impl Agents {
    pub(crate) fn of(cluster: &Cluster, node: &ClusterNode) -> Result<Self, Failure> {
        let mut places = node.cassandra.data_directories();
        places.push(cluster.store());
        Ok(Self { network: node.network_namespace()?, places })
    }

    /// Those that are alive.
    pub(crate) fn alive(&self) -> Vec<ProcessId> {
        all().into_iter().filter(|agent| self.has(*agent)).collect()
    }

    /// Those that have files of the node or of the store open.
    pub(crate) fn at_work(&self) -> Vec<ProcessId> {
        self.alive().into_iter().filter(|agent| self.works(agent.pid)).collect()
    }

    /// Stops all of them where they are (SIGSTOP).
    pub(crate) async fn freeze(&self) -> Result<Vec<ProcessId>, Failure> {
        let agents = self.alive();
        agents.iter().for_each(|agent| send(*agent, Signal::STOP));
        wait_for("the agents stand still", LIMIT, async || {
            let moving: Vec<_> =
                agents.iter().filter(|agent| agent.is_alive() && !is_stopped(agent.pid)).collect();
            if moving.is_empty() { Probe::Ready(()) } else { Probe::NotYet(format!("{moving:?}")) }
        })
        .await?;
        Ok(agents.into_iter().filter(|agent| agent.is_alive()).collect())
    }

    /// Waits until one that is none of these is alive.
    pub(crate) async fn another(&self, known: &[ProcessId]) -> Result<ProcessId, Failure> {
        wait_for("another agent comes", LIMIT, async || {
            match self.alive().into_iter().find(|agent| !known.contains(agent)) {
                Some(agent) => Probe::Ready(agent),
                None => Probe::NotYet(format!("{:?}", self.alive())),
            }
        })
        .await
    }

    /// Waits until none is alive.
    pub(crate) async fn ended(&self) -> Result<(), Failure> {
        wait_for("the agents end", LIMIT, async || match self.alive() {
            agents if agents.is_empty() => Probe::Ready(()),
            agents => Probe::NotYet(format!("{agents:?}")),
        })
        .await
    }

    fn has(&self, agent: ProcessId) -> bool {
        let network = std::fs::read_link(format!("/proc/{}/ns/net", agent.pid));
        network.is_ok_and(|network| network == self.network) && agent.is_alive()
    }

    fn works(&self, pid: u32) -> bool {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut open = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        open.any(|path| path.is_file() && self.places.iter().any(|place| path.starts_with(place)))
    }
}

/// All agents on this machine.
fn all() -> Vec<ProcessId> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_agent = |process: &ProcessId| process.arguments().get(1).is_some_and(|word| word == "agent");
    pids.filter_map(ProcessId::of).filter(is_agent).collect()
}

/// Lets an agent go on (SIGCONT).
pub(crate) fn thaw(agents: &[ProcessId]) {
    agents.iter().for_each(|agent| send(*agent, Signal::CONT));
}

fn send(agent: ProcessId, signal: Signal) {
    let number = i32::try_from(agent.pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = number.filter(|_| agent.is_alive()) {
        // It may have ended meanwhile, and needs nothing then.
        let _ended = kill_process(pid, signal);
    }
}

fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let state = |path: PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    // A thread that has just ended has no state any more.
    tasks.into_iter().all(|task| matches!(state(task.path()), Some('T' | 'Z') | None))
}

/// Whether an agent holds the lock of this node.
pub(crate) fn is_locked(node: &ClusterNode) -> Result<bool, Failure> {
    let data = node.cassandra.data_directories().remove(0);
    let directory = std::fs::File::open(&data).doing(|| format!("open {}", data.display()))?;
    Ok(directory.try_lock().is_err())
}

/// Looks at all nodes all the time, from a thread of its own, and notes where two agents work at once. Ends when it is
/// dropped.
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    _stop: Sender<()>,
}

#[derive(Debug, Default)]
struct Seen {
    looks_at_work: usize,
    two_at_once: Vec<String>,
}

impl Watch {
    pub(crate) fn start(nodes: Vec<Agents>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let (stop, stopped) = channel();
        std::thread::spawn(move || {
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                let agents = all();
                nodes.iter().for_each(|node| look(node, &agents, &shared));
            }
        });
        Self { seen, _stop: stop }
    }

    /// Never two at once, and not for want of looking.
    pub(crate) fn assert_one_at_a_time(&self) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(seen.two_at_once, Vec::<String>::new());
        assert!(seen.looks_at_work > 0, "agents were seen at work");
    }
}

fn look(node: &Agents, agents: &[ProcessId], seen: &Mutex<Seen>) {
    let working: Vec<_> = agents.iter().filter(|agent| node.has(**agent) && node.works(agent.pid)).collect();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.looks_at_work += usize::from(!working.is_empty());
    // One that has ended since it was looked at is no second one.
    if working.len() > 1 && working.iter().all(|agent| agent.is_alive() && node.works(agent.pid)) {
        seen.two_at_once.push(format!("{working:?} in {}", node.network.display()));
    }
}

/// Whether the node manifest of a backup is there.
pub(crate) fn manifest_exists(store: &Path, host_id: &str, snapshot_id: &str) -> bool {
    let clusters = std::fs::read_dir(store.join("cassy/1")).into_iter().flatten().flatten();
    let places = clusters.map(|cluster| cluster.path().join("node").join(host_id).join("manifest"));
    let mut names = places.flat_map(|place| std::fs::read_dir(place).into_iter().flatten().flatten());
    names.any(|entry| entry.file_name().to_string_lossy().contains(snapshot_id))
}
