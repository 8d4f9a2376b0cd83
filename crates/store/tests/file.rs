//! The `file://` backend: the conformance suite, and what only a directory can get wrong.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use cassy_store::{Class, IncompleteObject, Store, StoreAccess, StoreError, StoreLocation, conformance};
use futures::TryStreamExt;

fn open(root: &Path) -> Arc<dyn Store> {
    let location = StoreLocation::File(root.to_owned()).to_string();
    cassy_store::open(&StoreAccess::new(location)).expect("a valid location")
}

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

fn entries(root: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(root).expect("readable").map(|entry| entry.expect("entry").file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn conforms() {
    let root = tempfile::tempdir().expect("tempdir");
    let failures = conformance::run(&open(root.path()), "cassy/conformance").await;
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(entries(root.path()).is_empty(), "everything was cleared, directories too");
}

#[tokio::test]
async fn conforms_below_a_path_with_odd_characters() {
    let base = tempfile::tempdir().expect("tempdir");
    let root = base.path().join("a b%20c ünï#?");
    std::fs::create_dir(&root).expect("mkdir");
    let failures = conformance::run(&open(&root), "p").await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn a_missing_root_is_never_made() {
    let base = tempfile::tempdir().expect("tempdir");
    let root = base.path().join("mount/backups");
    let store = open(&root);
    let errors = [
        store.check().await.expect_err("missing"),
        store.put(&key("a"), Bytes::new()).await.expect_err("missing"),
        store.get(&key("a"), 1).await.expect_err("missing"),
        store.delete(&key("a")).await.expect_err("missing"),
        store.list("").try_collect::<Vec<_>>().await.expect_err("missing"),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::RootMissing { .. }), "{error}");
        assert_eq!(error.class(), Class::Permanent);
        assert!(error.hint().is_some_and(|hint| hint.contains("Mount")));
    }
    assert!(entries(base.path()).is_empty());
}

#[tokio::test]
async fn symbolic_links_are_never_followed() {
    let base = tempfile::tempdir().expect("tempdir");
    let (root, outside) = (base.path().join("root"), base.path().join("outside"));
    std::fs::create_dir_all(&root).expect("mkdir");
    std::fs::create_dir_all(&outside).expect("mkdir");
    std::fs::write(outside.join("secret"), "secret").expect("write");
    symlink(&outside, root.join("directory")).expect("symlink");
    symlink(outside.join("secret"), root.join("file")).expect("symlink");
    let store = open(&root);

    store.get(&key("directory/secret"), 100).await.expect_err("through a link");
    store.get(&key("file"), 100).await.expect_err("a link");
    store.put(&key("directory/new"), Bytes::new()).await.expect_err("through a link");
    store.put(&key("directory/new/deeper"), Bytes::new()).await.expect_err("through a link");
    assert!(matches!(store.put(&key("file"), Bytes::new()).await, Err(StoreError::AlreadyExists { .. })));
    store.delete(&key("directory/secret")).await.expect_err("through a link");
    assert!(store.list("").try_collect::<Vec<_>>().await.expect("list").is_empty());
    store.list("directory/").try_collect::<Vec<_>>().await.expect_err("through a link");
    assert_eq!(entries(&outside), BTreeSet::from(["secret".to_owned()]));
}

#[tokio::test]
async fn a_fifo_in_an_objects_place_does_not_block() {
    let root = tempfile::tempdir().expect("tempdir");
    let made = Command::new("mkfifo").arg(root.path().join("fifo")).status().expect("mkfifo");
    assert!(made.success());
    let error = open(root.path()).get(&key("fifo"), 1).await.expect_err("a fifo");
    assert!(matches!(error, StoreError::NotPlain { .. }), "{error}");
    assert!(open(root.path()).list("").try_collect::<Vec<_>>().await.expect("list").is_empty());
}

#[tokio::test]
async fn hostile_prefixes_and_uploads_stay_inside() {
    let base = tempfile::tempdir().expect("tempdir");
    let root = base.path().join("root");
    std::fs::create_dir(&root).expect("mkdir");
    std::fs::write(base.path().join("outside"), "x").expect("write");
    let store = open(&root);
    for prefix in ["../", "/", "a/../../", "a//b/", "./", "/etc/", "a\0/b"] {
        let listed = store.list(prefix).try_collect::<Vec<_>>().await;
        assert!(listed.as_ref().map_or(true, Vec::is_empty), "{prefix}: {listed:?}");
    }
    for upload in ["../outside", "outside", "", "../x.0123456789abcdef0123456789abcdef.part"] {
        let incomplete = IncompleteObject { key: key("a"), upload: upload.to_owned() };
        store.abort_incomplete(&incomplete).await.expect_err(upload);
    }
    for key in ["a.0123456789abcdef0123456789abcdef.part", "a.0123456789abcdef0123456789abcdef.part/b"] {
        let error = store.put(&self::key(key), Bytes::new()).await.expect_err("reserved");
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    }
    assert_eq!(entries(base.path()), BTreeSet::from(["outside".to_owned(), "root".to_owned()]));
}

#[tokio::test]
async fn what_a_killed_writer_leaves_is_listed_apart_and_can_be_cleared() {
    let root = tempfile::tempdir().expect("tempdir");
    let directory = root.path().join("dir");
    std::fs::create_dir(&directory).expect("mkdir");
    std::fs::write(directory.join("object.0123456789abcdef0123456789abcdef.part"), "half").expect("write");
    let store = open(root.path());
    assert!(store.list("").try_collect::<Vec<_>>().await.expect("list").is_empty());
    let left: Vec<_> = store.list_incomplete("dir/obj").try_collect().await.expect("list");
    let [left] = left.as_slice() else { panic!("one is left: {left:?}") };
    assert_eq!(left.key, key("dir/object"));
    store.abort_incomplete(left).await.expect("abort");
    store.abort_incomplete(left).await.expect("abort again");
    assert!(entries(root.path()).is_empty());
}

#[tokio::test]
async fn a_dropped_writer_leaves_no_file() {
    let root = tempfile::tempdir().expect("tempdir");
    let store = open(root.path());
    let mut writer = store.create(&key("a"), None).await.expect("create");
    writer.write(Bytes::from_static(b"x")).await.expect("write");
    assert_eq!(entries(root.path()).len(), 1);
    drop(writer);
    assert!(entries(root.path()).is_empty());
}

#[tokio::test]
async fn an_object_that_shrinks_is_truncated() {
    let root = tempfile::tempdir().expect("tempdir");
    let store = open(root.path());
    store.put(&key("a"), Bytes::from(vec![1; 8 << 20])).await.expect("put");
    let pieces = store.read(&key("a"), None).await.expect("read");
    std::fs::OpenOptions::new()
        .write(true)
        .open(root.path().join("a"))
        .expect("open")
        .set_len(100)
        .expect("truncate");
    let error = pieces.try_collect::<Vec<_>>().await.expect_err("too short");
    assert!(matches!(error, StoreError::Truncated { .. }), "{error}");
}

#[tokio::test]
async fn writers_survive_a_pruner() {
    let root = tempfile::tempdir().expect("tempdir");
    let store = open(root.path());
    let pruner = async {
        for _ in 0..200 {
            store.delete(&key("a/b/c/victim")).await.expect("delete");
            store.put(&key("a/b/c/victim"), Bytes::new()).await.expect("put");
        }
    };
    let writer = async {
        for number in 0..200 {
            let key = key(&format!("a/b/c/{number}"));
            store.put(&key, Bytes::new()).await.expect("put");
            store.delete(&key).await.expect("delete");
        }
    };
    tokio::join!(pruner, writer);
}

/// Mounting needs root; without it there is nothing to test here.
fn mounted(root: &Path, options: &str) -> bool {
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(root).output();
    mount.is_ok_and(|output| output.status.success())
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_full_store_says_so_and_keeps_nothing_half() {
    let root = tempfile::tempdir().expect("tempdir");
    if !mounted(root.path(), "size=2m") {
        return eprintln!("skipped: cannot mount");
    }
    let _unmount = Unmount(root.path());
    let store = open(root.path());
    store.check().await.expect("there is room");
    let error = store.put(&key("a/b"), Bytes::from(vec![0; 4 << 20])).await.expect_err("full");
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(
        (error.class(), error.to_string().as_str()),
        (Class::Permanent, "cannot write a/b: the store is full")
    );
    assert!(store.list_incomplete("").try_collect::<Vec<_>>().await.expect("list").is_empty());
    // Another test of this process may be between fork and exec, its child holding the removed file open.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while let Err(error) = store.put(&key("a/b"), Bytes::from(vec![0; 1 << 20])).await {
        assert!(
            matches!(error, StoreError::Full { .. }) && std::time::Instant::now() < deadline,
            "{error:?}"
        );
        tokio::task::yield_now().await;
    }
    store.put(&key("c"), Bytes::from(vec![0; 900 << 10])).await.expect("room");
    while store.put(&key(&uuid::Uuid::new_v4().to_string()), Bytes::from(vec![0; 4096])).await.is_ok() {}
    assert!(matches!(store.check().await, Err(StoreError::Full { .. })));
}

#[tokio::test]
async fn a_read_only_store_says_so() {
    let root = tempfile::tempdir().expect("tempdir");
    if !mounted(root.path(), "ro") {
        return eprintln!("skipped: cannot mount");
    }
    let _unmount = Unmount(root.path());
    let error = open(root.path()).check().await.expect_err("read-only");
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("read-only")));
}

const DENIED_ROOT: &str = "CASSY_TEST_DENIED_ROOT";

/// Root is never denied, so this runs itself again as nobody.
#[tokio::test]
async fn a_denied_store_says_so() {
    if let Some(root) = std::env::var_os(DENIED_ROOT) {
        let store = open(Path::new(&root));
        for error in [
            store.check().await.expect_err("denied"),
            store.put(&key("a"), Bytes::new()).await.expect_err("denied"),
            store.get(&key("secret"), 10).await.expect_err("denied"),
        ] {
            assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        }
        return;
    }
    let root = tempfile::tempdir().expect("tempdir");
    std::fs::write(root.path().join("secret"), "x").expect("write");
    std::fs::set_permissions(root.path().join("secret"), PermissionsExt::from_mode(0o600)).expect("chmod");
    std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o555)).expect("chmod");
    let program = root.path().join("test-program");
    std::fs::copy(std::env::current_exe().expect("own path"), &program).expect("copy");
    let again = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--exact", "a_denied_store_says_so", "--nocapture"])
        .env(DENIED_ROOT, root.path())
        .output();
    let Ok(again) = again else {
        return eprintln!("skipped: no setpriv");
    };
    let text = String::from_utf8_lossy(&again.stderr) + String::from_utf8_lossy(&again.stdout);
    if text.contains("setresuid failed") || text.contains("setgroups failed") {
        return eprintln!("skipped: not root");
    }
    assert!(again.status.success(), "{text}");
}
