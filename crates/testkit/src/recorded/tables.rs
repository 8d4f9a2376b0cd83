//! Tables as they lie on disk: which there are, and their snapshots as Cassandra 5.0 takes and clears them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const TOC: &str = "-TOC.txt";
const DATA: &str = "Data.db";

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) keyspace: String,
    pub(super) name: String,
    /// `table-id`
    directory: String,
    /// In each data directory that has a part of it.
    paths: Vec<PathBuf>,
}

/// All tables, sorted. What has no id in its name is none (`_paxos_repair_state`).
pub(super) fn list(data_directories: &[PathBuf]) -> io::Result<Vec<Table>> {
    let mut tables: BTreeMap<(String, String), Table> = BTreeMap::new();
    for data in data_directories {
        for (keyspace, path) in directories(data)? {
            for (directory, path) in directories(&path)? {
                let Some(name) = table_name(&directory).map(str::to_owned) else { continue };
                let key = (keyspace.clone(), directory.clone());
                let table = tables.entry(key).or_insert_with(|| Table {
                    keyspace: keyspace.clone(),
                    name,
                    directory,
                    paths: Vec::new(),
                });
                table.paths.push(path);
            }
        }
    }
    Ok(tables.into_values().collect())
}

fn table_name(directory: &str) -> Option<&str> {
    let (name, id) = directory.rsplit_once('-')?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
}

impl Table {
    /// `keyspace.table`
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.keyspace, self.name)
    }

    pub(super) fn has_snapshot(&self, tag: &str) -> bool {
        self.paths.iter().any(|path| path.join("snapshots").join(tag).exists())
    }

    /// Links what the TOC of each live SSTable names, then describes it. A file that is not named there is no part of a
    /// snapshot, such as one of an SSTable that is being written.
    pub(super) fn take_snapshot(&self, tag: &str, schemas: &Path) -> io::Result<()> {
        let mut listed = Vec::new();
        for path in &self.paths {
            let snapshot = path.join("snapshots").join(tag);
            std::fs::create_dir_all(&snapshot)?;
            link_sstables(path, &snapshot, "", &mut listed)?;
            for (index, index_path) in directories(path)?.filter(|(name, _)| name.starts_with('.')) {
                let target = snapshot.join(&index);
                std::fs::create_dir_all(&target)?;
                link_sstables(&index_path, &target, &format!("{index}/"), &mut listed)?;
            }
        }
        let Some(first) = self.paths.first() else { return Ok(()) };
        let snapshot = first.join("snapshots").join(tag);
        let manifest = serde_json::json!({
            "files": listed, "created_at": "2026-11-22T21:08:57.939Z", "expires_at": null, "ephemeral": false
        });
        std::fs::write(snapshot.join("manifest.json"), format!("{manifest:#}"))?;
        let schema = schemas.join(self.schema_name());
        if schema.exists() {
            std::fs::copy(schema, snapshot.join("schema.cql"))?;
        }
        Ok(())
    }

    /// Follows no link.
    pub(super) fn clear_snapshot(&self, tag: &str) -> io::Result<()> {
        for path in &self.paths {
            let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
            let snapshot = path.join("snapshots").join(tag);
            if is_directory(&path.join("snapshots")) && is_directory(&snapshot) {
                // The agent may be at it too.
                match std::fs::remove_dir_all(&snapshot) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Its file among the recorded schemas.
    pub(super) fn schema_name(&self) -> String {
        format!("{}.{}.cql", self.keyspace, self.directory)
    }

    /// The text that Cassandra wrote into a snapshot, if this table has one.
    pub(super) fn schema_in(&self, tag: &str) -> Option<PathBuf> {
        let files = self.paths.iter().map(|path| path.join("snapshots").join(tag).join("schema.cql"));
        files.into_iter().find(|file| file.exists())
    }
}

fn link_sstables(from: &Path, to: &Path, prefix: &str, listed: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(sstable) = name.strip_suffix(TOC) else { continue };
        for component in std::fs::read_to_string(from.join(&name))?.lines() {
            let file = format!("{sstable}-{component}");
            std::fs::hard_link(from.join(&file), to.join(&file))?;
            if component == DATA {
                listed.push(format!("{prefix}{file}"));
            }
        }
    }
    Ok(())
}

/// Names and paths of the directories in a directory; links are none.
fn directories(path: &Path) -> io::Result<impl Iterator<Item = (String, PathBuf)> + use<>> {
    let entries: Vec<_> = std::fs::read_dir(path)?.collect::<Result<_, _>>()?;
    let inside = entries.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(inside.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())))
}
