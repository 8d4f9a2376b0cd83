//! A server that is killed between any two instructions leaves whole transactions only.

use crate::{Fixture, everybody_is_dead, new_job, open, row, update};
use cassy_catalog::{HistorySelector, JobKind, SERVER_LEASE};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const NODES: [&str; 3] = ["a", "b", "c"];

#[tokio::test]
async fn a_killed_server_leaves_whole_transactions() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    catalog.create_job(fixture.epoch(), &new_job("j", JobKind::Backup, 1, &NODES)).await.unwrap();
    let mut last_epoch = fixture.epoch();
    for round in 0..10_u64 {
        let written = run_and_kill(&fixture.file(), Duration::from_millis(10 + round * 7));
        let job = catalog.job("j").await.unwrap().unwrap();
        let stage: u64 = job.stage.parse().unwrap();
        assert!(stage >= written, "the write {written} was acknowledged, but {stage} is stored");
        assert!(job.epoch > last_epoch, "every server has an epoch of its own");
        last_epoch = job.epoch;
        let entries = catalog.backups(&HistorySelector::default()).await.unwrap();
        assert_eq!(entries.len(), NODES.len());
        for entry in entries {
            assert_eq!((entry.message.as_str(), entry.updated_at), (job.stage.as_str(), job.updated_at));
        }
    }
}

/// Starts a writer, kills it after a while, and returns the last write that it said was done.
fn run_and_kill(file: &Path, after: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::child_that_writes", "--ignored", "--nocapture"])
        .env("CASSY_TEST_DB", file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut done = |last: u64| {
        let line =
            lines.find_map(|line| line.unwrap().strip_prefix("done ").map(|text| text.parse().unwrap()));
        line.unwrap_or(last)
    };
    let first = done(0);
    assert!(first > 0, "the writer did not start");
    let killer = std::thread::spawn(move || {
        std::thread::park_timeout(after);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let mut last = first;
    loop {
        let next = done(last);
        if next == last {
            break;
        }
        last = next;
    }
    killer.join().unwrap();
    last
}

#[tokio::test]
#[ignore = "run by a_killed_server_leaves_whole_transactions"]
async fn child_that_writes() {
    let Some(file) = std::env::var_os("CASSY_TEST_DB") else {
        return;
    };
    let catalog = open(Path::new(&file)).await;
    let lease =
        catalog.take_lease(SERVER_LEASE, "child", Duration::from_secs(60), everybody_is_dead).await.unwrap();
    let job = catalog.job("j").await.unwrap().unwrap();
    let first = job.stage.parse::<u64>().unwrap_or(0) + 1;
    for number in first.. {
        let stage = number.to_string();
        let rows = NODES.iter().map(|node| row(node, 2, &stage)).collect();
        let now = i64::try_from(number).unwrap();
        catalog.save_job(lease.epoch, &update("j", &stage, false, rows), now).await.unwrap();
        println!("done {number}");
    }
}
