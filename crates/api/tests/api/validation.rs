//! Every field of every call, before the operations see it.

use cassy_api::proto;
use cassy_api::proto::cassy_ops_client::CassyOpsClient;
use tonic::{Code, Status};

use crate::played::{CLUSTER, JOB, Played, SNAPSHOT, Server};

const INCONSISTENT: &str = "The request is invalid or inconsistent.";

/// The refusal's first line is `message`, and the operations were not asked.
#[track_caller]
fn refused<T>(played: &Played, answer: Result<T, Status>, code: Code, message: &str) {
    let status = answer.err().expect("refused");
    assert_eq!(status.code(), code, "{status:?}");
    let first = status.message().lines().next().unwrap_or_default();
    assert!(first.starts_with(message), "{status:?}");
    assert_eq!(played.take_calls(), Vec::<String>::new());
}

fn backup() -> proto::BackupRequest {
    proto::BackupRequest { cluster_id: CLUSTER.into(), backup_type: 2, ..Default::default() }
}

fn restore() -> proto::RestoreRequest {
    proto::RestoreRequest {
        cluster_id: CLUSTER.into(),
        snapshot_id: SNAPSHOT.into(),
        restore_type: 2,
        ..Default::default()
    }
}

fn ips(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn cassandra_host() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let long = "a".repeat(254);
    for host in [
        "",
        " ",
        "\t\n\u{a0}",
        "a\0",
        "file:///etc/passwd",
        "node:7199",
        "[::]",
        "0.0.0.0",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "-oProxyCommand=id",
        "'; DROP TABLE cluster_info; --",
        "<script>alert(1)</script>",
        &long,
    ] {
        let request = proto::ClusterRegistrationRequest { cassandra_host: host.into() };
        let answer = client.register_cluster(request).await;
        refused(&server.played, answer, Code::InvalidArgument, "cassandra_host is not set correctly.");
    }
    for (host, usual) in
        [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("2001:DB8::0:1", "2001:db8::1")]
    {
        client
            .register_cluster(proto::ClusterRegistrationRequest { cassandra_host: host.into() })
            .await
            .unwrap();
        assert_eq!(server.played.last_call(), format!("register {usual}"));
    }
}

#[tokio::test]
async fn refusals_show_a_value_harmlessly() {
    let server = Server::start().await;
    let host = format!("\u{202e}{}\u{1b}", "x".repeat(300));
    let request = proto::ClusterRegistrationRequest { cassandra_host: host };
    let status = server.client().await.register_cluster(request).await.unwrap_err();
    assert!(status.message().contains(r#""\u{202e}xxx"#), "{status:?}");
    assert!(!status.message().contains(['\u{202e}', '\u{1b}']), "{status:?}");
    assert!(status.message().len() < 400, "{status:?}");
}

#[tokio::test]
async fn cluster_listing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for cluster_id in ["x".repeat(300), "a\0b".into(), "a\nb".into()] {
        let request = proto::ClusterListingRequest { cluster_id, limit: 0 };
        refused(&server.played, client.list_clusters(request).await, Code::InvalidArgument, "cluster_id ");
    }
    for (cluster_id, limit, asked) in [
        ("", 0, "ClusterSelector { cluster_id: None, limit: None }"),
        ("", -7, "ClusterSelector { cluster_id: None, limit: None }"),
        ("' OR 1=1 --", 7, r#"ClusterSelector { cluster_id: Some("' OR 1=1 --"), limit: Some(7) }"#),
    ] {
        client
            .list_clusters(proto::ClusterListingRequest { cluster_id: cluster_id.into(), limit })
            .await
            .unwrap();
        assert_eq!(server.played.last_call(), asked);
    }
    let wide = "\u{e9}".repeat(255);
    client.list_clusters(proto::ClusterListingRequest { cluster_id: wide, limit: 0 }).await.unwrap();
}

#[tokio::test]
async fn history_needs_a_selector() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for target_ip in ["", "10.0.0.1"] {
        let request =
            proto::BackupListingRequest { target_ip: target_ip.into(), limit: 1, ..Default::default() };
        refused(&server.played, client.list_backups(request).await, Code::InvalidArgument, INCONSISTENT);
        let request = proto::RestoreStatusListingRequest {
            target_ip: target_ip.into(),
            limit: 1,
            ..Default::default()
        };
        refused(
            &server.played,
            client.list_restore_statuses(request).await,
            Code::InvalidArgument,
            INCONSISTENT,
        );
    }
}

#[tokio::test]
async fn history_fields_have_bounds() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for bad in ["x".repeat(300), "a\0b".to_owned()] {
        let requests = [
            (bad.as_str(), "", SNAPSHOT, "cluster_id "),
            (CLUSTER, bad.as_str(), "", "target_ip "),
            (CLUSTER, "", bad.as_str(), "snapshot_id "),
        ];
        for (cluster_id, target_ip, snapshot_id, message) in
            requests.map(|(a, b, c, m)| (a.to_owned(), b.to_owned(), c.to_owned(), m))
        {
            let request = proto::BackupListingRequest {
                cluster_id: cluster_id.clone(),
                target_ip: target_ip.clone(),
                snapshot_id: snapshot_id.clone(),
                limit: 0,
            };
            refused(&server.played, client.list_backups(request).await, Code::InvalidArgument, message);
            let request = proto::RestoreStatusListingRequest { cluster_id, target_ip, snapshot_id, limit: 0 };
            refused(
                &server.played,
                client.list_restore_statuses(request).await,
                Code::InvalidArgument,
                message,
            );
        }
    }
}

#[tokio::test]
async fn history_of_what_cannot_be_is_empty() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (target_ip, snapshot_id) in
        [("", "no-uuid"), ("", "../../etc"), ("node1", ""), ("1.2.3.4;id", SNAPSHOT)]
    {
        let request = proto::BackupListingRequest {
            cluster_id: CLUSTER.into(),
            target_ip: target_ip.into(),
            snapshot_id: snapshot_id.into(),
            limit: 0,
        };
        assert_eq!(client.list_backups(request).await.unwrap().into_inner().entries, []);
        let request = proto::RestoreStatusListingRequest {
            cluster_id: CLUSTER.into(),
            target_ip: target_ip.into(),
            snapshot_id: snapshot_id.into(),
            limit: 0,
        };
        let answer = client.list_restore_statuses(request).await.unwrap().into_inner();
        assert_eq!((answer.cluster_id.as_str(), answer.entries.len()), (CLUSTER, 0));
    }
    assert_eq!(server.played.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn history_selectors_reach_the_operations() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let request = proto::BackupListingRequest {
        target_ip: "::ffff:10.0.0.1".into(),
        snapshot_id: SNAPSHOT.to_uppercase(),
        limit: 3,
        ..Default::default()
    };
    client.list_backups(request).await.unwrap();
    let asked = format!(
        r#"HistorySelector {{ cluster_id: None, target_ip: Some("10.0.0.1"), snapshot_id: Some("{SNAPSHOT}"), limit: Some(3) }}"#
    );
    assert_eq!(server.played.last_call(), asked);
    let request =
        proto::RestoreStatusListingRequest { cluster_id: CLUSTER.into(), limit: -1, ..Default::default() };
    client.list_restore_statuses(request).await.unwrap();
    let asked = format!(
        r#"HistorySelector {{ cluster_id: Some("{CLUSTER}"), target_ip: None, snapshot_id: None, limit: None }}"#
    );
    assert_eq!(server.played.last_call(), asked);
}

#[tokio::test]
async fn backup_requests() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let many: Vec<String> =
        (0..10_001_u32).map(|n| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string()).collect();
    let snapshot = SNAPSHOT.to_owned();
    let invalid = [
        (
            proto::BackupRequest { cluster_id: String::new(), ..backup() },
            "The specified cluster cannot be found.",
        ),
        (proto::BackupRequest { cluster_id: "x".repeat(300), ..backup() }, "cluster_id is longer than 255"),
        (proto::BackupRequest { cluster_id: "a\0".into(), ..backup() }, "cluster_id holds control"),
        (proto::BackupRequest { backup_type: 0, ..backup() }, "backup_type 0 is unknown"),
        (proto::BackupRequest { backup_type: 4, ..backup() }, "backup_type 4 is unknown"),
        (proto::BackupRequest { backup_type: u32::MAX, ..backup() }, "backup_type 4294967295 is unknown"),
        (proto::BackupRequest { snapshot_id: snapshot.clone(), ..backup() }, INCONSISTENT),
        (proto::BackupRequest { snapshot_id: "x".into(), backup_type: 1, ..backup() }, INCONSISTENT),
        (proto::BackupRequest { backup_type: 3, ..backup() }, INCONSISTENT),
        (
            proto::BackupRequest { backup_type: 3, snapshot_id: "x".into(), ..backup() },
            "snapshot_id \"x\" is not a UUID",
        ),
        (proto::BackupRequest { target_ips: ips(&[""]), ..backup() }, "target_ips holds \"\""),
        (proto::BackupRequest { target_ips: ips(&["node1"]), ..backup() }, "target_ips holds \"node1\""),
        (
            proto::BackupRequest { target_ips: ips(&["10.0.0.1;id"]), ..backup() },
            "target_ips holds \"10.0.0.1;id\"",
        ),
        (
            proto::BackupRequest { target_ips: ips(&["10.0.0.1", "::ffff:10.0.0.1"]), ..backup() },
            "target_ips names 10.0.0.1 more",
        ),
        (
            proto::BackupRequest { target_ips: ips(&["::1", "0:0::1"]), ..backup() },
            "target_ips names ::1 more",
        ),
        (proto::BackupRequest { target_ips: many.clone(), ..backup() }, "target_ips holds 10001 addresses"),
        (proto::BackupRequest { target_ips: ips(&["x"]), backup_type: 1, ..backup() }, "target_ips holds"),
        (proto::BackupRequest { keep_unproven: true, ..backup() }, "keep_unproven is for backup_type 1 only"),
    ];
    for (request, message) in invalid {
        refused(&server.played, client.take_backup(request).await, Code::InvalidArgument, message);
    }
    let increment = proto::BackupRequest { backup_type: 3, snapshot_id: snapshot, ..backup() };
    assert_eq!(client.take_backup(increment).await.unwrap().into_inner().backup_type, 3);
    let most = proto::BackupRequest { target_ips: many[1..].to_vec(), ..backup() };
    let answer = client.take_backup(most).await.unwrap().into_inner();
    assert_eq!(answer.target_ips.len(), 10_000);
}

#[tokio::test]
async fn a_backup_request_as_the_operations_see_it() {
    let server = Server::start().await;
    let request = proto::BackupRequest { target_ips: ips(&["::FFFF:10.0.0.1", "2001:DB8::0:1"]), ..backup() };
    server.client().await.take_backup(request).await.unwrap();
    let asked = format!(
        r#"BackupRequest {{ cluster_id: "{CLUSTER}", target_ips: ["10.0.0.1", "2001:db8::1"], snapshot_id: None, backup_type: Node, keep_unproven: false, idempotency_key: None }}"#
    );
    assert_eq!(server.played.last_call(), asked);
}

#[tokio::test]
async fn restore_requests() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let invalid = [
        (
            proto::RestoreRequest { cluster_id: String::new(), ..restore() },
            "The specified cluster cannot be found.",
        ),
        (proto::RestoreRequest { cluster_id: "x".repeat(256), ..restore() }, "cluster_id is longer than 255"),
        (proto::RestoreRequest { snapshot_id: String::new(), ..restore() }, "snapshot_id is not set"),
        (
            proto::RestoreRequest { snapshot_id: "$(id)".into(), ..restore() },
            "snapshot_id \"$(id)\" is not a UUID",
        ),
        (proto::RestoreRequest { snapshot_id: "a\nb".into(), ..restore() }, "snapshot_id holds control"),
        (proto::RestoreRequest { restore_type: 0, ..restore() }, "restore_type 0 is unknown"),
        (proto::RestoreRequest { restore_type: 3, ..restore() }, "restore_type 3 is unknown"),
        (
            proto::RestoreRequest { target_ips: ips(&["--option"]), ..restore() },
            "target_ips holds \"--option\"",
        ),
        (
            proto::RestoreRequest { target_ips: ips(&["::1", "::1"]), ..restore() },
            "target_ips names ::1 more",
        ),
        (
            proto::RestoreRequest { restore_type: 1, snapshot_id: "x".into(), ..restore() },
            "snapshot_id \"x\"",
        ),
    ];
    for (request, message) in invalid {
        refused(&server.played, client.restore_backup(request).await, Code::InvalidArgument, message);
    }
    for restore_type in [1, 2] {
        let request = proto::RestoreRequest { restore_type, ..restore() };
        assert_eq!(client.restore_backup(request).await.unwrap().into_inner().restore_type, restore_type);
    }
}

#[tokio::test]
async fn either_spelling_of_snapshot_only() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (snapshot_only, snapshot_only_alias) in [(false, false), (true, false), (false, true), (true, true)] {
        let request = proto::RestoreRequest { snapshot_only, snapshot_only_alias, ..restore() };
        let answer = client.restore_backup(request).await.unwrap().into_inner();
        assert_eq!(answer.snapshot_only, snapshot_only || snapshot_only_alias);
    }
}

#[tokio::test]
async fn options_of_a_restore_reach_the_operations() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (move_aside, dry_run) in [(false, false), (true, false), (false, true)] {
        let request = proto::RestoreRequest { move_aside, dry_run, ..restore() };
        client.restore_backup(request).await.unwrap();
        let asked = format!("source_of: {{}}, move_aside: {move_aside}, dry_run: {dry_run}, ");
        let call = server.played.last_call();
        assert!(call.contains(&asked), "{call}");
    }
}

#[tokio::test]
async fn idempotency_keys() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for key in ["", "caf\u{e9}", "a\nb", "\u{7f}", &"x".repeat(129)] {
        let key = Some(key.to_owned());
        let request = proto::BackupRequest { idempotency_key: key.clone(), ..backup() };
        let answer = client.take_backup(request).await;
        refused(&server.played, answer, Code::InvalidArgument, "idempotency_key is ");
        let request = proto::RestoreRequest { idempotency_key: key, ..restore() };
        let answer = client.restore_backup(request).await;
        refused(&server.played, answer, Code::InvalidArgument, "idempotency_key is ");
    }
    for key in ["~", " nightly 2026-11-23 ", &"x".repeat(128)] {
        let asked = format!("idempotency_key: Some({key:?})");
        let key = Some(key.to_owned());
        let request = proto::BackupRequest { idempotency_key: key.clone(), ..backup() };
        client.take_backup(request).await.unwrap();
        assert!(server.played.last_call().contains(&asked));
        client.restore_backup(proto::RestoreRequest { idempotency_key: key, ..restore() }).await.unwrap();
        assert!(server.played.last_call().contains(&asked));
    }
}

#[tokio::test]
async fn which_job_to_cancel() {
    let server = Server::start().await;
    let mut client = CassyOpsClient::new(server.channel().await);
    let of = |job_id: &str, snapshot_id: &str| proto::CancelJobRequest {
        job_id: job_id.to_owned(),
        snapshot_id: snapshot_id.to_owned(),
    };
    for (job_id, snapshot_id, told) in [
        ("", "", INCONSISTENT),
        (JOB, SNAPSHOT, INCONSISTENT),
        ("../x", "", "job_id \"../x\" is not a UUID"),
        ("", "7", "snapshot_id \"7\" is not a UUID"),
        ("a\nb", "", "job_id holds control characters"),
    ] {
        let answer = client.cancel_job(of(job_id, snapshot_id)).await;
        refused(&server.played, answer, Code::InvalidArgument, told);
    }
    client.cancel_job(of(&JOB.to_uppercase(), "")).await.unwrap();
    assert_eq!(server.played.last_call(), format!("Job({JOB:?})"));
}
