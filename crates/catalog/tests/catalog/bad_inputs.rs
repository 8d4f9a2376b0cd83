//! A database in which somebody has written what no version of ours writes: it opens, what is well is served, and
//! what is not is shown harmlessly or refused with the operation that met it. No row is lost.

use crate::{Fixture, new_job, row};
use cassy_catalog::{CatalogError, ClusterSelector, ErrorClass, HistorySelector, JobKind, NodeProgress};
use sqlx::{Connection, Executor, SqliteConnection};
use std::path::Path;

async fn raw(path: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn count(fixture: &Fixture, table: &str) -> i64 {
    let query = format!("SELECT COUNT(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut raw(&fixture.file()).await).await.unwrap()
}

fn of_snapshot(snapshot_id: &str) -> HistorySelector {
    HistorySelector { snapshot_id: Some(snapshot_id.to_owned()), ..HistorySelector::default() }
}

/// An error that says what was to be done, or an answer.
#[track_caller]
fn harmless<T>(answer: Result<T, CatalogError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
            assert!(error.to_string().starts_with("cannot "), "{error}");
            None
        }
    }
}

/// Literals of SQL: numbers of every size, texts that are none, and other types in their place.
const HOSTILE: [&str; 16] = [
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "253402300799999",
    "9e999",
    "-9e999",
    "0.5",
    "''",
    "'abc'",
    "x'ff00fe'",
    "CAST(x'c0af' AS TEXT)",
    "CAST(x'eda080' AS TEXT)",
    "'a' || char(0) || 'b'",
    "'-oProxyCommand=id'",
    "'../../etc'",
    "'''; DROP TABLE job; --'",
];

#[tokio::test]
async fn a_history_row_that_nobody_wrote_is_harmless_and_the_others_stay() {
    for (number, hostile) in HOSTILE.into_iter().enumerate() {
        let fixture = Fixture::new().await;
        let job = new_job("good", JobKind::Backup, 5, &["10.0.0.1"]);
        fixture.catalog.create_job(fixture.epoch(), &job).await.unwrap();
        let mut connection = raw(&fixture.file()).await;
        for values in [
            format!("({hostile}, 'ip', 'bad', 1, 2, 2, 3)"),
            format!("('c', {hostile}, 'bad', 2, 2, 2, 3)"),
            format!("('c', 'ip', 'bad', {hostile}, 3, 2, 3)"),
            format!("('c', 'ip', 'bad', 10{number}, {hostile}, 2, 3)"),
            format!("('c', 'ip', 'bad', 20{number}, 5, {hostile}, 3)"),
            format!("('c', 'ip', 'bad', 30{number}, 6, 2, {hostile})"),
        ] {
            for table in ["backup_history", "restore_history"] {
                let insert = format!("INSERT INTO {table} VALUES {values}");
                connection.execute(sqlx::AssertSqlSafe(insert)).await.unwrap();
            }
        }
        let before = count(&fixture, "backup_history").await;
        assert_eq!(
            fixture.catalog.backups(&of_snapshot("snapshot of good")).await.unwrap().len(),
            1,
            "{hostile}"
        );
        for entries in [
            harmless(fixture.catalog.backups(&of_snapshot("bad")).await),
            harmless(fixture.catalog.restores(&of_snapshot("bad")).await),
            harmless(fixture.catalog.backups(&HistorySelector::default()).await),
        ]
        .into_iter()
        .flatten()
        {
            assert!(entries.iter().all(|entry| entry.status <= 4), "{entries:?}");
        }
        harmless(fixture.catalog.ended_backups("c").await);
        assert_eq!(count(&fixture, "backup_history").await, before);
    }
}

/// SQLite keeps a value of any type in any column.
#[tokio::test]
async fn a_history_row_of_wrong_types_is_named_and_the_others_are_listed() {
    let fixture = Fixture::new().await;
    let mut connection = raw(&fixture.file()).await;
    for values in [
        "('c', '10.0.0.1', 'of a row that is well', 1, 2, 2, 3)",
        "('c', '10.0.0.2', 'odd', x'00', 2, 2, 3)",
        "('c', '10.0.0.3', 'odd', 3, 'text', 2, 3)",
        "('c', '10.0.0.4', 'odd', 4, 2, 0.5, 3)",
        "('c', '10.0.0.5', 'odd', 5, 2, 2, 'COMPLETED')",
        "('c', CAST(x'ff' AS TEXT), 'odd', 6, 2, 2, 3)",
        "(x'63', '10.0.0.7', x'6f6464', 7, 2, 2, 3)",
    ] {
        for table in ["backup_history", "restore_history"] {
            let insert = format!("INSERT INTO {table} VALUES {values}");
            connection.execute(sqlx::AssertSqlSafe(insert)).await.unwrap();
        }
    }
    for (table, type_name, mut entries) in [
        (
            "backup_history",
            "operation_type",
            fixture.catalog.backups(&HistorySelector::default()).await.unwrap(),
        ),
        (
            "restore_history",
            "operation_type",
            fixture.catalog.restores(&HistorySelector::default()).await.unwrap(),
        ),
    ] {
        entries.sort_by(|one, other| one.target_ip.cmp(&other.target_ip));
        let (well, odd) = entries.split_first().unwrap();
        assert_eq!(
            (well.snapshot_id.as_str(), well.status, well.message.as_str()),
            ("of a row that is well", 3, "")
        );
        let columns =
            ["created_at", "updated_at", type_name, "status", "cluster_id, snapshot_id", "target_ip"];
        assert_eq!(odd.len(), columns.len());
        for (entry, columns) in odd.iter().zip(columns) {
            assert_eq!((entry.status, entry.snapshot_id.as_str()), (0, "odd"), "{entry:?}");
            let told =
                [table, &format!("target_ip {:?}", entry.target_ip), &format!("see its {columns}; correct")];
            assert!(told.iter().all(|text| entry.message.contains(text)), "{columns}: {}", entry.message);
        }
    }
}

#[tokio::test]
async fn a_cluster_row_that_nobody_wrote_is_harmless_and_the_others_stay() {
    for hostile in HOSTILE {
        let fixture = Fixture::new().await;
        let mut connection = raw(&fixture.file()).await;
        connection
            .execute(
                "INSERT INTO cluster_info VALUES ('good', 'name', '10.0.0.1', 'a, b,,snapshots', '/d', 1, 1)",
            )
            .await
            .unwrap();
        for (number, values) in [
            format!("({hostile}, 'n', 'ip', 'ks', '/d', 1, 1)"),
            format!("('c1', {hostile}, 'ip', 'ks', '/d', 1, 1)"),
            format!("('c2', 'n', {hostile}, 'ks', '/d', 1, 1)"),
            format!("('c3', 'n', 'ip', {hostile}, '/d', 1, 1)"),
            format!("('c4', 'n', 'ip', 'ks', {hostile}, 1, 1)"),
            format!("('c5', 'n', 'ip', 'ks', '/d', {hostile}, 1)"),
            format!("('c6', 'n', 'ip', 'ks', '/d', 1, {hostile})"),
        ]
        .into_iter()
        .enumerate()
        {
            let insert = format!("INSERT INTO cluster_info VALUES {values}");
            connection.execute(sqlx::AssertSqlSafe(insert)).await.unwrap();
            harmless(fixture.catalog.cluster(&format!("c{number}")).await);
        }
        let good = fixture.catalog.cluster("good").await.unwrap().expect("there");
        assert_eq!(good.keyspaces, ["a", "b", "snapshots"]);
        let listed = fixture.catalog.clusters(&ClusterSelector::default()).await.unwrap();
        assert_eq!((listed.len(), count(&fixture, "cluster_info").await), (8, 8), "{hostile}");
    }
}

#[tokio::test]
async fn a_job_that_nobody_wrote_is_harmless_and_the_others_stay() {
    for hostile in HOSTILE {
        let fixture = Fixture::new().await;
        let job = new_job("good", JobKind::Backup, 5, &["10.0.0.1"]);
        fixture.catalog.create_job(fixture.epoch(), &job).await.unwrap();
        let mut connection = raw(&fixture.file()).await;
        let columns = [
            "kind",
            "cluster_id",
            "snapshot_id",
            "operation_type",
            "stage",
            "state",
            "created_at",
            "updated_at",
        ];
        for (number, column) in columns.into_iter().enumerate() {
            let bad = new_job(&format!("bad{number}"), JobKind::Backup, 9, &[]);
            fixture.catalog.create_job(fixture.epoch(), &bad).await.unwrap();
            let update = format!("UPDATE job SET {column} = {hostile} WHERE job_id = 'bad{number}'");
            connection.execute(sqlx::AssertSqlSafe(update)).await.unwrap();
            harmless(fixture.catalog.job(&bad.job_id).await);
        }
        assert_eq!(fixture.catalog.job("good").await.unwrap().expect("there").stage, "prepare");
        let unfinished = harmless(fixture.catalog.unfinished_jobs().await);
        if let Some(jobs) = unfinished {
            assert!(jobs.iter().any(|job| job.job_id == "good"), "{hostile}");
        }
        assert_eq!(count(&fixture, "job").await, 1 + columns.len() as i64);
    }
}

#[tokio::test]
async fn progress_beyond_all_numbers_is_kept_within_them() {
    let fixture = Fixture::new().await;
    let job = new_job("job", JobKind::Backup, i64::MAX, &["10.0.0.1"]);
    fixture.catalog.create_job(fixture.epoch(), &job).await.unwrap();
    let progress = NodeProgress {
        job_id: "job".to_owned(),
        target_ip: "10.0.0.1".to_owned(),
        bytes_done: u64::MAX,
        bytes_total: u64::MAX,
    };
    fixture.catalog.save_progress(fixture.epoch(), &[progress]).await.unwrap();
    let [entry] = &fixture.catalog.backups(&of_snapshot("snapshot of job")).await.unwrap()[..] else {
        panic!("one entry");
    };
    assert_eq!((entry.bytes_done, entry.created_at), (i64::MAX as u64, i64::MAX));
    let mut connection = raw(&fixture.file()).await;
    connection.execute("UPDATE job_node SET bytes_done = -1, bytes_total = -9").await.unwrap();
    let entries = fixture.catalog.backups(&of_snapshot("snapshot of job")).await.unwrap();
    assert_eq!((entries[0].bytes_done, entries[0].bytes_total), (0, 0));
}

/// Two spellings of a letter, and of a case, are two clusters.
#[tokio::test]
async fn names_that_look_alike_are_different() {
    let fixture = Fixture::new().await;
    let names = ["caf\u{e9}", "cafe\u{301}", "Prod", "prod", "snapshots", "a,b"];
    for (name, number) in names.into_iter().zip(1..) {
        let job = cassy_catalog::NewJob {
            cluster_id: name.to_owned(),
            rows: vec![row("10.0.0.1", 3, name)],
            ..new_job(name, JobKind::Backup, number, &[])
        };
        fixture.catalog.create_job(fixture.epoch(), &job).await.unwrap();
    }
    for name in names {
        let selector = HistorySelector { cluster_id: Some(name.to_owned()), ..HistorySelector::default() };
        let entries = fixture.catalog.backups(&selector).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.message.as_str()).collect::<Vec<_>>(), [name]);
    }
}
