//! A node as it should be, and nodes that lie, over a fake JMX server on a real socket.

mod fake;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cassy_cassandra::{
    Deadlines, ErrorClass, Keyspaces, NodeError, NodeSession, OperationMode, SnapshotTag, TcpDialer,
};
use fake::{Answer, PLENTY, chain, healthy, lying, start, texts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_healthy_node_is_read() {
    let mut node = start(healthy()).await.connect().await.expect("connects");
    let first: Uuid = "6d194555-f6eb-41d0-c000-000000000001".parse().expect("uuid");
    assert_eq!(
        (node.release_version().major, node.cluster_name().await.expect("read").as_str()),
        (5, "Größe / <b>")
    );
    assert!(node.partitioner().await.expect("read").ends_with("Murmur3Partitioner"));
    assert_eq!(node.operation_mode().await.expect("read"), OperationMode::Normal);
    assert_eq!(node.local_host_id().await.expect("read"), first);
    let ring = node.endpoint_to_host_id().await.expect("read");
    assert_eq!(ring.get(&"::1".parse().expect("ip")), Some(&first));
    assert_eq!(node.live_nodes().await.expect("read").len(), 2);
    assert!(node.unreachable_nodes().await.expect("read").is_empty());
    assert!(node.joining_nodes().await.expect("read").is_empty());
    assert!(node.leaving_nodes().await.expect("read").is_empty());
    assert_eq!(node.moving_nodes().await.expect("read").len(), 1);
    assert_eq!(node.keyspaces().await.expect("read"), ["ks1", "system"]);
    assert_eq!(node.data_file_locations().await.expect("read"), ["/data/1", "/data/2"]);
    assert_eq!(node.commit_log_location().await.expect("read").as_deref(), Some("/commitlog"));
    assert_eq!(node.saved_caches_location().await.expect("read"), None);
    assert!(node.incremental_backups_enabled().await.expect("read"));
    let address = "10.0.0.2".parse().expect("ip");
    assert_eq!(node.tokens(address).await.expect("read"), ["-9223372036854775808", "17"]);
    assert_eq!(
        (
            node.datacenter(address).await.expect("read").as_str(),
            node.rack(address).await.expect("read").as_str()
        ),
        ("dc1", "rack1")
    );
    let table = |table: &str| ("ks1".to_owned(), table.to_owned());
    assert_eq!(node.tables().await.expect("read"), [table("t1"), table("t2")]);
    node.close().await.expect("closes");
}

#[tokio::test]
async fn snapshots_name_their_tag_and_keyspaces() {
    let fake = start(healthy()).await;
    let mut node = fake.connect().await.expect("connects");
    let tag = SnapshotTag::of(Uuid::from_u128(7), 2);
    let keyspaces = Keyspaces::new(vec!["ks2".into(), "ks1".into()]).expect("valid");
    node.flush(&keyspaces, PLENTY).await.expect("flushes");
    node.take_snapshot(tag, &keyspaces, PLENTY).await.expect("snapshots");
    node.clear_snapshot(tag, &keyspaces, PLENTY).await.expect("clears");
    let log = fake.log.lock().expect("not poisoned").clone();
    let expected = [
        "forceKeyspaceFlush(java.lang.String,[Ljava.lang.String;) ks1 ".to_owned(),
        "forceKeyspaceFlush(java.lang.String,[Ljava.lang.String;) ks2 ".to_owned(),
        format!("takeSnapshot(java.lang.String,java.util.Map,[Ljava.lang.String;) {tag} [] ks1,ks2"),
        format!("clearSnapshot(java.util.Map,java.lang.String,[Ljava.lang.String;) [] {tag} ks1,ks2"),
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn a_snapshot_that_does_not_return_is_unknown() {
    let mut node = lying("takeSnapshot", Answer::Silence).await.connect().await.expect("connects");
    let keyspaces = Keyspaces::new(vec!["ks1".into()]).expect("valid");
    let tag = SnapshotTag::of(Uuid::nil(), 1);
    let error = node.take_snapshot(tag, &keyspaces, SHORT).await.expect_err("silent");
    assert!(matches!(error, NodeError::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Transient);
    node.clear_snapshot(tag, &keyspaces, PLENTY).await.expect("the session goes on");
    let refused =
        lying("takeSnapshot", Answer::Recorded("server17-agent/38-invoke-takeSnapshot-Map-IOException"))
            .await;
    let error = refused
        .connect()
        .await
        .expect("connects")
        .take_snapshot(tag, &keyspaces, PLENTY)
        .await
        .expect_err("refused");
    let expected = format!(
        "node 127.0.0.1:{}: Cassandra refused: takeSnapshot {tag}: java.io.IOException: Snapshot exists already exists.",
        refused.port
    );
    assert_eq!(chain(&error), expected);
}

#[tokio::test]
async fn versions_are_refused_by_name() {
    for (version, reason) in [
        ("6.0.0", "transactional log"),
        ("5.1-alpha", "transactional log"),
        ("3.0.29", "3.11"),
        ("2.2.19", "3.11"),
    ] {
        let error =
            lying("ReleaseVersion", Answer::Text(version)).await.connect().await.expect_err("refused");
        assert!(
            matches!(&error, NodeError::UnsupportedVersion { version: named, reason: said, .. } if named == version && said.contains(reason)),
            "{error:?}"
        );
    }
    let error =
        lying("ReleaseVersion", Answer::Text("new\u{1b}[2J")).await.connect().await.expect_err("refused");
    assert!(
        chain(&error).ends_with("implausible ReleaseVersion: not a version: \"new\\u{1b}[2J\""),
        "{}",
        chain(&error)
    );
    let error = lying("isRegistered", Answer::Bool(false)).await.connect().await.expect_err("refused");
    assert!(matches!(error, NodeError::NotCassandra { .. }), "{error:?}");
}

#[tokio::test]
async fn lies_are_refused() {
    async fn refused<T: std::fmt::Debug>(
        name: &'static str,
        answer: Answer,
        read: impl AsyncFnOnce(&mut NodeSession) -> Result<T, NodeError>,
    ) -> String {
        let mut node = lying(name, answer).await.connect().await.expect("connects");
        let error = read(&mut node).await.expect_err(name);
        assert!(matches!(error, NodeError::Implausible { .. }), "{error:?}");
        error.to_string()
    }
    for address in ["1.2.3.4;id", "node1.example", "fe80::1%eth0", "/10.0.0.1", ""] {
        let text =
            refused("LiveNodes", texts(&["10.0.0.2", address]), async |node| node.live_nodes().await).await;
        assert!(text.contains("implausible LiveNodes: not an IP address: "), "{text}");
    }
    let crowd = Answer::Texts(vec!["10.0.0.1".to_owned(); 10_001]);
    assert!(
        refused("LiveNodes", crowd, async |node| node.live_nodes().await).await.contains("10001 entries")
    );
    refused("LiveNodes", Answer::Text("10.0.0.1"), async |node| node.live_nodes().await).await;
    refused("LiveNodes", Answer::Null, async |node| node.live_nodes().await).await;
    for directory in ["/", "data", "/data/../..", "/data\n", ""] {
        refused("AllDataFileLocations", texts(&[directory]), async |node| node.data_file_locations().await)
            .await;
    }
    refused("CommitLogLocation", Answer::Text("/.."), async |node| node.commit_log_location().await).await;
    refused("LocalHostId", Answer::Text("1"), async |node| node.local_host_id().await).await;
    let host_id = "6d194555-f6eb-41d0-c000-000000000001";
    for ring in [
        vec![("10.0.0.1", "?")],
        vec![("a", host_id)],
        vec![("10.0.0.1", host_id), ("::ffff:10.0.0.1", host_id)],
    ] {
        refused("EndpointToHostId", Answer::Map(ring), async |node| node.endpoint_to_host_id().await).await;
    }
    refused("ClusterName", Answer::Text("a\nb"), async |node| node.cluster_name().await).await;
    refused("Keyspaces", texts(&["../etc"]), async |node| node.keyspaces().await).await;
    refused("IncrementalBackupsEnabled", Answer::Text("true"), async |node| {
        node.incremental_backups_enabled().await
    })
    .await;
    refused("getTokens", texts(&["1;2"]), async |node| node.tokens("10.0.0.2".parse().expect("ip")).await)
        .await;
    for name in ["nonsense", "d:type=Tables,keyspace=ks1", "d:type=Tables,keyspace=ks1,table=\"../t\""] {
        refused("queryNames", Answer::Names(vec![name]), async |node| node.tables().await).await;
    }
}

#[tokio::test]
async fn what_is_no_node_is_named_with_a_hint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let deadlines = Deadlines { connect: SHORT, ..Deadlines::default() };
    let dialer = Arc::new(TcpDialer);
    let error = NodeSession::connect(dialer.clone(), "127.0.0.1", port, deadlines).await.expect_err("silent");
    assert!(matches!(error, NodeError::Silent { .. }) && error.class() == ErrorClass::Transient, "{error:?}");
    assert!(error.hint().expect("a hint").contains("takes connections but nobody answers"));
    drop(listener);
    let error = NodeSession::connect(dialer.clone(), "127.0.0.1", port, deadlines).await.expect_err("closed");
    assert!(error.hint().expect("a hint").starts_with("Nothing listens there"), "{error:?}");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = server.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.expect("a client");
        stream.write_all(b"SSH-2.0-x\r\n").await.expect("sent");
        let _closed: io::Result<u8> = stream.read_u8().await;
    });
    let error = NodeSession::connect(dialer, "127.0.0.1", port, deadlines).await.expect_err("ssh");
    let expected = format!(
        "node 127.0.0.1:{port}: the configured JMX port is not JMX: 127.0.0.1:{port}: not a JMX port: this is an SSH server"
    );
    assert_eq!((chain(&error), error.class()), (expected, ErrorClass::Permanent));
}
