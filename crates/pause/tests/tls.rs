//! TLS to instances, over loopback: who is believed, who is not and in which words, and that nobody is paused then.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::{GuardOrder, Instance, TlsTrust};
use cassy_pause::{
    Alarm, InstanceError, OrderError, PauseClient, Relief, TcpDial, Tls, Unpaused, stand_guard,
};
use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::certificates::{Authority, Identity, Validity};
use expect_test::{Expect, expect};
use tokio::io::BufReader;
use tokio::net::TcpListener;

const WITHIN: Duration = Duration::from_secs(20);
const LOOPBACK: &str = "127.0.0.1:0";

fn client(authority: &Authority, name: Option<&str>) -> PauseClient {
    PauseClient::new(TcpDial).over_tls(Tls::of_pem(authority.pem().as_bytes(), name).unwrap())
}

async fn by_tls(identity: &Identity, address: &str) -> Arc<FakeApplication> {
    let address = address.parse().unwrap();
    FakeApplication::listen_by_tls(Behaviour::default(), address, identity).await.unwrap()
}

fn instance(host: &str, address: SocketAddr) -> Instance {
    Instance { host: host.to_owned(), address }
}

/// The error with its cause and what to do, without the port.
fn told(error: &InstanceError) -> String {
    let cause = error.problem.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    let unavailable = if error.problem.is_unavailable() { "unavailable" } else { "wrong" };
    let text = format!("{error}{cause} ({unavailable})\nhint: {}\n", error.problem.hint());
    // What was still on its way decides which of these comes.
    let text = ["closed", "connection reset", "broken pipe"].iter().fold(text, |text, how| {
        text.replace(&format!("it cut the connection off ({how})"), "it cut the connection off (HOW)")
    });
    text.replace(&error.instance.address.port().to_string(), "PORT")
}

#[tokio::test]
async fn whoever_has_a_certificate_for_its_name_is_paused_and_unpaused() {
    let authority = Authority::new().unwrap();
    let names = ["app.example.com", "*.shop.example.com", "127.0.0.1", "::1"];
    let identity = authority.sign(&names, Validity::Good).unwrap();
    let (four, six) = (by_tls(&identity, LOOPBACK).await, by_tls(&identity, "[::1]:0").await);
    let named = client(&authority, None);
    let instances = [
        instance("app.example.com", four.address()),
        instance("a.shop.example.com", four.address()),
        instance("127.0.0.1", four.address()),
        instance("::1", six.address()),
        instance("[::1]", six.address()),
    ];
    let pausing = named.pause(&instances, WITHIN).await;
    assert_eq!(pausing.failures().iter().map(told).collect::<String>(), "");
    assert!(four.is_paused() && six.is_paused() && pausing.check(WITHIN).await.is_empty());
    assert!(pausing.unpause(WITHIN).await.iter().all(|one| matches!(one, Ok(Unpaused::Acknowledged))));
    assert!(!four.is_paused() && !six.is_paused());

    let renamed = client(&authority, Some("app.example.com"));
    let another = [instance("node7.internal", four.address())];
    assert_eq!(named.unreachable(&another, WITHIN).await.len(), 1);
    assert_eq!(renamed.unreachable(&another, WITHIN).await.len(), 0);
}

/// One instance is good; the other is asked under this name, and is not paused.
async fn refused(
    bad: SocketAddr,
    host: &str,
    client: &PauseClient,
    good: &FakeApplication,
    expected: Expect,
) {
    let instances = [instance("app.example.com", good.address()), instance(host, bad)];
    let pausing = client.pause(&instances, WITHIN).await;
    expected.assert_eq(&pausing.failures().iter().map(told).collect::<String>());
    assert!(pausing.unpause(WITHIN).await.iter().all(|one| matches!(one, Ok(Unpaused::NeverAsked))));
    assert_eq!((good.calls().pause, good.is_paused()), (0, false), "nobody is asked");
}

#[tokio::test]
async fn who_is_not_believed_is_named_and_nobody_is_paused() {
    let (authority, namesake) = (Authority::new().unwrap(), Authority::new().unwrap());
    let stranger = Authority::named("somebody else").unwrap();
    let client = client(&authority, None);
    let signed = async |authority: &Authority, name: &str, validity| {
        by_tls(&authority.sign(&[name], validity).unwrap(), LOOPBACK).await
    };
    let good = signed(&authority, "app.example.com", Validity::Good).await;
    let check = async |bad: &FakeApplication, host: &str, expected: Expect| {
        refused(bad.address(), host, &client, &good, expected).await;
        assert_eq!(bad.calls().pause, 0);
    };
    let host = "app.example.com";

    let bad = signed(&stranger, host, Validity::Good).await;
    check(&bad, host, expect![[r#"
        app.example.com (127.0.0.1:PORT): cannot be connected to by TLS: its certificate is signed by nobody whom srv_service_tls_ca_path names (wrong)
        hint: Put the certificate of the authority that signed it into the file that srv_service_tls_ca_path names, and let the application send its intermediate certificates, too.
    "#]]).await;
    let bad = signed(&namesake, host, Validity::Good).await;
    check(&bad, host, expect![[r#"
        app.example.com (127.0.0.1:PORT): cannot be connected to by TLS: its certificate is signed by nobody whom srv_service_tls_ca_path names (wrong)
        hint: Put the certificate of the authority that signed it into the file that srv_service_tls_ca_path names, and let the application send its intermediate certificates, too.
    "#]]).await;
    let bad = signed(&authority, "other.example.com", Validity::Good).await;
    check(&bad, host, expect![[r#"
        app.example.com (127.0.0.1:PORT): cannot be connected to by TLS: its certificate is not for app.example.com, but for other.example.com (wrong)
        hint: Give the application a certificate with the target of its SRV record in subjectAltName, or write the name that its certificate has into srv_service_tls_server_name.
    "#]]).await;
    let bad = signed(&authority, host, Validity::Ahead).await;
    let ahead = [instance(host, bad.address())];
    let text = told(&client.unreachable(&ahead, WITHIN).await[0]);
    assert!(text.contains("its certificate is not valid yet, by this machine's clock for "), "{text}");
    let bad = signed(&authority, host, Validity::Over).await;
    let over = [instance(host, bad.address())];
    let text = told(&client.unreachable(&over, WITHIN).await[0]);
    assert!(text.contains("its certificate expired ") && text.contains(" days ago (wrong)"), "{text}");
    check(&good, "..", expect![[r#"
        .. (127.0.0.1:PORT): cannot be connected to by TLS: no certificate can be for the name .. (wrong)
        hint: Correct the target of the SRV record, or name the certificate's host in srv_service_tls_server_name.
    "#]]).await;

    let plain = FakeApplication::listen(Behaviour::default(), LOOPBACK.parse().unwrap()).await.unwrap();
    check(&plain, host, expect![[r#"
        app.example.com (127.0.0.1:PORT): cannot be connected to by TLS: what it answers is not TLS (wrong)
        hint: Look whether the application's rpc.Admin speaks TLS on this port; if all speak plain gRPC, set srv_service_tls to false.
    "#]]).await;
    let (mute, address) = closes_at_once().await;
    refused(address, host, &client, &good, expect![[r#"
        app.example.com (127.0.0.1:PORT): cannot be connected to by TLS: the connection was lost during the handshake: tls handshake eof (unavailable)
        hint: Look into the application's log, and whether its rpc.Admin speaks TLS on this port (1.2 or 1.3); Cassy shows no certificate of its own.
    "#]]).await;
    mute.abort();
}

#[tokio::test]
async fn an_instance_that_speaks_tls_is_named_where_plain_grpc_is_expected() {
    let authority = Authority::new().unwrap();
    let identity = authority.sign(&["app.example.com"], Validity::Good).unwrap();
    let bad = by_tls(&identity, LOOPBACK).await;
    let good = FakeApplication::listen(Behaviour::default(), LOOPBACK.parse().unwrap()).await.unwrap();
    let client = PauseClient::new(TcpDial);
    let instances = [instance("app.example.com", good.address()), instance("app.example.com", bad.address())];
    let pausing = client.pause(&instances, WITHIN).await;
    let text = pausing.failures().iter().map(told).collect::<String>();
    let alarmed = "(127.0.0.1:PORT): does not speak HTTP/2: what it says is something else (wrong)\n";
    let cut = "(127.0.0.1:PORT): does not speak HTTP/2: it cut the connection off (HOW) (unavailable)\n";
    assert!(text.contains(alarmed) || text.contains(cut), "{text}");
    assert!(text.contains("If it speaks TLS, set srv_service_tls to true."), "{text}");
    assert_eq!((good.calls().pause, bad.calls().pause), (0, 0));
    let (mute, address) = closes_at_once().await;
    refused(address, "app.example.com", &client, &good, expect![[r#"
        app.example.com (127.0.0.1:PORT): does not speak HTTP/2: it cut the connection off (HOW) (unavailable)
        hint: The port of an SRV record is that of the service rpc.Admin, by gRPC: look what listens there. If it speaks TLS, set srv_service_tls to true.
    "#]]).await;
    mute.abort();
}

/// As a server does that expects something else, and says nothing about it.
async fn closes_at_once() -> (tokio::task::JoinHandle<()>, SocketAddr) {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let closing = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // All that has come is read, so that the end is not a reset.
            let mut some = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut some).await;
        }
    });
    (closing, address)
}

#[test]
fn what_nobody_can_be_believed_by_is_refused() {
    let authority = Authority::new().unwrap();
    let (certificate, key) = authority.sign(&["a"], Validity::Good).unwrap().pem();
    let refused = |pem: &str, name| Tls::of_pem(pem.as_bytes(), name).unwrap_err().to_string();
    let none = "there is no certificate in it (-----BEGIN CERTIFICATE-----)";
    assert_eq!(refused("", None), none);
    assert_eq!(refused("not a certificate\n", None), none);
    assert_eq!(refused(&key, None), none);
    let torn: String = certificate.lines().take(3).map(|line| format!("{line}\n")).collect();
    assert!(
        refused(&torn, None).starts_with("its certificates cannot be read: "),
        "{}",
        refused(&torn, None)
    );
    let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let text = refused(&format!("{}{odd}", authority.pem()), None);
    assert!(text.starts_with("its certificate number 2 cannot be used: "), "{text}");
    assert_eq!(refused(&authority.pem(), Some("a b\n")), "a b\\n is not the name of a host");
}

#[test]
fn a_key_beside_the_certificates_does_not_travel() {
    let authority = Authority::new().unwrap();
    let (_, key) = authority.sign(&["a"], Validity::Good).unwrap().pem();
    let tls = Tls::of_pem(format!("{key}{}", authority.pem()).as_bytes(), Some("a")).unwrap();
    let order = serde_json::to_string(tls.trust()).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!order.contains(secret) && tls.trust().authorities.len() == 1, "{order}");
    assert_eq!(Tls::of(serde_json::from_str(&order).unwrap()).unwrap(), tls);
}

fn order(instances: &[Instance], tls: TlsTrust) -> Vec<u8> {
    let order = GuardOrder {
        job_id: "j1".to_owned(),
        instances: instances.to_vec(),
        deadline_ms: 100,
        give_up_ms: 500,
        tls: Some(tls),
    };
    let mut line = serde_json::to_vec(&order).unwrap();
    line.push(b'\n');
    line
}

#[tokio::test]
async fn a_guard_speaks_tls_with_what_is_in_its_order() {
    let authority = Authority::new().unwrap();
    let identity = authority.sign(&["app.example.com"], Validity::Good).unwrap();
    let paused = by_tls(&identity, LOOPBACK).await;
    paused.gate().close();
    let instances = [instance("node7.internal", paused.address())];
    let stand = async |tls: TlsTrust| {
        let order = order(&instances, tls);
        let (input, client) = (BufReader::new(&order[..]), PauseClient::new(TcpDial));
        let mut output = Vec::new();
        let stood = stand_guard(input, &mut output, &client, std::future::pending(), |_| {}).await;
        (stood, String::from_utf8(output).unwrap())
    };
    let known = Tls::of_pem(authority.pem().as_bytes(), Some("app.example.com")).unwrap();

    let unnamed = TlsTrust { server_name: None, ..known.trust().clone() };
    let (stood, said) = stand(unnamed).await;
    assert!(said.contains("its certificate is not for node7.internal, but for "), "{said}");
    assert!(matches!(stood, Ok(Relief::Unpaused { left, .. }) if left.len() == 1));
    assert!(paused.is_paused());

    let (stood, said) = stand(known.trust().clone()).await;
    assert_eq!(said, "ready {\"unreachable\":[]}\n");
    let Ok(Relief::Unpaused { alarm, left }) = stood else { panic!("{stood:?}") };
    assert!(alarm == Alarm::InputEnded && left.is_empty() && !paused.is_paused());

    let nobody = TlsTrust { authorities: vec!["AAAA".to_owned()], server_name: None };
    let (stood, said) = stand(nobody).await;
    assert!(matches!(stood, Err(OrderError::Trust(_))) && said.is_empty());
}
