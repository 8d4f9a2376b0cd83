//! What is there already is not sent, and nothing else is taken for it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cassy_backup_format::{ManifestWriter, TrashHeader, TrashWriter};

use super::*;
use crate::snapshot::fake::content;

#[tokio::test]
async fn a_second_backup_sends_nothing() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    let before = bench.objects().await.len();
    bench.next(SECOND_TAG, &first);
    let second = bench.upload().await.expect("uploaded");
    bench.check(&second).await;
    assert_eq!(second.sent_bytes, 0);
    assert_eq!(bench.objects().await.len(), before + 1, "the manifest alone is new");
}

#[tokio::test]
async fn only_a_changed_component_is_sent() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    replace(&bench.live(1, "nb-2-big-Statistics.db"), &content(99, 4700));
    bench.next(SECOND_TAG, &first);
    let second = bench.upload().await.expect("uploaded");
    bench.check(&second).await;
    assert_eq!(second.sent_bytes, 4700);

    let third_tag = "cassy-0193b0a0-0000-7000-8000-000000000003-1";
    bench.next(third_tag, &second);
    let third = bench.upload().await.expect("uploaded");
    bench.check(&third).await;
    assert_eq!(third.sent_bytes, 0);
    let (_, entries) = bench.manifest(&third).await;
    let entry =
        entries.iter().find(|entry| entry.name == "nb-2-big" && entry.index.is_none()).expect("there");
    assert_eq!(entry.objects.len(), 3, "Data.db, the first tar and the second");
}

#[tokio::test]
async fn a_touched_file_is_read_and_not_sent() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    let later = SystemTime::now() + Duration::from_secs(60);
    File::open(bench.live(1, "nb-2-big-Data.db")).expect("open").set_modified(later).expect("touch");
    bench.next(SECOND_TAG, &first);
    let second = bench.upload().await.expect("uploaded");
    bench.check(&second).await;
    assert_eq!(second.sent_bytes, 0);
    let (_, entries) = bench.manifest(&second).await;
    let entry =
        entries.iter().find(|entry| entry.name == "nb-2-big" && entry.index.is_none()).expect("there");
    let data = entry.files.iter().find(|file| file.name.ends_with("Data.db")).expect("there");
    assert_eq!(
        data.mtime_ns / 1_000_000_000,
        fs::metadata(bench.live(1, "nb-2-big-Data.db")).expect("stat").mtime()
    );
}

/// The server stops a request that makes no progress, and a file may take hours.
#[tokio::test]
async fn reading_a_large_file_again_is_progress() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    let large = bench.live(1, "nb-2-big-Data.db");
    assert!(fs::metadata(&large).expect("stat").len() >= 3 << 20);
    let later = SystemTime::now() + Duration::from_secs(60);
    File::open(&large).expect("open").set_modified(later).expect("touch");
    bench.next(SECOND_TAG, &first);
    let ctx = Context::default();
    let second =
        run_on(&ctx, &bench.request, &bench.spool, Arc::clone(&bench.store)).await.expect("uploaded");
    assert_eq!(second.sent_bytes, 0);
    assert!(ctx.progress.widest_gap() < 2 << 20, "{}", ctx.progress.widest_gap());
    let progress = ctx.progress.latest();
    assert_eq!((progress.bytes_done, progress.files_done), (second.bytes, second.files));
}

/// The trap of deduplication by name and size: a new SSTable has the name, the size, even the inode and the time of
/// an old one.
#[tokio::test]
async fn other_content_in_the_same_place_is_sent() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    for (name, component, seed) in [("nb-1-big", "Data.db", 777), ("nb-2-big", "Data.db", 778)] {
        let directory = if name == "nb-1-big" { 0 } else { 1 };
        let path = bench.live(directory, &format!("{name}-{component}"));
        let old = fs::metadata(&path).expect("stat");
        let new = content(seed, bytes(old.len()));
        if name == "nb-1-big" {
            // The very same inode and time; only the digest tells.
            OpenOptions::new().write(true).open(&path).expect("open").write_all_at(&new, 0).expect("write");
        } else {
            replace(&path, &new);
        }
        File::open(&path).expect("open").set_modified(old.modified().expect("time")).expect("touch");
        replace(
            &bench.live(directory, &format!("{name}-Digest.crc32")),
            crc32fast::hash(&new).to_string().as_bytes(),
        );
        fs::remove_dir_all(bench.node.snapshot_of(directory, "ks", "plain", TAG)).expect("clear");
    }
    bench.next(SECOND_TAG, &first);
    let second = bench.upload().await.expect("uploaded");
    bench.check(&second).await;
    assert!(second.corrupt.is_empty());
    assert!(second.sent_bytes > (3 << 20) + 5000);
}

#[tokio::test]
async fn a_moved_sstable_is_read_and_not_sent() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    for component in
        ["Data.db", "Index.db", "Statistics.db", "SAI+aa+GroupComplete.db", "Digest.crc32", "TOC.txt"]
    {
        let file = format!("nb-2-big-{component}");
        fs::rename(bench.live(1, &file), bench.live(0, &file)).expect("rename");
    }
    bench.next(SECOND_TAG, &first);
    let second = bench.upload().await.expect("uploaded");
    bench.check(&second).await;
    assert_eq!(second.sent_bytes, 0);
}

#[tokio::test]
async fn directories_keep_their_content_when_their_numbers_change() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    bench.next(SECOND_TAG, &first);
    bench.request.snapshot.data_directories.reverse();
    bench.request.configuration.data_directories = vec![bench.request.snapshot.data_directories[1].clone()];
    let second = bench.upload().await.expect("uploaded");
    bench.check(&second).await;
    assert_eq!(second.sent_bytes, 0);
    let (header, _) = bench.manifest(&second).await;
    assert_eq!(header.configuration.data_directories.len(), 2, "the one that was not listed is added");
}

pub(super) async fn put_trash(bench: &Bench, name: &str, keys: &[ObjectKey]) {
    let header = TrashHeader { format: 1, least_reader: 1, purge: name.to_owned(), created_at_ms: 1 };
    let mut list = TrashWriter::new(Vec::new(), &header).expect("header");
    let mut keys = keys.to_vec();
    keys.sort();
    keys.iter().for_each(|key| list.push(key).expect("key"));
    let (body, _) = list.finish().expect("footer");
    let key = Keys::new(bench.request.cluster_id.clone()).expect("keys").trash(name).expect("key");
    bench.store.put(&key, Bytes::from(body)).await.expect("put");
}

#[tokio::test]
async fn what_a_purge_is_about_to_delete_is_sent_again() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    let (_, entries) = bench.manifest(&first).await;
    let entry =
        entries.iter().find(|entry| entry.name == "nb-2-big" && entry.index.is_none()).expect("there");
    let trashed: Vec<ObjectKey> = entry.objects.iter().map(|object| object.key.clone()).collect();
    bench.next(SECOND_TAG, &first);
    put_trash(&bench, "other", &["unrelated/object".parse().expect("key")]).await;
    put_trash(&bench, "purge", &trashed).await;
    let second = bench.upload().await.expect("uploaded");
    assert_eq!(second.sent_bytes, entry.files.iter().map(|file| file.size).sum::<u64>());
    for key in &trashed {
        bench.store.delete(key).await.expect("the purge goes on");
    }
    bench.check(&second).await;
}

/// A manifest like this one, with every line changed; a whole one, under a key of its own.
pub(super) async fn forged(
    bench: &Bench,
    summary: &UploadSummary,
    change: impl Fn(&mut SstableEntry),
) -> UploadSummary {
    let (header, mut entries) = bench.manifest(summary).await;
    let mut lines = ManifestWriter::new(Vec::new(), &header).expect("header");
    for entry in &mut entries {
        change(entry);
        lines.push(entry).expect("entry");
    }
    let (body, _) = lines.finish().expect("footer");
    let manifest: ObjectKey = format!("{}x", summary.manifest).parse().expect("key");
    let (blake3, size) = (blake3::hash(&body).to_hex().to_string(), body.len() as u64);
    bench.store.put(&manifest, Bytes::from(body)).await.expect("put");
    UploadSummary { manifest, blake3, size, ..summary.clone() }
}

#[tokio::test]
async fn without_a_time_of_birth_everything_is_read() {
    for has_births in [true, false] {
        let mut bench = Bench::new(example());
        let mut first = bench.upload().await.expect("uploaded");
        if !has_births {
            // What the manifest of a file system without times of birth looks like.
            let forget =
                |entry: &mut SstableEntry| entry.files.iter_mut().for_each(|file| file.birth_ns = None);
            first = forged(&bench, &first, forget).await;
        }
        // The same inode, size and time: as good as unchanged, to all who do not read it.
        let path = bench.live(1, "nb-2-big-Index.db");
        let old = fs::metadata(&path).expect("stat").modified().expect("time");
        OpenOptions::new().write(true).open(&path).expect("open").write_all_at(b"other", 0).expect("write");
        File::open(&path).expect("open").set_modified(old).expect("touch");
        bench.next(SECOND_TAG, &first);
        let second = bench.upload().await.expect("uploaded");
        assert_eq!(second.sent_bytes, if has_births { 0 } else { 300 });
        if !has_births {
            bench.check(&second).await;
        }
    }
}
