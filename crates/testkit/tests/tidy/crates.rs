//! What may come in from outside: the rules of `deny.toml`, checked in every run without a tool to install.

use crate::workspace::{self, Resolved, assert_none};

const LICENCES: [&str; 11] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
];

const BANNED: [(&str, &str); 5] = [
    ("ring", "one TLS provider: aws-lc-rs"),
    ("openssl-sys", "one TLS provider, and a static binary"),
    ("native-tls", "one TLS provider"),
    ("libssh2-sys", "russh is the SSH client"),
    ("protoc-bin-vendored", "protox compiles .proto files"),
];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn licences_are_known() {
    let resolved = Resolved::read();
    let refused = resolved.packages.values().filter(|package| !allowed(&package.license));
    let findings: Vec<String> = refused
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert_none("licences that are not on the list", &findings);
}

#[test]
fn banned_crates_are_absent_and_all_come_from_the_registry() {
    let built = workspace::built();
    let banned = BANNED.iter().filter(|(name, _)| built.contains(*name));
    let mut findings: Vec<String> = banned.map(|(name, reason)| format!("{name}: {reason}")).collect();
    for package in Resolved::read().packages.values() {
        if package.source.as_deref().is_some_and(|source| source != REGISTRY) {
            findings.push(format!("{} comes from {:?}", package.name, package.source));
        }
    }
    assert_none("crates that may not come in", &findings);
}

/// An SPDX expression, evaluated: AND binds more tightly than OR, `/` is an old way to write OR.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    !expression.is_empty() && any(&mut words) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>) -> bool {
    let mut holds = all(words);
    while words.next_if_eq(&"OR").is_some() {
        holds |= all(words);
    }
    holds
}

fn all(words: &mut Words<'_>) -> bool {
    let mut holds = one(words);
    while words.next_if_eq(&"AND").is_some() {
        holds &= one(words);
    }
    holds
}

fn one(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let holds = any(words);
        return words.next() == Some(")") && holds;
    }
    let mut name = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next().unwrap_or_default());
    }
    LICENCES.contains(&name.as_str())
}

#[test]
fn licence_expressions_are_understood() {
    for good in ["MIT", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0", "GPL-2.0 OR ISC AND MIT"] {
        assert!(allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "MIT WITH x", "(MIT"] {
        assert!(!allowed(bad), "{bad}");
    }
}

#[test]
fn the_two_lists_are_the_same() {
    let rules =
        std::fs::read_to_string(crate::workspace::root().join("deny.toml")).expect("deny.toml is there");
    let quoted = |name: &str| rules.contains(&format!("\"{name}\""));
    let names = LICENCES.iter().copied().chain(BANNED.iter().map(|(name, _)| *name));
    let findings: Vec<String> = names.filter(|name| !quoted(name)).map(str::to_owned).collect();
    assert_none("not in deny.toml", &findings);
}
