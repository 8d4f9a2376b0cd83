//! Which tokens a stopped node is to have: by them a node that comes back under a new address is recognized.

use cassy_agent_protocol::{AgentError, AgentErrorKind, ReadTokensRequest, Reply};

use super::gather::stopped_configuration;
use crate::failure::IntoAgentError;
use crate::inspect::Machine;

/// The node's `cassandra.yaml` cannot be read; in words.
#[derive(Debug, thiserror::Error)]
#[error("the node's cassandra.yaml cannot be read: {reason}")]
pub(crate) struct NoTokens {
    reason: String,
}

impl IntoAgentError for NoTokens {
    fn into_agent_error(self) -> AgentError {
        let hint = "Name it with cassandra_yaml, put it there, or say in source_of which node this one was.";
        AgentError { kind: AgentErrorKind::Permanent, message: self.to_string(), hint: Some(hint.to_owned()) }
    }
}

/// See the module.
pub(crate) fn read(machine: &Machine, request: &ReadTokensRequest) -> Result<Reply, NoTokens> {
    let read = stopped_configuration(machine, request.cassandra_yaml.as_deref(), &request.recorded);
    let configuration = read.map_err(|reason| NoTokens { reason })?;
    let yaml = configuration.path.display().to_string();
    Ok(Reply::Tokens { yaml, tokens: configuration.initial_tokens() })
}
