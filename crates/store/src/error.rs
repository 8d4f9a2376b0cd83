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
    /// The store was not reached, or broke off.
    #[error("cannot {operation} {subject}: {place} does not answer")]
    Unreachable {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        subject: String,
        /// Host and bucket.
        place: String,
        /// Whether its certificate is why.
        is_untrusted: bool,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store says no.
    #[error(transparent)]
    Answered(Box<Refusal>),
    /// An answer that no honest store gives.
    #[error("cannot {operation} {subject}: {place} gave an answer that cannot be believed: {reason}")]
    Misbehaved {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        subject: String,
        /// Host and bucket.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes were changed on the way, or in the store.
    #[error("cannot {operation} {subject}: its checksum is {got} in place of {expected}")]
    Damaged {
        /// What was to be done.
        operation: &'static str,
        /// On what.
        subject: String,
        /// Of what was sent, or what the store says.
        expected: String,
        /// Of what has come.
        got: String,
    },
    /// The store does not keep a promise that backups need.
    #[error("{place} cannot hold backups: {reason}")]
    Unfit {
        /// Host and bucket.
        place: String,
        /// What it does.
        reason: String,
    },
    /// We cannot say who we are.
    #[error("there are no credentials for the store: {reason}")]
    Credentials {
        /// Why; holds no secret.
        reason: String,
        /// What to do.
        hint: Option<String>,
        /// Whether another try may find some.
        is_transient: bool,
    },
    /// What was configured for the store is wrong.
    #[error("the store's {what} cannot be used: {reason}")]
    Settings {
        /// Endpoint, region or certificates.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
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

/// A store's answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} {subject}: {place} answered {status} {code}{}", said(.message))]
pub struct Refusal {
    /// What was to be done.
    pub operation: &'static str,
    /// On what.
    pub subject: String,
    /// Host and bucket.
    pub place: String,
    /// Of HTTP.
    pub status: u16,
    /// The store's own name for what is wrong; may be empty.
    pub code: String,
    /// The store's own words, cut short; may be empty.
    pub message: String,
    /// The region that the bucket is in, when the store tells it.
    pub region: Option<String>,
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
            Self::CutShort { .. } | Self::Truncated { .. } | Self::Damaged { .. } => Class::Transient,
            Self::Unreachable { is_untrusted: false, .. } => Class::Transient,
            Self::Answered(refusal) => answer_class(refusal.status, &refusal.code),
            Self::Credentials { is_transient: true, .. } => Class::Transient,
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
            | Self::Unreachable { .. }
            | Self::Misbehaved { .. }
            | Self::Unfit { .. }
            | Self::Credentials { .. }
            | Self::Settings { .. }
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
            Self::Credentials { hint, .. } => hint.clone(),
            Self::Answered(refusal) => refusal.hint(),
            Self::Unreachable { is_untrusted: true, .. } => Some(
                "Its certificate is not trusted: set the key s3_ca_file to the certificate of whoever signed it."
                    .to_owned(),
            ),
            Self::Unreachable { .. } => {
                Some("Look whether this machine reaches it, and at the key s3_endpoint.".to_owned())
            }
            Self::Unfit { .. } => Some("Choose another store, or a newer version of this one.".to_owned()),
            Self::NotPlain { subject, .. } => Some(format!(
                "Only directories and plain files belong in a store: find out who put something else at {subject}."
            )),
            _ => None,
        }
    }

    /// The status and the code with which a store said no.
    pub(crate) fn refusal(&self) -> Option<(u16, &str)> {
        match self {
            Self::Answered(refusal) => Some((refusal.status, &refusal.code)),
            _ => None,
        }
    }

    /// True when the object is not there, and the store is.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// ` (the store's words)`.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
fn answer_class(status: u16, code: &str) -> Class {
    const AGAIN: &[&str] = &[
        "ConditionalRequestConflict",
        "ExpiredToken",
        "ExpiredTokenException",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottlingException",
        // What was sent did not arrive as it was.
        "BadDigest",
        "IncompleteBody",
    ];
    match status {
        501 => Class::Permanent,
        408 | 429 | 500.. => Class::Transient,
        _ if AGAIN.contains(&code) => Class::Transient,
        _ => Class::Permanent,
    }
}

impl Refusal {
    fn hint(&self) -> Option<String> {
        let hint = match (self.status, self.code.as_str(), &self.region) {
            (300..=400, _, Some(region)) => {
                return Some(format!("The bucket is in the region {region}: set the key s3_region."));
            }
            (300..=399, ..) => {
                "The store sends us elsewhere, where we do not go: set the keys s3_endpoint and s3_region."
            }
            (_, "NoSuchBucket", _) => {
                "Create the bucket, or correct storage_base_uri; it is never created automatically."
            }
            (_, "RequestTimeTooSkewed", _) => {
                "The clocks of this machine and of the store differ: set the clock."
            }
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch", _) => {
                "Look at the credentials and at the key s3_region."
            }
            (_, "AuthorizationHeaderMalformed", _) => "Set the key s3_region to the region of the bucket.",
            (403, ..) => {
                "Allow these credentials to list the bucket and to get, put and abort uploads of objects in it; \
                 the server's own also to delete them."
            }
            (507, ..) | (_, "XMinioStorageFull", _) => "Free space in the store, or raise the quota.",
            (503 | 429, ..) => "The store asks for less; try again later.",
            _ => return None,
        };
        Some(hint.to_owned())
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
