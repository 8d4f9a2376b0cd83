//! Each source file by itself.

use crate::workspace::{assert_none, root, sources};

const LONGEST_FILE: usize = 700;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "manager"];
/// Written apart, so that this file does not find itself.
const UNFINISHED: [&str; 4] =
    [concat!("todo", "!("), concat!("unimpl", "emented!("), concat!("FIX", "ME"), concat!("XX", "X:")];

#[test]
fn every_file_says_what_it_is_for() {
    let mute = sources().into_iter().filter(|source| !source.text.starts_with("//!"));
    assert_none("files that do not begin with //!", &mute.map(|source| source.path).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_long() {
    let lines = |text: &str| text.lines().count();
    let long = sources().into_iter().filter(|source| lines(&source.text) > LONGEST_FILE);
    let findings: Vec<String> =
        long.map(|source| format!("{}: {}", source.path, lines(&source.text))).collect();
    assert_none(&format!("files of more than {LONGEST_FILE} lines lack a noun"), &findings);
}

#[test]
fn no_file_has_an_empty_name() {
    let is_empty = |path: &str| path.split(['/', '.']).any(|word| EMPTY_NAMES.contains(&word));
    let findings: Vec<String> =
        sources().into_iter().map(|source| source.path).filter(|path| is_empty(path)).collect();
    assert_none("names that say nothing", &findings);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut findings = Vec::new();
    for source in sources() {
        let found = UNFINISHED.iter().filter(|mark| source.text.contains(*mark));
        findings.extend(found.map(|mark| format!("{}: {mark}", source.path)));
    }
    assert_none("marks of unfinished work", &findings);
}

#[test]
fn sql_is_in_the_catalog_only() {
    let statements = ["INSERT INTO ", "SELECT * FROM", "DELETE FROM "];
    // The test kit, the tests and the benchmarks speak CQL, which looks the same.
    let homes = ["crates/catalog/", "crates/testkit/", "/tests/", "/benches/"];
    let may = |path: &str| homes.iter().any(|home| path.contains(home));
    let elsewhere = sources().into_iter().filter(|source| !may(&source.path));
    let has_sql = |text: &str| text.contains("sqlx::") || statements.iter().any(|words| text.contains(words));
    let findings: Vec<String> =
        elsewhere.filter(|source| has_sql(&source.text)).map(|source| source.path).collect();
    assert_none("SQL outside crates/catalog", &findings);
}

#[test]
fn every_crate_follows_the_lints_of_the_workspace() {
    let mut findings = Vec::new();
    for entry in std::fs::read_dir(root().join("crates")).expect("crates/ can be read").flatten() {
        let text = std::fs::read_to_string(entry.path().join("Cargo.toml")).unwrap_or_default();
        if !text.contains("[lints]\nworkspace = true") {
            findings.push(entry.path().display().to_string());
        }
    }
    assert_none("crates without the workspace's lints", &findings);
}
