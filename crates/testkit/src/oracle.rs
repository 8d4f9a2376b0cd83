//! What must come back: the tests' own walk over Cassandra's directories, independent of how Cassy reads them.
//!
//! Paths are relative to the data directory, so the same path from two data directories is one entry; Cassandra
//! never uses a name twice for one table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Doing, Failure};

/// Size in bytes and SHA-256 in hexadecimal.
pub type Fact = (u64, String);

/// `keyspace/table-id/[.index/]file` and what is in it.
pub type Files = BTreeMap<String, Fact>;

/// All files of a snapshot, from all data directories, as they lie under `snapshots/<tag>/`.
///
/// # Errors
/// When a directory or file cannot be read.
pub fn snapshot(data_directories: &[PathBuf], tag: &str) -> Result<Files, Failure> {
    let mut found = Files::new();
    for table in tables(data_directories)? {
        let root = table.path.join("snapshots").join(tag);
        if root.is_dir() {
            walk(&root, &table.name, &[], &mut found)?;
        }
    }
    Ok(found)
}

/// All live files of all data directories: without `snapshots/` and `backups/` of the tables.
///
/// # Errors
/// When a directory or file cannot be read.
pub fn placed(data_directories: &[PathBuf]) -> Result<Files, Failure> {
    let mut found = Files::new();
    for table in tables(data_directories)? {
        walk(&table.path, &table.name, &["snapshots", "backups"], &mut found)?;
    }
    Ok(found)
}

/// The tags of all snapshots that exist.
///
/// # Errors
/// When a directory cannot be read.
pub fn snapshot_tags(data_directories: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut tags = Vec::new();
    for table in tables(data_directories)? {
        let root = table.path.join("snapshots");
        if root.is_dir() {
            tags.extend(list(&root)?.into_iter().map(|(name, _)| name));
        }
    }
    tags.sort();
    tags.dedup();
    Ok(tags)
}

/// Every file below these directories, by whole path. Empty means: nothing is there, staging included.
///
/// # Errors
/// When a directory or file cannot be read.
pub fn everything(directories: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = directories.to_vec();
    while let Some(directory) = open.pop() {
        for (_, path) in list(&directory)? {
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Keeps the files of a snapshot under `keep` as hard links, in the layout that [`placed`] reads: whatever becomes of
/// the snapshot, the oracle can still be asked.
///
/// # Errors
/// When a link cannot be made.
pub fn keep_snapshot(data_directories: &[PathBuf], tag: &str, keep: &Path) -> Result<(), Failure> {
    for table in tables(data_directories)? {
        let root = table.path.join("snapshots").join(tag);
        if root.is_dir() {
            link_tree(&root, &keep.join(&table.name))?;
        }
    }
    Ok(())
}

/// The snapshot's files without the two that Cassandra writes beside the SSTables and a restore does not place.
pub fn sstable_files(files: &Files) -> Files {
    let is_description = |path: &str| path.ends_with("/manifest.json") || path.ends_with("/schema.cql");
    files
        .iter()
        .filter(|(path, _)| !is_description(path))
        .map(|(path, fact)| (path.clone(), fact.clone()))
        .collect()
}

/// What differs, one line each, at most twenty; empty when both are the same.
pub fn differences(expected: &Files, found: &Files) -> Vec<String> {
    let missing = expected.iter().filter_map(|(path, fact)| match found.get(path) {
        None => Some(format!("missing: {path}")),
        Some(other) if other == fact => None,
        Some(other) => Some(format!("changed: {path}: {} bytes expected, {} found", fact.0, other.0)),
    });
    let added =
        found.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("added: {path}"));
    missing.chain(added).take(20).collect()
}

struct Table {
    /// `keyspace/table-id`.
    name: String,
    path: PathBuf,
}

/// Directories two levels below a data directory. Cassy's own staging is among them if it is there.
fn tables(data_directories: &[PathBuf]) -> Result<Vec<Table>, Failure> {
    let mut tables = Vec::new();
    for data in data_directories {
        for (keyspace, path) in list(data)? {
            if !path.is_dir() {
                continue;
            }
            let inside = list(&path)?.into_iter().filter(|(_, path)| path.is_dir());
            tables.extend(inside.map(|(table, path)| Table { name: format!("{keyspace}/{table}"), path }));
        }
    }
    Ok(tables)
}

fn walk(directory: &Path, name: &str, skipped: &[&str], found: &mut Files) -> Result<(), Failure> {
    for (entry, path) in list(directory)? {
        let inner = format!("{name}/{entry}");
        if !path.is_dir() {
            found.insert(inner, fact(&path)?);
        } else if !skipped.contains(&entry.as_str()) {
            walk(&path, &inner, skipped, found)?;
        }
    }
    Ok(())
}

fn link_tree(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to).doing(|| format!("make {}", to.display()))?;
    for (entry, path) in list(from)? {
        let target = to.join(entry);
        if path.is_dir() {
            link_tree(&path, &target)?;
        } else {
            std::fs::hard_link(&path, &target)
                .doing(|| format!("link {} as {}", path.display(), target.display()))?;
        }
    }
    Ok(())
}

/// Names and paths of all entries, hidden ones too.
fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let entries = std::fs::read_dir(directory).doing(|| format!("list {}", directory.display()))?;
    let entries: Result<Vec<_>, _> = entries.collect();
    let entries = entries.doing(|| format!("list {}", directory.display()))?;
    Ok(entries.iter().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect())
}

fn fact(path: &Path) -> Result<Fact, Failure> {
    let bytes = std::fs::read(path).doing(|| format!("read {}", path.display()))?;
    Ok((bytes.len() as u64, hex::encode(Sha256::digest(&bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_hidden_indexes_and_all_data_directories() {
        let root = tempfile::tempdir().unwrap();
        let data = [root.path().join("a"), root.path().join("b")];
        let write = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(data[0].join("ks/t-1/snapshots/s/nb-1-big-Data.db"), "one");
        write(data[0].join("ks/t-1/snapshots/s/manifest.json"), "{}");
        write(data[1].join("ks/t-1/snapshots/s/.idx/nb-1-big-Data.db"), "two");
        write(data[1].join("ks/t-1/snapshots/other/nb-9-big-Data.db"), "not ours");
        write(data[1].join("ks/t-1/.idx/nb-1-big-Data.db"), "twO");
        write(data[1].join("ks/t-1/backups/.idx/nb-1-big-Data.db"), "not live");

        let expected = sstable_files(&snapshot(&data, "s").unwrap());
        let names: Vec<&String> = expected.keys().collect();
        assert_eq!(names, ["ks/t-1/.idx/nb-1-big-Data.db", "ks/t-1/nb-1-big-Data.db"]);
        assert_eq!(snapshot_tags(&data).unwrap(), ["other", "s"]);
        let found = placed(&data).unwrap();
        assert_eq!(
            differences(&expected, &found),
            [
                "changed: ks/t-1/.idx/nb-1-big-Data.db: 3 bytes expected, 3 found",
                "missing: ks/t-1/nb-1-big-Data.db"
            ]
        );

        let kept = root.path().join("kept");
        keep_snapshot(&data, "s", &kept).unwrap();
        assert_eq!(differences(&expected, &sstable_files(&placed(&[kept]).unwrap())), Vec::<String>::new());
    }
}
