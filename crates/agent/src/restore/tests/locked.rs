//! One agent at a time restores a node, also where the data directory that is locked is missing at first.

use std::fs;

use cassy_agent_protocol::{AgentErrorKind, LockRequest};

use super::super::error::RestoreError;
use super::super::marker::Marker;
use super::super::tree::Steps;
use super::super::{Prepared, begin, prepare};
use super::fixture::{Backup, Node};
use super::undo::try_undo;
use crate::context::Context;
use crate::session::lock::{Lock, LockError, Locks};

async fn lock(node: &Node) -> Result<Lock, LockError> {
    let directory = node.path("data").to_str().unwrap().to_owned();
    Lock::take(&Default::default(), &LockRequest { directory, wait_ms: 0 }).await
}

/// The first agent is stopped, or its disk hangs: it is still there, and goes on some time.
#[tokio::test]
async fn a_first_directory_that_a_restore_makes_is_locked_before_anything_is_in_it() {
    let backup = Backup::whole().await;
    for change in 0.. {
        let mut node = Node::new();
        fs::remove_dir(node.path("data")).unwrap();
        node.locks.add(lock(&node).await.unwrap());
        let request = backup.request(&node).await;
        if !node.run_killed(&request, change).await {
            assert!(change > 40, "only {change} changes were seen");
            break;
        }
        if !node.path("data/node-backup").exists() {
            continue;
        }
        let error = lock(&node).await.unwrap_err();
        assert_eq!(error.kind(), AgentErrorKind::Busy, "change {change}: {error}");
        // It ends at last.
        node.locks = Locks::default();
        node.locks.add(lock(&node).await.unwrap());
        node.run(&request).await.unwrap();
        assert_eq!(node.files(), backup.files, "change {change}");
    }
}

/// It has locked it between this agent's own lock, of a parent, and here.
#[tokio::test]
async fn a_first_directory_that_another_agent_has_locked_is_left_alone() {
    let (backup, mut node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let other = lock(&node).await.unwrap();
    let error = node.run(&request).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Lock(LockError::Busy { .. })), "{error:?}");
    assert_eq!(error.kind(), AgentErrorKind::Busy);
    assert!(node.names().is_empty(), "{:?}", node.names());
    drop(other);
    assert!(node.run_killed(&request, 45).await);
    node.locks = Locks::default();
    let other = lock(&node).await.unwrap();
    let error = try_undo(&node, &request).await.unwrap_err();
    assert_eq!(error.kind(), AgentErrorKind::Busy, "{error:?}");
    assert!(node.is_marked());
    drop(other);
    assert_eq!(try_undo(&node, &request).await.unwrap(), None);
}

/// What was seen of the node is not how it is.
#[tokio::test]
async fn a_first_directory_that_another_agent_has_made_is_left_alone() {
    let (backup, node) = (Backup::whole().await, Node::new());
    fs::remove_dir(node.path("data")).unwrap();
    let request = backup.request(&node).await;
    let prepared = prepare(&Context::default(), &node.machine, &request, &node.path("spool")).await.unwrap();
    let Prepared { facts, .. } = prepared;
    fs::create_dir_all(node.path("data/node-backup/data/ks")).unwrap();
    let begun = begin(&facts, &Marker::of(&request), &Locks::default(), &Steps::default());
    let error = begun.err().unwrap();
    assert!(matches!(&error, RestoreError::Lock(LockError::Made { .. })), "{error:?}");
    assert_eq!(error.kind(), AgentErrorKind::Busy);
    assert!(node.path("data/node-backup/data/ks").exists(), "what it has staged stays");
}
