//! The safety rules, each with a change that removes it and the test that has to fail then.

mod applications;
mod backup;
mod freeze;
mod increment;
mod jobs;
mod restore;
mod store;

use std::fmt;

/// A rule, removed.
#[derive(Debug)]
pub(crate) struct Mutation {
    /// Names it on the command line.
    pub(crate) name: &'static str,
    /// What does not hold any more.
    pub(crate) removed: &'static str,
    /// From the root.
    pub(crate) file: &'static str,
    /// Is in the file exactly once.
    pub(crate) find: &'static str,
    /// Compiles in its place.
    pub(crate) replace: &'static str,
    /// Fails then.
    pub(crate) test: Test,
}

/// One test of one program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Test {
    /// Its crate.
    pub(crate) package: &'static str,
    /// The file in `tests/`; `None` for a test within the crate itself.
    pub(crate) target: Option<&'static str>,
    /// With its modules.
    pub(crate) name: &'static str,
}

const fn within(package: &'static str, name: &'static str) -> Test {
    Test { package, target: None, name }
}

const fn beside(package: &'static str, target: &'static str, name: &'static str) -> Test {
    Test { package, target: Some(target), name }
}

const fn control(name: &'static str) -> Test {
    beside("cassy-control", "control", name)
}

const fn agent(name: &'static str) -> Test {
    within("cassy-agent", name)
}

/// All of them, in the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Mutation> {
    parts().into_iter().flat_map(|(_, part)| part)
}

fn parts() -> [(&'static str, &'static [Mutation]); 7] {
    [
        ("Taking a backup", backup::RULES),
        ("Finding the applications", applications::RULES),
        ("Pausing the applications", freeze::RULES),
        ("Increments", increment::RULES),
        ("The store", store::RULES),
        ("Restoring", restore::RULES),
        ("Jobs", jobs::RULES),
    ]
}

/// The tables of `docs/testing.md`.
pub(crate) fn markdown() -> String {
    let mut text = String::new();
    for (title, part) in parts() {
        text.push_str(&format!(
            "\n### {title}\n\n| rule that is removed | mutation | test that fails then |\n|---|---|---|\n"
        ));
        for Mutation { name, removed, test, .. } in part {
            text.push_str(&format!("| {removed} | `{name}` | `{test}` |\n"));
        }
    }
    text
}

impl Mutation {
    /// The file's text without the rule.
    pub(crate) fn apply(&self, whole: &str) -> Result<String, String> {
        match whole.matches(self.find).count() {
            1 => Ok(whole.replacen(self.find, self.replace, 1)),
            count => Err(format!("{}: its text is {count} times in {}: {}", self.name, self.file, self.find)),
        }
    }
}

impl Test {
    /// What has to be compiled for it.
    pub(crate) fn program(&self) -> (&'static str, Option<&'static str>) {
        (self.package, self.target)
    }

    /// For cargo.
    pub(crate) fn program_arguments(&self) -> Vec<&'static str> {
        self.target.map_or_else(|| vec!["--lib"], |target| vec!["--test", target])
    }

    /// The package's own, from the root.
    pub(crate) fn directory(&self) -> String {
        format!("crates/{}", self.package.trim_start_matches("cassy-"))
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.map(|target| format!("{target}::")).unwrap_or_default();
        write!(f, "{}::{target}{}", self.package.trim_start_matches("cassy-"), self.name)
    }
}
