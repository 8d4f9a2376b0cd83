//! Every mutation can still be made, and its test is there: what the sources lose, `scripts/mutate` would only find out
//! after an hour.

#[allow(dead_code, reason = "the program that makes the mutations uses the rest")]
#[path = "../../src/bin/mutate/rules/mod.rs"]
mod rules;

use std::collections::BTreeSet;

use crate::workspace::{assert_none, root, sources};

#[test]
fn every_mutation_finds_its_text_once() {
    let mut findings = Vec::new();
    for mutation in rules::all() {
        let whole = std::fs::read_to_string(root().join(mutation.file)).unwrap_or_default();
        match mutation.apply(&whole) {
            Ok(mutated) if mutated == whole => findings.push(format!("{} changes nothing", mutation.name)),
            Ok(_) => {}
            Err(error) => findings.push(error),
        }
    }
    assert_none("mutations that cannot be made", &findings);
}

#[test]
fn every_mutation_has_a_name_of_its_own_and_a_test_that_is_there() {
    let sources = sources();
    let (mut names, mut findings) = (BTreeSet::new(), Vec::new());
    for mutation in rules::all() {
        if !names.insert(mutation.name) {
            findings.push(format!("{} is there twice", mutation.name));
        }
        let directory = format!("{}/", mutation.test.directory());
        let function = mutation.test.name.rsplit("::").next().unwrap_or_default();
        let text = format!("fn {function}(");
        let has_it = |path: &str, content: &str| path.starts_with(&directory) && content.contains(&text);
        if !sources.iter().any(|source| has_it(&source.path, &source.text)) {
            findings.push(format!("{}: there is no test {}", mutation.name, mutation.test));
        }
    }
    assert_none("mutations without a test", &findings);
}

#[test]
fn the_document_shows_every_mutation() {
    let document = std::fs::read_to_string(root().join("docs/testing.md")).unwrap_or_default();
    let section = document.split("\n## ").find(|section| section.starts_with("Mutation\n"));
    let rows = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with('|')).map(str::to_owned).collect()
    };
    let (shown, made) = (rows(section.unwrap_or_default()), rows(&rules::markdown()));
    let findings: Vec<String> = shown.symmetric_difference(&made).cloned().collect();
    assert_none(
        "rows that docs/testing.md lacks or has too many (scripts/mutate --markdown prints all)",
        &findings,
    );
}
