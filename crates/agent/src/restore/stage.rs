//! Brings every file of the backup onto the node's own disks, beside the place where it belongs, and proves it:
//! object by size and BLAKE3, file by size, CRC-32 and BLAKE3, Data.db by its own digest as well. Files that an
//! earlier call has staged or placed are proven by reading them, and kept. Nothing is placed here.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cassy_agent_protocol::Progress;
use cassy_backup_format::{FileEntry, ObjectEntry, SstableEntry};
use cassy_sstable::{ComponentName, DATA_COMPONENT, Digest};
use cassy_store::Store;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::error::RestoreError;
use super::layout::Layout;
use super::manifest::{Manifest, directories, table_directory};
use super::marker::STAGED;
use super::object::ObjectWriter;
use super::retry;
use super::tree::{FileError, Ownership, Tree};
use crate::context::Context;

/// SSTables under way at once.
const CONCURRENCY: usize = 4;
/// Pieces of an object that wait for the disk.
const PIECES: usize = 8;
/// SSTables that the reader of the manifest is ahead.
const AHEAD: usize = 16;
/// A store that gives nothing for so long has lost the request.
const STALL: Duration = Duration::from_secs(300);
const BUFFER_BYTES: usize = 1 << 20;
/// A digest is ten digits.
const DIGEST_LIMIT_BYTES: u64 = 1024;

/// A directory that files go to.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) root: Tree,
    /// The staging directory; `None` when there is nothing to stage.
    pub(crate) staging: Option<Tree>,
    pub(crate) ownership: Ownership,
}

/// Everything that staging needs; shared by the SSTables under way.
pub(crate) struct Stager {
    pub(crate) context: Context,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) layout: Layout,
    pub(crate) destinations: Vec<Arc<Destination>>,
    pub(crate) done: Done,
    /// Work on threads: it cannot be aborted, only waited for.
    pub(crate) tasks: TaskTracker,
}

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct Done {
    bytes: AtomicU64,
    files: AtomicU64,
}

impl Stager {
    /// Stages everything. When it answers, no work of it is left.
    pub(crate) async fn run(self: &Arc<Self>) -> Result<(), RestoreError> {
        let outcome = self.stage_all().await;
        self.tasks.close();
        self.tasks.wait().await;
        outcome
    }

    async fn stage_all(self: &Arc<Self>) -> Result<(), RestoreError> {
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let manifest = Arc::clone(&self.manifest);
        let reading = self.tasks.spawn_blocking(move || read_entries(&manifest, &sender));
        futures::stream::poll_fn(|poll| receiver.poll_recv(poll))
            .map(|entry| {
                let stager = Arc::clone(self);
                async move { stager.sstable(Arc::new(entry)).await }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        reading.await.map_err(RestoreError::CutShort)?
    }

    async fn sstable(self: Arc<Self>, entry: Arc<SstableEntry>) -> Result<(), RestoreError> {
        if self.context.cancel.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        let missing = self.on_thread(&entry, Self::missing).await?;
        for (number, object) in (0..).zip(&entry.objects) {
            let of_it = missing.iter().filter(|file| file.object == number);
            let files: Vec<FileEntry> = of_it.cloned().collect();
            if !files.is_empty() {
                retry::transient(&self.context, || self.object(&entry, object, &files)).await?;
            }
        }
        self.on_thread(&entry, Self::check_digest).await
    }

    async fn on_thread<T: Send + 'static>(
        self: &Arc<Self>,
        entry: &Arc<SstableEntry>,
        work: fn(&Self, &SstableEntry) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        let (stager, entry) = (Arc::clone(self), Arc::clone(entry));
        let task = self.tasks.spawn_blocking(move || work(&stager, &entry));
        task.await.map_err(RestoreError::CutShort)?
    }

    fn destination(&self, entry: &SstableEntry) -> Result<&Arc<Destination>, RestoreError> {
        let destination = self.layout.root_of(entry).and_then(|root| self.destinations.get(root));
        destination.ok_or_else(|| self.manifest.refuse("a data directory is not there".to_owned()))
    }

    /// The files that are neither in place nor staged. What is staged and not the backup's is removed; what is in
    /// place and not the backup's is refused.
    fn missing(&self, entry: &SstableEntry) -> Result<Vec<FileEntry>, RestoreError> {
        let destination = self.destination(entry)?;
        let table = table_directory(entry);
        let names = directories(entry, &table);
        let placed = destination.root.descend(&names)?;
        let staged = staged(destination, &names)?;
        let mut missing = Vec::new();
        for file in &entry.files {
            if let Some(placed) = &placed
                && let Some(found) = self.compare(placed, file)?
            {
                found.map_err(|reason| RestoreError::InTheWay {
                    path: placed.path().join(&file.name),
                    reason,
                })?;
                // A file that was placed without a rename has its staged name still.
                remove_staged(staged.as_ref(), file)?;
                self.dealt_with(file);
            } else if self.is_staged(staged.as_ref(), file)? {
                self.dealt_with(file);
            } else {
                missing.push(file.clone());
            }
        }
        Ok(missing)
    }

    fn is_staged(&self, staged: Option<&Tree>, file: &FileEntry) -> Result<bool, RestoreError> {
        let Some(staged) = staged else { return Ok(false) };
        match self.compare(staged, file)? {
            Some(Ok(())) => Ok(true),
            Some(Err(_)) => {
                remove_staged(Some(staged), file)?;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// `None` when there is no such file; else whether it is the backup's, by size and BLAKE3.
    fn compare(
        &self,
        directory: &Tree,
        file: &FileEntry,
    ) -> Result<Option<Result<(), String>>, RestoreError> {
        let Some(size) = directory.file_size(&file.name)? else {
            return match directory.stat(OsStr::new(&file.name))? {
                Some(_) => Ok(Some(Err("it is no regular file".to_owned()))),
                None => Ok(None),
            };
        };
        if size != file.size {
            return Ok(Some(Err(format!("it has {size} bytes instead of {}", file.size))));
        }
        let Some(content) = directory.read(&file.name)? else { return Ok(None) };
        let found = self.hash(content, &directory.path().join(&file.name))?;
        let equal = found == file.blake3;
        Ok(Some(if equal {
            Ok(())
        } else {
            Err(format!("its BLAKE3 is {found} instead of {}", file.blake3))
        }))
    }

    /// The BLAKE3 of a file. What is read counts while it is read, as the server stops a request that makes no progress,
    /// and one file may take hours; then whoever asked says what it was.
    fn hash(&self, mut content: impl Read, path: &Path) -> Result<String, RestoreError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut counted = 0;
        let outcome = loop {
            if self.context.cancel.is_cancelled() {
                break Err(RestoreError::Cancelled);
            }
            match content.read(&mut buffer) {
                Ok(0) => break Ok(hasher.finalize().to_hex().to_string()),
                Ok(read) => {
                    hasher.update(buffer.get(..read).unwrap_or_default());
                    counted += read as u64;
                    self.done.bytes.fetch_add(read as u64, Ordering::Relaxed);
                    self.report();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => break Err(FileError::new("read", path, source).into()),
            }
        };
        self.done.bytes.fetch_sub(counted, Ordering::Relaxed);
        outcome
    }

    /// Downloads one object and takes these files out of it.
    async fn object(
        &self,
        entry: &Arc<SstableEntry>,
        object: &ObjectEntry,
        files: &[FileEntry],
    ) -> Result<(), RestoreError> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let destination = Arc::clone(self.destination(entry)?);
        let (place, whole, wanted) = (Arc::clone(entry), object.clone(), files.to_vec());
        let task =
            self.tasks.spawn_blocking(move || write_object(&destination, &place, whole, wanted, receiver));
        let fetched = self.fetch(object, sender).await;
        let writer = task.await.map_err(RestoreError::CutShort)??;
        let fetched = fetched?;
        let task = self.tasks.spawn_blocking(move || writer.finish());
        task.await.map_err(RestoreError::CutShort)??;
        self.done.bytes.fetch_sub(fetched, Ordering::Relaxed);
        for file in files {
            self.dealt_with(file);
        }
        Ok(())
    }

    /// Hands an object's bytes to the thread that writes them; says how many.
    async fn fetch(&self, object: &ObjectEntry, sender: mpsc::Sender<Bytes>) -> Result<u64, RestoreError> {
        let mut fetched = 0u64;
        let outcome = self.fetch_pieces(object, sender, &mut fetched).await;
        if outcome.is_err() {
            self.done.bytes.fetch_sub(fetched, Ordering::Relaxed);
        }
        outcome.map(|()| fetched)
    }

    async fn fetch_pieces(
        &self,
        object: &ObjectEntry,
        sender: mpsc::Sender<Bytes>,
        fetched: &mut u64,
    ) -> Result<(), RestoreError> {
        let mut pieces = self.store.read(&object.key, None).await.map_err(|error| lost(object, error))?;
        loop {
            let piece = tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => return Err(RestoreError::Cancelled),
                piece = tokio::time::timeout(STALL, pieces.try_next()) => piece,
            };
            let Ok(piece) = piece else { return Err(RestoreError::Stalled { key: object.key.clone() }) };
            let piece = piece.map_err(|error| lost(object, error))?;
            let Some(piece) = piece else { return Ok(()) };
            let bytes = piece.len() as u64;
            if sender.send(piece).await.is_err() {
                // The writer has failed, and says why itself.
                return Ok(());
            }
            *fetched += bytes;
            self.done.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.report();
        }
    }

    /// The Data.db against the digest that Cassandra itself keeps beside it.
    fn check_digest(&self, entry: &SstableEntry) -> Result<(), RestoreError> {
        let component = |file: &FileEntry| ComponentName::parse(&file.name).map(|name| name.component);
        let data = entry.files.iter().find(|file| component(file).as_deref() == Some(DATA_COMPONENT));
        let digest =
            entry.files.iter().find(|file| component(file).is_some_and(|name| name.starts_with("Digest.")));
        // The manifest's reader has seen that every file's object is there.
        let object = data.and_then(|data| entry.objects.get(usize::try_from(data.object).ok()?));
        let (Some(data), Some(object), Some(digest)) = (data, object, digest) else { return Ok(()) };
        let content = self.small_file(entry, &digest.name)?;
        let name = component(digest).unwrap_or_default();
        let reason = match Digest::parse(&name, &content) {
            Some(Ok(Digest::Crc32(crc32))) if crc32 != data.crc32 => {
                format!("its CRC-32 is {}, and {} says {crc32}", data.crc32, digest.name)
            }
            Some(Err(error)) => error.to_string(),
            Some(Ok(_)) | None => return Ok(()),
        };
        Err(RestoreError::Corrupt { key: object.key.clone(), file: Some(data.name.clone()), reason })
    }

    fn small_file(&self, entry: &SstableEntry, name: &str) -> Result<Vec<u8>, RestoreError> {
        let destination = self.destination(entry)?;
        let table = table_directory(entry);
        let names = directories(entry, &table);
        let mut content = Vec::new();
        for directory in
            [staged(destination, &names)?, destination.root.descend(&names)?].into_iter().flatten()
        {
            if let Some(file) = directory.read(name)? {
                let failed = |source| FileError::new("read", directory.path().join(name), source);
                file.take(DIGEST_LIMIT_BYTES).read_to_end(&mut content).map_err(failed)?;
                return Ok(content);
            }
        }
        Ok(content)
    }

    fn dealt_with(&self, file: &FileEntry) {
        self.done.bytes.fetch_add(file.size, Ordering::Relaxed);
        self.done.files.fetch_add(1, Ordering::Relaxed);
        self.report();
    }

    fn report(&self) {
        let total = &self.manifest;
        self.context.progress.set(Progress {
            bytes_done: self.done.bytes.load(Ordering::Relaxed).min(total.bytes),
            bytes_total: total.bytes,
            files_done: self.done.files.load(Ordering::Relaxed),
            files_total: total.files,
        });
    }
}

fn staged(destination: &Destination, names: &[&str]) -> Result<Option<Tree>, FileError> {
    let Some(staging) = &destination.staging else { return Ok(None) };
    let mut below = vec![STAGED];
    below.extend(names);
    staging.descend(&below)
}

/// Whatever it is: in the staging everything is of a restore.
fn remove_staged(staged: Option<&Tree>, file: &FileEntry) -> Result<(), FileError> {
    staged.map_or(Ok(()), |staged| staged.remove_any(OsStr::new(&file.name)))
}

fn read_entries(manifest: &Manifest, sender: &mpsc::Sender<SstableEntry>) -> Result<(), RestoreError> {
    for entry in manifest.entries()? {
        if sender.blocking_send(entry?).is_err() {
            // The receiver has an error of its own to tell.
            break;
        }
    }
    Ok(())
}

/// Writes the files of one object. Ends when the sender is dropped; the caller knows whether everything was sent.
fn write_object(
    destination: &Destination,
    entry: &SstableEntry,
    object: ObjectEntry,
    files: Vec<FileEntry>,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<ObjectWriter, RestoreError> {
    let Some(staging) = &destination.staging else {
        let reason = "it was in place a moment ago, and is gone".to_owned();
        return Err(RestoreError::InTheWay { path: destination.root.path().join(&entry.name), reason });
    };
    let table = table_directory(entry);
    let mut names = vec![STAGED];
    names.extend(directories(entry, &table));
    let directory = staging.ensure(&names, &destination.ownership)?;
    for file in &files {
        // What an earlier try has left.
        remove_staged(Some(&directory), file)?;
    }
    let mut writer = ObjectWriter::new(object, files, directory)?;
    while let Some(piece) = pieces.blocking_recv() {
        writer.write(&piece)?;
    }
    Ok(writer)
}

/// An object that is not there is damage to the backup, which is worth its own words.
fn lost(object: &ObjectEntry, error: cassy_store::StoreError) -> RestoreError {
    if error.is_not_found() {
        let reason = "it is not in the store".to_owned();
        return RestoreError::Corrupt { key: object.key.clone(), file: None, reason };
    }
    RestoreError::Store(error)
}
