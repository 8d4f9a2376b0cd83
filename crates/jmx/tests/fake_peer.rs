//! The client against a peer that misbehaves.

mod fake;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cassy_jmx::rmi::hash::{GET_ATTRIBUTE, INVOKE, LOOKUP, LOOKUP_BY_HASH, NEW_CLIENT};
use cassy_jmx::{Credentials, Error, Fault, Limits};
use fake::{ACK, Action, Fake, HOST, Recorder, connect, login, recorded, stub};

const PLENTY: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);
const STORAGE: &str = "org.apache.cassandra.db:type=StorageService";
const CLUSTER_NAME: &str = "jvm17-client/05-getAttribute-ClusterName";

fn reply(name: &str) -> Action {
    Action::Reply(recorded(name))
}

#[tokio::test]
async fn the_advertised_host_is_never_dialled() {
    let objects = Fake::server(|_| reply(CLUSTER_NAME)).await;
    let objects_port = objects.port;
    let registry =
        Fake::start(&ACK, move |_, _| Action::Reply(stub("jvm17-client/00-lookup", objects_port))).await;
    let dialer = Arc::new(Recorder::default());
    let mut client = connect(&dialer, registry.port, None, PLENTY).await.expect("connects");
    let name = client.get(STORAGE, "ClusterName").await.expect("reads");
    assert_eq!(name.view().as_str(), Ok("Test Cluster"));
    let dialled = dialer.dialled.lock().expect("not poisoned").clone();
    assert_eq!(dialled, [(HOST.to_owned(), registry.port), (HOST.to_owned(), objects.port)]);
    assert_eq!((registry.count(LOOKUP), objects.count(NEW_CLIENT), objects.count(GET_ATTRIBUTE)), (1, 1, 1));
}

#[tokio::test]
async fn one_port_is_dialled_once() {
    let server = Fake::server(|_| reply(CLUSTER_NAME)).await;
    let dialer = Arc::new(Recorder::default());
    let mut client = connect(&dialer, server.port, None, PLENTY).await.expect("connects");
    client.get(STORAGE, "ClusterName").await.expect("reads");
    assert_eq!(dialer.dialled.lock().expect("not poisoned").len(), 1);
}

#[tokio::test]
async fn what_is_no_jmx_is_named() {
    let cases: [(&'static [u8], &str); 3] = [
        (&[0x15, 3, 3, 0, 2, 2, 0x50], "a TLS port"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "an SSH server"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a web server (HTTP)"),
    ];
    for (greeting, expected) in cases {
        let server = Fake::start(greeting, |_, _| Action::Silence).await;
        let error = server.connect(PLENTY).await.expect_err("refused");
        assert_eq!(error.to_string(), format!("{HOST}:{}: not a JMX port: this is {expected}", server.port));
        assert_eq!(error.fault(), Fault::Caller);
    }
}

#[tokio::test]
async fn nothing_listens() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let error = connect(&Arc::new(Recorder::default()), port, None, PLENTY).await.expect_err("refused");
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::ConnectionRefused),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_peer_that_never_answers_meets_the_deadline() {
    // The handshake is cut off after its first byte.
    let silent = Fake::start(&[0x4e], |_, _| Action::Silence).await;
    let start = Instant::now();
    assert!(matches!(silent.connect(SHORT).await, Err(Error::Timeout { .. })));
    let silent = Fake::start(&ACK, |_, _| Action::Silence).await;
    assert!(matches!(silent.connect(SHORT).await, Err(Error::Timeout { .. })));
    let silent = Fake::server(|_| Action::Silence).await;
    let mut client = silent.connect(PLENTY).await.expect("connects");
    client.set_deadline(SHORT);
    let error = client.get(STORAGE, "ClusterName").await.expect_err("silent");
    let text = error.to_string();
    assert!(text.contains("300ms") && text.contains("read ClusterName of") && text.contains(HOST), "{text}");
    assert!(start.elapsed() < PLENTY);
}

#[tokio::test]
async fn a_slow_drip_is_read_but_not_for_ever() {
    let server = Fake::server(|call| {
        let pause = if call.is(INVOKE) { Duration::from_millis(50) } else { Duration::ZERO };
        Action::Drip(recorded("server17-agent/08-getAttribute-LiveNodes"), pause)
    })
    .await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    let nodes = client.get(STORAGE, "LiveNodes").await.expect("reads");
    assert_eq!(nodes.view().strings().expect("list").len(), 3);
    let error = client.invoke(STORAGE, "slow", &[], &[], SHORT).await.expect_err("too slow");
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn after_a_broken_reply_the_next_call_takes_a_new_connection_to_the_same_session() {
    let whole = recorded(CLUSTER_NAME);
    let mut wrong_type = whole.clone();
    wrong_type[0] = 0x52;
    let mut too_long = whole.clone();
    too_long.push(0x70);
    let mut neither = whole.clone();
    neither[7] = 3;
    for broken in [wrong_type, too_long, neither] {
        let server = Fake::server(move |call| match call.connection {
            0 => Action::Reply(broken.clone()),
            _ => reply(CLUSTER_NAME),
        })
        .await;
        let mut client = server.connect(PLENTY).await.expect("connects");
        let error = client.get(STORAGE, "ClusterName").await.expect_err("broken");
        assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
        assert_eq!(error.fault(), Fault::Peer);
        client.get(STORAGE, "ClusterName").await.expect("reads");
        let gets: Vec<_> = server.calls().into_iter().filter(|call| call.is(GET_ATTRIBUTE)).collect();
        assert_eq!(gets.iter().map(|call| call.connection).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((gets[0].target, server.count(NEW_CLIENT)), (gets[1].target, 1));
    }
}

#[tokio::test]
async fn a_reply_that_is_cut_off_is_asked_for_again_when_nothing_changes() {
    let server = Fake::server(|call| match call.connection {
        0 => Action::Last(recorded(CLUSTER_NAME)[..20].to_vec()),
        _ => reply(CLUSTER_NAME),
    })
    .await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    client.get(STORAGE, "ClusterName").await.expect("reads");

    let server = Fake::server(|_| Action::Last(recorded(CLUSTER_NAME)[..20].to_vec())).await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    let error = client.invoke(STORAGE, "takeSnapshot", &[], &[], PLENTY).await.expect_err("cut off");
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::UnexpectedEof),
        "{error:?}"
    );
    assert_eq!(server.count(INVOKE), 1);
}

#[tokio::test]
async fn a_lost_session_is_made_again_when_nothing_changes() {
    let act = |call: fake::Call| match call.connection {
        0 => reply("server17-agent/69-getAttribute-after-close-NoSuchObject"),
        _ => reply(CLUSTER_NAME),
    };
    let server = Fake::server(act).await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    client.get(STORAGE, "ClusterName").await.expect("reads");
    assert_eq!(server.count(NEW_CLIENT), 2);

    let server = Fake::server(act).await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    let error = client.invoke(STORAGE, "takeSnapshot", &[], &[], PLENTY).await.expect_err("gone");
    assert!(matches!(error, Error::SessionGone { .. }), "{error:?}");
    assert_eq!(server.count(NEW_CLIENT), 1);

    let server = Fake::server(|_| reply("server17-agent/69-getAttribute-after-close-NoSuchObject")).await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    assert!(matches!(client.get(STORAGE, "ClusterName").await, Err(Error::SessionGone { .. })));
    assert_eq!(server.count(NEW_CLIENT), 2);
}

#[tokio::test]
async fn exceptions_keep_the_connection_and_aborted_replies_lose_it() {
    let server = Fake::server(|call| {
        if call.is(INVOKE) {
            reply("server17-agent/38-invoke-takeSnapshot-Map-IOException")
        } else {
            reply(CLUSTER_NAME)
        }
    })
    .await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    let error = client.invoke(STORAGE, "takeSnapshot", &[], &[], PLENTY).await.expect_err("thrown");
    let thrown = error.exception().expect("an exception").thrown().to_string();
    assert_eq!(thrown, "java.io.IOException: Snapshot exists already exists.");
    client.get(STORAGE, "ClusterName").await.expect("reads");
    assert!(server.calls().iter().all(|call| call.connection == 0));

    let server = Fake::server(|call| match call.connection {
        0 => reply("server17-agent/62-invoke-testReturnUnserializable-TC_EXCEPTION"),
        _ => reply(CLUSTER_NAME),
    })
    .await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    let error = client.get(STORAGE, "Odd").await.expect_err("aborted");
    assert_eq!(error.exception().expect("an exception").class, "java.io.NotSerializableException");
    client.get(STORAGE, "ClusterName").await.expect("reads");
    assert_eq!(server.calls().last().expect("a call").connection, 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_in_the_middle_does_not_confuse_the_next() {
    let server =
        Fake::server(|call| if call.is(INVOKE) { Action::Silence } else { reply(CLUSTER_NAME) }).await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    let dropped = tokio::time::timeout(SHORT, client.invoke(STORAGE, "slow", &[], &[], PLENTY)).await;
    assert!(dropped.is_err());
    client.get(STORAGE, "ClusterName").await.expect("reads");
    assert_eq!(server.calls().last().expect("a call").connection, 1);
}

#[tokio::test]
async fn logins_are_refused_by_name_and_never_sent_in_clear() {
    let server = Fake::start(&ACK, |call, port| {
        if call.is(NEW_CLIENT) {
            reply("jvm17-client-auth/newClient-credentials-bad")
        } else {
            login(call, port).expect("a lookup")
        }
    })
    .await;
    let credentials = Credentials::new("controlRole", "wrong");
    assert_eq!(format!("{credentials:?}"), "Credentials(redacted)");
    let confidential = Arc::new(Recorder { confidential: true, ..Recorder::default() });
    let error =
        connect(&confidential, server.port, Some(credentials.clone()), PLENTY).await.expect_err("refused");
    assert!(
        matches!(&error, Error::Auth { message, .. } if message == "Authentication failed! Invalid username or password"),
        "{error:?}"
    );
    let before = server.count(NEW_CLIENT);
    let open = Arc::new(Recorder::default());
    let error = connect(&open, server.port, Some(credentials.clone()), PLENTY).await.expect_err("refused");
    assert!(matches!(error, Error::ClearText { .. }), "{error:?}");
    assert_eq!(server.count(NEW_CLIENT), before);
    let error =
        connect(&open, server.port, Some(credentials.allow_clear_text()), PLENTY).await.expect_err("refused");
    assert!(matches!(error, Error::Auth { .. }), "{error:?}");
}

#[tokio::test]
async fn a_stub_that_wants_tls_is_refused() {
    let server =
        Fake::start(&ACK, |_, port| Action::Reply(stub("ssl-UnicastRef2-factory/00-lookup", port))).await;
    let error = server.connect(PLENTY).await.expect_err("refused");
    assert!(
        error.to_string().contains("wants TLS for JMX (javax.rmi.ssl.SslRMIClientSocketFactory)"),
        "{error}"
    );
    assert_eq!((error.fault(), server.count(NEW_CLIENT)), (Fault::Unsupported, 0));
}

#[tokio::test]
async fn a_registry_without_skeleton_is_asked_by_hash() {
    // The same exception by another name of the same length.
    let mut unmarshal = recorded("server17-agent/68-close");
    let class = b"java.rmi.NoSuchObjectException";
    let at = unmarshal.windows(class.len()).position(|window| window == class).expect("the class");
    unmarshal[at..at + class.len()].copy_from_slice(b"java.rmi.SkeletonNotFoundExcep");
    let server = Fake::start(&ACK, move |call, port| {
        if call.is(LOOKUP) { Action::Reply(unmarshal.clone()) } else { login(call, port).expect("a lookup") }
    })
    .await;
    server.connect(PLENTY).await.expect("connects");
    assert_eq!((server.count(LOOKUP), server.count(LOOKUP_BY_HASH)), (1, 1));
}

#[tokio::test]
async fn the_port_of_the_objects_is_no_registry() {
    let server = Fake::start(&ACK, |_, _| reply("server17-agent/68-close")).await;
    let error = server.connect(PLENTY).await.expect_err("no registry");
    assert!(
        matches!(&error, Error::NotJmx { looks_like, .. } if looks_like.contains("second port of JMX")),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_answer_without_end_meets_the_limit() {
    // An array of a million strings, each with a kilobyte, does not fit in the limit of bytes.
    let mut endless = recorded("server17-agent/15-getAttribute-AllDataFileLocations")[..22].to_vec();
    endless.extend(b"\x75\x72\x00\x13[Ljava.lang.String;\xad\xd2\x56\xe7\xe9\x1d\x7b\x47\x02\x00\x00\x70\x78\x70\x00\x0f\xff\xff");
    let item = [b"\x74\x04\x00".to_vec(), vec![b'x'; 1024]].concat();
    endless.extend(item.repeat(20_000));
    let server = Fake::server(move |_| Action::Last(endless.clone())).await;
    let mut client = server.connect(PLENTY).await.expect("connects");
    let error = client.invoke(STORAGE, "endless", &[], &[], PLENTY).await.expect_err("too much");
    assert!(matches!(error, Error::Limit { .. }), "{error:?}");
    assert_eq!(Limits::default().reply_bytes, 16 << 20);
}
