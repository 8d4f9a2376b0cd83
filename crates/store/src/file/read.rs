//! Reading an object: positioned reads of one piece each, two of them ahead of the consumer.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cassy_backup_format::ObjectKey;
use futures::stream::{BoxStream, StreamExt};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::blocking;
use super::tree::{Place, Root};
use crate::StoreError;

const PIECE_BYTES: u64 = 1 << 20;
const AHEAD: usize = 2;

/// An open object, and what is to be read of it.
#[derive(Debug)]
pub(super) struct Source {
    key: ObjectKey,
    file: File,
    range: Range<u64>,
}

impl Source {
    pub(super) fn open(root: &Root, key: ObjectKey, range: Option<Range<u64>>) -> Result<Self, StoreError> {
        let place = Place::of("read", &key)?;
        let missing = || StoreError::NotFound { operation: "read", key: key.to_string() };
        let chain = root.chain("read", &key, &place)?.ok_or_else(missing)?;
        // A FIFO in the object's place must not block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(chain.last(), place.name(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Err(missing()),
            Err(errno) => return Err(StoreError::io("read", &key, errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| StoreError::io("read", &key, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(missing()),
            _ => {
                let (subject, reason) = (key.to_string(), "something that is no plain file stands there");
                return Err(StoreError::NotPlain { operation: "read", subject, reason });
            }
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(StoreError::OutOfRange { key, range, size });
        }
        Ok(Self { key, file, range })
    }

    pub(super) fn stream(self) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let Range { start, end } = self.range;
        let source = Arc::new(self);
        let pieces = (0..(end - start).div_ceil(PIECE_BYTES)).map(move |number| {
            let from = start + number * PIECE_BYTES;
            let source = Arc::clone(&source);
            let subject = source.key.to_string();
            blocking("read", subject, move || source.piece(from..end.min(from + PIECE_BYTES)))
        });
        futures::stream::iter(pieces).buffered(AHEAD).boxed()
    }

    fn piece(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let length = usize::try_from(range.end - range.start).expect("a piece is small");
        let mut buffer = BytesMut::zeroed(length);
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, range.start + filled as u64) {
                Ok(0) => {
                    let (expected, got) = (self.range.end, range.start + filled as u64);
                    return Err(StoreError::Truncated { key: self.key.clone(), expected, got });
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(StoreError::io("read", &self.key, source)),
            }
        }
        Ok(buffer.freeze())
    }
}
