//! What the documents name exists.

use std::collections::BTreeSet;

use crate::workspace::{assert_none, root, sources};

const DOCUMENTS: [&str; 5] =
    ["ARCHITECTURE.md", "README.md", "CHANGELOG.md", "docs/backup-format.md", "docs/glossary.md"];
const FOLDERS: [&str; 5] = ["crates/", "docs/", "scripts/", "conf/", ".ci/"];

#[test]
fn paths_that_documents_name_exist() {
    let mut findings = Vec::new();
    for (document, name) in names() {
        let path = name.trim_end_matches('/');
        if FOLDERS.iter().any(|folder| name.starts_with(folder)) && !root().join(path).exists() {
            findings.push(format!("{document}: {name}"));
        }
    }
    assert_none("paths that do not exist", &findings);
}

/// A test is named by its function, `a_long_name_in_words`, after modules or not.
#[test]
fn tests_that_documents_name_exist() {
    let sources = sources();
    let functions: BTreeSet<&str> = sources.iter().flat_map(|source| functions(&source.text)).collect();
    let keys = std::fs::read_to_string(root().join("conf/cassy.properties")).unwrap_or_default();
    let is_key = |name: &str| keys.contains(&format!("scalar.cassy.server.{name}="));
    let mut findings = Vec::new();
    for (document, name) in names() {
        let function = name.rsplit("::").next().unwrap_or(&name);
        let is_word = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        let is_sentence = function.matches('_').count() >= 4 && function.chars().all(is_word);
        if is_sentence && !functions.contains(function) && !is_key(function) {
            findings.push(format!("{document}: {name}"));
        }
    }
    assert_none("tests that do not exist", &findings);
}

/// Everything between single back-quotes, with the document that says it.
fn names() -> Vec<(&'static str, String)> {
    let mut names = Vec::new();
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root().join(document)).unwrap_or_default();
        for line in text.lines().filter(|line| !line.starts_with("```")) {
            names.extend(line.split('`').skip(1).step_by(2).map(|name| (document, name.to_owned())));
        }
    }
    names
}

fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next())
}
