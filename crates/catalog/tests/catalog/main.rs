//! The catalog on real SQLite files.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions only

mod bad_inputs;
mod clusters;
mod history;
mod hostile;
mod intents;
mod jobs;
mod killed;
mod lease;
mod open;

use cassy_catalog::{
    Catalog, JobKind, JobPart, JobUpdate, Lease, MetadataUrl, NewJob, NodeRow, SERVER_LEASE,
};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A catalog in a directory of its own, with the server's lease taken.
struct Fixture {
    dir: TempDir,
    catalog: Catalog,
    lease: Lease,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(&dir.path().join("cassy.db")).await;
        let lease =
            catalog.take_lease(SERVER_LEASE, "me", Duration::from_secs(60), nobody_is_dead).await.unwrap();
        Self { dir, catalog, lease }
    }

    fn epoch(&self) -> i64 {
        self.lease.epoch
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("cassy.db")
    }

    /// Another server on the same file.
    async fn second(&self) -> Catalog {
        open(&self.file()).await
    }
}

async fn open(path: &Path) -> Catalog {
    Catalog::open(&MetadataUrl::SqliteFile(path.to_path_buf())).await.unwrap()
}

fn nobody_is_dead(_: &str) -> bool {
    false
}

fn everybody_is_dead(_: &str) -> bool {
    true
}

fn new_job(job_id: &str, kind: JobKind, created_at: i64, nodes: &[&str]) -> NewJob {
    NewJob {
        job_id: job_id.to_owned(),
        kind,
        operation_type: 2,
        cluster_id: "prod-1".to_owned(),
        snapshot_id: format!("snapshot of {job_id}"),
        stage: "prepare".to_owned(),
        state_json: "{}".to_owned(),
        parts: nodes.iter().map(|node| part(node, "new")).collect(),
        created_at,
        rows: nodes.iter().map(|node| row(node, 1, "")).collect(),
        key: None,
    }
}

fn update(job_id: &str, stage: &str, finished: bool, rows: Vec<NodeRow>) -> JobUpdate {
    JobUpdate {
        job_id: job_id.to_owned(),
        stage: stage.to_owned(),
        state_json: format!("{{\"stage\":{stage:?}}}"),
        parts: rows.iter().map(|row| part(&row.target_ip, stage)).collect(),
        finished,
        frees_key: false,
        rows,
    }
}

fn part(name: &str, state_json: &str) -> JobPart {
    JobPart { name: name.to_owned(), state_json: state_json.to_owned() }
}

fn row(target_ip: &str, status: u8, message: &str) -> NodeRow {
    NodeRow { target_ip: target_ip.to_owned(), status, message: message.to_owned() }
}

/// What the `sqlite3` tool makes of these statements; `None` where there is no such tool.
fn sqlite3(file: &Path, input: &str) -> Option<String> {
    let mut child =
        Command::new("sqlite3").arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "sqlite3 failed on {input}");
    Some(String::from_utf8(output.stdout).unwrap())
}
