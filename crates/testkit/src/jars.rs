//! Jars from Maven Central, fetched once.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::{Doing, Failure, Probe, process::tail, wait_for};

const FETCH_PREFIX: &str = "fetching-";
const FETCH_LIMIT: Duration = Duration::from_secs(1_200);

/// Group, artifact, version.
pub(crate) type Coordinates = (&'static str, &'static str, &'static str);

/// What Maven is to fetch, with everything that it needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Artifacts<'a> {
    /// The first is what it is about.
    pub(crate) wanted: &'a [Coordinates],
    /// Versions that hold for what these need.
    pub(crate) managed: &'a [Coordinates],
}

impl Artifacts<'_> {
    fn name(&self) -> String {
        let (_, artifact, version) = self.wanted[0];
        format!("{artifact}-{version}")
    }
}

/// A directory of jars that are all there.
#[derive(Debug, Clone)]
pub(crate) struct Jars(PathBuf);

impl Jars {
    /// Fetches them unless an earlier run has.
    ///
    /// # Errors
    /// When there is no Maven, or it fails; the message says what to do.
    pub(crate) async fn fetch(artifacts: Artifacts<'_>) -> Result<Self, Failure> {
        let cache = cache_directory()?;
        std::fs::create_dir_all(&cache).doing(|| format!("make {}", cache.display()))?;
        let jars = cache.join(artifacts.name());
        if !jars.is_dir() {
            fetch_jars(artifacts, &cache, &jars).await?;
        }
        Ok(Self(jars))
    }

    /// The jars as a class path, sorted. No directory is in it.
    pub(crate) fn class_path(&self) -> Result<String, Failure> {
        let entries = std::fs::read_dir(&self.0).doing(|| format!("list {}", self.0.display()))?;
        let mut jars: Vec<String> = entries
            .flatten()
            .map(|entry| entry.path().to_string_lossy().into_owned())
            .filter(|path| path.ends_with(".jar"))
            .collect();
        jars.sort();
        Ok(jars.join(":"))
    }
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
async fn fetch_jars(artifacts: Artifacts<'_>, cache: &Path, jars: &Path) -> Result<(), Failure> {
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

async fn run_maven(artifacts: Artifacts<'_>, directory: &Path, lib: &Path) -> Result<(), Failure> {
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

fn pom_text(artifacts: Artifacts<'_>) -> String {
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
