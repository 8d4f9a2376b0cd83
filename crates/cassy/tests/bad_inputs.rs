//! The built server and what it may be given: configurations, requests, and a database that others wrote to.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cassy_api::proto;
use cassy_catalog::{Catalog, ClusterRow, JobKind, JobPart, MetadataUrl, NewJob, NodeRow, SERVER_LEASE};
use cassy_testkit::{Doing, Failure, RecordedNode, Recording, World};
use tokio::net::TcpListener;
use tonic::Code;

const HOSTILE: [&str; 8] = [
    "'; DROP TABLE job; --",
    "\" OR \"\"=\"",
    "<script>alert(1)</script>",
    "$(id);`id`",
    "../../etc/cron.d/x",
    "--option",
    "\u{202e}txt\u{2066}",
    "cafe\u{301}",
];

fn names(directory: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// What the server says of a configuration with these lines, and that it has made nothing.
fn refused(lines: impl AsRef<[u8]>) -> String {
    let directory = tempfile::tempdir().unwrap();
    let (key, file) = (directory.path().join("key"), directory.path().join("cassy.properties"));
    std::fs::write(&key, "").unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let own = directory.path().display();
    let required = format!(
        "scalar.cassy.server.ssh_private_key_path={own}/key\n\
         scalar.cassy.server.metadata_db_url=jdbc:sqlite:{own}/cassy.db\n"
    );
    std::fs::write(&file, [required.as_bytes(), lines.as_ref()].concat()).unwrap();
    let before = names(directory.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_cassy"));
    let output =
        command.args(["server", "--config"]).arg(&file).current_dir(directory.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(
        text.lines().all(|line| ["error: ", "warning: "].iter().any(|word| line.starts_with(word))),
        "{text}"
    );
    assert!(!text.contains(|c: char| c.is_control() && c != '\n') && !text.contains('\u{202e}'), "{text:?}");
    assert_eq!(names(directory.path()), before);
    text
}

/// Whether an error names this key.
fn says(text: &str, key: &str) -> bool {
    let key = format!("scalar.cassy.server.{key}");
    text.lines().any(|line| line.starts_with("error: ") && line.contains(&key))
}

/// With everything that is required but the key that is tried.
fn value(key: &str, value: &str) -> String {
    let others: String = [("ssh_user", "foo"), ("storage_base_uri", "file:///nonexistent/cassy")]
        .iter()
        .filter(|(other, _)| *other != key)
        .map(|(key, value)| format!("scalar.cassy.server.{key}={value}\n"))
        .collect();
    let text = refused(format!("{others}scalar.cassy.server.{key}={value}\n"));
    assert!(says(&text, key), "{key} = {value}: {text}");
    text
}

#[test]
fn values_that_could_do_harm_are_refused_with_the_key() {
    for user in ["-oProxyCommand=id", "a b", "a\\u0000b", "a\\nb", "../x", "\\u001b[31m", "<b>", "'; DROP"] {
        value("ssh_user", user);
    }
    for path in ["-x", "bin", "../bin", "/a\\u0000b", "/a\\nb"] {
        value("slave_command_path", path);
        value("cassandra_yaml", path);
    }
    for uri in [
        "file://",
        "file:///",
        "file:///a/../../b",
        "file:///a/%2e%2e/b",
        "file:///a%00b",
        "file://169.254.169.254/latest",
        "http://169.254.169.254/latest/meta-data",
        "//host/path",
        "-x",
        "C:\\\\x",
    ] {
        value("storage_base_uri", uri);
    }
    for url in
        ["jdbc:mysql://169.254.169.254/x", "http://169.254.169.254/", "file:///x", "-x", "jdbc:sqlite:"]
    {
        let text = refused(format!(
            "scalar.cassy.server.ssh_user=foo\nscalar.cassy.server.storage_base_uri=file:///nonexistent/cassy\n\
             scalar.cassy.server.metadata_db_url={url}\n"
        ));
        assert!(says(&text, "metadata_db_url"), "{text}");
    }
}

#[test]
fn numbers_that_fit_nowhere_are_refused_with_the_key() {
    for port in ["-1", "0", "65536", "99999999999999999999", "1e3", "NaN", "0x10", " 1 2", "1.0"] {
        for key in ["port", "jmx_port", "ssh_port"] {
            assert!(value(key, port).contains("expected a port number from 1 to 65535"), "{port}");
        }
    }
}

#[test]
fn paths_beyond_all_lengths_are_refused_with_the_key() {
    for path in [format!("/{}", "x".repeat(256)), format!("/{}", "x/".repeat(3_000))] {
        let text = refused(format!(
            "scalar.cassy.server.ssh_user=foo\nscalar.cassy.server.storage_base_uri=file:///nonexistent/cassy\n\
             scalar.cassy.server.ssh_known_hosts_path={path}\nscalar.cassy.server.ssh_strict_host_keys=true\n"
        ));
        assert!(says(&text, "ssh_known_hosts_path") && text.len() < 2_000, "{text}");
    }
}

#[test]
fn other_encodings_and_contradictions_are_refused() {
    let text =
        "scalar.cassy.server.ssh_user=foo\nscalar.cassy.server.storage_base_uri=file:///nonexistent/cassy\n";
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(refused(&utf16).contains("ssh_user: required"), "UTF-16 is no properties file");
    assert!(says(&refused(b"scalar.cassy.server.ssh_user=\xff\xfe\0\n"), "ssh_user"));
    let twice = format!("{text}scalar.cassy.server.ssh_user=bar\n");
    assert!(refused(twice).contains("is set twice, to different values"));
}

/// A slash too many is no other place.
#[tokio::test]
async fn a_store_is_found_under_every_spelling_of_its_path() -> Result<(), Failure> {
    let builder = World::recorded(&Recording::synthetic()?)?;
    let store = builder.path().join("store");
    let spelled = format!("file://{}//store/", builder.path().display());
    let world = builder.property("storage_base_uri", spelled).start().await?;
    let cluster = world.register().await?;
    world.back_up(&cluster).await?;
    assert_eq!(names(&store), BTreeSet::from([store.join("cassy")]));
    Ok(())
}

/// A port that takes connections and says nothing is given up within the limit, and named with what to do.
#[tokio::test]
async fn a_port_that_never_answers_is_named_and_does_not_hold_the_server() -> Result<(), Failure> {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.doing(|| "bind")?;
    let port = silent.local_addr().doing(|| "ask the port")?.port().to_string();
    let taken = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            connections.push(connection);
        }
    });
    let world =
        World::recorded(&Recording::synthetic()?)?.property("jmx_port", port.as_str()).start().await?;
    let mut client = world.server.client()?;
    let request = proto::ClusterRegistrationRequest { cassandra_host: "127.0.0.1".to_owned() };
    let mut others = world.server.client()?;
    let (refused, served) = tokio::join!(
        client.register_cluster(request),
        others.list_clusters(proto::ClusterListingRequest::default())
    );
    served.doing(|| "list clusters meanwhile")?;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains(&format!("127.0.0.1:{port}")), "{refused:?}");
    assert!(refused.message().contains("hint: "), "{refused:?}");
    taken.abort();
    Ok(())
}

#[tokio::test]
async fn hostile_requests_and_rows_leave_the_server_at_work() -> Result<(), Failure> {
    let mut world = World::recorded(&Recording::synthetic()?)?.start().await?;
    let cluster = world.register().await?;
    hostile_calls(&world).await?;
    world.server.stop().await?;
    plant(&world.path().join("server/cassy.db")).await;
    world.server.start_again().await?;
    let mut client = world.server.client()?;
    let listed = client.list_clusters(proto::ClusterListingRequest::default()).await.doing(|| "list")?;
    let listed: BTreeSet<_> =
        listed.into_inner().entries.into_iter().map(|entry| entry.cluster_name).collect();
    assert!(HOSTILE.iter().all(|text| listed.contains(*text)), "{listed:?}");
    for text in HOSTILE {
        let request = proto::BackupListingRequest { cluster_id: text.to_owned(), ..Default::default() };
        let entries = client.list_backups(request).await.doing(|| "list backups")?.into_inner().entries;
        let [entry] = &entries[..] else { panic!("{text}: {entries:?}") };
        assert_eq!((entry.snapshot_id.as_str(), entry.created_at), (text, 0));
        assert!(entry.message.contains("could not be taken up"), "{entry:?}");
    }
    hostile_calls(&world).await?;
    world.back_up(&cluster).await?;
    assert!(!world.server.log().contains("panicked"), "{}", world.server.log());
    Ok(())
}

/// All six calls with every text hostile: refused, or nothing found.
async fn hostile_calls(world: &World<RecordedNode>) -> Result<(), Failure> {
    let mut client = world.server.client()?;
    for text in HOSTILE {
        let own = || text.to_owned();
        let register = proto::ClusterRegistrationRequest { cassandra_host: own() };
        let codes = [
            client.register_cluster(register).await.map(drop),
            client
                .take_backup(proto::BackupRequest {
                    cluster_id: format!("unknown {text}"),
                    backup_type: 2,
                    ..proto::BackupRequest::default()
                })
                .await
                .map(drop),
            client
                .take_backup(proto::BackupRequest {
                    cluster_id: own(),
                    target_ips: vec![own()],
                    snapshot_id: own(),
                    backup_type: 3,
                    idempotency_key: Some(own()),
                    keep_unproven: false,
                })
                .await
                .map(drop),
            client
                .restore_backup(proto::RestoreRequest {
                    cluster_id: own(),
                    target_ips: vec![own()],
                    snapshot_id: own(),
                    restore_type: 2,
                    ..Default::default()
                })
                .await
                .map(drop),
        ];
        for code in codes {
            assert_eq!(code.unwrap_err().code(), Code::InvalidArgument, "{text}");
        }
        let unknown = || format!("unknown {text}");
        let request = proto::ClusterListingRequest { cluster_id: unknown(), limit: -1 };
        let answer = client.list_clusters(request).await.doing(|| "list clusters")?;
        assert_eq!(answer.into_inner().entries, []);
        let request = proto::BackupListingRequest { cluster_id: unknown(), ..Default::default() };
        assert_eq!(client.list_backups(request).await.doing(|| "list backups")?.into_inner().entries, []);
        let request = proto::RestoreStatusListingRequest { cluster_id: unknown(), ..Default::default() };
        let answer = client.list_restore_statuses(request).await.doing(|| "list restores")?;
        assert_eq!(answer.into_inner().entries, []);
    }
    Ok(())
}

/// Rows that no version of ours has written; the server is stopped.
async fn plant(file: &Path) {
    let catalog = Catalog::open(&MetadataUrl::SqliteFile(file.to_owned())).await.unwrap();
    let lease = catalog.take_lease(SERVER_LEASE, "test", Duration::from_secs(60), |_| true).await.unwrap();
    for (text, number) in HOSTILE.into_iter().zip(1..) {
        let row = ClusterRow {
            cluster_id: text.to_owned(),
            cluster_name: text.to_owned(),
            target_ips: vec!["127.0.0.1".to_owned()],
            keyspaces: vec!["snapshots".to_owned(), "backups".to_owned(), "-x".to_owned()],
            data_dir: text.to_owned(),
            created_at: i64::MIN,
            updated_at: i64::MAX,
        };
        catalog.register_cluster(lease.epoch, &row, &[]).await.unwrap();
        let job = NewJob {
            job_id: text.to_owned(),
            kind: JobKind::Backup,
            operation_type: u32::MAX,
            cluster_id: text.to_owned(),
            snapshot_id: text.to_owned(),
            stage: text.to_owned(),
            state_json: format!("{{\"stage\":{text:?}"),
            parts: vec![JobPart { name: text.to_owned(), state_json: text.to_owned() }],
            created_at: -number,
            rows: vec![NodeRow { target_ip: text.to_owned(), status: 255, message: text.to_owned() }],
            key: None,
        };
        catalog.create_job(lease.epoch, &job).await.unwrap();
    }
    catalog.release(&lease).await.unwrap();
    catalog.close().await;
}
