//! When tables were truncated, as the `system.local` of a snapshot has it. TRUNCATE flushes that table, so what it
//! decided is on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cassy_agent_protocol::AgentErrorKind;
use cassy_backup_format::Truncation;
use cassy_sstable::{
    COMPRESSION_INFO_COMPONENT, CompressionError, CompressionInfo, DATA_COMPONENT, Digest, DigestError,
    SstableName, UNCOMPRESSED_LIMIT_BYTES, truncations,
};

use super::inventory::{TableSnapshot, small_file};
use super::sstables::SstableFiles;
use crate::directory::FileError;

/// It has a line for each chunk of the data.
const INFO_LIMIT_BYTES: u64 = UNCOMPRESSED_LIMIT_BYTES;
/// Data that does not shrink is longer when it is compressed.
const DATA_LIMIT_BYTES: u64 = 2 * UNCOMPRESSED_LIMIT_BYTES;
/// A digest is some ten bytes long.
const DIGEST_LIMIT_BYTES: u64 = 4096;
const DIGEST_COMPONENT: &str = "Digest.crc32";
const COMPRESSOR_HINT: &str = "Set flush_compression in cassandra.yaml to fast (the default) or none: increments need \
    Cassandra's own tables in LZ4 or as they are.";

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TruncationsError {
    /// It always has one row.
    #[error("the snapshot has no SSTable of system.local, which says what was truncated")]
    Absent,
    /// A file.
    #[error("cannot read what was truncated")]
    File {
        #[source]
        source: FileError,
    },
    /// It is compressed in a way that is not known, or not what it says.
    #[error("cannot read what was truncated from {}", .path.display())]
    Compression {
        path: PathBuf,
        #[source]
        source: CompressionError,
    },
    /// Its digest is none.
    #[error("cannot read what was truncated from {}", .path.display())]
    Digest {
        path: PathBuf,
        #[source]
        source: DigestError,
    },
    /// It is damaged.
    #[error("cannot read what was truncated: {} does not match its {DIGEST_COMPONENT}", .path.display())]
    Damaged { path: PathBuf },
}

impl TruncationsError {
    pub(crate) fn kind(&self) -> AgentErrorKind {
        match self {
            Self::File { source } => source.kind(),
            _ => AgentErrorKind::Permanent,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::File { source } => source.hint(),
            Self::Compression { source: CompressionError::Unsupported(_), .. } => {
                Some(COMPRESSOR_HINT.to_owned())
            }
            _ => None,
        }
    }
}

/// Of the tables of the snapshot those that were truncated, by id.
pub(crate) fn truncated<'a>(
    tables: impl Iterator<Item = &'a TableSnapshot> + Clone,
) -> Result<Vec<Truncation>, TruncationsError> {
    let known: BTreeSet<&str> = tables.clone().map(|snapshot| snapshot.table.id.as_str()).collect();
    let mut latest: BTreeMap<String, i64> = BTreeMap::new();
    let mut is_there = false;
    let is_local = |snapshot: &&TableSnapshot| {
        (snapshot.table.keyspace.as_str(), snapshot.table.table.as_str()) == ("system", "local")
    };
    for local in tables.filter(is_local) {
        for sstable in local.read().map_err(file)?.sstables {
            let sstable = sstable.map_err(file)?;
            if sstable.index().is_some() {
                continue;
            }
            is_there = true;
            for (id, at_ms) in truncations(&rows(&sstable)?) {
                if known.contains(id.as_str()) {
                    let newest = latest.entry(id).or_insert(at_ms);
                    *newest = at_ms.max(*newest);
                }
            }
        }
    }
    if !is_there {
        return Err(TruncationsError::Absent);
    }
    Ok(latest.into_iter().map(|(id, at_ms)| Truncation { id, at_ms }).collect())
}

/// The content of Data.db, decompressed.
fn rows(sstable: &SstableFiles) -> Result<Vec<u8>, TruncationsError> {
    let directory = sstable.open().map_err(file)?;
    let read = |component: &str, limit_bytes| {
        small_file(&directory, &sstable.file_name(component), limit_bytes).map_err(file)
    };
    let path = || directory.path().join(sstable.file_name(DATA_COMPONENT));
    let data = read(DATA_COMPONENT, DATA_LIMIT_BYTES)?;
    if sstable.files.get(DIGEST_COMPONENT).is_some() {
        let digest = Digest::parse(DIGEST_COMPONENT, &read(DIGEST_COMPONENT, DIGEST_LIMIT_BYTES)?);
        let digest =
            digest.transpose().map_err(|source| TruncationsError::Digest { path: path(), source })?;
        if digest != Some(Digest::Crc32(crc32fast::hash(&data))) {
            return Err(TruncationsError::Damaged { path: path() });
        }
    }
    let name = SstableName::parse(&sstable.name);
    let Some(name) = name.filter(|_| sstable.files.get(COMPRESSION_INFO_COMPONENT).is_some()) else {
        return Ok(data);
    };
    let info = read(COMPRESSION_INFO_COMPONENT, INFO_LIMIT_BYTES)?;
    let rows = CompressionInfo::parse(&name, &info).and_then(|info| info.decompress(&data));
    rows.map_err(|source| TruncationsError::Compression { path: path(), source })
}

fn file(source: FileError) -> TruncationsError {
    TruncationsError::File { source }
}
