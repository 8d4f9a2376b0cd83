//! Where the real things come from: jars from Maven Central, once; Java 17 and sshd from the system.
//!
//! After the first run nothing here needs the network.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{Doing, Failure, Probe, process::tail, wait_for};

/// The Cassandra that tests run on.
pub const CASSANDRA_VERSION: &str = "5.0.9";
const FETCH_PREFIX: &str = "fetching-";
const FETCH_LIMIT: Duration = Duration::from_secs(1_200);
const JAVA_MAJOR: u32 = 17;
const SKIP_VARIABLE: &str = "CASSY_TEST_NO_JVM";
const REQUIRE_VARIABLE: &str = "CASSY_TEST_REQUIRE";

/// A Java and the jars of one Cassandra version, ready to be started.
#[derive(Debug, Clone)]
pub struct Runtime {
    java: PathBuf,
    jars: PathBuf,
}

impl Runtime {
    /// Finds Java, and fetches the jars unless an earlier run has.
    ///
    /// # Errors
    /// When there is no Java 17, no Maven, or Maven fails; the message says what to do.
    pub async fn prepare() -> Result<Self, Failure> {
        Self::of(&CASSANDRA).await
    }

    /// A Java and the jars of something else.
    ///
    /// # Errors
    /// As [`Runtime::prepare`].
    pub(crate) async fn of(artifacts: &Artifacts) -> Result<Self, Failure> {
        let java = find_java()?;
        let cache = cache_directory()?;
        std::fs::create_dir_all(&cache).doing(|| format!("make {}", cache.display()))?;
        let jars = cache.join(artifacts.directory());
        if !jars.is_dir() {
            fetch_jars(artifacts, &cache, &jars).await?;
        }
        Ok(Self { java, jars })
    }

    /// For the first line of a test that needs a JVM: `None`, with the reason printed, where the test is to be left
    /// out. `./test --fast` leaves such tests out; `./test` never does; a bare `cargo test` does when something is
    /// missing.
    ///
    /// # Panics
    /// When something is missing and `./test` runs.
    pub async fn or_skip() -> Option<Self> {
        Self::of_or_skip(&CASSANDRA).await
    }

    /// The same for the jars of something else.
    #[allow(clippy::print_stdout)]
    pub(crate) async fn of_or_skip(artifacts: &Artifacts) -> Option<Self> {
        if is_set(SKIP_VARIABLE) {
            println!("left out: {SKIP_VARIABLE} is set");
            return None;
        }
        match Self::of(artifacts).await {
            Ok(runtime) => Some(runtime),
            Err(failure) => {
                left_out(&failure.to_string());
                None
            }
        }
    }

    /// The Java launcher.
    pub fn java(&self) -> &Path {
        &self.java
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

    /// What every Java program of this Cassandra needs on Java 17: the modules it reaches into.
    pub fn module_flags() -> Vec<String> {
        let exports = EXPORTS.iter().map(|module| ("--add-exports", module));
        let opens = OPENS.iter().map(|module| ("--add-opens", module));
        exports
            .chain(opens)
            .flat_map(|(flag, module)| [flag.to_owned(), format!("{module}=ALL-UNNAMED")])
            .collect()
    }
}

/// What Maven is to fetch, and everything that it needs.
pub(crate) struct Artifacts {
    /// Group, artifact, version: the first is what it is about.
    pub(crate) wanted: &'static [(&'static str, &'static str, &'static str)],
    /// Versions that hold for what these need.
    pub(crate) managed: &'static [(&'static str, &'static str, &'static str)],
}

const CASSANDRA: Artifacts =
    Artifacts { wanted: &[("org.apache.cassandra", "cassandra-all", CASSANDRA_VERSION)], managed: &[] };

impl Artifacts {
    fn name(&self) -> String {
        let (_, artifact, version) = self.wanted[0];
        format!("{artifact}-{version}")
    }

    /// In the cache.
    fn directory(&self) -> String {
        self.name().replace("cassandra-all", "cassandra")
    }
}

const EXPORTS: [&str; 8] = [
    "java.base/java.lang.ref",
    "java.base/jdk.internal.misc",
    "java.management/com.sun.jmx.remote.security",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.unsupported/sun.misc",
];

const OPENS: [&str; 14] = [
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.management/com.sun.management.internal",
];

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
        .ok_or_else(|| Failure::new("no place for jars: set HOME or CASSY_TEST_CACHE"))
}

/// One fetches, all others wait for it; a fetch that was cut short leaves nothing that looks whole.
async fn fetch_jars(artifacts: &Artifacts, cache: &Path, jars: &Path) -> Result<(), Failure> {
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
    run_maven(artifacts, part.path(), &lib).await?;
    let first = lib.join(format!("{}.jar", artifacts.name()));
    if !first.is_file() {
        return Err(Failure::new(format!("Maven succeeded, but {} is not there", first.display())));
    }
    std::fs::rename(&lib, jars).doing(|| format!("move the jars to {}", jars.display()))
}

/// The lock ends with the file, or with the process.
async fn lock(path: &Path) -> Result<File, Failure> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.doing(|| format!("open {}", path.display()))?;
    wait_for("another run fetches jars", FETCH_LIMIT, async || match file.try_lock() {
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

async fn run_maven(artifacts: &Artifacts, directory: &Path, lib: &Path) -> Result<(), Failure> {
    let pom = directory.join("pom.xml");
    std::fs::write(&pom, pom_text(artifacts)).doing(|| format!("write {}", pom.display()))?;
    let output = tokio::process::Command::new("mvn")
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", lib.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .doing(|| "run mvn, to fetch jars (Debian's package is `maven`)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Err(Failure::new(format!(
        "Maven could not fetch {} ({}); the first run needs the network:\n{}",
        artifacts.name(),
        output.status,
        tail(&said, 15)
    )))
}

fn pom_text(artifacts: &Artifacts) -> String {
    let dependency = |(group, artifact, version): &(&str, &str, &str)| {
        format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>\n"
        )
    };
    let wanted: String = artifacts.wanted.iter().map(dependency).collect();
    let managed: String = artifacts.managed.iter().map(dependency).collect();
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>cassy.test</groupId>
  <artifactId>runtime</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencyManagement><dependencies>
{managed}  </dependencies></dependencyManagement>
  <dependencies>
{wanted}  </dependencies>
</project>
"#
    )
}

/// `JAVA_HOME`, then `PATH`, then where Debian and others put it: the first that is a Java 17.
fn find_java() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("java"));
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/jvm")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("17"))
        .map(|entry| entry.path().join("bin/java"))
        .collect();
    installed.sort();
    home.into_iter().chain(on_path).chain(installed).find(|java| java_major(java) == Some(JAVA_MAJOR)).ok_or_else(|| {
        Failure::new(format!(
            "no Java {JAVA_MAJOR} in JAVA_HOME, PATH or /usr/lib/jvm; Debian's package is `openjdk-{JAVA_MAJOR}-jre-headless`"
        ))
    })
}

/// The `17` of `openjdk version "17.0.9" 2023-10-17`.
fn java_major(java: &Path) -> Option<u32> {
    if !java.is_file() {
        return None;
    }
    let output = Command::new(java).arg("-version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let version = text.split('"').nth(1)?;
    version.split(['.', '-', '+']).next()?.parse().ok()
}

/// How long any service of the kit may take to become ready: far more than it needs, as machines stall.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(240);
