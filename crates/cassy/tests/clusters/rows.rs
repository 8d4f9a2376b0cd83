//! Rows of two kinds: those of `single` lie on one node each, so that after its loss they can come from a backup alone;
//! those of `triple` lie on several.

use cassy_testkit::cql::Cql;
use cassy_testkit::dataset::Fingerprints;
use cassy_testkit::{Cluster, Failure};

pub(crate) const TABLES: [&str; 4] = ["single.orders", "single.plain", "triple.orders", "triple.customers"];
/// The replication of `single` and `triple` in one datacenter.
pub(crate) const SIMPLE: [&str; 2] = [
    "{'class': 'SimpleStrategy', 'replication_factor': 1}",
    "{'class': 'SimpleStrategy', 'replication_factor': 3}",
];
/// The same in two, of which the second has one node.
pub(crate) const SPREAD: [&str; 2] = [
    "{'class': 'NetworkTopologyStrategy', 'dc1': 1, 'dc2': 1}",
    "{'class': 'NetworkTopologyStrategy', 'dc1': 2, 'dc2': 1}",
];
const SCHEMA: [&str; 7] = [
    "CREATE TABLE single.orders (customer int, at int, note text, tags set<text>, PRIMARY KEY (customer, at))",
    "CREATE TABLE single.plain (id int PRIMARY KEY, value text) WITH compression = {'enabled': false}",
    "CREATE TABLE single.written (id int PRIMARY KEY)",
    "CREATE TABLE triple.orders (customer int, at int, note text, tags set<text>, PRIMARY KEY (customer, at))",
    "CREATE TABLE triple.customers (id int PRIMARY KEY, city text)",
    "CREATE INDEX customers_by_city ON triple.customers (city)",
    "CREATE TABLE triple.written (id int PRIMARY KEY)",
];
/// So many that each node has some of those that lie on one node each, however the tokens fall: with 24 one of three nodes
/// had none in 2 of 100 clusters.
const CUSTOMERS: u32 = 48;

/// Makes the schema and writes in two rounds, the first of which is flushed.
pub(crate) async fn write(cluster: &Cluster, cql: &Cql, replication: [&str; 2]) -> Result<(), Failure> {
    for (keyspace, replication) in ["single", "triple"].iter().zip(replication) {
        cql.execute(&format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}")).await?;
    }
    cql.execute_all(&SCHEMA).await?;
    for customer in 0..CUSTOMERS {
        cql.execute_all(&first_round(customer)).await?;
    }
    for node in &cluster.nodes {
        node.cassandra.flush(&["single", "triple"]).await?;
    }
    for customer in (0..CUSTOMERS).step_by(3) {
        cql.execute_all(&second_round(customer)).await?;
    }
    Ok(())
}

/// All rows, each cell with its time of writing and of expiry.
pub(crate) async fn fingerprints(cql: &Cql) -> Result<Fingerprints, Failure> {
    let mut all = Fingerprints::new();
    for table in TABLES {
        let rows = cql.fingerprint(table).await?;
        assert!(!rows.is_empty(), "{table} is empty");
        all.insert(table.to_owned(), rows);
    }
    Ok(all)
}

fn first_round(id: u32) -> Vec<String> {
    let city = if id.is_multiple_of(2) { "Lyon" } else { "Graz" };
    let mut all = vec![
        format!("INSERT INTO single.plain (id, value) VALUES ({id}, 'plain {id}')"),
        format!("INSERT INTO triple.customers (id, city) VALUES ({id}, '{city}')"),
    ];
    for keyspace in ["single", "triple"] {
        all.push(format!(
            "INSERT INTO {keyspace}.orders (customer, at, note, tags) VALUES ({id}, 1, 'first', {{'new', '{id}'}})"
        ));
        all.push(format!(
            "INSERT INTO {keyspace}.orders (customer, at, note) VALUES ({id}, 2, 'a day') USING TTL 86400"
        ));
    }
    all
}

/// Overwrites, deletes, and what no flush has written.
fn second_round(id: u32) -> Vec<String> {
    let mut all = vec![
        format!("UPDATE single.plain SET value = 'second' WHERE id = {id}"),
        format!("DELETE FROM triple.customers WHERE id = {}", id + 1),
    ];
    for keyspace in ["single", "triple"] {
        all.push(format!("DELETE FROM {keyspace}.orders WHERE customer = {id} AND at = 1"));
        all.push(format!("INSERT INTO {keyspace}.orders (customer, at, note) VALUES ({id}, 3, 'unflushed')"));
    }
    all
}
