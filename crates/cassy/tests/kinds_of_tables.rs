//! What Cassandra keeps beside plain tables, on a real node, in a snapshot and in an increment on it: secondary indexes of
//! both kinds, a materialized view, counters, a table that was dropped and made again, and one that was added since.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use cassy_api::proto::{OperationStatus, RestoreRequest};
use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{Cql, Doing, Failure, Feature, Probe, Runtime, World, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const SCHEMA: [&str; 10] = [
    "CREATE KEYSPACE kinds WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TABLE kinds.legacy (id int PRIMARY KEY, city text)",
    "CREATE INDEX legacy_by_city ON kinds.legacy (city)",
    "CREATE TABLE kinds.attached (id int PRIMARY KEY, size int, city text)",
    "CREATE INDEX attached_by_size ON kinds.attached (size) USING 'sai'",
    "CREATE INDEX attached_by_city ON kinds.attached (city) USING 'sai'",
    "CREATE TABLE kinds.viewed (id int PRIMARY KEY, city text, note text)",
    "CREATE TABLE kinds.counted (page text PRIMARY KEY, seen counter)",
    "CREATE TABLE kinds.remade (id int PRIMARY KEY, city text)",
    "CREATE TABLE kinds.late (id int PRIMARY KEY, city text, size int)",
];
const VIEW: &str = "CREATE MATERIALIZED VIEW kinds.viewed_by_city AS SELECT * FROM kinds.viewed \
    WHERE city IS NOT NULL AND id IS NOT NULL PRIMARY KEY (city, id)";
/// Since the snapshot.
const CHANGES: [&str; 9] = [
    "DROP TABLE kinds.remade",
    "CREATE TABLE kinds.remade (id int PRIMARY KEY, city text)",
    "CREATE TABLE kinds.added (id int PRIMARY KEY, city text, size int)",
    "CREATE INDEX added_by_city ON kinds.added (city)",
    "CREATE INDEX added_by_size ON kinds.added (size) USING 'sai'",
    "CREATE MATERIALIZED VIEW kinds.added_by_city_too AS SELECT * FROM kinds.added \
     WHERE city IS NOT NULL AND id IS NOT NULL PRIMARY KEY (city, id)",
    "DELETE FROM kinds.viewed WHERE id = 0",
    "CREATE INDEX late_by_city ON kinds.late (city)",
    "CREATE INDEX late_by_size ON kinds.late (size) USING 'sai'",
];
const WRITTEN: [&str; 5] = ["legacy", "attached", "viewed", "remade", "late"];
const BEFORE: [&str; 6] = ["legacy", "attached", "viewed", "viewed_by_city", "counted", "remade"];
const AFTER: [&str; 8] =
    ["legacy", "attached", "viewed", "viewed_by_city", "counted", "remade", "added", "added_by_city_too"];
/// Cassandra adds its files to SSTables that it had before, and links none of these to `backups/`.
const LATE: &str = "late_by_size";
const CITIES: [&str; 2] = ["Lyon", "Graz"];
/// What Cassandra says when it makes what is not there: an index, or a view.
const BUILDS: [&str; 4] =
    ["index build", "marking empty index", "Rebuilding index", "Starting build of view"];

#[tokio::test]
async fn indexes_views_counters_and_tables_that_came_and_went_are_as_they_were() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.start().await?;
    let cql = world.cql().await?;
    let cluster = world.register().await?;
    let attached = world.node.version().has(Feature::StorageAttachedIndexes);

    // Given: a snapshot, with rows that no flush had written before it.
    cql.execute_all(&known(&SCHEMA, attached)).await?;
    cql.execute(VIEW).await?;
    write(&cql, 0..6, &WRITTEN).await?;
    count(&cql, 5).await?;
    world.node.flush(&["kinds"]).await?;
    write(&cql, 4..9, &WRITTEN).await?;
    let at_the_base = State::of(&cql, &BEFORE, attached).await?;
    let base = world.back_up(&cluster).await?;

    // And an increment on it.
    cql.execute_all(&known(&CHANGES, attached)).await?;
    write(&cql, 2..12, &["legacy", "attached", "viewed", "added", "late"]).await?;
    write(&cql, 20..22, &["remade"]).await?;
    count(&cql, 3).await?;
    let at_the_end = State::of(&cql, &AFTER, attached).await?;
    let late_at_the_end = late(&cql, attached).await?;
    world.add_increment(&cluster, &base).await?;
    assert!(!builds(&world).is_empty(), "what was made anew is in the log");
    for (table, rows) in &at_the_end.rows {
        assert_ne!(Some(rows), at_the_base.rows.get(table), "{table} has changed since the snapshot");
    }

    let both = [
        (false, at_the_end, AFTER.as_slice(), "kinds.added_by_city_too, kinds.viewed_by_city"),
        (true, at_the_base, BEFORE.as_slice(), "kinds.viewed_by_city"),
    ];
    for (snapshot_only, state, tables, views) in both {
        // When: everything is lost and restored.
        world.node.stop().await?;
        world.node.wipe()?;
        let request = RestoreRequest {
            cluster_id: cluster.clone(),
            snapshot_id: base.clone(),
            restore_type: 2,
            snapshot_only,
            ..RestoreRequest::default()
        };
        let answer = world.server.client()?.restore_backup(request).await.doing(|| "RestoreBackup")?;
        let (status, message) = world.restore_outcome(&base).await?;
        assert_eq!(status, OperationStatus::Completed, "{message}");

        // Then: it is said what a backup of single nodes does not promise of views, and what counters need.
        let answer = answer.into_inner().message;
        assert!(answer.contains(&format!("materialized views ({views})")), "{answer}");
        assert!(message.contains("-Dcassandra.join_ring=false"), "{message}");

        // And all is as it was, by the files alone: nothing was made anew, but for what the SSTables of the snapshot could
        // not have.
        world.node.start().await?;
        let cql = world.cql().await?;
        State::of(&cql, tables, attached).await?.assert_is(&state);
        if !snapshot_only {
            late(&cql, attached).await?.assert_is(&late_at_the_end);
        }
        let of_late = |line: &String| line.contains(&format!("[kinds.late.{LATE}]"));
        let (made, others): (Vec<_>, Vec<_>) = builds(&world).into_iter().partition(of_late);
        let nothing_late = snapshot_only || !attached;
        assert_eq!((made.is_empty(), others), (nothing_late, Vec::<String>::new()), "{made:?}");

        // And counters count on.
        count(&cql, 100).await?;
        let seen = if snapshot_only { 105 } else { 108 };
        let counted = cql.fingerprint("kinds.counted").await?;
        assert!(counted.len() == 1 && counted[0].contains(&format!("({seen})")), "{counted:?}");
    }
    Ok(())
}

/// What the node has made since its last start.
fn builds(world: &World) -> Vec<String> {
    let log = world.node.log();
    let built = log.lines().filter(|line| BUILDS.iter().any(|text| line.contains(text)));
    built.map(str::to_owned).collect()
}

/// What a client sees.
struct State {
    /// By table or view.
    rows: Fingerprints,
    /// By query, what an index finds.
    found: BTreeMap<String, Vec<String>>,
}

impl State {
    /// Asks the indexes first: right after a start, what they lack has hardly been made yet.
    async fn of(cql: &Cql, tables: &[&str], attached: bool) -> Result<Self, Failure> {
        let mut found = BTreeMap::new();
        for query in tables.iter().flat_map(|table| queries(table, attached)) {
            let rows = cql.rows(&query).await?;
            assert!(!rows.is_empty(), "{query}: finds nothing");
            let mut rows: Vec<String> = rows.into_iter().flatten().collect();
            rows.sort();
            found.insert(query, rows);
        }
        let mut rows = Fingerprints::new();
        for table in tables.iter().map(|table| format!("kinds.{table}")) {
            rows.insert(table.clone(), cql.fingerprint(&table).await?);
        }
        Ok(Self { rows, found })
    }

    fn assert_is(&self, other: &Self) {
        assert_eq!(self.found, other.found);
        assert_eq!(dataset::differences(&self.rows, &other.rows), Vec::<String>::new());
    }
}

/// The table whose indexes were made since the snapshot, once they answer.
async fn late(cql: &Cql, attached: bool) -> Result<State, Failure> {
    wait_for("the indexes answer", LIMIT, async || match State::of(cql, &["late"], attached).await {
        Ok(state) => Probe::Ready(state),
        Err(not_yet) => Probe::NotYet(not_yet.to_string()),
    })
    .await
}

/// What a version with storage-attached indexes, or without, understands.
fn known(statements: &[&'static str], attached: bool) -> Vec<&'static str> {
    statements.iter().copied().filter(|statement| attached || !statement.contains("'sai'")).collect()
}

/// What only an index answers.
fn queries(table: &str, attached: bool) -> Vec<String> {
    let mut queries = Vec::new();
    if matches!(table, "legacy" | "added" | "late") || (attached && table == "attached") {
        queries.extend(CITIES.map(|city| format!("SELECT id FROM kinds.{table} WHERE city = '{city}'")));
    }
    if attached && matches!(table, "attached" | "added" | "late") {
        queries.push(format!("SELECT id FROM kinds.{table} WHERE size > 2 AND size < 7"));
    }
    queries
}

/// These rows in each of these tables; the city of a row depends on how many there are.
async fn write(cql: &Cql, ids: Range<usize>, tables: &[&str]) -> Result<(), Failure> {
    for (id, table) in ids.clone().flat_map(|id| tables.iter().map(move |table| (id, table))) {
        let city = CITIES[(id + ids.len()) % 2];
        let ttl = if id.is_multiple_of(3) { " USING TTL 86400" } else { "" };
        let (column, value) = match *table {
            "attached" | "added" | "late" => (", size", format!(", {id}")),
            "viewed" => (", note", format!(", 'note {}'", ids.len())),
            _ => ("", String::new()),
        };
        let statement =
            format!("INSERT INTO kinds.{table} (id, city{column}) VALUES ({id}, '{city}'{value}){ttl}");
        cql.execute(&statement).await?;
    }
    Ok(())
}

async fn count(cql: &Cql, times: u32) -> Result<(), Failure> {
    cql.execute(&format!("UPDATE kinds.counted SET seen = seen + {times} WHERE page = 'home'")).await
}
