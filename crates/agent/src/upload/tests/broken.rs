//! A store that fails or changes at one instant, and limits that no backup of a test reaches.

use std::io;
use std::ops::Range;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_agent_protocol::AgentErrorKind;
use cassy_backup_format::ManifestWriter;
use cassy_store::{IncompleteObject, ObjectWriter, StoreError, StoredObject};

use super::increments::Chain;
use super::reuse::put_trash;
use super::spool::download_within;
use super::*;
use crate::failure::IntoAgentError;

type Listed = Vec<Result<ObjectMeta, StoreError>>;

/// Passes everything on, but reads of one key and listings of trash lists.
#[derive(Debug)]
struct Broken {
    inner: Arc<dyn Store>,
    /// Cannot be read.
    unreadable: Option<ObjectKey>,
    /// What the next listings of trash lists are; then they are passed on.
    trash: Mutex<Vec<Listed>>,
    /// So many pieces of objects are not taken.
    hiccups: Arc<AtomicU32>,
}

/// Takes no piece as long as there are hiccups.
struct Hiccuping {
    inner: Box<dyn ObjectWriter>,
    hiccups: Arc<AtomicU32>,
}

#[async_trait]
impl ObjectWriter for Hiccuping {
    async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        let less = |left: u32| left.checked_sub(1);
        match self.hiccups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Err(unplugged()),
            Err(_none) => self.inner.write(piece).await,
        }
    }
    async fn finish(self: Box<Self>) -> Result<StoredObject, StoreError> {
        self.inner.finish().await
    }
    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.abort().await
    }
}

impl Broken {
    fn new(bench: &Bench) -> Self {
        Self {
            inner: Arc::clone(&bench.store),
            unreadable: None,
            trash: Mutex::default(),
            hiccups: Arc::default(),
        }
    }
}

fn unplugged() -> StoreError {
    let source = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
    StoreError::Io { operation: "read", subject: "the store".to_owned(), source }
}

#[async_trait]
impl Store for Broken {
    async fn create(&self, key: &ObjectKey, size: Option<u64>) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let inner = self.inner.create(key, size).await?;
        Ok(Box::new(Hiccuping { inner, hiccups: Arc::clone(&self.hiccups) }))
    }
    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        if self.unreadable.as_ref() == Some(key) {
            Err(unplugged())
        } else {
            self.inner.read(key, range).await
        }
    }
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let mut trash = self.trash.lock().expect("whole");
        if prefix.ends_with("/trash/") && !trash.is_empty() {
            return stream::iter(trash.remove(0)).boxed();
        }
        self.inner.list(prefix)
    }
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
    fn list_incomplete(&self, prefix: &str) -> BoxStream<'static, Result<IncompleteObject, StoreError>> {
        self.inner.list_incomplete(prefix)
    }
    async fn abort_incomplete(&self, incomplete: &IncompleteObject) -> Result<(), StoreError> {
        self.inner.abort_incomplete(incomplete).await
    }
    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }
}

/// Hours of sending are not begun anew because a network file system was away for a second.
#[tokio::test]
async fn a_store_that_fails_for_a_moment_costs_one_object() {
    let bench = Bench::new(example());
    let store = Broken::new(&bench);
    store.hiccups.store(3, Ordering::Relaxed);
    let summary = bench.upload_to(Arc::new(store)).await.expect("uploaded");
    assert!(summary.left_orphans, "what was begun is looked for");
    bench.check(&summary).await;
    let unfinished: Vec<_> = bench.store.list_incomplete("").try_collect().await.expect("list");
    assert!(unfinished.is_empty(), "{unfinished:?}");
    assert!(!Bench::new(example()).upload().await.expect("uploaded").left_orphans);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_broken_is_named() {
    let bench = Bench::new(example());
    let store = Broken::new(&bench);
    store.hiccups.store(u32::MAX, Ordering::Relaxed);
    let error = bench.upload_to(Arc::new(store)).await.expect_err("broken").into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Transient);
    assert!(error.message.contains("the store"), "{error}");
}

/// A first backup, and the request for a second one on it.
async fn second() -> (Bench, UploadSummary) {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    bench.next(SECOND_TAG, &first);
    (bench, first)
}

async fn manifests(bench: &Bench) -> usize {
    bench.objects().await.iter().filter(|object| object.key.as_str().contains("/manifest/")).count()
}

fn trash_key(bench: &Bench, name: &str) -> ObjectKey {
    Keys::new(bench.request.cluster_id.clone()).expect("keys").trash(name).expect("key")
}

#[tokio::test]
async fn a_parent_that_cannot_be_read_just_now_is_tried_again() {
    let (bench, first) = second().await;
    let store = Broken { unreadable: Some(first.manifest), ..Broken::new(&bench) };
    let error = bench.upload_to(Arc::new(store)).await.expect_err("unplugged").into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Transient);
    assert!(error.message.starts_with("cannot download: cannot read the store"), "{error}");
    assert_eq!(bench.upload().await.expect("plugged in").sent_bytes, 0);
}

#[tokio::test]
async fn trash_lists_that_cannot_be_listed_stop_the_backup() {
    let (bench, _) = second().await;
    let store = Broken { trash: Mutex::new(vec![vec![Err(unplugged())]]), ..Broken::new(&bench) };
    let error = bench.upload_to(Arc::new(store)).await.expect_err("unplugged").into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Transient);
    assert!(error.message.starts_with("cannot list the trash lists: "), "{error}");
    assert_eq!(manifests(&bench).await, 1, "that of the first backup");
}

/// Whether its objects are gone cannot be told any more.
#[tokio::test]
async fn a_trash_list_that_is_gone_when_it_is_read_stops_this_try() {
    let (bench, _) = second().await;
    let key = trash_key(&bench, "ended");
    let gone = ObjectMeta { key: key.clone(), ..bench.objects().await.remove(0) };
    let store = Broken { trash: Mutex::new(vec![vec![Ok(gone)]]), ..Broken::new(&bench) };
    let error = bench.upload_to(Arc::new(store)).await.expect_err("gone");
    assert!(matches!(&error, UploadError::TrashGone { key: told } if *told == key), "{error}");
    assert_eq!(error.into_agent_error().kind, AgentErrorKind::Transient);
    assert_eq!(manifests(&bench).await, 1, "that of the first backup");
}

#[tokio::test]
async fn a_purge_that_lists_ever_more_ends_the_backup_with_one_of_its_objects() {
    let (bench, first) = second().await;
    let (_, entries) = bench.manifest(&first).await;
    let tries = TRASH_TRIES as usize + 1;
    let keys: Vec<ObjectKey> =
        entries.iter().filter_map(|entry| Some(entry.objects.first()?.key.clone())).take(tries).collect();
    assert_eq!(keys.len(), tries, "an SSTable for each try");
    let mut listings = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let name = format!("purge-{number}");
        put_trash(&bench, &name, std::slice::from_ref(key)).await;
        let list = bench.objects().await.into_iter().find(|object| object.key == trash_key(&bench, &name));
        listings.push(vec![Ok(list.expect("stored"))]);
    }
    let store = Broken { trash: Mutex::new(listings), ..Broken::new(&bench) };
    let error = bench.upload_to(Arc::new(store)).await.expect_err("trashed");
    let UploadError::KeepsBeingTrashed { tries: told, key } = &error else { panic!("{error}") };
    assert_eq!(*told as usize, tries);
    assert!(keys.contains(key), "{error}");
    assert_eq!(error.into_agent_error().kind, AgentErrorKind::Transient);
    assert_eq!(manifests(&bench).await, 1, "that of the first backup");
}

#[tokio::test]
async fn an_object_that_is_larger_than_any_of_its_kind_does_not_fill_the_disk() {
    let (bench, first) = second().await;
    let ctx = Context::default();
    let within =
        |limit| download_within(limit, &ctx, bench.store.as_ref(), &first.manifest, &bench.spool, "parent");
    assert_eq!(within(first.size).await.expect("just within").1, first.blake3);
    let error = within(first.size - 1).await.expect_err("too large");
    let UploadError::Store { source: StoreError::TooLarge { key, limit_bytes }, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((key, *limit_bytes), (&first.manifest, first.size - 1));
    assert_eq!(fs::read_dir(&bench.spool).expect("list").count(), 0);
}

#[tokio::test]
async fn a_spool_that_is_gone_is_told_by_its_path() {
    let bench = Bench::new(example());
    let spool = bench.spool.join("gone");
    let store = Arc::clone(&bench.store);
    let error = run_on(&Context::default(), &bench.request, &spool, store).await.expect_err("nowhere");
    let UploadError::Spool { operation: "make", path, .. } = &error else { panic!("{error}") };
    assert!(path.starts_with(&spool), "{error}");
    assert!(bench.objects().await.is_empty());
}

/// The manifest waits on the node's disk until everything is sent.
#[tokio::test]
async fn a_spooled_manifest_that_has_changed_is_not_stored() {
    let bench = Bench::new(example());
    let (spool, mut file) = SpoolFile::create(&bench.spool, "manifest").expect("made");
    io::Write::write_all(&mut file, b"other").expect("written");
    let (key, written) = (trash_key(&bench, "any"), blake3::hash(b"these").to_hex().to_string());
    let error = put(bench.store.as_ref(), &key, "store the manifest", &spool, (&written, 5)).await;
    let error = error.expect_err("changed").into_agent_error();
    assert!(error.message.ends_with("its content is not what was written"), "{error}");
    assert!(bench.objects().await.is_empty());
}

#[tokio::test]
async fn a_store_and_a_cluster_that_have_no_place_are_refused_before_anything_is_sent() {
    let mut bench = Bench::new(example());
    bench.request.store.location = "tape://library/1".to_owned();
    let error = run(&Context::default(), &bench.request, &bench.spool).await.expect_err("no store");
    let error = error.into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Permanent);
    assert!(
        error.message.starts_with("cannot open the store: ") && error.message.contains("tape"),
        "{error}"
    );
    bench.request.cluster_id = "\u{6c34}".repeat(100).parse().expect("id");
    let error = bench.upload().await.expect_err("no key");
    assert!(matches!(error, UploadError::Key { .. }), "{error}");
    assert!(bench.objects().await.is_empty());
}

/// A parent like this one, whose manifest is longer than what zstd takes at once, without its end: it still begins like
/// a whole one.
async fn cut_short(bench: &Bench, parent: &UploadSummary) -> UploadSummary {
    let (header, entries) = bench.manifest(parent).await;
    let mut lines = ManifestWriter::new(Vec::new(), &header).expect("header");
    let first = entries.first().expect("an SSTable");
    for number in 100..400 {
        lines.push(&SstableEntry { name: format!("nb-{number}-big"), ..first.clone() }).expect("entry");
    }
    let (mut body, _) = lines.finish().expect("footer");
    body.truncate(body.len() - 20);
    ManifestReader::open(body.as_slice()).expect("it begins well");
    let (blake3, size) = (blake3::hash(&body).to_hex().to_string(), body.len() as u64);
    bench.store.delete(&parent.manifest).await.expect("delete");
    bench.store.put(&parent.manifest, Bytes::from(body)).await.expect("put");
    UploadSummary { blake3, size, ..parent.clone() }
}

#[tokio::test]
async fn a_parent_that_ends_between_two_lines_is_not_relied_on() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    let cut = cut_short(&bench, &first).await;
    bench.next(SECOND_TAG, &cut);
    let second = bench.upload().await.expect("uploaded");
    assert_eq!(second.sent_bytes, first.sent_bytes);
    bench.check(&second).await;

    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    let cut = cut_short(&chain.bench, &base).await;
    let error = chain.refused(&cut).await;
    assert!(matches!(&error, UploadError::Parent { key, .. } if *key == base.manifest), "{error}");
    assert!(error.into_agent_error().hint.expect("a hint").contains("Take a node backup"));
}
