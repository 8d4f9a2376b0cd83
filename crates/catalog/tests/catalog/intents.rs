//! Pause intents: what is open is known to the next server, and only the holder of the lease opens and closes.

use crate::{Fixture, everybody_is_dead, new_job};
use cassy_catalog::{CatalogError, JobKind, PauseIntent, SERVER_LEASE};
use std::time::Duration;

fn intent(intent_id: &str, created_at: i64) -> PauseIntent {
    PauseIntent {
        intent_id: intent_id.to_owned(),
        job_id: "j".to_owned(),
        instances_json: format!("[\"instance of {intent_id}\"]"),
        deadline_at: created_at + 30_000,
        created_at,
    }
}

/// With a job that pauses.
async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.catalog.create_job(fixture.epoch(), &new_job("j", JobKind::Backup, 1000, &[])).await.unwrap();
    fixture
}

#[tokio::test]
async fn what_is_open_is_known_to_the_next_server_oldest_first_until_it_is_closed() {
    let fixture = fixture().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    assert_eq!(catalog.open_pause_intents().await.unwrap(), []);
    for (intent_id, created_at) in [("b", 2000), ("c", 3000), ("a", 2000)] {
        catalog.open_pause_intent(epoch, &intent(intent_id, created_at)).await.unwrap();
    }
    let next = fixture.second().await;
    assert_eq!(
        next.open_pause_intents().await.unwrap(),
        [intent("a", 2000), intent("b", 2000), intent("c", 3000)]
    );
    catalog.close_pause_intent(epoch, "b").await.unwrap();
    catalog.close_pause_intent(epoch, "b").await.unwrap();
    catalog.close_pause_intent(epoch, "nobody").await.unwrap();
    assert_eq!(next.open_pause_intents().await.unwrap(), [intent("a", 2000), intent("c", 3000)]);
}

#[tokio::test]
async fn an_intent_is_opened_once_and_for_a_job_that_is_there() {
    let fixture = fixture().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    catalog.open_pause_intent(epoch, &intent("a", 2000)).await.unwrap();
    catalog.close_pause_intent(epoch, "a").await.unwrap();
    let again = catalog.open_pause_intent(epoch, &intent("a", 3000)).await;
    assert!(matches!(again, Err(CatalogError::AlreadyExists { .. })), "{again:?}");
    let of_nobody = PauseIntent { job_id: "nobody".to_owned(), ..intent("b", 2000) };
    catalog.open_pause_intent(epoch, &of_nobody).await.unwrap_err();
    assert_eq!(catalog.open_pause_intents().await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_lost_its_lease_opens_and_closes_nothing() {
    let fixture = fixture().await;
    let (catalog, stale) = (&fixture.catalog, fixture.epoch());
    catalog.open_pause_intent(stale, &intent("a", 2000)).await.unwrap();
    let next = fixture.second().await;
    let lease =
        next.take_lease(SERVER_LEASE, "next", Duration::from_secs(60), everybody_is_dead).await.unwrap();
    for refused in [
        catalog.open_pause_intent(stale, &intent("b", 3000)).await,
        catalog.close_pause_intent(stale, "a").await,
    ] {
        assert!(matches!(refused, Err(CatalogError::StaleEpoch { .. })), "{refused:?}");
    }
    assert_eq!(next.open_pause_intents().await.unwrap(), [intent("a", 2000)]);
    next.close_pause_intent(lease.epoch, "a").await.unwrap();
    assert_eq!(catalog.open_pause_intents().await.unwrap(), []);
}
