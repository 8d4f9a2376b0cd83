//! The handle of a recorded node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::orders::{Order, Orders};
use super::process::{CACHES, COMMIT_LOG, DATA, JMX_PORT, LISTEN, NODE, READY_LINE, SCHEMAS};
use super::recording::Recording;
use super::tables;
use crate::cassandra_files::{self, Places, Settings};
use crate::daemon::Daemon;
use crate::process::built_program;
use crate::seat::Seat;
use crate::{CassandraVersion, Doing, Failure, Launch, Lifetime, Probe, Process, wait_for};

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
            seat: Seat::on_loopback()?,
            daemon: Daemon::default(),
        };
        for directory in node.own_directories() {
            std::fs::create_dir_all(&directory).doing(|| format!("make {}", directory.display()))?;
        }
        node.copy_recording()?;
        Ok(node)
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
    seat: Seat,
    daemon: Daemon,
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
        let (built, cluster_name) = (&self.built, self.cluster_name.as_str());
        let launched = |seat: &Seat| launch(built, cluster_name, seat);
        self.daemon.start(&mut self.seat, &[LOST_PORT], launched, ready).await
    }

    /// Ends the node (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it did not end in time and was killed.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        self.daemon.stop(STOP_LIMIT).await
    }

    /// Ends the node at once (SIGKILL).
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Removes data, commit log, hints, caches, change-data logs. The directories themselves stay.
    ///
    /// # Errors
    /// When the node runs, or a file cannot be removed.
    pub fn wipe(&mut self) -> Result<(), Failure> {
        let directories = self.own_directories();
        self.daemon.wipe(&directories)
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
        self.daemon.is_running()
    }

    /// What the last run logged: a line for each call.
    pub fn log(&self) -> String {
        self.daemon.log()
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
        self.seat.jmx_port()
    }

    /// Its process, running or ended, once it has been started.
    pub fn process(&self) -> Option<&Process> {
        self.daemon.process()
    }

    pub(crate) fn leave_running(&mut self) {
        self.daemon.leave_running();
    }

    fn places(&self) -> Places {
        Places::new(&self.built.directory)
    }
}

fn launch(built: &RecordedBuilder, cluster_name: &str, seat: &Seat) -> Result<Process, Failure> {
    let places = Places::new(&built.directory);
    let settings = Settings {
        version: CassandraVersion::default(),
        cluster_name,
        seat,
        membership: None,
        data_directories: 1,
        extra: &BTreeMap::new(),
    };
    cassandra_files::write(&places, &settings)?;
    Process::start(&Launch {
        name: format!("the recorded node in {}", built.directory.display()),
        program: built_program(PROGRAM, "cassy-testkit")?,
        arguments: arguments(&built.directory, &places, seat).into_iter().map(Into::into).collect(),
        directory: built.directory.clone(),
        environment: BTreeMap::new(),
        log: places.log,
        lifetime: built.lifetime,
    })
}

/// Cassandra's own, by which an agent finds it, and the fake's.
fn arguments(directory: &Path, places: &Places, seat: &Seat) -> Vec<String> {
    let mut arguments = vec![
        format!("-Dcassandra.config=file://{}", places.yaml.display()),
        format!("-Dcassandra.storagedir={}", directory.display()),
        format!("{JMX_PORT}{}", seat.jmx_port()),
        format!("{NODE}{}", directory.display()),
        format!("{COMMIT_LOG}{}", places.commitlog.display()),
        format!("{CACHES}{}", places.caches.display()),
        format!("{LISTEN}{}", seat.storage_port()),
        format!("{LISTEN}{}", seat.native_port()),
    ];
    arguments.extend(places.data(1).iter().map(|data| format!("{DATA}{}", data.display())));
    arguments.push("org.apache.cassandra.service.CassandraDaemon".to_owned());
    arguments
}

async fn ready(process: &mut Process, _seat: &Seat) -> Result<(), Failure> {
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
