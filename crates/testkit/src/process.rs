//! Child processes that never outlive their test: killed by `Drop`, and by the kernel when the test process dies.
//!
//! The kernel's part is the parent-death signal, set by `setpriv` (util-linux), so that no unsafe code is needed here.
//! That signal comes when the *thread* that started the child ends, and each test has a thread of its own; so all
//! children are started by one thread that lives as long as the process.
//! Each child leads a session: Ctrl-C in a terminal reaches the test process alone, which then cleans up in order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Doing, Failure, Probe, wait_for};

/// How a process is to be started.
#[derive(Debug)]
pub struct Launch {
    /// What messages call it.
    pub name: String,
    /// The program's absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Additional environment.
    pub environment: BTreeMap<String, String>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    /// Who ends it.
    pub lifetime: Lifetime,
}

/// Who ends a child process in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// It dies with the process that started it.
    #[default]
    Owned,
    /// [`Process::leave_running`] may be used: the kernel does not end it.
    Detachable,
}

/// A running, or ended, child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Option<Child>,
    pid: Pid,
    log: PathBuf,
    /// Where the log of this run begins in the file.
    log_start: u64,
}

impl Process {
    /// Starts it. Does not wait for anything.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be executed.
    pub fn start(launch: &Launch) -> Result<Self, Failure> {
        let name = &launch.name;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&launch.log)
            .doing(|| format!("open the log of {name}, {}", launch.log.display()))?;
        let log_start = log.metadata().doing(|| "read the log's length")?.len();
        let second = log.try_clone().doing(|| "share the log")?;
        let mut command = command(launch);
        command.stdin(Stdio::null()).stdout(log).stderr(second);
        let child = spawn(command).doing(|| format!("start {name}"))?;
        let pid = Pid::from_child(&child);
        Ok(Self { name: name.clone(), child: Some(child), pid, log: launch.log.clone(), log_start })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// What this run has written so far.
    pub fn log(&self) -> String {
        read_from(&self.log, self.log_start).unwrap_or_default()
    }

    /// The last lines of the log, for messages.
    pub fn log_tail(&self) -> String {
        tail(&self.log(), 40)
    }

    /// Asks it to end (SIGTERM) and waits; what has not ended in time is killed.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn stop(&mut self, limit: Duration) -> Result<(), Failure> {
        self.signal(Signal::TERM);
        let waited =
            wait_for(format!("{} ends after SIGTERM", self.name), limit, async || match self.ended() {
                Some(_) => Probe::Ready(()),
                None => Probe::NotYet("still running".to_owned()),
            })
            .await;
        if waited.is_err() {
            self.kill();
        }
        waited
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.child.is_some() && self.ended().is_none() {
            // The child is not reaped yet, so the id is still its own.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Kills it (SIGKILL) with all processes below it, and waits until it is gone.
    pub fn kill(&mut self) {
        let below = descendants(self.pid());
        self.signal(Signal::KILL);
        for pid in below {
            pid.kill();
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }

    /// Kills all processes below it; itself goes on.
    pub fn kill_descendants(&self) {
        for pid in descendants(self.pid()) {
            pid.kill();
        }
    }

    /// All processes below it that run.
    pub fn descendants(&self) -> Vec<ProcessId> {
        descendants(self.pid()).into_iter().filter(|process| process.is_alive()).collect()
    }

    /// Whether processes run below it. Ended ones that nobody has waited for do not count.
    pub fn has_descendants(&self) -> bool {
        !self.descendants().is_empty()
    }

    /// Gives the process up: it goes on when this value, and the whole test process, are gone.
    pub fn leave_running(&mut self) {
        self.child = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// A process named so that a later process with the same number is not mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// The number.
    pub pid: u32,
    /// Its start, in clock ticks since boot.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: stat(pid)?.started })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// This user's processes whose working directory is this one or below it.
    pub fn working_in(directory: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let inside = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|current| current.starts_with(directory))
        };
        pids.filter(inside).filter_map(Self::of).collect()
    }

    /// Its command line, the program first; empty when it has ended.
    pub fn arguments(self) -> Vec<String> {
        let bytes = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// Kills it if it still runs.
    pub fn kill(self) {
        let number = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = number.filter(|_| self.is_alive()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Kills it and all processes below it.
    pub fn kill_tree(self) {
        let below = if self.is_alive() { descendants(self.pid) } else { Vec::new() };
        self.kill();
        for pid in below {
            pid.kill();
        }
    }
}

/// A program of this workspace: beside this executable, or one directory up, as tests lie in `deps/`.
pub(crate) fn built_program(name: &str, package: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().doing(|| "find this executable")?;
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    beside.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let own = own.display();
        Failure::new(format!("there is no {name} near {own}; run `cargo build -p {package}`"))
    })
}

fn command(launch: &Launch) -> Command {
    // Neither wrapper forks, so the child's pid is the program's.
    let mut command = Command::new("setsid");
    if launch.lifetime == Lifetime::Owned {
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
    }
    command
        .arg(&launch.program)
        .args(&launch.arguments)
        .current_dir(&launch.directory)
        .envs(&launch.environment);
    command
}

/// Starts the child from the one thread that lives as long as this process.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Who ordered it may be gone; the child is then killed with the answer.
                if let Err(unwanted) = answer.send(command.spawn())
                    && let Ok(mut child) = unwanted.0
                {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        });
        orders
    });
    let (answer, result) = channel();
    starter.send((command, answer)).map_err(|gone| std::io::Error::other(gone.to_string()))?;
    result.recv().map_err(std::io::Error::other)?
}

struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

/// `/proc/PID/stat`; the name in it may hold anything, so fields are counted from its last parenthesis.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// All processes below this one.
fn descendants(root: u32) -> Vec<ProcessId> {
    let mut children: BTreeMap<u32, Vec<ProcessId>> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(stat) = stat(pid) else { continue };
        children.entry(stat.parent).or_default().push(ProcessId { pid, started: stat.started });
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            open.push(child.pid);
            found.push(child);
        }
    }
    found
}

fn read_from(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Launch {
        Launch {
            name: "a shell".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            directory: directory.to_owned(),
            environment: BTreeMap::new(),
            log: directory.join("log"),
            lifetime: Lifetime::Owned,
        }
    }

    async fn printed(process: &mut Process, text: &str) {
        wait_for("the shell prints", Duration::from_secs(20), async || match process.log() {
            log if log.contains(text) => Probe::Ready(()),
            log => Probe::NotYet(log),
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn drop_ends_the_whole_tree() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Process::start(&shell("sleep 300 & echo $!; wait", directory.path())).unwrap();
        printed(&mut process, "\n").await;
        let below = ProcessId::of(process.log().trim().parse().unwrap()).unwrap();
        let itself = ProcessId::of(process.pid()).unwrap();
        assert!(below.is_alive() && itself.is_alive());
        drop(process);
        assert!(!itself.is_alive());
        wait_for("the inner process is gone", Duration::from_secs(20), async || {
            if below.is_alive() { Probe::NotYet("alive".to_owned()) } else { Probe::Ready(()) }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn outlives_the_thread_that_asked_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let launch = shell("echo up; exec sleep 300", directory.path());
        let mut process = std::thread::spawn(move || Process::start(&launch).unwrap()).join().unwrap();
        printed(&mut process, "up").await;
        assert_eq!(process.ended(), None);
        process.stop(Duration::from_secs(20)).await.unwrap();
        assert!(process.ended().is_some());
    }

    #[tokio::test]
    async fn what_ignores_sigterm_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; echo up; while :; do sleep 1; done";
        let mut process = Process::start(&shell(script, directory.path())).unwrap();
        printed(&mut process, "up").await;
        assert!(process.stop(Duration::from_millis(200)).await.is_err());
        assert!(process.ended().is_some());
    }
}
