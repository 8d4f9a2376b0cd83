//! Cassandra's own files: where each lies below the node's directory, and what its configuration says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::cassandra::Membership;
use crate::seat::Seat;
use crate::{CassandraVersion, Doing, Failure};

pub(crate) struct Places {
    root: PathBuf,
    pub(crate) yaml: PathBuf,
    pub(crate) rack: PathBuf,
    pub(crate) logback: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) commitlog: PathBuf,
    pub(crate) hints: PathBuf,
    pub(crate) caches: PathBuf,
    pub(crate) cdc: PathBuf,
}

impl Places {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            yaml: root.join("conf/cassandra.yaml"),
            rack: root.join("conf/cassandra-rackdc.properties"),
            logback: root.join("conf/logback.xml"),
            log: root.join("cassandra.log"),
            scratch: root.join("tmp"),
            commitlog: root.join("commitlog"),
            hints: root.join("hints"),
            caches: root.join("saved_caches"),
            cdc: root.join("cdc_raw"),
            root: root.to_owned(),
        }
    }

    /// `data`, `data2`, `data3` and so on.
    pub(crate) fn data(&self, count: usize) -> Vec<PathBuf> {
        let name = |number| {
            if number == 1 { "data".to_owned() } else { format!("data{number}") }
        };
        (1..=count).map(|number| self.root.join(name(number))).collect()
    }
}

pub(crate) struct Settings<'a> {
    pub(crate) version: CassandraVersion,
    pub(crate) cluster_name: &'a str,
    pub(crate) seat: &'a Seat,
    pub(crate) membership: Option<&'a Membership>,
    pub(crate) data_directories: usize,
    pub(crate) extra: &'a BTreeMap<String, String>,
}

pub(crate) fn write(places: &Places, settings: &Settings<'_>) -> Result<(), Failure> {
    let conf = places.root.join("conf");
    for directory in [&conf, &places.scratch] {
        std::fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
    }
    // As on a machine of an operator it is as old as its last change, not as the last start.
    let text = yaml(places, settings);
    if !std::fs::read_to_string(&places.yaml).is_ok_and(|there| there == text) {
        std::fs::write(&places.yaml, text).doing(|| format!("write {}", places.yaml.display()))?;
    }
    if let Some(membership) = settings.membership {
        let text = format!("dc={}\nrack=rack1\n", membership.datacenter);
        std::fs::write(&places.rack, text).doing(|| format!("write {}", places.rack.display()))?;
    }
    std::fs::write(&places.logback, LOGBACK).doing(|| format!("write {}", places.logback.display()))
}

/// Removes all that is in a directory.
pub(crate) fn empty(directory: &Path) -> Result<(), Failure> {
    let entries = std::fs::read_dir(directory).doing(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.doing(|| format!("list {}", directory.display()))?;
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.doing(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// JSON strings are YAML strings, so every text value is quoted as JSON.
fn yaml(places: &Places, settings: &Settings<'_>) -> String {
    let quoted = |text: String| serde_json::Value::String(text).to_string();
    let path = |path: &Path| quoted(path.display().to_string());
    let data: Vec<String> =
        places.data(settings.data_directories).iter().map(|directory| path(directory)).collect();
    let (seat, address) = (settings.seat, settings.seat.address());
    let (snitch, seeds) = match settings.membership {
        Some(membership) => ("GossipingPropertyFileSnitch", membership.seeds.clone()),
        None => ("SimpleSnitch", vec![address]),
    };
    let seed = |seed: &Ipv4Addr| match settings.version.seeds_have_ports() {
        true => format!("{seed}:{}", seat.storage_port()),
        false => seed.to_string(),
    };
    let seeds: Vec<String> = seeds.iter().map(seed).collect();
    let seeds = format!(
        "[{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{{seeds: '{}'}}]}}]",
        seeds.join(",")
    );
    let mut keys: BTreeMap<&str, String> = FIXED
        .iter()
        .chain(settings.version.own_keys())
        .map(|&(key, value)| (key, value.to_owned()))
        .collect();
    keys.extend([
        ("cluster_name", quoted(settings.cluster_name.to_owned())),
        ("listen_address", address.to_string()),
        ("rpc_address", address.to_string()),
        ("endpoint_snitch", snitch.to_owned()),
        ("storage_port", seat.storage_port().to_string()),
        ("native_transport_port", seat.native_port().to_string()),
        ("seed_provider", seeds),
        ("data_file_directories", format!("[{}]", data.join(", "))),
        ("commitlog_directory", path(&places.commitlog)),
        ("hints_directory", path(&places.hints)),
        ("saved_caches_directory", path(&places.caches)),
        ("cdc_raw_directory", path(&places.cdc)),
    ]);
    for (key, value) in settings.extra {
        keys.insert(key, value.clone());
    }
    let spelled = keys.iter().filter_map(|(key, value)| settings.version.spelled(key, value));
    spelled.fold(String::new(), |mut text, (key, value)| {
        let _ = writeln!(text, "{key}: {value}");
        text
    })
}

/// Little memory, long timeouts (a loaded machine stalls for seconds, and a stall is no failure of the test). As 4.1 and
/// later spell it.
const FIXED: [(&str, &str); 31] = [
    ("auto_bootstrap", "false"),
    ("auto_snapshot", "false"),
    ("cas_contention_timeout", "20s"),
    ("commitlog_segment_size", "4MiB"),
    ("commitlog_sync", "periodic"),
    ("commitlog_sync_period", "10000ms"),
    ("commitlog_total_space", "64MiB"),
    ("concurrent_compactors", "1"),
    ("concurrent_counter_writes", "4"),
    ("concurrent_reads", "4"),
    ("concurrent_writes", "4"),
    ("counter_cache_size", "2MiB"),
    ("counter_write_request_timeout", "20s"),
    ("file_cache_size", "32MiB"),
    ("incremental_backups", "true"),
    ("key_cache_size", "4MiB"),
    ("materialized_views_enabled", "true"),
    ("memtable_heap_space", "48MiB"),
    ("memtable_offheap_space", "48MiB"),
    ("native_transport_max_threads", "16"),
    ("num_tokens", "4"),
    ("partitioner", "org.apache.cassandra.dht.Murmur3Partitioner"),
    ("range_request_timeout", "20s"),
    ("read_request_timeout", "20s"),
    ("request_timeout", "20s"),
    ("slow_query_log_timeout", "20s"),
    ("start_native_transport", "true"),
    ("streaming_connections_per_host", "1"),
    ("truncate_request_timeout", "60s"),
    ("user_defined_functions_enabled", "true"),
    ("write_request_timeout", "20s"),
];

const LOGBACK: &str = r#"<configuration scan="false">
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <target>System.err</target>
    <encoder><pattern>%date{ISO8601} %-5level [%thread] %F:%L - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"#;
