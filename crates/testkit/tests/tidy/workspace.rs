//! The workspace as cargo and the file system show it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The directory that holds `crates/`.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("a crate lies in crates/ of the workspace").to_owned()
}

/// A package of the workspace or one that it uses, on the platform that is shipped.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: String,
    pub(crate) source: Option<String>,
    pub(crate) id: String,
}

/// What cargo resolved.
pub(crate) struct Resolved {
    pub(crate) packages: BTreeMap<String, Package>,
    members: BTreeSet<String>,
    /// Ordinary dependencies; those of tests and of build scripts do not reach the product.
    arrows: BTreeMap<String, Vec<String>>,
}

impl Resolved {
    pub(crate) fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--filter-platform",
                "x86_64-unknown-linux-musl",
            ])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let all: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
        let packages = list(&all["packages"]).iter().map(package).map(|one| (one.id.clone(), one));
        let members = list(&all["workspace_members"]).iter().map(text).collect();
        let arrows = list(&all["resolve"]["nodes"]).iter().map(|node| (text(&node["id"]), ordinary(node)));
        Self { packages: packages.collect(), members, arrows: arrows.collect() }
    }

    /// The workspace's own packages, by name.
    pub(crate) fn members(&self) -> BTreeMap<&str, &Package> {
        let own = self.packages.values().filter(|package| self.members.contains(&package.id));
        own.map(|package| (package.name.as_str(), package)).collect()
    }

    /// The names of all packages that this one is built with, near and far.
    pub(crate) fn below(&self, package: &Package) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![&package.id];
        while let Some(id) = open.pop() {
            for next in self.arrows.get(id).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen.into_iter().filter_map(|id| self.packages.get(id)).map(|package| package.name.as_str()).collect()
    }
}

/// The names of all packages that are built, tests and build scripts included. The lock file and `cargo metadata` name
/// some more: what a feature would bring that nobody asks for.
pub(crate) fn built() -> BTreeSet<String> {
    let arguments =
        ["tree", "--workspace", "--locked", "--edges", "all", "--prefix", "none", "--format", "{p}"];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--target", "x86_64-unknown-linux-musl"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn package(value: &Value) -> Package {
    Package {
        name: text(&value["name"]),
        version: text(&value["version"]),
        license: text(&value["license"]),
        source: value["source"].as_str().map(str::to_owned),
        id: text(&value["id"]),
    }
}

fn ordinary(node: &Value) -> Vec<String> {
    let is_ordinary =
        |dependency: &&Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
    list(&node["deps"]).iter().filter(is_ordinary).map(|dependency| text(&dependency["pkg"])).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A Rust file of ours: its path from the root, and its text.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All Rust files below `crates/`.
pub(crate) fn sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.join("crates")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("crates/ can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is UTF-8");
                let path = path.strip_prefix(&root).expect("it lies below the root");
                found.push(Source { path: path.display().to_string(), text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Fails with all findings at once.
pub(crate) fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}
