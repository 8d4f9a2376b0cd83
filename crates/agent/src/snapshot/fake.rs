//! For tests: a node's data directories with tables, SSTables and snapshots, as Cassandra makes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cassy_agent_protocol::CheckSnapshotRequest;

pub(crate) const ID: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const TAG: &str = "cassy-0193b0a0-0000-7000-8000-000000000001-1";

/// Data directories below a directory of its own.
pub(crate) struct FakeNode {
    base: tempfile::TempDir,
    pub(crate) data: Vec<PathBuf>,
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn content(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut bytes = Vec::with_capacity(length + 4);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl FakeNode {
    pub(crate) fn new(directories: usize) -> Self {
        let base = tempfile::tempdir().expect("tempdir");
        let data: Vec<PathBuf> =
            (0..directories).map(|number| base.path().join(format!("data{number}"))).collect();
        data.iter().for_each(|path| fs::create_dir(path).expect("mkdir"));
        Self { base, data }
    }

    pub(crate) fn base(&self) -> &Path {
        self.base.path()
    }

    pub(crate) fn table(&self, directory: usize, keyspace: &str, table: &str) -> PathBuf {
        self.table_of(directory, keyspace, table, ID)
    }

    pub(crate) fn table_of(&self, directory: usize, keyspace: &str, table: &str, id: &str) -> PathBuf {
        let path = self.data[directory].join(keyspace).join(format!("{table}-{id}"));
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    pub(crate) fn snapshot_of(&self, directory: usize, keyspace: &str, table: &str, tag: &str) -> PathBuf {
        self.table(directory, keyspace, table).join("snapshots").join(tag)
    }

    /// Flushes an SSTable: four components, a digest and a TOC. `index` is a directory with its dot, or empty.
    pub(crate) fn flush(&self, table: &Path, index: &str, name: &str, seed: u32, length: usize) {
        let directory = table.join(index);
        fs::create_dir_all(&directory).expect("mkdir");
        let data = content(seed, length);
        let digest = crc32fast::hash(&data).to_string();
        let toc = "Data.db\nIndex.db\nStatistics.db\nSAI+aa+GroupComplete.db\nDigest.crc32\nTOC.txt\n";
        for (component, bytes) in [
            ("Data.db", data.as_slice()),
            ("Index.db", &content(seed + 1, 300)),
            ("Statistics.db", &content(seed + 2, 4700)),
            ("SAI+aa+GroupComplete.db", b""),
            ("Digest.crc32", digest.as_bytes()),
            ("TOC.txt", toc.as_bytes()),
        ] {
            fs::write(directory.join(format!("{name}-{component}")), bytes).expect("write");
        }
    }

    /// Flushes with `incremental_backups: true`.
    pub(crate) fn flush_incremental(&self, table: &Path, index: &str, name: &str, seed: u32, length: usize) {
        self.flush(table, index, name, seed, length);
        let backups = table.join("backups").join(index);
        fs::create_dir_all(&backups).expect("mkdir");
        for file in sstable_files(&table.join(index), name) {
            fs::hard_link(&file, backups.join(file.file_name().expect("name"))).expect("link");
        }
    }

    /// Removes the live files of an SSTable, as compaction does.
    pub(crate) fn compact_away(&self, table: &Path, name: &str) {
        sstable_files(table, name).iter().for_each(|file| fs::remove_file(file).expect("remove"));
    }

    /// The row of `system.local`, not compressed: when tables were truncated.
    pub(crate) fn write_local(&self, name: &str, truncations: &[(&str, i64)]) {
        let table = self.table(0, "system", "local");
        let mut rows = b"a row".to_vec();
        for (id, at_ms) in truncations {
            let id = u128::from_str_radix(id, 16).expect("hex").to_be_bytes();
            rows.extend([&[8, 16][..], &id, &[20], &[0; 12], &at_ms.to_be_bytes()].concat());
        }
        let digest = crc32fast::hash(&rows).to_string();
        let toc = "Data.db\nDigest.crc32\nTOC.txt\n";
        for (component, bytes) in
            [("Data.db", rows.as_slice()), ("Digest.crc32", digest.as_bytes()), ("TOC.txt", toc.as_bytes())]
        {
            fs::write(table.join(format!("{name}-{component}")), bytes).expect("write");
        }
    }

    /// Links all live files of every table under a tag, and writes each manifest.json into one directory only.
    pub(crate) fn take_snapshot(&self, tag: &str) {
        let mut tables: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for data in &self.data {
            for keyspace in directories(data) {
                for table in directories(&keyspace) {
                    let name = table.file_name().expect("name").to_str().expect("text");
                    if cassy_sstable::TableDirectory::parse(name).is_none() {
                        continue;
                    }
                    let relative = table.strip_prefix(data).expect("below").to_owned();
                    tables.entry(relative).or_default().push(table);
                }
            }
        }
        for (number, places) in tables.values().enumerate() {
            let mut listed = Vec::new();
            for place in places {
                let to = place.join("snapshots").join(tag);
                fs::create_dir_all(&to).expect("mkdir");
                link_all(place, &to, "", &mut listed);
                for index in directories(place) {
                    let name = index.file_name().expect("name").to_str().expect("text").to_owned();
                    if name.starts_with('.') {
                        fs::create_dir_all(to.join(&name)).expect("mkdir");
                        link_all(&index, &to.join(&name), &format!("{name}/"), &mut listed);
                    }
                }
            }
            let chosen = places[number % places.len()].join("snapshots").join(tag);
            let files: Vec<String> =
                listed.iter().map(|file| format!("\"{}\"", file.replace('/', "\\/"))).collect();
            fs::write(chosen.join("manifest.json"), format!("{{\"files\":[{}]}}", files.join(",")))
                .expect("write");
            fs::write(chosen.join("schema.cql"), "CREATE TABLE").expect("write");
        }
    }

    pub(crate) fn request(&self, tag: &str, tables: &[(&str, &str)]) -> CheckSnapshotRequest {
        CheckSnapshotRequest {
            data_directories: self.data.iter().map(|path| path.to_str().expect("text").to_owned()).collect(),
            tag: tag.parse().expect("a tag of ours"),
            tables: tables.iter().map(|&(keyspace, table)| (keyspace.to_owned(), table.to_owned())).collect(),
        }
    }
}

fn sstable_files(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").path());
    let is_its = |path: &PathBuf| {
        let file = path.file_name().and_then(|name| name.to_str()).expect("text");
        file.starts_with(&format!("{name}-"))
    };
    entries.filter(is_its).collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).expect("list").map(|entry| entry.expect("entry").path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}

fn link_all(from: &Path, to: &Path, prefix: &str, listed: &mut Vec<String>) {
    for entry in fs::read_dir(from).expect("list") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_str().expect("text").to_owned();
        if path.is_file() {
            fs::hard_link(&path, to.join(&name)).expect("link");
            if name.ends_with("-Data.db") {
                listed.push(format!("{prefix}{name}"));
            }
        }
    }
}

/// Two data directories; tables with an index, several SSTables, odd names, and one that is empty.
pub(crate) fn example() -> FakeNode {
    let node = FakeNode::new(2);
    for (directory, keyspace, table, index, name, seed, length) in [
        (0, "ks", "plain", "", "nb-1-big", 10, 5000),
        (1, "ks", "plain", "", "nb-2-big", 20, 3 << 20),
        (0, "ks", "plain", "", "nb-10-big", 30, 1),
        (1, "ks", "plain", ".plain_v_idx", "nb-1-big", 40, 700),
        (0, "ks", "plain", ".plain_v_idx", "nb-2-big", 50, 700),
        (1, "ks", "MixedCase", "", "da-3h5q_1oih_3aqow23nzcs57htqnl-bti", 60, 900),
        (0, "snapshots", "snapshots", "", "nb-1-big", 70, 900),
        (1, "backups", "backups", "", "nb-1-big", 80, 1 << 20),
    ] {
        node.flush(&node.table(directory, keyspace, table), index, name, seed, length);
    }
    node.table(0, "system", "empty");
    fs::create_dir_all(node.data[0].join("system/_paxos_repair_state")).expect("mkdir");
    node
}

pub(crate) const EXAMPLE_TABLES: &[(&str, &str)] = &[
    ("ks", "plain"),
    ("ks", "MixedCase"),
    ("snapshots", "snapshots"),
    ("backups", "backups"),
    ("system", "empty"),
];
