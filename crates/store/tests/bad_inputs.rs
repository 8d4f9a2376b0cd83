//! What may lie in a store's directory, and keys at their limits.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use cassy_store::{Store, StoreAccess, StoreError, StoreLocation};
use futures::TryStreamExt;

fn open(root: &Path) -> Arc<dyn Store> {
    let location = StoreLocation::File(root.to_owned()).to_string();
    cassy_store::open(&StoreAccess::new(location)).expect("a valid location")
}

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

async fn listed(store: &dyn Store) -> Vec<String> {
    let objects: Vec<_> = store.list("").try_collect().await.expect("listed");
    objects.into_iter().map(|object| object.key.to_string()).collect()
}

/// A root near the longest path that Linux takes at once, and a key as long as keys get.
#[tokio::test]
async fn the_longest_keys_work_below_the_longest_root() {
    let base = tempfile::tempdir().expect("tempdir");
    let mut root = base.path().to_owned();
    while root.as_os_str().len() < 3_700 {
        root.push("r".repeat(200));
    }
    std::fs::create_dir_all(&root).expect("mkdir");
    let store = open(&root);
    let longest =
        key(&["k".repeat(255), "e".repeat(255), "y".repeat(255), "s".repeat(256 - 4 - 36)].join("/"));
    let content = Bytes::from_static(b"content");
    store.put(&longest, content.clone()).await.expect("put");
    assert_eq!(store.get(&longest, 100).await.expect("read"), content);
    assert_eq!(listed(store.as_ref()).await, [longest.to_string()]);
    store.delete(&longest).await.expect("deleted");
    assert_eq!(std::fs::read_dir(&root).expect("list").count(), 0);
    for (text, reason) in [("x".repeat(256), "255 bytes"), (["x"; 513].join("/"), "1024 bytes")] {
        let error = text.parse::<ObjectKey>().expect_err("too long").to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// The writer's own name beside the object is longer than the object's.
#[tokio::test]
async fn a_segment_that_leaves_no_room_for_the_writer_is_stored_or_named() {
    let root = tempfile::tempdir().expect("tempdir");
    let store = open(root.path());
    let full = key(&format!("a/{}", "x".repeat(255)));
    match store.put(&full, Bytes::from_static(b"x")).await {
        Ok(_) => assert_eq!(store.get(&full, 1).await.expect("read"), Bytes::from_static(b"x")),
        Err(error) => {
            assert!(error.to_string().contains("xxx"), "{error}");
            assert!(listed(store.as_ref()).await.is_empty());
        }
    }
}

#[tokio::test]
async fn names_that_no_key_has_are_passed_over() {
    let root = tempfile::tempdir().expect("tempdir");
    let store = open(root.path());
    store.put(&key("a"), Bytes::new()).await.expect("put");
    for name in [&b"\xff\xfe"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"line\nbreak", b"\x1b[2J"] {
        std::fs::write(root.path().join(OsStr::from_bytes(name)), "x").expect("write");
    }
    let directory = root.path().join(OsStr::from_bytes(b"d\xff"));
    std::fs::create_dir(&directory).expect("mkdir");
    std::fs::write(directory.join("inside"), "x").expect("write");
    assert_eq!(listed(store.as_ref()).await, ["a"]);
    assert!(store.list("\u{fffd}").try_collect::<Vec<_>>().await.expect("listed").is_empty());
    assert!(directory.join("inside").exists());
}

#[tokio::test]
async fn two_spellings_of_a_letter_are_two_objects() {
    let root = tempfile::tempdir().expect("tempdir");
    let store = open(root.path());
    let (composed, decomposed) = (key("Gr\u{f6}\u{df}e"), key("Gro\u{308}\u{df}e"));
    store.put(&composed, Bytes::from_static(b"composed")).await.expect("put");
    store.put(&decomposed, Bytes::from_static(b"decomposed")).await.expect("put");
    assert_eq!(store.get(&composed, 100).await.expect("read"), Bytes::from_static(b"composed"));
    assert_eq!(store.get(&decomposed, 100).await.expect("read"), Bytes::from_static(b"decomposed"));
    let both = BTreeSet::from_iter(listed(store.as_ref()).await);
    assert_eq!(both, BTreeSet::from([composed.to_string(), decomposed.to_string()]));
}

#[tokio::test]
async fn a_socket_or_a_second_link_in_an_objects_place_does_no_harm() {
    let root = tempfile::tempdir().expect("tempdir");
    let store = open(root.path());
    let _socket = UnixListener::bind(root.path().join("socket")).expect("bind");
    store.get(&key("socket"), 1).await.expect_err("a socket");
    assert!(listed(store.as_ref()).await.is_empty());
    let outside = tempfile::NamedTempFile::new_in(root.path().parent().expect("a parent")).expect("file");
    std::fs::write(outside.path(), "outside").expect("write");
    std::fs::hard_link(outside.path(), root.path().join("linked")).expect("link");
    let taken = store.put(&key("linked"), Bytes::from_static(b"new")).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists { .. })), "{taken:?}");
    store.delete(&key("linked")).await.expect("deleted");
    assert_eq!(std::fs::read_to_string(outside.path()).expect("read"), "outside");
}

#[tokio::test]
async fn an_object_of_ten_gigabytes_is_not_read_into_memory() {
    let root = tempfile::tempdir().expect("tempdir");
    let sparse = std::fs::File::create(root.path().join("huge")).expect("create");
    sparse.set_len(10 << 30).expect("grow");
    let error = open(root.path()).get(&key("huge"), 10).await.expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    assert!(error.to_string().contains("huge"), "{error}");
}
