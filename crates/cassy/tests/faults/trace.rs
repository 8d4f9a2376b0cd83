//! System calls that fail as on a broken disk: `strace` answers them in the kernel's place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cassy_testkit::{Failure, Launch, Lifetime, Probe, Process, wait_for};

use super::left_out;

const PROGRAM: &str = "/usr/bin/strace";
const LIMIT: Duration = Duration::from_secs(30);

/// Faults that are injected into one process until this is lifted or dropped.
#[derive(Debug)]
pub(crate) struct Injection {
    tracer: Process,
    report: PathBuf,
}

/// Whether faults can be injected; says so when not.
pub(crate) fn can_trace(what: &str) -> bool {
    let there = Path::new(PROGRAM).is_file();
    if !there {
        left_out(what, &format!("there is no {PROGRAM} (Debian's package is `strace`)"));
    }
    there
}

impl Injection {
    /// From now on these calls of the process and its threads are answered with this error. `when` as in strace(1), or
    /// empty for always; `paths` may be empty for all files.
    pub(crate) async fn into(
        pid: u32,
        directory: &Path,
        calls: &str,
        answer: &str,
        paths: &[PathBuf],
    ) -> Result<Self, Failure> {
        let directory = directory.join("strace");
        std::fs::create_dir_all(&directory).map_err(|error| Failure::new(error.to_string()))?;
        let report = directory.join(format!("{pid}-{calls}"));
        let mut arguments = vec!["-f".to_owned(), "-p".to_owned(), pid.to_string()];
        arguments.extend(["-o".to_owned(), report.display().to_string()]);
        arguments.extend(["-e".to_owned(), format!("trace={calls}")]);
        arguments.extend(["-e".to_owned(), format!("inject={calls}:{answer}")]);
        arguments.extend(paths.iter().flat_map(|path| ["-P".to_owned(), path.display().to_string()]));
        let mut tracer = Process::start(&Launch {
            name: "strace".to_owned(),
            program: PROGRAM.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            log: directory.join("log"),
            directory,
            environment: BTreeMap::new(),
            lifetime: Lifetime::Owned,
        })?;
        wait_for("strace is attached", LIMIT, async || match tracer.ended() {
            Some(status) => Probe::Broken(Failure::new(format!("strace ended ({status}): {}", tracer.log()))),
            None if tracer.log().contains("attached") => Probe::Ready(()),
            None => Probe::NotYet(tracer.log()),
        })
        .await?;
        Ok(Self { tracer, report })
    }

    /// How many calls were answered so.
    pub(crate) fn count(&self) -> usize {
        let report = std::fs::read_to_string(&self.report).unwrap_or_default();
        report.lines().filter(|line| line.contains("(INJECTED)")).count()
    }

    /// Waits until so many were.
    pub(crate) async fn fired(&self, times: usize) -> Result<(), Failure> {
        wait_for(format!("{times} calls have failed"), LIMIT, async || match self.count() {
            count if count >= times => Probe::Ready(()),
            count => Probe::NotYet(format!("{count} have")),
        })
        .await
    }

    /// Ends it: the process goes on untouched.
    pub(crate) async fn lift(mut self) -> Result<(), Failure> {
        self.tracer.stop(LIMIT).await
    }
}
