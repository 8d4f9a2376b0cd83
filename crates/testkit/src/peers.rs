//! Applications of others, as they are published: peers that this project has not written.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::jars::{Artifacts, Coordinates, Jars, cache_directory};
use crate::runtime::or_left_out;
use crate::{Doing, Failure, Launch, Lifetime, Probe, Process, java, wait_for};

/// The library by which applications implement the pause today, with the gRPC of Java that it brings along.
const SCALAR_ADMIN: Artifacts<'_> =
    Artifacts { wanted: &[("com.scalar-labs", "scalar-admin", "2.2.1"), PROTOBUF], managed: &[] };
/// The last ScalarDB Server: its published parts name versions of each other that were never published.
const SCALARDB_SERVER: Artifacts<'_> = Artifacts {
    wanted: &[("com.scalar-labs", "scalardb-server", "3.13.6"), PROTOBUF],
    managed: &[("com.scalar-labs", "scalardb", "3.13.1"), ("com.scalar-labs", "scalardb-rpc", "3.13.0")],
};
/// The version that their metadata leads to breaks CheckPaused.
const PROTOBUF: Coordinates = ("com.google.protobuf", "protobuf-java", "3.25.5");

const JAVA_MAJOR: u32 = 17;
const START_LIMIT: Duration = Duration::from_secs(120);

/// Jars of a peer, and the Java for them.
#[derive(Debug, Clone)]
pub struct Peers {
    java: PathBuf,
    jars: Jars,
}

/// A peer that runs.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    address: SocketAddr,
}

impl Peers {
    /// The library `scalar-admin`; `None`, with the reason printed, where the test is to be left out.
    pub async fn scalar_admin() -> Option<Self> {
        or_left_out(Self::of(SCALAR_ADMIN)).await
    }

    /// ScalarDB Server; `None`, with the reason printed, where the test is to be left out.
    pub async fn scalardb_server() -> Option<Self> {
        or_left_out(Self::of(SCALARDB_SERVER)).await
    }

    async fn of(artifacts: Artifacts<'_>) -> Result<Self, Failure> {
        Ok(Self { java: java::find(JAVA_MAJOR, &cache_directory()?)?, jars: Jars::fetch(artifacts).await? })
    }

    /// Runs a program of one source file over the library. It says `listening PORT`, of 127.0.0.1.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn source(&self, directory: &Path, source: &Path, arguments: &[&str]) -> Result<Peer, Failure> {
        let mut words: Vec<OsString> = vec![source.into()];
        words.extend(arguments.iter().map(OsString::from));
        let mut process = self.start(directory, "peer.log", words)?;
        let port = said(&mut process, |log| {
            let line = log.lines().find_map(|line| line.strip_prefix("listening "))?;
            line.trim().parse::<u16>().ok()
        });
        let port = port.await?;
        Ok(Peer { process, address: ([127, 0, 0, 1], port).into() })
    }

    /// Starts a ScalarDB Server over SQLite. It binds all interfaces: only in a network namespace.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn scalardb(&self, directory: &Path, port: u16) -> Result<Peer, Failure> {
        let config = directory.join("scalardb.properties");
        let text = format!(
            "scalar.db.storage=jdbc\nscalar.db.contact_points=jdbc:sqlite:{}\n\
             scalar.db.transaction_manager=consensus-commit\nscalar.db.server.port={port}\n\
             scalar.db.server.prometheus_exporter_port={}\n",
            directory.join("scalardb.db").display(),
            port + 1
        );
        std::fs::write(&config, text).doing(|| "write the configuration of ScalarDB Server")?;
        let words = vec!["com.scalar.db.server.ScalarDbServer".into(), "--config".into(), config.into()];
        let mut process = self.start(directory, "scalardb.log", words)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_for("ScalarDB Server listens", START_LIMIT, async || {
            if let Some(status) = process.ended() {
                return Probe::Broken(Failure::new(format!("it ended ({status}):\n{}", process.log_tail())));
            }
            match tokio::net::TcpStream::connect(address).await {
                Ok(_) => Probe::Ready(()),
                Err(error) => Probe::NotYet(format!("{error}; its log ends with\n{}", process.log_tail())),
            }
        })
        .await?;
        Ok(Peer { process, address })
    }

    fn start(&self, directory: &Path, log: &str, words: Vec<OsString>) -> Result<Process, Failure> {
        let mut arguments: Vec<OsString> =
            ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"].map(OsString::from).into();
        arguments.push(self.jars.class_path()?.into());
        arguments.extend(words);
        Process::start(&Launch {
            name: "a peer in Java".to_owned(),
            program: self.java.clone(),
            arguments,
            directory: directory.to_owned(),
            environment: Default::default(),
            log: directory.join(log),
            lifetime: Lifetime::Owned,
        })
    }
}

async fn said<T>(process: &mut Process, find: impl Fn(&str) -> Option<T>) -> Result<T, Failure> {
    wait_for("the peer listens", START_LIMIT, async || match (find(&process.log()), process.ended()) {
        (Some(found), _) => Probe::Ready(found),
        (None, Some(status)) => {
            Probe::Broken(Failure::new(format!("it ended ({status}):\n{}", process.log_tail())))
        }
        (None, None) => Probe::NotYet(process.log_tail()),
    })
    .await
}

impl Peer {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
