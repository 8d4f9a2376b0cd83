//! Bad inputs: for each the entries by which it can come in, and beside each entry the tests that bring it in.
//!
//! [`PAIRS`] says what has to be covered, `bad_inputs/table.txt` by which test it is. The section "Bad input" of
//! `docs/testing.md` is made of both.

use std::collections::{BTreeMap, BTreeSet};

use crate::workspace::{assert_none, root, sources};

/// By what a bad input comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Grpc,
    Configuration,
    Database,
    Store,
    Jmx,
    Disk,
    Frames,
}
use Entry::{Configuration, Database, Disk, Frames, Grpc, Jmx, Store};

const ENTRIES: [(Entry, &str, &str); 7] = [
    (Grpc, "gRPC", "a request"),
    (Configuration, "configuration", "the server's properties file"),
    (Database, "database", "a row of the metadata database"),
    (Store, "store", "an object, or its name"),
    (Jmx, "JMX", "an answer of a node"),
    (Disk, "disk", "a file or a name on a node's disk, its configuration too"),
    (Frames, "frames", "a message between server and agent"),
];

/// Every number with the entries by which it can come in.
const PAIRS: &[(u16, &[Entry])] = &[
    (7, &[Configuration, Database, Store, Jmx, Frames]),
    (8, &[Configuration, Database, Store, Jmx, Frames]),
    (9, &[Grpc, Configuration, Database, Store, Jmx, Disk, Frames]),
    (10, &[Grpc, Configuration, Store, Jmx, Disk, Frames]),
    (11, &[Grpc, Configuration, Database, Store, Jmx, Disk, Frames]),
    (12, &[Grpc, Database, Store, Jmx, Disk]),
    (14, &[Store, Disk]),
    (15, &[Disk]),
    (16, &[Store, Disk]),
    (17, &[Database, Store, Jmx, Disk]),
    (18, &[Database, Store, Jmx, Disk]),
    (19, &[Database, Store, Jmx, Disk]),
    (20, &[Database, Store, Jmx, Disk]),
    (21, &[Store, Jmx, Disk]),
    (22, &[Grpc, Database, Store, Disk, Frames]),
    (23, &[Grpc, Database, Store, Jmx, Disk, Frames]),
    (24, &[Database, Store, Jmx, Disk]),
    (25, &[Grpc, Configuration, Database, Store, Jmx, Disk, Frames]),
    (26, &[Grpc, Database, Store, Jmx, Disk, Frames]),
    (30, &[Configuration, Database, Store, Jmx, Disk, Frames]),
    (31, &[Grpc, Database, Store, Jmx, Disk]),
    (32, &[Grpc, Configuration, Database, Store, Jmx, Disk, Frames]),
    (33, &[Store]),
    (34, &[Store, Disk]),
    (35, &[Database, Store, Jmx, Frames]),
    (36, &[Store, Disk]),
    (37, &[Store]),
    (38, &[Store]),
    (39, &[Store]),
    (40, &[Store]),
    (41, &[Store]),
    (42, &[Grpc, Store, Jmx, Disk, Frames]),
    (43, &[Configuration, Database, Store, Disk, Frames]),
    (44, &[Database, Store, Jmx, Disk, Frames]),
    (45, &[Disk]),
    (46, &[Store, Disk]),
    (47, &[Disk]),
    (48, &[Disk]),
    (49, &[Store, Disk]),
    (50, &[Store, Disk]),
    (51, &[Store, Disk]),
    (52, &[Store, Disk]),
    (71, &[Jmx]),
    (72, &[Jmx]),
    (73, &[Jmx]),
    (74, &[Jmx]),
    (75, &[Jmx]),
    (76, &[Jmx]),
    (77, &[Store, Jmx, Disk, Frames]),
    (78, &[Jmx, Frames]),
    (80, &[Grpc, Configuration, Store, Jmx, Frames]),
    (81, &[Grpc, Configuration, Database, Store, Jmx, Frames]),
    (84, &[Grpc, Disk]),
];

const TABLE: &str = include_str!("bad_inputs/table.txt");
const DOCUMENT: &str = "docs/testing.md";
const HEADING: &str = "## Bad input\n";

/// A line of the table with the lines below it.
struct Input<'a> {
    number: u16,
    what: &'a str,
    met: BTreeMap<Entry, Vec<&'a str>>,
}

#[test]
fn every_bad_input_has_a_test_at_every_entry() {
    let expected: BTreeSet<(u16, Entry)> =
        PAIRS.iter().flat_map(|(number, entries)| entries.iter().map(|entry| (*number, *entry))).collect();
    let table = table();
    let covered: BTreeSet<(u16, Entry)> =
        table.iter().flat_map(|input| input.met.keys().map(|entry| (input.number, *entry))).collect();
    let missing = expected.difference(&covered).map(|pair| format!("{pair:?} has no test"));
    let unknown = covered.difference(&expected).map(|pair| format!("{pair:?} is not among the pairs"));
    assert_none("pairs of bad inputs and entries", &missing.chain(unknown).collect::<Vec<_>>());
}

#[test]
fn every_test_of_a_bad_input_exists() {
    let known = tests();
    let mut findings = Vec::new();
    for input in table() {
        for (entry, tests) in &input.met {
            if tests.is_empty() {
                findings.push(format!("{} {entry:?}: no test is named", input.number));
            }
            let absent = tests.iter().filter(|test| !known.contains(**test));
            findings.extend(absent.map(|test| format!("{} {entry:?}: {test}", input.number)));
        }
    }
    assert_none("tests that do not exist (crate::function)", &findings);
}

#[test]
fn the_document_has_the_table() {
    let document = std::fs::read_to_string(root().join(DOCUMENT)).unwrap_or_default();
    let (_, found, _) = around(&document);
    let hint = "run: cargo test -p cassy-testkit --test tidy write_the_table_of_bad_inputs -- --ignored";
    assert!(found == section(), "{DOCUMENT} does not have the table of bad inputs as it is now; {hint}");
}

#[test]
#[ignore = "writes the section of docs/testing.md"]
fn write_the_table_of_bad_inputs() {
    let path = root().join(DOCUMENT);
    let document = std::fs::read_to_string(&path).unwrap_or_else(|_| "# Testing\n\n".to_owned());
    let (before, _, after) = around(&document);
    let gap = if after.is_empty() { "\n" } else { "\n\n" };
    std::fs::write(path, format!("{before}{}{gap}{after}", section())).expect("the document can be written");
}

fn table() -> Vec<Input<'static>> {
    let mut table: Vec<Input<'_>> = Vec::new();
    for line in TABLE.lines() {
        if let Some(line) = line.strip_prefix("  ") {
            let (name, tests) = line.split_once(": ").expect("an entry and its tests");
            let entry = ENTRIES.iter().find(|(entry, ..)| format!("{entry:?}") == name);
            let entry = entry.unwrap_or_else(|| panic!("an entry: {line}")).0;
            let input = table.last_mut().expect("a number comes first");
            assert!(input.met.insert(entry, tests.split(", ").collect()).is_none(), "{line} is there twice");
        } else {
            let (number, what) = line.split_once(' ').expect("a number and what it is");
            let number = number.parse().expect("a number");
            assert!(table.last().is_none_or(|last| last.number < number), "{number} is not in its order");
            table.push(Input { number, what, met: BTreeMap::new() });
        }
    }
    table
}

/// Every function behind a test's attribute, as `crate::function`.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for source in sources() {
        let Some((name, _)) = source.path.trim_start_matches("crates/").split_once('/') else { continue };
        let mut is_test = false;
        for line in source.text.lines().map(str::trim_start) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
                let function = rest.split(['(', '<']).next().unwrap_or_default();
                if std::mem::take(&mut is_test) {
                    tests.insert(format!("{name}::{function}"));
                }
            }
        }
    }
    tests
}

/// What stands before the section, the section, and what stands behind it.
fn around(document: &str) -> (&str, &str, &str) {
    let Some(at) = document.find(HEADING) else { return (document, "", "") };
    let (before, rest) = document.split_at(at);
    let end = rest[HEADING.len()..].find("\n## ").map_or(rest.len(), |at| HEADING.len() + at + 1);
    let (section, after) = rest.split_at(end);
    (before, section.trim_end_matches('\n'), after)
}

fn section() -> String {
    let mut text = format!(
        "{HEADING}\nWhat comes from outside is data: it is refused with what, where and why, or kept as it is; nothing is \
         written outside its root, nothing is lost, nothing panics. For each bad input the table names every entry by \
         which it can come in, and the tests that bring it in there (`crate::test`). The same table is in \
         `crates/testkit/tests/tidy/bad_inputs/`, where a test fails when a pair has none.\n\n| entry | what comes in |\n|---|---|\n"
    );
    for (_, name, what) in ENTRIES {
        text.push_str(&format!("| {name} | {what} |\n"));
    }
    text.push_str("\n| # | input | entry | tests |\n|---|---|---|---|\n");
    for Input { number, what, met } in table() {
        for (position, (entry, tests)) in met.into_iter().enumerate() {
            let name = ENTRIES.iter().find(|(known, ..)| *known == entry).map_or("", |(_, name, _)| name);
            let tests: Vec<String> = tests.into_iter().map(|test| format!("`{test}`")).collect();
            let first = if position == 0 { format!("{number} | {what}") } else { " | ".to_owned() };
            text.push_str(&format!("| {first} | {name} | {} |\n", tests.join(", ")));
        }
    }
    text.trim_end().to_owned()
}
