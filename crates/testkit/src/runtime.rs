//! Where the real things come from: Cassandra's jars from Maven Central, once; Java and sshd from the system.
//!
//! After the first run nothing here needs the network.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::{CassandraVersion, Doing, Failure, Probe, java, process::tail, wait_for};

const FETCH_PREFIX: &str = "fetching-";
const FETCH_LIMIT: Duration = Duration::from_secs(1_200);
const SKIP_VARIABLE: &str = "CASSY_TEST_NO_JVM";
const REQUIRE_VARIABLE: &str = "CASSY_TEST_REQUIRE";

/// The jars of one Cassandra version and the Java that it wants, ready to be started.
#[derive(Debug, Clone)]
pub struct Runtime {
    version: CassandraVersion,
    java: PathBuf,
    tools_java: PathBuf,
    jars: PathBuf,
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
        std::fs::create_dir_all(&cache).doing(|| format!("make {}", cache.display()))?;
        let jars = cache.join(format!("cassandra-{}", version.release()));
        if !jars.is_dir() {
            fetch_jars(version, &cache, &jars).await?;
        }
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

    #[allow(clippy::print_stdout)]
    async fn prepared_or_skip(version: Result<CassandraVersion, Failure>) -> Option<Self> {
        if is_set(SKIP_VARIABLE) {
            println!("left out: {SKIP_VARIABLE} is set");
            return None;
        }
        let prepared = async { Self::prepare(version?).await };
        match prepared.await {
            Ok(runtime) => Some(runtime),
            Err(failure) => {
                left_out(&failure.to_string());
                None
            }
        }
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
        let entries = std::fs::read_dir(&self.jars).doing(|| format!("list {}", self.jars.display()))?;
        let mut jars: Vec<String> = entries
            .flatten()
            .map(|entry| entry.path().to_string_lossy().into_owned())
            .filter(|path| path.ends_with(".jar"))
            .collect();
        jars.sort();
        Ok(jars.join(":"))
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

/// Says why a test is left out; where nothing may be missing, the test fails.
#[allow(clippy::print_stdout)]
pub(crate) fn left_out(why: &str) {
    assert!(!is_set(REQUIRE_VARIABLE), "{why}");
    println!("left out: {why}");
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}

/// `CASSY_TEST_CACHE`, else the user's cache directory.
pub(crate) fn cache_directory() -> Result<PathBuf, Failure> {
    let from =
        |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("CASSY_TEST_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("cassy-test")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/cassy-test")))
        .ok_or_else(|| Failure::new("no place for Cassandra's jars: set HOME or CASSY_TEST_CACHE"))
}

/// One fetches, all others wait for it; a fetch that was cut short leaves nothing that looks whole.
async fn fetch_jars(version: CassandraVersion, cache: &Path, jars: &Path) -> Result<(), Failure> {
    let _lock = lock(&cache.join("lock")).await?;
    if jars.is_dir() {
        return Ok(());
    }
    remove_cut_fetches(cache)?;
    let part = tempfile::Builder::new()
        .prefix(FETCH_PREFIX)
        .tempdir_in(cache)
        .doing(|| format!("make a directory in {}", cache.display()))?;
    let lib = part.path().join("lib");
    run_maven(version, part.path(), &lib).await?;
    let cassandra = lib.join(format!("cassandra-all-{}.jar", version.release()));
    if !cassandra.is_file() {
        return Err(Failure::new(format!("Maven succeeded, but {} is not there", cassandra.display())));
    }
    std::fs::rename(&lib, jars).doing(|| format!("move the jars to {}", jars.display()))
}

/// The lock ends with the file, or with the process.
async fn lock(path: &Path) -> Result<File, Failure> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.doing(|| format!("open {}", path.display()))?;
    wait_for("another run fetches Cassandra's jars", FETCH_LIMIT, async || match file.try_lock() {
        Ok(()) => Probe::Ready(()),
        Err(TryLockError::WouldBlock) => Probe::NotYet(format!("{} is locked", path.display())),
        Err(TryLockError::Error(error)) => {
            Probe::Broken(Failure::new(format!("lock {}: {error}", path.display())))
        }
    })
    .await?;
    Ok(file)
}

/// Called with the lock held, so none of them is under way.
fn remove_cut_fetches(cache: &Path) -> Result<(), Failure> {
    let entries = std::fs::read_dir(cache).doing(|| format!("list {}", cache.display()))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(FETCH_PREFIX) {
            std::fs::remove_dir_all(entry.path()).doing(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

async fn run_maven(version: CassandraVersion, directory: &Path, lib: &Path) -> Result<(), Failure> {
    let pom = directory.join("pom.xml");
    std::fs::write(&pom, pom_text(version)).doing(|| format!("write {}", pom.display()))?;
    let output = tokio::process::Command::new("mvn")
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", lib.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .doing(|| "run mvn, to fetch Cassandra's jars (Debian's package is `maven`)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Err(Failure::new(format!(
        "Maven could not fetch Cassandra {} ({}); the first run needs the network:\n{}",
        version.release(),
        output.status,
        tail(&said, 15)
    )))
}

fn pom_text(version: CassandraVersion) -> String {
    let dependency = |artifact: &&str| {
        format!(
            "    <dependency>
      <groupId>org.apache.cassandra</groupId>
      <artifactId>{artifact}</artifactId>
      <version>{}</version>
    </dependency>
",
            version.release()
        )
    };
    let dependencies: String = version.artifacts().iter().map(dependency).collect();
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>cassy.test</groupId>
  <artifactId>cassandra-runtime</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}  </dependencies>
</project>
"#
    )
}

/// How long any service of the kit may take to become ready: far more than it needs, as machines stall.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(240);
