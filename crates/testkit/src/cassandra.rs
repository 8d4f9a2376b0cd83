//! A real, one-node Cassandra on 127.0.0.1, with the stock local JMX.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cassy_cassandra::{Deadlines, Keyspaces, NodeSession, TcpDialer};
use tokio::net::TcpStream;

use crate::runtime::READY_LIMIT;
use crate::{Doing, Failure, Launch, Lifetime, Port, Probe, Process, Runtime, cassandra_files, wait_for};

const STOP_LIMIT: Duration = Duration::from_secs(90);
const READY_LINE: &str = "Starting listening for CQL clients";
const LOST_PORT: [&str; 3] = ["Address already in use", "BindException", "is in use by another process"];

/// How a node is to be made.
#[derive(Debug)]
pub struct CassandraBuilder {
    runtime: Runtime,
    directory: PathBuf,
    cluster_name: String,
    data_directories: usize,
    yaml: BTreeMap<String, String>,
    jvm: Vec<String>,
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

    /// Who ends the node.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Reserves ports and makes the directories. Nothing is started.
    ///
    /// # Errors
    /// When the directories cannot be made or no port is free.
    pub fn build(self) -> Result<Cassandra, Failure> {
        let node = Cassandra { ports: Ports::reserve()?, built: self, process: None, ran: false };
        for directory in node.own_directories() {
            std::fs::create_dir_all(&directory).doing(|| format!("make {}", directory.display()))?;
        }
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

/// One node. It keeps its directories and ports over stop and start.
#[derive(Debug)]
pub struct Cassandra {
    built: CassandraBuilder,
    ports: Ports,
    process: Option<Process>,
    /// Once it has run, its ports are part of its identity.
    ran: bool,
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
            lifetime: Lifetime::Owned,
        }
    }

    /// Starts the node and waits until it answers CQL. A node that runs is left alone.
    ///
    /// # Errors
    /// When Cassandra ends, with the last lines of its log (it refuses to start on damaged data, for one), or when it
    /// is not ready in time.
    pub async fn start(&mut self) -> Result<(), Failure> {
        if self.is_running() {
            return Ok(());
        }
        loop {
            let mut process = self.launch()?;
            match ready(&mut process, self.native_port()).await {
                Ok(()) => {
                    self.process = Some(process);
                    self.ran = true;
                    return Ok(());
                }
                Err(_) if !self.ran && LOST_PORT.iter().any(|sign| process.log().contains(sign)) => {
                    self.ports = Ports::reserve()?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Ends the node in order (SIGTERM) and waits for it.
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

    /// Removes all that Cassandra has written: data, commit log, hints, caches, change-data logs. The directories
    /// themselves stay.
    ///
    /// # Errors
    /// When the node runs, or a file cannot be removed.
    pub fn wipe(&mut self) -> Result<(), Failure> {
        if self.is_running() {
            return Err(Failure::new("the node runs; stop it before its files are removed"));
        }
        self.own_directories().iter().try_for_each(|directory| cassandra_files::empty(directory))
    }

    /// Runs nodetool, a JVM of its own (seconds), and answers what it printed.
    ///
    /// # Errors
    /// When nodetool fails, with what it said.
    pub async fn nodetool(&self, arguments: &[&str]) -> Result<String, Failure> {
        let files = cassandra_files::Places::new(&self.built.directory);
        let output = tokio::process::Command::new(self.built.runtime.java())
            .args(["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(Runtime::module_flags())
            .arg(format!("-Dlogback.configurationFile={}", files.logback.display()))
            .arg(format!("-Dcassandra.storagedir={}", self.built.directory.display()))
            .arg("-cp")
            .arg(self.built.runtime.class_path()?)
            .args(["org.apache.cassandra.tools.NodeTool", "-h", "127.0.0.1", "-p"])
            .arg(self.jmx_port().to_string())
            .args(arguments)
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
        let mut session =
            NodeSession::connect(Arc::new(TcpDialer), "127.0.0.1", self.jmx_port(), Deadlines::default())
                .await
                .doing(|| "connect for JMX")?;
        session.flush(&names, READY_LIMIT).await.doing(|| "flush")
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// What the last run logged.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
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

    /// The cluster's name.
    pub fn cluster_name(&self) -> &str {
        &self.built.cluster_name
    }

    /// The port for CQL.
    pub fn native_port(&self) -> u16 {
        self.ports.native.number()
    }

    /// The port of JMX's registry; its objects are on another, random port.
    pub fn jmx_port(&self) -> u16 {
        self.ports.jmx.number()
    }

    /// Its process, running or ended, once it has been started.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// What starts it, as a shell command.
    ///
    /// # Errors
    /// When the jars cannot be listed.
    pub fn shell_command(&self) -> Result<String, Failure> {
        let arguments = self.arguments(&cassandra_files::Places::new(&self.built.directory))?;
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
        if let Some(process) = &mut self.process {
            process.leave_running();
        }
    }

    fn launch(&self) -> Result<Process, Failure> {
        let places = cassandra_files::Places::new(&self.built.directory);
        let settings = cassandra_files::Settings {
            cluster_name: &self.built.cluster_name,
            storage_port: self.ports.storage.number(),
            native_port: self.ports.native.number(),
            data_directories: self.built.data_directories,
            extra: &self.built.yaml,
        };
        cassandra_files::write(&places, &settings)?;
        Process::start(&Launch {
            name: format!("Cassandra in {}", self.built.directory.display()),
            program: self.built.runtime.java().to_owned(),
            arguments: self.arguments(&places)?,
            directory: self.built.directory.clone(),
            environment: BTreeMap::new(),
            log: places.log,
            lifetime: self.built.lifetime,
        })
    }

    fn arguments(&self, places: &cassandra_files::Places) -> Result<Vec<OsString>, Failure> {
        let mut flags: Vec<String> =
            MEMORY_FLAGS.iter().chain(&HASTE_FLAGS).map(|&flag| flag.to_owned()).collect();
        flags.extend(Runtime::module_flags());
        let root = self.built.directory.display();
        flags.extend([
            format!("-Dcassandra.config=file://{}", places.yaml.display()),
            format!("-Dcassandra.storagedir={root}"),
            format!("-Dcassandra.logdir={root}"),
            format!("-Djava.io.tmpdir={}", places.scratch.display()),
            format!("-Dlogback.configurationFile={}", places.logback.display()),
            format!("-Dcassandra.jmx.local.port={}", self.ports.jmx),
            "-Dcom.sun.management.jmxremote.authenticate=false".to_owned(),
        ]);
        flags.extend(self.built.jvm.iter().cloned());
        flags.extend(["-cp".to_owned(), self.built.runtime.class_path()?]);
        flags.push("org.apache.cassandra.service.CassandraDaemon".to_owned());
        Ok(flags.into_iter().map(OsString::from).collect())
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

/// A single node has nobody to wait for.
const HASTE_FLAGS: [&str; 7] = [
    "-Dcassandra-foreground=yes",
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=2000",
    "-Dcassandra.superuser_setup_delay_ms=0",
    "-Dcassandra.consistent.rangemovement=false",
    "-Djdk.attach.allowAttachSelf=true",
    "-Dio.netty.tryReflectionSetAccessible=true",
];

/// The line comes just before the port is bound, so the port is asked too; asked alone it could be another's.
async fn ready(process: &mut Process, port: u16) -> Result<(), Failure> {
    wait_for("Cassandra listens for CQL clients", READY_LIMIT, async || {
        let log = process.log();
        if let Some(status) = process.ended() {
            return Probe::Broken(Failure::new(format!(
                "Cassandra ended while it started ({status}); its log ends with\n{}",
                process.log_tail()
            )));
        }
        if log.contains(READY_LINE) && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            return Probe::Ready(());
        }
        Probe::NotYet(format!("its log ends with\n{}", process.log_tail()))
    })
    .await
}
