//! The node's directories by descriptors: below a root that the configuration names, nothing here follows a
//! symbolic link, leaves the root or overwrites a file, whatever is swapped meanwhile.
//!
//! Every change to the disk is a [`Steps::take`], so that tests can stop before any one of them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, DirEntry, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// Deeper than any layout of Cassandra's.
const DEPTH_LIMIT: usize = 32;

/// Names of a directory that are in memory at once while it is removed.
const PORTION: usize = 1_000;

/// A failure on the node's own file systems.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", .path.display())]
pub(crate) struct FileError {
    pub(crate) operation: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl FileError {
    pub(crate) fn new(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self { operation, path: path.into(), source: source.into() }
    }

    pub(crate) fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

/// The changes to the disk so far; nothing outside of tests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps {
    #[cfg(test)]
    pub(crate) left: Option<std::sync::Arc<std::sync::atomic::AtomicI64>>,
    /// Cancelled then, instead of a panic.
    #[cfg(test)]
    pub(crate) cancel: Option<tokio_util::sync::CancellationToken>,
}

impl Steps {
    /// Before a change. In tests it panics once the allowed number is used up, as if the process were killed here.
    fn take(&self) {
        #[cfg(test)]
        if let Some(left) = &self.left {
            let left = left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            match &self.cancel {
                Some(cancel) if left <= 0 => cancel.cancel(),
                Some(_) => {}
                None => assert!(left > 0, "killed by the test"),
            }
        }
    }
}

/// Whose the files are, and their permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ownership {
    /// The user; `None` where the agent cannot give files away.
    pub(crate) uid: Option<u32>,
    /// The group.
    pub(crate) gid: Option<u32>,
    /// Of directories.
    pub(crate) directory_mode: u32,
    /// Of files.
    pub(crate) file_mode: u32,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    /// A symbolic link, a device, a pipe.
    Other,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Tree {
    fd: OwnedFd,
    path: PathBuf,
    steps: Steps,
}

/// A file or another thing found by [`Tree::walk`].
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// Below the directory where the walk began.
    pub(crate) path: &'a Path,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// When it was written last, Unix nanoseconds.
    pub(crate) mtime_ns: i64,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Tree {
    /// Opens a root; its own path may go through symbolic links. `None` when it is missing.
    pub(crate) fn root(path: &Path, steps: &Steps) -> Result<Option<Self>, FileError> {
        match rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: path.to_owned(), steps: steps.clone() })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::new("open directory", path, errno)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, operation: &'static str, name: impl AsRef<Path>, errno: Errno) -> FileError {
        FileError::new(operation, self.path.join(name), errno)
    }

    /// A directory in this one; `None` when it is missing.
    pub(crate) fn open(&self, name: &OsStr) -> Result<Option<Self>, FileError> {
        match rustix::fs::openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: self.path.join(name), steps: self.steps.clone() })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("open directory", name, errno)),
        }
    }

    /// The directory below these names; `None` when one of them is missing.
    pub(crate) fn descend(&self, names: &[&str]) -> Result<Option<Self>, FileError> {
        let mut last: Option<Self> = None;
        for name in names {
            let Some(next) = last.as_ref().unwrap_or(self).open(OsStr::new(name))? else { return Ok(None) };
            last = Some(next);
        }
        last.map_or_else(|| self.again().map(Some), |tree| Ok(Some(tree)))
    }

    fn again(&self) -> Result<Self, FileError> {
        let fd =
            self.fd.try_clone().map_err(|source| FileError::new("open directory", &self.path, source))?;
        Ok(Self { fd, path: self.path.clone(), steps: self.steps.clone() })
    }

    /// The directory below these names, made where it is missing, each with the owner and at least the mode.
    pub(crate) fn ensure(&self, names: &[&str], ownership: &Ownership) -> Result<Self, FileError> {
        let mut last = self.again()?;
        for name in names {
            last = last.ensure_one(name, ownership)?;
        }
        Ok(last)
    }

    fn ensure_one(&self, name: &str, ownership: &Ownership) -> Result<Self, FileError> {
        let mode = Mode::from_raw_mode(ownership.directory_mode);
        let tree = match self.open(OsStr::new(name))? {
            Some(tree) => tree,
            None => {
                self.steps.take();
                match rustix::fs::mkdirat(&self.fd, name, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(self.error("make directory", name, errno)),
                }
                let made = self.open(OsStr::new(name))?;
                made.ok_or_else(|| self.error("open directory", name, Errno::NOENT))?
            }
        };
        tree.own(ownership)?;
        Ok(tree)
    }

    /// Gives this directory its owner, and at least the mode.
    pub(crate) fn own(&self, ownership: &Ownership) -> Result<(), FileError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.error("look at", "", errno))?;
        let wanted = Mode::from_raw_mode(ownership.directory_mode);
        let mode = Mode::from_raw_mode(stat.st_mode);
        change_owner(&self.fd, &stat, ownership)
            .map_err(|errno| self.error("change the owner of", "", errno))?;
        if mode.contains(wanted) {
            return Ok(());
        }
        self.steps.take();
        rustix::fs::fchmod(&self.fd, mode | wanted)
            .map_err(|errno| self.error("change the mode of", "", errno))
    }

    /// The names in this directory, sorted, with what each is.
    pub(crate) fn entries(&self) -> Result<Vec<(OsString, Kind)>, FileError> {
        let mut entries = self.each_entry()?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(entries)
    }

    /// The same one after another, in no order: there may be very many.
    pub(crate) fn each_entry(
        &self,
    ) -> Result<impl Iterator<Item = Result<(OsString, Kind), FileError>>, FileError> {
        let failed = |errno| self.error("list", "", errno);
        let listing = rustix::fs::Dir::read_from(&self.fd).map_err(failed)?;
        let named = move |entry: Result<DirEntry, Errno>| {
            let entry = entry.map_err(failed)?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            let kind = match entry.file_type() {
                FileType::Unknown => self.stat(&name)?.map_or(Kind::Other, |stat| kind_of(&stat)),
                known => kind(known),
            };
            Ok((name, kind))
        };
        let is_entry = |entry: &Result<(OsString, Kind), FileError>| {
            entry.as_ref().map_or(true, |(name, _)| name != "." && name != "..")
        };
        Ok(listing.map(named).filter(is_entry))
    }

    /// What a name is, without following it; `None` when it is missing.
    pub(crate) fn stat(&self, name: &OsStr) -> Result<Option<Stat>, FileError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("look at", name, errno)),
        }
    }

    /// The size of a regular file; `None` when the name is missing or is something else.
    pub(crate) fn file_size(&self, name: &str) -> Result<Option<u64>, FileError> {
        let stat = self.stat(OsStr::new(name))?;
        Ok(stat.filter(|stat| kind_of(stat) == Kind::File).map(|stat| size_of(&stat)))
    }

    /// Everything in this directory that is no directory, at any depth, in no order.
    pub(crate) fn walk(
        &self,
        skip: &dyn Fn(&Path) -> bool,
        visit: &mut dyn FnMut(Found<'_>) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        self.walk_below(Path::new(""), 0, skip, visit)
    }

    fn walk_below(
        &self,
        below: &Path,
        depth: usize,
        skip: &dyn Fn(&Path) -> bool,
        visit: &mut dyn FnMut(Found<'_>) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        for entry in self.each_entry()? {
            let (name, kind) = entry?;
            let path = below.join(&name);
            if skip(&path) {
                continue;
            }
            if kind == Kind::Directory && depth < DEPTH_LIMIT {
                if let Some(tree) = self.open(&name)? {
                    tree.walk_below(&path, depth + 1, skip, visit)?;
                }
                continue;
            }
            let (size, mtime_ns) = match kind {
                Kind::File => self.stat(&name)?.map_or((0, 0), |stat| (size_of(&stat), mtime_ns(&stat))),
                Kind::Directory | Kind::Other => (0, 0),
            };
            visit(Found { path: &path, kind, size, mtime_ns })?;
        }
        Ok(())
    }

    /// A new file, for writing, nobody else's to read yet.
    pub(crate) fn create(&self, name: &str) -> Result<File, FileError> {
        self.steps.take();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| self.error("create", name, errno))
    }

    /// A regular file, for reading; `None` when it is missing.
    pub(crate) fn read(&self, name: &str) -> Result<Option<File>, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.error("open", name, errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.error("look at", name, errno))?;
        match kind_of(&stat) {
            Kind::File => Ok(Some(file)),
            Kind::Directory | Kind::Other => Err(self.error("read as a file", name, Errno::INVAL)),
        }
    }

    /// Gives a file its owner and mode.
    pub(crate) fn own_file(&self, name: &str, ownership: &Ownership) -> Result<(), FileError> {
        let Some(file) = self.read(name)? else { return Err(self.error("open", name, Errno::NOENT)) };
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.error("look at", name, errno))?;
        self.steps.take();
        change_owner(&file, &stat, ownership)
            .map_err(|errno| self.error("change the owner of", name, errno))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(ownership.file_mode))
            .map_err(|errno| self.error("change the mode of", name, errno))
    }

    /// Moves a file to the same name in another directory of the same file system. Never overwrites.
    pub(crate) fn move_file(&self, name: &str, to: &Self) -> Result<(), FileError> {
        self.steps.take();
        match rustix::fs::renameat_with(&self.fd, name, &to.fd, name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.link_and_unlink(name, to),
            Err(errno) => Err(to.error("place", name, errno)),
        }
    }

    /// Moves whatever has this name, a directory with all in it, to the same name in another directory of the same file
    /// system. Never overwrites.
    pub(crate) fn move_entry(&self, name: &OsStr, to: &Self) -> Result<(), FileError> {
        self.steps.take();
        let flags = RenameFlags::NOREPLACE;
        let moved = match rustix::fs::renameat_with(&self.fd, name, &to.fd, name, flags) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if to.stat(name)?.is_none() => {
                rustix::fs::renameat(&self.fd, name, &to.fd, name)
            }
            moved => moved,
        };
        moved.map_err(|errno| self.error("move aside", name, errno))
    }

    /// For file systems that cannot rename without replacing.
    fn link_and_unlink(&self, name: &str, to: &Self) -> Result<(), FileError> {
        rustix::fs::linkat(&self.fd, name, &to.fd, name, AtFlags::empty())
            .map_err(|errno| to.error("place", name, errno))?;
        self.remove(name)
    }

    /// Renames within this directory; replaces.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.steps.take();
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(|errno| self.error("rename", from, errno))
    }

    /// Removes a file or link; a missing one is fine.
    pub(crate) fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), FileError> {
        let name = name.as_ref();
        self.steps.take();
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error("remove", name, errno)),
        }
    }

    /// Removes an empty directory; a missing one is fine. False when it is not empty.
    pub(crate) fn remove_empty(&self, name: impl AsRef<OsStr>) -> Result<bool, FileError> {
        let name = name.as_ref();
        self.steps.take();
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.error("remove", name, errno)),
        }
    }

    /// Removes a directory with everything in it; a missing one is fine.
    pub(crate) fn remove_all(&self, name: &OsStr) -> Result<(), FileError> {
        let Some(tree) = self.open(name)? else { return Ok(()) };
        tree.empty()?;
        self.remove_empty(name).map(|_: bool| ())
    }

    /// Removes whatever has this name, a directory with everything in it; a missing one is fine.
    pub(crate) fn remove_any(&self, name: &OsStr) -> Result<(), FileError> {
        match self.stat(name)?.map(|stat| kind_of(&stat)) {
            Some(Kind::Directory) => self.remove_all(name),
            Some(Kind::File | Kind::Other) => self.remove(name),
            None => Ok(()),
        }
    }

    /// Removes everything in this directory.
    pub(crate) fn empty(&self) -> Result<(), FileError> {
        loop {
            let portion = self.each_entry()?.take(PORTION).collect::<Result<Vec<_>, _>>()?;
            let is_last = portion.len() < PORTION;
            for (inner, kind) in portion {
                match kind {
                    Kind::Directory => self.remove_all(&inner)?,
                    Kind::File | Kind::Other => self.remove(&inner)?,
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// True when nothing is in this directory.
    pub(crate) fn is_empty(&self) -> Result<bool, FileError> {
        Ok(self.each_entry()?.next().transpose()?.is_none())
    }

    /// Makes what was made, renamed and removed in this directory durable.
    pub(crate) fn sync(&self) -> Result<(), FileError> {
        rustix::fs::fsync(&self.fd).map_err(|errno| self.error("sync", "", errno))
    }

    /// Makes everything on this directory's file system durable.
    pub(crate) fn sync_file_system(&self) -> Result<(), FileError> {
        rustix::fs::syncfs(&self.fd).map_err(|errno| self.error("sync the file system of", "", errno))
    }

    /// Which file system this directory is on.
    pub(crate) fn device(&self) -> Result<u64, FileError> {
        Ok(self.own_stat()?.st_dev)
    }

    /// What this directory itself is.
    pub(crate) fn own_stat(&self) -> Result<Stat, FileError> {
        rustix::fs::fstat(&self.fd).map_err(|errno| self.error("look at", "", errno))
    }
}

fn change_owner(fd: impl rustix::fd::AsFd, stat: &Stat, ownership: &Ownership) -> Result<(), Errno> {
    let uid = ownership.uid.filter(|uid| *uid != stat.st_uid).map(Uid::from_raw);
    let gid = ownership.gid.filter(|gid| *gid != stat.st_gid).map(Gid::from_raw);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    rustix::fs::fchown(fd, uid, gid)
}

fn kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        _ => Kind::Other,
    }
}

pub(crate) fn kind_of(stat: &Stat) -> Kind {
    kind(FileType::from_raw_mode(stat.st_mode))
}

/// When it was written last, Unix nanoseconds.
pub(crate) fn mtime_ns(stat: &Stat) -> i64 {
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanos)
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const OWN: Ownership = Ownership { uid: None, gid: None, directory_mode: 0o750, file_mode: 0o640 };

    fn root() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::root(dir.path(), &Steps::default()).unwrap().unwrap();
        (dir, tree)
    }

    #[test]
    fn links_are_never_followed() {
        let (dir, tree) = root();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        symlink(outside.path(), dir.path().join("ks")).unwrap();
        symlink(outside.path().join("kept"), dir.path().join("file")).unwrap();
        assert!(tree.open(OsStr::new("ks")).is_err());
        assert!(tree.ensure(&["ks", "t"], &OWN).is_err());
        assert!(tree.read("file").is_err());
        assert!(tree.create("file").is_err());
        let mut found = Vec::new();
        tree.walk(&|_: &Path| false, &mut |f| {
            found.push((f.path.to_owned(), f.kind));
            Ok(())
        })
        .unwrap();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(found, [("file".into(), Kind::Other), ("ks".into(), Kind::Other)]);
        assert!(tree.remove_all(OsStr::new("ks")).is_err());
        tree.remove_any(OsStr::new("ks")).unwrap();
        assert!(!dir.path().join("ks").is_symlink());
        assert!(outside.path().join("kept").exists());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_overwritten() {
        let (dir, tree) = root();
        let from = tree.ensure(&["a"], &OWN).unwrap();
        let to = tree.ensure(&["b", "c"], &OWN).unwrap();
        fs::write(dir.path().join("a/f"), "new").unwrap();
        fs::write(dir.path().join("b/c/f"), "old").unwrap();
        assert_eq!(from.move_file("f", &to).unwrap_err().errno(), Some(Errno::EXIST));
        assert_eq!(from.link_and_unlink("f", &to).unwrap_err().errno(), Some(Errno::EXIST));
        assert_eq!(to.create("f").unwrap_err().errno(), Some(Errno::EXIST));
        assert_eq!(fs::read_to_string(dir.path().join("b/c/f")).unwrap(), "old");
        to.remove("f").unwrap();
        from.link_and_unlink("f", &to).unwrap();
        to.move_file("f", &from).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a/f")).unwrap(), "new");
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let (dir, tree) = root();
        rustix::fs::mknodat(CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(tree.read("pipe").is_err());
    }

    #[test]
    fn modes_are_given_despite_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, tree) = root();
        let wide = Ownership { directory_mode: 0o777, file_mode: 0o666, ..OWN };
        let made = tree.ensure(&["a"], &wide).unwrap();
        drop(made.create("f").unwrap());
        made.own_file("f", &wide).unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("a"), mode("a/f")), (0o777, 0o666));
    }
}
