//! Which nodes a request is about.

use std::collections::{BTreeMap, BTreeSet};

use cassy_agent_protocol::ParentManifest;
use cassy_backup_format::{ClusterManifest, NodeManifestRef};

use crate::job::restore::RestoreNode;
use crate::nodes::NodeDescription;
use crate::operations::{OperationError, OperationErrorKind};
use crate::service::{invalid, precondition};

/// All that are asked for, or the ring of the moment; every one of them alive.
pub(crate) fn of_backup(
    asked: &[String],
    described: &NodeDescription,
) -> Result<Vec<String>, OperationError> {
    let strangers: Vec<_> = asked.iter().filter(|a| !described.ring.contains_key(*a)).cloned().collect();
    if !strangers.is_empty() {
        let message = format!("not in the ring of {:?}: {}", described.cluster_name, strangers.join(", "));
        let members: Vec<_> = described.ring.keys().cloned().collect();
        return Err(invalid(message).hint(format!("the ring is {}", members.join(", "))));
    }
    let targets: BTreeSet<String> = if asked.is_empty() {
        described.ring.keys().cloned().collect()
    } else {
        asked.iter().cloned().collect()
    };
    let absent: Vec<_> = targets.iter().filter(|t| !described.live.contains(t)).cloned().collect();
    if !absent.is_empty() {
        let message = format!("not alive: {}", absent.join(", "));
        return Err(OperationError::new(OperationErrorKind::Unavailable, message)
            .hint("start these nodes, or name the others in target_ips"));
    }
    Ok(targets.into_iter().collect())
}

/// Checked against the backup, never against the ring: a stopped node cannot be asked. What lies in a store is data
/// of somebody else, so an address that it alone names is never gone to: the request or the database name it too.
pub(crate) fn of_restore(
    asked: &[String],
    manifest: &ClusterManifest,
    known: &BTreeSet<String>,
) -> Result<BTreeMap<String, RestoreNode>, OperationError> {
    let asked: BTreeSet<&str> = asked.iter().map(String::as_str).collect();
    let wanted = |address: &str| asked.is_empty() || asked.contains(address);
    let missing: Vec<_> = manifest.missing.iter().filter(|node| wanted(&node.address)).collect();
    if !missing.is_empty() {
        let why: Vec<_> = missing.iter().map(|node| format!("{}: {}", node.address, node.reason)).collect();
        return Err(precondition(format!("the backup {} lacks {}", manifest.backup_id, why.join("; ")))
            .hint("name the other nodes in target_ips, or choose another backup"));
    }
    let nodes: BTreeMap<_, _> = manifest
        .nodes
        .iter()
        .filter(|node| wanted(&node.address))
        .map(|node| (node.address.clone(), part(manifest, node)))
        .collect();
    let absent: Vec<_> = asked.iter().copied().filter(|a| !nodes.contains_key(*a)).collect();
    if !absent.is_empty() {
        let message = format!("not part of the backup {}: {}", manifest.backup_id, absent.join(", "));
        let members: Vec<_> = manifest.nodes.iter().map(|n| n.address.clone()).collect();
        return Err(invalid(message).hint(format!("it holds {}", members.join(", "))));
    }
    let named = |address: &str| asked.contains(address) || known.contains(address);
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

fn part(manifest: &ClusterManifest, node: &NodeManifestRef) -> RestoreNode {
    let parent =
        ParentManifest { key: node.key.clone(), backup_id: manifest.backup_id, blake3: node.blake3.clone() };
    RestoreNode { host_id: node.host_id, manifest: parent, plan: None, restored: None, failure: None }
}
