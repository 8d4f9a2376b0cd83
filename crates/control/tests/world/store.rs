//! The real store, which can be held before and after what it does.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use cassy_store::{IncompleteObject, ObjectMeta, ObjectWriter, Store, StoreError, StoredObject};
use futures::stream::BoxStream;

use super::Ring;

/// Steps are named `put <kind>` and `delete <kind>`, each also with `after ` before it; the kind is the part of
/// the key that says what the object is: `pin`, `backup`, `probe`.
pub(crate) struct HeldStore {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) ring: Arc<Ring>,
}

impl std::fmt::Debug for HeldStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl HeldStore {
    async fn step(&self, what: &str, key: &ObjectKey) -> Result<(), StoreError> {
        let kind = key.as_str().split('/').rev().nth(1).unwrap_or_default();
        let reached = self.ring.step(&format!("{what} {kind}")).await;
        let subject = key.to_string();
        reached.map_err(|error| StoreError::Io {
            operation: "reach",
            subject,
            source: io::Error::other(error),
        })
    }
}

#[async_trait]
impl Store for HeldStore {
    async fn create(
        &self,
        key: &ObjectKey,
        size_hint: Option<u64>,
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.inner.create(key, size_hint).await
    }

    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<StoredObject, StoreError> {
        self.step("put", key).await?;
        let stored = self.inner.put(key, body).await?;
        self.step("after put", key).await?;
        Ok(stored)
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.inner.read(key, range).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.step("delete", key).await?;
        self.inner.delete(key).await?;
        self.step("after delete", key).await
    }

    fn list_incomplete(&self, prefix: &str) -> BoxStream<'static, Result<IncompleteObject, StoreError>> {
        self.inner.list_incomplete(prefix)
    }

    async fn abort_incomplete(&self, incomplete: &IncompleteObject) -> Result<(), StoreError> {
        self.inner.abort_incomplete(incomplete).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }
}
