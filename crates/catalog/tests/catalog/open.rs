//! What can be opened, and what is refused with which words.

use crate::{Fixture, open};
use cassy_catalog::{Catalog, ErrorClass, HistorySelector, MetadataUrl, OpenError};
use expect_test::{Expect, expect};
use sqlx::{Connection, Executor, SqliteConnection};
use std::error::Error;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const SCHEMA: &str = include_str!("../../../../scripts/db.schema");

/// The error and its causes, without the directory.
fn shown(error: &OpenError, dir: &Path) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        write!(text, ": {source}").unwrap();
        cause = source.source();
    }
    text.replace(&dir.display().to_string(), "DIR")
}

async fn refused(dir: &Path, file: &str, expected: Expect) {
    let error = Catalog::open(&MetadataUrl::SqliteFile(dir.join(file))).await.unwrap_err();
    expected.assert_eq(&shown(&error, dir));
    assert_eq!(error.class(), ErrorClass::Permanent);
}

async fn raw(path: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

#[tokio::test]
async fn a_new_file_is_created_and_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a b?mode=ro#%20'ü.db");
    let catalog = open(&file).await;
    catalog.put_host_key("node", 22, "ssh-ed25519 AAAA").await.unwrap();
    catalog.close().await;
    assert!(file.is_file());
    let again = open(&file).await;
    assert_eq!(again.host_key("node", 22).await.unwrap().as_deref(), Some("ssh-ed25519 AAAA"));
    assert_eq!(again.host_key("node", 2222).await.unwrap(), None);
}

#[tokio::test]
async fn commits_are_durable_and_the_file_is_in_wal_mode() {
    let fixture = Fixture::new().await;
    let mut connection = raw(&fixture.file()).await;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn the_memory_is_a_database_too() {
    let catalog = Catalog::open(&MetadataUrl::SqliteMemory).await.unwrap();
    catalog.put_host_key("node", 22, "k").await.unwrap();
    assert_eq!(catalog.host_key("node", 22).await.unwrap().as_deref(), Some("k"));
    let other = Catalog::open(&MetadataUrl::SqliteMemory).await.unwrap();
    assert_eq!(other.host_key("node", 22).await.unwrap(), None);
}

#[tokio::test]
async fn what_db_schema_and_java_cassy_made_is_our_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cassy.db");
    let mut java = raw(&file).await;
    java.execute(SCHEMA).await.unwrap();
    java.execute(
        "INSERT INTO backup_history VALUES ('prod-1', '10.0.0.1', 's1', 1000, 2000, 2, 3);
         INSERT INTO backup_history VALUES ('prod-1', '10.0.0.2', 's1', 1000, NULL, 2, 4);
         INSERT INTO restore_history VALUES ('prod-1', '10.0.0.1', 's1', 3000, 4000, 2, 3);
         INSERT INTO cluster_info VALUES ('prod-1', 'prod', '10.0.0.1,10.0.0.2', 'a, b', '/data', 500, NULL);",
    )
    .await
    .unwrap();
    java.close().await.unwrap();

    let catalog = open(&file).await;
    let backups = catalog.backups(&HistorySelector::default()).await.unwrap();
    assert_eq!(backups.len(), 2);
    assert_eq!(
        (backups[0].target_ip.as_str(), backups[0].updated_at, backups[0].status),
        ("10.0.0.1", 2000, 3)
    );
    assert_eq!(
        (backups[1].target_ip.as_str(), backups[1].updated_at, backups[1].status),
        ("10.0.0.2", 1000, 4)
    );
    assert_eq!((backups[0].job_id.as_deref(), backups[0].message.as_str()), (None, ""));
    assert_eq!(catalog.restores(&HistorySelector::default()).await.unwrap().len(), 1);
    let cluster = catalog.cluster("prod-1").await.unwrap().unwrap();
    assert_eq!(cluster.target_ips, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(cluster.keyspaces, ["a", "b"]);
    assert_eq!(cluster.updated_at, 500);
    let ended = catalog.ended_backups("prod-1").await.unwrap();
    assert!(ended.is_empty(), "what Java Cassy took is no job of ours");
}

#[tokio::test]
async fn the_sqlite3_tool_makes_a_file_that_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cassy.db");
    if crate::sqlite3(&file, SCHEMA).is_none() {
        eprintln!("no sqlite3 here: not tried");
        return;
    }
    open(&file).await.close().await;
    let tables = crate::sqlite3(&file, ".tables").unwrap();
    assert!(tables.contains("backup_history") && tables.contains("job_node"), "{tables}");
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("text"), "backup: yes\n").unwrap();
    std::fs::write(dir.join("short"), "SQLite").unwrap();
    std::fs::create_dir(dir.join("folder")).unwrap();
    refused(dir, "text", expect!["cannot open the metadata database DIR/text: it is not an SQLite database"])
        .await;
    assert_eq!(std::fs::read(dir.join("text")).unwrap(), b"backup: yes\n");
    refused(
        dir,
        "short",
        expect!["cannot open the metadata database DIR/short: it is not an SQLite database"],
    )
    .await;
    refused(dir, "folder", expect!["cannot open the metadata database DIR/folder: it is not a regular file"])
        .await;
    refused(
        dir,
        "none/c.db",
        expect!["cannot open the metadata database DIR/none/c.db: its directory does not exist"],
    )
    .await;
    refused(
        dir,
        "text/c.db",
        expect!["cannot open the metadata database DIR/text/c.db: its directory does not exist"],
    )
    .await;
    assert!(!dir.join("none").exists());
    let error = Catalog::open(&MetadataUrl::SqliteFile("/dev/null".into())).await.unwrap_err();
    assert!(matches!(error, OpenError::NotAFile { .. }));
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cassy.db");
    let mut bytes = b"SQLite format 3\0".to_vec();
    bytes.resize(8192, 0xa5);
    std::fs::write(&file, &bytes).unwrap();
    let error = Catalog::open(&MetadataUrl::SqliteFile(file.clone())).await.unwrap_err();
    assert!(matches!(error, OpenError::NotADatabase { .. } | OpenError::Damaged { .. }), "{error:?}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let fixture = Fixture::new().await;
    let mut connection = raw(&fixture.file()).await;
    connection
        .execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9000, 'later', 1, x'00', 1)")
        .await
        .unwrap();
    refused(
        fixture.dir.path(),
        "cassy.db",
        expect!["cannot open the metadata database DIR/cassy.db: a newer version of cassy has changed it (schema 9000, this version knows up to 5)"],
    )
    .await;
}

#[tokio::test]
async fn tables_of_another_kind_are_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cassy.db");
    let mut old = raw(&file).await;
    old.execute("CREATE TABLE cluster_info (cluster_id TEXT PRIMARY KEY, target_ips TEXT)").await.unwrap();
    refused(
        dir.path(),
        "cassy.db",
        expect!["cannot use the metadata database DIR/cassy.db: its tables are not those of Java Cassy's last version: error returned from database: (code: 1) no such column: cluster_name: (code: 1) no such column: cluster_name"],
    )
    .await;
    let tables: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table'")
        .fetch_one(&mut old)
        .await
        .unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn many_servers_may_open_a_new_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cassy.db");
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let file = file.clone();
            tokio::spawn(async move { Catalog::open(&MetadataUrl::SqliteFile(file)).await })
        })
        .collect();
    for opened in opening {
        opened.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_locked_database_is_a_transient_error() {
    let fixture = Fixture::new().await;
    let mut other = raw(&fixture.file()).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = fixture.catalog.put_host_key("node", 22, "k").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
    assert_eq!(error.to_string(), "cannot remember a host key in the metadata database");
    assert_eq!(fixture.catalog.host_key("node", 22).await.unwrap(), None);
    other.execute("ROLLBACK").await.unwrap();
    fixture.catalog.put_host_key("node", 22, "k").await.unwrap();
}

/// Root may write everywhere, so that this runs as somebody else.
#[test]
fn a_file_that_may_not_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cassy.db");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o555)).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let program = copy.path().join("catalog-tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(copy.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "open::child_without_permission", "--ignored"]).env("CASSY_TEST_DB", &file);
    if std::fs::metadata("/proc/self").unwrap().uid_is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
}

trait IsRoot {
    fn uid_is_root(&self) -> bool;
}

impl IsRoot for std::fs::Metadata {
    fn uid_is_root(&self) -> bool {
        std::os::unix::fs::MetadataExt::uid(self) == 0
    }
}

#[tokio::test]
#[ignore = "run by a_file_that_may_not_be_written_is_refused"]
async fn child_without_permission() {
    let Some(file) = std::env::var_os("CASSY_TEST_DB") else {
        return;
    };
    let file = std::path::PathBuf::from(file);
    for path in [file.clone(), file.with_file_name("new.db")] {
        let error = Catalog::open(&MetadataUrl::SqliteFile(path)).await.unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(
            matches!(error, OpenError::NoAccess { .. }) && cause.contains("Permission denied"),
            "{error:?}"
        );
    }
}
