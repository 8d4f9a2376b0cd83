//! The built `cassy` binary as a server, and a client of its public interface.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cassy_api::proto::ClusterListingRequest;
use cassy_api::proto::cassy_client::CassyClient;
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};

use crate::process::built_program;
use crate::runtime::READY_LIMIT;
use crate::{Doing, Failure, Launch, Lifetime, Port, Probe, Process, wait_for};

const PREFIX: &str = "scalar.cassy.server.";
const STOP_LIMIT: Duration = Duration::from_secs(60);
const LOG_LIMIT: Duration = Duration::from_secs(120);
const LOST_PORT: &str = "Address already in use";
const BINARY_VARIABLE: &str = "CASSY_BIN";

/// A client of the public interface.
pub type Client = CassyClient<Channel>;

/// How a server is to be started.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Where its configuration, database and log go.
    pub directory: PathBuf,
    /// Its properties, without their common prefix and without `port`.
    pub properties: BTreeMap<String, String>,
    /// Additional environment.
    pub environment: BTreeMap<String, String>,
    /// Who ends it.
    pub lifetime: Lifetime,
}

impl ServerSettings {
    /// A server that lives in `directory` and has its database there.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        let database = format!("jdbc:sqlite:{}", directory.join("cassy.db").display());
        Self {
            properties: BTreeMap::from([("metadata_db_url".to_owned(), database)]),
            environment: BTreeMap::new(),
            lifetime: Lifetime::Owned,
            directory,
        }
    }

    /// Sets a property, named without the common prefix.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.properties.insert(key.to_owned(), value.into());
    }
}

/// A server. It keeps its directory and port over stop and start.
#[derive(Debug)]
pub struct CassyServer {
    settings: ServerSettings,
    port: Port,
    process: Process,
}

impl CassyServer {
    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// When it ends instead, with its log, or does not answer in time.
    pub async fn start(settings: ServerSettings) -> Result<Self, Failure> {
        std::fs::create_dir_all(&settings.directory)
            .doing(|| format!("make {}", settings.directory.display()))?;
        loop {
            let port = Port::reserve()?;
            let mut process = launch(&settings, &port)?;
            match ready(&mut process, &port).await {
                Ok(()) => return Ok(Self { settings, port, process }),
                Err(_) if process.log().contains(LOST_PORT) => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Starts the server again, on the same port, with the properties as they are now.
    ///
    /// # Errors
    /// As [`CassyServer::start`].
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        self.kill();
        self.process = launch(&self.settings, &self.port)?;
        ready(&mut self.process, &self.port).await
    }

    /// Ends it in order (SIGTERM).
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        self.process.stop(STOP_LIMIT).await
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops its threads where they are (SIGSTOP), as a suspended machine does, until [`CassyServer::thaw`].
    pub fn freeze(&mut self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// A client that connects when it is first used, and again when the connection is lost.
    ///
    /// # Errors
    /// When the address cannot be made.
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(CassyClient::new(endpoint(&self.port)?.connect_lazy()))
    }

    /// The port of its gRPC interface on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it has logged since it was (re)started.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until its log holds a text.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn logged(&self, text: &str) -> Result<(), Failure> {
        wait_for(format!("the server logs {text:?}"), LOG_LIMIT, async || match self.log() {
            log if log.contains(text) => Probe::Ready(()),
            _ => Probe::NotYet(self.process.log_tail()),
        })
        .await
    }

    /// Its settings: what is changed here holds from the next start on.
    pub fn settings_mut(&mut self) -> &mut ServerSettings {
        &mut self.settings
    }

    /// Its configuration file.
    pub fn configuration(&self) -> PathBuf {
        configuration(&self.settings)
    }

    pub(crate) fn leave_running(&mut self) {
        self.process.leave_running();
    }

    /// The binary that is tested: `CASSY_BIN`, else the one that was built with this executable.
    ///
    /// # Errors
    /// When it was not built.
    pub fn binary() -> Result<PathBuf, Failure> {
        if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
            return Ok(path.into());
        }
        built_program("cassy", "cassy")
    }
}

fn configuration(settings: &ServerSettings) -> PathBuf {
    settings.directory.join("cassy.properties")
}

fn launch(settings: &ServerSettings, port: &Port) -> Result<Process, Failure> {
    let file = configuration(settings);
    let mut text = format!("{PREFIX}port={port}\n");
    for (key, value) in &settings.properties {
        text.push_str(&format!("{PREFIX}{key}={}\n", escaped(value)));
    }
    std::fs::write(&file, text).doing(|| format!("write {}", file.display()))?;
    Process::start(&Launch {
        name: "cassy server".to_owned(),
        program: CassyServer::binary()?,
        arguments: vec!["server".into(), "--config".into(), file.into()],
        directory: settings.directory.clone(),
        environment: settings.environment.clone(),
        log: log_path(&settings.directory),
        lifetime: settings.lifetime,
    })
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("server.log")
}

/// A value as a Java properties file takes it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n")
}

fn endpoint(port: &Port) -> Result<Endpoint, Failure> {
    Endpoint::from_shared(format!("http://127.0.0.1:{port}")).doing(|| "make the server's address")
}

async fn ready(process: &mut Process, port: &Port) -> Result<(), Failure> {
    let endpoint = endpoint(port)?;
    let mut client = CassyClient::new(endpoint.connect_lazy());
    wait_for("the server answers", READY_LIMIT, async || {
        if let Some(status) = process.ended() {
            return Probe::Broken(Failure::new(format!(
                "the server ended while it started ({status}); its log ends with\n{}",
                process.log_tail()
            )));
        }
        match client.list_clusters(ClusterListingRequest::default()).await {
            Ok(_) => Probe::Ready(()),
            Err(status) => Probe::NotYet(format!("{status}; its log ends with\n{}", process.log_tail())),
        }
    })
    .await
}
