//! Writing: one request for what fits into a part, else parts of one size, some under way at once.
//!
//! In memory are the part that is being filled and those under way: 40 MiB for objects up to 70 GiB, five parts' worth
//! at most beyond.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use tokio::task::JoinSet;

use super::checksum::Crc64;
use super::client::S3Client;
use super::put::{self, Part};
use crate::{ObjectWriter, StoreError, StoredObject};

const PART_BYTES: u64 = 8 << 20;
/// Of one object; S3's own limit is 10,000.
const PARTS_LIMIT: u64 = 9_000;
/// Parts under way, if they are small.
const AT_ONCE: usize = 4;
/// Of the parts under way, as long as there is more than one.
const UNDER_WAY_BYTES: u64 = 64 << 20;
const MIB: u64 = 1 << 20;

/// See the module.
pub(super) struct S3Writer {
    client: Arc<S3Client>,
    key: ObjectKey,
    part_bytes: u64,
    /// Of the part that is being filled.
    pieces: Vec<Bytes>,
    filled: u64,
    total: u64,
    whole: Crc64,
    upload: Option<Upload>,
}

/// An object in parts.
struct Upload {
    id: String,
    /// Parts begun.
    begun: u32,
    under_way: JoinSet<Result<Part, StoreError>>,
    done: Vec<Part>,
}

impl S3Writer {
    pub(super) fn new(client: Arc<S3Client>, key: ObjectKey, size_hint: Option<u64>) -> Self {
        Self {
            client,
            key,
            part_bytes: part_bytes(size_hint),
            pieces: Vec::new(),
            filled: 0,
            total: 0,
            whole: Crc64::new(),
            upload: None,
        }
    }

    /// Sends what is filled as the next part, as soon as there is room for it.
    async fn send(&mut self) -> Result<(), StoreError> {
        let pieces = std::mem::take(&mut self.pieces);
        self.filled = 0;
        if self.upload.is_none() {
            let id = put::begin(&self.client, self.key.as_str()).await?;
            self.upload = Some(Upload { id, begun: 0, under_way: JoinSet::new(), done: Vec::new() });
        }
        let upload = self.upload.as_mut().expect("it was just begun");
        if u64::from(upload.begun) >= PARTS_LIMIT {
            let reason = "it has become too large for its parts, whose size was chosen by the size that it was to have";
            return Err(StoreError::Refused { operation: "write", key: self.key.to_string(), reason });
        }
        while upload.under_way.len() >= at_once(self.part_bytes) {
            upload.one(&self.key).await?;
        }
        upload.begun += 1;
        let (client, key, id, number) =
            (Arc::clone(&self.client), self.key.clone(), upload.id.clone(), upload.begun);
        upload.under_way.spawn(async move { put::part(&client, key.as_str(), &id, number, pieces).await });
        Ok(())
    }

    async fn end(&mut self) -> Result<StoredObject, StoreError> {
        if self.upload.is_none() {
            return put::put(&self.client, &self.key, std::mem::take(&mut self.pieces)).await;
        }
        if self.filled > 0 {
            self.send().await?;
        }
        let upload = self.upload.as_mut().expect("it was there");
        while !upload.under_way.is_empty() {
            upload.one(&self.key).await?;
        }
        upload.done.sort_unstable_by_key(|part| part.number);
        let sum = self.whole.text();
        let stored =
            put::complete(&self.client, &self.key, &upload.id, &upload.done, self.total, &sum).await?;
        self.upload = None;
        Ok(stored)
    }

    async fn give_up(&mut self) -> Result<(), StoreError> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        // A part that arrives after the abort would stay.
        upload.under_way.shutdown().await;
        put::abort(&self.client, self.key.as_str(), &upload.id).await
    }
}

impl Upload {
    /// Waits until one part is there.
    async fn one(&mut self, key: &ObjectKey) -> Result<(), StoreError> {
        match self.under_way.join_next().await {
            Some(Ok(part)) => {
                self.done.push(part?);
                Ok(())
            }
            Some(Err(cause)) => {
                let (operation, subject) = ("write", key.to_string());
                Err(StoreError::CutShort { operation, subject, source: Some(cause) })
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ObjectWriter for S3Writer {
    async fn write(&mut self, mut piece: Bytes) -> Result<(), StoreError> {
        self.whole.update(&piece);
        self.total += piece.len() as u64;
        while !piece.is_empty() {
            // Only when there is more is it certain that one request does not do.
            if self.filled == self.part_bytes {
                self.send().await?;
            }
            let room = usize::try_from(self.part_bytes - self.filled).unwrap_or(usize::MAX);
            let taken = piece.split_to(room.min(piece.len()));
            self.filled += taken.len() as u64;
            self.pieces.push(taken);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<StoredObject, StoreError> {
        match self.end().await {
            Ok(stored) => Ok(stored),
            Err(error) => {
                // The error goes on; what could not be cleared is listed as unfinished.
                let _ = self.give_up().await;
                Err(error)
            }
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StoreError> {
        self.give_up().await
    }
}

impl Drop for S3Writer {
    fn drop(&mut self) {
        if self.upload.is_none() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, key, upload) = (Arc::clone(&self.client), self.key.clone(), self.upload.take());
        runtime.spawn(async move {
            let Some(mut upload) = upload else { return };
            upload.under_way.shutdown().await;
            // As far as it goes: what stays is listed as unfinished.
            let _ = put::abort(&client, key.as_str(), &upload.id).await;
        });
    }
}

fn part_bytes(size_hint: Option<u64>) -> u64 {
    let needed = size_hint.unwrap_or_default().div_ceil(PARTS_LIMIT).next_multiple_of(MIB);
    needed.max(PART_BYTES)
}

fn at_once(part_bytes: u64) -> usize {
    usize::try_from(UNDER_WAY_BYTES / part_bytes).unwrap_or(AT_ONCE).clamp(1, AT_ONCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_with_the_object_and_memory_is_bounded() {
        for (size, expected, together) in [
            (None, 8, 4),
            (Some(0), 8, 4),
            (Some(70 << 30), 8, 4),
            (Some(80 << 30), 10, 4),
            (Some(1 << 40), 117, 1),
            (Some(5 << 40), 583, 1),
        ] {
            let part = part_bytes(size);
            assert_eq!((part >> 20, at_once(part)), (expected, together), "{size:?}");
            assert!(size.unwrap_or(0).div_ceil(part) <= PARTS_LIMIT);
            assert!(part <= 5 << 30, "S3's limit of a part");
        }
    }
}
