//! What the operator does once all nodes of a cluster are restored, node by node, seeds first. Pure.

use std::collections::BTreeSet;

use crate::job::RestoreJob;

/// Seeds that are named in a message.
const SHOWN_SEEDS: usize = 10;

/// Nothing for a restore of nodes: what to do then is in each node's row.
pub(crate) fn next_steps(job: &RestoreJob) -> Vec<String> {
    if !job.whole_cluster {
        return Vec::new();
    }
    let seeds = seeds(job);
    let (first, others): (Vec<_>, Vec<_>) =
        job.nodes.keys().partition(|target| seeds.contains(target.as_str()));
    let mut lines = vec!["next, once every node is COMPLETED (ListRestoreStatuses):".to_owned()];
    if first.is_empty() {
        let named: Vec<_> = seeds.iter().take(SHOWN_SEEDS).copied().collect();
        lines.push(format!(
            "no node is known to be a seed: their cassandra.yaml name {}; if these are not names of some of the nodes, \
             name two or three of the nodes as seeds first",
            if named.is_empty() { "none".to_owned() } else { named.join(", ") }
        ));
    }
    let steps = first.iter().map(|target| {
        format!("start {target}, a seed, and wait until it listens (nodetool status there shows it as UN)")
    });
    let steps = steps.chain(others.iter().map(|target| format!("start {target}")));
    lines.extend(steps.zip(1..).map(|(step, number)| format!("{number}. {step}")));
    lines.push(
        "one that ends with \"Unable to gossip with any peers\" was not answered by a seed in time: start it again"
            .to_owned(),
    );
    lines.push(
        "the nodes are of one instant; hints that were under way and mutations that were dropped are in no backup: run \
         nodetool repair -full on each node once all are up"
            .to_owned(),
    );
    lines.push("counters are of that instant on all replicas, and can be counted with at once".to_owned());
    lines.push(match job.copy {
        None => {
            "lightweight transactions go on from that instant: system.paxos is back on all nodes".to_owned()
        }
        Some(_) => {
            "no lightweight transaction is under way in the copy: system.paxos is on none of its nodes"
                .to_owned()
        }
    });
    if job.copy.is_some() {
        lines.push(
            "the copy has host ids of its own; keep its cluster_name apart from the original's, and initial_token as it is"
                .to_owned(),
        );
        lines.extend(seeds_of_the_original(job));
    }
    lines
}

fn seeds(job: &RestoreJob) -> BTreeSet<&str> {
    let plans = job.nodes.values().filter_map(|node| node.plan.as_ref());
    plans.flat_map(|plan| plan.seeds.iter().map(String::as_str)).collect()
}

/// A copy that asks the original for its ring is kept out by the name of its cluster alone, and does not start.
fn seeds_of_the_original(job: &RestoreJob) -> Option<String> {
    let originals: BTreeSet<_> = job.nodes.values().filter_map(|node| node.replaces.as_deref()).collect();
    let seeds = seeds(job);
    let named: Vec<_> = seeds.intersection(&originals).take(SHOWN_SEEDS).copied().collect();
    (!named.is_empty()).then(|| {
        format!(
            "before that: the seeds {} are nodes of the original cluster; name nodes of the copy",
            named.join(", ")
        )
    })
}
