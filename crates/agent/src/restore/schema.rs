//! What the `schema.cql` texts of a backup tell the operator of a restore. A look for two words, no parser: what
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
