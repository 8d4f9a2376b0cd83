//! The manifest.json that Cassandra writes into a table's snapshot: which Data.db files belong to it, those of
//! its indexes too. With several data directories it lies in one of them only and names the files of all.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use crate::layout::is_index_directory;
use crate::plain::{excerpt, is_plain_name};

/// The manifest's name in a snapshot's directory.
pub const SNAPSHOT_MANIFEST_FILE: &str = "manifest.json";
/// The name of the table's schema in a snapshot's directory; tables of some system keyspaces have none.
pub const SNAPSHOT_SCHEMA_FILE: &str = "schema.cql";

/// Room for a table of hundreds of thousands of SSTables.
const LIMIT_BYTES: usize = 16 << 20;

/// Why a snapshot's manifest is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotManifestError {
    /// It is too long.
    #[error("the snapshot's manifest.json is longer than {LIMIT_BYTES} bytes")]
    TooLarge,
    /// It is not JSON, has no `files`, or names what cannot be a file of the snapshot.
    #[error("the snapshot's manifest.json is not valid")]
    Invalid(#[source] serde_json::Error),
}

/// What a snapshot's manifest says: the Data.db files, each once, in the order of their paths. They lie in one text,
/// as a table may have very many.
#[derive(Debug, Clone, Deserialize)]
pub struct SnapshotManifest {
    files: DataFiles,
}

impl SnapshotManifest {
    /// Takes the file's content; what else is in it (`created_at`, `expires_at`, `ephemeral`) is passed over.
    pub fn parse(content: &[u8]) -> Result<Self, SnapshotManifestError> {
        if content.len() > LIMIT_BYTES {
            return Err(SnapshotManifestError::TooLarge);
        }
        let is_object = content.trim_ascii_start().first() == Some(&b'{');
        let parsed = if is_object {
            serde_json::from_slice(content)
        } else {
            Err(serde_json::Error::custom("it is not a JSON object"))
        };
        parsed.map_err(SnapshotManifestError::Invalid)
    }

    /// The index's directory (`.idx_name`) where it is an index's, and the name of the Data.db.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (Option<&str>, &str)> {
        self.files.places.iter().map(|place| split(self.files.path(place)))
    }

    /// The place of a Data.db among [`Self::files`].
    pub fn position(&self, index: Option<&str>, file: &str) -> Option<usize> {
        let path = index.map_or_else(|| Cow::Borrowed(file), |index| Cow::Owned(format!("{index}/{file}")));
        self.files.places.binary_search_by(|place| self.files.path(place).cmp(&path)).ok()
    }
}

/// Paths in one text.
#[derive(Debug, Clone, Default)]
struct DataFiles {
    text: String,
    /// Sorted by what lies there.
    places: Vec<Range<u32>>,
}

impl DataFiles {
    fn path(&self, place: &Range<u32>) -> &str {
        let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        self.text.get(at(place.start)..at(place.end)).unwrap_or_default()
    }

    /// Nothing is pushed beyond the manifest's own length, which is limited.
    fn push(&mut self, path: &str) {
        let end = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let start = end(&self.text);
        self.text.push_str(path);
        self.places.push(start..end(&self.text));
    }

    fn sorted(mut self) -> Self {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|a, b| self.path(a).cmp(self.path(b)));
        places.dedup_by(|a, b| self.path(a) == self.path(b));
        Self { places, ..self }
    }
}

impl<'de> Deserialize<'de> for DataFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Paths;
        impl<'de> Visitor<'de> for Paths {
            type Value = DataFiles;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names of Data.db files")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<DataFiles, A::Error> {
                let mut files = DataFiles::default();
                while let Some(path) = list.next_element::<String>()? {
                    if !is_data_file(&path) {
                        let what = format!("{} is not a Data.db of a snapshot", excerpt(&path));
                        return Err(A::Error::custom(what));
                    }
                    files.push(&path);
                }
                Ok(files.sorted())
            }
        }
        deserializer.deserialize_seq(Paths)
    }
}

fn split(path: &str) -> (Option<&str>, &str) {
    match path.split_once('/') {
        Some((index, file)) => (Some(index), file),
        None => (None, path),
    }
}

fn is_data_file(path: &str) -> bool {
    let (index, file) = split(path);
    index.is_none_or(is_index_directory) && is_plain_name(file) && file.ends_with("-Data.db")
}
