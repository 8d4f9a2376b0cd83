//! The real grpcurl, as users' scripts call it: `$CASSY_GRPCURL`, on the PATH, or where `go install` puts it.

use std::{env, path::PathBuf, process::Output};

use expect_test::{Expect, expect};
use tokio::process::Command;

use crate::played::{CLUSTER, Part, SNAPSHOT, Server};

const INSTALL: &str = "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";

fn grpcurl() -> Option<PathBuf> {
    let named = env::var_os("CASSY_GRPCURL").map(PathBuf::from);
    let on_path =
        env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let installed = env::home_dir().map(|home| home.join("go/bin"));
    let found = named
        .into_iter()
        .chain(on_path.chain(installed).map(|folder| folder.join("grpcurl")))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(env::var("CASSY_TEST_REQUIRE").as_deref() != Ok("1"), "no grpcurl; {INSTALL}");
        eprintln!("skipped: no grpcurl in $CASSY_GRPCURL, on the PATH or in ~/go/bin; {INSTALL}");
    }
    found
}

/// A server and the real grpcurl, or nothing when it is not installed.
struct Grpcurl {
    binary: PathBuf,
    server: Server,
}

impl Grpcurl {
    async fn start() -> Option<Self> {
        Some(Self { binary: grpcurl()?, server: Server::start().await })
    }

    async fn run(&self, arguments: &[&str], words: &[&str]) -> Output {
        let address = self.server.address.to_string();
        let mut command = Command::new(&self.binary);
        command.arg("-plaintext").args(arguments).arg(address).args(words).kill_on_drop(true);
        command.output().await.expect("grpcurl runs")
    }

    /// What it prints when all is well.
    async fn prints(&self, words: &[&str], expected: Expect) {
        let output = self.run(&[], words).await;
        assert!(output.status.success(), "{output:?}");
        expected.assert_eq(&String::from_utf8_lossy(&output.stdout));
    }

    async fn call(&self, method: &str, body: &str, expected: Expect) {
        let output = self.run(&["-d", body], &[&format!("rpc.Cassy/{method}")]).await;
        assert!(output.status.success(), "{output:?}");
        expected.assert_eq(&String::from_utf8_lossy(&output.stdout));
    }

    async fn fails(&self, method: &str, body: &str, expected: Expect) {
        let output = self.run(&["-d", body], &[&format!("rpc.Cassy/{method}")]).await;
        assert!(!output.status.success(), "{output:?}");
        expected.assert_eq(&String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn list_and_describe() {
    let Some(grpcurl) = Grpcurl::start().await else {
        return;
    };
    grpcurl
        .prints(
            &["list"],
            expect![[r#"
                grpc.reflection.v1.ServerReflection
                grpc.reflection.v1alpha.ServerReflection
                rpc.Cassy
                rpc.CassyOps
            "#]],
        )
        .await;
    grpcurl
        .prints(
            &["list", "rpc.Cassy"],
            expect![[r#"
        rpc.Cassy.ListBackups
        rpc.Cassy.ListClusters
        rpc.Cassy.ListRestoreStatuses
        rpc.Cassy.RegisterCluster
        rpc.Cassy.RestoreBackup
        rpc.Cassy.TakeBackup
    "#]],
        )
        .await;
    grpcurl
        .prints(&["describe", "rpc.Cassy.TakeBackup"], expect![[r#"
            rpc.Cassy.TakeBackup is a method:
            // Takes a backup. Answers once the snapshots are taken; uploading goes on, and ListBackups shows how it ends.
            rpc TakeBackup ( .rpc.BackupRequest ) returns ( .rpc.BackupResponse );
        "#]])
        .await;
    grpcurl
        .prints(&["describe", "rpc.RestoreRequest"], expect![[r#"
            rpc.RestoreRequest is a message:
            // What to restore, and where.
            message RestoreRequest {
              // The cluster, as RegisterCluster answered it. Required.
              string cluster_id = 1;
              // IP addresses of the nodes to restore; all nodes of the backup when empty. Type 1: as many as the backup has nodes. One
              // that the backup does not know is the node whose tokens its cassandra.yaml names as initial_token, unless source_of
              // says which. When all are at new addresses it is a copy: it gets nothing of the keyspace system.
              repeated string target_ips = 2;
              // The backup, as TakeBackup answered it. Required.
              string snapshot_id = 3;
              // 1: the whole cluster to one instant, of a backup of backup_type 1; 2: single nodes. Required.
              uint32 restore_type = 4;
              // Restore the snapshot without the increments that were added to it.
              bool snapshot_only = 5;
              // The same as snapshot_only, under the name that command lines use. One of the two set is enough.
              bool snapshot_only_alias = 105 [json_name = "snapshot-only"];
              // For nodes that come back under another address: the IP address of the target, and the IP address or the host id
              // that the node had in the backup. That node must be gone for good.
              map<string, string> source_of = 106;
              // Move aside what lies in the targets' data, commit log, hints, saved caches and cdc directories, instead of refusing
              // nodes that are not empty: within each of these directories to moved-aside-ID, ID being the restore's. Nothing is deleted.
              bool move_aside = 107;
              // Change nothing: the answer has the status INITIALIZED, and its message says what would be done on each node, and
              // what would be refused and why.
              bool dry_run = 108;
              // A name of the client's own for this request, of 1 to 128 printable ASCII characters: the same request with the same
              // key again is answered by the same job, as it is then, and never makes a second one. A refused request frees its key.
              // A dry run makes no job, and does not look at it.
              optional string idempotency_key = 109;
            }
        "#]])
        .await;
    grpcurl
        .prints(
            &["describe", ".rpc.OperationStatus"],
            expect![[r#"
            rpc.OperationStatus is an enum:
            // How far a backup or a restore of one node is.
            enum OperationStatus {
              // Not known.
              UNKNOWN = 0;
              // Accepted, nothing done yet.
              INITIALIZED = 1;
              // Under way.
              STARTED = 2;
              // Done: a backup of this status can be restored byte for byte.
              COMPLETED = 3;
              // Given up; the entry's message says why.
              FAILED = 4;
            }
        "#]],
        )
        .await;
    let described = grpcurl.run(&[], &["describe"]).await;
    assert!(described.status.success(), "{described:?}");
}

#[tokio::test]
async fn register_and_list_clusters() {
    let Some(grpcurl) = Grpcurl::start().await else {
        return;
    };
    grpcurl
        .call(
            "RegisterCluster",
            r#"{"cassandra_host":"localhost"}"#,
            expect![[r#"
                {
                  "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
                  "cluster_name": "Test Cluster",
                  "target_ips": [
                    "10.0.0.1",
                    "10.0.0.2"
                  ],
                  "keyspaces": [
                    "ks1"
                  ],
                  "data_dir": "/var/lib/cassandra/data"
                }
            "#]],
        )
        .await;
    grpcurl
        .call(
            "ListClusters",
            "",
            expect![[r#"
        {
          "entries": [
            {
              "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
              "cluster_name": "Test Cluster",
              "target_ips": [
                "10.0.0.1",
                "10.0.0.2"
              ],
              "keyspaces": [
                "ks1"
              ],
              "data_dir": "/var/lib/cassandra/data",
              "created_at": "1622505600123",
              "updated_at": "1622505600124"
            }
          ]
        }
    "#]],
        )
        .await;
    grpcurl
        .call(
            "ListClusters",
            r#"{"cluster_id":"x","limit":1}"#,
            expect![[r#"
                {
                  "entries": [
                    {
                      "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
                      "cluster_name": "Test Cluster",
                      "target_ips": [
                        "10.0.0.1",
                        "10.0.0.2"
                      ],
                      "keyspaces": [
                        "ks1"
                      ],
                      "data_dir": "/var/lib/cassandra/data",
                      "created_at": "1622505600123",
                      "updated_at": "1622505600124"
                    }
                  ]
                }
            "#]],
        )
        .await;
    assert_eq!(
        grpcurl.server.played.last_call(),
        r#"ClusterSelector { cluster_id: Some("x"), limit: Some(1) }"#
    );
    grpcurl.server.played.plays(Part::AnswerNothing);
    grpcurl
        .call(
            "ListClusters",
            "{}",
            expect![[r#"
        {}
    "#]],
        )
        .await;
}

#[tokio::test]
async fn back_up_and_list() {
    let Some(grpcurl) = Grpcurl::start().await else {
        return;
    };
    let request = format!(r#"{{"cluster_id":"{CLUSTER}","target_ips":["10.0.0.1"],"backup_type":2}}"#);
    grpcurl
        .call(
            "TakeBackup",
            &request,
            expect![[r#"
                {
                  "status": "STARTED",
                  "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
                  "target_ips": [
                    "10.0.0.1"
                  ],
                  "snapshot_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
                  "created_at": "1622505600123",
                  "backup_type": 2,
                  "job_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3"
                }
            "#]],
        )
        .await;
    let request = format!(r#"{{"snapshot_id":"{SNAPSHOT}","target_ip":"10.0.0.1","limit":"5"}}"#);
    grpcurl
        .call(
            "ListBackups",
            &request,
            expect![[r#"
                {
                  "entries": [
                    {
                      "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
                      "target_ip": "10.0.0.1",
                      "snapshot_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
                      "created_at": "1622505600123",
                      "updated_at": "1622505600124",
                      "backup_type": 2,
                      "status": "FAILED",
                      "message": "the disk is full",
                      "bytes_done": "5000000000",
                      "bytes_total": "6000000000",
                      "job_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3"
                    }
                  ]
                }
            "#]],
        )
        .await;
}

#[tokio::test]
async fn restore_and_list() {
    let Some(grpcurl) = Grpcurl::start().await else {
        return;
    };
    for option in
        [r#", "snapshot_only": true"#, r#", "snapshot-only": true"#, r#", "snapshot_only_alias": true"#]
    {
        let request =
            format!(r#"{{"cluster_id":"{CLUSTER}","snapshot_id":"{SNAPSHOT}","restore_type":2{option}}}"#);
        let expected = expect![[r#"
            {
              "status": "STARTED",
              "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
              "snapshot_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
              "restore_type": 2,
              "snapshot_only": true,
              "message": "start the seeds first",
              "job_id": "0192f0c1-9999-7a4b-8c5d-6e7f8091a2b3"
            }
        "#]];
        grpcurl.call("RestoreBackup", &request, expected).await;
        let last = grpcurl.server.played.last_call();
        assert!(last.contains("snapshot_only: true"), "{option}: {last}");
    }
    let request = format!(r#"{{"cluster_id":"{CLUSTER}","snapshot_id":"{SNAPSHOT}","restore_type":2}}"#);
    grpcurl
        .call(
            "RestoreBackup",
            &request,
            expect![[r#"
                {
                  "status": "STARTED",
                  "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
                  "snapshot_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
                  "restore_type": 2,
                  "message": "start the seeds first",
                  "job_id": "0192f0c1-9999-7a4b-8c5d-6e7f8091a2b3"
                }
            "#]],
        )
        .await;
    grpcurl
        .call(
            "ListRestoreStatuses",
            &format!(r#"{{"cluster_id":"{CLUSTER}"}}"#),
            expect![[r#"
                {
                  "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
                  "entries": [
                    {
                      "target_ip": "10.0.0.1",
                      "snapshot_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
                      "created_at": "1622505600123",
                      "updated_at": "1622505600124",
                      "restore_type": 2,
                      "status": "COMPLETED",
                      "job_id": "0192f0c1-9999-7a4b-8c5d-6e7f8091a2b3"
                    }
                  ]
                }
            "#]],
        )
        .await;
    grpcurl
        .call(
            "ListRestoreStatuses",
            &format!(r#"{{"snapshot_id":"{SNAPSHOT}"}}"#),
            expect![[r#"
                {
                  "entries": [
                    {
                      "target_ip": "10.0.0.1",
                      "snapshot_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
                      "created_at": "1622505600123",
                      "updated_at": "1622505600124",
                      "restore_type": 2,
                      "status": "COMPLETED",
                      "job_id": "0192f0c1-9999-7a4b-8c5d-6e7f8091a2b3"
                    }
                  ]
                }
            "#]],
        )
        .await;
}

#[tokio::test]
async fn refusals() {
    let Some(grpcurl) = Grpcurl::start().await else {
        return;
    };
    grpcurl
        .fails(
            "RegisterCluster",
            "{}",
            expect![[r#"
        ERROR:
          Code: InvalidArgument
          Message: cassandra_host is not set correctly.
        hint: Name one node of the cluster in cassandra_host, by host name or IP address.
    "#]],
        )
        .await;
    grpcurl
        .fails(
            "ListBackups",
            r#"{"target_ip":"10.0.0.1"}"#,
            expect![[r#"
            ERROR:
              Code: InvalidArgument
              Message: The request is invalid or inconsistent.
            hint: Set cluster_id, snapshot_id or both.
        "#]],
        )
        .await;
}

#[tokio::test]
async fn defaults_can_be_asked_for() {
    let Some(grpcurl) = Grpcurl::start().await else {
        return;
    };
    let output = grpcurl
        .run(
            &["-emit-defaults", "-d", &format!(r#"{{"cluster_id":"{CLUSTER}"}}"#)],
            &["rpc.Cassy/ListRestoreStatuses"],
        )
        .await;
    expect![[r#"
        {
          "cluster_id": "Test Cluster-1f0c2a9e-5d3b-4c6a-9e8f-7a6b5c4d3e2f",
          "entries": [
            {
              "target_ip": "10.0.0.1",
              "snapshot_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
              "created_at": "1622505600123",
              "updated_at": "1622505600124",
              "restore_type": 2,
              "status": "COMPLETED",
              "message": "",
              "bytes_done": "0",
              "bytes_total": "0",
              "job_id": "0192f0c1-9999-7a4b-8c5d-6e7f8091a2b3"
            }
          ],
          "truncated": false
        }
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stdout));
}

/// What generated clients of other languages write by default.
#[tokio::test]
async fn lower_camel_case_is_taken_too() {
    let Some(grpcurl) = Grpcurl::start().await else { return };
    grpcurl.server.played.plays(Part::AnswerNothing);
    let request = format!(r#"{{"clusterId":"{CLUSTER}","targetIp":"10.0.0.1","snapshotId":"{SNAPSHOT}"}}"#);
    grpcurl.call("ListBackups", &request, expect![["{}\n"]]).await;
    let asked = format!(
        r#"HistorySelector {{ cluster_id: Some("{CLUSTER}"), target_ip: Some("10.0.0.1"), snapshot_id: Some("{SNAPSHOT}"), limit: None }}"#
    );
    assert_eq!(grpcurl.server.played.last_call(), asked);
}

#[tokio::test]
async fn unknown_fields_are_refused_by_grpcurl_itself() {
    let Some(grpcurl) = Grpcurl::start().await else { return };
    let output = grpcurl.run(&["-d", r#"{"cluster":"x"}"#], &["rpc.Cassy/ListClusters"]).await;
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(grpcurl.server.played.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn cancel() {
    let Some(grpcurl) = Grpcurl::start().await else {
        return;
    };
    let body = format!(r#"{{"snapshot_id":"{SNAPSHOT}"}}"#);
    let output = grpcurl.run(&["-d", &body], &["rpc.CassyOps/CancelJob"]).await;
    assert!(output.status.success(), "{output:?}");
    expect![[r#"
        {
          "status": "FAILED",
          "job_id": "0192f0c1-9999-7a4b-8c5d-6e7f8091a2b3",
          "snapshot_id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
          "message": "cancelled while upload: 1 of 2 nodes had finished",
          "nodes": [
            {
              "target_ip": "10.0.0.1",
              "status": "COMPLETED",
              "message": "7 files"
            }
          ]
        }
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(grpcurl.server.played.last_call(), format!("Snapshot({SNAPSHOT:?})"));
}
