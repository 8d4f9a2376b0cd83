//! Files of the agent's own: what is too large for memory, gone when dropped.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use cassy_store::{Store, StoreError};
use futures::TryStreamExt;

use super::error::{UploadError, blocking};
use super::reading::PIECE_BYTES;
use crate::context::Context;

/// Larger than any manifest or trash list of a node; what is larger would only fill the node's disk.
const DOWNLOAD_LIMIT_BYTES: u64 = 8 << 30;

/// A file that is removed with this value.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    path: PathBuf,
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl SpoolFile {
    /// A new, empty file, open for writing.
    pub(crate) fn create(spool_dir: &Path, purpose: &str) -> Result<(Self, File), UploadError> {
        let path = spool_dir.join(format!("{purpose}-{}", uuid::Uuid::new_v4().simple()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok((Self { path }, file)),
            Err(source) => Err(UploadError::Spool { operation: "make", path, source }),
        }
    }

    pub(crate) fn open(&self) -> Result<File, UploadError> {
        File::open(&self.path).map_err(|source| self.error("open", source))
    }

    pub(crate) fn error(&self, operation: &'static str, source: io::Error) -> UploadError {
        UploadError::Spool { operation, path: self.path.clone(), source }
    }
}

/// Hashes and counts what goes through.
#[derive(Debug)]
pub(crate) struct Hashing<T> {
    inner: T,
    blake3: blake3::Hasher,
    bytes: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, blake3: blake3::Hasher::new(), bytes: 0 }
    }

    pub(crate) fn blake3(&self) -> String {
        self.blake3.finalize().to_hex().to_string()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.blake3.update(bytes.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// An object as a file of the agent's own, and BLAKE3 of its bytes.
pub(crate) async fn download(
    ctx: &Context,
    store: &dyn Store,
    key: &ObjectKey,
    spool_dir: &Path,
    purpose: &str,
) -> Result<(SpoolFile, String), UploadError> {
    download_within(DOWNLOAD_LIMIT_BYTES, ctx, store, key, spool_dir, purpose).await
}

pub(super) async fn download_within(
    limit_bytes: u64,
    ctx: &Context,
    store: &dyn Store,
    key: &ObjectKey,
    spool_dir: &Path,
    purpose: &str,
) -> Result<(SpoolFile, String), UploadError> {
    let failed = |source| UploadError::Store { what: "download", source };
    let (mut spool, file) = SpoolFile::create(spool_dir, purpose)?;
    let mut file = Hashing::new(BufWriter::new(file));
    let mut pieces = store.read(key, None).await.map_err(failed)?;
    while let Some(piece) = pieces.try_next().await.map_err(failed)? {
        ctx.check()?;
        if file.bytes() + piece.len() as u64 > limit_bytes {
            return Err(failed(StoreError::TooLarge { key: key.clone(), limit_bytes }));
        }
        (file, spool) = blocking(move || match file.write_all(&piece) {
            Ok(()) => Ok((file, spool)),
            Err(source) => Err(spool.error("write", source)),
        })
        .await?;
    }
    file.flush().map_err(|source| spool.error("write", source))?;
    let blake3 = file.blake3();
    Ok((spool, blake3))
}

/// Stores a file of the agent's own as an object; its bytes still have to be those that were hashed.
pub(crate) async fn put(
    store: &dyn Store,
    key: &ObjectKey,
    what: &'static str,
    spool: &SpoolFile,
    (blake3, size): (&str, u64),
) -> Result<(), UploadError> {
    let refused = |source| UploadError::Store { what, source };
    let mut file = spool.open()?;
    let mut writer = store.create(key, Some(size)).await.map_err(refused)?;
    let mut hash = blake3::Hasher::new();
    loop {
        let mut piece = Vec::new();
        let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece);
        read.map_err(|source| spool.error("read", source))?;
        if piece.is_empty() {
            break;
        }
        hash.update(&piece);
        writer.write(Bytes::from(piece)).await.map_err(refused)?;
    }
    if hash.finalize().to_hex().as_str() != blake3 {
        return Err(spool.error("read", io::Error::other("its content is not what was written")));
    }
    let stored = writer.finish().await.map_err(refused)?;
    if stored.size != size {
        return Err(UploadError::Acknowledged { key: key.clone(), sent: size, stored: stored.size });
    }
    Ok(())
}
