//! The versions of Cassandra that tests run on: what each is run with, how its configuration is spelled, and what it
//! does not have yet.

use std::fmt;

use crate::Failure;

/// Names the version that the tests run on, `4.1`; without it they run on the default one.
const VARIABLE: &str = "CASSY_TEST_CASSANDRA";

/// A series of Cassandra, of which the newest release is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum CassandraVersion {
    /// 3.11.
    V3_11,
    /// 4.0.
    V4_0,
    /// 4.1.
    V4_1,
    /// 5.0.
    #[default]
    V5_0,
    /// 6.0, which the product refuses.
    V6_0,
}

/// What some versions do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Indexes that are components of SSTables.
    StorageAttachedIndexes,
    /// WRITETIME and TTL of columns of many cells.
    TimesOfCollections,
    /// The node says over JMX which hints wait.
    PendingHints,
    /// The node counts by table the writes that it coordinates.
    CoordinatedWrites,
    /// What lies in a keyspace called `snapshots` is there after a restart. Before, Cassandra takes the directories of its
    /// tables for snapshots.
    KeyspaceNamedSnapshots,
}

impl Feature {
    fn since(self) -> CassandraVersion {
        match self {
            Self::StorageAttachedIndexes | Self::TimesOfCollections => CassandraVersion::V5_0,
            Self::PendingHints => CassandraVersion::V4_1,
            Self::CoordinatedWrites | Self::KeyspaceNamedSnapshots => CassandraVersion::V4_0,
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StorageAttachedIndexes => "storage-attached indexes",
            Self::TimesOfCollections => "WRITETIME and TTL of collections",
            Self::PendingHints => "pending hints over JMX",
            Self::CoordinatedWrites => "coordinated writes by table",
            Self::KeyspaceNamedSnapshots => "rows of a keyspace called snapshots after a restart",
        })
    }
}

impl CassandraVersion {
    const ALL: [Self; 5] = [Self::V3_11, Self::V4_0, Self::V4_1, Self::V5_0, Self::V6_0];

    /// The one that the tests run on.
    ///
    /// # Errors
    /// When the variable names none.
    pub fn of_tests() -> Result<Self, Failure> {
        match std::env::var(VARIABLE) {
            Ok(series) if !series.is_empty() => Self::parse(&series),
            _ => Ok(Self::default()),
        }
    }

    fn parse(series: &str) -> Result<Self, Failure> {
        let known = || Self::ALL.map(Self::series).join(", ");
        let found = Self::ALL.into_iter().find(|version| version.series() == series);
        found.ok_or_else(|| Failure::new(format!("{VARIABLE}={series} is none of {}", known())))
    }

    /// As it is spoken of: `4.1`.
    #[must_use]
    pub fn series(self) -> &'static str {
        match self {
            Self::V3_11 => "3.11",
            Self::V4_0 => "4.0",
            Self::V4_1 => "4.1",
            Self::V5_0 => "5.0",
            Self::V6_0 => "6.0",
        }
    }

    /// The release that is run: `4.1.10`.
    #[must_use]
    pub fn release(self) -> &'static str {
        match self {
            Self::V3_11 => "3.11.19",
            Self::V4_0 => "4.0.19",
            Self::V4_1 => "4.1.10",
            Self::V5_0 => "5.0.9",
            Self::V6_0 => "6.0-alpha2",
        }
    }

    /// Whether it has this. Where it does not, that is printed, as a part of a test is left out.
    #[must_use]
    #[allow(clippy::print_stdout)]
    pub fn has(self, feature: Feature) -> bool {
        let has = self >= feature.since();
        if !has {
            println!("left out on Cassandra {self}: {feature} came with {}", feature.since());
        }
        has
    }

    /// The artifacts of `org.apache.cassandra` that it consists of.
    pub(crate) fn artifacts(self) -> &'static [&'static str] {
        match self {
            // At the end of its start-up it wants Thrift's classes, also where Thrift is off.
            Self::V3_11 => &["cassandra-all", "cassandra-thrift"],
            _ => &["cassandra-all"],
        }
    }

    /// The Java that it runs on.
    pub(crate) fn java_major(self) -> u32 {
        match self {
            Self::V3_11 => 8,
            Self::V4_0 | Self::V4_1 => 11,
            Self::V5_0 | Self::V6_0 => 17,
        }
    }

    /// The Java of its tools. A small Java 11 may lack what a JMX client needs; the tools of 4.0 and 4.1 run on 17, too.
    pub(crate) fn tools_java_major(self) -> u32 {
        match self {
            Self::V3_11 => 8,
            _ => 17,
        }
    }

    /// Whether a seed is named with its port. Before, all nodes of a cluster have the same.
    pub(crate) fn seeds_have_ports(self) -> bool {
        self >= Self::V4_0
    }

    /// A key of `cassandra.yaml` and its value as this version spells them; `None` when it does not know the key.
    pub(crate) fn spelled(self, key: &str, value: &str) -> Option<(String, String)> {
        if self >= Self::V4_1 {
            return Some((key.to_owned(), value.to_owned()));
        }
        if self < Self::V4_0 && key == "streaming_connections_per_host" {
            return None;
        }
        let spelled = match key {
            "materialized_views_enabled" => "enable_materialized_views",
            "user_defined_functions_enabled" => "enable_user_defined_functions",
            key => key,
        };
        let unit = UNITS.iter().find_map(|(unit, suffix, factor)| {
            let number: u64 = value.strip_suffix(unit)?.parse().ok()?;
            Some((format!("{spelled}{suffix}"), (number * factor).to_string()))
        });
        Some(unit.unwrap_or_else(|| (spelled.to_owned(), value.to_owned())))
    }

    /// Keys of `cassandra.yaml` that no other version wants.
    pub(crate) fn own_keys(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::V3_11 => &[("start_rpc", "false")],
            _ => &[],
        }
    }
}

impl fmt::Display for CassandraVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.series())
    }
}

/// Before 4.1 the unit is in the key. The longer one first, where one ends like another.
const UNITS: [(&str, &str, u64); 4] =
    [("GiB", "_in_mb", 1024), ("MiB", "_in_mb", 1), ("ms", "_in_ms", 1), ("s", "_in_ms", 1000)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_known_and_others_are_refused_with_those() {
        for version in CassandraVersion::ALL {
            assert_eq!(CassandraVersion::parse(version.series()).unwrap(), version);
            assert!(version.release().starts_with(version.series()));
        }
        let refused = CassandraVersion::parse("4.2").unwrap_err().to_string();
        assert_eq!(refused, "CASSY_TEST_CASSANDRA=4.2 is none of 3.11, 4.0, 4.1, 5.0, 6.0");
    }

    #[test]
    fn keys_are_spelled_as_the_version_does() {
        let spelled = |version: CassandraVersion, key: &str, value: &str| {
            version.spelled(key, value).map(|(key, value)| format!("{key}: {value}"))
        };
        let old = |key: &str, value: &str| spelled(CassandraVersion::V4_0, key, value).unwrap();
        assert_eq!(old("request_timeout", "20s"), "request_timeout_in_ms: 20000");
        assert_eq!(old("commitlog_sync_period", "10ms"), "commitlog_sync_period_in_ms: 10");
        assert_eq!(old("file_cache_size", "32MiB"), "file_cache_size_in_mb: 32");
        assert_eq!(old("commitlog_total_space", "2GiB"), "commitlog_total_space_in_mb: 2048");
        assert_eq!(old("materialized_views_enabled", "true"), "enable_materialized_views: true");
        assert_eq!(old("cluster_name", "\"7s\""), "cluster_name: \"7s\"");
        let new = spelled(CassandraVersion::V4_1, "request_timeout", "20s");
        assert_eq!(new.as_deref(), Some("request_timeout: 20s"));
        assert_eq!(spelled(CassandraVersion::V3_11, "streaming_connections_per_host", "1"), None);
    }

    #[test]
    fn what_a_version_lacks_it_has_from_a_later_one_on() {
        assert!(!CassandraVersion::V4_1.has(Feature::StorageAttachedIndexes));
        assert!(CassandraVersion::V5_0.has(Feature::StorageAttachedIndexes));
        assert!(CassandraVersion::V4_1.has(Feature::PendingHints));
        assert!(!CassandraVersion::V3_11.has(Feature::CoordinatedWrites));
    }
}
