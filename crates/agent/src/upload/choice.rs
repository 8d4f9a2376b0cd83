//! What of an SSTable has to be sent, and what the parent's objects hold already.
//!
//! A file is unchanged when its directory, name, size, inode, time of modification and time of birth are those of
//! the parent, and so is the text of the SSTable's digest. Any other file is read: if its content is that of a file
//! in the parent, the object is relied on all the same.

use std::collections::{BTreeMap, HashSet};

use cassy_backup_format::{FileEntry, ObjectEntry, ObjectKey};
use cassy_sstable::{DATA_COMPONENT, Digest, DigestError};

use super::error::UploadError;
use super::meter::Meter;
use super::parent::Candidate;
use super::reading::{Buffers, Content, Reading};
use crate::context::Context;
use crate::directory::FileStat;
use crate::snapshot::SstableFiles;

/// A digest is some ten bytes long.
const DIGEST_LIMIT_BYTES: u64 = 4096;

/// What was found out about an SSTable before anything is sent.
#[derive(Debug)]
pub(super) struct Choice {
    /// What its `Digest` component says; `None` when it has none.
    pub(super) digest: Option<Result<Digest, DigestError>>,
    /// The components that need not be sent.
    pub(super) reused: BTreeMap<String, Reused>,
}

/// A component that an object holds already.
#[derive(Debug)]
pub(super) struct Reused {
    pub(super) content: Content,
    pub(super) object: ObjectEntry,
    /// Where in the object.
    pub(super) offset: u64,
}

/// What choosing needs besides the SSTable.
pub(super) struct Chooser<'a> {
    pub(super) ctx: &'a Context,
    pub(super) meter: &'a Meter,
    pub(super) buffers: &'a Buffers,
    /// Objects that a purge has listed: never relied on.
    pub(super) trashed: &'a HashSet<ObjectKey>,
}

impl Chooser<'_> {
    /// Blocks, and may read large files.
    pub(super) fn choose(
        &self,
        sstable: &SstableFiles,
        candidates: &[Candidate],
    ) -> Result<Choice, UploadError> {
        let digest = self.digest(sstable)?;
        let parent = candidates.iter().find(|candidate| is_trusted(candidate, sstable, digest.as_ref()));
        let mut reused = BTreeMap::new();
        for (component, stat) in sstable.files.iter() {
            self.ctx.check()?;
            let unchanged =
                parent.and_then(|parent| self.unchanged(parent, &sstable.file_name(component), stat));
            let found = match unchanged {
                Some(found) => Some(found),
                None => self.equal(sstable, component, stat, candidates)?,
            };
            if let Some(found) = found {
                self.meter.bytes(stat.size);
                self.meter.files(1);
                reused.insert(component.clone(), found);
            }
        }
        Ok(Choice { digest: digest.map(|read| read.digest), reused })
    }

    /// True when the parent has the very same rows under this name.
    pub(super) fn has_rows(
        &self,
        sstable: &SstableFiles,
        candidates: &[Candidate],
    ) -> Result<bool, UploadError> {
        let Some(stat) = sstable.files.get(DATA_COMPONENT) else { return Ok(false) };
        let digest = self.digest(sstable)?;
        let parent = candidates.iter().find(|candidate| is_trusted(candidate, sstable, digest.as_ref()));
        let name = sstable.file_name(DATA_COMPONENT);
        if parent.and_then(|parent| self.unchanged(parent, &name, stat)).is_some() {
            return Ok(true);
        }
        Ok(self.equal(sstable, DATA_COMPONENT, stat, candidates)?.is_some())
    }

    /// BLAKE3 of the rows, which are read.
    pub(super) fn rows_blake3(&self, sstable: &SstableFiles) -> Result<String, UploadError> {
        Ok(self.pass(sstable, DATA_COMPONENT, |_| ())?.blake3)
    }

    fn digest(&self, sstable: &SstableFiles) -> Result<Option<ReadDigest>, UploadError> {
        let mut found = None;
        for (component, stat) in sstable.files.iter() {
            if Digest::parse(component, b"0").is_none() {
                continue;
            }
            let (text, blake3) = match stat.size {
                0..=DIGEST_LIMIT_BYTES => self.read(sstable, component)?,
                _ => (b"(too long)".to_vec(), String::new()),
            };
            let Some(digest) = Digest::parse(component, &text) else { continue };
            let is_better = !matches!(digest, Ok(Digest::NotVerified));
            if found.is_none() || is_better {
                found = Some(ReadDigest { name: sstable.file_name(component), digest, blake3 });
            }
        }
        Ok(found)
    }

    fn unchanged(&self, parent: &Candidate, name: &str, stat: &FileStat) -> Option<Reused> {
        let file = parent.entry.files.iter().find(|file| file.name == name)?;
        let same = stat.birth_ns.is_some()
            && (file.size, file.inode, file.mtime_ns, file.birth_ns)
                == (stat.size, stat.inode, stat.mtime_ns, stat.birth_ns);
        if !same {
            return None;
        }
        let content = Content { stat: *stat, crc32: file.crc32, blake3: file.blake3.clone() };
        self.reused(parent, file, content)
    }

    /// Reads the file, if one of this name and size is in the parent, and compares.
    fn equal(
        &self,
        sstable: &SstableFiles,
        component: &str,
        stat: &FileStat,
        candidates: &[Candidate],
    ) -> Result<Option<Reused>, UploadError> {
        let name = sstable.file_name(component);
        let files = || {
            candidates
                .iter()
                .flat_map(|candidate| candidate.entry.files.iter().map(move |file| (candidate, file)))
        };
        let alike = |file: &FileEntry| file.name == name && file.size == stat.size;
        if !files().any(|(_, file)| alike(file)) {
            return Ok(None);
        }
        let content = self.pass(sstable, component, |_| ())?;
        let mut same = files().filter(|(_, file)| {
            file.name == name && file.size == content.stat.size && file.blake3 == content.blake3
        });
        Ok(same.find_map(|(candidate, file)| self.reused(candidate, file, content.clone())))
    }

    fn reused(&self, candidate: &Candidate, file: &FileEntry, content: Content) -> Option<Reused> {
        let object = candidate.entry.objects.get(usize::try_from(file.object).ok()?)?;
        let is_safe = !self.trashed.contains(&object.key);
        is_safe.then(|| Reused { content, object: object.clone(), offset: file.offset })
    }

    /// The content, and its BLAKE3.
    fn read(&self, sstable: &SstableFiles, component: &str) -> Result<(Vec<u8>, String), UploadError> {
        let mut text = Vec::new();
        let content = self.pass(sstable, component, |piece| text.extend_from_slice(piece))?;
        Ok((text, content.blake3))
    }

    fn pass(
        &self,
        sstable: &SstableFiles,
        component: &str,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Content, UploadError> {
        let mut reading = Reading::open(sstable, component, self.buffers)?;
        let mut looked_at = self.meter.look();
        while let Some(piece) = reading.next()? {
            self.ctx.check()?;
            looked_at.bytes(piece.len() as u64);
            take(&piece);
        }
        Ok(reading.finish(sstable, component)?)
    }
}

struct ReadDigest {
    name: String,
    digest: Result<Digest, DigestError>,
    blake3: String,
}

/// Its times and inodes count: same data directory, same digest, and it was whole then.
fn is_trusted(candidate: &Candidate, sstable: &SstableFiles, digest: Option<&ReadDigest>) -> bool {
    let Some(digest) = digest else { return false };
    let mut files = candidate.entry.files.iter();
    candidate.data == sstable.place.data
        && !candidate.entry.corrupt
        && files.any(|file| file.name == digest.name && file.blake3 == digest.blake3)
}
