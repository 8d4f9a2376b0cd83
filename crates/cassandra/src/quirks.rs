//! Where versions differ: one table. For each thing to do the overloads that exist in some version, the best first; the
//! first that the node's MBean offers is called.

use cassy_jmx::{Argument, MBeanInfo};

use crate::names::{Keyspaces, SnapshotTag};

pub(crate) const STORAGE_SERVICE: &str = "org.apache.cassandra.db:type=StorageService";
pub(crate) const SNITCH: &str = "org.apache.cassandra.db:type=EndpointSnitchInfo";
/// Tables and not indexes or views' aliases; 3.0 and later.
pub(crate) const TABLES: &str = "org.apache.cassandra.db:type=Tables,*";

/// Has the timeouts of requests; 1.0 and later.
pub(crate) const STORAGE_PROXY: &str = "org.apache.cassandra.db:type=StorageProxy";
/// Count the writes of clients that this node has coordinated, also those that failed; a batch is one. Counters and
/// batches are under `Write`, conditional writes under `CASWrite` (`ClientRequestMetrics`, `CASClientWriteRequestMetrics`).
pub(crate) const CLIENT_WRITES: [&str; 2] = [
    "org.apache.cassandra.metrics:type=ClientRequest,scope=Write,name=Latency",
    "org.apache.cassandra.metrics:type=ClientRequest,scope=CASWrite,name=Latency",
];
/// Keyspaces that a node writes to by itself, through the same path as a client's writes: traces, the history of repairs
/// and of views (`SystemDistributedKeyspace`, `TraceStateImpl`). `system` and `system_schema` are local, and what is in
/// `system_auth` comes from clients.
pub(crate) const SYSTEM_WRITTEN: [&str; 2] = ["system_distributed", "system_traces"];
/// What clients have asked for over CQL and is being worked on, or waits for it (`ThreadPoolMetrics`).
pub(crate) const CLIENT_TASKS: [&str; 2] = [
    "org.apache.cassandra.metrics:type=ThreadPools,path=transport,scope=Native-Transport-Requests,name=ActiveTasks",
    "org.apache.cassandra.metrics:type=ThreadPools,path=transport,scope=Native-Transport-Requests,name=PendingTasks",
];

/// The platform's bean of the process itself (`java.lang.management.ManagementFactory`).
pub(crate) const RUNTIME: &str = "java.lang:type=Runtime";
/// Has the hints that wait, by node (`HintsServiceMBean.getPendingHints`).
pub(crate) const HINTS_SERVICE: &str = "org.apache.cassandra.hints:type=HintsService";
/// Count the writes that a node was to store as a replica and has not, as they were too old when their turn came
/// (`DroppedMessageMetrics`, where the names of 3.11 are aliases in later versions).
pub(crate) const DROPPED_WRITES: [&str; 2] = [
    "org.apache.cassandra.metrics:type=DroppedMessage,scope=MUTATION,name=Dropped",
    "org.apache.cassandra.metrics:type=DroppedMessage,scope=COUNTER_MUTATION,name=Dropped",
];

/// Counts the writes to a table that this node has coordinated, also those that failed (`TableMetrics`).
pub(crate) fn coordinated_writes(keyspace: &str, table: &str) -> String {
    format!(
        "org.apache.cassandra.metrics:type=Table,keyspace={keyspace},scope={table},name=CoordinatorWriteLatency"
    )
}

const STRING: &str = "java.lang.String";
const STRINGS: &str = "[Ljava.lang.String;";
const MAP: &str = "java.util.Map";

/// An overload of an operation of the storage service.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) name: &'static str,
    pub(crate) signature: &'static [&'static str],
    /// Which of the arguments this overload takes, in its order.
    takes: &'static [Takes],
}

#[derive(Debug, Clone, Copy)]
enum Takes {
    Tag,
    Keyspaces,
    NoOptions,
}

/// 3.11 and later take options, which must not be null (measured: a null pointer exception).
pub(crate) const TAKE_SNAPSHOT: &[Overload] = &[
    Overload {
        name: "takeSnapshot",
        signature: &[STRING, MAP, STRINGS],
        takes: &[Takes::Tag, Takes::NoOptions, Takes::Keyspaces],
    },
    Overload { name: "takeSnapshot", signature: &[STRING, STRINGS], takes: &[Takes::Tag, Takes::Keyspaces] },
];

/// 5.0 added options and deprecated the other.
pub(crate) const CLEAR_SNAPSHOT: &[Overload] = &[
    Overload {
        name: "clearSnapshot",
        signature: &[MAP, STRING, STRINGS],
        takes: &[Takes::NoOptions, Takes::Tag, Takes::Keyspaces],
    },
    Overload { name: "clearSnapshot", signature: &[STRING, STRINGS], takes: &[Takes::Tag, Takes::Keyspaces] },
];

pub(crate) const FLUSH: &str = "forceKeyspaceFlush";
pub(crate) const FLUSH_SIGNATURE: &[&str] = &[STRING, STRINGS];
pub(crate) const ONE_STRING: &[&str] = &[STRING];

/// The overload to call.
pub(crate) fn choose(offered: &MBeanInfo, overloads: &'static [Overload]) -> Option<&'static Overload> {
    overloads.iter().find(|overload| offered.has_operation(overload.name, overload.signature))
}

impl Overload {
    pub(crate) fn arguments(&self, tag: SnapshotTag, keyspaces: &Keyspaces) -> Vec<Argument> {
        let argument = |takes: &Takes| match takes {
            Takes::Tag => Argument::String(tag.to_string()),
            Takes::Keyspaces => Argument::Strings(keyspaces.to_vec()),
            Takes::NoOptions => Argument::StringMap(Vec::new()),
        };
        self.takes.iter().map(argument).collect()
    }
}

#[cfg(test)]
mod tests {
    use cassy_jmx::OperationInfo;
    use uuid::Uuid;

    use super::*;

    fn offering(overloads: &[&Overload]) -> MBeanInfo {
        let operation = |overload: &&Overload| OperationInfo {
            name: overload.name.to_owned(),
            signature: overload.signature.iter().map(ToString::to_string).collect(),
            returns: "void".to_owned(),
        };
        MBeanInfo { attributes: Vec::new(), operations: overloads.iter().map(operation).collect() }
    }

    #[test]
    fn the_best_overload_that_the_node_offers_is_chosen() {
        for overloads in [TAKE_SNAPSHOT, CLEAR_SNAPSHOT] {
            let (best, other) = (&overloads[0], &overloads[1]);
            let chosen = |offered: &[&Overload]| {
                choose(&offering(offered), overloads).map(|overload| overload.signature)
            };
            assert_eq!(chosen(&[other, best]), Some(best.signature));
            assert_eq!(chosen(&[other]), Some(other.signature));
            assert_eq!(chosen(&[]), None);
        }
    }

    #[test]
    fn arguments_fit_their_signature() {
        let (tag, keyspaces) =
            (SnapshotTag::of(Uuid::nil(), 1), Keyspaces::new(vec!["ks1".into()]).expect("valid"));
        for overload in TAKE_SNAPSHOT.iter().chain(CLEAR_SNAPSHOT) {
            let types: Vec<&str> = overload
                .arguments(tag, &keyspaces)
                .iter()
                .map(|argument| match argument {
                    Argument::String(text) if *text == tag.to_string() => STRING,
                    Argument::Strings(names) if names == &["ks1"] => STRINGS,
                    Argument::StringMap(options) if options.is_empty() => MAP,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(types, overload.signature);
        }
    }
}
