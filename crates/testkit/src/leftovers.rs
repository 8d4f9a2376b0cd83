//! What no job may leave behind once it has ended, and no other is under way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cassy_backup_format::ManifestReader;

use crate::world::Node;
use crate::{Doing, Failure, World, oracle};

const STAGING: [&str; 2] = ["node-backup", "cluster-backup"];
const SENTINEL: &str = "RESTORE_INCOMPLETE/aa-1-big-Data.db";
const OWN_TAG: &str = "cassy-";

impl<N: Node> World<N> {
    /// Own snapshots, staging directories with their sentinel, unfinished objects, pins, probes, data objects that no
    /// manifest names, agents. A line each; empty when all is in order.
    ///
    /// # Errors
    /// When something cannot be looked at.
    pub async fn leftovers(&self) -> Result<Vec<String>, Failure> {
        self.sshd.sessions_ended().await?;
        let data = self.node.data_directories();
        let tags = oracle::snapshot_tags(&data)?.into_iter().filter(|tag| tag.starts_with(OWN_TAG));
        let staging = data.iter().flat_map(|data| STAGING.map(|name| data.join(name)));
        let mut found: Vec<String> = tags.map(|tag| format!("the snapshot {tag}")).collect();
        found.extend(staging.filter(|path| path.exists()).map(|path| path.display().to_string()));
        let keys = self.objects()?;
        found.extend(keys.iter().filter(|key| is_passing(key)).cloned());
        found.extend(unnamed(&self.store(), &keys)?);
        Ok(found)
    }

    /// Whether Cassandra is kept from starting on half a restore.
    pub fn has_sentinel(&self) -> bool {
        let is_there = |data: &PathBuf| STAGING.iter().any(|name| data.join(name).join(SENTINEL).exists());
        self.node.data_directories().iter().any(is_there)
    }

    /// The keys of all objects in the store.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn objects(&self) -> Result<BTreeSet<String>, Failure> {
        let store = self.store();
        let key = |path: PathBuf| path.strip_prefix(&store).unwrap_or(&path).display().to_string();
        Ok(oracle::everything(std::slice::from_ref(&store))?.into_iter().map(key).collect())
    }

    /// Removes all backups from the store, so that the next one sends everything.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn remove_backups(&self) -> Result<(), Failure> {
        let backups = self.store().join("cassy");
        if backups.exists() {
            std::fs::remove_dir_all(&backups).doing(|| "empty the store")?;
        }
        Ok(())
    }
}

/// What is there only while a job runs.
fn is_passing(key: &str) -> bool {
    key.ends_with(".part") || key.contains("/pin/") || key.contains("/probe/")
}

/// The keys of data objects that no node manifest names.
fn unnamed(store: &Path, keys: &BTreeSet<String>) -> Result<Vec<String>, Failure> {
    let mut named = BTreeSet::new();
    for manifest in keys.iter().filter(|key| key.contains("/manifest/")) {
        let file = std::fs::File::open(store.join(manifest)).doing(|| format!("open {manifest}"))?;
        for entry in ManifestReader::open(file).doing(|| format!("read {manifest}"))? {
            let objects = entry.doing(|| format!("read {manifest}"))?.objects;
            named.extend(objects.into_iter().map(|object| object.key.as_str().to_owned()));
        }
    }
    Ok(keys.iter().filter(|key| key.contains("/data/") && !named.contains(*key)).cloned().collect())
}
