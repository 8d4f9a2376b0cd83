//! A store in memory, where all is whole at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use cassy_store::{IncompleteObject, ObjectMeta, ObjectWriter, Store, StoreError, StoredObject};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// A manifest was read: its reader may go on beside the runtime's thread.
    was_read: AtomicBool,
}

impl MemoryStore {
    /// At once.
    pub(crate) fn keep(&self, key: &ObjectKey, body: Bytes) -> Result<StoredObject, StoreError> {
        let mut objects = self.objects.lock().unwrap();
        if objects.contains_key(key.as_str()) {
            return Err(StoreError::AlreadyExists { key: key.clone() });
        }
        let size = body.len() as u64;
        objects.insert(key.as_str().to_owned(), body);
        Ok(StoredObject { size, checksum: None })
    }

    /// All objects whose key holds this.
    pub(crate) fn with(&self, part: &str) -> Vec<(String, Bytes)> {
        let objects = self.objects.lock().unwrap();
        objects.iter().filter(|(key, _)| key.contains(part)).map(|(k, b)| (k.clone(), b.clone())).collect()
    }

    pub(crate) fn take_was_read(&self) -> bool {
        self.was_read.swap(false, Ordering::SeqCst)
    }
}

struct Writer(Arc<MemoryStore>, ObjectKey, Vec<u8>);

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        self.2.extend_from_slice(&piece);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<StoredObject, StoreError> {
        self.0.keep(&self.1, self.2.into())
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The same store for all.
#[derive(Debug, Clone)]
pub(crate) struct SharedStore(pub(crate) Arc<MemoryStore>);

#[async_trait]
impl Store for SharedStore {
    async fn create(
        &self,
        key: &ObjectKey,
        _size_hint: Option<u64>,
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        Ok(Box::new(Writer(Arc::clone(&self.0), key.clone(), Vec::new())))
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        assert!(range.is_none(), "nobody reads a part");
        self.0.was_read.store(true, Ordering::SeqCst);
        let found = self.0.objects.lock().unwrap().get(key.as_str()).cloned();
        let found = found.ok_or_else(|| StoreError::NotFound { operation: "read", key: key.to_string() })?;
        Ok(stream::iter([Ok(found)]).boxed())
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let objects = self.0.objects.lock().unwrap();
        let found: Vec<_> = objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, body)| Ok(ObjectMeta { key: key.parse().unwrap(), size: body.len() as u64 }))
            .collect();
        stream::iter(found).boxed()
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.objects.lock().unwrap().remove(key.as_str());
        Ok(())
    }

    fn list_incomplete(&self, _prefix: &str) -> BoxStream<'static, Result<IncompleteObject, StoreError>> {
        stream::empty().boxed()
    }

    async fn abort_incomplete(&self, _incomplete: &IncompleteObject) -> Result<(), StoreError> {
        Ok(())
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
