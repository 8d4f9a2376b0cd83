//! One SSTable: choosing, sending, and its line in the manifest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cassy_agent_protocol::AgentErrorKind;
use cassy_backup_format::{Attempt, FileEntry, ObjectEntry, ObjectKey, SstableEntry, TableRef};
use cassy_sstable::{DATA_COMPONENT, Digest, DigestError};
use tokio::time::sleep;

use super::choice::{Chooser, Reused};
use super::error::{UploadError, blocking};
use super::parent::Candidate;
use super::reading::Content;
use super::send::{Parcel, Sender, Sent, is_own_object};
use super::{Trashed, Upload};
use crate::failure::chain;
use crate::snapshot::SstableFiles;

/// Between two tries of one object.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// An SSTable of the snapshot, and what the parent has of it.
pub(super) struct Job {
    pub(super) table: TableRef,
    pub(super) sstable: Arc<SstableFiles>,
    pub(super) candidates: Vec<Candidate>,
}

/// How a line of the manifest comes about.
pub(super) enum Work {
    /// By sending what the parent does not have.
    Send(Job),
    /// As it is in the parent.
    Keep(Box<SstableEntry>),
}

/// What became of it.
pub(super) struct Done {
    pub(super) entry: SstableEntry,
    /// It was looked at, not just taken over.
    pub(super) is_of_the_node: bool,
    /// Why it does not match its own digest.
    pub(super) corrupt: Option<String>,
    /// The objects that were there before.
    pub(super) reused: Vec<ObjectKey>,
}

/// Makes a line.
pub(super) async fn deal(upload: Arc<Upload>, trashed: Trashed, work: Work) -> Result<Done, UploadError> {
    match work {
        Work::Send(job) => process(upload, trashed, job).await,
        Work::Keep(entry) => {
            let reused = entry.objects.iter().map(|object| object.key.clone()).collect();
            Ok(Done { entry: *entry, is_of_the_node: false, corrupt: None, reused })
        }
    }
}

/// Deals with one SSTable of the node.
async fn process(upload: Arc<Upload>, trashed: Trashed, job: Job) -> Result<Done, UploadError> {
    let Job { table, sstable, candidates } = job;
    let choice = {
        let (upload, sstable) = (Arc::clone(&upload), Arc::clone(&sstable));
        blocking(move || {
            let Upload { ctx, meter, buffers, .. } = upload.as_ref();
            Chooser { ctx, meter, buffers, trashed: &trashed }.choose(&sstable, &candidates)
        })
        .await?
    };
    let mut line = Line::default();
    for (component, reused) in choice.reused {
        line.reuse(component, reused);
    }
    let reused = line.objects.iter().map(|object| object.key.clone()).collect();
    send(&upload, &table, &sstable, &mut line).await?;
    let corrupt = corruption(&line, choice.digest);
    let entry = line.entry(table, &sstable, corrupt.is_some());
    Ok(Done { entry, is_of_the_node: true, corrupt, reused })
}

/// Sends the components that are not in the line yet.
async fn send(
    upload: &Upload,
    table: &TableRef,
    sstable: &Arc<SstableFiles>,
    line: &mut Line,
) -> Result<(), UploadError> {
    let missing = sstable.files.iter().filter(|(component, _)| !line.files.contains_key(*component));
    let (large, small): (Vec<_>, Vec<_>) =
        missing.partition(|(component, stat)| is_own_object(&sstable.file_name(component), stat.size));
    let mut parcels: Vec<_> =
        large.into_iter().map(|(component, _)| Parcel::File(component.clone())).collect();
    if !small.is_empty() {
        parcels.push(Parcel::Tar(small.into_iter().map(|(component, _)| component.clone()).collect()));
    }
    let sent = if parcels.is_empty() { Vec::new() } else { resent(upload, table, sstable, &parcels).await? };
    for (members, object) in sent {
        let number = line.object(object);
        for sent in members {
            upload.count_sent(sent.content.stat.size);
            line.files.insert(sent.component, (sent.content, number, sent.offset));
        }
    }
    Ok(())
}

/// Sends all of them; again, as another attempt, when the store fails and may be better in a moment: what else was sent
/// in hours is not lost by that.
async fn resent(
    upload: &Upload,
    table: &TableRef,
    sstable: &Arc<SstableFiles>,
    parcels: &[Parcel],
) -> Result<Vec<(Vec<Sent>, ObjectEntry)>, UploadError> {
    let mut pauses = PAUSES.iter();
    loop {
        upload.ctx.check()?;
        let error = match attempted(upload, table, sstable, parcels).await {
            Err(error @ UploadError::Store { .. }) if error.kind() == AgentErrorKind::Transient => error,
            outcome => return outcome,
        };
        let Some(pause) = pauses.next() else { return Err(error) };
        tracing::warn!(error = chain(&error), ?pause, "the store failed; trying again");
        upload.left_orphans.store(true, Ordering::Relaxed);
        tokio::select! {
            () = upload.ctx.cancel.cancelled() => return Err(UploadError::Cancelled),
            () = sleep(*pause) => {}
        }
    }
}

/// Sends all of them under keys of one attempt.
async fn attempted(
    upload: &Upload,
    table: &TableRef,
    sstable: &Arc<SstableFiles>,
    parcels: &[Parcel],
) -> Result<Vec<(Vec<Sent>, ObjectEntry)>, UploadError> {
    let Upload { ctx, meter, buffers, keys, .. } = upload;
    let sender = Sender { ctx, store: upload.store.as_ref(), buffers };
    let (host, index, name) = (&upload.request.host_id, sstable.index(), &sstable.name);
    let attempt = upload.next_attempt()?;
    let (mut read, mut files) = (meter.look(), 0);
    let mut sent = Vec::with_capacity(parcels.len());
    for parcel in parcels {
        let key = match parcel {
            Parcel::File(component) => {
                keys.component(host, table, index, name, attempt, &sstable.file_name(component))
            }
            Parcel::Tar(_) => keys.small_tar(host, table, index, name, attempt),
        };
        let key = key.map_err(|source| UploadError::Key { source })?;
        let parcel = sender.parcel(sstable, parcel, key, &mut read).await?;
        files += parcel.0.len() as u64;
        sent.push(parcel);
    }
    read.keep(files);
    Ok(sent)
}

impl Upload {
    /// Never the same twice within a session.
    fn next_attempt(&self) -> Result<Attempt, UploadError> {
        let next = |number: u32| number.checked_add(1);
        let drawn = self.attempts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let number = drawn.ok().ok_or(UploadError::AttemptsUsedUp)?;
        Ok(Attempt::new(self.request.session, number))
    }

    fn count_sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Compares what Data.db was with what the digest says; also for one that was not read again.
fn corruption(line: &Line, digest: Option<Result<Digest, DigestError>>) -> Option<String> {
    let (data, _, _) = line.files.get(DATA_COMPONENT)?;
    match digest? {
        Ok(Digest::Crc32(expected)) if expected != data.crc32 => {
            Some(format!("the CRC-32 of {DATA_COMPONENT} is {}, its digest says {expected}", data.crc32))
        }
        Ok(Digest::Crc32(_) | Digest::NotVerified) => None,
        Err(error) => Some(chain(&error)),
    }
}

/// A line of the manifest in the making.
#[derive(Default)]
struct Line {
    objects: Vec<ObjectEntry>,
    /// By component: what it is, which object holds it, and where.
    files: BTreeMap<String, (Content, u32, u64)>,
}

impl Line {
    fn reuse(&mut self, component: String, reused: Reused) {
        let number = self.object(reused.object);
        self.files.insert(component, (reused.content, number, reused.offset));
    }

    /// Its number; an object that several files are in is there once.
    fn object(&mut self, object: ObjectEntry) -> u32 {
        let place = self.objects.iter().position(|known| known.key == object.key).unwrap_or_else(|| {
            self.objects.push(object);
            self.objects.len() - 1
        });
        u32::try_from(place).expect("an SSTable has far fewer components")
    }

    fn entry(self, table: TableRef, sstable: &SstableFiles, corrupt: bool) -> SstableEntry {
        let file = |(component, (content, object, offset)): (String, (Content, u32, u64))| FileEntry {
            name: sstable.file_name(&component),
            size: content.stat.size,
            blake3: content.blake3,
            crc32: content.crc32,
            inode: content.stat.inode,
            mtime_ns: content.stat.mtime_ns,
            birth_ns: content.stat.birth_ns,
            object,
            offset,
        };
        let files = self.files.into_iter().map(file).collect();
        SstableEntry {
            table,
            index: sstable.index().map(str::to_owned),
            name: sstable.name.clone(),
            directory: sstable.directory,
            files,
            objects: self.objects,
            corrupt,
        }
    }
}
