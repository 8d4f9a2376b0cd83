//! Restores of the whole cluster: which node of the backup each target is.

use std::collections::BTreeSet;
use std::time::Duration;

use cassy_agent_protocol::{ReadTokensRequest, Reply, Request};
use cassy_backup_format::{BackupId, ClusterManifest, NodeManifestRef};
use futures::{StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::{LOOKS_AT_ONCE, Service, invalid, refused};
use crate::job::{Failure, Refusal};
use crate::mapping::{Source, Stranger, by_tokens};
use crate::nodes::{NodeError, NodeErrorKind};
use crate::operations::{OperationError, RestoreRequest};
use crate::perform::Links;
use crate::perform::increments::header;

const INCONSISTENT: &str = "The request is invalid or inconsistent.";
/// To read one node's configuration, its agent started first.
const READ_LIMIT: Duration = Duration::from_secs(180);

impl Service {
    /// The same request with every target known: by its address, by `source_of`, or by its tokens.
    pub(super) async fn with_sources(
        &self,
        request: &RestoreRequest,
        manifest: &ClusterManifest,
    ) -> Result<RestoreRequest, OperationError> {
        refuse_a_part(request, manifest)?;
        let is_source = |address: &str| manifest.nodes.iter().any(|node| node.address == address);
        let unknown = |target: &&String| !(is_source(target) || request.source_of.contains_key(*target));
        let unknown: Vec<_> = request.target_ips.iter().filter(unknown).cloned().collect();
        if unknown.is_empty() {
            return Ok(request.clone());
        }
        let (sources, recorded) = self.unplaced(request, manifest).await?;
        let strangers = self.strangers(unknown, recorded).await?;
        let mut known = request.clone();
        known.source_of.extend(by_tokens(&strangers, &sources)?);
        Ok(known)
    }

    /// The nodes of the backup that no target is named for, and where their `cassandra.yaml` was.
    async fn unplaced(
        &self,
        request: &RestoreRequest,
        manifest: &ClusterManifest,
    ) -> Result<(Vec<Source>, Vec<String>), OperationError> {
        let is_named = |node: &NodeManifestRef| {
            let own_place =
                request.target_ips.contains(&node.address) && !request.source_of.contains_key(&node.address);
            let host_id = node.host_id.to_string();
            own_place
                || request.source_of.values().any(|source| *source == node.address || *source == host_id)
        };
        let unplaced = manifest.nodes.iter().filter(|node| !is_named(node)).map(|node| async move {
            let header = header(&*self.parts.store, &node.key).await?;
            let source =
                Source { host_id: node.host_id, address: node.address.clone(), tokens: header.tokens };
            Ok::<_, NodeError>((source, header.configuration.yaml_path))
        });
        let read = futures::stream::iter(unplaced.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
        let read: Vec<_> = read.try_collect().await.map_err(|error| refused(&[refusal(error)]))?;
        let (sources, paths): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        let paths: BTreeSet<String> = paths.into_iter().flatten().collect();
        Ok((sources, paths.into_iter().collect()))
    }

    /// What the stopped nodes are to be. In a task of its own: a client that hangs up leaves no agent behind.
    async fn strangers(
        &self,
        targets: Vec<String>,
        recorded: Vec<String>,
    ) -> Result<Vec<Stranger>, OperationError> {
        let permit = self.may_look()?;
        let links = self.links(BackupId::at(self.parts.clock.now_ms()).to_string());
        let request = ReadTokensRequest { cassandra_yaml: self.parts.cassandra_yaml.clone(), recorded };
        let reading = tokio::spawn(async move {
            let _permit = permit;
            let reads = targets.iter().map(|target| stranger(&links, target, &request));
            let reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
            let read: Vec<_> = reads.collect().await;
            links.close().await;
            read
        });
        let read = reading.await.map_err(|error| super::restore::not_made(&error))?;
        let (strangers, failures): (Vec<_>, Vec<_>) = read.into_iter().partition(Result::is_ok);
        if failures.is_empty() {
            return Ok(strangers.into_iter().flatten().collect());
        }
        let refusals: Vec<_> = failures.into_iter().filter_map(Result::err).map(refusal).collect();
        Err(refused(&refusals))
    }
}

async fn stranger(links: &Links, target: &str, request: &ReadTokensRequest) -> Result<Stranger, NodeError> {
    let link = links.to(target);
    let asked = timeout(READ_LIMIT, link.request(Request::ReadTokens(request.clone()))).await;
    let answer = asked.unwrap_or_else(|_elapsed| {
        let message = format!("{target}: its configuration was not read within {} s", READ_LIMIT.as_secs());
        Err(NodeError::new(NodeErrorKind::Unreachable, message))
    });
    links.close_one(target).await;
    match answer? {
        Reply::Tokens { yaml, tokens } => Ok(Stranger { address: target.to_owned(), yaml, tokens }),
        other => {
            let message = format!("{target}: the agent gave an answer of another kind: {other:?}");
            Err(NodeError::new(NodeErrorKind::Permanent, message))
        }
    }
}

fn refusal(error: NodeError) -> Refusal {
    let Failure { unavailable, message, hint } = error.into();
    Refusal { target: None, unavailable, message, hint }
}

/// One instant of a part of the cluster would be none.
fn refuse_a_part(request: &RestoreRequest, manifest: &ClusterManifest) -> Result<(), OperationError> {
    if manifest.backup_type != 1 {
        return Err(invalid(INCONSISTENT).hint(format!(
            "{} is no backup of the whole cluster (backup_type 1): restore it with restore_type 2",
            manifest.backup_id
        )));
    }
    let (targets, nodes) = (request.target_ips.len(), manifest.nodes.len());
    if targets != 0 && targets != nodes {
        let all: Vec<_> = manifest.nodes.iter().map(|node| node.address.as_str()).collect();
        return Err(invalid(INCONSISTENT).hint(format!(
            "restore_type 1 is of all {nodes} nodes of the backup ({}), and target_ips names {targets}: leave it empty, or \
             use restore_type 2",
            all.join(", ")
        )));
    }
    Ok(())
}
