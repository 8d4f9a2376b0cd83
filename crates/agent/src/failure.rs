//! From an error of ours to what the server is told: the whole chain in one line, and what it means for the job.

use std::error::Error;

use cassy_agent_protocol::{AgentError, AgentErrorKind};
use cassy_store::{Class, StoreError};

/// An error that can answer a request.
pub(crate) trait IntoAgentError {
    /// The answer.
    fn into_agent_error(self) -> AgentError;
}

/// The answer for an error without a hint; the message joins the error and its sources.
pub(crate) fn agent_error(error: impl Error, kind: AgentErrorKind) -> AgentError {
    AgentError { kind, message: chain(&error), hint: None }
}

/// `error: its source: the source's source`. A source that repeats what was just said is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    message
}

/// The first ten, and how many more there are.
pub(crate) fn listed(items: &[String], separator: &str) -> String {
    const TOLD: usize = 10;
    let mut text = items.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join(separator);
    if items.len() > TOLD {
        text.push_str(&format!("{separator}{} more", items.len() - TOLD));
    }
    text
}

/// What a store's failure means for the job.
pub(crate) fn store_error_kind(error: &StoreError) -> AgentErrorKind {
    match error.class() {
        Class::Transient => AgentErrorKind::Transient,
        Class::Permanent => AgentErrorKind::Permanent,
        Class::Bug => AgentErrorKind::Bug,
    }
}

/// The store answers, and what it holds is not what a backup put there.
pub(crate) fn is_changed(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NotFound { .. }
            | StoreError::TooLarge { .. }
            | StoreError::OutOfRange { .. }
            | StoreError::Truncated { .. }
            | StoreError::NotPlain { .. }
    )
}

impl IntoAgentError for StoreError {
    fn into_agent_error(self) -> AgentError {
        let hint = self.hint();
        AgentError { hint, ..agent_error(&self, store_error_kind(&self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_told_shortly() {
        let items: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        assert_eq!(listed(&items[..2], "; "), "0; 1");
        assert_eq!(listed(&items, ", "), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2 more");
    }

    #[test]
    fn a_message_holds_the_whole_chain() {
        let access = cassy_store::StoreAccess::new("file://host/path".to_owned());
        let error = cassy_store::open(&access).expect_err("wrong").into_agent_error();
        assert_eq!(error.kind, AgentErrorKind::Permanent);
        assert!(error.message.starts_with("cannot open the store: \"file://host/path\" is not"), "{error}");
        assert!(error.hint.is_some());
    }
}
