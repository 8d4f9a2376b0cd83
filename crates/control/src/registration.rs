//! Registering clusters: any one host of a cluster tells all the rest.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use cassy_backup_format::{BackupId, ClusterId, Keys};
use cassy_catalog::{Catalog, ClusterNode, ClusterRow};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nodes::{NodeAccess, NodeDescription};
use crate::operations::{Cluster, OperationError, OperationErrorKind};
use crate::perform::chain;
use crate::runner::database_failed;

/// Logins under way at once.
const MEETINGS_AT_ONCE: usize = 16;

/// Stores the cluster; a known one (same name, a host id in common) keeps its id.
pub(crate) async fn register(
    catalog: &Catalog,
    epoch: i64,
    now_ms: i64,
    described: &NodeDescription,
) -> Result<Cluster, OperationError> {
    refuse_unsettled(described)?;
    let failed = |e| database_failed("register the cluster", &e);
    let host_ids: Vec<_> = described.ring.values().map(ToString::to_string).collect();
    let known = catalog.find_cluster_by_nodes(&described.cluster_name, &host_ids).await.map_err(failed)?;
    let known = match known {
        Some(id) => catalog.cluster(&id).await.map_err(failed)?,
        None => None,
    };
    let row = ClusterRow {
        cluster_id: match &known {
            Some(known) => known.cluster_id.clone(),
            None => new_id(&described.cluster_name, now_ms)?,
        },
        cluster_name: described.cluster_name.clone(),
        target_ips: described.ring.keys().cloned().collect(),
        keyspaces: described.keyspaces.clone(),
        data_dir: described.data_directories.first().cloned().unwrap_or_default(),
        created_at: known.map_or(now_ms, |known| known.created_at),
        updated_at: now_ms,
    };
    catalog.register_cluster(epoch, &row, &nodes(described)).await.map_err(failed)?;
    Ok(cluster(row))
}

/// The id of a cluster that is registered for the first time. It names the cluster's place in the store, too: a name
/// that has none there is refused now, and not by the first backup.
fn new_id(cluster_name: &str, now_ms: i64) -> Result<String, OperationError> {
    let id = ClusterId::new(cluster_name, BackupId::at(now_ms).uuid()).map_err(|error| chain(&error));
    let placed = id.and_then(|id| Keys::new(id).map_err(|error| chain(&error)));
    placed.map(|keys| keys.cluster().to_string()).map_err(|reason| {
        OperationError::new(
            OperationErrorKind::FailedPrecondition,
            format!("the cluster's name leaves no room for an id: {reason}"),
        )
        .hint("a name of up to 200 letters and digits, or of 18 characters of any kind, can be registered")
    })
}

/// Logins that make the nodes' host keys known, beside everything else: to each node one at a time, however often its
/// cluster is registered.
#[derive(Default)]
pub(crate) struct Meetings {
    under_way: Arc<Mutex<HashSet<String>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// That a node is being logged in to, until it is dropped.
struct Meeting {
    address: String,
    under_way: Arc<Mutex<HashSet<String>>>,
}

impl Meetings {
    /// Logs in to every node, so that its host key is the one seen at registration. That a node cannot be logged in to
    /// is said in the log, and by the first backup.
    pub(crate) fn begin(&self, access: &Arc<dyn NodeAccess>, addresses: &[String]) {
        let new: Vec<_> = addresses.iter().filter_map(|address| self.enter(address)).collect();
        if new.is_empty() {
            return;
        }
        let access = Arc::clone(access);
        let meetings = async move {
            let meetings = futures::stream::iter(new);
            meetings.for_each_concurrent(MEETINGS_AT_ONCE, |meeting| meet(&*access, meeting)).await;
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(meetings).await });
    }

    pub(crate) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn enter(&self, address: &str) -> Option<Meeting> {
        let is_new = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(address.to_owned());
        is_new.then(|| Meeting { address: address.to_owned(), under_way: Arc::clone(&self.under_way) })
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

async fn meet(access: &dyn NodeAccess, meeting: Meeting) {
    if let Err(error) = access.meet(&meeting.address).await {
        let (node, hint) = (&meeting.address, &error.hint);
        tracing::warn!(node, %error, hint, "a registered node cannot be logged in to");
    }
}

/// A ring that is changing, or that has a node down, is not registered. A node that has left stays unreachable to
/// Cassandra for days, but it is none of the ring.
fn refuse_unsettled(described: &NodeDescription) -> Result<(), OperationError> {
    let is_member = |address: &&String| described.ring.contains_key(*address);
    let down: Vec<String> = described.unreachable.iter().filter(is_member).cloned().collect();
    let states = [
        ("unreachable", &down),
        ("joining", &described.joining),
        ("leaving", &described.leaving),
        ("moving", &described.moving),
    ];
    let lines: Vec<_> = states
        .iter()
        .filter(|(_, nodes)| !nodes.is_empty())
        .map(|(state, nodes)| format!("{state}: {}", nodes.join(", ")))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    let message = format!("the ring of {:?} is not settled: {}", described.cluster_name, lines.join("; "));
    Err(OperationError::new(OperationErrorKind::Unavailable, message)
        .hint("register the cluster when every node is up and in the state NORMAL"))
}

fn nodes(described: &NodeDescription) -> Vec<ClusterNode> {
    let node = |(address, host_id): (&String, &cassy_backup_format::HostId)| {
        let own = *host_id == described.host_id;
        let of_own = |text: &String| if own { text.clone() } else { String::new() };
        ClusterNode {
            address: address.clone(),
            host_id: host_id.to_string(),
            datacenter: of_own(&described.datacenter),
            rack: of_own(&described.rack),
        }
    };
    described.ring.iter().map(node).collect()
}

/// How the ring of the moment differs from the registered one, in words.
pub(crate) fn changes(
    row: &ClusterRow,
    registered: &[ClusterNode],
    described: &NodeDescription,
) -> Vec<String> {
    let before: BTreeSet<&String> = row.target_ips.iter().collect();
    let now: BTreeSet<&String> = described.ring.keys().collect();
    let mut notes = Vec::new();
    let mut note = |what: &str, nodes: Vec<&str>| {
        if !nodes.is_empty() {
            notes.push(format!("{what} since the cluster was registered: {}", nodes.join(", ")));
        }
    };
    note("added", now.difference(&before).map(|a| a.as_str()).collect());
    note("gone", before.difference(&now).map(|a| a.as_str()).collect());
    let ids: BTreeMap<&str, &str> =
        registered.iter().map(|n| (n.address.as_str(), n.host_id.as_str())).collect();
    let replaced = described.ring.iter().filter(|(address, host_id)| {
        ids.get(address.as_str()).is_some_and(|known| *known != host_id.to_string())
    });
    note("replaced (another host id)", replaced.map(|(address, _)| address.as_str()).collect());
    notes
}

/// The row as it is answered.
pub(crate) fn cluster(row: ClusterRow) -> Cluster {
    Cluster {
        cluster_id: row.cluster_id,
        cluster_name: row.cluster_name,
        target_ips: row.target_ips,
        keyspaces: row.keyspaces,
        data_dir: row.data_dir,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_cluster_has_to_have_a_place_in_the_store() {
        let longest = "x".repeat(200);
        for name in ["Test Cluster", "'; DROP TABLE job; --<b>\u{202e}", "../..", longest.as_str()] {
            let id = new_id(name, 7).expect(name);
            assert!(id.starts_with(&format!("{name}-")), "{id}");
        }
        let marks = "\u{202e}".repeat(24);
        assert!(new_id(&marks, 7).is_ok());
        for name in ["x".repeat(220), "\u{202e}".repeat(25), "x".repeat(1024), "a\0b".to_owned()] {
            let error = new_id(&name, 7).expect_err(&name);
            assert_eq!(error.kind, OperationErrorKind::FailedPrecondition);
            assert!(
                error.message.contains("leaves no room for an id") && error.message.len() < 600,
                "{error}"
            );
        }
    }
}
