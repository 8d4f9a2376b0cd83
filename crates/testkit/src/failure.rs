//! The one error of the kit: a sentence for the person who reads the test's output.
//!
//! Nothing here is handled by code, so there are no variants; every layer adds what it was doing.

use std::fmt::Display;

/// What went wrong, from the outermost act to the innermost cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// A failure that has no cause but itself.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Adds to an error what was being done when it came up.
pub trait Doing<T> {
    /// `read the log: permission denied`.
    fn doing<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Doing<T> for Result<T, E> {
    fn doing<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("{}: {}", what(), chain(&error))))
    }
}

/// The error with all its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
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
