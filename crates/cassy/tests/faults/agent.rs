//! The agent's process: found by its executable, which only this world's server has put there, and stopped at an
//! instant of the test's choice.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cassy_testkit::{Doing, Failure, ProcessId};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

const LIMIT: Duration = Duration::from_secs(60);

/// An agent. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Agent(ProcessId);

impl Agent {
    /// The agents whose executable lies below this directory.
    pub(crate) fn running_from(directory: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(directory))
        };
        pids.filter(ours).filter_map(ProcessId::of).map(Self).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.0.is_alive()
    }

    /// Stops it, whatever it does, until [`Agent::go_on`].
    fn stop(&self) -> Result<(), Failure> {
        self.signal(Signal::STOP)?;
        let deadline = Instant::now() + LIMIT;
        while !self.is_stopped() {
            if Instant::now() > deadline || !self.is_alive() {
                return Err(Failure::new("the agent was not stopped"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    pub(crate) fn go_on(&self) {
        // One that has ended needs nothing.
        let _ = self.signal(Signal::CONT);
    }

    /// It may have so many more files open than it has now, at most; `None` lifts that.
    pub(crate) fn limit_open_files(&self, more: Option<u64>) -> Result<(), Failure> {
        let open =
            std::fs::read_dir(format!("/proc/{}/fd", self.pid())).doing(|| "list the agent's files")?;
        let current = more.map_or(1024, |more| open.count() as u64 + more);
        // The hard limit stays above, so that it can be lifted.
        let limit = Rlimit { current: Some(current), maximum: Some(1024) };
        prlimit(Some(self.raw()?), Resource::Nofile, limit).doing(|| "limit the agent's open files")?;
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", self.pid())) else { return false };
        let state = |path: PathBuf| {
            let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
        };
        // A thread that has just ended has no state any more.
        tasks.flatten().all(|task| matches!(state(task.path()), Some('T' | 'Z') | None))
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        if !self.is_alive() {
            return Err(Failure::new("the agent has ended"));
        }
        kill_process(self.raw()?, signal).doing(|| "signal the agent")
    }

    fn raw(&self) -> Result<Pid, Failure> {
        let number = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        number.ok_or_else(|| Failure::new("the agent has no process id"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// Looks without a pause, as a small job takes milliseconds, and stops the agent as soon as it has been seen.
pub(crate) async fn ambush(
    agents: PathBuf,
    what: &'static str,
    seen: Box<dyn Fn() -> bool + Send>,
) -> Result<Agent, Failure> {
    let watched = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            // A process that is just being started, or ends, may be seen for a moment only.
            if seen()
                && let Some(agent) = Agent::running_from(&agents).pop()
                && agent.stop().is_ok()
            {
                return Ok(agent);
            }
            std::thread::yield_now();
        }
        Err(Failure::new(format!("{what} and an agent runs: not within {LIMIT:?}")))
    });
    watched.await.doing(|| "watch")?
}
