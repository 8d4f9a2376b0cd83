//! What is broken, tampered with, or changes meanwhile.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_agent_protocol::AgentErrorKind;
use cassy_store::{IncompleteObject, ObjectWriter, StoreError, StoredObject};

use super::*;
use crate::failure::IntoAgentError;
use crate::snapshot::fake::content;

#[tokio::test]
async fn what_an_earlier_try_has_finished_is_answered_and_not_sent_again() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    let objects = bench.objects().await;
    bench.request.session = SessionId::random();
    let again = bench.upload().await.expect("answered");
    assert_eq!(again, UploadSummary { sent_bytes: 0, left_orphans: true, ..first });
    assert_eq!(bench.objects().await, objects);
    bench.check(&again).await;
}

#[tokio::test]
async fn a_manifest_of_other_content_is_never_overwritten() {
    let bench = Bench::new(example());
    let keys = Keys::new(bench.request.cluster_id.clone()).expect("keys");
    let key = keys.node_manifest(&bench.request.host_id, &bench.request.backup_id);
    bench.store.put(&key, Bytes::from_static(b"somebody else's")).await.expect("put");
    let error = bench.upload().await.expect_err("taken").into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Permanent);
    assert!(error.message.contains("another manifest is stored as"), "{error}");
    assert_eq!(bench.store.get(&key, 100).await.expect("there"), "somebody else's");
}

#[tokio::test]
async fn a_flipped_bit_is_named_and_the_rest_is_kept() {
    let bench = Bench::new(example());
    let path = bench.live(1, "nb-2-big-Data.db");
    let file = OpenOptions::new().write(true).open(&path).expect("open");
    file.write_all_at(&[fs::read(&path).expect("read")[1_000_000] ^ 1], 1_000_000).expect("flip");
    let index = bench.live(1, ".plain_v_idx/nb-1-big-Digest.crc32");
    OpenOptions::new().write(true).open(index).expect("open").write_all_at(b"x", 0).expect("write");
    let summary = bench.upload().await.expect("uploaded");
    bench.check(&summary).await;
    let [data, digest] = summary.corrupt.as_slice() else { panic!("{:?}", summary.corrupt) };
    assert!(data.starts_with("ks.plain/nb-2-big: the CRC-32 of Data.db is "), "{data}");
    assert!(
        digest.starts_with("ks.plain/.plain_v_idx/nb-1-big: crc32 is not")
            || digest.starts_with("ks.plain/.plain_v_idx/nb-1-big: Digest.crc32 is not"),
        "{digest}"
    );
    assert!(summary.manifest.as_str().ends_with(".corrupt.jsonl.zst"), "{}", summary.manifest);
    let (_, entries) = bench.manifest(&summary).await;
    assert_eq!(entries.iter().filter(|entry| entry.corrupt).count(), 2);
}

#[tokio::test]
async fn a_broken_snapshot_is_refused_before_anything_is_sent() {
    let bench = Bench::new(example());
    fs::remove_file(bench.node.snapshot_of(0, "ks", "plain", TAG).join("nb-1-big-Index.db")).expect("remove");
    let error = bench.upload().await.expect_err("refused").into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Permanent);
    assert!(error.message.contains("ks.plain: ") && error.message.contains("lacks Index.db"), "{error}");
    assert!(bench.objects().await.is_empty());
}

#[tokio::test]
async fn a_broken_table_that_nobody_asked_for_is_left_out() {
    let mut bench = Bench::new(example());
    fs::remove_file(bench.node.snapshot_of(0, "snapshots", "snapshots", TAG).join("nb-1-big-Data.db"))
        .expect("remove");
    bench.request.snapshot.tables.retain(|(keyspace, _)| keyspace != "snapshots");
    let summary = bench.upload().await.expect("uploaded");
    assert_eq!(summary.tables.len(), EXAMPLE_TABLES.len() - 1);
    assert_eq!(summary.sstables, 7);
}

/// Whatever is wrong with it costs bytes, never the backup.
#[tokio::test]
async fn a_parent_that_is_damaged_gone_or_another_nodes_is_not_relied_on() {
    let damages: [fn(&mut Vec<u8>); 3] =
        [|body| body[100] ^= 1, |body| body.truncate(body.len() / 2), |body| body.clear()];
    for damage in damages {
        let mut bench = Bench::new(example());
        let first = bench.upload().await.expect("uploaded");
        bench.next(SECOND_TAG, &first);
        let mut body = bench.store.get(&first.manifest, 1 << 30).await.expect("there").to_vec();
        damage(&mut body);
        if let (Some(parent), true) = (&mut bench.request.parent, body.len() > 1000) {
            parent.blake3 = blake3::hash(&body).to_hex().to_string();
        }
        bench.store.delete(&first.manifest).await.expect("delete");
        if !body.is_empty() {
            bench.store.put(&first.manifest, Bytes::from(body)).await.expect("put");
        }
        let second = bench.upload().await.expect("uploaded");
        assert_eq!(second.sent_bytes, first.sent_bytes);
        assert!(bench.manifest(&second).await.0.parent.is_none());
        bench.check(&second).await;
    }
    type Change = fn(&mut UploadRequest);
    let changes: [Change; 3] = [
        |request| request.host_id = "0193b0a0-0000-7000-8000-0000000000fe".parse().expect("id"),
        |request| request.cluster_id = "Other-1".parse().expect("id"),
        |request| request.parent.as_mut().expect("one").backup_id = BackupId::at(99),
    ];
    for change in changes {
        let mut bench = Bench::new(example());
        let first = bench.upload().await.expect("uploaded");
        bench.next(SECOND_TAG, &first);
        change(&mut bench.request);
        let second = bench.upload().await.expect("uploaded");
        assert_eq!(second.sent_bytes, first.sent_bytes);
        assert!(bench.manifest(&second).await.0.parent.is_none());
    }
}

/// The next try would find the same.
#[tokio::test]
async fn a_parent_that_is_no_plain_object_is_not_relied_on() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    let path = bench.node.base().join("store").join(first.manifest.as_str());
    fs::remove_file(&path).expect("remove");
    mkfifo(&path);
    bench.next(SECOND_TAG, &first);
    let second = bench.upload().await.expect("uploaded");
    assert_eq!(second.sent_bytes, first.sent_bytes);
    bench.check(&second).await;
}

#[tokio::test]
async fn a_trash_list_that_cannot_be_read_stops_the_backup() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    bench.next(SECOND_TAG, &first);
    let key = Keys::new(bench.request.cluster_id.clone()).expect("keys").trash("broken").expect("key");
    bench.store.put(&key, Bytes::from_static(b"not zstd")).await.expect("put");
    let error = bench.upload().await.expect_err("refused");
    assert!(matches!(error, UploadError::Trash { .. }), "{error}");
}

#[tokio::test]
async fn the_same_manifest_again_is_fine() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    bench.next(SECOND_TAG, &first);
    let second = bench.upload().await.expect("uploaded");
    let again = bench.upload().await.expect("the same bytes are there");
    assert_eq!(again, UploadSummary { sent_bytes: 0, left_orphans: true, ..second });
}

#[tokio::test]
async fn a_session_is_never_used_twice() {
    let node = FakeNode::new(1);
    node.flush(&node.table(0, "ks", "plain"), "", "nb-1-big", 1, 100);
    let mut bench = Bench::new(node);
    bench.request.snapshot.tables = vec![("ks".to_owned(), "plain".to_owned())];
    bench.upload().await.expect("uploaded");
    bench.request.backup_id = BackupId::at(2);
    let error = bench.upload().await.expect_err("its keys are taken").into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Bug);
}

#[tokio::test]
async fn a_missing_store_says_so() {
    let mut bench = Bench::new(example());
    bench.request.store.location = "file:///nowhere/at/all".to_owned();
    let error =
        run(&Context::default(), &bench.request, &bench.spool).await.expect_err("missing").into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Permanent);
    assert!(error.message.contains("/nowhere/at/all does not exist"), "{error}");
    assert!(error.hint.is_some());
}

/// Passes everything on, and calls back at the first bytes of an object whose key ends like this.
pub(super) struct Meddling {
    pub(super) inner: Arc<dyn Store>,
    pub(super) suffix: &'static str,
    pub(super) act: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Meddling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meddling").finish_non_exhaustive()
    }
}

struct MeddlingWriter {
    inner: Box<dyn ObjectWriter>,
    act: Option<Arc<dyn Fn() + Send + Sync>>,
}

#[async_trait]
impl ObjectWriter for MeddlingWriter {
    async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        if let Some(act) = self.act.take() {
            act();
            tokio::task::yield_now().await;
        }
        self.inner.write(piece).await
    }
    async fn finish(self: Box<Self>) -> Result<StoredObject, StoreError> {
        self.inner.finish().await
    }
    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.abort().await
    }
}

#[async_trait]
impl Store for Meddling {
    async fn create(
        &self,
        key: &ObjectKey,
        size_hint: Option<u64>,
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let inner = self.inner.create(key, size_hint).await?;
        let act = key.as_str().ends_with(self.suffix).then(|| Arc::clone(&self.act));
        Ok(Box::new(MeddlingWriter { inner, act }))
    }
    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.inner.read(key, range).await
    }
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
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

/// Uploads while `act` happens, in the middle of sending the 3 MiB Data.db.
pub(super) async fn meddled(bench: &Bench, act: impl Fn() + Send + Sync + 'static) -> UploadError {
    let store = Meddling { inner: Arc::clone(&bench.store), suffix: "nb-2-big-Data.db", act: Arc::new(act) };
    let error = bench.upload_to(Arc::new(store)).await.expect_err("it is noticed");
    let list = bench.store.list_incomplete("").try_collect::<Vec<_>>().await.expect("list");
    assert!(list.is_empty(), "nothing is left half");
    let objects = bench.objects().await;
    assert!(!objects.iter().any(|object| object.key.as_str().contains("/manifest/")), "no manifest");
    error
}

type Change = fn(&File) -> std::io::Result<()>;

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_named() {
    let cases: [(Change, &str); 3] = [
        (|file| file.set_len(1_500_000), "it ended after 1500000 of 3145728 bytes"),
        (|file| file.set_len(5_000_000), "it had 3145728 bytes and now has 5000000"),
        (|file| file.write_all_at(b"other", 0), "it was written to"),
    ];
    for (change, what) in cases {
        let bench = Bench::new(example());
        let path = bench.node.snapshot_of(1, "ks", "plain", TAG).join("nb-2-big-Data.db");
        let file = OpenOptions::new().write(true).open(path).expect("open");
        let error = meddled(&bench, move || change(&file).expect("changed")).await.into_agent_error();
        assert_eq!(error.kind, AgentErrorKind::Transient);
        let expected = format!("nb-2-big-Data.db changed while it was read: {what}");
        assert!(error.message.ends_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_or_removed_while_it_is_read_is_named() {
    let bench = Bench::new(example());
    let path = bench.node.snapshot_of(1, "ks", "plain", TAG).join("nb-2-big-Data.db");
    let error = meddled(&bench, move || replace(&path, &content(1, 3 << 20))).await.into_agent_error();
    assert!(error.message.contains("another file has taken its name"), "{error}");

    let bench = Bench::new(example());
    let snapshot = bench.node.snapshot_of(1, "ks", "plain", TAG);
    let error =
        meddled(&bench, move || fs::remove_dir_all(&snapshot).expect("cleared")).await.into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Transient);
    assert!(error.message.contains("has vanished"), "{error}");
    let again = bench.upload().await.expect_err("it is gone").into_agent_error();
    assert!(again.message.contains("ks.plain: "), "half of it is left, in the other directory: {again}");
}

#[tokio::test]
async fn a_snapshot_that_somebody_cleared_while_it_was_sent_says_so_in_the_next_try() {
    let bench = Bench::new(example());
    let snapshots: Vec<_> =
        [0, 1].map(|directory| bench.node.snapshot_of(directory, "ks", "plain", TAG)).into();
    let clear = move || snapshots.iter().for_each(|snapshot| fs::remove_dir_all(snapshot).expect("cleared"));
    let error = meddled(&bench, clear).await.into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Transient);
    let error = bench.upload().await.expect_err("it is gone").into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Permanent);
    assert_eq!(error.message, format!("the snapshot {TAG} of ks.plain is gone; somebody cleared it"));
    assert!(error.hint.expect("a hint").contains("clearsnapshot"));
}

#[tokio::test]
async fn of_many_cleared_tables_ten_are_named() {
    let node = FakeNode::new(1);
    let names: Vec<String> = (10..25).map(|number| format!("t{number}")).collect();
    names.iter().for_each(|name| node.flush(&node.table(0, "ks", name), "", "nb-1-big", 1, 100));
    let mut bench = Bench::new(node);
    bench.request.snapshot.tables = names.iter().map(|name| ("ks".to_owned(), name.clone())).collect();
    for name in &names {
        fs::remove_dir_all(bench.node.snapshot_of(0, "ks", name, TAG)).expect("cleared");
    }
    let error = bench.upload().await.expect_err("gone").into_agent_error();
    assert!(error.message.contains("ks.t19, 5 more is gone; somebody cleared it"), "{error}");
}

#[tokio::test]
async fn what_is_no_plain_file_is_named_with_what_to_do() {
    for (make, kind) in [(mkfifo as fn(&Path), "a FIFO"), (link_to_itself, "a symbolic link")] {
        let bench = Bench::new(example());
        make(&bench.node.snapshot_of(0, "ks", "plain", TAG).join("nb-9-big-Data.db"));
        let error = bench.upload().await.expect_err("refused").into_agent_error();
        assert_eq!(error.kind, AgentErrorKind::Permanent);
        assert!(error.message.contains(&format!("nb-9-big-Data.db is {kind}")), "{error}");
        assert!(error.hint.expect("a hint").contains("Remove it"));
    }
}

fn mkfifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).expect("mkfifo");
}

fn link_to_itself(path: &Path) {
    std::os::unix::fs::symlink(path, path).expect("symlink");
}

#[tokio::test]
async fn cancelling_stops_it_and_leaves_nothing_half() {
    let bench = Bench::new(example());
    let ctx = Context::default();
    let cancel = ctx.cancel.clone();
    let told = Arc::new(std::sync::OnceLock::new());
    let when = Arc::clone(&told);
    let act = Arc::new(move || {
        when.set(std::time::Instant::now()).expect("once");
        cancel.cancel();
    });
    let store = Meddling { inner: Arc::clone(&bench.store), suffix: "nb-2-big-Data.db", act };
    let error = run_on(&ctx, &bench.request, &bench.spool, Arc::new(store)).await.expect_err("cancelled");
    let took = told.get().expect("told").elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    assert_eq!(error.into_agent_error().kind, AgentErrorKind::Cancelled);
    let objects = bench.objects().await;
    assert!(!objects.iter().any(|object| object.key.as_str().contains("/manifest/")), "no manifest");
    let list = bench.store.list_incomplete("").try_collect::<Vec<_>>().await.expect("list");
    assert!(list.is_empty(), "nothing is left half");
    assert_eq!(fs::read_dir(&bench.spool).expect("list").count(), 0);
}
