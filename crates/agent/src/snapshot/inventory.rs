//! Which tables have a snapshot under a tag, in which data directories, and of which files it consists.
//!
//! A table's files are the union over all data directories: its SSTables are spread over them, those of its
//! indexes too, and Cassandra's own manifest is in one of them only.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use cassy_agent_protocol::SnapshotTag;
use cassy_backup_format::TableRef;
use cassy_sstable::{
    BACKUPS_DIRECTORY, ComponentName, SNAPSHOT_MANIFEST_FILE, SNAPSHOT_SCHEMA_FILE, SNAPSHOTS_DIRECTORY,
    TableDirectory, is_index_directory,
};

use super::sstables::{Place, Sstables};
use super::whole::Problems;
use crate::directory::{Directory, FileError, FileStat, Kind};

/// A manifest.json or schema.cql is never larger.
const TEXT_LIMIT_BYTES: u64 = 16 << 20;

/// One table's snapshot.
#[derive(Debug, Clone)]
pub(crate) struct TableSnapshot {
    /// The table.
    pub(crate) table: TableRef,
    tag: SnapshotTag,
    /// The data directories that have a part of it: number and path.
    directories: Vec<(u32, PathBuf)>,
}

/// What a table's snapshot consists of.
#[derive(Debug)]
pub(crate) struct TableContent {
    /// In the order of a node manifest's lines.
    pub(crate) sstables: Sstables,
    /// Each `manifest.json` of Cassandra: path and content.
    pub(crate) manifests: Vec<(PathBuf, Vec<u8>)>,
    /// The content of `schema.cql`.
    pub(crate) schema: Option<Vec<u8>>,
    /// What belongs to no SSTable.
    pub(crate) strangers: Problems,
}

/// Every table with a snapshot of this tag, sorted.
pub(crate) fn tables(data_directories: &[String], tag: SnapshotTag) -> Result<Vec<TableSnapshot>, FileError> {
    let mut found: BTreeMap<TableRef, Vec<(u32, PathBuf)>> = BTreeMap::new();
    for (number, data) in (0..).zip(data_directories) {
        let data = Path::new(data);
        let root = Directory::data(data)?;
        for keyspace in root.subdirectories()? {
            let Some(directory) = root.subdirectory(&keyspace)? else { continue };
            for (name, kind) in directory.entries()? {
                let Some(table) = table_of(&keyspace, name) else { continue };
                if has_snapshot(&directory, &table, kind, tag)? {
                    found.entry(table).or_default().push((number, data.to_owned()));
                }
            }
        }
    }
    let snapshot = |(table, directories)| TableSnapshot { table, tag, directories };
    Ok(found.into_iter().map(snapshot).collect())
}

fn table_of(keyspace: &str, name: OsString) -> Option<TableRef> {
    let TableDirectory { table, id } = TableDirectory::parse(&name.into_string().ok()?)?;
    Some(TableRef { keyspace: keyspace.to_owned(), table, id })
}

fn has_snapshot(
    keyspace: &Directory,
    table: &TableRef,
    kind: Kind,
    tag: SnapshotTag,
) -> Result<bool, FileError> {
    let name = directory_name(table);
    if let Kind::Other(kind) = kind {
        return Err(FileError::NotPlain { path: keyspace.path().join(name), kind });
    }
    let Some(directory) = keyspace.subdirectory(&name)? else { return Ok(false) };
    let snapshots = match directory.subdirectory(SNAPSHOTS_DIRECTORY) {
        Ok(Some(snapshots)) => snapshots,
        // What is in the way there keeps Cassandra from taking a snapshot of this table; the check names the table.
        Ok(None) | Err(FileError::NotPlain { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(snapshots.subdirectory(&tag.to_string())?.is_some())
}

fn directory_name(table: &TableRef) -> String {
    format!("{}-{}", table.table, table.id)
}

/// What lies in the `backups/` of a table, in these data directories with their numbers in the manifest. What is no
/// component there is nobody's here, and no link is followed.
pub(crate) fn incremental(directories: &[(u32, PathBuf)], table: &TableRef) -> Result<Sstables, FileError> {
    let mut places = Vec::new();
    for (number, data) in directories {
        let path = vec![table.keyspace.clone(), directory_name(table), BACKUPS_DIRECTORY.to_owned()];
        let directory = match Directory::below(data, path.iter().map(String::as_str)) {
            Ok(Some(directory)) => directory,
            Ok(None) | Err(FileError::NotPlain { .. }) => continue,
            Err(error) => return Err(error),
        };
        let place = Place::new(*number, data.clone(), path);
        let indexes = directory.subdirectories()?.into_iter().filter(|name| is_index_directory(name));
        places.extend(indexes.map(|name| place.index(name)));
        places.push(place);
    }
    Ok(Sstables::new(places))
}

impl TableSnapshot {
    /// What the system says of a file of it; `None` when it has none of this name.
    pub(crate) fn stat(
        &self,
        data: &Path,
        index: Option<&str>,
        name: &str,
    ) -> Result<Option<FileStat>, FileError> {
        let (table, tag) = (directory_name(&self.table), self.tag.to_string());
        let path = [self.table.keyspace.as_str(), &table, SNAPSHOTS_DIRECTORY, &tag];
        let Some(directory) = Directory::below(data, path.into_iter().chain(index))? else { return Ok(None) };
        match directory.stat(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(FileError::Vanished { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives each data directory another number, by the one it has.
    pub(crate) fn renumber(&mut self, numbers: &[u32]) {
        for (number, _) in &mut self.directories {
            let place = usize::try_from(*number).unwrap_or(usize::MAX);
            *number = numbers.get(place).copied().unwrap_or(*number);
        }
    }

    /// Looks at every name in it, and reads the small files that are no SSTable's.
    pub(crate) fn read(&self) -> Result<TableContent, FileError> {
        let mut reading = Reading::default();
        for (number, data) in &self.directories {
            let path = vec![
                self.table.keyspace.clone(),
                directory_name(&self.table),
                SNAPSHOTS_DIRECTORY.to_owned(),
                self.tag.to_string(),
            ];
            // Another tool may just have cleared it; then the check finds its files missing.
            let Some(directory) = Directory::below(data, path.iter().map(String::as_str))? else { continue };
            reading.snapshot(&directory, Place::new(*number, data.clone(), path))?;
        }
        Ok(reading.finish())
    }
}

#[derive(Default)]
struct Reading {
    manifests: Vec<(PathBuf, Vec<u8>)>,
    schema: Option<Vec<u8>>,
    strangers: Problems,
    places: Vec<Place>,
}

impl Reading {
    fn snapshot(&mut self, directory: &Directory, place: Place) -> Result<(), FileError> {
        for entry in directory.each_entry()? {
            let (name, kind) = entry?;
            let name = text(directory, name)?;
            match kind {
                Kind::Directory if is_index_directory(&name) => {
                    let Some(index) = directory.subdirectory(&name)? else { continue };
                    for entry in index.each_entry()? {
                        let (name, kind) = entry?;
                        self.component(&index, &text(&index, name)?, kind)?;
                    }
                    self.places.push(place.index(name));
                }
                Kind::File if name == SNAPSHOT_MANIFEST_FILE => {
                    let content = small_file(directory, &name, TEXT_LIMIT_BYTES)?;
                    self.manifests.push((directory.path().join(name), content));
                }
                Kind::File if name == SNAPSHOT_SCHEMA_FILE => {
                    self.schema = Some(small_file(directory, &name, TEXT_LIMIT_BYTES)?);
                }
                _ => self.component(directory, &name, kind)?,
            }
        }
        self.places.push(place);
        Ok(())
    }

    fn component(&mut self, directory: &Directory, name: &str, kind: Kind) -> Result<(), FileError> {
        let path = || directory.path().join(name);
        match kind {
            Kind::File if ComponentName::parse(name).is_some() => {}
            Kind::File | Kind::Directory => {
                self.strangers.add(|| format!("{} is no component of an SSTable", path().display()));
            }
            Kind::Other(kind) => return Err(FileError::NotPlain { path: path(), kind }),
        }
        Ok(())
    }

    fn finish(self) -> TableContent {
        let Self { manifests, schema, strangers, places } = self;
        TableContent { sstables: Sstables::new(places), manifests, schema, strangers }
    }
}

fn text(directory: &Directory, name: OsString) -> Result<String, FileError> {
    name.into_string().map_err(|name| FileError::NotText { path: directory.path().join(name) })
}

/// The content of a file that is small by its nature.
pub(super) fn small_file(directory: &Directory, name: &str, limit_bytes: u64) -> Result<Vec<u8>, FileError> {
    let (file, stat) = directory.open(name)?;
    let path = || directory.path().join(name);
    if stat.size > limit_bytes {
        return Err(FileError::TooLarge { path: path(), size: stat.size, limit_bytes });
    }
    let mut content = Vec::new();
    file.take(limit_bytes)
        .read_to_end(&mut content)
        .map_err(|source| FileError::io("read", &path(), source))?;
    Ok(content)
}
