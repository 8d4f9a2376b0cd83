//! Rules that no other test would miss.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use async_trait::async_trait;
use bytes::Bytes;
use cassy_store::{IncompleteObject, ObjectWriter, StoreError, StoredObject};

use super::faults::{Meddling, meddled};
use super::reuse::forged;
use super::*;

const INDEX: &str = "nb-2-big-Index.db";

/// A write that only a reader of the file notices: the inode, the size and the time stay.
fn write_in_place(path: &PathBuf) {
    let old = fs::metadata(path).expect("stat").modified().expect("time");
    OpenOptions::new().write(true).open(path).expect("open").write_all_at(b"other", 0).expect("write");
    File::open(path).expect("open").set_modified(old).expect("touch");
}

fn noted_index(entry: &mut SstableEntry) -> Option<&mut cassy_backup_format::FileEntry> {
    let is_of_the_table = entry.index.is_none();
    entry.files.iter_mut().find(|file| is_of_the_table && file.name == INDEX)
}

/// What is noted of the file in the parent is not what it is now, each time in one thing only: so it is read.
#[tokio::test]
async fn a_file_is_unchanged_only_when_all_that_was_noted_is_the_same() {
    type Forge = fn(&mut SstableEntry);
    let forges: [(&str, u64, Forge); 6] = [
        ("nothing", 0, |_| ()),
        ("size", 300, |entry| noted_index(entry).into_iter().for_each(|file| file.size -= 1)),
        ("inode", 300, |entry| noted_index(entry).into_iter().for_each(|file| file.inode += 1)),
        ("mtime", 300, |entry| noted_index(entry).into_iter().for_each(|file| file.mtime_ns += 1)),
        ("birth", 300, |entry| {
            noted_index(entry).into_iter().for_each(|file| file.birth_ns = file.birth_ns.map(|at| at + 1));
        }),
        ("corrupt", 300, |entry| entry.corrupt |= noted_index(entry).is_some()),
    ];
    for (what, sent_bytes, forge) in forges {
        let mut bench = Bench::new(example());
        let first = bench.upload().await.expect("uploaded");
        let parent = forged(&bench, &first, forge).await;
        write_in_place(&bench.live(1, INDEX));
        bench.next(SECOND_TAG, &parent);
        let second = bench.upload().await.expect("uploaded");
        assert_eq!(second.sent_bytes, sent_bytes, "{what}");
    }
}

#[tokio::test]
async fn inodes_of_another_directory_say_nothing() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    for entry in fs::read_dir(bench.live(1, "")).expect("list") {
        let name = entry.expect("entry").file_name().into_string().expect("text");
        if name.starts_with("nb-2-big-") {
            fs::rename(bench.live(1, &name), bench.live(0, &name)).expect("rename");
        }
    }
    write_in_place(&bench.live(0, INDEX));
    bench.next(SECOND_TAG, &first);
    let second = bench.upload().await.expect("uploaded");
    bench.check(&second).await;
    assert_eq!(second.sent_bytes, 300);
}

#[tokio::test]
async fn equal_names_in_two_directories_have_keys_of_their_own() {
    let node = FakeNode::new(2);
    for (directory, seed) in [(0, 1), (1, 2)] {
        node.flush(&node.table(directory, "ks", "plain"), "", "nb-1-big", seed, 2 << 20);
    }
    let mut bench = Bench::new(node);
    bench.request.snapshot.tables = vec![("ks".to_owned(), "plain".to_owned())];
    let summary = bench.upload().await.expect("uploaded");
    bench.check(&summary).await;
    assert_eq!(summary.sstables, 2);
}

/// A whole manifest of this very node, but not the one that the server has chosen.
#[tokio::test]
async fn a_parent_that_was_exchanged_is_not_relied_on() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    let touched = forged(&bench, &first, |entry| entry.files[0].mtime_ns += 1).await;
    bench.next(SECOND_TAG, &UploadSummary { blake3: first.blake3.clone(), ..touched });
    let second = bench.upload().await.expect("uploaded");
    assert_eq!(second.sent_bytes, first.sent_bytes);
    assert!(bench.manifest(&second).await.0.parent.is_none());
}

#[tokio::test]
async fn a_snapshot_that_grows_while_it_is_sent_is_noticed() {
    let bench = Bench::new(example());
    // Of the last table, which is not looked at again before.
    let new = bench.node.snapshot_of(0, "system", "empty", TAG).join("nb-1-big-Data.db");
    let error = meddled(&bench, move || fs::write(&new, "x").expect("write")).await;
    assert!(
        matches!(&error, UploadError::SnapshotChanged { table, .. } if table == "system.empty"),
        "{error}"
    );
}

fn node_manifest_key(bench: &Bench) -> String {
    let keys = Keys::new(bench.request.cluster_id.clone()).expect("keys");
    keys.node_manifest(&bench.request.host_id, &bench.request.backup_id).to_string()
}

fn node_manifest(bench: &Bench) -> PathBuf {
    let path = bench.node.base().join("store").join(node_manifest_key(bench));
    fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
    path
}

#[tokio::test]
async fn a_manifest_that_appears_meanwhile_is_not_taken_for_ours() {
    let bench = Bench::new(example());
    let (path, inner) = (node_manifest(&bench), Arc::clone(&bench.store));
    let stored = path.clone();
    let act = Arc::new(move || fs::write(&stored, "somebody else's").expect("write"));
    let store = Meddling { inner, suffix: "nb-2-big-Data.db", act };
    let error = bench.upload_to(Arc::new(store)).await.expect_err("taken");
    assert!(matches!(error, UploadError::ManifestTaken { .. }), "{error}");
    assert_eq!(fs::read_to_string(path).expect("there"), "somebody else's");
}

#[tokio::test]
async fn an_earlier_manifest_of_another_node_is_no_answer() {
    let mut bench = Bench::new(example());
    bench.upload().await.expect("uploaded");
    let others = node_manifest(&bench);
    bench.request.host_id = "0193b0a0-0000-7000-8000-0000000000fe".parse().expect("id");
    fs::copy(others, node_manifest(&bench)).expect("copy");
    let error = bench.upload().await.expect_err("taken");
    assert!(matches!(error, UploadError::ManifestTaken { .. }), "{error}");
}

/// Acknowledges a byte less than it was given of each object whose key ends like this.
#[derive(Debug)]
struct Forgetful(Arc<dyn Store>, &'static str);

struct ForgetfulWriter(Box<dyn ObjectWriter>);

#[async_trait]
impl ObjectWriter for ForgetfulWriter {
    async fn write(&mut self, piece: Bytes) -> Result<(), StoreError> {
        self.0.write(piece).await
    }
    async fn finish(self: Box<Self>) -> Result<StoredObject, StoreError> {
        let stored = self.0.finish().await?;
        Ok(StoredObject { size: stored.size - 1, ..stored })
    }
    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.0.abort().await
    }
}

#[async_trait]
impl Store for Forgetful {
    async fn create(&self, key: &ObjectKey, size: Option<u64>) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let writer = self.0.create(key, size).await?;
        if key.as_str().ends_with(self.1) { Ok(Box::new(ForgetfulWriter(writer))) } else { Ok(writer) }
    }
    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.0.read(key, range).await
    }
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.0.list(prefix)
    }
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete(key).await
    }
    fn list_incomplete(&self, prefix: &str) -> BoxStream<'static, Result<IncompleteObject, StoreError>> {
        self.0.list_incomplete(prefix)
    }
    async fn abort_incomplete(&self, incomplete: &IncompleteObject) -> Result<(), StoreError> {
        self.0.abort_incomplete(incomplete).await
    }
    async fn check(&self) -> Result<(), StoreError> {
        self.0.check().await
    }
}

#[tokio::test]
async fn an_object_of_which_the_store_has_less_is_not_in_a_backup() {
    let bench = Bench::new(example());
    let store = Forgetful(Arc::clone(&bench.store), "/small.tar");
    let error = bench.upload_to(Arc::new(store)).await.expect_err("it is noticed");
    assert!(
        matches!(&error, UploadError::Acknowledged { sent, stored, .. } if *sent == stored + 1),
        "{error}"
    );
    assert!(!bench.objects().await.iter().any(|object| object.key.as_str().contains("/manifest/")));
}

#[tokio::test]
async fn a_manifest_of_which_the_store_has_less_is_no_backup() {
    let bench = Bench::new(example());
    let store = Forgetful(Arc::clone(&bench.store), ".jsonl.zst");
    let error = bench.upload_to(Arc::new(store)).await.expect_err("it is noticed");
    let UploadError::Acknowledged { key, sent, stored } = &error else { panic!("{error}") };
    assert_eq!((key.as_str(), *sent), (&*node_manifest_key(&bench), stored + 1));
}
