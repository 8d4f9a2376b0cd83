//! Takes one object's bytes apart into the files that it holds, and proves the object and each file on the way.
//! Knows no store. The places of the files come from the manifest; what a tar's own headers say is not looked at.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;

use cassy_backup_format::{FileEntry, ObjectEntry};

use super::error::RestoreError;
use super::tree::{FileError, Tree};

/// Writes the files of one object while its bytes go by.
pub(crate) struct ObjectWriter {
    object: ObjectEntry,
    directory: Tree,
    hasher: blake3::Hasher,
    position: u64,
    /// What is still to come, by offset, without overlap.
    waiting: VecDeque<FileEntry>,
    open: Option<OpenFile>,
}

struct OpenFile {
    entry: FileEntry,
    file: File,
    written: u64,
    /// `None` when the file is the whole object: its hash is then the object's.
    hasher: Option<blake3::Hasher>,
    crc32: crc32fast::Hasher,
}

impl ObjectWriter {
    /// `files` are those of this object that are to be written into `directory`.
    pub(crate) fn new(
        object: ObjectEntry,
        mut files: Vec<FileEntry>,
        directory: Tree,
    ) -> Result<Self, RestoreError> {
        files.sort_by_key(|file| (file.offset, file.size));
        let mut end = 0;
        for file in &files {
            let next = file.offset.checked_add(file.size).filter(|end| *end <= object.size);
            let (Some(next), true) = (next, file.offset >= end) else {
                return Err(corrupt(
                    &object,
                    Some(&file.name),
                    "it overlaps another file, or the object's end",
                ));
            };
            end = next;
        }
        let waiting = files.into();
        Ok(Self { object, directory, hasher: blake3::Hasher::new(), position: 0, waiting, open: None })
    }

    /// The next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let end = self.position.saturating_add(bytes.len() as u64);
        if end > self.object.size {
            return Err(corrupt(
                &self.object,
                None,
                &format!("it has more than its {} bytes", self.object.size),
            ));
        }
        self.hasher.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.write_some(rest)?;
        }
        Ok(())
    }

    /// Deals with what belongs to one file, or to none; gives what is left.
    fn write_some<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], RestoreError> {
        self.open_due()?;
        let available = bytes.len() as u64;
        let taken = match (&self.open, self.waiting.front()) {
            (Some(open), _) => available.min(open.entry.size - open.written),
            (None, Some(next)) => available.min(next.offset - self.position),
            (None, None) => available,
        };
        let (piece, rest) = bytes.split_at(usize::try_from(taken).unwrap_or(bytes.len()));
        if let Some(open) = &mut self.open {
            open.write(piece).map_err(|source| file_error(&self.directory, &open.entry.name, source))?;
        }
        self.position += taken;
        self.close_full()?;
        Ok(rest)
    }

    /// Opens the file that begins here; empty ones are done at once.
    fn open_due(&mut self) -> Result<(), RestoreError> {
        while self.open.is_none() && self.waiting.front().is_some_and(|next| next.offset == self.position) {
            let Some(entry) = self.waiting.pop_front() else { return Ok(()) };
            let whole =
                entry.offset == 0 && entry.size == self.object.size && entry.blake3 == self.object.blake3;
            let file = self.directory.create(&entry.name)?;
            let hasher = (!whole).then(blake3::Hasher::new);
            self.open = Some(OpenFile { entry, file, written: 0, hasher, crc32: crc32fast::Hasher::new() });
            self.close_full()?;
        }
        Ok(())
    }

    fn close_full(&mut self) -> Result<(), RestoreError> {
        match self.open.take_if(|open| open.written == open.entry.size) {
            Some(open) => open.prove(&self.object),
            None => Ok(()),
        }
    }

    /// The object has ended: all of it has to be what the manifest says.
    pub(crate) fn finish(mut self) -> Result<(), RestoreError> {
        self.open_due()?;
        if self.position != self.object.size {
            let reason = format!("it has {} bytes instead of {}", self.position, self.object.size);
            return Err(corrupt(&self.object, None, &reason));
        }
        let found = self.hasher.finalize().to_hex();
        if found.as_str() != self.object.blake3 {
            let reason = format!("its BLAKE3 is {found} instead of {}", self.object.blake3);
            return Err(corrupt(&self.object, None, &reason));
        }
        Ok(())
    }
}

impl OpenFile {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<()> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(piece);
        }
        self.crc32.update(piece);
        self.written += piece.len() as u64;
        self.file.write_all(piece)
    }

    fn prove(self, object: &ObjectEntry) -> Result<(), RestoreError> {
        let name = Some(&self.entry.name);
        let crc32 = self.crc32.finalize();
        if crc32 != self.entry.crc32 {
            let reason = format!("its CRC-32 is {crc32} instead of {}", self.entry.crc32);
            return Err(corrupt(object, name, &reason));
        }
        let Some(found) = self.hasher.map(|hasher| hasher.finalize().to_hex()) else { return Ok(()) };
        if found.as_str() != self.entry.blake3 {
            let reason = format!("its BLAKE3 is {found} instead of {}", self.entry.blake3);
            return Err(corrupt(object, name, &reason));
        }
        Ok(())
    }
}

fn corrupt(object: &ObjectEntry, file: Option<&String>, reason: &str) -> RestoreError {
    RestoreError::Corrupt { key: object.key.clone(), file: file.cloned(), reason: reason.to_owned() }
}

fn file_error(directory: &Tree, name: &str, source: std::io::Error) -> RestoreError {
    FileError::new("write", directory.path().join(name), source).into()
}

#[cfg(test)]
mod fuzz {
    use std::fs;

    use cassy_fuzz::Fuzz;

    use super::*;
    use crate::restore::tree::Steps;

    /// An object whose bytes, and whose description in the manifest, are both what somebody else wrote: first a
    /// line of JSON with the entry and its files, then the bytes.
    #[test]
    fn a_hostile_object_is_refused_or_is_what_its_manifest_says() {
        let bytes = b"TOC.txt\nDigest.crc32 and some more";
        let whole = |data: &[u8]| (blake3::hash(data).to_hex().to_string(), crc32fast::hash(data));
        let file = |name: &str, offset: usize, data: &[u8]| {
            let (blake3, crc32) = whole(data);
            serde_json::json!({
                "name": name, "size": data.len(), "blake3": blake3, "crc32": crc32, "inode": 1, "mtime_ns": 1,
                "object": 0, "offset": offset
            })
        };
        let seed = |files: Vec<serde_json::Value>| {
            let object =
                serde_json::json!({ "key": "cassy/1/c/o", "size": bytes.len(), "blake3": whole(bytes).0 });
            let mut seed = serde_json::json!({ "object": object, "files": files }).to_string().into_bytes();
            seed.push(b'\n');
            seed.extend_from_slice(bytes);
            seed
        };
        let seeds = [
            seed(vec![
                file("nb-1-big-TOC.txt", 0, &bytes[..8]),
                file("nb-1-big-Digest.crc32", 9, &bytes[9..20]),
            ]),
            seed(vec![file("nb-1-big-Data.db", 0, bytes)]),
            seed(vec![file("empty", 8, b"")]),
        ];
        let directory = tempfile::tempdir().expect("a directory");
        // Other tests of this program run at the same time, and their memory counts.
        Fuzz::new("object of a restore").seeds(seeds).cost(4).memory_bytes(512 << 20).run(|input| {
            let place = directory.path().join("place");
            fs::create_dir(&place).expect("a directory");
            let accepted =
                restored(input, Tree::root(&place, &Steps::default()).expect("open").expect("there"));
            let outside = fs::read_dir(directory.path()).expect("list").count();
            assert_eq!(outside, 1, "nothing is written beside the directory");
            fs::remove_dir_all(&place).expect("remove");
            accepted
        });
    }

    fn restored(input: &[u8], directory: Tree) -> bool {
        let mut parts = input.splitn(2, |byte| *byte == b'\n');
        let (Some(line), Some(body)) = (parts.next(), parts.next()) else { return false };
        let Ok(mut line) = serde_json::from_slice::<serde_json::Value>(line) else { return false };
        let object = serde_json::from_value::<ObjectEntry>(line["object"].take());
        let files = serde_json::from_value::<Vec<FileEntry>>(line["files"].take());
        let (Ok(object), Ok(files)) = (object, files) else { return false };
        let written = ObjectWriter::new(object, files, directory).and_then(|mut writer| {
            body.chunks(7).try_for_each(|piece| writer.write(piece))?;
            writer.finish()
        });
        written.is_ok()
    }
}
