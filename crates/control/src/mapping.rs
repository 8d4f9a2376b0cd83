//! Which node of a backup a target is, when the backup does not know its address: the one whose tokens its
//! `cassandra.yaml` names. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cassy_backup_format::HostId;

use crate::operations::OperationError;
use crate::service::precondition;

/// Tokens shown in a message; who needs more finds them in the manifest.
const SHOWN_TOKENS: usize = 4;

/// A node of the backup that no target is known for.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) host_id: HostId,
    pub(crate) address: String,
    pub(crate) tokens: Vec<String>,
}

/// A target whose address the backup does not know.
#[derive(Debug, Clone)]
pub(crate) struct Stranger {
    pub(crate) address: String,
    /// Its `cassandra.yaml`.
    pub(crate) yaml: String,
    /// What that names as `initial_token`.
    pub(crate) tokens: Vec<String>,
}

/// Host id by target. Everything that does not fit is said at once.
pub(crate) fn by_tokens(
    strangers: &[Stranger],
    sources: &[Source],
) -> Result<BTreeMap<String, String>, OperationError> {
    let mut found: BTreeMap<HostId, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for Stranger { address, yaml, tokens } in strangers {
        let own = set(tokens);
        let Some(source) = sources.iter().find(|source| !own.is_empty() && set(&source.tokens) == own) else {
            problems.push(if own.is_empty() {
                format!("{address} is no node of the backup by its address, and {yaml} has no initial_token")
            } else {
                format!(
                    "{address} is no node of the backup by its address nor by the initial_token in {yaml}"
                )
            });
            continue;
        };
        if let Some(other) = found.insert(source.host_id, address) {
            problems.push(format!("{other} and {address} both have the tokens of {}", source.address));
        }
    }
    if problems.is_empty() {
        return Ok(found
            .into_iter()
            .map(|(host_id, target)| (target.to_owned(), host_id.to_string()))
            .collect());
    }
    let choice: Vec<_> = sources.iter().map(shown).collect();
    Err(precondition(problems.join("\n")).hint(format!(
        "say in source_of which node each of them was, or set initial_token to all tokens of that node; not placed yet: {}",
        choice.join("; ")
    )))
}

/// Their order does not matter.
fn set(tokens: &[String]) -> BTreeSet<&str> {
    tokens.iter().map(|token| token.trim()).collect()
}

fn shown(source: &Source) -> String {
    let tokens: Vec<_> = source.tokens.iter().take(SHOWN_TOKENS).map(String::as_str).collect();
    let rest = if source.tokens.len() > SHOWN_TOKENS { ",..." } else { "" };
    format!("{} (host id {}, initial_token: {}{rest})", source.address, source.host_id, tokens.join(","))
}
