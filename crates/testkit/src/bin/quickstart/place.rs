//! The story's temporary directory. A run holds a lock in its own; what has no lock and was not kept on purpose was
//! left by a run that was killed, and goes.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cassy_testkit::{Doing, Failure};
use tempfile::TempDir;

use crate::kept;

const PREFIX: &str = "cassy-quickstart-";
const LOCK: &str = "lock";
/// A directory as young as this may be about to get its lock.
const YOUNG: Duration = Duration::from_secs(60);

/// A new directory, and the lock that says that it is in use.
pub(crate) fn make() -> Result<(TempDir, File), Failure> {
    for left in abandoned()? {
        if !kept::is_kept(&left) {
            kept::remove(&left)?;
        }
    }
    let directory =
        tempfile::Builder::new().prefix(PREFIX).tempdir().doing(|| "make a temporary directory")?;
    let path = directory.path().join(LOCK);
    let lock = File::create(&path).doing(|| format!("make {}", path.display()))?;
    lock.try_lock().map_err(|error| Failure::new(format!("lock {}: {error}", path.display())))?;
    Ok((directory, lock))
}

/// This user's directories that no living run holds: kept ones, and those of runs that were killed.
pub(crate) fn abandoned() -> Result<Vec<PathBuf>, Failure> {
    let root = std::env::temp_dir();
    let entries = std::fs::read_dir(&root).doing(|| format!("list {}", root.display()))?;
    let named = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    Ok(named.map(|entry| entry.path()).filter(|path| is_own(path) && is_abandoned(path)).collect())
}

fn is_own(path: &Path) -> bool {
    let Ok(about) = std::fs::symlink_metadata(path) else { return false };
    let Ok(me) = std::fs::metadata("/proc/self") else { return false };
    about.is_dir() && about.uid() == me.uid()
}

fn is_abandoned(path: &Path) -> bool {
    match File::open(path.join(LOCK)) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => {
            let changed = std::fs::metadata(path).and_then(|about| about.modified());
            changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > YOUNG))
        }
    }
}
