//! What is in the way goes aside: all of it is still there, whatever happens, and Cassandra never starts on half of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cassy_agent_protocol::{RestorePlan, RestoreRequest};

use super::super::error::RestoreError;
use super::fixture::{Backup, Files, Node, files};
use crate::context::Context;

const JOB: &str = "job-1";
const DIRECTORIES: [&str; 5] = ["data", "data2", "commitlog", "hints", "caches"];

/// A node that is not empty: also with files that have the names and sizes of the backup's, and are others.
pub(super) fn full_node() -> Node {
    let node = Node::new();
    let local = format!("data/system/local-{:032x}", 3);
    for (path, content) in [
        ("data/ks/t-1/nb-9-big-Data.db", "nine"),
        ("data/ks/t-1/snapshots/own/nb-8-big-Data.db", "eight"),
        (&*format!("{local}/nb-3-big-Data.db"), "LOCAL"),
        ("data/file", "at the top"),
        ("data2/ks/t-1/aa-1-big-Data.db", "unreadable"),
        ("commitlog/CommitLog-7-1.log", "segment"),
        ("commitlog/sub/notes", "notes"),
        ("hints/a.hints", "hints"),
    ] {
        let path = node.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    node
}

pub(super) async fn request(backup: &Backup, node: &Node, job: &str) -> RestoreRequest {
    RestoreRequest { move_aside: Some(job.to_owned()), ..backup.request(node).await }
}

async fn planned(node: &Node, request: &RestoreRequest) -> RestorePlan {
    super::super::plan(&Context::default(), &node.machine, request, &node.path("spool")).await.unwrap()
}

/// Everything in Cassandra's directories, by path below the node.
pub(super) fn everything(node: &Node) -> Files {
    let of = |name: &&str| {
        files(&node.path(name))
            .into_iter()
            .map(|(path, bytes)| (Path::new(name).join(path), bytes))
            .collect::<Vec<_>>()
    };
    DIRECTORIES.iter().flat_map(of).collect()
}

/// Where a file was before it was moved aside; `None` for what was not.
fn origin(path: &Path) -> Option<PathBuf> {
    let mut parts = path.iter();
    let directory = parts.next()?;
    let aside = parts.next()?.to_str()?;
    (aside.starts_with("moved-aside-") && parts.next()? == "backups")
        .then(|| Path::new(directory).join(parts.as_path()))
}

/// The same with all that was moved aside back in its place.
fn put_back(all: Files) -> BTreeMap<PathBuf, Vec<Vec<u8>>> {
    let mut merged: BTreeMap<PathBuf, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, content) in all {
        merged.entry(origin(&path).unwrap_or(path)).or_default().push(content);
    }
    merged
}

#[track_caller]
fn nothing_is_lost(node: &Node, before: &Files) {
    let now = put_back(everything(node));
    for (path, content) in before {
        assert!(now.get(path).is_some_and(|found| found.contains(content)), "{} is lost", path.display());
    }
}

/// What the backup has put into the data directories, and nothing else but what was moved.
#[track_caller]
fn is_restored(node: &Node, backup: &Backup) {
    let mut placed = node.files();
    for (files, directory) in placed.iter_mut().zip(["data", "data2"]) {
        files.retain(|path, _| origin(&Path::new(directory).join(path)).is_none());
    }
    assert_eq!(placed, backup.files);
    assert!(!node.is_marked());
}

#[tokio::test]
async fn what_is_in_the_way_is_moved_aside_and_stays() {
    let (backup, node) = (Backup::whole().await, full_node());
    let before = everything(&node);
    let request = request(&backup, &node, JOB).await;
    let plan = planned(&node, &request).await;
    assert_eq!(plan.findings, Vec::<String>::new());
    let told: Vec<_> = plan.moved_aside.iter().map(|moved| (moved.files, moved.bytes)).collect();
    assert_eq!(told, [(4, 24), (1, 10), (2, 12), (1, 5), (1, 3)]);
    let data = node.path("data").display().to_string();
    assert_eq!(
        (&plan.moved_aside[0].directory, &plan.moved_aside[0].to),
        (&data, &format!("{data}/moved-aside-{JOB}"))
    );
    assert_eq!(everything(&node), before, "a plan changes nothing");

    let summary = node.run(&request).await.unwrap();
    is_restored(&node, &backup);
    nothing_is_lost(&node, &before);
    let moved: Vec<_> = everything(&node).into_keys().filter(|path| origin(path).is_some()).collect();
    assert_eq!(moved.len(), before.len(), "all of it, and nothing twice");
    let note = summary.notes.last().unwrap();
    assert!(note.contains(&format!("{data}/moved-aside-{JOB}")) && note.contains("hints"), "{note}");

    // What lies aside is in nobody's way.
    let again = planned(&node, &backup.request(&node).await).await;
    assert_eq!((again.findings, again.moved_aside, again.bytes), (Vec::new(), Vec::new(), 0));
    node.run(&request).await.unwrap();
    is_restored(&node, &backup);
}

#[tokio::test]
async fn an_empty_node_has_nothing_to_move() {
    let (backup, node) = (Backup::whole().await, Node::new());
    fs::remove_file(node.path("caches/KeyCache-f.db")).unwrap();
    let request = request(&backup, &node, JOB).await;
    assert_eq!(planned(&node, &request).await.moved_aside, []);
    node.run(&request).await.unwrap();
    assert_eq!(node.names(), ["Mixed", "Mixed", "snapshots", "system"]);
}

#[tokio::test]
async fn whatever_instant_it_is_killed_at_nothing_is_lost_and_the_next_call_finishes() {
    let backup = Backup::whole().await;
    let mut change = 0;
    loop {
        let node = full_node();
        let before = everything(&node);
        let killed = node.run_killed(&request(&backup, &node, JOB).await, change).await;
        check_interrupted(&backup, &node, &before, change);
        // A second kill, somewhere else, of another job.
        let second = request(&backup, &node, "job-2").await;
        node.run_killed(&second, change / 2).await;
        check_interrupted(&backup, &node, &before, change);
        node.run(&second).await.unwrap_or_else(|error| panic!("after change {change}: {error:?}"));
        is_restored(&node, &backup);
        nothing_is_lost(&node, &before);
        if !killed {
            break;
        }
        change += 1;
    }
    assert!(change > 90, "only {change} changes were seen");
}

/// Nothing is lost; and it is as it was, or complete, or Cassandra refuses to start.
#[track_caller]
fn check_interrupted(backup: &Backup, node: &Node, before: &Files, change: i64) {
    nothing_is_lost(node, before);
    let mut now = everything(node);
    now.retain(|path, _| !path.ends_with("sentinel.tmp"));
    if node.is_marked() || now == *before {
        return;
    }
    let placed = node
        .files()
        .iter()
        .zip(&backup.files)
        .all(|(found, wanted)| wanted.iter().all(|(path, content)| found.get(path) == Some(content)));
    assert!(placed, "after change {change}");
}

#[tokio::test]
async fn what_fails_for_good_before_anything_is_placed_puts_everything_back() {
    let (backup, node) = (Backup::whole().await, full_node());
    let before = everything(&node);
    let request = request(&backup, &node, JOB).await;
    fs::write(backup.object_path(&backup.entries[4].objects[0].key), "x").unwrap();
    let error = node.run(&request).await.unwrap_err();
    assert!(matches!(error, RestoreError::Corrupt { .. }), "{error:?}");
    assert_eq!(everything(&node), before);
    assert_eq!(node.names(), ["file", "ks", "ks", "system"]);
}

/// What an earlier call has moved is not put back by the next one, so what is left must not start.
#[tokio::test]
async fn half_of_the_data_before_is_never_started() {
    let (backup, node) = (Backup::whole().await, full_node());
    let before = everything(&node);
    let mut change = 0;
    while !node.path(&format!("data/moved-aside-{JOB}/backups/ks")).exists() {
        let killed = node.run_killed(&request(&backup, &node, JOB).await, change).await;
        assert!(killed, "killed while it moves");
        change += 1;
    }
    fs::write(backup.object_path(&backup.entries[4].objects[0].key), "x").unwrap();
    node.run(&request(&backup, &node, "job-2").await).await.unwrap_err();
    assert!(node.is_marked());
    nothing_is_lost(&node, &before);
}

/// The first call was killed between the data and the commit log, and the second one is not to move anything.
#[tokio::test]
async fn a_commit_log_that_was_not_moved_yet_is_not_removed() {
    let (backup, node) = (Backup::whole().await, full_node());
    let segment = node.path("commitlog/CommitLog-7-1.log");
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&segment).unwrap().set_modified(an_hour_ago).unwrap();
    let before = everything(&node);
    let aside = request(&backup, &node, JOB).await;
    let mut change = 0;
    while !node.path(&format!("data2/moved-aside-{JOB}/backups/ks")).exists() {
        assert!(node.run_killed(&aside, change).await, "killed while it moves");
        change += 1;
    }
    assert!(segment.exists());
    // Beside it lies what a start has left that the sentinel refused.
    let refused = node.path("commitlog/CommitLog-7-2.log");
    fs::write(&refused, "x").unwrap();
    let without = backup.request(&node).await;
    let plan = planned(&node, &without).await;
    let is_named = |text: &&String| text.contains("holds one file, ") && text.contains("CommitLog-7-1.log");
    let finding = plan.findings.iter().find(is_named).expect("a finding");
    assert!(finding.contains("set move_aside"), "{finding}");
    let refused_start = plan.findings.iter().find(|finding| finding.contains("CommitLog-7-2.log"));
    assert!(refused_start.is_some(), "which of the two it is nobody knows: {:?}", plan.findings);
    let error = node.run(&without).await.unwrap_err();
    assert!(matches!(error, RestoreError::Findings { .. }), "{error:?}");
    nothing_is_lost(&node, &before);
    node.run(&aside).await.unwrap();
    is_restored(&node, &backup);
    nothing_is_lost(&node, &before);
    assert!(!segment.exists() && !refused.exists());
}

/// As where the log is on a file server whose clock is ahead, or the node's clock was set back.
fn date_ahead(segment: &Path) {
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    fs::File::options().write(true).open(segment).unwrap().set_modified(ahead).unwrap();
}

/// A commit log that seems younger than the restore, alone or beside other things in the way.
fn node_with_a_young_log(is_full: bool) -> Node {
    let node = if is_full { full_node() } else { Node::new() };
    for name in ["CommitLog-7-1.log", "CommitLog-7-2.log"] {
        let segment = node.path("commitlog").join(name);
        fs::write(&segment, name).unwrap();
        date_ahead(&segment);
    }
    node
}

#[tokio::test]
async fn a_commit_log_that_seems_younger_than_the_restore_is_never_lost() {
    let backup = Backup::whole().await;
    for is_full in [false, true] {
        for change in 0.. {
            let node = node_with_a_young_log(is_full);
            let before = everything(&node);
            let (aside, without) = (request(&backup, &node, JOB).await, backup.request(&node).await);
            let killed = node.run_killed(&aside, change).await;
            // Saved caches go, without being asked.
            let before: Files = before.into_iter().filter(|(path, _)| !path.starts_with("caches")).collect();
            let outcome = node.run(&without).await;
            nothing_is_lost(&node, &before);
            assert!(matches!(outcome, Ok(_) | Err(RestoreError::Findings { .. })), "{outcome:?}");
            node.run(&aside).await.unwrap_or_else(|error| panic!("after change {change}: {error:?}"));
            is_restored(&node, &backup);
            nothing_is_lost(&node, &before);
            if !killed {
                break;
            }
        }
    }
}

/// Its file system was not mounted when the rest was moved.
#[tokio::test]
async fn a_commit_log_that_comes_back_when_something_is_staged_is_moved_aside() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let (aside, without) = (request(&backup, &node, JOB).await, backup.request(&node).await);
    assert!(node.run_killed(&aside, 60).await);
    assert!(node.path("data/node-backup/data").exists());
    let segment = node.path("commitlog/CommitLog-7-1.log");
    fs::write(&segment, "x").unwrap();
    date_ahead(&segment);
    let findings = planned(&node, &without).await.findings;
    assert!(findings.len() == 1 && findings[0].contains("CommitLog-7-1.log"), "{findings:?}");
    let plan = planned(&node, &aside).await;
    let directory = node.path("commitlog").display().to_string();
    assert_eq!(plan.findings, Vec::<String>::new());
    let told: Vec<_> = plan.moved_aside.iter().map(|moved| (&moved.directory, moved.files)).collect();
    assert_eq!(told, [(&directory, 1)]);
    node.run(&aside).await.unwrap();
    is_restored(&node, &backup);
    let moved = node.path(&format!("commitlog/moved-aside-{JOB}/backups/CommitLog-7-1.log"));
    assert!(moved.exists() && !segment.exists());
}

#[tokio::test]
async fn a_segment_of_a_refused_start_is_deleted_once_the_log_was_moved() {
    let (backup, node) = (Backup::whole().await, full_node());
    let before = everything(&node);
    let (aside, without) = (request(&backup, &node, JOB).await, backup.request(&node).await);
    assert!(node.run_killed(&aside, 60).await);
    assert!(node.path("data/node-backup/data").exists());
    let segment = node.path("commitlog/CommitLog-7-2.log");
    fs::write(&segment, "x").unwrap();
    let plan = planned(&node, &without).await;
    assert_eq!(plan.findings, Vec::<String>::new());
    assert!(plan.warnings.iter().any(|warning| warning.contains("deletes such segments")), "{plan:?}");
    node.run(&without).await.unwrap();
    is_restored(&node, &backup);
    nothing_is_lost(&node, &before);
    assert!(!segment.exists());
}

#[tokio::test]
async fn directories_in_each_other_are_not_moved() {
    let (backup, node) = (Backup::whole().await, full_node());
    let yaml = node.path("conf/cassandra.yaml");
    let text = fs::read_to_string(&yaml).unwrap();
    let inner = node.path("data/hints");
    fs::write(&yaml, text.replace(&node.path("hints").display().to_string(), &inner.display().to_string()))
        .unwrap();
    let request = request(&backup, &node, JOB).await;
    let findings = planned(&node, &request).await.findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with(&format!("{} lies in ", inner.display())), "{findings:?}");
}

#[tokio::test]
async fn nothing_is_moved_from_under_a_running_cassandra() {
    let (backup, node) = (Backup::whole().await, full_node());
    let before = everything(&node);
    fs::write(node.path("proc/self/net/tcp"), "head\n 0: 0100007F:2352 00000000:0000 0A\n").unwrap();
    let error = node.run(&request(&backup, &node, JOB).await).await.unwrap_err();
    assert!(
        matches!(&error, RestoreError::Findings { findings } if findings[0].contains("listens")),
        "{error:?}"
    );
    assert_eq!(everything(&node), before);
}

#[tokio::test]
async fn a_job_whose_id_is_no_name_moves_nothing() {
    let (backup, node) = (Backup::whole().await, full_node());
    let before = everything(&node);
    for job in ["", "..", "a/b", "a\0"] {
        let error = node.run(&request(&backup, &node, job).await).await.unwrap_err();
        assert!(matches!(error, RestoreError::Refused { .. }), "{error:?}");
    }
    assert_eq!(everything(&node), before);
}
