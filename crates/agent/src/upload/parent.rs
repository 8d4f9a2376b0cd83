//! The parent manifest: whose objects may be relied on. Believed only when its bytes are those that the server
//! named by digest; then read line by line, alongside the snapshot.

use std::cmp::Ordering;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use cassy_agent_protocol::{ParentManifest, UploadRequest};
use cassy_backup_format::{
    BackupKind, Header, ManifestError, ManifestReader, ObjectKey, SstableEntry, TableRef,
};
use cassy_store::Store;

use super::error::{UploadError, blocking};
use super::spool::{SpoolFile, download};
use crate::context::Context;
use crate::failure::{chain, is_changed};

/// A manifest that has been fetched and found to be the right one.
#[derive(Debug)]
pub(super) struct Parent {
    key: ObjectKey,
    spool: SpoolFile,
}

/// An SSTable's line in the parent, and where its files were.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) entry: SstableEntry,
    /// The path of the data directory, which may have had another number then.
    pub(super) data: PathBuf,
}

impl Parent {
    /// The request's parent, read to its footer. A damaged one is not relied on: then everything is sent, which
    /// costs bytes and no backup.
    pub(super) async fn usable(
        ctx: &Context,
        store: &dyn Store,
        request: &UploadRequest,
        spool_dir: &Path,
    ) -> Result<Option<Self>, UploadError> {
        let Some(named) = &request.parent else { return Ok(None) };
        match Self::fetch_whole(ctx, store, named, request, spool_dir).await {
            Ok(parent) => Ok(Some(parent)),
            Err(error) if is_damage(&error) => {
                tracing::warn!(
                    error = chain(&error),
                    "the parent manifest is not relied on: everything is sent"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch_whole(
        ctx: &Context,
        store: &dyn Store,
        named: &ParentManifest,
        request: &UploadRequest,
        spool_dir: &Path,
    ) -> Result<Self, UploadError> {
        let parent = Self::fetch(ctx, store, named, request, spool_dir).await?;
        blocking(move || {
            parent.lines()?.try_for_each(|line| line.map(drop).map_err(damaged(&parent.key)))?;
            Ok(parent)
        })
        .await
    }

    /// The parent of an increment, read to its footer: without it there is none. It is the base, or an increment on
    /// the same base, and nothing in it is corrupt.
    pub(super) async fn required(
        ctx: &Context,
        store: &dyn Store,
        request: &UploadRequest,
        spool_dir: &Path,
    ) -> Result<Self, UploadError> {
        let (Some(named), Some(base)) = (&request.parent, request.base) else {
            return Err(UploadError::NoChain);
        };
        let parent = Self::fetch(ctx, store, named, request, spool_dir).await?;
        let own = request.backup_id;
        blocking(move || {
            let differs = |what: String| UploadError::ParentDiffers { key: parent.key.clone(), what };
            let mut lines = parent.lines()?;
            let header = lines.header();
            let is_on_base = match header.kind {
                BackupKind::Incremental => header.base == Some(base),
                BackupKind::NodeSnapshot | BackupKind::ClusterSnapshot => header.backup_id == base,
            };
            if !is_on_base || header.backup_id == own {
                return Err(differs(format!(
                    "it is neither the snapshot {base} nor an earlier increment on it"
                )));
            }
            lines.try_for_each(|line| match line {
                Ok(entry) if entry.corrupt => Err(differs(format!("{} in it is corrupt", entry.name))),
                Ok(_) => Ok(()),
                Err(error) => Err(damaged(&parent.key)(error)),
            })?;
            Ok(parent)
        })
        .await
    }

    /// The manifest of this key, when its bytes are the named ones.
    pub(super) async fn fetch_named(
        ctx: &Context,
        store: &dyn Store,
        named: &ParentManifest,
        spool_dir: &Path,
    ) -> Result<Self, UploadError> {
        let (spool, blake3) = download(ctx, store, &named.key, spool_dir, "parent").await?;
        if blake3 != named.blake3 {
            let what = format!("its BLAKE3 is {blake3} and should be {}", named.blake3);
            return Err(UploadError::ParentDiffers { key: named.key.clone(), what });
        }
        Ok(Self { key: named.key.clone(), spool })
    }

    /// Fetches the manifest and checks its digest, and that it is one of this node.
    async fn fetch(
        ctx: &Context,
        store: &dyn Store,
        parent: &ParentManifest,
        request: &UploadRequest,
        spool_dir: &Path,
    ) -> Result<Self, UploadError> {
        let parent = Self::fetch_named(ctx, store, parent, spool_dir).await?;
        let differs =
            |what: &str| UploadError::ParentDiffers { key: parent.key.clone(), what: what.to_owned() };
        check_owner(parent.lines()?.header(), request).map_err(differs)?;
        Ok(parent)
    }

    /// The manifest of an earlier pass of ours.
    pub(super) fn own(key: ObjectKey, spool: SpoolFile) -> Self {
        Self { key, spool }
    }

    /// Begins to read it.
    pub(super) fn cursor(&self) -> Result<Cursor, UploadError> {
        let lines = self.lines()?;
        let directories = lines.header().configuration.data_directories.iter().map(PathBuf::from).collect();
        Ok(Cursor { key: self.key.clone(), directories, lines, ahead: None })
    }

    pub(super) fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Reads it from its begin.
    pub(super) fn lines(&self) -> Result<ManifestReader<BufReader<File>>, UploadError> {
        let file = BufReader::new(self.spool.open()?);
        ManifestReader::open(file).map_err(damaged(&self.key))
    }
}

fn damaged(key: &ObjectKey) -> impl Fn(ManifestError) -> UploadError {
    |source| UploadError::Parent { key: key.clone(), source }
}

/// That of the parent itself; the next try finds the same.
fn is_damage(error: &UploadError) -> bool {
    match error {
        UploadError::ParentDiffers { .. } | UploadError::Parent { .. } => true,
        UploadError::Store { source, .. } => is_changed(source),
        _ => false,
    }
}

fn check_owner(header: &Header, request: &UploadRequest) -> Result<(), &'static str> {
    if header.cluster_id != request.cluster_id {
        return Err("it is of another cluster");
    }
    if header.host_id != request.host_id {
        return Err("it is of another node");
    }
    if request.parent.as_ref().is_some_and(|parent| parent.backup_id != header.backup_id) {
        return Err("it is of another backup");
    }
    Ok(())
}

/// A place in the parent, which moves with the SSTables of the snapshot.
pub(super) struct Cursor {
    key: ObjectKey,
    directories: Vec<PathBuf>,
    lines: ManifestReader<BufReader<File>>,
    ahead: Option<SstableEntry>,
}

impl Cursor {
    /// What the parent has of this SSTable, in any data directory. SSTables are asked for in the manifest's order.
    pub(super) fn candidates(
        &mut self,
        table: &TableRef,
        index: Option<&str>,
        name: &str,
    ) -> Result<Vec<Candidate>, UploadError> {
        let mut candidates = Vec::new();
        while let Some(entry) = self.next()? {
            match (&entry.table, entry.index.as_deref(), entry.name.as_str()).cmp(&(table, index, name)) {
                Ordering::Less => {}
                Ordering::Equal => candidates.push(self.candidate(entry)),
                Ordering::Greater => {
                    self.ahead = Some(entry);
                    break;
                }
            }
        }
        Ok(candidates)
    }

    /// The next line of this table. Tables are asked for in the manifest's order.
    pub(super) fn next_of(&mut self, table: &TableRef) -> Result<Option<Candidate>, UploadError> {
        while let Some(entry) = self.next()? {
            match entry.table.cmp(table) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(self.candidate(entry))),
                Ordering::Greater => {
                    self.ahead = Some(entry);
                    break;
                }
            }
        }
        Ok(None)
    }

    fn candidate(&self, entry: SstableEntry) -> Candidate {
        let number = usize::try_from(entry.directory).unwrap_or(usize::MAX);
        Candidate { data: self.directories.get(number).cloned().unwrap_or_default(), entry }
    }

    fn next(&mut self) -> Result<Option<SstableEntry>, UploadError> {
        if let Some(entry) = self.ahead.take() {
            return Ok(Some(entry));
        }
        self.lines.next().transpose().map_err(damaged(&self.key))
    }
}
