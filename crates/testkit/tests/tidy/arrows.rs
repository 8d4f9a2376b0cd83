//! Which crate may know which. A new arrow here is the change that deserves a second look.

use crate::workspace::{Resolved, assert_none};

/// Our own crates, each with those it may use directly or through others.
const MAY_USE: [(&str, &[&str]); 14] = [
    ("cassy-jmx", &[]),
    ("cassy-sstable", &[]),
    ("cassy-backup-format", &[]),
    ("cassy-cassandra", &["cassy-jmx", "cassy-sstable"]),
    ("cassy-store", &["cassy-backup-format"]),
    ("cassy-agent-protocol", &["cassy-backup-format"]),
    ("cassy-relay", &["cassy-agent-protocol", "cassy-backup-format"]),
    ("cassy-pause", &["cassy-agent-protocol", "cassy-backup-format"]),
    (
        "cassy-agent",
        &[
            "cassy-agent-protocol",
            "cassy-backup-format",
            "cassy-pause",
            "cassy-relay",
            "cassy-sstable",
            "cassy-store",
        ],
    ),
    ("cassy-ssh", &["cassy-agent-protocol", "cassy-backup-format", "cassy-relay"]),
    ("cassy-catalog", &["cassy-backup-format"]),
    ("cassy-control", &["cassy-agent-protocol", "cassy-backup-format", "cassy-catalog", "cassy-store"]),
    (
        "cassy-api",
        &["cassy-agent-protocol", "cassy-backup-format", "cassy-catalog", "cassy-control", "cassy-store"],
    ),
    // The binary wires everything; the test kit is no part of it.
    (
        "cassy",
        &[
            "cassy-agent",
            "cassy-agent-protocol",
            "cassy-api",
            "cassy-backup-format",
            "cassy-cassandra",
            "cassy-catalog",
            "cassy-control",
            "cassy-jmx",
            "cassy-pause",
            "cassy-relay",
            "cassy-ssh",
            "cassy-sstable",
            "cassy-store",
        ],
    ),
];

/// No part of the product: for tests only.
const FOR_TESTS: [&str; 2] = ["cassy-fuzz", "cassy-testkit"];

/// What a crate must not be built with, and why.
const NEVER: [(&[&str], &[&str], &str); 6] = [
    (
        &["cassy-sstable", "cassy-backup-format", "cassy-agent-protocol"],
        &["tokio", "rustix", "async-trait"],
        "it is pure",
    ),
    // The agent knows the pause, and with it the wire of the applications.
    (
        &["cassy-control", "cassy-catalog", "cassy-ssh", "cassy-store", "cassy-cassandra", "cassy-jmx"],
        &["tonic", "axum", "prost"],
        "the public wire is the api's alone",
    ),
    // Stores are spoken to over HTTP.
    (&["cassy-catalog", "cassy-ssh", "cassy-cassandra", "cassy-jmx"], &["hyper"], "they know no HTTP"),
    (&["cassy-agent"], &["sqlx", "sqlx-core", "cassy-jmx", "russh"], "the agent moves files, nothing else"),
    (
        &["cassy-cassandra", "cassy-store", "cassy-ssh", "cassy-jmx"],
        &["sqlx", "sqlx-core"],
        "SQL is the catalog's",
    ),
    (&["cassy"], &["cassy-testkit", "scylla"], "the kit is for tests"),
];

#[test]
fn our_crates_know_only_whom_they_may() {
    let resolved = Resolved::read();
    let members = resolved.members();
    let mut findings = Vec::new();
    for (name, package) in &members {
        let Some((_, allowed)) = MAY_USE.iter().find(|(ruled, _)| ruled == name) else {
            if !FOR_TESTS.contains(name) {
                findings.push(format!("{name} has no rule here; add one"));
            }
            continue;
        };
        let used = resolved.below(package);
        let own = used.iter().filter(|used| members.contains_key(*used));
        findings.extend(own.filter(|used| !allowed.contains(used)).map(|used| format!("{name} -> {used}")));
    }
    assert_none("arrows that are not drawn in ARCHITECTURE.md", &findings);
}

#[test]
fn no_crate_is_built_with_what_is_not_its_business() {
    let resolved = Resolved::read();
    let members = resolved.members();
    let mut findings = Vec::new();
    for (names, banned, reason) in NEVER {
        for package in names.iter().filter_map(|name| members.get(name)) {
            let used = resolved.below(package);
            let found = banned.iter().filter(|name| used.contains(*name));
            findings.extend(found.map(|name| format!("{} -> {name}: {reason}", package.name)));
        }
    }
    assert_none("dependencies that a crate must not have", &findings);
}
