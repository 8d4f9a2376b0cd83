//! Where the real things come from: Cassandra's jars from Maven Central, once; Java and sshd from the system.
//!
//! After the first run nothing here needs the network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::jars::{Artifacts, Coordinates, Jars, cache_directory};
use crate::{CassandraVersion, Failure, java};

const SKIP_VARIABLE: &str = "CASSY_TEST_NO_JVM";
const REQUIRE_VARIABLE: &str = "CASSY_TEST_REQUIRE";

/// The jars of one Cassandra version and the Java that it wants, ready to be started.
#[derive(Debug, Clone)]
pub struct Runtime {
    version: CassandraVersion,
    java: PathBuf,
    tools_java: PathBuf,
    jars: Jars,
}

impl Runtime {
    /// Finds Java, and fetches the jars unless an earlier run has.
    ///
    /// # Errors
    /// When there is no such Java, no Maven, or Maven fails; the message says what to do.
    pub async fn prepare(version: CassandraVersion) -> Result<Self, Failure> {
        let cache = cache_directory()?;
        let java = java::find(version.java_major(), &cache)?;
        let tools_java = java::find(version.tools_java_major(), &cache)?;
        let of_version = |artifact: &&'static str| ("org.apache.cassandra", *artifact, version.release());
        let wanted: Vec<Coordinates> = version.artifacts().iter().map(of_version).collect();
        let jars = Jars::fetch(Artifacts { wanted: &wanted, managed: &[] }).await?;
        Ok(Self { version, java, tools_java, jars })
    }

    /// For the first line of a test that needs a JVM: `None`, with the reason printed, where the test is to be left
    /// out. `./test --fast` leaves such tests out; `./test` never does; a bare `cargo test` does when something is
    /// missing.
    ///
    /// # Panics
    /// When something is missing and `./test` runs.
    pub async fn or_skip() -> Option<Self> {
        Self::prepared_or_skip(CassandraVersion::of_tests()).await
    }

    /// The same for a test of one version, whichever the others run on.
    ///
    /// # Panics
    /// As [`Runtime::or_skip`].
    pub async fn of_or_skip(version: CassandraVersion) -> Option<Self> {
        Self::prepared_or_skip(Ok(version)).await
    }

    async fn prepared_or_skip(version: Result<CassandraVersion, Failure>) -> Option<Self> {
        or_left_out(async { Self::prepare(version?).await }).await
    }

    /// Which Cassandra this is.
    pub fn version(&self) -> CassandraVersion {
        self.version
    }

    /// The Java launcher.
    pub fn java(&self) -> &Path {
        &self.java
    }

    /// The Java launcher of its tools.
    pub(crate) fn tools_java(&self) -> &Path {
        &self.tools_java
    }

    /// The jars as a class path, sorted. No directory is in it.
    pub fn class_path(&self) -> Result<String, Failure> {
        self.jars.class_path()
    }

    /// What Cassandra needs of its Java: the modules it reaches into.
    pub(crate) fn module_flags(&self) -> Vec<String> {
        java::module_flags(self.version.java_major())
    }

    /// The same for its tools.
    pub(crate) fn tools_module_flags(&self) -> Vec<String> {
        java::module_flags(self.version.tools_java_major())
    }
}

/// What a test in Java needs: `None`, with the reason printed, where the test is to be left out, as
/// [`Runtime::or_skip`] says.
#[allow(clippy::print_stdout)]
pub(crate) async fn or_left_out<T>(prepared: impl Future<Output = Result<T, Failure>>) -> Option<T> {
    if is_set(SKIP_VARIABLE) {
        println!("left out: {SKIP_VARIABLE} is set");
        return None;
    }
    match prepared.await {
        Ok(runtime) => Some(runtime),
        Err(failure) => {
            left_out(&failure.to_string());
            None
        }
    }
}

/// Says why a test is left out; where nothing may be missing, the test fails.
#[allow(clippy::print_stdout)]
pub(crate) fn left_out(why: &str) {
    assert!(!is_set(REQUIRE_VARIABLE), "{why}");
    println!("left out: {why}");
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}

/// How long any service of the kit may take to become ready: far more than it needs, as machines stall.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(240);
