//! A restore that is stopped: it is taken back, or it finishes; and what was placed is never taken for staged.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use cassy_agent_protocol::{AgentErrorKind, RestoreRequest};

use super::super::error::RestoreError;
use super::super::tree::Steps;
use super::super::undo;
use super::aside::{everything, full_node, request};
use super::fixture::{Backup, Node, table};
use crate::context::Context;

const JOB: &str = "job-1";

pub(super) async fn undone(node: &Node, request: &RestoreRequest) -> Option<String> {
    try_undo(node, request).await.unwrap()
}

pub(super) async fn try_undo(node: &Node, request: &RestoreRequest) -> Result<Option<String>, RestoreError> {
    let context = Context { locks: node.locks.clone(), ..Context::default() };
    Box::pin(undo(&context, &node.machine, request, &node.path("spool"))).await
}

/// A node, empty or full, and the request for it.
async fn scene(backup: &Backup, is_full: bool) -> (Node, RestoreRequest) {
    let node = if is_full { full_node() } else { Node::new() };
    let request = if is_full { request(backup, &node, JOB).await } else { backup.request(&node).await };
    (node, request)
}

/// Told to stop before the change to the disk of this number.
async fn run_cancelled(node: &Node, request: &RestoreRequest, change: i64) -> Result<(), RestoreError> {
    let (context, left) = (Context::default(), Some(Arc::new(AtomicI64::new(change))));
    let steps = Steps { left, cancel: Some(context.cancel.clone()) };
    node.run_with(&context, request, steps).await.map(drop)
}

#[tokio::test]
async fn whatever_instant_it_is_told_to_stop_at_it_is_undone_or_finishes() {
    let backup = Backup::whole().await;
    for is_full in [false, true] {
        let (mut stopped, mut finished) = (0, 0);
        while finished < 20 {
            let change = stopped + finished;
            let (node, request) = scene(&backup, is_full).await;
            let (before, names) = (everything(&node), node.names());
            match run_cancelled(&node, &request, change).await {
                Ok(()) => finished += 1,
                Err(error) => {
                    assert_eq!(error.kind(), AgentErrorKind::Cancelled, "change {change}: {error:?}");
                    assert_eq!(undone(&node, &request).await, None, "change {change}");
                    assert_eq!((everything(&node), node.names()), (before, names), "change {change}");
                    assert_eq!(undone(&node, &request).await, None, "change {change}: twice");
                    stopped += 1;
                    node.run(&request).await.unwrap();
                }
            }
            assert!(!node.is_marked(), "change {change}: it is complete");
            let (node_files, wanted) = (node.files(), &backup.files);
            for (found, wanted) in node_files.iter().zip(wanted) {
                assert!(wanted.iter().all(|(path, content)| found.get(path) == Some(content)));
            }
        }
        assert!(stopped > 20, "only {stopped} were stopped");
    }
}

#[tokio::test]
async fn whatever_instant_its_agent_is_killed_at_it_is_undone_unless_files_are_placed() {
    let backup = Backup::whole().await;
    for is_full in [false, true] {
        let (mut taken_back, mut left) = (0, 0);
        for change in 0.. {
            let (node, request) = scene(&backup, is_full).await;
            let before = everything(&node);
            if !node.run_killed(&request, change).await {
                let (after, told) = (everything(&node), undone(&node, &request).await.unwrap());
                assert!(told.ends_with("the restore is complete"), "{told}");
                assert!(!node.is_marked() && after != before && everything(&node) == after);
                break;
            }
            match undone(&node, &request).await {
                None => {
                    // An empty directory may be left of the first file that was to be placed.
                    assert_eq!(everything(&node), before, "change {change}");
                    assert!(!node.names().contains(&"node-backup".to_owned()), "change {change}");
                    taken_back += 1;
                }
                Some(told) if told.ends_with("the restore is complete") => {
                    assert!(!node.is_marked(), "change {change}");
                }
                Some(told) => {
                    assert!(told.contains("until the same restore is called again"), "{told}");
                    assert!(node.is_marked(), "change {change}");
                    left += 1;
                }
            }
            node.run(&request).await.unwrap_or_else(|error| panic!("after change {change}: {error:?}"));
            assert!(!node.is_marked());
        }
        assert!(taken_back > 20 && left > 20, "{taken_back} {left}");
    }
}

/// What another job has moved is not put back: what is left of the data before must not start.
#[tokio::test]
async fn half_of_the_data_before_is_never_started_by_undoing() {
    let (backup, node) = (Backup::whole().await, full_node());
    let mut change = 0;
    while !node.path("data/moved-aside-job-0/backups/ks").exists() {
        assert!(node.run_killed(&request(&backup, &node, "job-0").await, change).await);
        change += 1;
    }
    let second = request(&backup, &node, JOB).await;
    run_cancelled(&node, &second, 8).await.unwrap_err();
    let told = undone(&node, &second).await.unwrap();
    assert!(told.contains("an earlier restore has moved things aside"), "{told}");
    assert!(node.is_marked());
    node.run(&second).await.unwrap();
}

#[tokio::test]
async fn a_download_stops_soon_and_leaves_nothing() {
    let (mut backup, node) = (Backup::empty(), Node::new());
    let large: Vec<u8> = (0..64_u32 << 18).flat_map(u32::to_le_bytes).collect();
    backup.sstable(&table("ks", "t", 1), None, "nb-1-big", 0, &large).await;
    let request = backup.request(&node).await;
    let context = Context::default();
    let (cancel, progress) = (context.cancel.clone(), context.progress.clone());
    let stop = tokio::spawn(async move {
        while progress.latest().bytes_done == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
        Instant::now()
    });
    let error = node.run_with(&context, &request, Steps::default()).await.unwrap_err();
    let took = stop.await.unwrap().elapsed();
    assert_eq!(error.kind(), AgentErrorKind::Cancelled, "{error:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(node.is_marked(), "until it is undone");
    assert_eq!(undone(&node, &request).await, None);
    assert!(node.names().is_empty());
}
