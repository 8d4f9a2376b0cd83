//! What can go wrong at a store, what it means for another try, and what to do.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use cassy_backup_format::ObjectKey;
use rustix::io::Errno;

use crate::location::LocationError;

/// What a failure means for another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Another try may succeed.
    Transient,
    /// Another try fails in the same way until somebody acts.
    Permanent,
    /// A defect of ours.
    Bug,
}

/// A failure at a store. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such object.
    #[error("cannot {operation} {key}: there is no such object")]
    NotFound {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        key: String,
    },
    /// The key is taken; nothing was overwritten.
    #[error("cannot write {key}: the object exists already")]
    AlreadyExists {
        /// The key.
        key: ObjectKey,
    },
    /// More bytes than the caller is ready to take.
    #[error("cannot read {key}: it is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The key.
        key: ObjectKey,
        /// The limit.
        limit_bytes: u64,
    },
    /// The range is not within the object.
    #[error("cannot read bytes {}..{} of {key}: it has {size}", .range.start, .range.end)]
    OutOfRange {
        /// The key.
        key: ObjectKey,
        /// What was asked for.
        range: Range<u64>,
        /// The object's size.
        size: u64,
    },
    /// The object ended while it was read.
    #[error("cannot read {key}: it ended after {got} of {expected} bytes")]
    Truncated {
        /// The key.
        key: ObjectKey,
        /// Bytes that it had when reading began.
        expected: u64,
        /// Bytes that there were.
        got: u64,
    },
    /// The root directory of a `file://` store is missing.
    #[error("the store's directory {} does not exist", .root.display())]
    RootMissing {
        /// The directory.
        root: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No space, or no quota, is left.
    #[error("cannot {operation} {subject}: the store is full")]
    Full {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Not allowed.
    #[error("cannot {operation} {subject}: access to the store is denied")]
    Denied {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Something that is no plain file in a plain directory stands where the object should be.
    #[error("cannot {operation} {subject}: {reason}")]
    NotPlain {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        subject: String,
        /// What stands there.
        reason: &'static str,
    },
    /// A key or prefix that this store cannot hold.
    #[error("cannot {operation} {key:?}: {reason}")]
    Refused {
        /// What was to be done.
        operation: &'static str,
        /// The key or prefix.
        key: String,
        /// Why.
        reason: &'static str,
    },
    /// Any other answer of the system.
    #[error("cannot {operation} {subject}")]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The store's URI is wrong.
    #[error("cannot open the store")]
    Location {
        /// What is wrong with it.
        #[source]
        source: LocationError,
    },
    /// A kind of store that is known, and that this build cannot use yet.
    #[error("stores of the kind {scheme}: are not supported yet")]
    Unsupported {
        /// The URI's scheme.
        scheme: String,
    },
    /// A task of ours ended before its time.
    #[error("cannot {operation} {subject}: the work was cut short")]
    CutShort {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        subject: String,
        /// Why.
        #[source]
        source: Option<tokio::task::JoinError>,
    },
}

impl StoreError {
    /// Sorts an answer of the system; a missing object is the caller's to recognize.
    pub(crate) fn io(
        operation: &'static str,
        subject: &(impl ToString + ?Sized),
        source: impl Into<io::Error>,
    ) -> Self {
        let (subject, source) = (subject.to_string(), source.into());
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full { operation, subject, source },
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Self::Denied { operation, subject, source },
            Some(Errno::NOTDIR | Errno::LOOP) => Self::NotPlain {
                operation,
                subject,
                reason: "a symbolic link, or something that is no directory, stands in its path",
            },
            _ => Self::Io { operation, subject, source },
        }
    }

    /// What it means for another try.
    pub fn class(&self) -> Class {
        match self {
            Self::Io { source, .. } => io_class(source),
            Self::CutShort { source: Some(cause), .. } if cause.is_panic() => Class::Bug,
            Self::CutShort { source: None, .. } => Class::Bug,
            Self::CutShort { .. } | Self::Truncated { .. } => Class::Transient,
            Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::TooLarge { .. }
            | Self::OutOfRange { .. }
            | Self::RootMissing { .. }
            | Self::Full { .. }
            | Self::Denied { .. }
            | Self::NotPlain { .. }
            | Self::Refused { .. }
            | Self::Location { .. }
            | Self::Unsupported { .. } => Class::Permanent,
        }
    }

    /// What to do, when it is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::RootMissing { root, .. } => Some(format!(
                "Mount the file system that holds {0}, or create {0} once by hand; it is never created \
                 automatically, so that the disk below a missing mount is not filled.",
                root.display()
            )),
            Self::Full { .. } => Some("Free space in the store, or raise the quota.".to_owned()),
            Self::Denied { source, .. } if Errno::from_io_error(source) == Some(Errno::ROFS) => {
                Some("The store's file system is mounted read-only: mount it read-write.".to_owned())
            }
            Self::Denied { .. } => {
                Some("Let the user that runs this process read and write the store's directory.".to_owned())
            }
            Self::Io { source, .. } if is_out_of_descriptors(source) => {
                Some("Raise the limit of open files (ulimit -n).".to_owned())
            }
            Self::Location { source } => source.hint(),
            Self::NotPlain { subject, .. } => Some(format!(
                "Only directories and plain files belong in a store: find out who put something else at {subject}."
            )),
            _ => None,
        }
    }

    /// True when the object is not there, and the store is.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Most answers of a disk or a network file system may be different next time; these will not.
fn io_class(error: &io::Error) -> Class {
    match Errno::from_io_error(error) {
        Some(
            Errno::NAMETOOLONG | Errno::INVAL | Errno::FBIG | Errno::ISDIR | Errno::NOSYS | Errno::OPNOTSUPP,
        ) => Class::Permanent,
        Some(Errno::BADF | Errno::FAULT) => Class::Bug,
        _ => Class::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno) -> StoreError {
        StoreError::io("write", "a/b", io::Error::from(errno))
    }

    #[test]
    fn answers_of_the_system_are_sorted() {
        for (errno, class, text) in [
            (Errno::NOSPC, Class::Permanent, "cannot write a/b: the store is full"),
            (Errno::DQUOT, Class::Permanent, "cannot write a/b: the store is full"),
            (Errno::ACCESS, Class::Permanent, "cannot write a/b: access to the store is denied"),
            (Errno::ROFS, Class::Permanent, "cannot write a/b: access to the store is denied"),
            (Errno::IO, Class::Transient, "cannot write a/b"),
            (Errno::STALE, Class::Transient, "cannot write a/b"),
            (Errno::MFILE, Class::Transient, "cannot write a/b"),
            (Errno::NAMETOOLONG, Class::Permanent, "cannot write a/b"),
            (Errno::BADF, Class::Bug, "cannot write a/b"),
        ] {
            let error = of(errno);
            assert_eq!((error.class(), error.to_string().as_str()), (class, text), "{errno}");
        }
        assert!(of(Errno::MFILE).hint().is_some_and(|hint| hint.contains("ulimit")));
        assert!(of(Errno::ROFS).hint().is_some_and(|hint| hint.contains("read-only")));
    }
}
