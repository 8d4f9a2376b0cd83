//! A node's directories by descriptors: below a data directory no symbolic link is ever followed, and nothing but
//! regular files is ever opened.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use cassy_agent_protocol::AgentErrorKind;
use rustix::fs::{AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

const NOT_PLAIN_HINT: &str = "Remove it, and find out which tool or person has put it there: Cassandra itself makes \
    only plain files and directories below its data directories.";

/// What went wrong with a file or directory of the node. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system's answer.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It was there a moment ago.
    #[error("{} has vanished: something else removed it", .path.display())]
    Vanished { path: PathBuf },
    /// A symbolic link, a FIFO, a device, a directory in a file's place.
    #[error("{} is {kind}, which is neither followed nor opened; only plain files and directories belong here", .path.display())]
    NotPlain { path: PathBuf, kind: &'static str },
    /// Its content changed while it was read, or another file took its name.
    #[error("{} changed while it was read: {what}", .path.display())]
    Changed { path: PathBuf, what: String },
    /// Larger than what is taken into memory.
    #[error("{} has {size} bytes, more than the {limit_bytes} that such a file can have", .path.display())]
    TooLarge { path: PathBuf, size: u64, limit_bytes: u64 },
    /// A name that Cassandra gives to nothing.
    #[error("{} has a name that is not in UTF-8", .path.display())]
    NotText { path: PathBuf },
}

impl FileError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn kind(&self) -> AgentErrorKind {
        match self {
            Self::Io { source, .. } => match Errno::from_io_error(source) {
                Some(
                    Errno::ACCESS
                    | Errno::PERM
                    | Errno::ROFS
                    | Errno::NOTDIR
                    | Errno::NAMETOOLONG
                    | Errno::NOENT,
                ) => AgentErrorKind::Permanent,
                _ => AgentErrorKind::Transient,
            },
            Self::Vanished { .. } | Self::Changed { .. } => AgentErrorKind::Transient,
            Self::NotPlain { .. } | Self::TooLarge { .. } | Self::NotText { .. } => AgentErrorKind::Permanent,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        let source = match self {
            Self::Io { source, .. } => source,
            Self::NotPlain { .. } => return Some(NOT_PLAIN_HINT.to_owned()),
            _ => return None,
        };
        let hint = match Errno::from_io_error(source)? {
            Errno::MFILE | Errno::NFILE => "Raise the limit of open files (ulimit -n) of the agent's user.",
            Errno::ACCESS | Errno::PERM => {
                "Let the agent's user read and write Cassandra's data directories."
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    /// In words, for a message.
    Other(&'static str),
}

impl Kind {
    fn of(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Other("a symbolic link"),
            FileType::Fifo => Self::Other("a FIFO"),
            FileType::Socket => Self::Other("a socket"),
            FileType::CharacterDevice | FileType::BlockDevice => Self::Other("a device"),
            FileType::Unknown => Self::Other("of an unknown kind"),
        }
    }
}

/// What the system says of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStat {
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// Unix nanoseconds.
    pub(crate) mtime_ns: i64,
    /// When anything about the file was changed last, also a link to it. Unix nanoseconds.
    pub(crate) ctime_ns: i64,
    /// Unix nanoseconds, where the file system knows it.
    pub(crate) birth_ns: Option<i64>,
}

/// An open directory, and its path for messages.
#[derive(Debug)]
pub(crate) struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Directory {
    /// Opens a data directory itself, which may be reached over symbolic links.
    pub(crate) fn data(path: &Path) -> Result<Self, FileError> {
        let opened = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty());
        let descriptor = opened.map_err(|errno| FileError::io("open the data directory", path, errno))?;
        Ok(Self { descriptor, path: path.to_owned() })
    }

    /// The directory at these names below a data directory; `None` when one of them is missing.
    pub(crate) fn below<'a>(
        data: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Self>, FileError> {
        let mut directory = Self::data(data)?;
        for name in names {
            match directory.subdirectory(name)? {
                Some(below) => directory = below,
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `None` when it is missing; an error when it is no directory.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<Option<Self>, FileError> {
        let path = self.path.join(name);
        match rustix::fs::openat(self, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(descriptor) => Ok(Some(Self { descriptor, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let kind = match self.kind(name)? {
                    Some(Kind::Other(kind)) => kind,
                    Some(Kind::File) => "a file",
                    Some(Kind::Directory) | None => "no directory",
                };
                Err(FileError::NotPlain { path, kind })
            }
            Err(errno) => Err(FileError::io("open", &path, errno)),
        }
    }

    /// What is at a name, without following it; `None` when nothing is.
    fn kind(&self, name: &str) -> Result<Option<Kind>, FileError> {
        match rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Kind::of(FileType::from_raw_mode(stat.st_mode)))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::io("look at", &self.path.join(name), errno)),
        }
    }

    /// All names but `.` and `..`, sorted.
    pub(crate) fn entries(&self) -> Result<Vec<(OsString, Kind)>, FileError> {
        let mut entries = self.each_entry()?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(entries)
    }

    /// The same one after another, in no order: there may be very many. A directory that was removed since it was
    /// opened has none: tables may be dropped at any time.
    pub(crate) fn each_entry(
        &self,
    ) -> Result<impl Iterator<Item = Result<(OsString, Kind), FileError>>, FileError> {
        let listing = match Dir::read_from(self) {
            Ok(listing) => Some(listing),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(self.unlisted(errno)),
        };
        Ok(listing.into_iter().flatten().filter_map(|entry| self.entry(entry).transpose()))
    }

    fn entry(&self, entry: Result<DirEntry, Errno>) -> Result<Option<(OsString, Kind)>, FileError> {
        let entry = match entry {
            Err(Errno::NOENT) => return Ok(None),
            entry => entry.map_err(|errno| self.unlisted(errno))?,
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(None);
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(self.unlisted(errno)),
            },
            known => known,
        };
        Ok(Some((OsString::from_vec(name.to_bytes().to_vec()), Kind::of(kind))))
    }

    fn unlisted(&self, errno: Errno) -> FileError {
        FileError::io("list", &self.path, errno)
    }

    /// The names of the directories in it, sorted; names that are not UTF-8 are nobody's here.
    pub(crate) fn subdirectories(&self) -> Result<Vec<String>, FileError> {
        let mut names = Vec::new();
        for entry in self.each_entry()? {
            let (name, kind) = entry?;
            names.extend(name.into_string().ok().filter(|_| kind == Kind::Directory));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What the system says of a regular file.
    pub(crate) fn stat(&self, name: &str) -> Result<FileStat, FileError> {
        stat(self, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.error("look at", name, errno))?
            .plain(self, name)
    }

    /// Opens a regular file for reading, with what the system says of it.
    pub(crate) fn open(&self, name: &str) -> Result<(File, FileStat), FileError> {
        // A FIFO must not block, and is not opened for longer than it takes to see that it is one.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => {
                return Err(FileError::NotPlain { path: self.path.join(name), kind: "a symbolic link" });
            }
            Err(errno) => return Err(self.error("open", name, errno)),
        };
        let found =
            stat(&file, "", AtFlags::EMPTY_PATH).map_err(|errno| self.error("look at", name, errno))?;
        Ok((file, found.plain(self, name)?))
    }

    /// Removes a file, or a link; false when it is gone already.
    pub(crate) fn remove_file(&self, name: &OsStr) -> Result<bool, FileError> {
        match rustix::fs::unlinkat(self, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FileError::io("remove", &self.path.join(name), errno)),
        }
    }

    /// Removes an empty directory; one that is gone is fine.
    pub(crate) fn remove_directory(&self, name: &str) -> Result<(), FileError> {
        match rustix::fs::unlinkat(self, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error("remove", name, errno)),
        }
    }

    fn error(&self, operation: &'static str, name: &str, errno: Errno) -> FileError {
        let path = self.path.join(name);
        match errno {
            Errno::NOENT => FileError::Vanished { path },
            _ => FileError::io(operation, &path, errno),
        }
    }
}

/// What the system says of an open file.
pub(crate) fn stat_open(file: &File, path: &Path) -> Result<FileStat, FileError> {
    let found = stat(file, "", AtFlags::EMPTY_PATH).map_err(|errno| FileError::io("look at", path, errno))?;
    Ok(found.stat)
}

struct Found {
    kind: Kind,
    stat: FileStat,
}

impl Found {
    fn plain(self, directory: &Directory, name: &str) -> Result<FileStat, FileError> {
        let kind = match self.kind {
            Kind::File => return Ok(self.stat),
            Kind::Directory => "a directory",
            Kind::Other(kind) => kind,
        };
        Err(FileError::NotPlain { path: directory.path.join(name), kind })
    }
}

/// With `statx`, which alone knows the time of birth; kernels before 4.11 and some sandboxes have none.
fn stat(descriptor: impl AsFd, name: &str, flags: AtFlags) -> Result<Found, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = match rustix::fs::statx(&descriptor, name, flags, mask) {
        Err(Errno::NOSYS | Errno::PERM) => return stat_without_birth(&descriptor, name, flags),
        other => other?,
    };
    let has_birth = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let birth_ns = nanoseconds(found.stx_btime.tv_sec, i64::from(found.stx_btime.tv_nsec));
    Ok(Found {
        kind: Kind::of(FileType::from_raw_mode(found.stx_mode.into())),
        stat: FileStat {
            size: found.stx_size,
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            mtime_ns: nanoseconds(found.stx_mtime.tv_sec, i64::from(found.stx_mtime.tv_nsec)),
            ctime_ns: nanoseconds(found.stx_ctime.tv_sec, i64::from(found.stx_ctime.tv_nsec)),
            birth_ns: (has_birth && birth_ns != 0).then_some(birth_ns),
        },
    })
}

fn stat_without_birth(descriptor: impl AsFd, name: &str, flags: AtFlags) -> Result<Found, Errno> {
    let found = rustix::fs::statat(descriptor, name, flags)?;
    let nanos = i64::try_from(found.st_mtime_nsec).unwrap_or(0);
    Ok(Found {
        kind: Kind::of(FileType::from_raw_mode(found.st_mode)),
        stat: FileStat {
            size: u64::try_from(found.st_size).unwrap_or(0),
            device: (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev)),
            inode: found.st_ino,
            mtime_ns: nanoseconds(found.st_mtime, nanos),
            ctime_ns: nanoseconds(found.st_ctime, i64::try_from(found.st_ctime_nsec).unwrap_or(0)),
            birth_ns: None,
        },
    })
}

fn nanoseconds(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_plain_files_are_opened() {
        let base = tempfile::tempdir().expect("tempdir");
        let path = base.path();
        std::fs::write(path.join("file"), "content").expect("write");
        symlink(path.join("file"), path.join("link")).expect("symlink");
        symlink(path, path.join("loop")).expect("symlink");
        std::fs::create_dir(path.join("directory")).expect("mkdir");
        rustix::fs::mknodat(CWD, path.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("mkfifo");
        let directory = Directory::data(path).expect("open");

        let (_, stat) = directory.open("file").expect("a file");
        assert_eq!(stat, directory.stat("file").expect("a file"));
        assert_eq!(stat.size, 7);
        for (name, what) in [("link", "a symbolic link"), ("directory", "a directory"), ("fifo", "a FIFO")] {
            for error in [directory.open(name).expect_err(name), directory.stat(name).expect_err(name)] {
                assert!(error.to_string().contains(what), "{error}");
            }
        }
        assert!(matches!(directory.open("absent"), Err(FileError::Vanished { .. })));
        assert!(matches!(directory.subdirectory("absent"), Ok(None)));
        assert!(matches!(
            directory.subdirectory("loop"),
            Err(FileError::NotPlain { kind: "a symbolic link", .. })
        ));
        assert!(matches!(directory.subdirectory("file"), Err(FileError::NotPlain { kind: "a file", .. })));
        assert_eq!(directory.subdirectories().expect("list"), ["directory"]);
    }

    #[test]
    fn a_directory_that_is_removed_while_it_is_looked_at_is_empty() {
        let base = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(base.path().join("dropped")).expect("mkdir");
        let dropped = Directory::data(&base.path().join("dropped")).expect("open");
        std::fs::remove_dir(base.path().join("dropped")).expect("remove");
        assert_eq!(dropped.entries().expect("nothing is there"), []);
        assert!(matches!(dropped.subdirectory("below"), Ok(None)));
    }
}
