//! Every text of every call, filled with what would do harm if it were anything but data.

use cassy_api::proto::{self, cassy_client::CassyClient};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::played::{CLUSTER, SNAPSHOT, Server};

/// Statements, markup, shell words, marks that turn the direction of text, spellings that look alike.
const HOSTILE: [&str; 16] = [
    "'; DROP TABLE job; --",
    "' OR '1'='1",
    "\" OR \"\"=\"",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "{{7*7}}${7*7}",
    "$(id)",
    ";rm -rf x",
    "--option",
    "-oProxyCommand=id",
    "../../etc/cron.d/x",
    "snapshots",
    "a,b",
    "\u{202e}txt.exe\u{2066}",
    "caf\u{e9}",
    "cafe\u{301}",
];

/// Why a call was refused: an argument that was wrong, said without anything that a terminal would act on.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, text: &str) {
    let status = answer.expect_err(text);
    assert_eq!(status.code(), Code::InvalidArgument, "{text}: {status:?}");
    let shown = status.message();
    assert!(!shown.contains(['\u{202e}', '\u{2066}', '\0', '\u{1b}']), "{shown}");
}

/// Every call that takes an address or a new id, with this text in its place.
async fn refused_everywhere(client: &mut CassyClient<Channel>, text: &str) {
    let own = || text.to_owned();
    let register = proto::ClusterRegistrationRequest { cassandra_host: own() };
    // A word can be the name of a host; whether it is one is found out where it is resolved.
    if text != "snapshots" {
        refused(client.register_cluster(register).await, text);
    }
    let backup = proto::BackupRequest { cluster_id: CLUSTER.into(), backup_type: 2, ..Default::default() };
    let restore = proto::RestoreRequest {
        cluster_id: CLUSTER.into(),
        snapshot_id: SNAPSHOT.into(),
        restore_type: 2,
        ..Default::default()
    };
    let with_target = proto::BackupRequest { target_ips: vec!["10.0.0.1".into(), own()], ..backup.clone() };
    refused(client.take_backup(with_target).await, text);
    refused(client.take_backup(proto::BackupRequest { snapshot_id: own(), ..backup }).await, text);
    let with_target = proto::RestoreRequest { target_ips: vec![own()], ..restore.clone() };
    refused(client.restore_backup(with_target).await, text);
    refused(client.restore_backup(proto::RestoreRequest { snapshot_id: own(), ..restore }).await, text);
}

#[tokio::test]
async fn texts_that_are_no_addresses_and_no_ids_are_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for text in HOSTILE {
        refused_everywhere(&mut client, text).await;
    }
    assert_eq!(server.played.take_calls(), Vec::<String>::new());
}

/// A cluster's id holds its name, and a name may hold anything: it reaches the operations as it is.
#[tokio::test]
async fn a_clusters_id_is_data_whatever_it_holds() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for text in HOSTILE {
        let own = || text.to_owned();
        client
            .list_clusters(proto::ClusterListingRequest { cluster_id: own(), limit: i32::MIN })
            .await
            .unwrap();
        assert_eq!(
            server.played.last_call(),
            format!("ClusterSelector {{ cluster_id: Some({text:?}), limit: None }}")
        );
        let request =
            proto::BackupListingRequest { cluster_id: own(), limit: i32::MAX, ..Default::default() };
        client.list_backups(request).await.unwrap();
        assert!(server.played.last_call().contains(&format!("cluster_id: Some({text:?})")));
        let request = proto::RestoreStatusListingRequest { cluster_id: own(), ..Default::default() };
        let answer = client.list_restore_statuses(request).await.unwrap().into_inner();
        assert_eq!(answer.cluster_id, text);
        let request = proto::BackupRequest { cluster_id: own(), backup_type: 2, ..Default::default() };
        let answer = client.take_backup(request).await.unwrap().into_inner();
        assert_eq!(answer.cluster_id, text);
        let request = proto::RestoreRequest {
            cluster_id: own(),
            snapshot_id: SNAPSHOT.into(),
            restore_type: 2,
            ..Default::default()
        };
        assert_eq!(client.restore_backup(request).await.unwrap().into_inner().cluster_id, text);
    }
}

#[tokio::test]
async fn selectors_that_can_match_nothing_are_not_asked_for() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for text in HOSTILE {
        for (target_ip, snapshot_id) in [(text, ""), ("", text), (text, text)] {
            let request = proto::BackupListingRequest {
                cluster_id: CLUSTER.into(),
                target_ip: target_ip.into(),
                snapshot_id: snapshot_id.into(),
                limit: -1,
            };
            assert_eq!(client.list_backups(request).await.unwrap().into_inner().entries, []);
            let request = proto::RestoreStatusListingRequest {
                cluster_id: CLUSTER.into(),
                target_ip: target_ip.into(),
                snapshot_id: snapshot_id.into(),
                limit: 0,
            };
            assert_eq!(client.list_restore_statuses(request).await.unwrap().into_inner().entries, []);
        }
    }
    assert_eq!(server.played.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn texts_beyond_all_lengths_are_refused_in_every_field() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for text in
        ["x".repeat(256), "x/".repeat(2_100), "\u{1f980}".repeat(256), "a\0b".to_owned(), "a\nb".to_owned()]
    {
        refused_everywhere(&mut client, &text).await;
        let own = || text.clone();
        let request = proto::ClusterListingRequest { cluster_id: own(), limit: 0 };
        refused(client.list_clusters(request).await, &text);
        let request = proto::BackupRequest { cluster_id: own(), backup_type: 2, ..Default::default() };
        refused(client.take_backup(request).await, &text);
        let request = proto::RestoreRequest {
            cluster_id: own(),
            snapshot_id: SNAPSHOT.into(),
            restore_type: 2,
            ..Default::default()
        };
        refused(client.restore_backup(request).await, &text);
    }
    assert_eq!(server.played.take_calls(), Vec::<String>::new());
}
