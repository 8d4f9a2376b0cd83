//! A restore is not said to be taken back when that was not seen, and its sentinel stays then.

use std::fs;
use std::path::Path;

use cassy_agent_protocol::{AgentErrorKind, RestoreRequest};

use super::super::error::RestoreError;
use super::super::facts::Found;
use super::super::marker::Staging;
use super::super::tree::Steps;
use super::super::undo;
use super::aside::{everything, full_node, request};
use super::fixture::{Backup, Node, YAML};
use super::obstacles::facts;
use super::undo::{try_undo, undone};
use crate::failure::IntoAgentError;

const JOB: &str = "job-1";
const SENTINEL: &str = "node-backup/RESTORE_INCOMPLETE/aa-1-big-Data.db";

/// A restore to an empty node that was killed when it had staged something, and had placed nothing.
async fn staged() -> (Backup, Node, RestoreRequest) {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    assert!(node.run_killed(&request, 45).await);
    assert!(node.path("data/node-backup/data").exists() && is_marked_everywhere(&node));
    (backup, node, request)
}

fn is_marked_everywhere(node: &Node) -> bool {
    ["data", "data2"].iter().all(|name| node.path(name).join(SENTINEL).exists())
}

/// Says this, and changes nothing.
#[track_caller]
fn is_kept(node: &Node, before: &super::fixture::Files, told: Option<String>, parts: &[&str]) {
    let told = told.unwrap_or_default();
    assert!(parts.iter().all(|part| told.contains(part)), "{parts:?}: {told:?}");
    assert_eq!(everything(node), *before, "{told}");
}

#[tokio::test]
async fn without_its_directories_nothing_is_said_to_be_undone() {
    let (_backup, node, request) = staged().await;
    let before = everything(&node);
    let (yaml, elsewhere) = (node.path("conf/cassandra.yaml"), node.path("conf/moved"));
    fs::rename(&yaml, &elsewhere).unwrap();
    is_kept(&node, &before, undone(&node, &request).await, &["was not looked for", "cassandra.yaml"]);
    let absent = node.path("absent").display().to_string();
    for (directories, parts) in [
        ("data, ../other", ["was not looked for", "names no data directory"]),
        (&*absent, ["nothing of it was seen: none of the data directories", &absent]),
    ] {
        fs::write(&yaml, format!("{YAML}data_file_directories: [{directories}]\n")).unwrap();
        is_kept(&node, &before, undone(&node, &request).await, &parts);
    }
    fs::rename(&elsewhere, &yaml).unwrap();
    assert_eq!(undone(&node, &request).await, None);
    assert!(node.names().is_empty());
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_an_error_and_keeps_the_sentinel() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let is_placed = || node.files()[0].keys().any(|path| path.starts_with("Mixed"));
    let mut change = 80;
    while !is_placed() {
        assert!(node.run_killed(&request, change).await);
        change += 1;
    }
    // What a failing disk leaves of a directory: nothing is known of it.
    let mut facts = facts(&node, &backup, &request).await;
    let root = &mut facts.roots[0];
    (root.problem, root.staging) = (Some("Input/output error".to_owned()), Staging::Clean);
    (root.placed, root.unexpected, root.is_staged) = (Found::default(), Found::default(), false);
    let before = everything(&node);
    let error = undo::undo(&facts, &Steps::default()).unwrap_err();
    let RestoreError::NotSeen { problems } = &error else { panic!("{error:?}") };
    assert_eq!(*problems, [format!("directory {}: Input/output error", node.path("data").display())]);
    let error = error.into_agent_error();
    assert_eq!(error.kind, AgentErrorKind::Transient);
    assert!(error.hint.unwrap().contains("restore the same backup again"));
    assert_eq!(everything(&node), before);
    assert!(is_marked_everywhere(&node));
}

/// The same where a directory is none any more; also one that only holds what was moved aside.
#[tokio::test]
async fn what_was_moved_out_of_a_directory_that_is_none_is_missed() {
    for name in ["data2", "commitlog"] {
        let (backup, node) = (Backup::whole().await, full_node());
        let request = request(&backup, &node, JOB).await;
        assert!(node.run_killed(&request, 60).await);
        fs::rename(node.path(name), node.path("elsewhere")).unwrap();
        fs::write(node.path(name), "a file").unwrap();
        let error = try_undo(&node, &request).await.unwrap_err();
        assert!(matches!(&error, RestoreError::NotSeen { .. }), "{error:?}");
        let told = error.to_string();
        assert!(
            told.contains(&node.path(name).display().to_string()) && told.contains("Not a directory"),
            "{told}"
        );
        assert!(node.is_marked());
    }
}

#[tokio::test]
async fn what_is_not_known_to_be_its_own_is_left_and_said() {
    let (_backup, node, request) = staged().await;
    let own = fs::read(node.path("data2").join(SENTINEL)).unwrap();
    let other = String::from_utf8(own.clone()).unwrap().replace("in_place", "copy");
    for (content, part) in [("junk", "cannot be read"), (&other, "a part of a copy")] {
        fs::write(node.path("data2").join(SENTINEL), content).unwrap();
        let before = everything(&node);
        is_kept(&node, &before, undone(&node, &request).await, &["nothing was taken back", part, "data2"]);
    }
    fs::write(node.path("data2").join(SENTINEL), own).unwrap();
    // A part of it where a restore of the other scope stages.
    let inner = node.path("data2/cluster-backup/RESTORE_INCOMPLETE");
    fs::create_dir_all(&inner).unwrap();
    fs::copy(node.path("data2").join(SENTINEL), inner.join("aa-1-big-Data.db")).unwrap();
    let before = everything(&node);
    is_kept(
        &node,
        &before,
        undone(&node, &request).await,
        &["cluster-backup has a part of this restore as well"],
    );
    fs::remove_dir_all(node.path("data2/cluster-backup")).unwrap();
    assert_eq!(undone(&node, &request).await, None);
    assert!(node.names().is_empty());
}

/// As where the file system of one of them is not mounted: what was placed there is not to be seen.
#[tokio::test]
async fn a_directory_that_lacks_its_sentinel_keeps_the_others() {
    for name in ["data", "data2"] {
        let (_backup, node, request) = staged().await;
        fs::rename(node.path(name), node.path("unmounted")).unwrap();
        fs::create_dir(node.path(name)).unwrap();
        let (before, path) = (everything(&node), node.path(name).display().to_string());
        is_kept(&node, &before, undone(&node, &request).await, &[&path, "has no sentinel", "is mounted"]);
        fs::remove_dir(node.path(name)).unwrap();
        fs::rename(node.path("unmounted"), node.path(name)).unwrap();
        assert_eq!(undone(&node, &request).await, None, "{name}");
        assert!(node.names().is_empty());
    }
}

#[tokio::test]
async fn files_that_it_may_have_placed_keep_the_sentinel() {
    let (_backup, node, request) = staged().await;
    fs::write(node.path("data2/stranger"), "x").unwrap();
    let before = everything(&node);
    is_kept(
        &node,
        &before,
        undone(&node, &request).await,
        &["data2 holds one file", "stranger", "does not start"],
    );
    assert!(is_marked_everywhere(&node));
    fs::remove_file(node.path("data2/stranger")).unwrap();
    assert_eq!(undone(&node, &request).await, None);
}

/// From the instant on at which everything is in place, until the sentinels are gone: that is not what was there before,
/// whatever came to it.
#[tokio::test]
async fn what_was_placed_is_never_taken_for_what_was_there_before() {
    let backup = Backup::whole().await;
    let mut seen = 0;
    for change in 0.. {
        let node = full_node();
        let request = request(&backup, &node, JOB).await;
        if !node.run_killed(&request, change).await {
            break;
        }
        let (found, wanted) = (node.files(), &backup.files);
        let mut directories = found.iter().zip(wanted);
        let is_placed = directories
            .all(|(found, wanted)| wanted.iter().all(|(path, content)| found.get(path) == Some(content)));
        if !is_placed {
            continue;
        }
        fs::write(node.path("data2/stranger"), "x").unwrap();
        let before = everything(&node);
        let told = undone(&node, &request).await;
        if node.is_marked() {
            seen += 1;
            is_kept(&node, &before, told, &["until the same restore is called again"]);
        } else {
            is_kept(&node, &before, told, &["what was in the way lies in"]);
        }
        fs::remove_file(node.path("data2/stranger")).unwrap();
        node.run(&request).await.unwrap();
        assert!(!node.path("data/node-backup").exists(), "change {change}");
    }
    assert!(seen > 3, "{seen}");
}

#[tokio::test]
async fn a_restore_that_was_complete_is_not_said_to_be_undone_when_the_node_has_changed_since() {
    let backup = Backup::whole().await;
    for (is_full, part) in [(false, "it was complete"), (true, "what was in the way lies in")] {
        let node = if is_full { full_node() } else { Node::new() };
        let request = if is_full { request(&backup, &node, JOB).await } else { backup.request(&node).await };
        node.run(&request).await.unwrap();
        fs::write(node.path("data/flushed"), "x").unwrap();
        let before = everything(&node);
        is_kept(&node, &before, undone(&node, &request).await, &[part]);
    }
}

#[tokio::test]
async fn what_somebody_put_beside_what_was_moved_aside_stays_and_is_said() {
    let (backup, node) = (Backup::whole().await, full_node());
    let (mut before, request) = (everything(&node), request(&backup, &node, JOB).await);
    assert!(node.run_killed(&request, 60).await);
    let notes = Path::new("data").join(format!("moved-aside-{JOB}")).join("notes");
    fs::write(node.path(notes.to_str().unwrap()), "x").unwrap();
    let told = undone(&node, &request).await.unwrap();
    assert!(told.contains("what was in the way lies in") && told.contains(JOB), "{told}");
    before.insert(notes, b"x".to_vec());
    assert_eq!(everything(&node), before, "all is back");
    assert!(!node.is_marked());
}
