//! The manifest.json that Cassandra writes into a table's snapshot: which Data.db files belong to it, those of
//! its indexes too. With several data directories it lies in one of them only and names the files of all.

use std::fmt;

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

/// What a snapshot's manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SnapshotManifest {
    /// The index's directory (`.idx_name`) where it is an index's, and the name of the Data.db.
    #[serde(deserialize_with = "data_files")]
    pub files: Vec<(Option<String>, String)>,
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
}

fn data_files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Option<String>, String)>, D::Error> {
    struct DataFiles;
    impl<'de> Visitor<'de> for DataFiles {
        type Value = Vec<(Option<String>, String)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of names of Data.db files")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut files = Vec::new();
            while let Some(path) = list.next_element::<String>()? {
                let file = data_file(&path).ok_or_else(|| {
                    A::Error::custom(format!("{} is not a Data.db of a snapshot", excerpt(&path)))
                })?;
                files.push(file);
            }
            Ok(files)
        }
    }
    deserializer.deserialize_seq(DataFiles)
}

fn data_file(path: &str) -> Option<(Option<String>, String)> {
    let (index, file) = match path.split_once('/') {
        Some((index, file)) => (Some(index), file),
        None => (None, path),
    };
    let fits = index.is_none_or(is_index_directory) && is_plain_name(file) && file.ends_with("-Data.db");
    fits.then(|| (index.map(str::to_owned), file.to_owned()))
}
