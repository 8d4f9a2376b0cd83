//! Jobs and their history rows.

use crate::{Fixture, new_job, part, row, update};
use cassy_catalog::{CatalogError, HistorySelector, Job, JobKey, JobKind, JobUpdate, NewJob, NodeProgress};

fn of_snapshot(snapshot_id: &str) -> HistorySelector {
    HistorySelector { snapshot_id: Some(snapshot_id.to_owned()), ..HistorySelector::default() }
}

#[tokio::test]
async fn a_job_and_its_rows_live_together() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    catalog.create_job(epoch, &new_job("j", JobKind::Backup, 1000, &["10.0.0.1", "10.0.0.2"])).await.unwrap();
    let expected = Job {
        job_id: "j".to_owned(),
        kind: JobKind::Backup,
        operation_type: 2,
        cluster_id: "prod-1".to_owned(),
        snapshot_id: "snapshot of j".to_owned(),
        stage: "prepare".to_owned(),
        state_json: "{}".to_owned(),
        parts: vec![part("10.0.0.1", "new"), part("10.0.0.2", "new")],
        epoch,
        created_at: 1000,
        updated_at: 1000,
        finished: false,
    };
    assert_eq!(catalog.job("j").await.unwrap(), Some(expected.clone()));
    assert_eq!(catalog.unfinished_jobs().await.unwrap(), std::slice::from_ref(&expected));

    let rows = vec![row("10.0.0.1", 3, "1 SSTable"), row("10.0.0.3", 4, "unreachable")];
    catalog.save_job(epoch, &update("j", "upload", false, rows), 2000).await.unwrap();
    let saved = catalog.job("j").await.unwrap().unwrap();
    let parts = [part("10.0.0.1", "upload"), part("10.0.0.2", "new"), part("10.0.0.3", "upload")];
    assert_eq!(saved.parts, parts, "one changed, one stayed, one is new");
    assert_eq!((saved.stage.as_str(), saved.created_at, saved.updated_at), ("upload", 1000, 2000));
    let entries = catalog.backups(&of_snapshot("snapshot of j")).await.unwrap();
    let shown: Vec<_> = entries
        .iter()
        .map(|e| {
            (e.target_ip.as_str(), e.status, e.message.as_str(), e.created_at, e.updated_at, e.operation_type)
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("10.0.0.1", 3, "1 SSTable", 1000, 2000, 2),
            ("10.0.0.2", 1, "", 1000, 1000, 2),
            ("10.0.0.3", 4, "unreachable", 1000, 2000, 2),
        ]
    );
    assert!(entries.iter().all(|entry| entry.job_id.as_deref() == Some("j")));
    assert_eq!(catalog.restores(&HistorySelector::default()).await.unwrap(), []);
}

#[tokio::test]
async fn a_final_state_is_final() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    catalog.create_job(epoch, &new_job("j", JobKind::Restore, 1000, &["n"])).await.unwrap();
    catalog.save_job(epoch, &update("j", "done", true, vec![row("n", 3, "")]), 2000).await.unwrap();
    assert_eq!(catalog.unfinished_jobs().await.unwrap(), []);
    let again = catalog.save_job(epoch, &update("j", "again", false, vec![row("n", 4, "late")]), 3000).await;
    assert!(matches!(again, Err(CatalogError::JobFinished { .. })), "{again:?}");
    let entries = catalog.restores(&of_snapshot("snapshot of j")).await.unwrap();
    assert_eq!((entries[0].status, entries[0].updated_at), (3, 2000));
    let unknown = catalog.save_job(epoch, &update("k", "x", true, vec![]), 1).await;
    assert!(matches!(unknown, Err(CatalogError::UnknownJob { .. })), "{unknown:?}");
}

#[tokio::test]
async fn what_exists_already_is_refused_as_a_whole() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    catalog.create_job(epoch, &new_job("j", JobKind::Backup, 1000, &["n"])).await.unwrap();
    let same_id = catalog.create_job(epoch, &new_job("j", JobKind::Backup, 2000, &["m"])).await;
    assert!(matches!(same_id, Err(CatalogError::AlreadyExists { .. })), "{same_id:?}");
    let snapshot_id = "snapshot of j".to_owned();
    let clash = NewJob { snapshot_id, ..new_job("k", JobKind::Backup, 1000, &["m", "n"]) };
    let same_row = catalog.create_job(epoch, &clash).await;
    assert!(matches!(same_row, Err(CatalogError::AlreadyExists { .. })), "{same_row:?}");
    assert_eq!(catalog.job("k").await.unwrap(), None);
    assert_eq!(catalog.backups(&HistorySelector::default()).await.unwrap().len(), 1);
    // A restore of the same snapshot in the same millisecond has rows of its own.
    let restore = NewJob { kind: JobKind::Restore, ..clash };
    catalog.create_job(epoch, &restore).await.unwrap();
    assert_eq!(catalog.restores(&HistorySelector::default()).await.unwrap().len(), 2);
    assert_eq!(catalog.backups(&HistorySelector::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn progress_is_stored_for_all_jobs_at_once() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    for job in ["j", "k"] {
        catalog.create_job(epoch, &new_job(job, JobKind::Backup, 1000, &["n"])).await.unwrap();
    }
    let progress = |job_id: &str, target_ip: &str, bytes_done, bytes_total| NodeProgress {
        job_id: job_id.to_owned(),
        target_ip: target_ip.to_owned(),
        bytes_done,
        bytes_total,
    };
    let all = [progress("j", "n", 5, 10), progress("k", "n", 1, u64::MAX), progress("j", "nobody", 1, 1)];
    catalog.save_progress(epoch, &all).await.unwrap();
    catalog.save_progress(epoch, &[]).await.unwrap();
    catalog.save_job(epoch, &update("j", "upload", false, vec![row("n", 2, "sending")]), 2000).await.unwrap();
    let of = async |job: &str| {
        let entries = catalog.backups(&of_snapshot(&format!("snapshot of {job}"))).await.unwrap();
        (entries[0].bytes_done, entries[0].bytes_total)
    };
    assert_eq!(of("j").await, (5, 10));
    assert_eq!(of("k").await, (1, u64::MAX / 2));
}

#[tokio::test]
async fn unfinished_jobs_come_oldest_first() {
    let fixture = Fixture::new().await;
    for (job, created_at) in [("b", 2000), ("a", 3000), ("c", 1000)] {
        let job = new_job(job, JobKind::Backup, created_at, &[]);
        fixture.catalog.create_job(fixture.epoch(), &job).await.unwrap();
    }
    let jobs = fixture.catalog.unfinished_jobs().await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.job_id.as_str()).collect::<Vec<_>>(), ["c", "b", "a"]);
}

#[tokio::test]
async fn a_key_names_one_job_until_that_is_refused() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    let keyed = |job_id: &str, key: &str| {
        let key = JobKey { key: key.to_owned(), request_json: format!("request of {job_id}") };
        NewJob { key: Some(key), ..new_job(job_id, JobKind::Backup, 1000, &[]) }
    };
    // Jobs without one do not clash.
    for job_id in ["without", "one"] {
        catalog.create_job(epoch, &new_job(job_id, JobKind::Backup, 1000, &[])).await.unwrap();
    }
    catalog.create_job(epoch, &keyed("j", "nightly")).await.unwrap();
    let same_key = catalog.create_job(epoch, &keyed("k", "nightly")).await;
    assert!(matches!(same_key, Err(CatalogError::AlreadyExists { .. })), "{same_key:?}");
    catalog.create_job(epoch, &keyed("l", "Nightly")).await.unwrap();
    let of = async |key: &str| fixture.second().await.job_by_key(key).await.unwrap();
    assert_eq!(of("nightly").await, Some(("j".to_owned(), "request of j".to_owned())));
    assert_eq!(of("weekly").await, None);

    catalog.save_job(epoch, &update("j", "upload", false, vec![]), 2000).await.unwrap();
    assert_eq!(of("nightly").await.unwrap().0, "j", "it stays while the job goes on");
    let refused = JobUpdate { frees_key: true, ..update("j", "unpin", false, vec![]) };
    catalog.save_job(epoch, &refused, 2000).await.unwrap();
    assert_eq!(of("nightly").await, None);
    catalog.create_job(epoch, &keyed("k", "nightly")).await.unwrap();
    catalog.save_job(epoch, &update("k", "done", true, vec![]), 3000).await.unwrap();
    assert_eq!(of("nightly").await.unwrap().0, "k", "it stays when the job has ended");
}
