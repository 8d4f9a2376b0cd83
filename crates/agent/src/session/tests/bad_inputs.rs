//! Requests that no server of this build sends: each is answered, nothing is touched, and the agent goes on.

use std::fs;
use std::path::Path;

use cassy_agent_protocol::{
    AgentError, CheckSnapshotRequest, DataDirectories, LockRequest, SnapshotTag, SweepRequest,
};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn tag() -> SnapshotTag {
    "cassy-0193b0a0-0000-7000-8000-000000000001-1".parse().unwrap()
}

async fn asked(server: &mut Server, id: u64, request: Request) -> Result<Reply, AgentError> {
    server.request(id, request).await;
    server.reply(id).await
}

#[tokio::test]
async fn directories_that_cannot_be_a_nodes_are_refused() {
    let node = tempfile::tempdir().unwrap();
    let file = node.path().join("file");
    fs::write(&file, "x").unwrap();
    let store = tempfile::tempdir().unwrap();
    fs::create_dir(store.path().join("store")).unwrap();
    let mut server = Server::greeted(60_000).await;
    let mut id = 0;
    let relative = ["", ".", "..", "data", "../other", "-x", "--option", ";rm -rf x", "$(id)"];
    for directory in relative {
        id += 1;
        let wanted = Request::Lock(LockRequest { directory: directory.to_owned(), wait_ms: u64::MAX });
        let error = asked(&mut server, id, wanted).await.unwrap_err();
        assert!(error.message.contains("not an absolute path"), "{error}");
    }
    asked(&mut server, 50, lock(node.path(), 0)).await.unwrap();
    let below = |name: &str| node.path().join(name).to_str().unwrap().to_owned();
    let missing = [
        below("missing"),
        below("file"),
        below("nul\0byte"),
        below(&"x".repeat(256)),
        below(&"x/".repeat(3_000)),
    ];
    for directory in
        missing.into_iter().chain(relative.map(str::to_owned).into_iter().filter(|d| d.len() > 2))
    {
        let directories = || vec![directory.clone()];
        let sweep = SweepRequest { data_directories: directories(), tags: vec![tag()] };
        let check = CheckSnapshotRequest { data_directories: directories(), tag: tag(), tables: vec![] };
        for request in [
            Request::ListSuperseded(superseded(store.path(), directories())),
            Request::ListSnapshots(DataDirectories { data_directories: directories() }),
            Request::SweepSnapshots(sweep),
            Request::CheckSnapshot(check),
        ] {
            id += 100;
            let error = asked(&mut server, id, request).await.unwrap_err();
            assert!(error.message.contains("data directory"), "{directory:?}: {error}");
        }
    }
    assert_eq!(fs::read_dir(node.path()).unwrap().count(), 1);
}

/// Somebody else's directory, as a node's data: only what is exactly ours by place and name would go.
#[tokio::test]
async fn in_a_directory_of_somebody_else_nothing_is_touched() {
    let other = tempfile::tempdir().unwrap();
    let kept = [
        "backups/nb-1-big-Data.db".to_owned(),
        format!("ks/t-{ID}/nb-1-big-Data.db"),
        format!("ks/t-{ID}/snapshots/mine/nb-1-big-Data.db"),
        format!("ks/t-{ID}/snapshots/{}x/nb-1-big-Data.db", tag()),
        format!("ks/t-{ID}/{}/nb-1-big-Data.db", tag()),
        format!("snapshots/{}/nb-1-big-Data.db", tag()),
        format!("ks/{}/nb-1-big-Data.db", tag()),
        "home/user/.ssh/authorized_keys".to_owned(),
    ];
    for name in &kept {
        let path = other.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let mut server = Server::greeted(60_000).await;
    asked(&mut server, 1, lock(other.path(), 0)).await.unwrap();
    let directories = || vec![other.path().to_str().unwrap().to_owned()];
    let store = tempfile::tempdir().unwrap();
    fs::create_dir(store.path().join("store")).unwrap();
    let noted = superseded(store.path(), directories());
    let listed = asked(&mut server, 2, Request::ListSuperseded(noted.clone())).await;
    assert_eq!(listed, Ok(Reply::Superseded { files: 0 }));
    let cleared = asked(&mut server, 3, Request::ClearSuperseded(noted)).await;
    assert_eq!(cleared, Ok(Reply::Cleared { files: 0 }));
    let sweep = SweepRequest { data_directories: directories(), tags: vec![tag()] };
    let swept = asked(&mut server, 4, Request::SweepSnapshots(sweep)).await;
    assert_eq!(swept, Ok(Reply::Cleared { files: 0 }));
    for name in &kept {
        assert_eq!(&fs::read_to_string(other.path().join(name)).unwrap(), name);
    }
}

#[tokio::test]
async fn greetings_with_times_beyond_all_clocks_are_answered() {
    for (heartbeat_ms, silence_ms) in [(u64::MAX, u64::MAX), (u64::MAX, 60_000), (0, u64::MAX)] {
        let mut server = Server::start();
        server.write(PREAMBLE).await;
        let hello = ServerHello { job_id: "j".repeat(100_000), epoch: i64::MIN, heartbeat_ms, silence_ms };
        server.send(&ToAgent::Hello(hello)).await;
        assert!(matches!(server.next().await, FromAgent::Hello(_)));
        let missing = Request::Inspect(InspectRequest { data_directories: vec!["/nonexistent".to_owned()] });
        asked(&mut server, u64::MAX, missing).await.unwrap_err();
        server.input = None;
        server.ended().await.unwrap();
    }
}

#[tokio::test]
async fn a_store_that_is_none_is_refused() {
    let mut server = Server::greeted(60_000).await;
    let key: ObjectKey = "cassy/1/c/probe/p".parse().unwrap();
    for (id, location) in (1..).zip([
        "",
        "file://",
        "file:///",
        "file:///a/../../b",
        "file:///a\0b",
        "file://169.254.169.254/latest",
        "http://169.254.169.254/latest/meta-data",
        "s3://bucket",
        "--option",
    ]) {
        let check = CheckStoreRequest {
            store: StoreGrant { location: location.to_owned() },
            key: key.clone(),
            content: "x".to_owned(),
        };
        let error = asked(&mut server, id, Request::CheckStore(check)).await.unwrap_err();
        assert_eq!(error.kind, AgentErrorKind::Permanent, "{location}: {error}");
        assert!(!error.message.is_empty());
    }
    assert!(!Path::new("file:").exists());
}
