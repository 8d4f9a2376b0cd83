//! A restore that is only planned: every node is asked as for a restore, and nothing is changed, locked or filed.

use std::sync::Arc;

use cassy_agent_protocol::MovedAside;
use futures::StreamExt;

use crate::job::RestoreJob;
use crate::job::restore::RestoreNode;
use crate::machine::Perform;
use crate::next_steps::next_steps;
use crate::operations::OperationError;
use crate::perform::restore::RestorePerformer;

/// Nodes that are asked at once.
const LOOKS_AT_ONCE: usize = 16;

/// The job with the plan, or the failure, of every node. No agent is left.
pub(crate) async fn look(performer: &RestorePerformer, mut job: RestoreJob) -> RestoreJob {
    let asked: Vec<_> = job.nodes.keys().cloned().collect();
    let before = &job;
    let looks = asked.into_iter().map(|target| async move {
        let plan = performer.look(before, &target).await;
        performer.links.close_one(&target).await;
        (target, plan)
    });
    let looks = futures::stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
    let plans: Vec<_> = looks.collect().await;
    performer.release().await;
    for (target, plan) in plans {
        let Some(node) = job.nodes.get_mut(&target).map(Arc::make_mut) else { continue };
        match plan {
            Ok(plan) => node.plan = Some(plan),
            Err(error) => node.failure = Some(error.into()),
        }
    }
    job
}

/// What refuses the request before any node is asked.
pub(crate) fn refusal(error: &OperationError) -> String {
    format!("dry run: nothing was changed; the restore would be refused\n{}", refused(error))
}

fn refused(OperationError { message, hints, .. }: &OperationError) -> String {
    format!("would be refused: {}", [vec![message.clone()], hints.clone()].concat().join("; "))
}

/// What would be done, node by node, and why it would be refused. `refusals` are of the request as a whole.
pub(crate) fn text(job: &RestoreJob, refusals: &[OperationError]) -> String {
    let findings = refusals.len() + job.nodes.values().map(|node| findings(node).len()).sum::<usize>();
    let mut lines = vec![match findings {
        0 => "dry run: nothing was changed; the restore can begin".to_owned(),
        1 => "dry run: nothing was changed; the restore would be refused, for 1 reason".to_owned(),
        many => format!("dry run: nothing was changed; the restore would be refused, for {many} reasons"),
    }];
    lines.extend(refusals.iter().map(refused));
    lines.extend(job.told.iter().cloned());
    for (target, node) in &job.nodes {
        lines.extend(of_node(target, node).into_iter().map(|line| format!("{target}: {line}")));
    }
    lines.extend(next_steps(job));
    lines.join("\n")
}

fn of_node(target: &str, node: &RestoreNode) -> Vec<String> {
    let source = node.replaces.as_deref().unwrap_or(target);
    let mut lines =
        vec![format!("gets the data of {source} (host id {}), {}", node.host_id, node.manifest.key)];
    if let Some(plan) = &node.plan {
        let free = plan.data_directories.iter().zip(&plan.free_bytes);
        let free: Vec<_> =
            free.map(|(directory, bytes)| format!("{bytes} bytes are free in {directory}")).collect();
        lines.push(format!(
            "{} files, {} bytes to download; {}",
            plan.files,
            plan.bytes,
            if free.is_empty() { "no data directory is known".to_owned() } else { free.join(", ") }
        ));
        lines.extend(plan.moved_aside.iter().map(|moved| {
            let MovedAside { directory, files, bytes, .. } = moved;
            format!(
                "{files} files in {directory} ({bytes} bytes) would be moved to {directory}/moved-aside-<id of the restore>"
            )
        }));
        lines.extend(plan.warnings.iter().map(|warning| format!("warning: {warning}")));
    }
    lines.extend(findings(node).into_iter().map(|finding| format!("would be refused: {finding}")));
    lines
}

fn findings(node: &RestoreNode) -> Vec<String> {
    let planned = node.plan.iter().flat_map(|plan| plan.findings.iter().cloned());
    node.failure.iter().map(crate::job::Failure::text).chain(planned).collect()
}
