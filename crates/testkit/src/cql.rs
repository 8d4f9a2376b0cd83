//! CQL for tests: statements, and fingerprints of tables that are equal only if every cell is.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::DeserializationError;
use scylla::deserialize::row::{ColumnIterator, RawColumn};
use scylla::deserialize::value::DeserializeValue;
use scylla::frame::response::result::{CollectionType, ColumnType};
pub use scylla::statement::Consistency;
use scylla::value::{CqlValue, Row};

use crate::{Cassandra, CassandraVersion, Doing, Failure, Feature};

const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// A session with one node, or with a cluster.
#[derive(Debug)]
pub struct Cql {
    session: Session,
    version: CassandraVersion,
    /// Whether the times of writing and of expiry of a column of many cells can be asked for.
    tells_times_of_collections: bool,
}

/// What a row is made of, as text: easy to compare, to print and to count.
pub type Fingerprint = Vec<String>;

impl Cql {
    /// Connects to a node that is ready.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(node: &Cassandra) -> Result<Self, Failure> {
        Self::connect_to(node.version(), &[(node.address(), node.native_port())], Consistency::One).await
    }

    /// Connects to a cluster by these of its nodes.
    pub(crate) async fn connect_to(
        version: CassandraVersion,
        nodes: &[(Ipv4Addr, u16)],
        consistency: Consistency,
    ) -> Result<Self, Failure> {
        let profile = ExecutionProfile::builder()
            .request_timeout(Some(REQUEST_LIMIT))
            .consistency(consistency)
            .build()
            .into_handle();
        let one = std::num::NonZeroUsize::MIN;
        let session = SessionBuilder::new()
            .known_nodes_addr(nodes.iter().map(|node| SocketAddr::from(*node)))
            .default_execution_profile_handle(profile)
            .pool_size(PoolSize::PerHost(one))
            .connection_timeout(REQUEST_LIMIT)
            .fetch_schema_metadata(false)
            .build()
            .await
            .doing(|| "connect for CQL")?;
        let tells_times_of_collections = version.has(Feature::TimesOfCollections);
        Ok(Self { session, version, tells_times_of_collections })
    }

    /// Which Cassandra it is.
    pub fn version(&self) -> CassandraVersion {
        self.version
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// When Cassandra refuses it.
    pub async fn execute(&self, statement: &str) -> Result<(), Failure> {
        self.session.query_unpaged(statement, ()).await.doing(|| shortened(statement))?;
        Ok(())
    }

    /// Runs statements one after another.
    ///
    /// # Errors
    /// At the first that Cassandra refuses.
    pub async fn execute_all(&self, statements: &[impl AsRef<str>]) -> Result<(), Failure> {
        for statement in statements {
            self.execute(statement.as_ref()).await?;
        }
        Ok(())
    }

    /// The rows of a query, each value as text, in the order in which they came.
    ///
    /// # Errors
    /// When Cassandra refuses it.
    pub async fn rows(&self, query: &str) -> Result<Vec<Vec<String>>, Failure> {
        let rows = self.raw_rows(query).await?;
        Ok(rows.iter().map(|row| row.columns.iter().map(text).collect()).collect())
    }

    /// All rows of a table, sorted: every value, and for each cell outside the key when it was written (microseconds)
    /// and the second at which it expires. `table` is written as in CQL, `keyspace.table`, quoted where it must be.
    ///
    /// # Errors
    /// When there is no such table or it cannot be read.
    pub async fn fingerprint(&self, table: &str) -> Result<Fingerprint, Failure> {
        let columns = self.columns(table).await?;
        let selected: Vec<String> = columns.iter().flat_map(Column::selection).collect();
        let query = format!("SELECT {} FROM {table}", selected.join(", "));
        let (rows, now) = self.rows_within_one_second(&query).await?;
        let mut lines: Fingerprint = rows.iter().map(|row| line(&columns, row, now)).collect();
        lines.sort();
        Ok(lines)
    }

    /// TTLs come as seconds left, counted from the second in which the server (same machine, same clock) began to
    /// read. An answer that arrives in the second of its question leaves no doubt which second that was.
    async fn rows_within_one_second(&self, query: &str) -> Result<(Vec<Row>, i64), Failure> {
        for _ in 0..100 {
            let before = unix_second();
            let rows = self.raw_rows(query).await?;
            if unix_second() == before {
                return Ok((rows, before));
            }
        }
        Err(Failure::new(format!("{}: never answered within a second", shortened(query))))
    }

    async fn raw_rows(&self, query: &str) -> Result<Vec<Row>, Failure> {
        let result = self.session.query_unpaged(query, ()).await.doing(|| shortened(query))?;
        let result = result.into_rows_result().doing(|| shortened(query))?;
        let mut rows = Vec::new();
        for columns in result.rows::<ColumnIterator<'_, '_>>().doing(|| shortened(query))? {
            let columns = columns.doing(|| shortened(query))?;
            let row: Result<Vec<_>, _> =
                columns.map(|column| column.and_then(|column| value(&column))).collect();
            rows.push(Row { columns: row.doing(|| shortened(query))? });
        }
        Ok(rows)
    }

    async fn columns(&self, table: &str) -> Result<Vec<Column>, Failure> {
        let (keyspace, name) =
            table.split_once('.').ok_or_else(|| Failure::new(format!("{table} names no keyspace")))?;
        let query = "SELECT column_name, kind, type FROM system_schema.columns \
            WHERE keyspace_name = ? AND table_name = ?";
        let result = self.session.query_unpaged(query, (stored_name(keyspace), stored_name(name))).await;
        let result = result.doing(|| query)?.into_rows_result().doing(|| query)?;
        let rows: Result<Vec<(String, String, String)>, _> = result.rows().doing(|| query)?.collect();
        let column = |(name, kind, type_): (String, String, String)| {
            let tells_times = self.tells_times_of_collections || !has_many_cells(&type_);
            Column::new(name, &kind, &type_, tells_times)
        };
        let mut columns: Vec<Column> = rows.doing(|| query)?.into_iter().map(column).collect();
        if columns.is_empty() {
            return Err(Failure::new(format!("there is no table {table}")));
        }
        columns.sort();
        Ok(columns)
    }
}

/// The TTLs of a column of many cells are a list with holes, which the driver's own value type cannot hold.
fn value(column: &RawColumn<'_, '_>) -> Result<Option<CqlValue>, DeserializationError> {
    let kind = column.spec.typ();
    if let ColumnType::Collection { typ: CollectionType::List(_), .. } = kind {
        let list = <Option<Vec<Option<CqlValue>>>>::deserialize(kind, column.slice)?;
        let filled = |list: Vec<Option<CqlValue>>| {
            list.into_iter().map(|cell| cell.unwrap_or(CqlValue::Empty)).collect()
        };
        return Ok(list.map(filled).map(CqlValue::List));
    }
    <Option<CqlValue>>::deserialize(kind, column.slice)
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Column {
    kind: Kind,
    name: String,
    has_attributes: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    PartitionKey,
    Clustering,
    Static,
    Regular,
}

impl Column {
    fn new(name: String, kind: &str, type_: &str, tells_times: bool) -> Self {
        let kind = match kind {
            "partition_key" => Kind::PartitionKey,
            "clustering" => Kind::Clustering,
            "static" => Kind::Static,
            _ => Kind::Regular,
        };
        // Cassandra keeps no time of writing for keys, and does not tell that of a counter.
        let of_cells = matches!(kind, Kind::Static | Kind::Regular) && type_ != "counter";
        Self { kind, name, has_attributes: of_cells && tells_times }
    }

    fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    fn selection(&self) -> Vec<String> {
        let name = self.quoted();
        if self.has_attributes {
            vec![name.clone(), format!("WRITETIME({name})"), format!("TTL({name})")]
        } else {
            vec![name]
        }
    }
}

/// `"id"=Int(1) "note"=Text("x") written BigInt(1700000000000000) expires 1700003600`.
fn line(columns: &[Column], row: &Row, now: i64) -> String {
    let mut values = row.columns.iter();
    let mut next = || values.next().and_then(Option::as_ref);
    let mut words = Vec::new();
    for column in columns {
        words.push(format!("{}={}", column.quoted(), value_text(next())));
        if column.has_attributes {
            let (written, left) = (next(), next());
            if let Some(written) = written {
                words.push(format!("written {}", value_text(Some(written))));
            }
            if let Some(left) = left {
                words.push(format!("expires {}", expiry(left, now)));
            }
        }
    }
    words.join(" ")
}

/// Seconds left, as the second of expiry; of a column of many cells, one for each.
fn expiry(left: &CqlValue, now: i64) -> String {
    match left {
        CqlValue::Int(seconds) => (now + i64::from(*seconds)).to_string(),
        CqlValue::List(cells) => {
            let each: Vec<String> = cells.iter().map(|cell| expiry(cell, now)).collect();
            format!("[{}]", each.join(", "))
        }
        other => value_text(Some(other)),
    }
}

fn text(value: &Option<CqlValue>) -> String {
    value_text(value.as_ref())
}

fn value_text(value: Option<&CqlValue>) -> String {
    match value {
        Some(CqlValue::Blob(bytes)) => {
            format!("Blob({} bytes, CRC-32 {:08x})", bytes.len(), crc32fast::hash(bytes))
        }
        Some(value) => format!("{value:?}"),
        None => "null".to_owned(),
    }
}

/// Whether this is a collection or a user-defined type that is not frozen, as Cassandra's own tables name types.
fn has_many_cells(type_: &str) -> bool {
    !type_.starts_with("frozen<") && !NATIVE_TYPES.contains(&type_)
}

const NATIVE_TYPES: [&str; 20] = [
    "ascii",
    "bigint",
    "blob",
    "boolean",
    "counter",
    "date",
    "decimal",
    "double",
    "duration",
    "float",
    "inet",
    "int",
    "smallint",
    "text",
    "time",
    "timestamp",
    "timeuuid",
    "tinyint",
    "uuid",
    "varint",
];

/// The name as Cassandra's own tables hold it: without quotes, else in lower case.
fn stored_name(written: &str) -> String {
    match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => written.to_lowercase(),
    }
}

fn unix_second() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn shortened(statement: &str) -> String {
    let text: String = statement.chars().take(200).collect();
    if text.len() < statement.len() { format!("{text}...") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_cassandra_stores_them() {
        assert_eq!(stored_name("Shop"), "shop");
        assert_eq!(stored_name("\"Shop\"\"s\""), "Shop\"s");
    }

    #[test]
    fn what_is_frozen_is_one_cell() {
        assert!(["map<text, text>", "list<frozen<address>>", "address"].into_iter().all(has_many_cells));
        assert!(!["frozen<list<int>>", "text", "counter"].into_iter().any(has_many_cells));
    }

    #[test]
    fn expiry_is_a_point_in_time() {
        assert_eq!(expiry(&CqlValue::Int(10), 1_000), "1010");
        assert_eq!(expiry(&CqlValue::List(vec![CqlValue::Int(1), CqlValue::Empty]), 1_000), "[1001, Empty]");
    }
}
