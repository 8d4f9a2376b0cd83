//! Registered clusters, and upload sessions.

use crate::{Fixture, new_job, update};
use cassy_catalog::{CatalogError, ClusterNode, ClusterRow, ClusterSelector, JobKind, UploadSession};

pub(crate) fn cluster(cluster_id: &str, name: &str, created_at: i64) -> ClusterRow {
    ClusterRow {
        cluster_id: cluster_id.to_owned(),
        cluster_name: name.to_owned(),
        target_ips: vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()],
        keyspaces: vec!["Quoted Name".to_owned(), "snapshots".to_owned()],
        data_dir: "/var/lib/cassandra/data".to_owned(),
        created_at,
        updated_at: created_at,
    }
}

fn node(address: &str, host_id: &str) -> ClusterNode {
    ClusterNode {
        address: address.to_owned(),
        host_id: host_id.to_owned(),
        datacenter: "dc1".to_owned(),
        rack: "r1".to_owned(),
    }
}

fn ids(host_ids: &[&str]) -> Vec<String> {
    host_ids.iter().map(|&id| id.to_owned()).collect()
}

#[tokio::test]
async fn a_known_cluster_is_refreshed() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    let first = cluster("c1", "prod", 1000);
    catalog.register_cluster(epoch, &first, &[node("10.0.0.2", "h2"), node("10.0.0.1", "h1")]).await.unwrap();
    assert_eq!(catalog.cluster("c1").await.unwrap(), Some(first.clone()));
    assert_eq!(catalog.cluster_nodes("c1").await.unwrap(), [node("10.0.0.1", "h1"), node("10.0.0.2", "h2")]);

    let later = ClusterRow { keyspaces: vec![], created_at: 9, updated_at: 2000, ..first };
    catalog.register_cluster(epoch, &later, &[node("10.0.0.1", "h3")]).await.unwrap();
    assert_eq!(catalog.cluster("c1").await.unwrap(), Some(ClusterRow { created_at: 1000, ..later }));
    assert_eq!(catalog.cluster_nodes("c1").await.unwrap(), [node("10.0.0.1", "h3")]);
}

#[tokio::test]
async fn clusters_are_listed_newest_first() {
    let fixture = Fixture::new().await;
    for (id, created_at) in [("c1", 1000), ("c3", 3000), ("c2", 2000)] {
        fixture
            .catalog
            .register_cluster(fixture.epoch(), &cluster(id, "prod", created_at), &[])
            .await
            .unwrap();
    }
    let listed = async |cluster_id: Option<&str>, limit| {
        let selector = ClusterSelector { cluster_id: cluster_id.map(str::to_owned), limit };
        let rows = fixture.catalog.clusters(&selector).await.unwrap();
        rows.into_iter().map(|row| row.cluster_id).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, None).await, ["c3", "c2", "c1"]);
    assert_eq!(listed(None, Some(2)).await, ["c3", "c2"]);
    assert_eq!(listed(Some("c1"), Some(5)).await, ["c1"]);
    assert_eq!(listed(Some("c4"), None).await, [""; 0]);
}

#[tokio::test]
async fn a_cluster_is_found_by_name_and_nodes() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    catalog
        .register_cluster(epoch, &cluster("old", "prod", 1), &[node("a", "h1"), node("b", "h2")])
        .await
        .unwrap();
    catalog
        .register_cluster(epoch, &cluster("new", "prod", 2), &[node("a", "h1"), node("c", "h3")])
        .await
        .unwrap();
    catalog.register_cluster(epoch, &cluster("test", "test", 3), &[node("a", "h1")]).await.unwrap();
    catalog.register_cluster(epoch, &cluster("java", "java", 4), &[]).await.unwrap();
    let found = async |name: &str, host_ids: &[&str]| {
        catalog.find_cluster_by_nodes(name, &ids(host_ids)).await.unwrap()
    };
    assert_eq!(found("prod", &["h1"]).await.as_deref(), Some("new"));
    assert_eq!(found("prod", &["h1", "h2", "h9"]).await.as_deref(), Some("old"));
    assert_eq!(found("prod", &["h3"]).await.as_deref(), Some("new"));
    assert_eq!(found("test", &["h1", "h2"]).await.as_deref(), Some("test"));
    assert_eq!(found("prod", &["h9"]).await, None);
    assert_eq!(found("prod", &[]).await, None);
    assert_eq!(found("PROD", &["h1"]).await, None);
    assert_eq!(found("java", &["h1"]).await, None);
}

#[tokio::test]
async fn lists_that_java_cassy_could_not_read_are_refused() {
    let fixture = Fixture::new().await;
    for bad in ["a,b", ""] {
        let row = ClusterRow { keyspaces: vec!["ok".to_owned(), bad.to_owned()], ..cluster("c", "n", 1) };
        let error = fixture.catalog.register_cluster(fixture.epoch(), &row, &[]).await.unwrap_err();
        assert!(matches!(error, CatalogError::InvalidValue { field: "keyspaces", .. }), "{error:?}");
    }
    assert_eq!(fixture.catalog.cluster("c").await.unwrap(), None);
}

#[tokio::test]
async fn the_same_address_twice_changes_nothing() {
    let fixture = Fixture::new().await;
    let nodes = [node("a", "h1"), node("a", "h2")];
    let error =
        fixture.catalog.register_cluster(fixture.epoch(), &cluster("c", "n", 1), &nodes).await.unwrap_err();
    assert!(matches!(error, CatalogError::AlreadyExists { .. }), "{error:?}");
    assert_eq!(fixture.catalog.cluster("c").await.unwrap(), None);
}

#[tokio::test]
async fn upload_sessions_are_listed_per_node() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    let session = |id: &str, host: &str, created_at| UploadSession {
        session_id: id.to_owned(),
        cluster_id: "c".to_owned(),
        host_id: host.to_owned(),
        job_id: "j".to_owned(),
        created_at,
        closed: false,
    };
    for each in [session("b", "h1", 2), session("a", "h1", 1), session("c", "h2", 3)] {
        catalog.open_upload_session(epoch, &each).await.unwrap();
    }
    let error = catalog.open_upload_session(epoch, &session("a", "h9", 9)).await.unwrap_err();
    assert!(matches!(error, CatalogError::AlreadyExists { .. }));
    catalog.close_upload_session(epoch, "a").await.unwrap();
    catalog.close_upload_session(epoch, "a").await.unwrap();
    catalog.close_upload_session(epoch, "unknown").await.unwrap();
    let closed = UploadSession { closed: true, ..session("a", "h1", 1) };
    assert_eq!(catalog.upload_sessions("c", "h1").await.unwrap(), [closed, session("b", "h1", 2)]);
    assert_eq!(catalog.upload_sessions("other", "h1").await.unwrap(), []);
}

#[tokio::test]
async fn sessions_of_other_jobs_under_way_are_not_dead() {
    let fixture = Fixture::new().await;
    let (catalog, epoch) = (&fixture.catalog, fixture.epoch());
    for job_id in ["own", "other", "ended"] {
        catalog.create_job(epoch, &new_job(job_id, JobKind::Backup, 1, &[])).await.unwrap();
    }
    catalog.save_job(epoch, &update("ended", "finished", true, Vec::new()), 3).await.unwrap();
    let session = |id: &str, job_id: &str, closed| UploadSession {
        session_id: id.to_owned(),
        cluster_id: "c".to_owned(),
        host_id: "h".to_owned(),
        job_id: job_id.to_owned(),
        created_at: 1,
        closed,
    };
    let all = [
        session("a", "own", false),
        session("b", "other", false),
        session("c", "ended", false),
        session("d", "unknown", false),
        session("e", "own", true),
    ];
    for each in &all {
        catalog.open_upload_session(epoch, each).await.unwrap();
    }
    let dead = catalog.dead_upload_sessions("c", "h", "own").await.unwrap();
    assert_eq!(dead, [all[0].clone(), all[2].clone(), all[3].clone()]);
    assert_eq!(catalog.dead_upload_sessions("c", "other", "own").await.unwrap(), []);
}

#[tokio::test]
async fn host_keys_are_by_host_and_port() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    catalog.put_host_key("node", 22, "first").await.unwrap();
    catalog.put_host_key("node", 2222, "other").await.unwrap();
    catalog.put_host_key("node", 22, "second").await.unwrap();
    assert_eq!(catalog.host_key("node", 22).await.unwrap().as_deref(), Some("second"));
    assert_eq!(catalog.host_key("node", 2222).await.unwrap().as_deref(), Some("other"));
    assert_eq!(catalog.host_key("node2", 22).await.unwrap(), None);
}
