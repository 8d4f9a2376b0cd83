//! A copy of the sources, in which a rule can be removed and a test run.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use cassy_testkit::{Doing, Failure};
use rustix::fs::FlockOperation;
use tokio::process::Command;
use tokio::time::timeout;

use crate::rules::{Mutation, Test};

/// No test here takes so long unless it waits for what never comes.
const TEST_LIMIT: Duration = Duration::from_secs(180);
/// So much of a test's output is told when it did something unexpected.
const TOLD_BYTES: usize = 2000;

/// Our own crates are compiled a hundred times and run for seconds: nothing of them is optimized. Those that they use
/// keep the ordinary profile.
const QUICKLY: [(&str, &str); 2] = [("CARGO_PROFILE_DEV_OPT_LEVEL", "0"), ("CARGO_PROFILE_DEV_DEBUG", "0")];

/// See the module.
pub(crate) struct Workshop {
    copy: PathBuf,
    built: PathBuf,
    /// Held until the end: two runs would spoil each other's copy.
    _lock: File,
}

/// What came of a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The test failed, as it should.
    Killed,
    /// The test passed all the same.
    Survived,
    /// The test did not end; no test of the table may need that to notice.
    Hung,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Killed => "killed",
            Self::Survived => "SURVIVED",
            Self::Hung => "HUNG",
        })
    }
}

impl Workshop {
    /// Brings the copy to the state of the working tree: of all files that git knows or would add.
    pub(crate) fn open() -> Result<Self, Failure> {
        let root = root();
        let place = root.join("target/mutations");
        fs::create_dir_all(&place).doing(|| format!("make {}", place.display()))?;
        let lock = File::create(place.join("lock")).doing(|| "make the lock of the mutations")?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .doing(|| format!("lock {}: another run is under way", place.display()))?;
        let workshop = Self { copy: place.join("tree"), built: place.join("build"), _lock: lock };
        workshop.synchronize(&root)?;
        Ok(workshop)
    }

    /// A file that is the same already keeps its time of modification, so that it is not compiled again.
    fn synchronize(&self, root: &Path) -> Result<(), Failure> {
        let wanted: BTreeSet<PathBuf> =
            tracked(root)?.into_iter().filter(|path| root.join(path).is_file()).collect();
        for path in &wanted {
            let (from, to) = (root.join(path), self.copy.join(path));
            let content = fs::read(&from).doing(|| format!("read {}", from.display()))?;
            if fs::read(&to).is_ok_and(|known| known == content) {
                continue;
            }
            let parent = to.parent().unwrap_or(&self.copy);
            fs::create_dir_all(parent).doing(|| format!("make {}", parent.display()))?;
            fs::write(&to, content).doing(|| format!("write {}", to.display()))?;
        }
        let mut open = vec![self.copy.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).doing(|| format!("list {}", directory.display()))?.flatten()
            {
                let path = entry.path();
                let known = path.strip_prefix(&self.copy).is_ok_and(|path| wanted.contains(path));
                if path.is_dir() {
                    open.push(path);
                } else if !known {
                    fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Those of the tests that do not pass without any mutation: their failures would show nothing. All are of one
    /// program.
    pub(crate) async fn failing(&self, tests: &[Test]) -> Result<BTreeSet<&'static str>, Failure> {
        let names: BTreeSet<&str> = tests.iter().map(|test| test.name).collect();
        let mut failing = BTreeSet::new();
        let Some(first) = tests.first() else { return Ok(failing) };
        let program = self.build(first).await?;
        for name in names {
            if self.run(&program, &Test { name, ..*first }).await? != Verdict::Survived {
                failing.insert(name);
            }
        }
        Ok(failing)
    }

    /// Removes the rule, runs the test, puts the rule back.
    pub(crate) async fn judge(&self, mutation: &Mutation) -> Result<Verdict, Failure> {
        let path = self.copy.join(mutation.file);
        let whole = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        let mutated = mutation.apply(&whole).map_err(Failure::new)?;
        fs::write(&path, mutated).doing(|| format!("write {}", path.display()))?;
        let judged = async { self.run(&self.build(&mutation.test).await?, &mutation.test).await };
        let verdict = judged.await;
        fs::write(&path, whole).doing(|| format!("write {}", path.display()))?;
        verdict
    }

    /// Compiles the program that holds the test; that this fails is never taken for a failing test.
    async fn build(&self, test: &Test) -> Result<PathBuf, Failure> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["test", "--locked", "--quiet", "--no-run", "--message-format=json-render-diagnostics"]);
        cargo.args(["--package", test.package]).args(test.program_arguments());
        cargo.current_dir(&self.copy).env("CARGO_TARGET_DIR", &self.built).envs(QUICKLY);
        let output = cargo.kill_on_drop(true).output().await.doing(|| "run cargo")?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("{test} does not compile:\n{told}")));
        }
        let messages = String::from_utf8_lossy(&output.stdout).into_owned();
        let executable = messages.lines().rev().find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        executable.ok_or_else(|| Failure::new(format!("cargo names no program for {test}")))
    }

    /// The test alone, in the directory of its package, as cargo runs it.
    async fn run(&self, program: &Path, test: &Test) -> Result<Verdict, Failure> {
        let mut command = Command::new(program);
        command.args(["--exact", test.name]).current_dir(self.copy.join(test.directory()));
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).kill_on_drop(true);
        let Ok(ended) = timeout(TEST_LIMIT, command.output()).await else { return Ok(Verdict::Hung) };
        verdict(test, &ended.doing(|| format!("run {}", program.display()))?)
    }
}

/// A test that did not run, or a program that died, shows nothing.
fn verdict(test: &Test, output: &Output) -> Result<Verdict, Failure> {
    let told = String::from_utf8_lossy(&output.stdout);
    let failed = told.contains(&format!("test {} ... FAILED", test.name))
        || told.contains(&format!("test {} - should panic ... FAILED", test.name));
    if output.status.success() && told.contains("test result: ok. 1 passed") {
        return Ok(Verdict::Survived);
    }
    if !output.status.success() && failed {
        return Ok(Verdict::Killed);
    }
    let rest: String = told.chars().rev().take(TOLD_BYTES).collect::<Vec<_>>().into_iter().rev().collect();
    Err(Failure::new(format!("{test} neither passed nor failed ({}):\n{rest}", output.status)))
}

/// The directory that holds `crates/`.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("a crate lies in crates/ of the workspace").to_owned()
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let output = git.output().doing(|| "run git")?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("git ls-files failed: {told}")));
    }
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(names.split_terminator('\0').map(PathBuf::from).collect())
}
