//! What may be left when a job has ended and another one after it: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use cassy_backup_format::ManifestReader;
use cassy_testkit::{Doing, Failure, Node, Probe, World, oracle, wait_for};

use super::Agent;

const LIMIT: Duration = Duration::from_secs(30);

/// No tag of ours, no agent, no half object, pin, probe or object that no manifest names.
pub(crate) async fn nothing_is_left<N: Node>(world: &World<N>) -> Result<(), Failure> {
    world.sshd.sessions_ended().await?;
    let agents = world.path().join("agent");
    wait_for("no agent runs", LIMIT, async || match Agent::running_from(&agents).len() {
        0 => Probe::Ready(()),
        count => Probe::NotYet(format!("{count} run")),
    })
    .await?;
    let tags = oracle::snapshot_tags(&world.node.data_directories())?.into_iter();
    let ours: Vec<_> = tags.filter(|tag| tag.starts_with("cassy-")).collect();
    assert_eq!(ours, Vec::<String>::new(), "no snapshot is left");
    let store = world.store();
    let keys =
        oracle::everything(std::slice::from_ref(&store))?.into_iter().map(|path| path.display().to_string());
    let keys: Vec<_> = keys.collect();
    let is_odd = |key: &&String| key.ends_with(".part") || key.contains("/pin/") || key.contains("/probe/");
    let odd: Vec<_> = keys.iter().filter(is_odd).collect();
    assert!(odd.is_empty(), "no half object, pin or probe is left: {odd:?}");
    let named = named_objects(&store, &keys)?;
    let unnamed: Vec<_> = keys.iter().filter(|key| key.contains("/data/") && !named.contains(*key)).collect();
    assert!(unnamed.is_empty(), "no object of a dead session is left: {unnamed:?}");
    Ok(())
}

fn named_objects(store: &Path, keys: &[String]) -> Result<BTreeSet<String>, Failure> {
    let mut named = BTreeSet::new();
    for manifest in keys.iter().filter(|key| key.contains("/manifest/")) {
        let file = fs::File::open(manifest).doing(|| format!("open {manifest}"))?;
        for entry in ManifestReader::open(file).doing(|| format!("read {manifest}"))? {
            let objects = entry.doing(|| format!("read {manifest}"))?.objects.into_iter();
            named.extend(objects.map(|object| store.join(object.key.as_str()).display().to_string()));
        }
    }
    assert!(!named.is_empty(), "there is a manifest");
    Ok(named)
}
