//! From an SRV record to instances, by a server on loopback that answers well, wrongly, or not at all.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use cassy_agent_protocol::Instance;
use cassy_pause::{Dns, Resolve, ResolveError, find_instances};
use cassy_testkit::dns::{Answers, DnsServer};

const NAME: &str = "_app._tcp.example.com";

async fn server() -> DnsServer {
    filled(DnsServer::start().await.unwrap())
}

/// TCP cannot be reached.
async fn udp_server() -> DnsServer {
    filled(DnsServer::start_without_tcp().await.unwrap())
}

fn filled(server: DnsServer) -> DnsServer {
    server.srv(NAME, "app2.example.com", 60051);
    server.srv(NAME, "APP1.example.com", 60052);
    server.address_of("app1.example.com", "10.0.0.1".parse().unwrap());
    server.address_of("app1.example.com", "::1".parse().unwrap());
    server.address_of("app2.example.com", "10.0.0.2".parse().unwrap());
    server
}

async fn found(server: &DnsServer) -> Result<Vec<Instance>, ResolveError> {
    find_instances(&Dns::at(server.address()), NAME).await
}

async fn texts(server: &DnsServer) -> Vec<String> {
    found(server).await.unwrap().iter().map(ToString::to_string).collect()
}

const ALL: [&str; 3] = [
    "app1.example.com (10.0.0.1:60052)",
    "app1.example.com ([::1]:60052)",
    "app2.example.com (10.0.0.2:60051)",
];

#[tokio::test]
async fn every_address_of_every_target_is_an_instance() {
    let server = server().await;
    assert_eq!(texts(&server).await, ALL);
    assert_eq!(server.queries_over_tcp(), server.queries());
    assert_eq!(texts(&udp_server().await).await, ALL, "where there is no other way");
}

/// Some servers answer so over UDP, and set no flag.
#[tokio::test]
async fn a_part_of_the_instances_is_not_taken_for_all() {
    let server = server().await;
    server.address_of("app2.example.com", "10.0.0.20".parse().unwrap());
    server.answer(Answers::PartOverUdp);
    let found = texts(&server).await;
    assert_eq!(found[..2], ALL[..2]);
    assert_eq!(found[2..], ["app2.example.com (10.0.0.2:60051)", "app2.example.com (10.0.0.20:60051)"]);
}

#[tokio::test]
async fn what_changes_in_dns_is_seen_at_once() {
    let server = server().await;
    assert_eq!(texts(&server).await.len(), 3);
    server.srv(NAME, "app3.example.com", 1);
    server.address_of("app3.example.com", "10.0.0.3".parse().unwrap());
    server.forget("app2.example.com");
    server.address_of("app2.example.com", "10.0.0.20".parse().unwrap());
    let now = texts(&server).await;
    assert_eq!(now[2..], ["app2.example.com (10.0.0.20:60051)", "app3.example.com (10.0.0.3:1)"]);
}

#[tokio::test]
async fn two_names_of_one_address_are_one_instance() {
    let server = server().await;
    server.srv(NAME, "also.example.com", 60051);
    server.address_of("also.example.com", "10.0.0.2".parse().unwrap());
    assert_eq!(texts(&server).await[0], "also.example.com (10.0.0.2:60051)");
    assert_eq!(texts(&server).await.len(), 3);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_into_a_datagram_needs_tcp() {
    let (server, over_udp) = (server().await, udp_server().await);
    for number in 0..300_u16 {
        let host = format!("many{number}.example.com");
        let [high, low] = number.to_be_bytes();
        for server in [&server, &over_udp] {
            server.srv(NAME, &host, 60051);
            server.address_of(&host, [10, 1, high, low].into());
        }
    }
    assert_eq!(texts(&server).await.len(), 303);
    let error = found(&over_udp).await.unwrap_err().to_string();
    assert!(
        error.contains("its answer does not fit into a datagram, and TCP cannot be reached: "),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_that_is_cut_off_over_tcp_too_is_no_answer() {
    let server = server().await;
    server.answer(Answers::Truncated);
    let error = found(&server).await.unwrap_err();
    assert!(error.to_string().contains("the message is cut off"), "{error}");
}

#[tokio::test]
async fn aliases_lead_to_what_they_stand_for() {
    let server = DnsServer::start().await.unwrap();
    server.alias(NAME, "_real._tcp.example.com");
    server.srv("_real._tcp.example.com", "app.example.com", 7);
    server.alias("app.example.com", "host.example.com");
    server.address_of("host.example.com", "10.0.0.7".parse().unwrap());
    assert_eq!(texts(&server).await, ["app.example.com (10.0.0.7:7)"]);
    // A server that leaves the rest to the resolver.
    server.answer(Answers::AliasOnly);
    assert_eq!(texts(&server).await, ["app.example.com (10.0.0.7:7)"]);
    server.forget("host.example.com");
    server.alias("host.example.com", "app.example.com");
    for answers in [Answers::Well, Answers::AliasOnly] {
        server.answer(answers);
        assert!(matches!(found(&server).await, Err(ResolveError::EndlessChain { .. })), "{answers:?}");
    }
}

#[tokio::test]
async fn a_forged_answer_is_passed_over() {
    let server = udp_server().await;
    server.answer(Answers::ForgedFirst);
    assert_eq!(texts(&server).await, ALL);
}

#[tokio::test]
async fn a_name_without_records_is_not_a_name_that_does_not_exist() {
    let server = DnsServer::start().await.unwrap();
    assert!(matches!(found(&server).await, Err(ResolveError::NoName { .. })));
    server.address_of(NAME, "10.0.0.1".parse().unwrap());
    let error = found(&server).await.unwrap_err();
    assert_eq!(error.to_string(), "_app._tcp.example.com: the name has no SRV record");
    assert!(!error.is_unavailable() && error.hint().contains("srv_service_url"));
}

#[tokio::test]
async fn a_target_without_an_address_is_named() {
    let server = server().await;
    server.forget("app2.example.com");
    let error = found(&server).await.unwrap_err();
    assert!(error.to_string().starts_with("app2.example.com: the name does not exist"), "{error}");
    server.srv("app2.example.com", "x.example.com", 1);
    let error = found(&server).await.unwrap_err();
    assert_eq!(error.to_string(), "app2.example.com: the name has no address record");
}

#[tokio::test]
async fn a_dot_says_that_there_is_no_service() {
    let server = DnsServer::start().await.unwrap();
    server.srv(NAME, ".", 0);
    let error = found(&server).await.unwrap_err();
    assert!(matches!(error, ResolveError::NoService { .. }) && !error.is_unavailable(), "{error}");
}

#[tokio::test]
async fn a_target_that_no_host_has_is_shown_and_refused() {
    let server = DnsServer::start().await.unwrap();
    server.srv(NAME, "a\u{1b}b.example.com", 1);
    let error = found(&server).await.unwrap_err();
    assert!(error.to_string().ends_with("a\\027b.example.com port 1"), "{error}");
    server.forget(NAME);
    server.srv(NAME, "app1.example.com", 0);
    assert!(matches!(found(&server).await, Err(ResolveError::OddTarget { port: 0, .. })));
}

#[tokio::test]
async fn a_server_that_fails_is_asked_twice_and_named() {
    let server = server().await;
    server.answer(Answers::Fails);
    let error = found(&server).await.unwrap_err();
    let expected =
        format!("{NAME}: no answer from DNS, at last from {}: it failed (SERVFAIL)", server.address());
    assert_eq!(error.to_string(), expected);
    assert!(error.is_unavailable() && error.hint().contains("dns_server"));
    assert_eq!(server.queries(), 2);
}

#[tokio::test]
async fn nonsense_and_silence_are_told_apart() {
    let server = server().await;
    for answers in [Answers::Garbage, Answers::Never] {
        server.answer(answers);
        let error = found(&server).await.unwrap_err();
        assert!(error.to_string().contains("its answer makes no sense: "), "{answers:?}: {error}");
    }
    let server = udp_server().await;
    server.answer(Answers::Garbage);
    let error = found(&server).await.unwrap_err();
    assert!(error.to_string().contains("its answer makes no sense: "), "{error}");
    server.answer(Answers::Never);
    let error = found(&server).await.unwrap_err();
    assert!(error.to_string().ends_with("no answer within 2 s"), "{error}");
}

#[tokio::test]
async fn nobody_who_listens_is_known_at_once() {
    let server = server().await;
    let dns = Dns::at(server.address());
    drop(server);
    let error = find_instances(&dns, NAME).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
}

#[tokio::test]
async fn addresses_in_digits_and_of_this_machine_need_no_server() {
    let server = DnsServer::start().await.unwrap();
    let digits = Dns::at(server.address()).addresses("::1").await.unwrap();
    assert_eq!(digits, ["::1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(server.queries(), 0);
    let own = Dns::of_system().addresses("localhost").await.unwrap();
    assert!(!own.is_empty() && own.iter().all(std::net::IpAddr::is_loopback), "{own:?}");
}
