//! Deleting from `backups/` what a committed increment holds, or has ruled out. The manifest alone says what that is,
//! so any agent can do it, at any time, and again.
//!
//! Invariants: an SSTable goes only when each of its files that is there is, by size, inode, time of modification and
//! time of birth, the one of the manifest's line, or when it is older than a truncation that the increment knew and was
//! there before the increment began; no link is followed; Data.db goes last, so that what was begun can be ended.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cassy_agent_protocol::ClearIncludedRequest;
use cassy_backup_format::{BackupKind, Header, TableRef};
use cassy_sstable::DATA_COMPONENT;
use cassy_store::StoreAccess;

use super::super::error::{UploadError, blocking};
use super::super::parent::{Cursor, Parent};
use super::groups::Groups;
use super::holds;
use super::truncated::Truncated;
use crate::context::Context;
use crate::snapshot::SstableFiles;

/// By so much the clocks of server and node may differ: what was linked later than this before the increment was asked
/// for may have come after it.
const CLOCKS_DIFFER_MS: i64 = 10 * 60 * 1000;

/// Answers how many files went.
pub(crate) async fn clear_included(
    ctx: &Context,
    request: &ClearIncludedRequest,
    spool_dir: &Path,
) -> Result<u64, UploadError> {
    let access = StoreAccess::new(request.store.location.clone());
    let store =
        cassy_store::open(&access).map_err(|source| UploadError::Store { what: "open the store", source })?;
    let manifest = Parent::fetch_named(ctx, store.as_ref(), &request.manifest, spool_dir).await?;
    let (ctx, request) = (ctx.clone(), request.clone());
    blocking(move || {
        let header = proven(&manifest, &request)?;
        let directories = (0..).zip(request.data_directories.iter().map(PathBuf::from)).collect();
        let latest_ms = header.created_at_ms.saturating_sub(CLOCKS_DIFFER_MS);
        let mut clearing = Clearing {
            ctx,
            directories,
            truncated: Truncated::new(header.truncations.as_deref().unwrap_or_default()),
            latest_ns: latest_ms.saturating_mul(1_000_000),
            second: manifest.cursor()?,
            removed: 0,
        };
        let mut cursor = manifest.cursor()?;
        for table in header.tables.into_iter().collect::<BTreeSet<_>>() {
            cursor = clearing.table(cursor, &table)?;
        }
        Ok(clearing.removed)
    })
    .await
}

/// The header of a manifest that was read to its footer, and is the increment that the server means.
fn proven(manifest: &Parent, request: &ClearIncludedRequest) -> Result<Header, UploadError> {
    let differs =
        |what: &str| UploadError::ParentDiffers { key: manifest.key().clone(), what: what.to_owned() };
    let mut lines = manifest.lines()?;
    let header = lines.header().clone();
    let is_meant = header.cluster_id == request.cluster_id
        && header.host_id == request.host_id
        && header.backup_id == request.manifest.backup_id;
    if !is_meant {
        return Err(differs("it is of another cluster, node or backup"));
    }
    if header.kind != BackupKind::Incremental {
        return Err(differs("it is no increment"));
    }
    lines.try_for_each(|line| match line {
        Ok(entry) if entry.corrupt => Err(differs("an SSTable in it is corrupt")),
        Ok(_) => Ok(()),
        Err(source) => Err(UploadError::Parent { key: manifest.key().clone(), source }),
    })?;
    Ok(header)
}

struct Clearing {
    ctx: Context,
    directories: Vec<(u32, PathBuf)>,
    truncated: Truncated,
    /// A file whose links were changed later may have come after the increment.
    latest_ns: i64,
    /// For SSTables that the manifest names otherwise.
    second: Cursor,
    removed: u64,
}

impl Clearing {
    fn table(&mut self, cursor: Cursor, table: &TableRef) -> Result<Cursor, UploadError> {
        let mut groups = Groups::of(cursor, &self.directories, table)?;
        let mut renamed = Vec::new();
        while let Some(group) = groups.next()? {
            self.ctx.check()?;
            for sstable in group.found {
                if group.lines.iter().any(|line| holds(line, &sstable)) || self.is_ruled_out(table, &sstable)
                {
                    self.remove(&sstable)?;
                } else if !group.lines.is_empty() {
                    renamed.push(sstable);
                }
            }
        }
        if !renamed.is_empty() {
            self.renamed(table, renamed)?;
        }
        Ok(groups.into_cursor())
    }

    /// Those that have the name of another one, and so another name in the manifest.
    fn renamed(&mut self, table: &TableRef, mut sstables: Vec<SstableFiles>) -> Result<(), UploadError> {
        while let Some(line) = self.second.next_of(table)? {
            self.ctx.check()?;
            if let Some(place) = sstables.iter().position(|sstable| holds(&line, sstable)) {
                let sstable = sstables.swap_remove(place);
                self.remove(&sstable)?;
            }
        }
        Ok(())
    }

    fn is_ruled_out(&self, table: &TableRef, sstable: &SstableFiles) -> bool {
        self.truncated.rules_out(&table.id, sstable)
            && sstable.files.iter().all(|(_, stat)| stat.ctime_ns < self.latest_ns)
    }

    fn remove(&mut self, sstable: &SstableFiles) -> Result<(), UploadError> {
        let directory = sstable.open()?;
        let mut components: Vec<&String> = sstable.files.iter().map(|(component, _)| component).collect();
        components.sort_by_key(|component| *component == DATA_COMPONENT);
        for component in components {
            self.removed += u64::from(directory.remove_file(sstable.on_disk(component).as_ref())?);
        }
        Ok(())
    }
}
