//! The process's environment, as far as credentials go: a value, so that tests have one of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{NoCredentials, S3Credentials};

/// Variables that begin with `AWS_`, and the home directory.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("home", &self.home).finish_non_exhaustive()
    }
}

impl Environment {
    /// This process's own.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::new(std::env::vars_os().filter_map(text), std::env::home_dir())
    }

    /// These variables alone.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>, home: Option<PathBuf>) -> Self {
        let ours =
            variables.into_iter().filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty());
        Self { variables: ours.collect(), home }
    }

    /// The region that the environment names.
    pub fn region(&self) -> Option<&str> {
        self.variable("AWS_REGION").or_else(|| self.variable("AWS_DEFAULT_REGION"))
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The file that a variable names, else this one below the home directory.
    pub(super) fn file(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        match self.variable(variable) {
            Some(named) => Some(match (named.strip_prefix("~/"), &self.home) {
                (Some(rest), Some(home)) => home.join(rest),
                _ => PathBuf::from(named),
            }),
            None => Some(self.home.as_ref()?.join(below_home)),
        }
    }

    pub(super) fn credentials(&self) -> Result<Option<S3Credentials>, NoCredentials> {
        match (self.variable("AWS_ACCESS_KEY_ID"), self.variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => Ok(Some(S3Credentials {
                access_key_id: id.to_owned(),
                secret_access_key: secret.to_owned(),
                session_token: self.variable("AWS_SESSION_TOKEN").map(str::to_owned),
                expires_at_ms: None,
            })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(half("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
            (None, Some(_)) => Err(half("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")),
        }
    }
}

fn half(set: &str, missing: &str) -> NoCredentials {
    NoCredentials::wrong(format!("{set} is set, and {missing} is not"), "Set both, or none.")
}
