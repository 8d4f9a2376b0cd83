//! Which tables have a snapshot under a tag, in which data directories, and of which files it consists.
//!
//! A table's files are the union over all data directories: its SSTables are spread over them, those of its
//! indexes too, and Cassandra's own manifest is in one of them only.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cassy_agent_protocol::SnapshotTag;
use cassy_backup_format::TableRef;
use cassy_sstable::{
    ComponentName, SNAPSHOT_MANIFEST_FILE, SNAPSHOT_SCHEMA_FILE, SNAPSHOTS_DIRECTORY, TableDirectory,
    is_index_directory,
};

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
#[derive(Debug, Default)]
pub(crate) struct TableContent {
    /// In the order of a node manifest's lines.
    pub(crate) sstables: Vec<SstableFiles>,
    /// Each `manifest.json` of Cassandra: path and content.
    pub(crate) manifests: Vec<(PathBuf, Vec<u8>)>,
    /// The content of `schema.cql`.
    pub(crate) schema: Option<Vec<u8>>,
    /// What belongs to no SSTable.
    pub(crate) strangers: Vec<PathBuf>,
}

/// The files of one SSTable. A table may have very many.
#[derive(Debug, Clone)]
pub(crate) struct SstableFiles {
    /// `nb-1-big`
    pub(crate) name: String,
    /// The number of the data directory.
    pub(crate) directory: u32,
    /// Where they lie.
    pub(crate) place: Arc<Place>,
    /// By component.
    pub(crate) files: Components,
}

/// Where SSTables lie: the snapshot's directory, or one of an index below it.
#[derive(Debug)]
pub(crate) struct Place {
    number: u32,
    /// The data directory.
    pub(crate) data: PathBuf,
    /// From the data directory to the files.
    path: Vec<String>,
    /// The index's directory, with its leading dot.
    index: Option<String>,
}

/// An SSTable's components, sorted: a handful, so that no tree is smaller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Components(Vec<(String, FileStat)>);

impl Components {
    fn insert(&mut self, component: String, stat: FileStat) {
        // No directory lists a name twice.
        if let Err(place) = self.0.binary_search_by(|(known, _)| known.cmp(&component)) {
            self.0.insert(place, (component, stat));
        }
    }

    /// Of the component with this name.
    pub(crate) fn get(&self, component: &str) -> Option<&FileStat> {
        let place = self.0.binary_search_by(|(known, _)| known.as_str().cmp(component)).ok()?;
        self.0.get(place).map(|(_, stat)| stat)
    }

    /// In the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &FileStat)> {
        self.0.iter().map(|(component, stat)| (component, stat))
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl SstableFiles {
    /// The index's directory, with its leading dot.
    pub(crate) fn index(&self) -> Option<&str> {
        self.place.index.as_deref()
    }

    /// Opens the directory of the files.
    pub(crate) fn open(&self) -> Result<Directory, FileError> {
        let names = self.place.path.iter().map(String::as_str);
        Directory::below(&self.place.data, names)?
            .ok_or_else(|| FileError::Vanished { path: self.full_path() })
    }

    pub(crate) fn full_path(&self) -> PathBuf {
        self.place.path.iter().fold(self.place.data.clone(), |path, name| path.join(name))
    }

    /// `nb-1-big-Data.db`
    pub(crate) fn file_name(&self, component: &str) -> String {
        format!("{}-{component}", self.name)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.size).sum()
    }
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

impl TableSnapshot {
    /// Looks at every file of it, and reads the small ones that are no SSTable's.
    pub(crate) fn read(&self) -> Result<TableContent, FileError> {
        let mut reading = Reading::default();
        for (number, data) in &self.directories {
            let table = directory_name(&self.table);
            let path = vec![
                self.table.keyspace.clone(),
                table,
                SNAPSHOTS_DIRECTORY.to_owned(),
                self.tag.to_string(),
            ];
            let place = Arc::new(Place { number: *number, data: data.clone(), path, index: None });
            let directory = Directory::below(data, place.path.iter().map(String::as_str))?;
            // Another tool may just have cleared it; then the check finds its files missing.
            let Some(directory) = directory else { continue };
            reading.snapshot(&directory, &place)?;
        }
        Ok(reading.finish())
    }
}

#[derive(Default)]
struct Reading {
    content: TableContent,
    /// By index, name and data directory: the order of a node manifest.
    sstables: BTreeMap<(Option<String>, String, u32), SstableFiles>,
}

impl Reading {
    fn snapshot(&mut self, directory: &Directory, place: &Arc<Place>) -> Result<(), FileError> {
        for (name, kind) in directory.entries()? {
            let name = text(directory, name)?;
            match kind {
                Kind::Directory if is_index_directory(&name) => {
                    let path = place.path.iter().cloned().chain([name.clone()]).collect();
                    let Place { number, ref data, .. } = **place;
                    let place = Place { number, data: data.clone(), path, index: Some(name.clone()) };
                    let Some(directory) = directory.subdirectory(&name)? else { continue };
                    self.index(&directory, &Arc::new(place))?;
                }
                Kind::File if name == SNAPSHOT_MANIFEST_FILE => {
                    let content = small_file(directory, &name, TEXT_LIMIT_BYTES)?;
                    self.content.manifests.push((directory.path().join(name), content));
                }
                Kind::File if name == SNAPSHOT_SCHEMA_FILE => {
                    self.content.schema = Some(small_file(directory, &name, TEXT_LIMIT_BYTES)?);
                }
                _ => self.component(directory, place, name, kind)?,
            }
        }
        Ok(())
    }

    fn index(&mut self, directory: &Directory, place: &Arc<Place>) -> Result<(), FileError> {
        for (name, kind) in directory.entries()? {
            let name = text(directory, name)?;
            self.component(directory, place, name, kind)?;
        }
        Ok(())
    }

    fn component(
        &mut self,
        directory: &Directory,
        place: &Arc<Place>,
        name: String,
        kind: Kind,
    ) -> Result<(), FileError> {
        match kind {
            Kind::File => {}
            Kind::Directory => {
                self.content.strangers.push(directory.path().join(name));
                return Ok(());
            }
            Kind::Other(kind) => return Err(FileError::NotPlain { path: directory.path().join(name), kind }),
        }
        let Some(ComponentName { sstable, component }) = ComponentName::parse(&name) else {
            self.content.strangers.push(directory.path().join(name));
            return Ok(());
        };
        let stat = directory.stat(&name)?;
        let sstable = sstable.to_string();
        let key = (place.index.clone(), sstable.clone(), place.number);
        let files = self.sstables.entry(key).or_insert_with(|| SstableFiles {
            name: sstable,
            directory: place.number,
            place: Arc::clone(place),
            files: Components::default(),
        });
        files.files.insert(component, stat);
        Ok(())
    }

    fn finish(mut self) -> TableContent {
        self.content.sstables = self.sstables.into_values().collect();
        self.content
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
