//! One sequential pass over a file, feeding CRC-32 and BLAKE3 while it hands out the bytes.
//!
//! A file that changes meanwhile is noticed: its size, its time of modification and the file that its name stands
//! for are the same after the last byte as before the first.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use crate::directory::{FileError, FileStat, stat_open};
use crate::snapshot::SstableFiles;

pub(super) const PIECE_BYTES: usize = 1 << 20;
const BUFFERS_KEPT: usize = 16;
/// `RWF_DONTCACHE` of Linux 6.14: pages that were in the page cache stay, those read for us do not.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Buffers of one piece, used again when the store has taken their bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; PIECE_BYTES])
    }

    fn bytes(&self, buffer: Vec<u8>, length: usize) -> Bytes {
        Bytes::from_owner(Filled { buffer, length, home: self.clone() })
    }
}

/// The bytes of a piece; dropped, its buffer goes home.
struct Filled {
    buffer: Vec<u8>,
    length: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT {
            kept.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// What a pass over a file has found.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) stat: FileStat,
    pub(super) crc32: u32,
    pub(super) blake3: String,
}

/// A pass over a file. All of it blocks.
pub(super) struct Reading {
    path: PathBuf,
    file: File,
    /// When it was opened.
    stat: FileStat,
    position: u64,
    crc32: crc32fast::Hasher,
    blake3: blake3::Hasher,
    buffers: Buffers,
    can_skip_cache: bool,
}

impl Reading {
    pub(super) fn open(
        sstable: &SstableFiles,
        component: &str,
        buffers: &Buffers,
    ) -> Result<Self, FileError> {
        let directory = sstable.open()?;
        let name = sstable.on_disk(component);
        let (file, stat) = directory.open(&name)?;
        // On older kernels the cache's own ageing has to do: dropping the pages would drop Cassandra's as well.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::NoReuse);
        Ok(Self {
            path: directory.path().join(name),
            file,
            stat,
            position: 0,
            crc32: crc32fast::Hasher::new(),
            blake3: blake3::Hasher::new(),
            buffers: buffers.clone(),
            can_skip_cache: true,
        })
    }

    /// The size when it was opened; a pass that ends well has given exactly so many bytes.
    pub(super) fn size(&self) -> u64 {
        self.stat.size
    }

    /// When it was opened.
    pub(super) fn stat(&self) -> FileStat {
        self.stat
    }

    /// The next bytes; `None` after the last one.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        let rest = self.stat.size - self.position;
        if rest == 0 {
            return Ok(None);
        }
        let mut buffer = self.buffers.take();
        let wanted = usize::try_from(rest).unwrap_or(PIECE_BYTES).min(buffer.len());
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..wanted).filter(|room| !room.is_empty()) {
            let at = self.position + filled as u64;
            match read_at(&self.file, room, at, &mut self.can_skip_cache) {
                Ok(0) => return Err(self.changed(format!("it ended after {at} of {} bytes", self.stat.size))),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FileError::io("read", &self.path, source)),
            }
        }
        self.position += filled as u64;
        let piece = self.buffers.bytes(buffer, filled);
        self.crc32.update(&piece);
        self.blake3.update(&piece);
        Ok(Some(piece))
    }

    /// Ends a pass whose last byte was given, and looks whether the file is still the same.
    pub(super) fn finish(self, sstable: &SstableFiles, component: &str) -> Result<Content, FileError> {
        let after = stat_open(&self.file, &self.path)?;
        if after.size != self.stat.size {
            return Err(self.changed(format!("it had {} bytes and now has {}", self.stat.size, after.size)));
        }
        if after.mtime_ns != self.stat.mtime_ns {
            return Err(self.changed("it was written to".to_owned()));
        }
        let named = sstable.open()?.stat(&sstable.on_disk(component))?;
        if (named.device, named.inode) != (self.stat.device, self.stat.inode) {
            return Err(self.changed("another file has taken its name".to_owned()));
        }
        let blake3 = self.blake3.finalize().to_hex().to_string();
        Ok(Content { stat: self.stat, crc32: self.crc32.finalize(), blake3 })
    }

    fn changed(&self, what: String) -> FileError {
        FileError::Changed { path: self.path.clone(), what }
    }
}

fn read_at(file: &File, room: &mut [u8], at: u64, can_skip_cache: &mut bool) -> io::Result<usize> {
    if *can_skip_cache {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(room)], at, DONT_CACHE) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => *can_skip_cache = false,
            other => return Ok(other?),
        }
    }
    file.read_at(room, at)
}
