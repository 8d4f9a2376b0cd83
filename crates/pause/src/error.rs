//! What goes wrong with an instance.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use tonic::{Code, Status};

/// Characters of an instance's own words, and of a reason, that are repeated.
const SHOWN: usize = 300;

/// One instance, and what is wrong with it.
#[derive(Debug, Clone)]
pub struct InstanceError {
    /// Which.
    pub instance: Instance,
    /// What.
    pub problem: Problem,
}

impl InstanceError {
    pub(crate) fn new(instance: &Instance, problem: Problem) -> Self {
        Self { instance: instance.clone(), problem }
    }
}

impl fmt::Display for InstanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.instance, self.problem)
    }
}

impl Error for InstanceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}

/// A method of the service `rpc.Admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Pauses.
    Pause,
    /// Unpauses.
    Unpause,
    /// Asks, in the newer generation.
    CheckPaused,
    /// Asks, in the older generation.
    Stats,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why an instance did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Problem {
    /// No connection came about. Nothing was asked.
    #[error("cannot be connected to")]
    Unreachable(#[source] Arc<io::Error>),
    /// The connection was lost before the answer came. The call may take effect all the same.
    #[error("the connection broke during {call}: {reason}")]
    Broken {
        /// What was asked.
        call: Call,
        /// Why, as far as it is known.
        reason: String,
    },
    /// No answer. The call may take effect all the same.
    #[error("no answer to {call} within {} ms", .within.as_millis())]
    TimedOut {
        /// What was asked.
        call: Call,
        /// For how long it was waited for.
        within: Duration,
    },
    /// The application said no.
    #[error("refused {call} with {code:?}: {message}")]
    Refused {
        /// What was asked.
        call: Call,
        /// The gRPC status.
        code: Code,
        /// The application's own words.
        message: String,
    },
    /// It was not waited for, as another instance had failed. The call may take effect all the same.
    #[error("was not waited for")]
    GivenUp,
    /// Answered the Pause, and said right after that it is not paused; or later.
    #[error("is not paused, although it has answered Pause")]
    GateOpen,
    /// Has acknowledged each Unpause, but the Pause before them was never answered and may still take effect.
    #[error("acknowledged Unpause, but its unanswered Pause may still take effect for {} ms", .left.as_millis())]
    MayStillPause {
        /// For how long.
        left: Duration,
    },
}

impl Problem {
    pub(crate) fn unreachable(source: io::Error) -> Self {
        Self::Unreachable(Arc::new(source))
    }

    /// What a call that did not succeed means.
    pub(crate) fn of_status(call: Call, status: &Status) -> Self {
        match is_answer(status) {
            true => Self::Refused { call, code: status.code(), message: shown(status.message()) },
            false => Self::Broken { call, reason: reason(status) },
        }
    }

    /// Whether the instance could not be reached, rather than having said no.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::GivenUp
            | Self::MayStillPause { .. } => true,
            Self::Refused { code, .. } => *code == Code::Unavailable,
            Self::GateOpen => false,
        }
    }

    /// Whether what was asked for can no longer happen: the instance itself has said so, or was never asked.
    ///
    /// A status that a proxy may have made up, when it gave up waiting, settles nothing.
    pub(crate) fn is_settled(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::GateOpen => true,
            Self::Refused { code, .. } => {
                !matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
            }
            Self::Broken { .. } | Self::TimedOut { .. } | Self::GivenUp | Self::MayStillPause { .. } => false,
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => {
                "Look whether the application runs there and listens on this port, and whether the SRV record is right."
            }
            Self::Broken { .. } => {
                "Look into the application's log: it may have ended or been restarted. What listens there has to be the \
                 service rpc.Admin, by gRPC without TLS."
            }
            Self::TimedOut { call: Call::Pause, .. } => {
                "Its requests under way did not end in time, or it hangs: look into the application's log, or raise \
                 max_pause_ms."
            }
            Self::TimedOut { .. } => "Look into the application's log; it may hang.",
            Self::GivenUp => "See to the instance that has failed.",
            Self::Refused { code: Code::Unimplemented, .. } => {
                "The port of an SRV record is that of the service rpc.Admin; look what listens there."
            }
            Self::Refused { .. } => "Look into the application's log for the reason.",
            Self::GateOpen => {
                "Somebody else unpaused it, or it pauses nothing: look into the application's log."
            }
            Self::MayStillPause { .. } => "Run `cassy unpause` once more when this time has passed.",
        }
    }
}

/// Whether the status came over the wire. What tonic makes up itself, when a connection fails, has a source.
fn is_answer(status: &Status) -> bool {
    status.source().is_none()
}

fn reason(status: &Status) -> String {
    match status.source() {
        Some(cause) => shown(&chain(cause)),
        None => shown(status.message()),
    }
}

/// The error with its causes; those that only repeat it are left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Words of others as they may be shown: short, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut words: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        words.push_str("...");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_short_and_visible() {
        assert_eq!(shown("no\n\u{1b}[31m"), "no\\n\\u{1b}[31m");
        assert_eq!(shown(&"x".repeat(1000)).len(), SHOWN + 3);
    }

    #[test]
    fn a_no_of_the_application_settles_it_and_one_of_a_proxy_does_not() {
        let refused = |code| Problem::of_status(Call::Pause, &Status::new(code, "no"));
        assert!(refused(Code::FailedPrecondition).is_settled() && refused(Code::Internal).is_settled());
        assert!(!refused(Code::Unavailable).is_settled() && !refused(Code::DeadlineExceeded).is_settled());
        let broken = Status::from_error(Box::new(io::Error::other("reset")));
        let broken = Problem::of_status(Call::Pause, &broken);
        assert!(!broken.is_settled() && broken.is_unavailable());
        assert_eq!(broken.to_string(), "the connection broke during Pause: reset");
    }
}
