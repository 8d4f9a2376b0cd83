//! `file://`: a directory that server and nodes all see, such as a network file system.
//!
//! An object is a plain file whose path below the root is its key. It is written beside its place under a name
//! that no key may have ([`part`]) and renamed there without replacing anything, after an fsync of the file and
//! before one of the directory. No symbolic link below the root is ever followed: every path is walked from the
//! root's descriptor, one component at a time. The root itself must exist; directories below come and go with
//! the objects.

mod part;
mod read;
mod tree;
mod walk;
mod writer;

use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use self::tree::{Place, Root};
use self::walk::{Found, Walk};
use crate::{IncompleteObject, ObjectMeta, ObjectWriter, Store, StoreError};

/// A store in a directory.
#[derive(Debug, Clone)]
pub(crate) struct FileStore {
    root: Root,
}

impl FileStore {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root: Root::new(root) }
    }

    /// What `pick` picks of all that the walk finds; a batch at a time, off the async threads.
    fn walk<T: Send + 'static>(
        &self,
        prefix: &str,
        pick: fn(Found) -> Option<T>,
    ) -> BoxStream<'static, Result<T, StoreError>> {
        let walk = Walk::new(self.root.clone(), prefix.to_owned());
        let batches = futures::stream::try_unfold(walk, |mut walk| {
            blocking("list", walk.prefix().to_owned(), move || {
                let batch = walk.batch()?;
                Ok((!batch.is_empty()).then_some((batch, walk)))
            })
        });
        let found = batches.map_ok(|batch| futures::stream::iter(batch.into_iter().map(Ok))).try_flatten();
        found.try_filter_map(move |found| async move { Ok(pick(found)) }).boxed()
    }
}

#[async_trait]
impl Store for FileStore {
    async fn create(
        &self,
        key: &ObjectKey,
        _size_hint: Option<u64>,
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let (root, key) = (self.root.clone(), key.clone());
        let writer =
            blocking("write", key.to_string(), move || writer::FileWriter::create(&root, key)).await?;
        Ok(Box::new(writer))
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let (root, key) = (self.root.clone(), key.clone());
        let source = blocking("read", key.to_string(), move || read::Source::open(&root, key, range)).await?;
        Ok(source.stream())
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.walk(prefix, |found| match found {
            Found::Object(object) => Some(object),
            Found::Incomplete(_) => None,
        })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking("delete", key.to_string(), move || {
            let place = Place::of("delete", &key)?;
            remove(&root, &key, &place, place.name())
        })
        .await
    }

    fn list_incomplete(&self, prefix: &str) -> BoxStream<'static, Result<IncompleteObject, StoreError>> {
        self.walk(prefix, |found| match found {
            Found::Object(_) => None,
            Found::Incomplete(object) => Some(object),
        })
    }

    async fn abort_incomplete(&self, incomplete: &IncompleteObject) -> Result<(), StoreError> {
        let (root, incomplete) = (self.root.clone(), incomplete.clone());
        blocking("abort", incomplete.key.to_string(), move || {
            let place = Place::of("abort", &incomplete.key)?;
            if part::stem(&incomplete.upload).is_none() || incomplete.upload.contains('/') {
                let reason = "this is not the name of an unfinished object";
                return Err(StoreError::Refused { operation: "abort", key: incomplete.upload, reason });
            }
            remove(&root, &incomplete.key, &place, &incomplete.upload)
        })
        .await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let root = self.root.clone();
        blocking("check", root.display(), move || root.check()).await
    }
}

/// Removes `name` from the key's directory, then the directories that are empty by that.
fn remove(root: &Root, key: &ObjectKey, place: &Place, name: &str) -> Result<(), StoreError> {
    let Some(chain) = root.chain("delete", key, place)? else {
        return Ok(());
    };
    match rustix::fs::unlinkat(chain.last(), name, AtFlags::empty()) {
        Ok(()) => chain.prune(),
        // A directory is no object.
        Err(Errno::NOENT | Errno::ISDIR) => {}
        Err(errno) => return Err(StoreError::io("delete", key, errno)),
    }
    Ok(())
}

/// Runs file system calls, which may block for long, off the async threads.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    subject: String,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(cause) => Err(StoreError::CutShort { operation, subject, source: Some(cause) }),
    }
}
