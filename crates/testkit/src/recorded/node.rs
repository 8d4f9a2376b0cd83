//! The handle of a recorded node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::orders::{Order, Orders};
use super::process::{CACHES, COMMIT_LOG, DATA, JMX_PORT, LISTEN, NODE, READY_LINE, SCHEMAS};
use super::recording::Recording;
use super::tables;
use crate::cassandra_files::{self, Places, Settings};
use crate::process::built_program;
use crate::{Doing, Failure, Launch, Lifetime, Port, Probe, Process, wait_for};

const PROGRAM: &str = "recorded-node";
const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const LOST_PORT: &str = "Address already in use";

/// How a recorded node is to be made.
#[derive(Debug)]
pub struct RecordedBuilder {
    recording: Recording,
    directory: PathBuf,
    lifetime: Lifetime,
}

impl RecordedBuilder {
    /// Who ends the node.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Reserves ports, makes the directories and copies the recording. Nothing is started.
    ///
    /// # Errors
    /// When a file cannot be written or no port is free.
    pub fn build(self) -> Result<RecordedNode, Failure> {
        let node = RecordedNode {
            cluster_name: self.recording.identity()?.cluster_name,
            orders: Orders::of(&self.directory),
            built: self,
            ports: Ports::reserve()?,
            process: None,
            ran: false,
        };
        for directory in node.own_directories() {
            std::fs::create_dir_all(&directory).doing(|| format!("make {}", directory.display()))?;
        }
        node.copy_recording()?;
        Ok(node)
    }
}

#[derive(Debug)]
struct Ports {
    storage: Port,
    native: Port,
    jmx: Port,
}

impl Ports {
    fn reserve() -> Result<Self, Failure> {
        Ok(Self { storage: Port::reserve()?, native: Port::reserve()?, jmx: Port::reserve()? })
    }
}

/// A process that stands in for Cassandra: Cassy's server and agent take it for one, as it answers JMX, has its command
/// line, its configuration and its files. It is a fake: it knows no CQL, and writes nothing but snapshots. Starts in
/// milliseconds, and misbehaves on [`Order`].
#[derive(Debug)]
pub struct RecordedNode {
    built: RecordedBuilder,
    cluster_name: String,
    orders: Orders,
    ports: Ports,
    process: Option<Process>,
    /// Once it has run, its ports are part of its identity.
    ran: bool,
}

impl RecordedNode {
    /// A node that lives in `directory`, with a copy of the recording.
    pub fn builder(recording: &Recording, directory: impl Into<PathBuf>) -> RecordedBuilder {
        RecordedBuilder {
            recording: recording.clone(),
            directory: directory.into(),
            lifetime: Lifetime::Owned,
        }
    }

    /// Starts the node and waits until it listens. A node that runs is left alone.
    ///
    /// # Errors
    /// When it ends instead, with its log: as Cassandra it refuses to start where a restore is unfinished.
    pub async fn start(&mut self) -> Result<(), Failure> {
        if self.is_running() {
            return Ok(());
        }
        loop {
            let mut process = self.launch()?;
            let started = ready(&mut process).await;
            let lost_port = process.log().contains(LOST_PORT);
            self.process = Some(process);
            match started {
                Ok(()) => {
                    self.ran = true;
                    return Ok(());
                }
                Err(_) if !self.ran && lost_port => self.ports = Ports::reserve()?,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Ends the node (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it did not end in time and was killed.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        match &mut self.process {
            Some(process) => process.stop(STOP_LIMIT).await,
            None => Ok(()),
        }
    }

    /// Ends the node at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Removes data, commit log, hints, caches, change-data logs. The directories themselves stay.
    ///
    /// # Errors
    /// When the node runs, or a file cannot be removed.
    pub fn wipe(&mut self) -> Result<(), Failure> {
        if self.is_running() {
            return Err(Failure::new("the node runs; stop it before its files are removed"));
        }
        self.own_directories().iter().try_for_each(|directory| cassandra_files::empty(directory))
    }

    /// Copies the recording to the data directory, which must be empty.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn copy_recording(&self) -> Result<(), Failure> {
        self.built.recording.copy_to(&self.built.directory, &self.places().data(1)[0])
    }

    /// Takes an operator's snapshot, as the running node would: what a backup must hold.
    ///
    /// # Errors
    /// When a file cannot be linked.
    pub fn snapshot(&self, tag: &str) -> Result<(), Failure> {
        let schemas = self.built.directory.join(SCHEMAS);
        let tables = tables::list(&self.data_directories()).doing(|| "list the tables")?;
        let mut taken = tables.iter().map(|table| table.take_snapshot(tag, &schemas));
        taken.try_for_each(|taken| taken).doing(|| format!("take the snapshot {tag}"))
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// What the last run logged: a line for each call.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// From now on the operation or attribute of this name is answered as ordered.
    ///
    /// # Errors
    /// When the order cannot be written.
    pub fn order(&self, operation: &str, order: &Order) -> Result<(), Failure> {
        self.orders.give(operation, order).doing(|| format!("order {operation}"))
    }

    /// Lifts an order. A call that hangs goes on.
    ///
    /// # Errors
    /// When the order cannot be removed.
    pub fn lift(&self, operation: &str) -> Result<(), Failure> {
        self.orders.lift(operation).doing(|| format!("lift the order for {operation}"))
    }

    /// Waits until a call hangs in this operation.
    ///
    /// # Errors
    /// When none does in time.
    pub async fn hangs_in(&self, operation: &str) -> Result<(), Failure> {
        wait_for(format!("a call of {operation} hangs"), READY_LIMIT, async || {
            if self.orders.holds(operation) { Probe::Ready(()) } else { Probe::NotYet(self.log()) }
        })
        .await
    }

    /// The data directories.
    pub fn data_directories(&self) -> Vec<PathBuf> {
        self.places().data(1)
    }

    /// All directories that Cassandra writes to.
    pub fn own_directories(&self) -> Vec<PathBuf> {
        let places = self.places();
        let mut all = places.data(1);
        all.extend([places.commitlog, places.hints, places.caches, places.cdc]);
        all
    }

    /// Where its cassandra.yaml is, from the first start on.
    pub fn yaml_path(&self) -> PathBuf {
        self.places().yaml
    }

    /// The cluster's name.
    pub fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    /// The port of JMX's registry; its objects are on another, random port.
    pub fn jmx_port(&self) -> u16 {
        self.ports.jmx.number()
    }

    /// Its process, running or ended, once it has been started.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    pub(crate) fn leave_running(&mut self) {
        if let Some(process) = &mut self.process {
            process.leave_running();
        }
    }

    fn places(&self) -> Places {
        Places::new(&self.built.directory)
    }

    fn launch(&self) -> Result<Process, Failure> {
        let places = self.places();
        let settings = Settings {
            cluster_name: &self.cluster_name,
            storage_port: self.ports.storage.number(),
            native_port: self.ports.native.number(),
            data_directories: 1,
            extra: &BTreeMap::new(),
        };
        cassandra_files::write(&places, &settings)?;
        Process::start(&Launch {
            name: format!("the recorded node in {}", self.built.directory.display()),
            program: built_program(PROGRAM, "cassy-testkit")?,
            arguments: self.arguments(&places).into_iter().map(Into::into).collect(),
            directory: self.built.directory.clone(),
            environment: BTreeMap::new(),
            log: places.log,
            lifetime: self.built.lifetime,
        })
    }

    /// Cassandra's own, by which an agent finds it, and the fake's.
    fn arguments(&self, places: &Places) -> Vec<String> {
        let mut arguments = vec![
            format!("-Dcassandra.config=file://{}", places.yaml.display()),
            format!("-Dcassandra.storagedir={}", self.built.directory.display()),
            format!("{JMX_PORT}{}", self.ports.jmx),
            format!("{NODE}{}", self.built.directory.display()),
            format!("{COMMIT_LOG}{}", places.commitlog.display()),
            format!("{CACHES}{}", places.caches.display()),
            format!("{LISTEN}{}", self.ports.storage),
            format!("{LISTEN}{}", self.ports.native),
        ];
        arguments.extend(places.data(1).iter().map(|data| format!("{DATA}{}", data.display())));
        arguments.push("org.apache.cassandra.service.CassandraDaemon".to_owned());
        arguments
    }
}

async fn ready(process: &mut Process) -> Result<(), Failure> {
    wait_for("the recorded node is ready", READY_LIMIT, async || {
        if let Some(status) = process.ended() {
            let log = process.log_tail();
            return Probe::Broken(Failure::new(format!(
                "the recorded node ended while it started ({status}):\n{log}"
            )));
        }
        if process.log().contains(READY_LINE) {
            return Probe::Ready(());
        }
        Probe::NotYet(process.log_tail())
    })
    .await
}
