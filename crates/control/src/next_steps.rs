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
    let mut lines = vec!["next, once every node is COMPLETED (ListRestoreStatuses):".to_owned()];
    lines.extend(stays_away(job));
    lines.extend(starts(job));
    lines.push(
        "one that ends with \"Unable to gossip with any peers\" was not answered by a seed in time: start it again"
            .to_owned(),
    );
    lines.extend(of_one_instant(job));
    if job.copy.is_some() {
        lines.push(
            "the copy has host ids of its own; keep its cluster_name apart from the original's, and initial_token as it is"
                .to_owned(),
        );
    }
    lines
}

/// What is registered and not in the backup; it does not answer, else the restore had been refused.
fn stays_away(job: &RestoreJob) -> Option<String> {
    (job.copy.is_none() && !job.others.is_empty()).then(|| {
        format!(
            "never start with their data, which is from after the instant, the nodes that the backup does not have: {}; \
             once all others are up, empty their data, commit log, hints and saved caches directories, and let them join \
             as new nodes",
            job.others.join(", ")
        )
    })
}

fn starts(job: &RestoreJob) -> Vec<String> {
    let seeds = seeds(job);
    let (first, others): (Vec<_>, Vec<_>) =
        job.nodes.keys().partition(|target| seeds.contains(target.as_str()));
    let mut lines = Vec::new();
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
    lines
}

fn of_one_instant(job: &RestoreJob) -> Vec<String> {
    let transactions = match job.copy {
        None => "lightweight transactions go on from that instant: system.paxos is back on all nodes",
        Some(_) => {
            "no lightweight transaction is under way in the copy: system.paxos is on none of its nodes"
        }
    };
    let lines = [
        "the nodes are of one instant; hints that were under way and mutations that were dropped are in no backup: run \
         nodetool repair -full on each node once all are up",
        "counters are of that instant on all replicas, and can be counted with at once",
        transactions,
    ];
    lines.map(str::to_owned).to_vec()
}

fn seeds(job: &RestoreJob) -> BTreeSet<&str> {
    let plans = job.nodes.values().filter_map(|node| node.plan.as_ref());
    plans.flat_map(|plan| plan.seeds.iter().map(String::as_str)).collect()
}
