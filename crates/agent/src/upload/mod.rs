//! Sending a snapshot, or an increment: what the parent's objects do not hold already, then the node manifest, last.
//!
//! Invariants: a manifest refers only to objects that the store has acknowledged, and to none that a trash list
//! names when the manifest is stored; no key is used twice; memory grows with neither node nor table.

mod choice;
mod earlier;
mod error;
mod increment;
mod manifest;
mod meter;
mod parent;
mod reading;
mod send;
mod spool;
mod sstable;
mod survey;
mod trash;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use cassy_agent_protocol::{UploadRequest, UploadSummary};
use cassy_backup_format::{BackupKind, Keys, ObjectKey, SstableEntry};
use cassy_store::{Store, StoreAccess};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

pub(crate) use self::error::UploadError;
use self::error::blocking;
use self::increment::Increment;
pub(crate) use self::increment::clear_included;
use self::manifest::{Draft, Written};
use self::meter::Meter;
use self::parent::{Cursor, Parent};
use self::reading::Buffers;
pub(crate) use self::spool::{Hashing, SpoolFile, download, put};
use self::sstable::{Done, Job, Work, deal};
use self::survey::{Survey, survey};
use self::trash::Relied;
use crate::context::Context;
use crate::snapshot::{Amount, LookedAt, Sstables};

/// SSTables that are dealt with at once.
const IN_FLIGHT: usize = 4;
/// How often everything is gone over again because a purge has listed what the backup relies on.
const TRASH_TRIES: u32 = 3;

/// SSTables whose parent's lines are in memory at once.
const PORTION: usize = 64;

/// How far a pass is.
enum Feed {
    Snapshot(Box<Tables>),
    Increment(Box<increment::Feed>),
}

/// How far a pass over a snapshot is.
struct Tables {
    /// The number of the table.
    table: usize,
    /// What is left of it, once it has been begun.
    sstables: Option<Sstables>,
    /// How much of it there was so far.
    amount: Amount,
    /// In the parent.
    cursor: Option<Cursor>,
}

impl Tables {
    fn new(cursor: Option<Cursor>) -> Self {
        Self { table: 0, sstables: None, amount: Amount::default(), cursor }
    }
}

/// What all SSTables share.
struct Upload {
    ctx: Context,
    request: UploadRequest,
    spool_dir: PathBuf,
    store: Arc<dyn Store>,
    keys: Keys,
    survey: Survey,
    /// What an increment adds; `None` for a snapshot.
    increment: Option<Increment>,
    meter: Meter,
    buffers: Buffers,
    attempts: AtomicU32,
    sent_bytes: AtomicU64,
    /// Something was sent, or begun, that the manifest does not name.
    left_orphans: AtomicBool,
}

/// Objects that a purge has listed, and that are sent again.
type Trashed = Arc<HashSet<ObjectKey>>;

/// What a pass has made.
struct Outcome {
    written: Written,
    corrupt: Vec<String>,
    relied: Relied,
    /// SSTables of the node in it.
    of_the_node: u64,
}

/// Sends the snapshot and stores the node manifest.
pub(crate) async fn run(
    ctx: &Context,
    request: &UploadRequest,
    spool_dir: &Path,
) -> Result<UploadSummary, UploadError> {
    let access = StoreAccess::new(request.store.location.clone());
    let store =
        cassy_store::open(&access).map_err(|source| UploadError::Store { what: "open the store", source })?;
    run_on(ctx, request, spool_dir, store).await
}

/// The same on a store that is open.
async fn run_on(
    ctx: &Context,
    request: &UploadRequest,
    spool_dir: &Path,
    store: Arc<dyn Store>,
) -> Result<UploadSummary, UploadError> {
    run_at(ctx, request, spool_dir, store, LookedAt::at(SystemTime::now())).await
}

async fn run_at(
    ctx: &Context,
    request: &UploadRequest,
    spool_dir: &Path,
    store: Arc<dyn Store>,
    looked_at: LookedAt,
) -> Result<UploadSummary, UploadError> {
    let keys = Keys::new(request.cluster_id.clone()).map_err(|source| UploadError::Key { source })?;
    if let Some(summary) = earlier::answer(ctx, store.as_ref(), &keys, request, spool_dir).await? {
        return Ok(summary);
    }
    if request.kind == BackupKind::Incremental {
        return run_increment(ctx, keys, request, spool_dir, store, looked_at).await;
    }
    let parent = Parent::usable(ctx, store.as_ref(), request, spool_dir).await?;
    let relying =
        UploadRequest { parent: request.parent.clone().filter(|_| parent.is_some()), ..request.clone() };
    let (upload, parent) = Upload::begin(ctx, keys, &relying, spool_dir, store, parent, looked_at).await?;
    let upload = Arc::new(upload);
    // On the heap, as it holds the state of several SSTables.
    let outcome = Box::pin(upload.until_nothing_is_trashed(parent)).await?;
    upload.ctx.check()?;
    upload.commit(outcome).await
}

/// What is taken over from the parent cannot be sent again, so one pass has to do.
async fn run_increment(
    ctx: &Context,
    keys: Keys,
    request: &UploadRequest,
    spool_dir: &Path,
    store: Arc<dyn Store>,
    looked_at: LookedAt,
) -> Result<UploadSummary, UploadError> {
    let parent = Some(Parent::required(ctx, store.as_ref(), request, spool_dir).await?);
    let (upload, parent) = Upload::begin(ctx, keys, request, spool_dir, store, parent, looked_at).await?;
    let upload = Arc::new(upload);
    let cursor = parent.as_ref().ok_or(UploadError::NoChain)?.cursor()?;
    let feed = Feed::Increment(Box::new(increment::Feed::new(cursor)));
    let mut outcome = Box::pin(upload.pass(&Trashed::default(), feed)).await?;
    let relied = std::mem::take(&mut outcome.relied);
    if let Some(key) = upload.listed(relied).await?.into_iter().next() {
        return Err(UploadError::ParentTrashed { key });
    }
    upload.ctx.check()?;
    upload.commit(outcome).await
}

impl Upload {
    async fn begin(
        ctx: &Context,
        keys: Keys,
        request: &UploadRequest,
        spool_dir: &Path,
        store: Arc<dyn Store>,
        parent: Option<Parent>,
        looked_at: LookedAt,
    ) -> Result<(Self, Option<Parent>), UploadError> {
        // Its own cancellation, as a failure also stops what is under way.
        let ctx = Context { cancel: ctx.cancel.child_token(), ..ctx.clone() };
        let request = request.clone();
        let (ctx, request, survey, increment, parent) = blocking(move || {
            let mut survey = survey(&ctx, &request)?;
            let base = parent.as_ref().filter(|_| request.kind == BackupKind::Incremental);
            let increment =
                base.map(|parent| Increment::plan(&ctx, &mut survey, parent, looked_at)).transpose()?;
            Ok((ctx, request, survey, increment, parent))
        })
        .await?;
        let total = increment.as_ref().map(|increment| (increment.files, increment.bytes));
        let (files, bytes) = total.unwrap_or((survey.files, survey.bytes));
        let meter = Meter::new(ctx.progress.clone(), files, bytes);
        let upload = Self {
            ctx,
            request,
            spool_dir: spool_dir.to_owned(),
            store,
            keys,
            survey,
            increment,
            meter,
            buffers: Buffers::default(),
            attempts: AtomicU32::new(0),
            sent_bytes: AtomicU64::new(0),
            left_orphans: AtomicBool::new(false),
        };
        Ok((upload, parent))
    }

    async fn until_nothing_is_trashed(
        self: &Arc<Self>,
        mut parent: Option<Parent>,
    ) -> Result<Outcome, UploadError> {
        let mut trashed = Trashed::default();
        for _ in 0..=TRASH_TRIES {
            let cursor = parent.as_ref().map(Parent::cursor).transpose()?;
            let mut outcome = self.pass(&trashed, Feed::Snapshot(Box::new(Tables::new(cursor)))).await?;
            let relied = std::mem::take(&mut outcome.relied);
            let listed = self.listed(relied).await?;
            if listed.is_empty() {
                return Ok(outcome);
            }
            tracing::info!(
                objects = listed.len(),
                "a purge has listed objects that this backup relies on: they are sent again"
            );
            Arc::make_mut(&mut trashed).extend(listed);
            // What this pass has sent is relied on by the next one.
            parent = Some(Parent::own(self.manifest_key(&outcome), outcome.written.spool));
            self.meter.restart();
            self.left_orphans.store(true, Ordering::Relaxed);
        }
        let key = trashed.iter().next().cloned().expect("each try has found some");
        Err(UploadError::KeepsBeingTrashed { tries: TRASH_TRIES + 1, key })
    }

    /// What of it purges are about to delete.
    async fn listed(&self, relied: Relied) -> Result<HashSet<ObjectKey>, UploadError> {
        let prefix = self.keys.trash_prefix();
        trash::listed(&self.ctx, self.store.as_ref(), &prefix, relied, &self.spool_dir).await
    }

    /// Deals with every SSTable, a few at a time, in the manifest's order.
    async fn pass(self: &Arc<Self>, trashed: &Trashed, feed: Feed) -> Result<Outcome, UploadError> {
        let portions = stream::try_unfold(feed, |feed| {
            let upload = Arc::clone(self);
            blocking(move || upload.portion(feed))
        });
        let work = portions.map_ok(|work| stream::iter(work.into_iter().map(Ok))).try_flatten();
        let mut done = work
            .map_ok(|work| Box::pin(deal(Arc::clone(self), Arc::clone(trashed), work)))
            .try_buffered(IN_FLIGHT)
            .boxed();
        let outcome = self.collect(&mut done).await;
        if outcome.is_err() {
            // Nothing goes on behind the answer: what is under way ends at its next piece.
            self.ctx.cancel.cancel();
            while done.next().await.is_some() {}
        }
        outcome
    }

    async fn collect(
        &self,
        done: &mut BoxStream<'_, Result<Done, UploadError>>,
    ) -> Result<Outcome, UploadError> {
        let mut draft = Draft::begin(&self.survey.header, &self.spool_dir)?;
        let mut corrupt = Vec::new();
        let mut relied = Relied::default();
        let mut of_the_node = 0;
        while let Some(done) = done.try_next().await? {
            draft.push(&done.entry)?;
            of_the_node += u64::from(done.is_of_the_node);
            done.reused.iter().for_each(|key| relied.add(key));
            corrupt.extend(done.corrupt.as_deref().map(|why| describe(&done.entry, why)));
        }
        Ok(Outcome { written: draft.finish()?, corrupt, relied, of_the_node })
    }

    /// What is to be done next, in the manifest's order, and what the step after that needs; `None` at the end. Blocks.
    fn portion(&self, feed: Feed) -> Result<Option<(Vec<Work>, Feed)>, UploadError> {
        let next = match (feed, &self.increment) {
            (Feed::Snapshot(tables), _) => self
                .portion_of_snapshot(*tables)?
                .map(|(work, tables)| (work, Feed::Snapshot(Box::new(tables)))),
            (Feed::Increment(feed), Some(increment)) => increment
                .portion(&self.ctx, &self.survey, *feed)?
                .map(|(work, feed)| (work, Feed::Increment(Box::new(feed)))),
            (Feed::Increment(_), None) => None,
        };
        Ok(next)
    }

    fn portion_of_snapshot(&self, mut feed: Tables) -> Result<Option<(Vec<Work>, Tables)>, UploadError> {
        self.ctx.check()?;
        let mut jobs = Vec::new();
        while jobs.is_empty() {
            let Some(surveyed) = self.survey.tables.get(feed.table) else { return Ok(None) };
            let table = &surveyed.snapshot.table;
            let sstables = match &mut feed.sstables {
                Some(sstables) => sstables,
                unread => unread.insert(surveyed.snapshot.read()?.sstables),
            };
            for sstable in sstables.by_ref().take(PORTION) {
                let sstable = sstable?;
                feed.amount.add(&sstable);
                let candidates = match &mut feed.cursor {
                    Some(cursor) => cursor.candidates(table, sstable.index(), &sstable.name)?,
                    None => Vec::new(),
                };
                jobs.push(Work::Send(Job { table: table.clone(), sstable: Arc::new(sstable), candidates }));
            }
            if jobs.len() < PORTION {
                surveyed.check(feed.amount)?;
                feed = Tables { table: feed.table + 1, ..Tables::new(feed.cursor) };
            }
        }
        Ok(Some((jobs, feed)))
    }

    /// That of an SSTable that does not match its digest never looks like a good backup.
    fn manifest_key(&self, outcome: &Outcome) -> ObjectKey {
        let [whole, corrupt] = manifest::keys(&self.keys, &self.request);
        if outcome.corrupt.is_empty() { whole } else { corrupt }
    }

    async fn commit(&self, outcome: Outcome) -> Result<UploadSummary, UploadError> {
        let manifest = self.manifest_key(&outcome);
        let Outcome { written, corrupt, of_the_node, .. } = outcome;
        manifest::store(self.store.as_ref(), &manifest, &written).await?;
        Ok(UploadSummary {
            manifest,
            blake3: written.blake3,
            size: written.size,
            sstables: written.footer.sstables,
            files: written.footer.files,
            bytes: written.footer.bytes,
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            left_orphans: self.left_orphans.load(Ordering::Relaxed),
            taken: self.increment.as_ref().map_or(0, |_| of_the_node),
            left: self.increment.as_ref().map_or(0, |increment| increment.left),
            tables: self.survey.header.tables.clone(),
            corrupt,
        })
    }
}

/// `keyspace.table/nb-1-big: why`, with the index's directory where it is an index's.
fn describe(entry: &SstableEntry, why: &str) -> String {
    let index: String = entry.index.iter().map(|index| format!("{index}/")).collect();
    format!("{}.{}/{index}{}: {why}", entry.table.keyspace, entry.table.table, entry.name)
}

#[cfg(test)]
mod tests;
