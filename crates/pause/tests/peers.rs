//! The published library scalar-admin, over the gRPC of Java, as an application: both generations, plain and by TLS.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_pause::{PauseClient, TcpDial, Tls, Unpaused};
use cassy_testkit::Failure;
use cassy_testkit::certificates::{Authority, Validity};
use cassy_testkit::peers::{Peer, Peers};

const WITHIN: Duration = Duration::from_secs(30);
const NAME: &str = "app.example.com";

async fn peer(peers: &Peers, directory: &Path, arguments: &[&str]) -> Result<Peer, Failure> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/java/AdminPeer.java");
    peers.source(directory, &source, arguments).await
}

fn instance(peer: &Peer) -> Instance {
    Instance { host: NAME.to_owned(), address: peer.address() }
}

/// What it was asked, in order.
fn asked(peer: &Peer) -> Vec<String> {
    let log = peer.log();
    let lines = log.lines().skip_while(|line| !line.starts_with("listening ")).skip(1);
    lines.map(ToOwned::to_owned).collect()
}

/// Paused, asked again, unpaused; and what it says of that.
async fn round(client: &PauseClient, peer: &Peer, check: &[&str]) {
    let before = asked(peer).len();
    let pausing = client.pause(&[instance(peer)], WITHIN).await;
    assert!(pausing.failures().is_empty(), "{:?}\n{}", pausing.failures(), peer.log());
    assert!(pausing.check(WITHIN).await.is_empty());
    let unpaused = pausing.unpause(WITHIN).await;
    assert!(matches!(unpaused[..], [Ok(Unpaused::Acknowledged)]), "{unpaused:?}");
    let asked = &asked(peer)[before..];
    assert_eq!(asked[1..], [check, check, &["unpause"]].concat());
    // How long it may wait for its requests: somewhat less than there is, and of that the connection took a part.
    let limit = asked[0].strip_prefix("pause true ").and_then(|limit| limit.parse::<u64>().ok());
    assert!(limit.is_some_and(|limit| (15_000..=29_000).contains(&limit)), "{asked:?}");
}

#[tokio::test]
async fn both_generations_over_the_grpc_of_java_pause_and_unpause() -> Result<(), Failure> {
    let Some(peers) = Peers::scalar_admin().await else { return Ok(()) };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (authority, stranger) = (Authority::new()?, Authority::named("somebody else")?);
    let (certificate, key) = authority.sign(&[NAME], Validity::Good)?.pem();
    std::fs::write(path("certificate.pem"), certificate).unwrap();
    std::fs::write(path("key.pem"), key).unwrap();
    for place in ["newer", "older", "tls"] {
        std::fs::create_dir(path(place)).unwrap();
    }
    let [at, beside, secure] = ["newer", "older", "tls"].map(|name| directory.path().join(name));
    let by_tls = ["newer", &path("certificate.pem"), &path("key.pem")];
    let (newer, older, tls) = tokio::join!(
        peer(&peers, &at, &["newer"]),
        peer(&peers, &beside, &["older"]),
        peer(&peers, &secure, &by_tls),
    );
    let (mut newer, older, tls) = (newer?, older?, tls?);

    let plain = PauseClient::new(TcpDial);
    let over_tls =
        |authority: &Authority| plain.over_tls(Tls::of_pem(authority.pem().as_bytes(), None).unwrap());
    round(&plain, &newer, &["check"]).await;
    round(&plain, &older, &["stats"]).await;
    round(&over_tls(&authority), &tls, &["check"]).await;
    // As often as a backup is taken.
    for _ in 0..20 {
        round(&plain, &newer, &["check"]).await;
    }

    let refused = async |client: &PauseClient, peer: &Peer| {
        let (begun, before) = (tokio::time::Instant::now(), asked(peer).len());
        let pausing = client.pause(&[instance(peer)], WITHIN).await;
        assert!(pausing.unpause(WITHIN).await.iter().all(|one| matches!(one, Ok(Unpaused::NeverAsked))));
        assert!(begun.elapsed() < WITHIN / 2, "{:?}", begun.elapsed());
        assert_eq!(asked(peer).len(), before);
        let failures = pausing.failures();
        let cause = std::error::Error::source(&failures[0]).map(|cause| format!(": {cause}"));
        format!("{}{}", failures[0].problem, cause.unwrap_or_default())
    };
    let text = refused(&over_tls(&stranger), &tls).await;
    assert!(text.contains("signed by nobody whom"), "{text}");
    let text = refused(&over_tls(&authority), &newer).await;
    assert!(text.contains("what it answers is not TLS"), "{text}");
    let text = refused(&plain, &tls).await;
    assert!(text.contains("does not speak HTTP/2"), "{text}");

    // A process that is gone is not the one that was paused.
    let pausing = plain.pause(&[instance(&newer)], WITHIN).await;
    newer.kill();
    assert_eq!(pausing.check(WITHIN).await.len(), 1);
    assert!(matches!(pausing.unpause(WITHIN).await[..], [Ok(Unpaused::Gone)]));
    Ok(())
}
