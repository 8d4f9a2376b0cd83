//! Object stores by URI, behind one trait: [`Store`].
//!
//! What every backend promises, and [`conformance`] checks: an object appears whole or not at all, is never
//! overwritten, and is durable once its writer's `finish` has answered. What it leaves out: what keys and
//! objects mean (`cassy-backup-format`), and retries of what a directory refuses; requests to S3 are tried again
//! inside it, by the class of the failure, as each of them can be.

#![warn(clippy::indexing_slicing)]

pub mod conformance;
mod error;
mod file;
mod location;
mod s3;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cassy_backup_format::ObjectKey;
use futures::TryStreamExt;
use futures::stream::BoxStream;

pub use error::{Class, Refusal, StoreError};
pub use location::{LocationError, StoreAccess, StoreLocation};
pub use s3::{
    CertificateError, Credentials, DEFAULT_REGION, Environment, Patience, S3Credentials, S3Settings,
    check_certificates, check_endpoint, check_region,
};

/// An object store.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// Begins a new object. Never overwrites: [`ObjectWriter::finish`] answers [`StoreError::AlreadyExists`]
    /// when the key is taken by then. `size_hint`, in bytes, lets a backend choose the size of its parts.
    async fn create(
        &self,
        key: &ObjectKey,
        size_hint: Option<u64>,
    ) -> Result<Box<dyn ObjectWriter>, StoreError>;

    /// A whole small object at once; like [`Store::create`] it never overwrites.
    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<StoredObject, StoreError> {
        let mut writer = self.create(key, u64::try_from(body.len()).ok()).await?;
        writer.write(body).await?;
        writer.finish().await
    }

    /// The object's bytes, or those of a range, which must lie within the object. The stream fails when the
    /// object ends too early.
    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError>;

    /// A whole small object; [`StoreError::TooLarge`] when it has more than `limit_bytes`.
    async fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let mut pieces = self.read(key, None).await?;
        let mut body = BytesMut::new();
        while let Some(piece) = pieces.try_next().await? {
            if body.len() as u64 + piece.len() as u64 > limit_bytes {
                return Err(StoreError::TooLarge { key: key.clone(), limit_bytes });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// Every complete object whose key begins with `prefix`, in the order of the keys' bytes; a name in the
    /// store that is no valid key is passed over.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>>;

    /// Deletes an object; an absent one is fine. A power cut may bring it back.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Objects under `prefix` that were begun and neither finished nor aborted, some of which may be under way
    /// right now.
    fn list_incomplete(&self, prefix: &str) -> BoxStream<'static, Result<IncompleteObject, StoreError>>;

    /// Clears what an unfinished object has left; one that is gone is fine.
    async fn abort_incomplete(&self, incomplete: &IncompleteObject) -> Result<(), StoreError>;

    /// Reachable and writable, or what is wrong: missing, denied, full.
    async fn check(&self) -> Result<(), StoreError>;

    /// [`Store::check`], and whether the store keeps the promises that no request of ours can do without; for the
    /// server, once. Answers what it does not promise and can be lived with.
    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.check().await.map(|()| Vec::new())
    }
}

/// An object that is being written. Dropping it gives up; what it has left is cleared as far as that is
/// possible without waiting, else [`Store::list_incomplete`] shows it.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Appends. Answers when there is room for more, not when it is durable.
    async fn write(&mut self, piece: Bytes) -> Result<(), StoreError>;

    /// Makes the object visible and durable.
    async fn finish(self: Box<Self>) -> Result<StoredObject, StoreError>;

    /// Gives up, leaving nothing.
    async fn abort(self: Box<Self>) -> Result<(), StoreError>;
}

/// What the store acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Bytes.
    pub size: u64,
    /// The checksum that the store itself computed, `algorithm:value`; none when it computes none.
    pub checksum: Option<String>,
}

/// A complete object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
}

/// An object that was begun and not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncompleteObject {
    /// The key that it was to have. In a `file://` store the end of a last segment of more than 217 bytes is
    /// missing.
    pub key: ObjectKey,
    /// The store's own name for it: a file name, an upload id.
    pub upload: String,
}

/// Opens the store. Does not touch it: see [`Store::check`].
pub fn open(access: &StoreAccess) -> Result<Arc<dyn Store>, StoreError> {
    let location = access.location.parse().map_err(|source| StoreError::Location { source })?;
    match location {
        StoreLocation::File(root) => Ok(Arc::new(file::FileStore::new(root))),
        StoreLocation::S3 { bucket, prefix } => {
            let unsupported = || StoreError::Unsupported { scheme: "s3".to_owned() };
            let credentials = access.credentials.clone().ok_or_else(unsupported)?;
            Ok(Arc::new(s3::S3Store::new(&bucket, &prefix, &access.s3, credentials)?))
        }
        StoreLocation::Later(uri) => {
            let scheme = uri.split(':').next().unwrap_or_default().to_owned();
            Err(StoreError::Unsupported { scheme })
        }
    }
}
