//! One writer at a time.

use crate::{Fixture, everybody_is_dead, new_job, nobody_is_dead, open, update};
use cassy_catalog::{CatalogError, ErrorClass, JobKind, LeaseError, SERVER_LEASE, UploadSession};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_second_server_is_refused_while_the_first_lives() {
    let fixture = Fixture::new().await;
    let second = fixture.second().await;
    let error = second.take_lease(SERVER_LEASE, "you", LONG, nobody_is_dead).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    let LeaseError::HeldBy { holder, expires_in } = &error else { panic!("{error:?}") };
    assert_eq!(holder, "me");
    assert!(*expires_in <= LONG && *expires_in > LONG - Duration::from_secs(30), "{expires_in:?}");
    assert!(error.to_string().contains("another server (me)"), "{error}");
    fixture.catalog.renew(&fixture.lease).await.unwrap();
    // Another lease is another matter.
    assert_eq!(second.take_lease("other", "you", LONG, nobody_is_dead).await.unwrap().epoch, 1);
}

#[tokio::test]
async fn the_epoch_grows_with_every_holder() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.epoch(), 1);
    let second = fixture.second().await;
    let dead = second.take_lease(SERVER_LEASE, "you", LONG, |holder| holder == "me").await.unwrap();
    assert_eq!(dead.epoch, 2);
    assert!(matches!(fixture.catalog.renew(&fixture.lease).await, Err(LeaseError::Lost { epoch: 1, .. })));
    assert!(matches!(fixture.catalog.release(&fixture.lease).await, Err(LeaseError::Lost { .. })));
    second.release(&dead).await.unwrap();
    let released = fixture.catalog.take_lease(SERVER_LEASE, "me", LONG, nobody_is_dead).await.unwrap();
    assert!(released.epoch > dead.epoch);
    let again = fixture.catalog.take_lease(SERVER_LEASE, "me", LONG, nobody_is_dead).await.unwrap();
    assert!(again.epoch > released.epoch);
}

#[tokio::test]
async fn an_expired_lease_is_free_but_kept_when_nobody_takes_it() {
    let fixture = Fixture::new().await;
    fixture.catalog.release(&fixture.lease).await.unwrap();
    let short = fixture.catalog.take_lease(SERVER_LEASE, "me", Duration::ZERO, nobody_is_dead).await.unwrap();
    fixture.catalog.renew(&short).await.unwrap();
    let second = fixture.second().await;
    let taken = second.take_lease(SERVER_LEASE, "you", LONG, nobody_is_dead).await.unwrap();
    assert_eq!(taken.epoch, short.epoch + 1);
    assert!(matches!(fixture.catalog.renew(&short).await, Err(LeaseError::Lost { .. })));
}

#[tokio::test]
async fn a_lease_that_nobody_took_in_between_is_taken_again_with_a_new_epoch() {
    let fixture = Fixture::new().await;
    let (catalog, old) = (&fixture.catalog, fixture.epoch());
    let again = catalog.retake(&fixture.lease).await.unwrap();
    assert!(again.epoch > old);
    let unheard = catalog.retake(&fixture.lease).await.unwrap();
    assert!(unheard.epoch > again.epoch, "a try whose answer was lost stands in nobody's way");
    catalog.renew(&unheard).await.unwrap();
    let stale = catalog.create_job(old, &new_job("j", JobKind::Backup, 1, &[])).await.unwrap_err();
    assert!(matches!(stale, CatalogError::StaleEpoch { .. }), "{stale:?}");
    catalog.create_job(unheard.epoch, &new_job("j", JobKind::Backup, 1, &[])).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_somebody_had_in_between_is_lost_and_its_holder_named() {
    let fixture = Fixture::new().await;
    let second = fixture.second().await;
    let theirs = second.take_lease(SERVER_LEASE, "you", LONG, everybody_is_dead).await.unwrap();
    for error in [
        fixture.catalog.retake(&fixture.lease).await.unwrap_err(),
        fixture.catalog.renew(&fixture.lease).await.unwrap_err(),
    ] {
        assert!(matches!(&error, LeaseError::Lost { holder, .. } if holder == "you"), "{error:?}");
        assert!(error.to_string().contains("(you)"), "{error}");
    }
    second.release(&theirs).await.unwrap();
    let error = fixture.catalog.retake(&fixture.lease).await.unwrap_err();
    assert!(matches!(&error, LeaseError::Lost { holder, .. } if holder.is_empty()), "{error:?}");
}

#[tokio::test]
async fn of_many_racing_servers_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cassy.db");
    let mut racing = Vec::new();
    for number in 0..8 {
        let catalog = open(&file).await;
        racing.push(tokio::spawn(async move {
            catalog.take_lease(SERVER_LEASE, &format!("server {number}"), LONG, nobody_is_dead).await
        }));
    }
    let mut winners = 0;
    for server in racing {
        match server.await.unwrap() {
            Ok(lease) => {
                assert_eq!(lease.epoch, 1);
                winners += 1;
            }
            Err(error) => assert!(matches!(error, LeaseError::HeldBy { .. }), "{error:?}"),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn every_write_of_a_job_with_an_old_epoch_is_refused_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let (catalog, old) = (&fixture.catalog, fixture.epoch());
    catalog.create_job(old, &new_job("j1", JobKind::Backup, 1000, &["10.0.0.1"])).await.unwrap();
    let session = UploadSession {
        session_id: "s".into(),
        cluster_id: "prod-1".into(),
        host_id: "h".into(),
        job_id: "j1".into(),
        created_at: 1,
        closed: false,
    };
    catalog.open_upload_session(old, &session).await.unwrap();
    let second = fixture.second().await;
    let taken = second.take_lease(SERVER_LEASE, "you", LONG, everybody_is_dead).await.unwrap();

    let cluster = crate::clusters::cluster("prod-1", "prod", 1);
    let refusals = [
        catalog.create_job(old, &new_job("j2", JobKind::Backup, 2000, &[])).await,
        catalog.save_job(old, &update("j1", "upload", true, vec![]), 3000).await,
        catalog.save_progress(old, &[]).await,
        catalog.register_cluster(old, &cluster, &[]).await,
        catalog.open_upload_session(old, &UploadSession { session_id: "t".into(), ..session.clone() }).await,
        catalog.close_upload_session(old, "s").await,
    ];
    for refusal in refusals {
        let error = refusal.unwrap_err();
        assert!(matches!(error, CatalogError::StaleEpoch { epoch: 1, .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Permanent);
    }
    assert_eq!(catalog.job("j2").await.unwrap(), None);
    assert_eq!(catalog.job("j1").await.unwrap().unwrap().stage, "prepare");
    assert_eq!(catalog.upload_sessions("prod-1", "h").await.unwrap(), [session]);
    assert_eq!(catalog.cluster("prod-1").await.unwrap(), None);

    second.save_job(taken.epoch, &update("j1", "upload", true, vec![]), 3000).await.unwrap();
    assert_eq!(catalog.job("j1").await.unwrap().unwrap().epoch, taken.epoch);
}

#[tokio::test]
async fn without_any_lease_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(&dir.path().join("cassy.db")).await;
    for epoch in [-1, 0, 1] {
        let error = catalog.create_job(epoch, &new_job("j", JobKind::Backup, 1, &[])).await.unwrap_err();
        assert!(matches!(error, CatalogError::StaleEpoch { .. }));
    }
}
