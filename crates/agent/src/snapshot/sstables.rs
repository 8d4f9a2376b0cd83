//! The SSTables of one table's snapshot, in the order of a node manifest. A table may have very many: no more than a
//! portion of their names is in memory at once, and the directories are listed again for each portion.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::path::PathBuf;
use std::sync::Arc;

use cassy_sstable::ComponentName;

use crate::directory::{Directory, FileError, FileStat, Kind};

/// SSTables whose names are in memory at once.
#[cfg(not(test))]
const PORTION: usize = 4_096;
/// So few that tests have several.
#[cfg(test)]
const PORTION: usize = 2;

/// The files of one SSTable. A table may have very many.
#[derive(Debug, Clone)]
pub(crate) struct SstableFiles {
    /// `nb-1-big`
    pub(crate) name: String,
    /// The name on the disk, where a manifest gives it another one.
    found_as: Option<String>,
    /// The number of the data directory.
    pub(crate) directory: u32,
    /// Where they lie.
    pub(crate) place: Arc<Place>,
    /// By component.
    pub(crate) files: Components,
}

/// Where SSTables lie: the snapshot's directory, or one of an index below it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Of the data directory.
    number: u32,
    /// The data directory.
    pub(crate) data: PathBuf,
    /// From the data directory to the files.
    path: Vec<String>,
    /// The index's directory, with its leading dot.
    index: Option<String>,
}

impl Place {
    /// A snapshot's directory: the names from the data directory to it.
    pub(super) fn new(number: u32, data: PathBuf, path: Vec<String>) -> Self {
        Self { number, data, path, index: None }
    }

    /// An index's directory in it.
    pub(super) fn index(&self, name: String) -> Self {
        let path = self.path.iter().cloned().chain([name.clone()]).collect();
        Self { path, index: Some(name), ..self.clone() }
    }

    fn open(&self) -> Result<Option<Directory>, FileError> {
        Directory::below(&self.data, self.path.iter().map(String::as_str))
    }
}

/// An SSTable's components, sorted: a handful, so that no tree is smaller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Components(Vec<(String, FileStat)>);

impl Components {
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
        self.place.open()?.ok_or_else(|| FileError::Vanished { path: self.full_path() })
    }

    pub(crate) fn full_path(&self) -> PathBuf {
        self.place.path.iter().fold(self.place.data.clone(), |path, name| path.join(name))
    }

    /// `nb-1-big-Data.db`
    pub(crate) fn file_name(&self, component: &str) -> String {
        format!("{}-{component}", self.name)
    }

    /// The same on the disk.
    pub(crate) fn on_disk(&self, component: &str) -> String {
        format!("{}-{component}", self.found_as.as_ref().unwrap_or(&self.name))
    }

    /// The same SSTable under another name in the manifest.
    #[must_use]
    pub(crate) fn renamed(self, name: String) -> Self {
        Self { found_as: Some(self.name), name, ..self }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.size).sum()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sstables {
    /// By index: those of one index lie in several data directories.
    ahead: VecDeque<Vec<Arc<Place>>>,
    /// Those of the index that is listed.
    here: Vec<(Arc<Place>, Directory)>,
    portion: btree_map::IntoIter<Key, Vec<String>>,
    /// The last one of the portion.
    last: Option<Key>,
    /// Whether any follow it.
    is_more: bool,
}

/// What the SSTables of one index are sorted by: name, and the number of the data directory.
type Key = (String, u32);

impl Sstables {
    pub(super) fn new(places: Vec<Place>) -> Self {
        let mut by_index: BTreeMap<Option<String>, Vec<Arc<Place>>> = BTreeMap::new();
        for place in places {
            by_index.entry(place.index.clone()).or_default().push(Arc::new(place));
        }
        let portion = BTreeMap::new().into_iter();
        Self {
            ahead: by_index.into_values().collect(),
            here: Vec::new(),
            portion,
            last: None,
            is_more: false,
        }
    }

    fn step(&mut self) -> Result<Option<SstableFiles>, FileError> {
        loop {
            if let Some(((name, number), components)) = self.portion.next() {
                return self.look_at(name, number, components).map(Some);
            }
            if !self.next_portion()? && !self.next_index()? {
                return Ok(None);
            }
        }
    }

    fn next_index(&mut self) -> Result<bool, FileError> {
        let Some(places) = self.ahead.pop_front() else { return Ok(false) };
        self.here.clear();
        for place in places {
            // What was cleared meanwhile is missed by who compares.
            self.here.extend(place.open()?.map(|directory| (place, directory)));
        }
        (self.last, self.is_more) = (None, true);
        Ok(true)
    }

    /// Lists the next names; false when there are none.
    fn next_portion(&mut self) -> Result<bool, FileError> {
        if !std::mem::take(&mut self.is_more) {
            return Ok(false);
        }
        let mut portion: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for (place, directory) in &self.here {
            for entry in directory.each_entry()? {
                let (name, kind) = entry?;
                let name = name.to_str().filter(|_| kind == Kind::File);
                let Some(ComponentName { sstable, component }) = name.and_then(ComponentName::parse) else {
                    continue;
                };
                let key = (sstable.to_string(), place.number);
                if self.last.as_ref().is_some_and(|last| key <= *last) {
                    continue;
                }
                portion.entry(key).or_default().push(component);
                if portion.len() > PORTION {
                    portion.pop_last();
                    self.is_more = true;
                }
            }
        }
        self.last = portion.last_key_value().map(|(key, _)| key.clone());
        self.portion = portion.into_iter();
        Ok(true)
    }

    fn look_at(
        &self,
        name: String,
        number: u32,
        mut components: Vec<String>,
    ) -> Result<SstableFiles, FileError> {
        let here = self.here.iter().find(|(place, _)| place.number == number);
        let (place, directory) = here.expect("its key was made of the number of a place");
        // A directory under two names has everything twice.
        components.sort_unstable();
        components.dedup();
        let stat = |component: String| {
            let stat = directory.stat(&format!("{name}-{component}"))?;
            Ok((component, stat))
        };
        let files = components.into_iter().map(stat).collect::<Result<_, FileError>>()?;
        Ok(SstableFiles {
            name,
            found_as: None,
            directory: number,
            place: Arc::clone(place),
            files: Components(files),
        })
    }
}

impl Iterator for Sstables {
    type Item = Result<SstableFiles, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
