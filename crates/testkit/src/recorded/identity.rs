//! What a node says of itself, and the file in which that lies beside its data.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Doing, Failure};

const FILE: &str = "identity.json";

/// What was read from a real node, or made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) release_version: String,
    pub(super) cluster_name: String,
    pub(super) partitioner: String,
    pub(super) host_id: String,
    pub(super) datacenter: String,
    pub(super) rack: String,
    pub(super) tokens: Vec<String>,
}

impl Identity {
    pub(super) fn write(&self, directory: &Path) -> Result<(), Failure> {
        let document = json!({
            "release_version": self.release_version,
            "cluster_name": self.cluster_name,
            "partitioner": self.partitioner,
            "host_id": self.host_id,
            "datacenter": self.datacenter,
            "rack": self.rack,
            "tokens": self.tokens,
        });
        let file = directory.join(FILE);
        std::fs::write(&file, format!("{document:#}\n")).doing(|| format!("write {}", file.display()))
    }

    pub(super) fn read(directory: &Path) -> Result<Self, Failure> {
        let file = directory.join(FILE);
        let text = std::fs::read_to_string(&file).doing(|| format!("read {}", file.display()))?;
        let document: Value = serde_json::from_str(&text).doing(|| format!("read {}", file.display()))?;
        let field = |name: &str| {
            let text = document[name].as_str().map(str::to_owned);
            text.ok_or_else(|| Failure::new(format!("{} has no {name}", file.display())))
        };
        let tokens = document["tokens"].as_array().into_iter().flatten();
        Ok(Self {
            release_version: field("release_version")?,
            cluster_name: field("cluster_name")?,
            partitioner: field("partitioner")?,
            host_id: field("host_id")?,
            datacenter: field("datacenter")?,
            rack: field("rack")?,
            tokens: tokens.filter_map(|token| token.as_str().map(str::to_owned)).collect(),
        })
    }
}
