//! What comes back: wire types, statuses, and what a panic or a client that hangs up does.

use cassy_api::proto;
use cassy_control::{OperationError, OperationErrorKind};
use tonic::Code;

use crate::played::{CLUSTER, CREATED, Part, SNAPSHOT, Server, until, within};

fn backup() -> proto::BackupRequest {
    proto::BackupRequest {
        cluster_id: CLUSTER.into(),
        target_ips: vec!["10.0.0.1".into()],
        backup_type: 2,
        ..Default::default()
    }
}

#[tokio::test]
async fn every_field_is_carried_over() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let created_at = u64::try_from(CREATED).unwrap();

    let answer = client.take_backup(backup()).await.unwrap().into_inner();
    let expected = proto::BackupResponse {
        status: proto::OperationStatus::Started.into(),
        cluster_id: CLUSTER.into(),
        target_ips: vec!["10.0.0.1".into()],
        snapshot_id: SNAPSHOT.into(),
        created_at,
        backup_type: 2,
        message: String::new(),
        job_id: SNAPSHOT.into(),
    };
    assert_eq!(answer, expected);

    let request = proto::BackupListingRequest { cluster_id: CLUSTER.into(), ..Default::default() };
    let answer = client.list_backups(request).await.unwrap().into_inner();
    let expected = proto::backup_listing_response::Entry {
        cluster_id: CLUSTER.into(),
        target_ip: "10.0.0.1".into(),
        snapshot_id: SNAPSHOT.into(),
        created_at,
        updated_at: created_at + 1,
        backup_type: 2,
        status: proto::OperationStatus::Failed.into(),
        message: "the disk is full".into(),
        bytes_done: 5_000_000_000,
        bytes_total: 6_000_000_000,
        pause: None,
        job_id: SNAPSHOT.into(),
    };
    assert_eq!(answer.entries, [expected]);
}

#[tokio::test]
async fn restore_statuses_repeat_the_cluster_id_of_the_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for cluster_id in ["", CLUSTER] {
        let request = proto::RestoreStatusListingRequest {
            cluster_id: cluster_id.into(),
            snapshot_id: SNAPSHOT.into(),
            ..Default::default()
        };
        let answer = client.list_restore_statuses(request).await.unwrap().into_inner();
        assert_eq!((answer.cluster_id.as_str(), answer.entries.len()), (cluster_id, 1));
    }
}

#[tokio::test]
async fn every_kind_of_error_has_its_status() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (kind, code) in [
        (OperationErrorKind::InvalidArgument, Code::InvalidArgument),
        (OperationErrorKind::NotFound, Code::NotFound),
        (OperationErrorKind::FailedPrecondition, Code::FailedPrecondition),
        (OperationErrorKind::Unavailable, Code::Unavailable),
        (OperationErrorKind::Unimplemented, Code::Unimplemented),
        (OperationErrorKind::Exhausted, Code::ResourceExhausted),
    ] {
        let error =
            OperationError::new(kind, "10.0.0.1: caf\u{e9} is closed").hint("Open it.").hint("Or wait.");
        server.played.plays(Part::Refuse(error));
        let status = client.take_backup(backup()).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert_eq!(status.message(), "10.0.0.1: caf\u{e9} is closed\nhint: Open it.\nhint: Or wait.");
    }
}

#[tokio::test]
async fn internal_errors_and_panics_show_nothing_but_an_id() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let defect = OperationError::new(OperationErrorKind::Internal, "a secret of the database");
    for part in [Part::Refuse(defect), Part::Panic] {
        server.played.plays(part);
        let status = client.take_backup(backup()).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(
            status.message().contains("request id ") && !status.message().contains("secret"),
            "{status:?}"
        );
    }
    server.played.plays(Part::Answer);
    client.take_backup(backup()).await.unwrap();
}

#[tokio::test]
async fn a_long_list_of_problems_reaches_the_client() {
    let server = Server::start().await;
    let problems = "10.0.0.1: the directory /var/lib/cassandra/data is not empty\n".repeat(2_000);
    server.played.plays(Part::Refuse(OperationError::new(OperationErrorKind::FailedPrecondition, problems)));
    let status = server.client().await.take_backup(backup()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("cut short, request id "), "{status:?}");
}

#[tokio::test]
async fn a_client_that_hangs_up_drops_the_future() {
    let server = Server::start().await;
    server.played.plays(Part::Wait);
    for whole_connection in [false, true] {
        let mut client = server.client().await;
        let mut other = client.clone();
        let call = tokio::spawn(async move { client.take_backup(backup()).await });
        until("the call arrives", || server.played.under_way() == 1).await;
        call.abort();
        if whole_connection {
            drop(other);
        } else {
            until("the call is dropped", || server.played.under_way() == 0).await;
            server.played.plays(Part::Answer);
            other.take_backup(backup()).await.unwrap();
            server.played.plays(Part::Wait);
        }
        until("the call is dropped", || server.played.under_way() == 0).await;
    }
}

#[tokio::test]
async fn stopping_waits_for_requests_under_way() {
    let server = Server::start().await;
    server.played.plays(Part::Wait);
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.take_backup(backup()).await });
    until("the call arrives", || server.played.under_way() == 1).await;
    server.stop.cancel();
    until("the port is closed", || std::net::TcpStream::connect(server.address).is_err()).await;
    server.played.release.add_permits(1);
    within("the answer", call).await.unwrap().unwrap();
    within("the end", server.ended).await.unwrap().unwrap();
}
