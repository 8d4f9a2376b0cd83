//! How many files the server may have open: every connection is one, and the usual soft limit of 1,024 is kept for
//! programs that call `select`, which this is none of (setrlimit(2)).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one; answers what is in force.
pub(crate) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        // None is no limit.
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, limit = current, "the limit of open files cannot be raised");
            current.unwrap_or(u64::MAX)
        }
    }
}
