//! What breaks in the middle of a restore, and limits that no backup of a test reaches.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cassy_agent_protocol::{AgentErrorKind, RestoreRequest};
use cassy_backup_format::{ManifestError, ManifestReader};
use cassy_store::StoreError;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use tokio_util::task::TaskTracker;

use super::super::error::RestoreError;
use super::super::facts::{Facts, Target};
use super::super::manifest::download;
use super::super::marker::Marker;
use super::super::place::Begun;
use super::super::stage::{Done, Stager};
use super::super::tree::{FileError, Steps};
use super::super::{Prepared, begin, gather, prepare};
use super::fixture::{Backup, Node, table};
use crate::context::Context;
use crate::failure::IntoAgentError;

/// What a restore is once it has begun.
struct Scene {
    stager: Arc<Stager>,
    begun: Begun,
    facts: Arc<Facts>,
}

async fn begun(context: &Context, node: &Node, request: &RestoreRequest) -> Scene {
    let prepared = prepare(context, &node.machine, request, &node.path("spool")).await.unwrap();
    let Prepared { store, manifest, facts } = prepared;
    let begun = begin(&facts, &Marker::of(request), &node.locks, &Steps::default()).unwrap();
    let Target::Known(known) = &facts.target else { panic!("known") };
    let stager = Arc::new(Stager {
        context: context.clone(),
        store,
        manifest,
        layout: known.layout.clone().unwrap(),
        destinations: begun.destinations.clone(),
        done: Done::default(),
        tasks: TaskTracker::new(),
    });
    Scene { stager, begun, facts }
}

/// Stages, after this has happened between the plan and that.
async fn staged_after(
    context: &Context,
    node: &Node,
    request: &RestoreRequest,
    happens: impl FnOnce(),
) -> Result<(), RestoreError> {
    let Scene { stager, .. } = begun(context, node, request).await;
    happens();
    stager.run().await
}

/// Stages and places, after this has happened between the two.
async fn placed_after(
    node: &Node,
    request: &RestoreRequest,
    happens: impl FnOnce(),
) -> Result<(), RestoreError> {
    let context = Context::default();
    let Scene { stager, begun, facts } = begun(&context, node, request).await;
    stager.run().await.unwrap();
    happens();
    begun.finish(&context.progress, &facts, &stager.manifest, &stager.layout)
}

fn spooled(node: &Node, request: &RestoreRequest) -> PathBuf {
    node.path("spool").join(format!("restore-{}.jsonl.zst", request.backup_id))
}

#[tokio::test]
async fn a_manifest_that_is_larger_than_any_is_not_read_on() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let (request, store) = (backup.request(&node).await, backup.store());
    let path = spooled(&node, &request);
    let size = fs::metadata(backup.object_path(&request.manifest.key)).unwrap().len();
    download(store.as_ref(), &request, &path, size).await.unwrap();
    let error = download(store.as_ref(), &request, &path, size - 1).await.unwrap_err();
    let RestoreError::Refused { key, reason } = &error else { panic!("{error:?}") };
    assert_eq!((key, reason), (&request.manifest.key, &format!("it is larger than {} bytes", size - 1)));
    assert_eq!(error.into_agent_error().kind, AgentErrorKind::Permanent);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_kept_is_told_by_its_place() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    fs::remove_dir(node.path("spool")).unwrap();
    let error = node.run(&request).await.unwrap_err();
    let RestoreError::File(FileError { operation: "write", path, .. }) = &error else { panic!("{error:?}") };
    assert_eq!(*path, spooled(&node, &request));
    assert!(node.names().is_empty());
}

/// Its manifest is longer than what zstd takes at once: without its end, it still begins like a whole one.
async fn long(node: &Node) -> (Backup, RestoreRequest) {
    let mut backup = Backup::empty();
    backup.sstable(&table("ks", "t", 1), None, "nb-1-big", 0, b"data").await;
    let first = backup.entries[0].clone();
    for number in 2..=200 {
        let mut entry = first.clone();
        entry.name = format!("nb-{number}-big");
        entry.files.iter_mut().for_each(|file| file.name = file.name.replace(&first.name, &entry.name));
        backup.entries.push(entry);
    }
    let request = backup.request(node).await;
    (backup, request)
}

fn cut(path: &Path) {
    let whole = fs::read(path).unwrap();
    let begin = &whole[..whole.len() - 20];
    ManifestReader::open(begin).expect("it begins well");
    fs::write(path, begin).unwrap();
}

#[tokio::test]
async fn a_manifest_that_ends_between_two_lines_is_refused() {
    let node = Node::new();
    let (backup, request) = long(&node).await;
    let path = backup.object_path(&request.manifest.key);
    cut(&path);
    let request = backup.request_of(&node, &fs::read(&path).unwrap()).await;
    let error = node.run(&request).await.unwrap_err();
    let RestoreError::Manifest { key, source: ManifestError::Read(_) } = &error else { panic!("{error:?}") };
    assert_eq!(*key, request.manifest.key);
    assert!(node.names().is_empty());
}

/// It was proven, and is read twice more.
#[tokio::test]
async fn a_copy_of_the_manifest_that_is_cut_short_or_lost_places_nothing() {
    let (node, context) = (Node::new(), Context::default());
    let (_backup, request) = long(&node).await;
    let path = spooled(&node, &request);
    let error = staged_after(&context, &node, &request, || cut(&path)).await.unwrap_err();
    let RestoreError::Manifest { key, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*key, request.manifest.key);
    let lost = || fs::remove_file(&path).unwrap();
    let error = staged_after(&context, &node, &request, lost).await.unwrap_err();
    let RestoreError::File(error) = &error else { panic!("{error:?}") };
    assert_eq!((error.operation, &error.path, error.errno()), ("open", &path, Some(Errno::NOENT)));

    let spool = node.path("spool");
    let prepared = prepare(&context, &node.machine, &request, &spool).await.unwrap();
    cut(&path);
    let error = gather::gather(&node.machine, &request, &prepared.manifest).unwrap_err();
    assert!(matches!(error, RestoreError::Manifest { .. }), "{error:?}");
    assert!(node.is_marked());
    let is_staged = |path: &PathBuf| path.starts_with("node-backup");
    assert!(node.files().iter().flat_map(|files| files.keys()).all(is_staged), "{:?}", node.files());
    node.run(&request).await.unwrap();
    assert!(!node.is_marked());
}

/// What a power cut leaves of a file that was being written.
#[tokio::test]
async fn what_is_staged_in_part_is_staged_again() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let staged = node.path("data/node-backup/data/system").join(format!("local-{:032x}/nb-3-big-Data.db", 3));
    let mut change = 20;
    while !staged.exists() || fs::read(&staged).unwrap() != b"local" {
        assert!(node.run_killed(&request, change).await, "killed while it stages");
        change += 1;
    }
    fs::write(&staged, "loc").unwrap();
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
}

/// Of a complete restore: there is nowhere to stage it again.
#[tokio::test]
async fn a_file_that_was_in_place_a_moment_ago_is_missed() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    node.run(&request).await.unwrap();
    let file = node.path("data/system").join(format!("local-{:032x}/nb-3-big-Data.db", 3));
    let vanishes = || fs::remove_file(&file).unwrap();
    let error = staged_after(&Context::default(), &node, &request, vanishes).await.unwrap_err();
    let RestoreError::InTheWay { path, reason } = &error else { panic!("{error:?}") };
    assert_eq!(
        (path, reason.as_str()),
        (&node.path("data").join("nb-3-big"), "it was in place a moment ago, and is gone")
    );
}

#[tokio::test]
async fn a_directory_in_a_files_place_is_named() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let place = node.path("data/system").join(format!("local-{:032x}/nb-3-big-Data.db", 3));
    fs::create_dir_all(&place).unwrap();
    let error = node.run(&request).await.unwrap_err();
    let RestoreError::InTheWay { path, reason } = &error else { panic!("{error:?}") };
    assert_eq!((path, reason.as_str()), (&place, "it is no regular file"));
    let error = error.into_agent_error();
    assert!(error.hint.unwrap().starts_with(&format!("Move {} aside", place.display())));
    assert_eq!(node.names(), ["system"]);
    assert!(!node.is_marked());
}

#[tokio::test]
async fn an_object_that_is_no_plain_file_is_told_by_the_store() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let path = backup.object_path(&backup.entries[0].objects[0].key);
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = node.run(&request).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Store(StoreError::NotPlain { .. })), "{error:?}");
    let error = error.into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Permanent);
    assert!(error.hint.is_some() && node.names().is_empty());
}

/// Of a terabyte that is in place already, nobody waits for the last byte.
#[tokio::test]
async fn proving_what_is_in_place_stops_soon() {
    let (mut backup, node) = (Backup::empty(), Node::new());
    let large = vec![7; 64 << 20];
    backup.sstable(&table("ks", "t", 1), None, "nb-1-big", 0, &large).await;
    let request = backup.request(&node).await;
    node.run(&request).await.unwrap();
    let context = Context::default();
    let (cancel, progress) = (context.cancel.clone(), context.progress.clone());
    let stop = tokio::spawn(async move {
        while progress.latest().bytes_done == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    let error = staged_after(&context, &node, &request, || ()).await.unwrap_err();
    stop.await.unwrap();
    assert_eq!(error.kind(), AgentErrorKind::Cancelled, "{error:?}");
    assert!(context.progress.latest().bytes_done < 64 << 20);
    assert_eq!(node.files(), backup.files);
}

/// It was proven by nobody.
#[tokio::test]
async fn a_file_that_appears_when_all_is_proven_is_in_the_way_also_with_the_right_size() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let file = node.path("data/system").join(format!("local-{:032x}/nb-3-big-Data.db", 3));
    let appears = || {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "LOCAL").unwrap();
    };
    let error = placed_after(&node, &request, appears).await.unwrap_err();
    assert!(matches!(&error, RestoreError::InTheWay { path, .. } if *path == file), "{error:?}");
    assert!(node.is_marked());
    fs::rename(&file, node.path("stranger")).unwrap();
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
}

/// On a file system that cannot rename without replacing, a file is linked and its staged name removed.
#[tokio::test]
async fn a_file_that_has_its_staged_name_still_is_placed() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let name = format!("system/local-{:032x}/nb-3-big-Data.db", 3);
    let (staged, place) = (node.path("data/node-backup/data").join(&name), node.path("data").join(&name));
    let mut change = 20;
    while !staged.exists() || fs::read(&staged).unwrap() != b"local" {
        assert!(node.run_killed(&request, change).await, "killed while it stages");
        change += 1;
    }
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::hard_link(&staged, &place).unwrap();
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
}

#[tokio::test]
async fn a_directory_in_a_files_place_in_the_staging_is_removed() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    assert!(node.run_killed(&request, 20).await);
    let table = node.path("data/node-backup/data/system").join(format!("local-{:032x}", 3));
    for name in ["nb-3-big-Data.db", "nb-3-big-Empty.db"] {
        let file = table.join(name);
        if file.exists() {
            fs::remove_file(&file).unwrap();
        }
        fs::create_dir_all(file.join("inner")).unwrap();
        fs::write(file.join("inner/file"), "x").unwrap();
    }
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
}
