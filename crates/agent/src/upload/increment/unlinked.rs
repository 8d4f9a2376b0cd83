//! Tables of which Cassandra links nothing into `backups/`: those `WITH incremental_backups = false` (5.0 and newer).

use std::collections::BTreeSet;

use cassy_backup_format::{Header, TableSchema};

/// `keyspace.table` of those that it was off for in one of the two, and that are still there in the second: what was
/// flushed in between is in no `backups/`.
pub(super) fn tables(parent: &Header, witness: &Header) -> Vec<String> {
    let there: BTreeSet<_> = witness.tables.iter().collect();
    let off = parent.schema.iter().chain(&witness.schema).filter(|schema| is_off(schema));
    let names = off.map(|schema| &schema.table).filter(|table| there.contains(table));
    let names: BTreeSet<_> = names.map(|table| format!("{}.{}", table.keyspace, table.table)).collect();
    names.into_iter().collect()
}

/// No parser: it looks for the option outside of texts and quoted names.
fn is_off(schema: &TableSchema) -> bool {
    let mut quote = None;
    let unquoted: String = schema
        .cql
        .chars()
        .map(|c| match quote {
            None if matches!(c, '\'' | '"') => {
                quote = Some(c);
                ' '
            }
            None => c,
            Some(end) => {
                quote = Some(end).filter(|end| *end != c);
                ' '
            }
        })
        .collect();
    let words = || {
        let words = unquoted.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| !word.is_empty())
    };
    words().zip(words().skip(1)).any(|(option, value)| {
        option.eq_ignore_ascii_case("incremental_backups") && value.eq_ignore_ascii_case("false")
    })
}

#[cfg(test)]
mod tests {
    use cassy_backup_format::TableRef;

    use super::*;

    #[test]
    fn the_option_is_found_and_not_what_looks_like_it() {
        for (cql, off) in [
            (
                "CREATE TABLE k.t (a int PRIMARY KEY) WITH gc_grace_seconds = 1\n    AND incremental_backups = false\n;",
                true,
            ),
            ("WITH INCREMENTAL_BACKUPS=FALSE AND comment = 'it''s \"off'", true),
            ("WITH comment = 'it''s' AND incremental_backups = false", true),
            ("WITH incremental_backups = true AND cdc = false", false),
            ("WITH comment = 'AND incremental_backups = false' AND cdc = false", false),
            ("WITH comment = 'it''s incremental_backups = false'", false),
            ("(\"incremental_backups = false\" int PRIMARY KEY, \"'\" int) WITH cdc = false", false),
            ("(\"'\" int PRIMARY KEY) WITH incremental_backups = false AND comment = ''", true),
            ("(a int PRIMARY KEY, incremental_backups boolean)", false),
            ("incremental_backups", false),
            ("", false),
        ] {
            let table = TableRef { keyspace: "k".to_owned(), table: "t".to_owned(), id: "0".repeat(32) };
            assert_eq!(is_off(&TableSchema { table, cql: cql.to_owned() }), off, "{cql}");
        }
    }
}
