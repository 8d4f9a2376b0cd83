//! What goes wrong with an instance.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use tonic::Code;

use crate::grpc::CallError;
use crate::tls::TlsError;

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
    /// No TLS came about. Nothing was asked.
    #[error("cannot be connected to by TLS")]
    Tls(#[from] TlsError),
    /// Something else listens there. Nothing was asked.
    #[error("does not speak HTTP/2: {reason}")]
    NotHttp2 {
        /// Why it cannot be.
        reason: String,
        /// Nothing was said: it may just be ending.
        cut: bool,
    },
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
    pub(crate) fn of_call(call: Call, error: &CallError) -> Self {
        match error {
            CallError::Status { code, message } => {
                Self::Refused { call, code: *code, message: shown(message) }
            }
            CallError::Lost(reason) => Self::Broken { call, reason: shown(reason) },
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
            Self::Tls(error) => error.is_unavailable(),
            Self::Refused { code, .. } => *code == Code::Unavailable,
            Self::NotHttp2 { cut, .. } => *cut,
            Self::GateOpen => false,
        }
    }

    /// Whether what was asked for can no longer happen: the instance itself has said so, or was never asked.
    ///
    /// A status that a proxy may have made up, when it gave up waiting, settles nothing.
    pub(crate) fn is_settled(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Tls(_) | Self::NotHttp2 { .. } | Self::GateOpen => true,
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
                "Look whether the application runs there and listens on this port, whether the SRV record is right, and \
                 whether srv_service_tls says what the port speaks."
            }
            Self::Tls(error) => error.hint(),
            Self::NotHttp2 { .. } => {
                "The port of an SRV record is that of the service rpc.Admin, by gRPC: look what listens there. If it \
                 speaks TLS, set srv_service_tls to true."
            }
            Self::Broken { .. } => "Look into the application's log: it may have ended or been restarted.",
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

/// The error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
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
        let refused =
            |code| Problem::of_call(Call::Pause, &CallError::Status { code, message: "no".to_owned() });
        assert!(refused(Code::FailedPrecondition).is_settled() && refused(Code::Internal).is_settled());
        assert!(!refused(Code::Unavailable).is_settled() && !refused(Code::DeadlineExceeded).is_settled());
        let broken = Problem::of_call(Call::Pause, &CallError::Lost("reset".to_owned()));
        assert!(!broken.is_settled() && broken.is_unavailable());
        assert_eq!(broken.to_string(), "the connection broke during Pause: reset");
    }
}
