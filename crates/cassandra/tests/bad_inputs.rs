//! What a node can answer that no node should: kept as data, or refused with what was asked and what came.

mod fake;

use cassy_cassandra::{Keyspaces, NodeError, NodeSession, SnapshotTag};
use fake::{Answer, Fake, PLENTY, chain, healthy, lying, start, texts};
use uuid::Uuid;

async fn session(fake: &Fake) -> NodeSession {
    fake.connect().await.expect("connects")
}

/// What is said when `read` meets this answer.
async fn refused<T: std::fmt::Debug>(
    name: &'static str,
    answer: Answer,
    read: impl AsyncFnOnce(&mut NodeSession) -> Result<T, NodeError>,
) -> String {
    let fake = lying(name, answer).await;
    let error = read(&mut session(&fake).await).await.expect_err(name);
    assert!(matches!(error, NodeError::Implausible { .. } | NodeError::Protocol { .. }), "{error:?}");
    let text = chain(&error);
    assert!(text.contains(name) && text.len() < 500 && !text.contains(char::is_control), "{text}");
    text
}

#[tokio::test]
async fn names_of_cassandras_own_directories_are_names_of_keyspaces_and_tables() {
    let mut answers = healthy();
    answers.insert("Keyspaces", texts(&["snapshots", "backups", "Snapshots"]));
    let names = vec![
        "org.apache.cassandra.db:type=Tables,keyspace=snapshots,table=snapshots",
        "org.apache.cassandra.db:type=Tables,keyspace=backups,table=backups",
        "org.apache.cassandra.db:type=Tables,keyspace=backups,table=snapshots",
    ];
    answers.insert("queryNames", Answer::Names(names));
    let fake = start(answers).await;
    let mut node = session(&fake).await;
    let keyspaces = node.keyspaces().await.expect("read");
    assert_eq!(keyspaces, ["Snapshots", "backups", "snapshots"]);
    let table = |keyspace: &str, table: &str| (keyspace.to_owned(), table.to_owned());
    let expected =
        [table("backups", "backups"), table("backups", "snapshots"), table("snapshots", "snapshots")];
    assert_eq!(node.tables().await.expect("read"), expected);
    let tag = SnapshotTag::of(Uuid::from_u128(7), 1);
    let keyspaces = Keyspaces::new(keyspaces).expect("valid");
    node.take_snapshot(tag, &keyspaces, PLENTY).await.expect("taken");
    node.clear_snapshot(tag, &keyspaces, PLENTY).await.expect("cleared");
    let log = fake.log.lock().expect("not poisoned").clone();
    assert!(log.iter().all(|call| call.ends_with("Snapshots,backups,snapshots")), "{log:?}");
    assert!(log.iter().all(|call| call.contains(&tag.to_string())), "{log:?}");
}

#[tokio::test]
async fn names_differ_by_case_and_may_be_as_long_as_cassandra_allows() {
    let longest = "x".repeat(48);
    let fake = lying("Keyspaces", texts(&["mixedcase", "MixedCase", &longest, &"x".repeat(222)])).await;
    let names = session(&fake).await.keyspaces().await.expect("read");
    assert_eq!(names, ["MixedCase", "mixedcase", &longest, &"x".repeat(222)]);
    let text = refused("Keyspaces", texts(&[&"x".repeat(223)]), async |node| node.keyspaces().await).await;
    assert!(text.contains("not a name of a keyspace"), "{text}");
}

#[tokio::test]
async fn a_comma_a_dash_and_a_statement_are_no_names() {
    let names = [
        "a,b",
        "-x",
        "--option",
        "\"quoted\"",
        "'; DROP TABLE job; --",
        "<script>",
        "é",
        "e\u{301}",
        ".",
        "a\0",
    ];
    for name in names {
        let text = refused("Keyspaces", texts(&["ks", name]), async |node| node.keyspaces().await).await;
        assert!(text.contains("not a name of a keyspace or table: "), "{text}");
        assert_eq!(Keyspaces::new(vec!["ks".to_owned(), name.to_owned()]), None, "{name}");
    }
}

#[tokio::test]
async fn a_clusters_name_is_data_whatever_it_holds() {
    for name in [
        "'; DROP TABLE cluster_info; --",
        "<script>alert(1)</script>",
        "\u{202e}txt.exe\u{2066}",
        "$(id);`id`|x ../../etc",
        "Größe",
        "Gro\u{308}ße",
        "-oProxyCommand=id",
    ] {
        let fake = lying("ClusterName", Answer::Text(name)).await;
        assert_eq!(session(&fake).await.cluster_name().await.expect("read"), name);
    }
    for name in ["", "a\nb", "a\0b", "\u{1b}[2J"] {
        refused("ClusterName", Answer::Text(name), async |node| node.cluster_name().await).await;
    }
}

#[tokio::test]
async fn addresses_where_no_node_is_are_refused() {
    const HOST_ID: &str = "6d194555-f6eb-41d0-c000-000000000001";
    for address in [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "0.0.0.0",
        "[::]",
        "::",
        "224.0.0.1",
        "localhost",
        "metadata.internal",
        "1.2.3.4;id",
        "file:///etc/hosts",
    ] {
        let ring = Answer::Map(vec![("10.0.0.2", HOST_ID), (address, HOST_ID)]);
        let text = refused("EndpointToHostId", ring, async |node| node.endpoint_to_host_id().await).await;
        assert!(text.contains(address), "{text}");
        let live = texts(&["10.0.0.2", address]);
        refused("LiveNodes", live, async |node| node.live_nodes().await).await;
    }
}

#[tokio::test]
async fn what_is_named_twice_is_there_once() {
    let named = texts(&["/data/1", "/data//1/", "/data/2", "/data/x/../1"]);
    let fake = lying("AllDataFileLocations", named).await;
    assert_eq!(session(&fake).await.data_file_locations().await.expect("read"), ["/data/1", "/data/2"]);
    let table = "org.apache.cassandra.db:type=Tables,keyspace=ks1,table=t1";
    let fake = lying("queryNames", Answer::Names(vec![table, table])).await;
    assert_eq!(session(&fake).await.tables().await.expect("read").len(), 1);
}

#[tokio::test]
async fn directories_that_are_none_are_refused() {
    let (long, longer) = (format!("/{}", "x/".repeat(3000)), format!("/{}", "x".repeat(5000)));
    for directory in
        ["/", "//", "/.", "data", "./data", "../other", "/data/../..", "", "/a\0b", &long, &longer]
    {
        let read = async |node: &mut NodeSession| node.data_file_locations().await;
        let text = refused("AllDataFileLocations", texts(&["/data/1", directory]), read).await;
        assert!(text.contains("directory"), "{text}");
    }
}

#[tokio::test]
async fn numbers_that_fit_nowhere_are_refused() {
    for token in ["1e+400", "NaN", "-", "0x10", "--1", "+1", ""] {
        let read = async |node: &mut NodeSession| node.tokens("10.0.0.2".parse().expect("ip")).await;
        let text = refused("getTokens", texts(&["17", token]), read).await;
        assert!(text.contains("not a token"), "{text}");
    }
    // A token of a RandomPartitioner is larger than any machine word.
    let fake = lying("getTokens", texts(&["170141183460469231731687303715884105728"])).await;
    let address = "10.0.0.2".parse().expect("ip");
    assert_eq!(session(&fake).await.tokens(address).await.expect("read").len(), 1);
    for version in ["99999999999.0", "-1.0", "5", "", "NaN", "5.99999999999"] {
        let fake = lying("ReleaseVersion", Answer::Text(version)).await;
        let error = fake.connect().await.expect_err("refused");
        assert!(chain(&error).contains("ersion"), "{error:?}");
    }
}

#[tokio::test]
async fn crowds_are_refused_by_their_number() {
    let crowd = |count: usize| Answer::Texts(vec!["10.0.0.1".to_owned(); count]);
    let text = refused("LiveNodes", crowd(100_000), async |node| node.live_nodes().await).await;
    assert!(text.contains("100000 entries, more than 10000"), "{text}");
    let directories = Answer::Texts(vec!["/d".to_owned(); 1_001]);
    refused("AllDataFileLocations", directories, async |node| node.data_file_locations().await).await;
    let names = Answer::Texts(vec!["k".to_owned(); 50_001]);
    refused("Keyspaces", names, async |node| node.keyspaces().await).await;
}

/// As Java writes a `java.lang.Long`.
fn long(value: i64) -> Answer {
    let class = |name: &str, id: u64, fields: &[u8]| {
        let length = u16::try_from(name.len()).expect("short").to_be_bytes();
        [&[0x72][..], &length, name.as_bytes(), &id.to_be_bytes(), &[2], fields, &[0x78]].concat()
    };
    let of_long = class("java.lang.Long", 0x3b8b_e490_cc8f_23df, b"\0\x01J\0\x05value");
    let of_number = class("java.lang.Number", 0x86ac_951d_0b94_e08b, &[0, 0]);
    Answer::Raw([&[0x73][..], &of_long, &of_number, &[0x70], &value.to_be_bytes()].concat())
}

#[tokio::test]
async fn times_that_no_clock_shows_are_refused_or_kept_within_all_numbers() {
    let read = async |node: &mut NodeSession| node.uptime().await;
    for uptime in [-1, i64::MIN] {
        refused("Uptime", long(uptime), read).await;
    }
    for uptime in [0, i64::MAX] {
        let fake = lying("Uptime", long(uptime)).await;
        let known = session(&fake).await.uptime().await.expect("read");
        assert_eq!(known.as_millis(), u128::try_from(uptime).expect("not negative"));
    }
}

#[tokio::test]
async fn an_address_that_is_there_twice_in_a_ring_is_refused() {
    let ring = |address: &'static str| {
        Answer::Map(vec![
            ("10.0.0.2", "6d194555-f6eb-41d0-c000-000000000002"),
            (address, "6d194555-f6eb-41d0-c000-000000000003"),
        ])
    };
    for twin in ["10.0.0.2", "::ffff:10.0.0.2"] {
        let read = async |node: &mut NodeSession| node.endpoint_to_host_id().await;
        let text = refused("EndpointToHostId", ring(twin), read).await;
        assert!(text.contains("twice"), "{twin}: {text}");
    }
}

/// An object of any class is data: nothing of it is ever run, and it is no list.
#[tokio::test]
async fn objects_that_nobody_asked_for_are_refused() {
    let class = |name: &str| {
        let length = u16::try_from(name.len()).expect("short").to_be_bytes();
        [&[0x72][..], &length, name.as_bytes(), &[7; 8], &[2, 0, 0, 0x78, 0x70]].concat()
    };
    let object = |name: &str| [vec![0x73], class(name)].concat();
    let cycle = [&[0x75][..], &class("[Ljava.lang.Object;"), &[0, 0, 0, 1, 0x71, 0, 0x7e, 0, 1]].concat();
    let endless = [&[0x75][..], &class("[Ljava.lang.Object;"), &[0x7f, 0xff, 0xff, 0xff]].concat();
    for raw in [
        object("org.apache.commons.collections.functors.InvokerTransformer"),
        object("com.example.Unknown"),
        cycle,
    ] {
        refused("LiveNodes", Answer::Raw(raw), async |node| node.live_nodes().await).await;
    }
    let fake = lying("LiveNodes", Answer::Raw(endless)).await;
    let error = session(&fake).await.live_nodes().await.expect_err("refused");
    assert!(chain(&error).contains("LiveNodes"), "{error:?}");
}
