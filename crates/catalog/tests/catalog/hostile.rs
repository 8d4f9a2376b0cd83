//! Values that would be dangerous if any of them ever became part of a statement.

use crate::{Fixture, new_job, part, row};
use cassy_catalog::{
    ClusterNode, ClusterRow, ClusterSelector, HistorySelector, JobKind, JobUpdate, NewJob, NodeProgress,
    UploadSession,
};

const HOSTILE: [&str; 9] = [
    "'; DROP TABLE job; --",
    "\" OR \"\"=\"",
    "' OR '1'='1",
    "$1 ?1 :a @b %s {0}",
    "`x` \\ /*",
    "a\0b",
    "line\r\nbreak\ttab",
    "\u{202e}right to left\u{2028} e\u{301}",
    "<script>alert(1)</script>",
];

#[tokio::test]
async fn every_field_comes_back_as_it_went_in() {
    let fixture = Fixture::new().await;
    for (number, text) in HOSTILE.into_iter().enumerate() {
        let created_at = i64::try_from(number).unwrap();
        job_round_trip(&fixture, text, created_at).await;
        cluster_round_trip(&fixture, text).await;
        session_round_trip(&fixture, text).await;
        fixture.catalog.put_host_key(text, 22, text).await.unwrap();
        assert_eq!(fixture.catalog.host_key(text, 22).await.unwrap().as_deref(), Some(text));
        let lease = fixture
            .catalog
            .take_lease(text, text, std::time::Duration::from_secs(1), |_| false)
            .await
            .unwrap();
        fixture.catalog.renew(&lease).await.unwrap();
        fixture.catalog.release(&lease).await.unwrap();
    }
    assert_eq!(fixture.catalog.unfinished_jobs().await.unwrap().len(), HOSTILE.len());
    assert_eq!(fixture.catalog.clusters(&ClusterSelector::default()).await.unwrap().len(), HOSTILE.len());
}

async fn job_round_trip(fixture: &Fixture, text: &str, created_at: i64) {
    let (catalog, epoch, own) = (&fixture.catalog, fixture.epoch(), text.to_owned());
    let job = NewJob {
        cluster_id: own.clone(),
        snapshot_id: own.clone(),
        stage: own.clone(),
        state_json: own.clone(),
        parts: vec![part(text, text)],
        rows: vec![row(text, 1, text)],
        ..new_job(text, JobKind::Backup, created_at, &[])
    };
    catalog.create_job(epoch, &job).await.unwrap();
    let update = JobUpdate {
        job_id: own.clone(),
        stage: own.clone(),
        state_json: own.clone(),
        parts: vec![part(text, text)],
        finished: false,
        frees_key: false,
        rows: job.rows,
    };
    catalog.save_job(epoch, &update, created_at).await.unwrap();
    let progress =
        NodeProgress { job_id: own.clone(), target_ip: own.clone(), bytes_done: 1, bytes_total: 2 };
    catalog.save_progress(epoch, &[progress]).await.unwrap();
    let stored = catalog.job(text).await.unwrap().unwrap();
    assert_eq!([&stored.cluster_id, &stored.snapshot_id, &stored.stage, &stored.state_json], [text; 4]);
    let selectors = [
        HistorySelector { snapshot_id: Some(own.clone()), ..HistorySelector::default() },
        HistorySelector { cluster_id: Some(own.clone()), target_ip: Some(own), ..HistorySelector::default() },
    ];
    for selector in selectors {
        let entries = catalog.backups(&selector).await.unwrap();
        assert_eq!(entries.len(), 1, "{selector:?}");
        assert_eq!([&entries[0].target_ip, &entries[0].message, &entries[0].snapshot_id], [text; 3]);
        assert_eq!(entries[0].bytes_done, 1);
    }
    assert!(catalog.ended_backups(text).await.unwrap().is_empty(), "it is under way");
}

async fn cluster_round_trip(fixture: &Fixture, text: &str) {
    let own = text.to_owned();
    let cluster = ClusterRow {
        cluster_id: own.clone(),
        cluster_name: own.clone(),
        target_ips: vec![own.clone()],
        keyspaces: vec![own.clone(), "b".to_owned()],
        data_dir: own.clone(),
        created_at: 1,
        updated_at: 1,
    };
    let node = ClusterNode {
        address: own.clone(),
        host_id: own.clone(),
        datacenter: own.clone(),
        rack: own.clone(),
    };
    fixture.catalog.register_cluster(fixture.epoch(), &cluster, std::slice::from_ref(&node)).await.unwrap();
    assert_eq!(fixture.catalog.cluster(text).await.unwrap(), Some(cluster));
    assert_eq!(fixture.catalog.cluster_nodes(text).await.unwrap(), [node]);
    assert_eq!(fixture.catalog.find_cluster_by_nodes(text, &[own]).await.unwrap().as_deref(), Some(text));
}

async fn session_round_trip(fixture: &Fixture, text: &str) {
    let session = UploadSession {
        session_id: text.to_owned(),
        cluster_id: text.to_owned(),
        host_id: text.to_owned(),
        job_id: text.to_owned(),
        created_at: i64::MIN,
        closed: true,
    };
    fixture.catalog.open_upload_session(fixture.epoch(), &session).await.unwrap();
    fixture.catalog.close_upload_session(fixture.epoch(), text).await.unwrap();
    assert_eq!(fixture.catalog.upload_sessions(text, text).await.unwrap(), [session]);
}

/// A request that is given up at any instant leaves no transaction open.
#[tokio::test]
async fn a_dropped_call_blocks_nobody() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    for number in 0..200_u16 {
        let job = new_job(&format!("job {number}"), JobKind::Backup, i64::from(number), &["a", "b", "c"]);
        let call = catalog.create_job(fixture.epoch(), &job);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(u64::from(number) * 10), call).await;
    }
    for job in catalog.unfinished_jobs().await.unwrap() {
        let selector = HistorySelector { snapshot_id: Some(job.snapshot_id), ..HistorySelector::default() };
        assert_eq!(catalog.backups(&selector).await.unwrap().len(), 3);
    }
    catalog.create_job(fixture.epoch(), &new_job("last", JobKind::Backup, 9000, &["a"])).await.unwrap();
}
