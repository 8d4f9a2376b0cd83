//! The directories of a `file://` store, by descriptors: nothing here follows a symbolic link below the root.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cassy_backup_format::ObjectKey;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::part;
use crate::StoreError;

/// How often making a directory is begun anew because another process removed it as empty.
const RACES_LIMIT: u32 = 64;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The root directory, opened anew for each operation, so that a mount that comes or goes is noticed.
#[derive(Debug, Clone)]
pub(super) struct Root {
    path: PathBuf,
}

/// Where a key's object is: its directories below the root, and its name.
pub(super) struct Place {
    directories: Vec<String>,
    name: String,
}

impl Place {
    /// Refuses keys with a segment that is reserved for unfinished objects.
    pub(super) fn of(operation: &'static str, key: &ObjectKey) -> Result<Self, StoreError> {
        let mut directories: Vec<String> = key.segments().map(str::to_owned).collect();
        if directories.iter().any(|segment| part::stem(segment).is_some()) {
            let reason = "names that end like this are kept for unfinished objects";
            return Err(StoreError::Refused { operation, key: key.to_string(), reason });
        }
        let name = directories.pop().expect("a key has at least one segment");
        Ok(Self { directories, name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The open directories from the root to an object's own.
pub(super) struct Chain {
    root: OwnedFd,
    below: Vec<(String, OwnedFd)>,
}

impl Chain {
    /// The object's own directory.
    pub(super) fn last(&self) -> &OwnedFd {
        self.below.last().map_or(&self.root, |(_, directory)| directory)
    }

    pub(super) fn into_last(mut self) -> OwnedFd {
        self.below.pop().map_or(self.root, |(_, directory)| directory)
    }

    /// Removes the directories that are empty, from the last one upwards, never the root.
    pub(super) fn prune(mut self) {
        while let Some((name, directory)) = self.below.pop() {
            drop(directory);
            if rustix::fs::unlinkat(self.last(), name.as_str(), AtFlags::REMOVEDIR).is_err() {
                return;
            }
        }
    }
}

impl Root {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn display(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn open(&self, operation: &'static str) -> Result<OwnedFd, StoreError> {
        rustix::fs::openat(CWD, &self.path, DIRECTORY, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => StoreError::RootMissing { root: self.path.clone(), source: errno.into() },
            _ => StoreError::io(operation, &self.display(), errno),
        })
    }

    /// The directories of a place; none when one of them is missing.
    pub(super) fn chain(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        place: &Place,
    ) -> Result<Option<Chain>, StoreError> {
        let mut chain = Chain { root: self.open(operation)?, below: Vec::new() };
        for name in &place.directories {
            match open_directory(chain.last(), name) {
                Ok(directory) => chain.below.push((name.clone(), directory)),
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(StoreError::io(operation, key, errno)),
            }
        }
        Ok(Some(chain))
    }

    /// Makes the directories of a place as far as they are missing, durably, and a new file under a name of an
    /// unfinished object in the last one. Answers the directory, the file and its name.
    pub(super) fn begin(
        &self,
        key: &ObjectKey,
        place: &Place,
    ) -> Result<(OwnedFd, std::fs::File, String), StoreError> {
        for _ in 0..RACES_LIMIT {
            let directory = match self.make_directories(place)? {
                Ok(directory) => directory,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(StoreError::io("write", key, errno)),
            };
            let name = part::name(&place.name);
            match new_file(&directory, &name) {
                Ok(file) => return Ok((directory, file, name)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(StoreError::io("write", key, errno)),
            }
        }
        Err(StoreError::io("write", key, Errno::NOENT))
    }

    fn make_directories(&self, place: &Place) -> Result<Result<OwnedFd, Errno>, StoreError> {
        let mut chain = Chain { root: self.open("write")?, below: Vec::new() };
        for name in &place.directories {
            match make_directory(chain.last(), name) {
                Ok(directory) => chain.below.push((name.clone(), directory)),
                Err(errno) => return Ok(Err(errno)),
            }
        }
        Ok(Ok(chain.into_last()))
    }

    /// Writes, syncs and removes a small file in the root.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let root = self.open("check")?;
        let name = part::name("check");
        let error = |source: io::Error| StoreError::io("write in", &self.display(), source);
        let mut file = new_file(&root, &name).map_err(|errno| error(errno.into()))?;
        let written = io::Write::write_all(&mut file, &[0; 4096]).and_then(|()| file.sync_all());
        let removed = rustix::fs::unlinkat(&root, name.as_str(), AtFlags::empty());
        written.map_err(error)?;
        removed.map_err(|errno| error(errno.into()))
    }
}

/// Opens a directory, never through a symbolic link.
pub(super) fn open_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Makes a directory durably, or takes the one that is there.
fn make_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    match open_directory(parent, name) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
        Ok(()) => sync_directory(parent)?,
        // Another process has just made it.
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    open_directory(parent, name)
}

fn new_file(directory: &OwnedFd, name: &str) -> Result<std::fs::File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, Path::new(name), flags, Mode::from_raw_mode(0o666)).map(Into::into)
}

/// Some network file systems cannot sync a directory; they say so and do it anyway.
pub(super) fn sync_directory(directory: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fsync(directory) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}
