//! The entries of a configuration file while they are judged, and what was found wrong with them.

use super::keys::{self, ALL, Expected, PREFIX};
use super::properties::Entry;
use super::{ConfigError, Loaded, Problem, ServerConfig};
use std::collections::BTreeMap;

/// Known keys, without their prefix, and problems so far.
pub(super) struct Settings<'a> {
    file: String,
    values: BTreeMap<&'static str, &'a str>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl<'a> Settings<'a> {
    /// Takes up all entries: unknown keys and repeated ones are noted here.
    pub(super) fn new(file: String, entries: &'a [Entry]) -> Self {
        let mut settings = Self { file, values: BTreeMap::new(), problems: Vec::new(), warnings: Vec::new() };
        for entry in entries {
            match known(&entry.key) {
                Some(key) => settings.take(key, entry),
                None => settings.warn_unknown(&entry.key),
            }
        }
        settings
    }

    fn take(&mut self, key: &'static str, entry: &'a Entry) {
        let value = entry.value.trim();
        if value.contains(char::is_control) {
            self.values.insert(key, value);
            self.refuse(key, "expected a value without control characters");
            self.values.remove(key);
            return;
        }
        match self.values.insert(key, value) {
            Some(before) if before != value => {
                self.refuse(
                    key,
                    &format!("is set twice, to different values (again in line {})", entry.line),
                );
            }
            Some(_) => self.warn(key, &format!("is set twice (again in line {})", entry.line)),
            None => {}
        }
    }

    fn warn_unknown(&mut self, key: &str) {
        let text = match keys::nearest(key) {
            Some(nearest) => format!("unknown key, ignored: did you mean {PREFIX}{nearest}?"),
            None => "unknown key, ignored".to_owned(),
        };
        let key = key.chars().take(120).flat_map(keys::escaped).collect();
        self.warnings.push(Problem { file: self.file.clone(), key, value: None, text });
    }

    /// The value of a key, when it is not blank.
    pub(super) fn raw(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).copied().filter(|value| !value.is_empty())
    }

    /// Outer `None`: there is a problem. Inner `None`: not set, or blank.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        judge: impl Fn(&str) -> Result<T, Expected>,
    ) -> Option<Option<T>> {
        let Some(value) = self.raw(key) else { return Some(None) };
        match judge(value) {
            Ok(value) => Some(Some(value)),
            Err(expected) => {
                self.refuse(key, &expected);
                None
            }
        }
    }

    pub(super) fn or_default<T>(
        &mut self,
        key: &'static str,
        judge: impl Fn(&str) -> Result<T, Expected>,
        default: T,
    ) -> Option<T> {
        self.optional(key, judge).map(|value| value.unwrap_or(default))
    }

    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        missing: &str,
        judge: impl Fn(&str) -> Result<T, Expected>,
    ) -> Option<T> {
        let refused_already = self.problems.iter().any(|problem| problem.key == full(key));
        let value = self.optional(key, judge)?;
        if value.is_none() && !refused_already {
            let problem = self.problem(key, &format!("required, but not set: {missing}"));
            self.problems.push(Problem { value: None, ..problem });
        }
        value
    }

    /// Notes that this key's value cannot be used.
    pub(super) fn refuse(&mut self, key: &'static str, expected: &str) {
        let problem = self.problem(key, expected);
        self.problems.push(problem);
    }

    /// Notes something that does not keep the server from starting.
    pub(super) fn warn(&mut self, key: &'static str, text: &str) {
        let problem = self.problem(key, text);
        self.warnings.push(problem);
    }

    fn problem(&self, key: &'static str, text: &str) -> Problem {
        let value = self.values.get(key).map(|value| keys::shown(key, value));
        Problem { file: self.file.clone(), key: full(key), value, text: text.to_owned() }
    }

    /// The result of it all.
    pub(super) fn finish(self, config: Option<ServerConfig>) -> Result<Loaded, ConfigError> {
        match config {
            Some(config) if self.problems.is_empty() => Ok(Loaded { config, warnings: self.warnings }),
            _ => Err(ConfigError::Wrong { problems: self.problems, warnings: self.warnings }),
        }
    }
}

fn full(key: &str) -> String {
    format!("{PREFIX}{key}")
}

fn known(key: &str) -> Option<&'static str> {
    let key = key.strip_prefix(PREFIX)?;
    ALL.into_iter().find(|known| *known == key)
}
