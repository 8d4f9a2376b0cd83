//! A dry run says what a restore would do and what stands in its way, and leaves nothing behind.

use std::sync::Arc;

use crate::world::{Action, NODE, Ring, Server, backup, host_id, restore};
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{HistorySelector, OperationErrorKind, Operations, RestoreAnswer, RestoreRequest, Status};
use tempfile::TempDir;

/// Everything that a restore does on a node beyond looking.
const CHANGES: [&str; 2] = ["lock", "restore"];

struct Scene {
    _directory: TempDir,
    ring: Arc<Ring>,
    server: Server,
    request: RestoreRequest,
}

impl Scene {
    /// A backup, and the request for a dry run of its restore.
    async fn set() -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        let snapshot_id = server.service.take_backup(backup(&cluster)).await.unwrap().snapshot_id;
        server.settled(&cluster).await;
        server.idle().await;
        ring.log.lock().unwrap().clear();
        let request = RestoreRequest { dry_run: true, ..restore(&cluster, &snapshot_id) };
        Self { _directory: directory, ring, server, request }
    }

    async fn answer(&self) -> RestoreAnswer {
        self.server.service.restore_backup(self.request.clone()).await.unwrap()
    }

    /// Nothing was done or filed, and no agent is left.
    async fn nothing_is_left(&self) {
        assert_eq!(self.ring.steps(&CHANGES), Vec::<String>::new());
        assert_eq!(self.ring.agents(), 0);
        assert!(self.server.catalog.unfinished_jobs().await.unwrap().is_empty());
        let snapshot_id = Some(self.request.snapshot_id.clone());
        let selector = HistorySelector { snapshot_id, ..HistorySelector::default() };
        assert_eq!(self.server.service.list_restores(selector).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let scene = Scene::set().await;
    let answer = scene.answer().await;
    assert_eq!((answer.status, answer.target_ips), (Status::Initialized, vec![NODE.to_owned()]));
    assert_eq!(answer.snapshot_id, scene.request.snapshot_id);
    let lines: Vec<_> = answer.message.lines().collect();
    assert_eq!(lines[0], "dry run: nothing was changed; the restore can begin");
    assert!(lines[1].starts_with(&format!("{NODE}: gets the data of {NODE} (host id {})", host_id())));
    assert!(lines[1].ends_with(&format!("{}.jsonl.zst", answer.snapshot_id)), "{lines:?}");
    assert_eq!(lines[2], format!("{NODE}: 3 files, 7 bytes to download; 9 bytes are free in /data"));
    assert_eq!(lines[3], format!("{NODE}: warning: it is late"));
    assert_eq!(lines.len(), 4, "{lines:?}");
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_dry_run_is_listed_and_no_error() {
    let scene = Scene::set().await;
    *scene.ring.findings.lock().unwrap() = vec!["it is running".to_owned(), "it is full".to_owned()];
    let answer = scene.answer().await;
    assert_eq!(answer.status, Status::Initialized);
    assert!(answer.message.contains("would be refused, for 2 reasons"), "{}", answer.message);
    for finding in ["it is running", "it is full"] {
        assert!(
            answer.message.contains(&format!("{NODE}: would be refused: {finding}")),
            "{}",
            answer.message
        );
    }
    scene.nothing_is_left().await;
    scene.ring.findings.lock().unwrap().clear();

    scene.ring.on("agent", Action::Fail(NodeErrorKind::Unreachable));
    let answer = scene.answer().await;
    assert!(answer.message.contains("agent was made to fail"), "{}", answer.message);
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn a_dry_run_says_that_the_node_whose_place_is_taken_is_alive() {
    let mut scene = Scene::set().await;
    scene.request.source_of.insert("127.0.0.5".to_owned(), NODE.to_owned());
    let answer = scene.answer().await;
    assert!(answer.message.contains(&format!("would be refused: {NODE} (host id")), "{}", answer.message);
    assert!(answer.message.contains(&format!("127.0.0.5: gets the data of {NODE}")), "{}", answer.message);
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_in_a_dry_run_leaves_no_agent() {
    let scene = Scene::set().await;
    scene.ring.on("plan_restore", Action::Hang);
    let asked = scene.server.service.restore_backup(scene.request.clone());
    tokio::select! {
        answer = asked => panic!("{answer:?}"),
        () = scene.ring.reached.notified() => {}
    }
    scene.ring.heal();
    scene.ring.no_agents().await;
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn dry_runs_at_once_are_bounded() {
    let scene = Scene::set().await;
    scene.ring.on("plan_restore", Action::Hang);
    let ask = || {
        let (service, request) = (Arc::clone(&scene.server.service), scene.request.clone());
        tokio::spawn(async move { service.restore_backup(request).await })
    };
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(ask());
        scene.ring.reached.notified().await;
    }
    let refused = ask().await.unwrap().unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::Exhausted, "{refused}");
    scene.ring.heal();
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().status, Status::Initialized);
    }
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn what_would_be_moved_aside_is_told_and_then_where_it_is() {
    let mut scene = Scene::set().await;
    scene.request.move_aside = true;
    let answer = scene.answer().await;
    let told = format!("{NODE}: 4 files in /data (24 bytes) would be moved to /data/moved-aside-");
    assert!(answer.message.contains(&told), "{}", answer.message);
    scene.nothing_is_left().await;
    scene.request.dry_run = false;
    let answer = scene.answer().await;
    let told = format!("{NODE}: 4 files in /data (24 bytes) are moved to /data/moved-aside-");
    assert!(answer.message.contains(&told), "{}", answer.message);
    scene.server.idle().await;
}
