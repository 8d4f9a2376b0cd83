//! Writing an object: collected to pieces of 1 MiB, written off the async threads while the next is collected.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use rustix::fs::{Advice, AtFlags, RenameFlags};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::blocking;
use super::tree::{Place, Root, sync_directory};
use crate::{ObjectWriter, StoreError, StoredObject};

const PIECE_BYTES: usize = 1 << 20;

/// An object that is being written.
pub(super) struct FileWriter {
    unfinished: Arc<Unfinished>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    written_bytes: u64,
    state: State,
}

enum State {
    Idle(File),
    Writing(JoinHandle<io::Result<File>>),
    /// A write failed; nothing more can be done with this object.
    Failed,
}

/// The file under its temporary name. Dropped while it still has that name, it is removed.
struct Unfinished {
    root: Root,
    key: ObjectKey,
    directory: OwnedFd,
    temporary: String,
    name: String,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename nothing has this name any more.
        let _ = rustix::fs::unlinkat(&self.directory, self.temporary.as_str(), AtFlags::empty());
    }
}

impl FileWriter {
    pub(super) fn create(root: &Root, key: ObjectKey) -> Result<Self, StoreError> {
        let place = Place::of("write", &key)?;
        let (directory, file, temporary) = root.begin(&key, &place)?;
        let name = place.name().to_owned();
        let unfinished = Arc::new(Unfinished { root: root.clone(), key, directory, temporary, name });
        Ok(Self {
            unfinished,
            pending: Vec::new(),
            pending_bytes: 0,
            written_bytes: 0,
            state: State::Idle(file),
        })
    }

    fn error(&self, source: io::Error) -> StoreError {
        StoreError::io("write", &self.unfinished.key, source)
    }

    fn cut_short(&self, source: Option<tokio::task::JoinError>) -> StoreError {
        StoreError::CutShort { operation: "write", subject: self.unfinished.key.to_string(), source }
    }

    /// Waits for the write under way.
    async fn settle(&mut self) -> Result<File, StoreError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(file) => Ok(file),
            State::Writing(write) => match write.await {
                Ok(file) => file.map_err(|source| self.error(source)),
                Err(cause) => Err(self.cut_short(Some(cause))),
            },
            State::Failed => Err(self.cut_short(None)),
        }
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let mut file = self.settle().await?;
        let pieces = std::mem::take(&mut self.pending);
        self.written_bytes += self.pending_bytes as u64;
        self.pending_bytes = 0;
        self.state = State::Writing(tokio::task::spawn_blocking(move || {
            write_all(&mut file, &pieces)?;
            Ok(file)
        }));
        Ok(())
    }
}

#[async_trait]
impl ObjectWriter for FileWriter {
    async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.pending_bytes += piece.len();
        self.pending.push(piece);
        if self.pending_bytes >= PIECE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn finish(mut self: Box<Self>) -> Result<StoredObject, StoreError> {
        self.flush().await?;
        let file = self.settle().await?;
        let (unfinished, size) = (Arc::clone(&self.unfinished), self.written_bytes);
        blocking("write", self.unfinished.key.to_string(), move || {
            unfinished.commit(&file, size)?;
            Ok(StoredObject { size, checksum: None })
        })
        .await
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StoreError> {
        // What the last write answered does not matter any more, only that it is over.
        let _ = self.settle().await;
        let unfinished = Arc::clone(&self.unfinished);
        blocking("abort", self.unfinished.key.to_string(), move || unfinished.remove()).await
    }
}

impl Unfinished {
    /// Makes the file durable, then visible, then that durable.
    fn commit(&self, file: &File, size: u64) -> Result<(), StoreError> {
        let error = |source: io::Error| StoreError::io("write", &self.key, source);
        let stored = file.metadata().map_err(error)?.len();
        if stored != size {
            return Err(StoreError::Truncated { key: self.key.clone(), expected: size, got: stored });
        }
        file.sync_all().map_err(error)?;
        // Backups must not push Cassandra's data out of the page cache; a file system that cannot is fine.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        self.publish(file).map_err(|errno| match errno {
            Errno::EXIST => StoreError::AlreadyExists { key: self.key.clone() },
            _ => error(errno.into()),
        })?;
        sync_directory(&self.directory).map_err(|errno| error(errno.into()))
    }

    fn publish(&self, file: &File) -> Result<(), Errno> {
        let (from, to) = (self.temporary.as_str(), self.name.as_str());
        let renamed =
            rustix::fs::renameat_with(&self.directory, from, &self.directory, to, RenameFlags::NOREPLACE);
        match renamed {
            // Old kernels and some network file systems cannot rename like this; a hard link never replaces.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.publish_by_link(file),
            Err(Errno::EXIST | Errno::NOENT) if self.is_published(file) => Ok(()),
            other => other,
        }
    }

    fn publish_by_link(&self, file: &File) -> Result<(), Errno> {
        let (from, to) = (self.temporary.as_str(), self.name.as_str());
        match rustix::fs::linkat(&self.directory, from, &self.directory, to, AtFlags::empty()) {
            Err(Errno::EXIST) if self.is_published(file) => {}
            Err(errno) => return Err(errno),
            Ok(()) => {}
        }
        match rustix::fs::unlinkat(&self.directory, from, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// A network file system that repeats a request whose answer was lost says "exists" of our own file.
    fn is_published(&self, file: &File) -> bool {
        let ours = rustix::fs::fstat(file);
        let there = rustix::fs::statat(&self.directory, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        matches!((ours, there), (Ok(ours), Ok(there)) if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino))
    }

    fn remove(&self) -> Result<(), StoreError> {
        let place = Place::of("abort", &self.key)?;
        super::remove(&self.root, &self.key, &place, &self.temporary)
    }
}

fn write_all(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
