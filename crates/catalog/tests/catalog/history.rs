//! Selectors and order of the histories.

use crate::{Fixture, new_job, update};
use cassy_catalog::{HistorySelector, JobKind, LISTED_MOST, NewJob};

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    for (job, cluster, snapshot, created_at, nodes) in [
        ("1", "c1", "s1", 1000, &["n1", "n2"][..]),
        ("2", "c1", "s2", 2000, &["n1"][..]),
        ("3", "c1", "s1", 3000, &["n2", "n1"][..]),
        ("4", "c2", "s3", 2500, &["n1"][..]),
    ] {
        let job = NewJob {
            cluster_id: cluster.to_owned(),
            snapshot_id: snapshot.to_owned(),
            ..new_job(job, JobKind::Backup, created_at, nodes)
        };
        fixture.catalog.create_job(fixture.epoch(), &job).await.unwrap();
    }
    fixture
}

fn selector(cluster: &str, node: &str, snapshot: &str, limit: Option<u32>) -> HistorySelector {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    HistorySelector { cluster_id: some(cluster), target_ip: some(node), snapshot_id: some(snapshot), limit }
}

#[tokio::test]
async fn the_selectors_are_those_of_the_public_interface() {
    let fixture = fixture().await;
    let check = async |selector: HistorySelector, expected: &[&str]| {
        let entries = fixture.catalog.backups(&selector).await.unwrap();
        let shown: Vec<_> =
            entries.iter().map(|e| format!("{}@{} {}", e.snapshot_id, e.created_at, e.target_ip)).collect();
        assert_eq!(shown, expected, "{selector:?}");
    };
    let all = ["s1@3000 n1", "s1@3000 n2", "s3@2500 n1", "s2@2000 n1", "s1@1000 n1", "s1@1000 n2"];
    check(selector("", "", "", None), &all).await;
    check(selector("", "", "", Some(2)), &all[..2]).await;
    check(selector("", "", "", Some(0)), &[]).await;
    check(selector("c2", "", "", None), &["s3@2500 n1"]).await;
    check(selector("c1", "n2", "", None), &["s1@3000 n2", "s1@1000 n2"]).await;
    check(selector("c1", "n2", "", Some(1)), &["s1@3000 n2"]).await;
    check(selector("", "", "s2", None), &["s2@2000 n1"]).await;
    // With a snapshot id, the cluster id is not looked at.
    check(selector("c2", "", "s2", None), &["s2@2000 n1"]).await;
    check(selector("", "n2", "s1", None), &["s1@3000 n2", "s1@1000 n2"]).await;
    check(selector("c9", "", "", None), &[]).await;
    check(selector("", "", "s9", None), &[]).await;
}

#[tokio::test]
async fn backups_have_ended_when_their_jobs_have() {
    let fixture = fixture().await;
    let catalog = &fixture.catalog;
    let finish = async |job: &str| {
        catalog.save_job(fixture.epoch(), &update(job, "done", true, vec![]), 9000).await.unwrap();
    };
    let ended = async |cluster: &str| Vec::from_iter(catalog.ended_backups(cluster).await.unwrap());
    assert!(ended("c1").await.is_empty());
    finish("1").await;
    finish("2").await;
    assert_eq!(ended("c1").await, ["1", "2"]);
    finish("3").await;
    assert_eq!(ended("c1").await, ["1", "2", "3"]);
    assert!(ended("c9").await.is_empty());
}

#[tokio::test]
async fn all_nodes_of_a_backup_are_known_however_long_its_history_is() {
    let fixture = fixture().await;
    let later: Vec<String> = (0..LISTED_MOST).map(|number| format!("later {number}")).collect();
    let later: Vec<&str> = later.iter().map(String::as_str).collect();
    let increments = NewJob {
        cluster_id: "c1".to_owned(),
        snapshot_id: "s1".to_owned(),
        ..new_job("increments", JobKind::Backup, 4000, &later)
    };
    fixture.catalog.create_job(fixture.epoch(), &increments).await.unwrap();
    let listed = fixture.catalog.backups(&selector("", "", "s1", None)).await.unwrap();
    assert!(!listed.iter().any(|entry| entry.target_ip == "n1"), "the listing has an end");
    let known = fixture.catalog.backed_up_addresses("c1", "s1").await.unwrap();
    assert_eq!(known.len(), later.len() + 2);
    assert!(known.contains("n1") && known.contains("n2"));
    for (cluster, snapshot) in [("c2", "s1"), ("c1", "s3")] {
        assert!(fixture.catalog.backed_up_addresses(cluster, snapshot).await.unwrap().is_empty());
    }
}
