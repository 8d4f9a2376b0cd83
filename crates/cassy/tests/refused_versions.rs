//! A version that a backup of files does not hold is refused by its name, with the reason, before anything is touched: as
//! a recorded node says it, and with `./test --all` by a real one.

use cassy_api::proto::{ClusterListingRequest, ClusterRegistrationRequest};
use cassy_testkit::{CassandraVersion, Doing, Failure, Node, Recording, Runtime, World, oracle};
use tonic::Code;

#[tokio::test]
async fn a_node_of_6_0_is_refused_by_name() -> Result<(), Failure> {
    for release in [CassandraVersion::V6_0.release(), "6.0.0", "5.1-SNAPSHOT"] {
        let world = World::recorded(&Recording::of_release(release)?)?.start().await?;
        is_refused(&world, release).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_real_node_of_6_0_is_refused_by_name() -> Result<(), Failure> {
    if std::env::var_os("CASSY_TEST_ALL").is_none() {
        return Ok(());
    }
    let version = CassandraVersion::V6_0;
    let Some(runtime) = Runtime::of_or_skip(version).await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.start().await?;
    is_refused(&world, version.release()).await?;
    assert!(world.node.is_running());
    Ok(())
}

async fn is_refused<N: Node>(world: &World<N>, release: &str) -> Result<(), Failure> {
    let mut client = world.server.client()?;
    let request = ClusterRegistrationRequest { cassandra_host: "127.0.0.1".to_owned() };
    let refused = client.register_cluster(request).await.expect_err("it is not supported");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let words = [
        format!("Cassandra {release} is not supported: since Cassandra 6.0"),
        "transactional log".to_owned(),
        "Supported are Cassandra 3.11, 4.0, 4.1 and 5.0.".to_owned(),
    ];
    assert!(words.iter().all(|word| refused.message().contains(word)), "{refused:?}");

    let clusters = client.list_clusters(ClusterListingRequest::default()).await.doing(|| "ListClusters")?;
    assert!(clusters.into_inner().entries.is_empty(), "nothing is registered");
    assert!(oracle::everything(&[world.store()])?.is_empty(), "nothing is stored");
    assert_eq!(oracle::snapshot_tags(&world.node.data_directories())?, Vec::<String>::new());
    Ok(())
}
