//! What the `schema.cql` texts of a backup tell the operator of a restore. A look for some words, no parser: what
//! it overlooks costs a hint, nothing else.

use cassy_backup_format::TableSchema;

/// Cassandra's default.
const GC_GRACE_SECONDS: u64 = 864_000;
/// Tables in which nothing is ever deleted (system tables among them) have 0; that is no limit.
const NONE: u64 = 0;

/// True when a table has counters.
pub(crate) fn has_counters(schema: &[TableSchema]) -> bool {
    schema.iter().any(|table| words(&table.cql).any(|word| word.eq_ignore_ascii_case("counter")))
}

/// The materialized views, `keyspace.view`, in order.
pub(crate) fn views(schema: &[TableSchema]) -> Vec<String> {
    let views = schema.iter().filter(|table| is_view(&table.cql));
    let mut views: Vec<_> =
        views.map(|view| format!("{}.{}", view.table.keyspace, view.table.table)).collect();
    views.sort();
    views
}

/// Its statement has a schema of its own, after the types that it uses.
fn is_view(cql: &str) -> bool {
    let mut words = words(cql).skip_while(|word| !word.eq_ignore_ascii_case("materialized"));
    words.nth(1).is_some_and(|word| word.eq_ignore_ascii_case("view"))
}

/// The smallest `gc_grace_seconds` of any table whose schema is known.
pub(crate) fn smallest_gc_grace_seconds(schema: &[TableSchema]) -> u64 {
    schema
        .iter()
        .filter_map(|table| gc_grace_seconds(&table.cql))
        .filter(|seconds| *seconds != NONE)
        .min()
        .unwrap_or(GC_GRACE_SECONDS)
}

fn gc_grace_seconds(cql: &str) -> Option<u64> {
    let mut words = words(cql).skip_while(|word| !word.eq_ignore_ascii_case("gc_grace_seconds"));
    words.nth(1)?.parse().ok()
}

fn words(cql: &str) -> impl Iterator<Item = &str> {
    cql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cassy_backup_format::TableRef;

    fn schema(cql: &str) -> TableSchema {
        let table = TableRef { keyspace: "k".to_owned(), table: "t".to_owned(), id: "0".repeat(32) };
        TableSchema { table, cql: cql.to_owned() }
    }

    #[test]
    fn views_are_found_and_named() {
        let named = |name: &str, cql: &str| {
            let mut schema = schema(cql);
            schema.table.table = name.to_owned();
            schema
        };
        let view = "CREATE TYPE k.u (a int);\nCREATE MATERIALIZED VIEW IF NOT EXISTS k.v AS\n ...";
        let all =
            [named("w", view), named("t", "CREATE TABLE k.t (materialized int, view int)"), named("v", view)];
        assert_eq!(views(&all), ["k.v", "k.w"]);
        assert_eq!(views(&all[1..2]), Vec::<String>::new());
    }

    #[test]
    fn counters_and_the_smallest_grace_are_found() {
        let plain = schema(
            "CREATE TABLE k.t (a int PRIMARY KEY, counters int) WITH gc_grace_seconds = 7200\n AND x = 1;",
        );
        let counter =
            schema("CREATE TABLE k.c (a int, b counter, PRIMARY KEY (a)) WITH gc_grace_seconds = 864000;");
        assert!(!has_counters(std::slice::from_ref(&plain)));
        assert!(has_counters(&[plain.clone(), counter.clone()]));
        assert_eq!(smallest_gc_grace_seconds(&[plain, counter, schema("WITH gc_grace_seconds=0")]), 7200);
        assert_eq!(smallest_gc_grace_seconds(&[]), 864_000);
    }
}
