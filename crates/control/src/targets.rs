//! Which nodes a request is about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cassy_agent_protocol::ParentManifest;
use cassy_backup_format::{ClusterManifest, HostId, NodeManifestRef};

use crate::job::Nodes;
use crate::job::restore::RestoreNode;
use crate::nodes::NodeDescription;
use crate::operations::{OperationError, OperationErrorKind, RestoreRequest};
use crate::service::{invalid, precondition};

/// By address, whom the ring has there.
pub(crate) type Targets = BTreeMap<String, HostId>;

/// All that are asked for, or the ring of the moment; every one of them alive.
pub(crate) fn of_backup(asked: &[String], described: &NodeDescription) -> Result<Targets, OperationError> {
    refuse_doubles(described)?;
    let strangers: Vec<_> = asked.iter().filter(|a| !described.ring.contains_key(*a)).cloned().collect();
    if !strangers.is_empty() {
        let message = format!("not in the ring of {:?}: {}", described.cluster_name, strangers.join(", "));
        let members: Vec<_> = described.ring.keys().cloned().collect();
        return Err(invalid(message).hint(format!("the ring is {}", members.join(", "))));
    }
    let mut targets = described.ring.clone();
    targets.retain(|target, _| asked.is_empty() || asked.contains(target));
    let absent: Vec<_> = targets.keys().filter(|t| !described.live.contains(t)).cloned().collect();
    if !absent.is_empty() {
        let message = format!("not alive: {}", absent.join(", "));
        return Err(OperationError::new(OperationErrorKind::Unavailable, message)
            .hint("start these nodes, or name the others in target_ips"));
    }
    Ok(targets)
}

/// Two nodes with one host id would share a place in the store. No Cassandra says so of its ring.
fn refuse_doubles(described: &NodeDescription) -> Result<(), OperationError> {
    let mut seen = BTreeMap::new();
    for (address, host_id) in &described.ring {
        if let Some(other) = seen.insert(host_id, address) {
            let message = format!(
                "the ring of {:?} has the host id {host_id} at both {other} and {address}",
                described.cluster_name
            );
            return Err(precondition(message)
                .hint("look at nodetool status on several nodes: one of them does not tell the truth"));
        }
    }
    Ok(())
}

/// The whole ring: an instant of a part of it would be none.
pub(crate) fn of_cluster(asked: &[String], described: &NodeDescription) -> Result<Targets, OperationError> {
    let unasked: Vec<_> = described.ring.keys().filter(|address| !asked.contains(address)).cloned().collect();
    if !(asked.is_empty() || unasked.is_empty()) {
        let message =
            format!("a cluster-wide backup is of all nodes, and target_ips lacks {}", unasked.join(", "));
        return Err(
            invalid(message).hint("leave target_ips empty, or take a node backup (backup_type 2) of these")
        );
    }
    of_backup(asked, described)
}

/// Those of the ring that the snapshot holds, by host id; the others are named, and refused when asked for.
pub(crate) fn of_increment(
    asked: &[String],
    described: &NodeDescription,
    base: &ClusterManifest,
) -> Result<(Targets, Vec<String>), OperationError> {
    let held: BTreeSet<_> = base.nodes.iter().map(|node| node.host_id).collect();
    let without = |address: &&String| described.ring.get(*address).is_some_and(|id| !held.contains(id));
    let without: Vec<_> = if asked.is_empty() {
        described.ring.keys().filter(without).cloned().collect()
    } else {
        asked.iter().filter(without).cloned().collect()
    };
    let covered: Vec<_> = described
        .ring
        .iter()
        .filter(|(_, id)| held.contains(id))
        .map(|(address, _)| address.clone())
        .collect();
    let what = format!("the snapshot {} does not hold {}", base.backup_id, without.join(", "));
    let hint = "take a node backup (backup_type 2) of these first";
    if covered.is_empty() || !(asked.is_empty() || without.is_empty()) {
        return Err(precondition(what).hint(hint));
    }
    let targets = of_backup(if asked.is_empty() { &covered } else { asked }, described)?;
    let mut notes = Vec::new();
    if !without.is_empty() {
        notes.push(format!("left out: {what}; {hint}"));
    }
    let in_ring: BTreeSet<_> = described.ring.values().collect();
    let gone = base.nodes.iter().filter(|node| !in_ring.contains(&node.host_id));
    let gone: Vec<_> = gone.map(|node| node.address.clone()).collect();
    if !gone.is_empty() {
        notes.push(format!("left out: gone from the ring since the snapshot: {}", gone.join(", ")));
    }
    Ok((targets, notes))
}

/// Checked against the backup, never against the ring: a stopped node cannot be asked. What lies in a store is data
/// of somebody else, so an address that it alone names is never gone to: the request or the database name it too.
pub(crate) fn of_restore(
    request: &RestoreRequest,
    manifest: &ClusterManifest,
    known: &BTreeSet<String>,
) -> Result<Nodes<RestoreNode>, OperationError> {
    let asked: BTreeSet<&str> = request.target_ips.iter().map(String::as_str).collect();
    let places = Places::new(request, manifest)?;
    let wanted = |address: &str| asked.is_empty() || asked.contains(address);
    let missing = manifest.missing.iter().filter(|node| wanted(places.of(&node.address)));
    let missing: Vec<_> = missing.map(|node| format!("{}: {}", node.address, node.reason)).collect();
    if !missing.is_empty() {
        return Err(precondition(format!("the backup {} lacks {}", manifest.backup_id, missing.join("; ")))
            .hint("name the other nodes in target_ips, or choose another backup"));
    }
    let mut nodes: Nodes<RestoreNode> = Nodes::new();
    for node in manifest.nodes.iter().filter(|node| wanted(places.of(&node.address))) {
        let target = places.of(&node.address);
        if nodes.insert(target.to_owned(), Arc::new(part(manifest, node, target))).is_some() {
            let message = format!("{target} would get the data of two nodes");
            return Err(invalid(message).hint("say in source_of where each of them goes, or name target_ips"));
        }
    }
    let absent: Vec<_> = asked.iter().copied().filter(|a| !nodes.contains_key(*a)).collect();
    if !absent.is_empty() {
        let message = format!("not part of the backup {}: {}", manifest.backup_id, absent.join(", "));
        let members: Vec<_> = manifest.nodes.iter().map(|n| n.address.clone()).collect();
        return Err(invalid(message).hint(format!(
            "it holds {}; for a node that has another address now, say in source_of which of these it was",
            members.join(", ")
        )));
    }
    let named = |address: &str| {
        asked.contains(address) || known.contains(address) || request.source_of.contains_key(address)
    };
    let strangers: Vec<_> = nodes.keys().filter(|address| !named(address)).cloned().collect();
    if !strangers.is_empty() {
        let message = format!(
            "only the manifest of the backup {} says that these are nodes of the cluster: {}",
            manifest.backup_id,
            strangers.join(", ")
        );
        return Err(precondition(message).hint(
            "name the nodes to restore in target_ips, these only if they are the cluster's; \
             or register the cluster again, if they are in its ring now",
        ));
    }
    Ok(nodes)
}

/// Where the data of the backed-up nodes goes: to their own addresses, but for those that `source_of` names.
struct Places<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Places<'a> {
    fn new(request: &'a RestoreRequest, manifest: &'a ClusterManifest) -> Result<Self, OperationError> {
        let mut places = BTreeMap::new();
        for (target, source) in &request.source_of {
            if !(request.target_ips.is_empty() || request.target_ips.contains(target)) {
                return Err(invalid(format!("source_of names {target}, and target_ips does not"))
                    .hint("name it in both, or leave target_ips empty"));
            }
            let is_source =
                |node: &&NodeManifestRef| node.address == *source || node.host_id.to_string() == *source;
            let Some(node) = manifest.nodes.iter().find(is_source) else {
                let members: Vec<_> = manifest.nodes.iter().map(|n| n.address.clone()).collect();
                let message = format!("the backup {} does not hold {source}", manifest.backup_id);
                return Err(invalid(message).hint(format!("it holds {}", members.join(", "))));
            };
            if let Some(other) = places.insert(node.address.as_str(), target.as_str()) {
                let message = format!("source_of sends {} to both {other} and {target}", node.address);
                return Err(invalid(message).hint("two nodes of one host id end each other: choose one"));
            }
        }
        Ok(Self(places))
    }

    fn of<'b>(&self, address: &'b str) -> &'b str
    where
        'a: 'b,
    {
        self.0.get(address).copied().unwrap_or(address)
    }
}

fn part(manifest: &ClusterManifest, node: &NodeManifestRef, target: &str) -> RestoreNode {
    let parent =
        ParentManifest { key: node.key.clone(), backup_id: manifest.backup_id, blake3: node.blake3.clone() };
    let replaces = (node.address != target).then(|| node.address.clone());
    RestoreNode {
        host_id: node.host_id,
        replaces,
        manifest: parent,
        plan: None,
        restored: None,
        failure: None,
        cut: None,
        unchanged: false,
    }
}
