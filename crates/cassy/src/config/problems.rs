//! What is wrong with a configuration, one line each.

use super::properties::SyntaxError;
use std::error::Error;
use std::fmt;

/// One thing about one key: `FILE: KEY = VALUE: what was expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(super) file: String,
    pub(super) key: String,
    /// As it may be shown; `None` when it does not matter.
    pub(super) value: Option<String>,
    pub(super) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(out, "{}: {} = {value}: {}", self.file, self.key, self.text),
            None => write!(out, "{}: {}: {}", self.file, self.key, self.text),
        }
    }
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {file}")]
    Unreadable { file: String, source: std::io::Error },
    #[error("the configuration file {file} is larger than {limit_bytes} bytes")]
    TooLarge { file: String, limit_bytes: u64 },
    #[error("{file}: not in the format of Java's .properties files")]
    Syntax { file: String, source: SyntaxError },
    #[error("{} values of the configuration are wrong", problems.len())]
    Wrong { problems: Vec<Problem>, warnings: Vec<Problem> },
}

impl ConfigError {
    /// All that is to be said, a line each, errors last.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Wrong { problems, warnings } => {
                let warnings = warnings.iter().map(|problem| format!("warning: {problem}"));
                warnings.chain(problems.iter().map(|problem| format!("error: {problem}"))).collect()
            }
            other => {
                let cause = other.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                vec![format!("error: {other}{cause}")]
            }
        }
    }
}
