//! Sending files: one that is an object of its own, or several as a tar.

use std::sync::Arc;

use bytes::Bytes;
use cassy_backup_format::{ObjectEntry, ObjectKey};
use cassy_store::{ObjectWriter, Store, StoreError};
use tar::{EntryType, Header};

use super::error::{UploadError, blocking};
use super::meter::Look;
use super::reading::{Buffers, Content, Reading};
use crate::context::Context;
use crate::snapshot::SstableFiles;

/// Of a tar's headers and paddings, and the two blocks at its end.
const BLOCK_BYTES: u64 = 512;
/// What fits into a tar's header.
const TAR_NAME_LIMIT_BYTES: usize = 100;
/// From this size on a component is an object of its own.
const LARGE_BYTES: u64 = 1 << 20;

/// True for a component that is an object of its own: large, or with a name that no plain tar can hold.
pub(super) fn is_own_object(name: &str, size: u64) -> bool {
    size >= LARGE_BYTES || name.len() > TAR_NAME_LIMIT_BYTES
}

/// What becomes one object.
pub(super) enum Parcel {
    /// A component as it is.
    File(String),
    /// Several, as a tar.
    Tar(Vec<String>),
}

/// What sending needs besides the files.
pub(super) struct Sender<'a> {
    pub(super) ctx: &'a Context,
    pub(super) store: &'a dyn Store,
    pub(super) buffers: &'a Buffers,
}

/// A file that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) component: String,
    pub(super) content: Content,
    /// Where in the object.
    pub(super) offset: u64,
}

impl Sender<'_> {
    /// Sends a parcel as one object.
    pub(super) async fn parcel(
        &self,
        sstable: &Arc<SstableFiles>,
        parcel: &Parcel,
        key: ObjectKey,
        read: &mut Look<'_>,
    ) -> Result<(Vec<Sent>, ObjectEntry), UploadError> {
        match parcel {
            Parcel::File(component) => self.file(sstable, component, key, read).await,
            Parcel::Tar(components) => self.tar(sstable, components, key, read).await,
        }
    }

    async fn file(
        &self,
        sstable: &Arc<SstableFiles>,
        component: &str,
        key: ObjectKey,
        read: &mut Look<'_>,
    ) -> Result<(Vec<Sent>, ObjectEntry), UploadError> {
        let reading = self.open(sstable, component).await?;
        let mut object = Object::begin(self.store, key, reading.size(), Hash::OfContent).await?;
        let content = match self.stream(sstable, component, reading, &mut object, read).await {
            Ok(content) => content,
            Err(error) => return Err(object.give_up(error).await),
        };
        let blake3 = content.blake3.clone();
        let sent = Sent { component: component.to_owned(), content, offset: 0 };
        Ok((vec![sent], object.finish(Some(blake3)).await?))
    }

    async fn tar(
        &self,
        sstable: &Arc<SstableFiles>,
        components: &[String],
        key: ObjectKey,
        read: &mut Look<'_>,
    ) -> Result<(Vec<Sent>, ObjectEntry), UploadError> {
        let files = components.iter().filter_map(|component| sstable.files.get(component));
        let hint = files.map(|file| BLOCK_BYTES + file.size.next_multiple_of(BLOCK_BYTES)).sum::<u64>();
        let mut object =
            Object::begin(self.store, key, hint + 2 * BLOCK_BYTES, Hash::Own(Box::default())).await?;
        match self.members(sstable, components, &mut object, read).await {
            Ok(sent) => Ok((sent, object.finish(None).await?)),
            Err(error) => Err(object.give_up(error).await),
        }
    }

    async fn members(
        &self,
        sstable: &Arc<SstableFiles>,
        components: &[String],
        object: &mut Object,
        read: &mut Look<'_>,
    ) -> Result<Vec<Sent>, UploadError> {
        let mut sent = Vec::with_capacity(components.len());
        for component in components {
            let reading = self.open(sstable, component).await?;
            object.write(header(&sstable.file_name(component), &reading)).await?;
            let offset = object.bytes;
            let content = self.stream(sstable, component, reading, object, read).await?;
            let padding = object.bytes.next_multiple_of(BLOCK_BYTES) - object.bytes;
            object.write(zeros(padding)).await?;
            sent.push(Sent { component: component.clone(), content, offset });
        }
        object.write(zeros(2 * BLOCK_BYTES)).await?;
        Ok(sent)
    }

    async fn open(&self, sstable: &Arc<SstableFiles>, component: &str) -> Result<Reading, UploadError> {
        let (sstable, component, buffers) = (Arc::clone(sstable), component.to_owned(), self.buffers.clone());
        blocking(move || Ok(Reading::open(&sstable, &component, &buffers)?)).await
    }

    async fn stream(
        &self,
        sstable: &Arc<SstableFiles>,
        component: &str,
        mut reading: Reading,
        object: &mut Object,
        read: &mut Look<'_>,
    ) -> Result<Content, UploadError> {
        loop {
            self.ctx.check()?;
            let piece;
            (reading, piece) = blocking(move || {
                let piece = reading.next()?;
                Ok((reading, piece))
            })
            .await?;
            let Some(piece) = piece else { break };
            read.bytes(piece.len() as u64);
            object.write(piece).await?;
        }
        let (sstable, component) = (Arc::clone(sstable), component.to_owned());
        blocking(move || Ok(reading.finish(&sstable, &component)?)).await
    }
}

/// A plain ustar header.
fn header(name: &str, reading: &Reading) -> Bytes {
    let mut header = Header::new_ustar();
    // Not `set_path`: a name is one segment, and is known to fit.
    if let Some(place) = header.as_old_mut().name.get_mut(..name.len()) {
        place.copy_from_slice(name.as_bytes());
    }
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(reading.size());
    header.set_mtime(u64::try_from(reading.stat().mtime_ns / 1_000_000_000).unwrap_or(0));
    header.set_cksum();
    Bytes::copy_from_slice(header.as_bytes())
}

fn zeros(count: u64) -> Bytes {
    static ZEROS: [u8; 1024] = [0; 1024];
    let count = usize::try_from(count).unwrap_or(ZEROS.len());
    Bytes::from_static(ZEROS.get(..count).unwrap_or(&ZEROS))
}

enum Hash {
    /// The object is one file, whose own hash is computed anyway.
    OfContent,
    Own(Box<blake3::Hasher>),
}

/// An object that is being sent.
struct Object {
    key: ObjectKey,
    writer: Box<dyn ObjectWriter>,
    hash: Hash,
    bytes: u64,
}

impl Object {
    async fn begin(
        store: &dyn Store,
        key: ObjectKey,
        size_hint: u64,
        hash: Hash,
    ) -> Result<Self, UploadError> {
        let writer = store.create(&key, Some(size_hint)).await.map_err(failed)?;
        Ok(Self { key, writer, hash, bytes: 0 })
    }

    async fn write(&mut self, piece: Bytes) -> Result<(), UploadError> {
        if let Hash::Own(hasher) = &mut self.hash {
            hasher.update(&piece);
        }
        self.bytes += piece.len() as u64;
        self.writer.write(piece).await.map_err(failed)
    }

    /// The error goes on; that clearing up failed as well matters less.
    async fn give_up(self, error: UploadError) -> UploadError {
        if let Err(second) = self.writer.abort().await {
            tracing::warn!(key = %self.key, error = %crate::failure::chain(&second), "cannot clear an unfinished object");
        }
        error
    }

    async fn finish(self, content: Option<String>) -> Result<ObjectEntry, UploadError> {
        let stored = self.writer.finish().await.map_err(failed)?;
        if stored.size != self.bytes {
            return Err(UploadError::Acknowledged { key: self.key, sent: self.bytes, stored: stored.size });
        }
        let blake3 = match self.hash {
            Hash::Own(hasher) => hasher.finalize().to_hex().to_string(),
            Hash::OfContent => content.unwrap_or_default(),
        };
        Ok(ObjectEntry { key: self.key, size: stored.size, blake3, store_checksum: stored.checksum })
    }
}

fn failed(source: StoreError) -> UploadError {
    UploadError::Store { what: "send an object", source }
}
