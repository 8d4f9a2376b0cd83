//! `s3:`: a bucket at AWS, or at a server that speaks its protocol.
//!
//! An object is put, or completed, only where there is none (`If-None-Match: *`), which [`probe`] proves of the store.
//! Large ones go up in equal parts, some at once, in bounded memory; each part and the whole carry a CRC-64/NVME that
//! the store computes too. Over TLS the payload itself is not signed.
//!
//! Everything that comes back is data: answers are bounded, listings must go forward and stay within their prefix, no
//! redirect is followed.

mod checksum;
mod client;
mod credentials;
mod list;
mod place;
mod probe;
mod put;
mod read;
mod sign;
mod time;
mod transport;
mod writer;
mod xml;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use futures::stream::BoxStream;
use http::Method;
use tokio::sync::OnceCell;

pub use self::credentials::{Credentials, Environment, S3Credentials};
pub(crate) use self::place::bucket_and_prefix;
pub use self::place::{DEFAULT_REGION, Patience, S3Settings, check_endpoint, check_region};
pub use self::transport::{CertificateError, check_certificates};

use self::client::{Ask, S3Client};
use self::writer::S3Writer;
use crate::{IncompleteObject, ObjectMeta, ObjectWriter, Store, StoreError, StoredObject};

/// Answers that hold nothing but headers and a few elements.
const SMALL_LIMIT_BYTES: usize = 64 << 10;
/// With the prefix; S3's own limit.
const KEY_LIMIT_BYTES: usize = 1024;

/// A store in a bucket.
#[derive(Debug)]
pub(crate) struct S3Store {
    client: Arc<S3Client>,
    /// What the store was found to be, once it has been found fit.
    proven: OnceCell<Vec<String>>,
}

impl S3Store {
    pub(crate) fn new(
        bucket: &str,
        prefix: &str,
        settings: &S3Settings,
        credentials: Credentials,
    ) -> Result<Self, StoreError> {
        let client = S3Client::new(bucket, prefix, settings, credentials)?;
        Ok(Self { client: Arc::new(client), proven: OnceCell::new() })
    }

    /// The key, when it fits with the prefix.
    fn fitting<'k>(&self, operation: &'static str, key: &'k ObjectKey) -> Result<&'k str, StoreError> {
        if self.client.place.prefix.len() + key.as_str().len() > KEY_LIMIT_BYTES {
            let reason = "with the path in storage_base_uri it is longer than 1024 bytes";
            return Err(StoreError::Refused { operation, key: key.to_string(), reason });
        }
        Ok(key.as_str())
    }
}

#[async_trait]
impl Store for S3Store {
    async fn create(
        &self,
        key: &ObjectKey,
        size_hint: Option<u64>,
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.fitting("write", key)?;
        Ok(Box::new(S3Writer::new(Arc::clone(&self.client), key.clone(), size_hint)))
    }

    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<StoredObject, StoreError> {
        self.fitting("write", key)?;
        let mut writer = S3Writer::new(Arc::clone(&self.client), key.clone(), Some(body.len() as u64));
        writer.write(body).await?;
        Box::new(writer).finish().await
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.fitting("read", key)?;
        read::open(Arc::clone(&self.client), key.clone(), range).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        list::objects(Arc::clone(&self.client), prefix)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let ask = Ask::of_object(Method::DELETE, "delete", self.fitting("delete", key)?);
        match self.client.whole(&ask, SMALL_LIMIT_BYTES).await {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn list_incomplete(&self, prefix: &str) -> BoxStream<'static, Result<IncompleteObject, StoreError>> {
        list::uploads(Arc::clone(&self.client), prefix)
    }

    async fn abort_incomplete(&self, incomplete: &IncompleteObject) -> Result<(), StoreError> {
        let key = self.fitting("abort", &incomplete.key)?;
        let upload = &incomplete.upload;
        if upload.is_empty() || upload.len() > list::ID_LIMIT_BYTES || upload.chars().any(char::is_control) {
            let reason = "this is not the id of an unfinished upload";
            let key = upload.chars().take(100).collect();
            return Err(StoreError::Refused { operation: "abort", key, reason });
        }
        put::abort(&self.client, key, upload).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        probe::check(&self.client).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.check().await?;
        self.proven.get_or_try_init(|| probe::probe(&self.client)).await.cloned()
    }
}
