//! The kit's own cluster, for real.

use cassy_testkit::{Cluster, Consistency, Failure, oracle};

#[tokio::test]
async fn nodes_are_apart_and_see_each_other() -> Result<(), Failure> {
    let Some(builder) = Cluster::or_skip().await? else { return Ok(()) };
    let mut cluster = builder.datacenters(&[1, 1]).data_directories(2).start().await?;

    // Each in a network of its own, with a loopback of its own.
    let mut networks = vec![std::fs::read_link("/proc/self/ns/net").expect("it is there")];
    for node in &cluster.nodes {
        networks.push(node.network_namespace()?);
        assert_eq!(node.cassandra.jmx_port(), 7199);
        let direct = std::net::TcpStream::connect((node.cassandra.address(), 7199));
        assert!(direct.is_err(), "its JMX is reached from inside alone");
        node.cassandra.jmx().await?;
    }
    networks.sort();
    networks.dedup();
    assert_eq!(networks.len(), 3);

    // One cluster: what is written by one is read by the other.
    let cql = cluster.cql(Consistency::All).await?;
    let both = "{'class': 'NetworkTopologyStrategy', 'dc1': 1, 'dc2': 1}";
    cql.execute(&format!("CREATE KEYSPACE shop WITH replication = {both}")).await?;
    cql.execute("CREATE TABLE shop.plain (id int PRIMARY KEY, value text)").await?;
    cql.execute("INSERT INTO shop.plain (id, value) VALUES (1, 'one')").await?;
    for node in &cluster.nodes {
        node.cassandra.flush(&["shop"]).await?;
        let files = oracle::everything(&node.cassandra.data_directories()).expect("they can be read");
        let has_rows = |path: &std::path::PathBuf| {
            let path = path.display().to_string();
            path.contains("/shop/plain-") && path.ends_with("-Data.db")
        };
        assert!(files.iter().any(has_rows), "{} has the row", node.address());
    }

    // A node that is cut off is gone for the other, and back when it is not.
    cluster.nodes[1].cut()?;
    cluster.nodes[1].cassandra.freeze();
    cluster.misses(1).await?;
    cluster.nodes[1].cassandra.thaw();
    cluster.nodes[1].reconnect()?;
    cluster.settled().await?;

    // Another address is the same node.
    let host_id = cluster.nodes[1].cassandra.jmx().await?.local_host_id().await.expect("it answers");
    cluster.nodes[1].cassandra.stop().await?;
    cluster.change_address(1, 7).await?;
    cluster.start_nodes().await?;
    let moved = cluster.nodes[1].cassandra.jmx().await?.local_host_id().await.expect("it answers");
    assert_eq!(moved, host_id);
    Ok(())
}
