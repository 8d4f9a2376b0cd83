//! The node manifest of a restore: fetched to a private file, proven whole and the one that was asked for, then
//! read line by line as often as needed. Memory does not grow with it.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use cassy_agent_protocol::{RestoreRequest, RestoreScope, RestoreWay};
use cassy_backup_format::{Header, ManifestReader, ObjectKey, SstableEntry};
use cassy_sstable::{ComponentName, SstableName, TableDirectory, is_index_directory, is_plain_name};
use cassy_store::Store;
use futures::TryStreamExt;

use super::aside::is_aside;
use super::error::RestoreError;
use super::retry;
use super::tree::FileError;
use crate::context::Context;

/// No manifest is larger; the nodes' spool directories are often small.
const LIMIT_BYTES: u64 = 4 << 30;

/// What a node knows of the other nodes, by their addresses and its own. A node of a new address learns it again.
const PEERS: [&str; 4] = ["peers", "peers_v2", "peer_events", "peer_events_v2"];

/// A node manifest that has been read to its end once: what it says holds together.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    path: PathBuf,
    key: ObjectKey,
    pub(crate) header: Header,
    /// Files to put back.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    left_out: LeftOut,
}

impl Manifest {
    /// Fetches and proves it. The file goes to `spool`.
    pub(crate) async fn fetch(
        context: &Context,
        store: &dyn Store,
        request: &RestoreRequest,
        spool: &Path,
    ) -> Result<Self, RestoreError> {
        let path = spool.join(format!("restore-{}.jsonl.zst", request.backup_id));
        retry::transient(context, || download(store, request, &path, LIMIT_BYTES)).await?;
        let request = request.clone();
        let task = tokio::task::spawn_blocking(move || Self::prove(&request, path));
        task.await.map_err(RestoreError::CutShort)?
    }

    fn prove(request: &RestoreRequest, path: PathBuf) -> Result<Self, RestoreError> {
        let key = request.manifest.key.clone();
        let invalid = |source| RestoreError::Manifest { key: key.clone(), source };
        let mut lines = open(&path, &key)?;
        let refused = |reason| RestoreError::Refused { key: key.clone(), reason };
        check_header(request, lines.header()).map_err(refused)?;
        let left_out = LeftOut::of(&request.way);
        let (mut files, mut bytes, mut corrupt) = (0u64, 0u64, 0u64);
        for entry in &mut lines {
            let entry = entry.map_err(invalid)?;
            check_entry(&entry).map_err(refused)?;
            corrupt += u64::from(entry.corrupt);
            if !left_out.has(&entry) {
                files += entry.files.len() as u64;
                bytes = entry.files.iter().fold(bytes, |sum, file| sum.saturating_add(file.size));
            }
        }
        // Its lines end without an error only behind a footer that fits them.
        if corrupt > 0 {
            let reason = format!("{corrupt} SSTables in it were corrupt when the backup was taken");
            return Err(refused(reason));
        }
        let header = lines.header().clone();
        Ok(Self { path, key, header, files, bytes, left_out })
    }

    /// The SSTables to put back, in the manifest's order.
    pub(crate) fn entries(
        &self,
    ) -> Result<impl Iterator<Item = Result<SstableEntry, RestoreError>>, RestoreError> {
        let key = self.key.clone();
        let (lines, left_out) = (open(&self.path, &key)?, self.left_out);
        Ok(lines
            .filter(move |entry| !entry.as_ref().is_ok_and(|entry| left_out.has(entry)))
            .map(move |entry| entry.map_err(|source| RestoreError::Manifest { key: key.clone(), source })))
    }

    /// For a manifest that is refused after all.
    pub(crate) fn refuse(&self, reason: String) -> RestoreError {
        RestoreError::Refused { key: self.key.clone(), reason }
    }
}

/// What is not put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftOut {
    Nothing,
    /// What the node knew of others.
    Peers,
    /// Who the node was, too.
    System,
}

impl LeftOut {
    fn of(way: &RestoreWay) -> Self {
        match way {
            RestoreWay::InPlace => Self::Nothing,
            RestoreWay::Replacement => Self::Peers,
            RestoreWay::Copy { .. } => Self::System,
        }
    }

    fn has(self, entry: &SstableEntry) -> bool {
        let is_system = entry.table.keyspace == "system";
        match self {
            Self::Nothing => false,
            Self::Peers => is_system && PEERS.contains(&entry.table.table.as_str()),
            Self::System => is_system,
        }
    }
}

fn open(path: &Path, key: &ObjectKey) -> Result<ManifestReader<BufReader<File>>, RestoreError> {
    let file = File::open(path).map_err(|source| FileError::new("open", path, source))?;
    ManifestReader::open(BufReader::new(file))
        .map_err(|source| RestoreError::Manifest { key: key.clone(), source })
}

pub(crate) async fn download(
    store: &dyn Store,
    request: &RestoreRequest,
    path: &Path,
    limit_bytes: u64,
) -> Result<(), RestoreError> {
    let key = &request.manifest.key;
    let failed = |source| FileError::new("write", path, source);
    let mut file = File::create(path).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let mut size = 0u64;
    let mut pieces = store.read(key, None).await.map_err(RestoreError::Store)?;
    while let Some(piece) = pieces.try_next().await.map_err(RestoreError::Store)? {
        size += piece.len() as u64;
        if size > limit_bytes {
            let reason = format!("it is larger than {limit_bytes} bytes");
            return Err(RestoreError::Refused { key: key.clone(), reason });
        }
        hasher.update(&piece);
        file.write_all(&piece).map_err(failed)?;
    }
    let found = hasher.finalize().to_hex().to_string();
    if found != request.manifest.blake3 {
        let expected = request.manifest.blake3.clone();
        return Err(RestoreError::OtherManifest { key: key.clone(), expected, found });
    }
    Ok(())
}

fn check_header(request: &RestoreRequest, header: &Header) -> Result<(), String> {
    for (what, found, wanted) in [
        ("cluster", header.cluster_id.to_string(), request.cluster_id.to_string()),
        ("node", header.host_id.to_string(), request.host_id.to_string()),
        ("backup", header.backup_id.to_string(), request.manifest.backup_id.to_string()),
    ] {
        if found != wanted {
            return Err(format!("it is of {what} {found:?} and not of {wanted:?}"));
        }
    }
    // An increment is whole by itself, and goes by the id of its base.
    let of = header.base.unwrap_or(header.backup_id);
    if request.backup_id != of {
        return Err(format!("it is of backup {of}, and the restore is of {}", request.backup_id));
    }
    Ok(())
}

/// Beyond what the manifest's reader checks (that objects are those of the header's node, for one): every name can only
/// be what it should be, and lies where it should.
fn check_entry(entry: &SstableEntry) -> Result<(), String> {
    let table = &entry.table;
    let is_staging = RestoreScope::ALL.iter().any(|scope| table.keyspace == scope.staging());
    let is_ours = is_staging || is_aside(table.keyspace.as_ref());
    if !is_plain_name(&table.keyspace) || table.keyspace.starts_with('.') || is_ours {
        return Err(format!("{:?} is not the name of a keyspace", table.keyspace));
    }
    let directory = table_directory(entry);
    if TableDirectory::parse(&directory).is_none() {
        return Err(format!("{directory:?} is not the directory of a table"));
    }
    if let Some(index) = entry.index.as_ref().filter(|index| !is_index_directory(index)) {
        return Err(format!("{index:?} is not the directory of an index"));
    }
    let Some(sstable) = SstableName::parse(&entry.name) else {
        return Err(format!("{:?} is not the name of an SSTable", entry.name));
    };
    for file in &entry.files {
        if ComponentName::parse(&file.name).is_none_or(|name| name.sstable != sstable) {
            return Err(format!("{:?} is not a component of SSTable {}", file.name, entry.name));
        }
    }
    Ok(())
}

/// The name of an entry's table directory.
pub(crate) fn table_directory(entry: &SstableEntry) -> String {
    format!("{}-{}", entry.table.table, entry.table.id)
}

/// The directories from a data directory down to an entry's files.
pub(crate) fn directories<'a>(entry: &'a SstableEntry, table: &'a str) -> Vec<&'a str> {
    let mut names = vec![entry.table.keyspace.as_str(), table];
    names.extend(entry.index.as_deref());
    names
}
