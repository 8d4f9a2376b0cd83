//! A directory for the agent's own files, private and gone when it ends. The ones of agents that are gone
//! without cleaning up are removed at the start: nobody holds their `flock`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

const PREFIX: &str = "spool-";
/// Another agent's clean-up may remove a directory between its making and its lock.
const RACES_LIMIT: u32 = 8;

/// See the module. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    /// Held as long as the directory is in use.
    _lock: OwnedFd,
}

impl Spool {
    /// In the first of these directories that can be used.
    pub(crate) fn make(bases: &[PathBuf]) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for base in bases {
            match Self::make_in(&base.join("cassy")) {
                Ok(spool) => return Ok(spool),
                Err(error) => {
                    tracing::debug!(base = %base.display(), %error, "no spool directory here");
                    last = io::Error::new(error.kind(), format!("{}: {error}", base.display()));
                }
            }
        }
        Err(last)
    }

    fn make_in(parent: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let metadata = fs::symlink_metadata(parent)?;
        if !metadata.is_dir()
            || metadata.uid() != rustix::process::geteuid().as_raw()
            || metadata.mode() & 0o022 != 0
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it is somebody else's, or open to others",
            ));
        }
        remove_abandoned(parent);
        for _ in 0..RACES_LIMIT {
            let path = parent.join(format!("{PREFIX}{}-{}", std::process::id(), Uuid::new_v4().simple()));
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            if let Ok(Some(lock)) = open_locked(&path)
                && is_same(&lock, &path)
            {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(io::Error::other("other agents keep removing it"))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the spool directory stays");
        }
    }
}

/// `$XDG_CACHE_HOME`, `$HOME/.cache`, and in `/var/tmp` a place of the agent's user.
pub(crate) fn default_bases() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let last = format!("/var/tmp/cassy-agent-{}", rustix::process::geteuid().as_raw());
    [variable("XDG_CACHE_HOME"), variable("HOME").map(|home| home.join(".cache")), Some(last.into())]
        .into_iter()
        .flatten()
        .collect()
}

/// `None` when another process has it.
fn open_locked(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(directory)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn is_same(directory: &OwnedFd, path: &Path) -> bool {
    let opened = rustix::fs::fstat(directory);
    let named = fs::symlink_metadata(path);
    matches!((opened, named), (Ok(opened), Ok(named)) if opened.st_ino == named.ino() && opened.st_dev == named.dev())
}

fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        if let Ok(Some(_lock)) = open_locked(&path)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::debug!(path = %path.display(), %error, "an abandoned spool directory stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn abandoned_directories_go_and_those_in_use_stay() {
        let base = tempfile::tempdir().unwrap();
        let bases = [base.path().to_owned()];
        let abandoned = base.path().join("cassy/spool-1-x");
        fs::create_dir_all(&abandoned).unwrap();
        fs::write(abandoned.join("f"), "x").unwrap();
        fs::create_dir(base.path().join("cassy/other")).unwrap();
        fs::set_permissions(base.path().join("cassy"), fs::Permissions::from_mode(0o700)).unwrap();
        let first = Spool::make(&bases).unwrap();
        let second = Spool::make(&bases).unwrap();
        assert!(!abandoned.exists() && base.path().join("cassy/other").exists());
        assert!(first.path().is_dir() && second.path().is_dir() && first.path() != second.path());
        assert_eq!(fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().is_dir());
    }

    #[test]
    fn a_place_that_is_open_to_others_is_passed_over() {
        let open = tempfile::tempdir().unwrap();
        let good = tempfile::tempdir().unwrap();
        fs::create_dir(open.path().join("cassy")).unwrap();
        fs::set_permissions(open.path().join("cassy"), fs::Permissions::from_mode(0o777)).unwrap();
        let link = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(good.path(), link.path().join("cassy")).unwrap();
        let bases = [open.path().to_owned(), link.path().to_owned(), good.path().to_owned()];
        assert!(Spool::make(&bases).unwrap().path().starts_with(good.path().join("cassy")));
    }
}
