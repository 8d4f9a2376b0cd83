//! Reflection in both versions, and the names that it gives to fields.

use std::collections::BTreeSet;

use expect_test::expect;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorProto};
use tokio_stream::StreamExt;
use tonic_reflection::pb::{v1, v1alpha};

use crate::played::Server;

macro_rules! reflected {
    ($version:ident, $server:expr) => {{
        use $version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let ask = |request| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let requests = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("rpc.Cassy".into())),
        ];
        let mut client = ServerReflectionClient::new($server.channel().await);
        let answers = client
            .server_reflection_info(tokio_stream::iter(requests))
            .await
            .unwrap()
            .into_inner();
        let answers: Vec<_> = answers
            .map(|answer| answer.unwrap().message_response.unwrap())
            .collect()
            .await;
        let [
            MessageResponse::ListServicesResponse(services),
            MessageResponse::FileDescriptorResponse(files),
        ] = &answers[..]
        else {
            panic!("unexpected: {answers:?}")
        };
        let services: BTreeSet<String> = services
            .service
            .iter()
            .map(|service| service.name.clone())
            .collect();
        (services, files.file_descriptor_proto.clone())
    }};
}

#[tokio::test]
async fn both_versions_serve_the_same_file() {
    let server = Server::start().await;
    let (v1_services, v1_files) = reflected!(v1, server);
    let (v1alpha_services, v1alpha_files) = reflected!(v1alpha, server);
    assert!(v1_services.contains("rpc.Cassy") && v1alpha_services.contains("rpc.Cassy"));
    assert_eq!(v1_files, v1alpha_files);
    let file = FileDescriptorProto::decode(&v1_files[0][..]).unwrap();
    assert_eq!((file.name(), file.package()), ("cassy.proto", "rpc"));
}

#[test]
fn only_spelled_out_json_names_are_reflected() {
    let set = prost_types::FileDescriptorSet::decode(cassy_api::proto::REFLECTED_DESCRIPTORS).unwrap();
    let [file] = &set.file[..] else { panic!("one file") };
    let mut names = Vec::new();
    file.message_type.iter().for_each(|message| json_names(message, &mut names));
    assert_eq!(names, [("snapshot_only_alias".to_owned(), "snapshot-only".to_owned())]);
}

fn json_names(message: &DescriptorProto, names: &mut Vec<(String, String)>) {
    let fields = message.field.iter().filter(|field| field.json_name.is_some());
    names.extend(fields.map(|field| (field.name().to_owned(), field.json_name().to_owned())));
    message.nested_type.iter().for_each(|nested| json_names(nested, names));
}

/// The wire is a contract: this changes only by additions.
#[test]
fn names_and_numbers() {
    let set = prost_types::FileDescriptorSet::decode(cassy_api::proto::REFLECTED_DESCRIPTORS).unwrap();
    let mut lines = String::new();
    for message in &set.file[0].message_type {
        describe("", message, &mut lines);
    }
    for service in &set.file[0].service {
        for method in &service.method {
            lines += &format!(
                "{}.{}: {} -> {}\n",
                service.name(),
                method.name(),
                method.input_type(),
                method.output_type()
            );
        }
    }
    for value in &set.file[0].enum_type[0].value {
        lines += &format!("{} = {}\n", value.name(), value.number());
    }
    expect![[r#"
        ClusterRegistrationRequest: 1 string cassandra_host
        ClusterRegistrationResponse: 1 string cluster_id, 2 string cluster_name, 3 repeated string target_ips, 4 repeated string keyspaces, 5 string data_dir
        ClusterListingRequest: 1 string cluster_id, 2 int32 limit
        ClusterListingResponse: 1 repeated .rpc.ClusterListingResponse.Entry entries
        ClusterListingResponse.Entry: 1 string cluster_id, 2 string cluster_name, 3 repeated string target_ips, 4 repeated string keyspaces, 5 string data_dir, 6 uint64 created_at, 7 uint64 updated_at
        BackupListingRequest: 1 string cluster_id, 2 string target_ip, 3 int32 limit, 4 string snapshot_id
        BackupListingResponse: 1 repeated .rpc.BackupListingResponse.Entry entries, 100 bool truncated
        BackupListingResponse.PausedInstance: 1 string instance, 2 uint64 paused_after_ms
        BackupListingResponse.Undelivered: 1 string target_ip, 2 uint64 hint_files, 3 uint64 dropped_writes
        BackupListingResponse.Pause: 1 uint64 started_at, 2 uint64 ended_at, 3 string slowest_node, 4 uint64 slowest_snapshot_ms, 5 repeated .rpc.BackupListingResponse.PausedInstance instances, 6 repeated .rpc.BackupListingResponse.Undelivered undelivered
        BackupListingResponse.Entry: 1 string cluster_id, 2 string target_ip, 3 string snapshot_id, 4 uint64 created_at, 5 uint64 updated_at, 6 uint32 backup_type, 7 .rpc.OperationStatus status, 100 string message, 101 uint64 bytes_done, 102 uint64 bytes_total, 103 .rpc.BackupListingResponse.Pause pause, 104 string job_id
        BackupRequest: 1 string cluster_id, 2 repeated string target_ips, 3 string snapshot_id, 4 uint32 backup_type, 100 bool keep_unproven, 101 string idempotency_key
        BackupResponse: 1 .rpc.OperationStatus status, 2 string cluster_id, 3 repeated string target_ips, 4 string snapshot_id, 5 uint64 created_at, 6 uint32 backup_type, 100 string message, 101 string job_id
        RestoreRequest: 1 string cluster_id, 2 repeated string target_ips, 3 string snapshot_id, 4 uint32 restore_type, 5 bool snapshot_only, 105 bool snapshot_only_alias, 106 repeated .rpc.RestoreRequest.SourceOfEntry source_of, 107 bool move_aside, 108 bool dry_run, 109 string idempotency_key
        RestoreRequest.SourceOfEntry: 1 string key, 2 string value
        RestoreResponse: 1 .rpc.OperationStatus status, 2 string cluster_id, 3 repeated string target_ips, 4 string snapshot_id, 5 uint32 restore_type, 6 bool snapshot_only, 100 string message, 101 string job_id
        RestoreStatusListingRequest: 1 string cluster_id, 2 string target_ip, 3 string snapshot_id, 4 int32 limit
        RestoreStatusListingResponse: 1 string cluster_id, 3 repeated .rpc.RestoreStatusListingResponse.Entry entries, 100 bool truncated
        RestoreStatusListingResponse.Entry: 1 string target_ip, 2 string snapshot_id, 3 uint64 created_at, 4 uint64 updated_at, 5 uint32 restore_type, 6 .rpc.OperationStatus status, 100 string message, 101 uint64 bytes_done, 102 uint64 bytes_total, 103 string job_id
        CancelJobRequest: 1 string job_id, 2 string snapshot_id
        CancelJobResponse: 1 .rpc.OperationStatus status, 2 string job_id, 3 string snapshot_id, 4 string message, 5 repeated .rpc.CancelJobResponse.Node nodes
        CancelJobResponse.Node: 1 string target_ip, 2 .rpc.OperationStatus status, 3 string message
        Cassy.RegisterCluster: .rpc.ClusterRegistrationRequest -> .rpc.ClusterRegistrationResponse
        Cassy.ListClusters: .rpc.ClusterListingRequest -> .rpc.ClusterListingResponse
        Cassy.ListBackups: .rpc.BackupListingRequest -> .rpc.BackupListingResponse
        Cassy.TakeBackup: .rpc.BackupRequest -> .rpc.BackupResponse
        Cassy.RestoreBackup: .rpc.RestoreRequest -> .rpc.RestoreResponse
        Cassy.ListRestoreStatuses: .rpc.RestoreStatusListingRequest -> .rpc.RestoreStatusListingResponse
        CassyOps.CancelJob: .rpc.CancelJobRequest -> .rpc.CancelJobResponse
        UNKNOWN = 0
        INITIALIZED = 1
        STARTED = 2
        COMPLETED = 3
        FAILED = 4
    "#]].assert_eq(&lines);
}

fn describe(outer: &str, message: &DescriptorProto, lines: &mut String) {
    let name = format!("{outer}{}", message.name());
    let fields: Vec<String> = message.field.iter().map(field).collect();
    *lines += &format!("{name}: {}\n", fields.join(", "));
    for nested in &message.nested_type {
        describe(&format!("{name}."), nested, lines);
    }
}

fn field(field: &prost_types::FieldDescriptorProto) -> String {
    let label =
        if field.label() == prost_types::field_descriptor_proto::Label::Repeated { "repeated " } else { "" };
    let kind = match field.type_name() {
        "" => format!("{:?}", field.r#type()).to_lowercase(),
        name => name.to_owned(),
    };
    format!("{} {label}{kind} {}", field.number(), field.name())
}
