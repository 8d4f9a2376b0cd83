//! The data that every backup and restore must bring back cell by cell: small, and of each kind that has once been
//! lost by some tool.
//!
//! Written in three rounds with a flush after the first and the second, so each table has several SSTables, and rows
//! that are in the commit log and memtable only.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cql::{Cql, Fingerprint};
use crate::{Cassandra, CassandraVersion, Failure, Feature};

/// The keyspaces, as written in CQL. Two have the names of Cassandra's own directories.
pub const KEYSPACES: [&str; 4] = ["shop", "\"MixedCase\"", "snapshots", "backups"];

/// The tables, as written in CQL.
pub const TABLES: [&str; 9] = [
    "shop.orders",
    "shop.customers",
    "shop.accounts",
    "shop.visits",
    "shop.plain",
    "shop.documents",
    "\"MixedCase\".\"Items\"",
    "snapshots.backups",
    "backups.snapshots",
];

/// The fingerprints of all tables.
pub type Fingerprints = BTreeMap<String, Fingerprint>;

/// Makes the schema and writes all rounds.
///
/// # Errors
/// When Cassandra refuses a statement.
pub async fn write(node: &Cassandra, cql: &Cql) -> Result<(), Failure> {
    cql.execute_all(&schema(node.version())).await?;
    cql.execute_all(&first_round()).await?;
    flush(node).await?;
    cql.execute_all(&second_round()).await?;
    flush(node).await?;
    cql.execute_all(&third_round()).await
}

async fn flush(node: &Cassandra) -> Result<(), Failure> {
    node.flush(&KEYSPACES.map(|name| name.trim_matches('"'))).await
}

/// Reads all tables, but for what Cassandra itself loses in a restart.
///
/// # Errors
/// When one cannot be read.
pub async fn fingerprints(cql: &Cql) -> Result<Fingerprints, Failure> {
    let mut all = Fingerprints::new();
    let survives =
        |table: &&str| !table.starts_with("snapshots.") || cql.version().has(Feature::KeyspaceNamedSnapshots);
    for table in TABLES.into_iter().filter(survives) {
        all.insert(table.to_owned(), cql.fingerprint(table).await?);
    }
    Ok(all)
}

/// Which of the tables exist. None on a node that has lost everything.
///
/// # Errors
/// When the schema cannot be read.
pub async fn existing_keyspaces(cql: &Cql) -> Result<Vec<String>, Failure> {
    let rows = cql.rows("SELECT keyspace_name FROM system_schema.keyspaces").await?;
    let own =
        |name: &String| KEYSPACES.iter().any(|own| format!("Text(\"{}\")", own.trim_matches('"')) == *name);
    Ok(rows.into_iter().flatten().filter(own).collect())
}

/// Checks what only an index that came back as files can answer: ask right after a start, before any rebuild.
///
/// # Errors
/// When an index does not find what it must, or cannot be used.
pub async fn check_indexes(cql: &Cql) -> Result<(), Failure> {
    let queries = [
        ("SELECT id FROM shop.customers WHERE city = 'Lyon'", 4),
        ("SELECT id FROM shop.documents WHERE size = 65536", 5),
        ("SELECT \"Id\" FROM \"MixedCase\".\"Items\" WHERE \"Colour\" = 'Red'", 5),
    ];
    for (query, expected) in queries {
        let found = cql.rows(query).await?.len();
        if found != expected {
            return Err(Failure::new(format!("{query}: {found} rows, not {expected}")));
        }
    }
    Ok(())
}

/// What differs between two readings, one line each, at most twenty; empty when they are equal.
pub fn differences(before: &Fingerprints, after: &Fingerprints) -> Vec<String> {
    let empty = Fingerprint::new();
    let mut found = Vec::new();
    for table in before.keys().chain(after.keys().filter(|table| !before.contains_key(*table))) {
        let old = before.get(table).unwrap_or(&empty);
        let new = after.get(table).unwrap_or(&empty);
        found.extend(
            old.iter().filter(|row| !new.contains(row)).map(|row| format!("{table}: missing: {row}")),
        );
        found.extend(new.iter().filter(|row| !old.contains(row)).map(|row| format!("{table}: added: {row}")));
        if old.len() != new.len() {
            found.push(format!("{table}: {} rows before, {} after", old.len(), new.len()));
        }
    }
    found.truncate(20);
    found
}

/// Without storage-attached indexes an ordinary one takes the place of each.
fn schema(version: CassandraVersion) -> Vec<String> {
    let keyspaces = KEYSPACES.iter().map(|name| {
        format!(
            "CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
        )
    });
    let attached = version.has(Feature::StorageAttachedIndexes);
    let statement = |text: &&str| if attached { (*text).to_owned() } else { text.replace(ATTACHED, "") };
    keyspaces.chain(SCHEMA.iter().map(statement)).collect()
}

const ATTACHED: &str = " USING 'sai'";
const SCHEMA: [&str; 13] = [
    "CREATE TABLE shop.orders (customer int, at int, note text, amount decimal, tags set<text>, \
     PRIMARY KEY (customer, at)) WITH CLUSTERING ORDER BY (at DESC)",
    "CREATE TYPE shop.address (street text, number int)",
    "CREATE TABLE shop.customers (id int PRIMARY KEY, city text, home address, past list<frozen<address>>, \
     phones map<text, text>)",
    "CREATE INDEX customers_by_city ON shop.customers (city)",
    "CREATE TABLE shop.accounts (owner text, booking int, balance bigint static, change bigint, \
     PRIMARY KEY (owner, booking))",
    "CREATE TABLE shop.visits (page text PRIMARY KEY, seen counter, bought counter)",
    // Uncompressed SSTables have other components.
    "CREATE TABLE shop.plain (id int PRIMARY KEY, value text) WITH compression = {'enabled': false}",
    // Incompressible.
    "CREATE TABLE shop.documents (id int PRIMARY KEY, size int, body blob)",
    "CREATE INDEX documents_by_size ON shop.documents (size) USING 'sai'",
    "CREATE TABLE \"MixedCase\".\"Items\" (\"Id\" int PRIMARY KEY, \"Colour\" text, \"a \"\"b\"\" / c\" text)",
    "CREATE INDEX \"Items_by_Colour\" ON \"MixedCase\".\"Items\" (\"Colour\")",
    "CREATE TABLE snapshots.backups (snapshots int PRIMARY KEY, backups text)",
    "CREATE TABLE backups.snapshots (backups int PRIMARY KEY, snapshots text)",
];

fn first_round() -> Vec<String> {
    let mut all = Vec::new();
    for id in 0..8 {
        for at in 0..6 {
            all.push(format!(
                "INSERT INTO shop.orders (customer, at, note, amount, tags) \
                 VALUES ({id}, {at}, 'first {id}/{at}', {id}.{at}5, {{'new', 'tag{at}'}})"
            ));
        }
        let city = if id % 2 == 0 { "Lyon" } else { "Graz" };
        all.push(format!(
            "INSERT INTO shop.customers (id, city, home, past, phones) VALUES ({id}, '{city}', \
             {{street: 'Main', number: {id}}}, [{{street: 'Old', number: 1}}], {{'home': '{id}00', 'work': '{id}01'}})"
        ));
        all.push(format!("INSERT INTO shop.plain (id, value) VALUES ({id}, 'plain {id}')"));
        all.push(format!(
            "INSERT INTO \"MixedCase\".\"Items\" (\"Id\", \"Colour\", \"a \"\"b\"\" / c\") VALUES ({id}, 'Red', 'ü{id}')"
        ));
        all.push(format!("INSERT INTO snapshots.backups (snapshots, backups) VALUES ({id}, 'one')"));
        all.push(format!("INSERT INTO backups.snapshots (backups, snapshots) VALUES ({id}, 'one')"));
    }
    for owner in ["ann", "bob", "only static"] {
        all.push(format!("INSERT INTO shop.accounts (owner, balance) VALUES ('{owner}', 100)"));
    }
    for booking in 0..5 {
        all.push(format!(
            "INSERT INTO shop.accounts (owner, booking, change) VALUES ('ann', {booking}, -{booking})"
        ));
    }
    all.extend(
        ["UPDATE shop.visits SET seen = seen + 5, bought = bought + 1 WHERE page = 'home'".to_owned()],
    );
    all.extend((0..4).map(document));
    all
}

fn second_round() -> Vec<String> {
    let mut all: Vec<String> = SECOND_ROUND.iter().map(|&statement| statement.to_owned()).collect();
    all.extend((4..6).map(document));
    all
}

/// Overwrites, deletes of each kind, TTLs.
const SECOND_ROUND: [&str; 24] = [
    "UPDATE shop.orders SET note = 'overwritten' WHERE customer = 1 AND at = 1",
    "DELETE amount FROM shop.orders WHERE customer = 1 AND at = 2",
    "DELETE FROM shop.orders WHERE customer = 1 AND at = 3",
    "DELETE FROM shop.orders WHERE customer = 2 AND at > 1 AND at <= 4",
    "DELETE FROM shop.orders WHERE customer = 3",
    "DELETE tags['new'] FROM shop.orders WHERE customer = 4 AND at = 0",
    "UPDATE shop.orders SET tags = tags + {'added'} WHERE customer = 4 AND at = 1",
    "INSERT INTO shop.orders (customer, at, note) VALUES (20, 1, 'a day') USING TTL 86400",
    "UPDATE shop.orders USING TTL 172800 SET note = 'two days' WHERE customer = 5 AND at = 5",
    "UPDATE shop.orders USING TTL 86400 SET tags = tags + {'a day'} WHERE customer = 6 AND at = 0",
    "UPDATE shop.orders USING TIMESTAMP 1 SET note = 'too old to count' WHERE customer = 5 AND at = 4",
    "UPDATE shop.customers SET city = 'Graz' WHERE id = 0",
    "UPDATE shop.customers SET city = 'Lyon' WHERE id = 1",
    "DELETE FROM shop.customers WHERE id = 3",
    "UPDATE shop.customers SET home.number = 77 WHERE id = 4",
    "UPDATE shop.customers SET phones['new'] = '999' WHERE id = 4",
    "UPDATE shop.accounts SET balance = 90 WHERE owner = 'ann'",
    "DELETE change FROM shop.accounts WHERE owner = 'ann' AND booking = 2",
    "DELETE balance FROM shop.accounts WHERE owner = 'bob'",
    "UPDATE shop.visits SET seen = seen - 2 WHERE page = 'home'",
    "UPDATE shop.plain SET value = 'second' WHERE id = 1",
    "UPDATE \"MixedCase\".\"Items\" SET \"Colour\" = 'red' WHERE \"Id\" = 0",
    "UPDATE snapshots.backups SET backups = 'two' WHERE snapshots = 1",
    "UPDATE backups.snapshots SET snapshots = 'two' WHERE backups = 1",
];

fn third_round() -> Vec<String> {
    THIRD_ROUND.iter().map(|&statement| statement.to_owned()).collect()
}

/// What no flush has written when the backup begins.
const THIRD_ROUND: [&str; 11] = [
    "INSERT INTO shop.orders (customer, at, note, amount) VALUES (30, 1, 'unflushed', 1.5)",
    "DELETE FROM shop.orders WHERE customer = 6 AND at >= 4",
    "INSERT INTO shop.customers (id, city) VALUES (9, 'Graz')",
    "UPDATE shop.customers SET city = 'Lyon' WHERE id = 5",
    "DELETE FROM shop.customers WHERE id = 2",
    "UPDATE shop.accounts SET balance = 80 WHERE owner = 'ann'",
    "UPDATE shop.visits SET seen = seen + 1, bought = bought + 3 WHERE page = 'unflushed'",
    "INSERT INTO shop.plain (id, value) VALUES (100, 'unflushed')",
    "DELETE FROM \"MixedCase\".\"Items\" WHERE \"Id\" IN (6, 7)",
    "INSERT INTO snapshots.backups (snapshots, backups) VALUES (100, 'unflushed')",
    "INSERT INTO backups.snapshots (backups, snapshots) VALUES (100, 'unflushed')",
];

/// The first is so large that its Data.db is an object of its own, wherever the others lie.
fn document(id: u32) -> String {
    let size = if id == 0 { 1_280 * 1024 } else { 64 * 1024 };
    let body = noise(id + 1, size);
    format!("INSERT INTO shop.documents (id, size, body) VALUES ({id}, {size}, 0x{body})")
}

/// Bytes in hexadecimal that do not compress, the same in each run (xorshift).
fn noise(seed: u32, bytes: u32) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut text = String::new();
    for _ in 0..bytes / 4 {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let _ = write!(text, "{state:08x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_a_changed_and_a_new_row_are_named() {
        let table = |rows: &[&str]| {
            let rows = rows.iter().map(|&row| row.to_owned()).collect();
            Fingerprints::from([("ks.t".to_owned(), rows)])
        };
        let before = table(&["a=1 written 5", "b=1"]);
        assert_eq!(differences(&before, &before), Vec::<String>::new());
        assert_eq!(
            differences(&before, &table(&["a=1 written 6", "b=1"])),
            ["ks.t: missing: a=1 written 5", "ks.t: added: a=1 written 6"]
        );
        assert_eq!(
            differences(&before, &Fingerprints::new()),
            ["ks.t: missing: a=1 written 5", "ks.t: missing: b=1", "ks.t: 2 rows before, 0 after"]
        );
    }

    #[test]
    fn noise_is_long_and_not_repeated() {
        let (one, two) = (noise(1, 4096), noise(2, 4096));
        assert_eq!((one.len(), two.len()), (8192, 8192));
        assert_ne!(one, two);
        assert_ne!(one[..64], one[64..128]);
    }
}
