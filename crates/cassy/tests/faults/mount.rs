//! Small file systems of the test's own: they can be full and read-only without any harm to the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use cassy_testkit::{Doing, Failure};

use super::left_out;

const TRIES: u32 = 100;

/// A tmpfs below a temporary directory of a test. Unmounted when this is dropped, even while it is used.
#[derive(Debug)]
pub(crate) struct Tmpfs {
    at: PathBuf,
    bytes: u64,
}

/// Whether file systems can be mounted; says so when not.
pub(crate) fn can_mount(what: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("left out: {what}: only root mounts file systems");
        return false;
    }
    let tried = tempfile::Builder::new().prefix("cassy-test-").tempdir().map_err(|error| error.to_string());
    let tried = tried.and_then(|trial| {
        Tmpfs::mount(&trial.path().join("mounted"), 1 << 20).map(drop).map_err(|error| error.to_string())
    });
    if let Err(why) = &tried {
        left_out(what, why);
    }
    tried.is_ok()
}

impl Tmpfs {
    /// Makes the directory and mounts so many bytes there.
    pub(crate) fn mount(at: &Path, bytes: u64) -> Result<Self, Failure> {
        let temporary = std::env::temp_dir();
        let is_ours = at
            .strip_prefix(&temporary)
            .is_ok_and(|below| below.display().to_string().starts_with("cassy-test-"));
        assert!(is_ours, "{} is no place of a test", at.display());
        std::fs::create_dir_all(at).doing(|| format!("make {}", at.display()))?;
        let size = format!("size={bytes},mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "cassy-test"]).arg(at))?;
        Ok(Self { at: at.to_owned(), bytes })
    }

    /// Nothing more can be written: the file system is made as small as what is in it.
    pub(crate) fn fill(&self) -> Result<(), Failure> {
        // What is written meanwhile makes that size too small.
        let made = (0..TRIES).find_map(|_| self.shrink().ok());
        made.ok_or_else(|| Failure::new(format!("{} was not filled", self.at.display())))?;
        let now = rustix::fs::statvfs(&self.at).doing(|| "look at it again")?;
        assert!(now.f_blocks > 0 && now.f_bavail <= 1, "{} is full", self.at.display());
        Ok(())
    }

    fn shrink(&self) -> Result<(), Failure> {
        let stat = rustix::fs::statvfs(&self.at).doing(|| format!("look at {}", self.at.display()))?;
        // No size at all would be no limit.
        let used = (stat.f_blocks - stat.f_bfree).max(1) * stat.f_frsize;
        self.remount(&format!("size={used}"))
    }

    pub(crate) fn make_room(&self) -> Result<(), Failure> {
        self.remount(&format!("size={}", self.bytes))
    }

    /// Fails while a file of it is open for writing.
    pub(crate) fn make_read_only(&self) -> Result<(), Failure> {
        self.remount("ro")
    }

    pub(crate) fn make_writable(&self) -> Result<(), Failure> {
        self.remount("rw")
    }

    fn remount(&self, option: &str) -> Result<(), Failure> {
        run(Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.at))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(failure) = run(Command::new("umount").arg("--lazy").arg(&self.at)) {
            eprintln!("{failure}");
        }
    }
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.output().doing(|| format!("run {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{command:?}: {}", said.trim())))
}
