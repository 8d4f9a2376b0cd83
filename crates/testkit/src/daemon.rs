//! The process of a node, real or recorded: started until it is ready, ended in order or at once.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::seat::Seat;
use crate::{Failure, Process, cassandra_files};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Daemon {
    process: Option<Process>,
    /// Once it has run, its ports are part of its identity.
    ran: bool,
}

impl Daemon {
    /// Starts it and waits until it is ready; one that runs is left alone. Where somebody else has taken a port before
    /// the first start, other ports are tried: the log then holds one of the `lost_port` signs.
    pub(crate) async fn start(
        &mut self,
        seat: &mut Seat,
        lost_port: &[&str],
        launch: impl Fn(&Seat) -> Result<Process, Failure>,
        ready: impl AsyncFn(&mut Process, &Seat) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.is_running() {
            return Ok(());
        }
        loop {
            let process = self.process.insert(launch(seat)?);
            let started = ready(process, seat).await;
            let log = process.log();
            match started {
                Ok(()) => {
                    self.ran = true;
                    return Ok(());
                }
                Err(failure) => {
                    process.kill();
                    let lost = !self.ran && lost_port.iter().any(|sign| log.contains(sign));
                    if !lost || !seat.draw_ports_again()? {
                        return Err(failure);
                    }
                }
            }
        }
    }

    /// Ends it in order (SIGTERM) and waits for it.
    pub(crate) async fn stop(&mut self, limit: Duration) -> Result<(), Failure> {
        match &mut self.process {
            Some(process) => process.stop(limit).await,
            None => Ok(()),
        }
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Empties these directories, which a running node would not survive.
    pub(crate) fn wipe(&mut self, directories: &[PathBuf]) -> Result<(), Failure> {
        if self.is_running() {
            return Err(Failure::new("the node runs; stop it before its files are removed"));
        }
        directories.iter().try_for_each(|directory| cassandra_files::empty(directory))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// What the last run logged, also one that did not get ready.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    pub(crate) fn leave_running(&mut self) {
        if let Some(process) = &mut self.process {
            process.leave_running();
        }
    }
}
