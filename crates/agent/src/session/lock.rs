//! The node's lock: an exclusive `flock` on a directory itself, which leaves nothing behind whatever happens to
//! the agent.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cassy_agent_protocol::{AgentError, AgentErrorKind, LockRequest};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{IntoAgentError, agent_error};
use crate::inspect::access::Unreadable;
use crate::inspect::{Machine, nearest_existing};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why the node is not locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("{directory:?} cannot be locked: it is not an absolute path")]
    Relative { directory: String },
    #[error("cannot lock {}", .path.display())]
    System {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Unreadable(Unreadable),
    #[error("another agent works on this node: it holds the lock on {}", .path.display())]
    Busy { path: PathBuf },
    /// It was missing when the node was looked at; who works on the node makes it, or mounts it.
    #[error("{} is there now, and was not when the node was looked at: another agent has made it, or somebody else", .path.display())]
    Made { path: PathBuf },
    #[error("stopped")]
    Cancelled,
}

impl LockError {
    pub(crate) fn kind(&self) -> AgentErrorKind {
        match self {
            Self::Relative { .. } | Self::System { .. } | Self::Unreadable(_) => AgentErrorKind::Permanent,
            Self::Busy { .. } | Self::Made { .. } => AgentErrorKind::Busy,
            Self::Cancelled => AgentErrorKind::Cancelled,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable(unreadable) => Some(unreadable.hint()),
            Self::Made { .. } => Some("Restore again: the node is looked at anew.".to_owned()),
            Self::Busy { .. } => Some(
                "Wait for the other job on this node; an agent whose server is gone ends by itself."
                    .to_owned(),
            ),
            Self::Relative { .. } | Self::System { .. } | Self::Cancelled => None,
        }
    }
}

impl IntoAgentError for LockError {
    fn into_agent_error(self) -> AgentError {
        AgentError { hint: self.hint(), ..agent_error(&self, self.kind()) }
    }
}

/// The locks of one agent, shared by all that works in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locks(Arc<Mutex<Vec<Lock>>>);

impl Locks {
    fn all(&self) -> MutexGuard<'_, Vec<Lock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// True when it is this very directory that is locked.
    pub(crate) fn have(&self, path: &Path) -> bool {
        self.all().iter().any(|lock| lock.is_on(path))
    }

    pub(crate) fn add(&self, lock: Lock) {
        self.all().push(lock);
    }

    /// Locks a directory that is there, without waiting. The same one again is fine.
    pub(crate) fn hold(&self, path: &Path) -> Result<(), LockError> {
        if self.have(path) {
            return Ok(());
        }
        let lock = Lock::try_take(path)?.ok_or_else(|| LockError::Busy { path: path.to_owned() })?;
        self.add(lock);
        Ok(())
    }
}

/// The lock; ends when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    directory: OwnedFd,
}

impl Lock {
    /// Waits for it, up to the time that the request names.
    pub(crate) async fn take(cancel: &CancellationToken, request: &LockRequest) -> Result<Self, LockError> {
        let wanted = Path::new(&request.directory);
        if !wanted.is_absolute() {
            return Err(LockError::Relative { directory: request.directory.clone() });
        }
        let deadline = Instant::now() + Duration::from_millis(request.wait_ms.min(u64::from(u32::MAX)));
        let mut pause = FIRST_PAUSE;
        loop {
            let path = nearest_existing(wanted);
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(LockError::Busy { path: path.to_owned() });
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(LockError::Cancelled),
                () = tokio::time::sleep(pause.min(deadline - now)) => pause = LONGEST_PAUSE.min(pause * 2),
            }
        }
    }

    /// `None` when somebody else has it, or when the directory was replaced meanwhile.
    fn try_take(path: &Path) -> Result<Option<Self>, LockError> {
        let failed = |errno: Errno| LockError::System { path: path.to_owned(), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ACCESS) => {
                let machine = Machine::default();
                return Err(LockError::Unreadable(Unreadable::of(
                    &machine,
                    path,
                    path,
                    Errno::ACCESS.into(),
                )));
            }
            Err(errno) => return Err(failed(errno)),
        };
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        }
        let lock = Self { directory };
        Ok(lock.is_on(path).then_some(lock))
    }

    /// True when it is this very directory that is locked.
    pub(crate) fn is_on(&self, path: &Path) -> bool {
        let locked = rustix::fs::fstat(&self.directory);
        let named = std::fs::metadata(path);
        matches!((locked, named), (Ok(locked), Ok(named)) if locked.st_ino == named.ino() && locked.st_dev == named.dev())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(directory: &Path, wait_ms: u64) -> LockRequest {
        LockRequest { directory: directory.to_str().unwrap().to_owned(), wait_ms }
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let node = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let first = Lock::take(&cancel, &request(node.path(), 0)).await.unwrap();
        let busy = Lock::take(&cancel, &request(node.path(), 50)).await.unwrap_err().into_agent_error();
        assert_eq!(busy.kind, AgentErrorKind::Busy);
        assert!(busy.message.contains(node.path().to_str().unwrap()));
        let long = request(node.path(), 60_000);
        let second = Lock::take(&cancel, &long);
        let free = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, free);
        assert!(second.unwrap().is_on(node.path()));
    }

    #[tokio::test]
    async fn a_missing_directory_is_locked_by_its_parent() {
        let node = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let lock = Lock::take(&cancel, &request(&node.path().join("a/b"), 0)).await.unwrap();
        assert!(lock.is_on(node.path()));
    }

    #[tokio::test]
    async fn waiting_stops_when_cancelled() {
        let node = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let _first = Lock::take(&cancel, &request(node.path(), 0)).await.unwrap();
        cancel.cancel();
        let error = Lock::take(&cancel, &request(node.path(), 60_000)).await.unwrap_err();
        assert!(matches!(error, LockError::Cancelled));
        let relative = LockRequest { directory: "data".to_owned(), wait_ms: 0 };
        assert!(matches!(Lock::take(&cancel, &relative).await.unwrap_err(), LockError::Relative { .. }));
    }
}
