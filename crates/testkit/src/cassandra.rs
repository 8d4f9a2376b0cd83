//! One real node of Cassandra: alone on 127.0.0.1, or in a network namespace as a member of a cluster.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use cassy_cassandra::{Deadlines, Keyspaces, NodeSession};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::daemon::Daemon;
use crate::runtime::READY_LIMIT;
use crate::seat::Seat;
use crate::{
    CassandraVersion, Doing, Failure, Launch, Lifetime, Probe, Process, Runtime, cassandra_files, wait_for,
};

const STOP_LIMIT: Duration = Duration::from_secs(90);
const READY_LINE: &str = "Starting listening for CQL clients";
const LOST_PORT: [&str; 3] = ["Address already in use", "BindException", "is in use by another process"];

/// How JMX can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JmxAccess {
    /// As Cassandra comes: on the node's own 127.0.0.1, its objects on another, random port.
    #[default]
    Local,
    /// On the node's address, all on one port.
    Remote,
}

/// What a node knows of the cluster that it is a member of.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) seeds: Vec<Ipv4Addr>,
    pub(crate) datacenter: String,
}

/// How a node is to be made.
#[derive(Debug)]
pub struct CassandraBuilder {
    runtime: Runtime,
    directory: PathBuf,
    cluster_name: String,
    data_directories: usize,
    yaml: BTreeMap<String, String>,
    jvm: Vec<String>,
    jmx: JmxAccess,
    membership: Option<Membership>,
    lifetime: Lifetime,
}

impl CassandraBuilder {
    /// The cluster's name; `Test Cluster` without it.
    #[must_use]
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = name.into();
        self
    }

    /// How many data directories the node spreads its SSTables over.
    #[must_use]
    pub fn data_directories(mut self, count: usize) -> Self {
        self.data_directories = count;
        self
    }

    /// Sets a key of cassandra.yaml, over the kit's own.
    #[must_use]
    pub fn yaml(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.yaml.insert(key.into(), value.into());
        self
    }

    /// Adds a flag of the JVM.
    #[must_use]
    pub fn jvm(mut self, flag: impl Into<String>) -> Self {
        self.jvm.push(flag.into());
        self
    }

    /// How JMX can be reached.
    #[must_use]
    pub fn jmx(mut self, jmx: JmxAccess) -> Self {
        self.jmx = jmx;
        self
    }

    /// Who ends the node.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Makes it a member of a cluster of several nodes.
    #[must_use]
    pub(crate) fn member(mut self, membership: Membership) -> Self {
        self.membership = Some(membership);
        self
    }

    /// Reserves ports and makes the directories. Nothing is started.
    ///
    /// # Errors
    /// When the directories cannot be made or no port is free.
    pub fn build(self) -> Result<Cassandra, Failure> {
        self.build_at(Seat::on_loopback()?)
    }

    pub(crate) fn build_at(self, seat: Seat) -> Result<Cassandra, Failure> {
        let node = Cassandra { seat, built: self, daemon: Daemon::default() };
        for directory in node.own_directories() {
            std::fs::create_dir_all(&directory).doing(|| format!("make {}", directory.display()))?;
        }
        Ok(node)
    }
}

/// One node. It keeps its directories and ports over stop and start.
#[derive(Debug)]
pub struct Cassandra {
    built: CassandraBuilder,
    seat: Seat,
    daemon: Daemon,
}

impl Cassandra {
    /// A node that lives in `directory`.
    pub fn builder(runtime: &Runtime, directory: impl Into<PathBuf>) -> CassandraBuilder {
        CassandraBuilder {
            runtime: runtime.clone(),
            directory: directory.into(),
            cluster_name: "Test Cluster".to_owned(),
            data_directories: 1,
            yaml: BTreeMap::new(),
            jvm: Vec::new(),
            jmx: JmxAccess::Local,
            membership: None,
            lifetime: Lifetime::Owned,
        }
    }

    /// Starts the node and waits until it answers CQL. A node that runs is left alone.
    ///
    /// # Errors
    /// When Cassandra ends, with the last lines of its log (it refuses to start on damaged data, for one), or when it
    /// is not ready in time.
    pub async fn start(&mut self) -> Result<(), Failure> {
        let built = &self.built;
        let launched = |seat: &Seat| launch(built, seat);
        self.daemon.start(&mut self.seat, &LOST_PORT, launched, ready).await
    }

    /// Ends the node in order (SIGTERM) and waits for it.
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

    /// Stops its threads where they are (SIGSTOP), until [`Cassandra::thaw`].
    pub fn freeze(&mut self) {
        self.daemon.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&mut self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Removes all that Cassandra has written: data, commit log, hints, caches, change-data logs. The directories
    /// themselves stay.
    ///
    /// # Errors
    /// When the node runs, or a file cannot be removed.
    pub fn wipe(&mut self) -> Result<(), Failure> {
        let directories = self.own_directories();
        self.daemon.wipe(&directories)
    }

    /// Runs nodetool, a JVM of its own (seconds), and answers what it printed.
    ///
    /// # Errors
    /// When nodetool fails, with what it said.
    pub async fn nodetool(&self, arguments: &[&str]) -> Result<String, Failure> {
        let files = cassandra_files::Places::new(&self.built.directory);
        let mut words: Vec<String> =
            ["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned).into();
        words.extend(self.built.runtime.tools_module_flags());
        words.extend([
            format!("-Dlogback.configurationFile={}", files.logback.display()),
            format!("-Dcassandra.storagedir={}", self.built.directory.display()),
            "-cp".to_owned(),
            self.built.runtime.class_path()?,
            "org.apache.cassandra.tools.NodeTool".to_owned(),
        ]);
        words.extend(["-h".to_owned(), self.jmx_host(), "-p".to_owned(), self.jmx_port().to_string()]);
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        let words = words.into_iter().map(OsString::from).collect();
        let (program, words) = self.seat.command(self.built.runtime.tools_java().to_owned(), words);
        let output = tokio::process::Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .doing(|| "run nodetool")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!("nodetool {} ({}): {said}{complaint}", arguments.join(" "), output.status)))
    }

    /// Writes the memtables of these keyspaces, at least one, to SSTables. Over our own JMX client, as nodetool would
    /// take seconds; that it did flush is seen by the number of SSTables.
    ///
    /// # Errors
    /// When no keyspace is named, or Cassandra refuses.
    pub async fn flush(&self, keyspaces: &[&str]) -> Result<(), Failure> {
        let names = keyspaces.iter().map(|&name| name.to_owned()).collect();
        let names = Keyspaces::new(names).ok_or_else(|| Failure::new("flush: which keyspaces?"))?;
        self.jmx().await?.flush(&names, READY_LIMIT).await.doing(|| "flush")
    }

    /// A JMX session by our own client, from where the node is.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn jmx(&self) -> Result<NodeSession, Failure> {
        let (host, port) = (self.jmx_host(), self.jmx_port());
        NodeSession::connect(self.seat.dialer(), &host, port, Deadlines::default())
            .await
            .doing(|| format!("connect to {} for JMX", self.address()))
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.daemon.is_running()
    }

    /// What the last run logged, also one that did not get ready.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// The data directories.
    pub fn data_directories(&self) -> Vec<PathBuf> {
        cassandra_files::Places::new(&self.built.directory).data(self.built.data_directories)
    }

    /// The commit log's directory.
    pub fn commitlog_directory(&self) -> PathBuf {
        cassandra_files::Places::new(&self.built.directory).commitlog
    }

    /// The hints' directory.
    pub fn hints_directory(&self) -> PathBuf {
        cassandra_files::Places::new(&self.built.directory).hints
    }

    /// Where its cassandra.yaml is, from the first start on.
    pub fn yaml_path(&self) -> PathBuf {
        cassandra_files::Places::new(&self.built.directory).yaml
    }

    /// Sets a key of cassandra.yaml for the next start.
    pub fn set_yaml(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.built.yaml.insert(key.into(), value.into());
    }

    /// Changes the number of data directories, in the cassandra.yaml of the stopped node too. One that goes keeps its files.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn set_data_directories(&mut self, count: usize) -> Result<(), Failure> {
        self.built.data_directories = count;
        for directory in self.data_directories() {
            std::fs::create_dir_all(&directory).doing(|| format!("make {}", directory.display()))?;
        }
        write_files(&self.built, &self.seat).map(drop)
    }

    /// Which Cassandra it is.
    pub fn version(&self) -> CassandraVersion {
        self.built.runtime.version()
    }

    /// The cluster's name.
    pub fn cluster_name(&self) -> &str {
        &self.built.cluster_name
    }

    /// Where it listens, for other nodes and for clients.
    pub fn address(&self) -> Ipv4Addr {
        self.seat.address()
    }

    /// The port for CQL.
    pub fn native_port(&self) -> u16 {
        self.seat.native_port()
    }

    /// The port of JMX's registry.
    pub fn jmx_port(&self) -> u16 {
        self.seat.jmx_port()
    }

    /// Its process, running or ended, once it has been started.
    pub fn process(&self) -> Option<&Process> {
        self.daemon.process()
    }

    /// What starts it, as a shell command.
    ///
    /// # Errors
    /// When the jars cannot be listed.
    pub fn shell_command(&self) -> Result<String, Failure> {
        let arguments = arguments(&self.built, &self.seat)?;
        let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let mut words = vec![quoted(&self.built.runtime.java().to_string_lossy())];
        words.extend(arguments.iter().map(|word| quoted(&word.to_string_lossy())));
        Ok(words.join(" "))
    }

    /// All directories that Cassandra writes to.
    pub fn own_directories(&self) -> Vec<PathBuf> {
        let places = cassandra_files::Places::new(&self.built.directory);
        let mut all = places.data(self.built.data_directories);
        all.extend([places.commitlog, places.hints, places.caches, places.cdc]);
        all
    }

    pub(crate) fn leave_running(&mut self) {
        self.daemon.leave_running();
    }

    /// From its next start on it is elsewhere.
    pub(crate) fn move_to(&mut self, seat: Seat) {
        self.seat = seat;
    }

    fn jmx_host(&self) -> String {
        jmx_host(self.built.jmx, &self.seat).to_string()
    }
}

fn launch(built: &CassandraBuilder, seat: &Seat) -> Result<Process, Failure> {
    let places = write_files(built, seat)?;
    let (program, arguments) = seat.command(built.runtime.java().to_owned(), arguments(built, seat)?);
    Process::start(&Launch {
        name: format!("Cassandra in {}", built.directory.display()),
        program,
        arguments,
        directory: built.directory.clone(),
        environment: BTreeMap::new(),
        log: places.log,
        lifetime: built.lifetime,
    })
}

fn write_files(built: &CassandraBuilder, seat: &Seat) -> Result<cassandra_files::Places, Failure> {
    let places = cassandra_files::Places::new(&built.directory);
    let settings = cassandra_files::Settings {
        version: built.runtime.version(),
        cluster_name: &built.cluster_name,
        seat,
        membership: built.membership.as_ref(),
        data_directories: built.data_directories,
        extra: &built.yaml,
    };
    cassandra_files::write(&places, &settings)?;
    Ok(places)
}

fn arguments(built: &CassandraBuilder, seat: &Seat) -> Result<Vec<OsString>, Failure> {
    let places = cassandra_files::Places::new(&built.directory);
    let mut flags: Vec<String> =
        MEMORY_FLAGS.iter().chain(&HASTE_FLAGS).map(|&flag| flag.to_owned()).collect();
    flags.extend(built.runtime.module_flags());
    let root = built.directory.display();
    flags.extend([
        format!("-Dcassandra.config=file://{}", places.yaml.display()),
        format!("-Dcassandra.storagedir={root}"),
        format!("-Dcassandra.logdir={root}"),
        format!("-Djava.io.tmpdir={}", places.scratch.display()),
        format!("-Dlogback.configurationFile={}", places.logback.display()),
        "-Dcom.sun.management.jmxremote.authenticate=false".to_owned(),
    ]);
    let rack = || format!("-Dcassandra-rackdc.properties=file://{}", places.rack.display());
    flags.extend(built.membership.iter().map(|_| rack()));
    let jmx_port = seat.jmx_port();
    flags.extend(match built.jmx {
        JmxAccess::Local => vec![format!("-Dcassandra.jmx.local.port={jmx_port}")],
        JmxAccess::Remote => vec![
            format!("-Dcassandra.jmx.remote.port={jmx_port}"),
            format!("-Dcom.sun.management.jmxremote.rmi.port={jmx_port}"),
            "-Dcom.sun.management.jmxremote.ssl=false".to_owned(),
            format!("-Djava.rmi.server.hostname={}", seat.address()),
        ],
    });
    flags.extend(built.jvm.iter().cloned());
    flags.extend(["-cp".to_owned(), built.runtime.class_path()?]);
    flags.push("org.apache.cassandra.service.CassandraDaemon".to_owned());
    Ok(flags.into_iter().map(OsString::from).collect())
}

fn jmx_host(access: JmxAccess, seat: &Seat) -> Ipv4Addr {
    match access {
        JmxAccess::Local => Ipv4Addr::LOCALHOST,
        JmxAccess::Remote => seat.address(),
    }
}

/// Small enough for several nodes on a small machine; the plainest compiler and collector start fastest.
const MEMORY_FLAGS: [&str; 9] = [
    "-Xms256m",
    "-Xmx256m",
    "-Xss512k",
    "-XX:MaxDirectMemorySize=128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+PerfDisableSharedMem",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.net.preferIPv4Stack=true",
];

/// The kit waits for the other nodes itself.
const HASTE_FLAGS: [&str; 7] = [
    "-Dcassandra-foreground=yes",
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=2000",
    // Also between two tries, for as long as other nodes are down.
    "-Dcassandra.superuser_setup_delay_ms=500",
    "-Dcassandra.consistent.rangemovement=false",
    "-Djdk.attach.allowAttachSelf=true",
    "-Dio.netty.tryReflectionSetAccessible=true",
];

/// The line comes just before the port is bound, so the port is asked too; asked alone it could be another's.
async fn ready(process: &mut Process, seat: &Seat) -> Result<(), Failure> {
    wait_for("Cassandra listens for CQL clients", READY_LIMIT, async || {
        let log = process.log();
        if let Some(status) = process.ended() {
            return Probe::Broken(Failure::new(format!(
                "Cassandra ended while it started ({status}); its log ends with\n{}",
                process.log_tail()
            )));
        }
        if log.contains(READY_LINE) && TcpStream::connect((seat.address(), seat.native_port())).await.is_ok()
        {
            return Probe::Ready(());
        }
        Probe::NotYet(format!("its log ends with\n{}", process.log_tail()))
    })
    .await
}
