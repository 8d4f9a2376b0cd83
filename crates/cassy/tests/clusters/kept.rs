//! What a backup's snapshots held, kept as hard links before they can be cleared: the oracle for the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use cassy_testkit::{Cluster, ClusterNode, Doing, Failure, oracle};
use rustix::process::{Pid, Signal, kill_process};

use super::agents::manifest_exists;
use super::assert_completed;

/// Of a backup that is to be caught before its end.
const TRIES: usize = 10;
const PACE: Duration = Duration::from_millis(5);

/// By address.
pub(crate) type KeptFiles = BTreeMap<String, oracle::Files>;

/// A backup that is complete, and what its snapshots held.
pub(crate) struct Kept {
    pub(crate) snapshot: String,
    pub(crate) files: KeptFiles,
}

/// Takes a backup of all nodes, and keeps each snapshot as soon as it is whole: the server, which clears it, stands still
/// while it is linked. A backup whose uploads ended before that is repeated.
pub(crate) async fn back_up(cluster: &mut Cluster, id: &str) -> Result<Kept, Failure> {
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let mut keepers = Vec::new();
        for node in &cluster.nodes {
            keepers.push(Keeper::of(cluster, node).await?);
        }
        let (stop, stopped) = channel();
        let kept = tokio::task::spawn_blocking(move || keep_all(keepers, &stopped));
        let answer = cluster.server.begin_backup(id, &[]).await?;
        assert_eq!(answer.target_ips, cluster.addresses());
        assert_eq!(answer.message, "", "nothing has changed since the registration");
        let outcomes = cluster.server.backup_outcomes(&answer.snapshot_id).await?;
        drop(stop);
        assert_completed("an undisturbed backup", &outcomes, &cluster.addresses());
        nothing_of_ours_is_left(cluster)?;
        let files = kept.await.doing(|| "keep the snapshots")??;
        match files.into_iter().collect::<Result<KeptFiles, String>>() {
            Ok(files) => return Ok(Kept { snapshot: answer.snapshot_id, files }),
            Err(missed) => seen.push(missed),
        }
    }
    Err(Failure::new(format!("none of {TRIES} backups was caught before its end: {seen:?}")))
}

/// Keeps one node's next snapshot.
struct Keeper {
    address: String,
    host_id: String,
    data: Vec<PathBuf>,
    store: PathBuf,
    server: Pid,
    /// `keyspace/table` of all that a snapshot holds.
    tables: BTreeSet<String>,
    place: PathBuf,
    /// What was seen last, for messages.
    seen: String,
}

impl Keeper {
    async fn of(cluster: &Cluster, node: &ClusterNode) -> Result<Self, Failure> {
        let mut session = node.cassandra.jmx().await?;
        let tables = session.tables().await.doing(|| "list the tables")?;
        let host_id = session.local_host_id().await.doing(|| "ask for the host id")?.to_string();
        let kept = cluster.path().join("kept").join(&host_id);
        let place = kept.join(entries(&kept).len().to_string());
        std::fs::create_dir_all(&place).doing(|| format!("make {}", place.display()))?;
        let server = i32::try_from(cluster.server.process().pid()).ok().and_then(Pid::from_raw);
        Ok(Self {
            address: node.address(),
            host_id,
            data: node.cassandra.data_directories(),
            store: cluster.store(),
            server: server.ok_or_else(|| Failure::new("the server has no process id"))?,
            tables: tables.into_iter().map(|(keyspace, table)| format!("{keyspace}/{table}")).collect(),
            place,
            seen: "no snapshot".to_owned(),
        })
    }

    /// Whether the snapshot is kept.
    fn keep(&mut self) -> Result<bool, Failure> {
        let Some(tag) = self.tag() else { return Ok(false) };
        let described: BTreeSet<_> = self.data.iter().flat_map(|data| described(data, &tag)).collect();
        let lacking: Vec<_> = self.tables.difference(&described).take(3).collect();
        if !lacking.is_empty() {
            self.seen = format!("the snapshot {tag} without {lacking:?}");
            return Ok(false);
        }
        self.seen = format!("{tag} when it had been sent");
        kill_process(self.server, Signal::STOP).doing(|| "stop the server")?;
        let snapshot_id = tag.trim_start_matches("cassy-").trim_end_matches("-1");
        let is_sent = manifest_exists(&self.store, &self.host_id, snapshot_id);
        let linked = if is_sent { Ok(()) } else { oracle::keep_snapshot(&self.data, &tag, &self.place) };
        kill_process(self.server, Signal::CONT).doing(|| "let the server go on")?;
        linked.map(|()| !is_sent)
    }

    /// What it has kept, by address.
    fn files(&self) -> Result<(String, oracle::Files), Failure> {
        let files = oracle::sstable_files(&oracle::placed(std::slice::from_ref(&self.place))?);
        for part in ["system/local-", "single/orders-", "triple/orders-", "/.customers_by_city/"] {
            assert!(files.keys().any(|path| path.contains(part)), "{} has files of {part}", self.address);
        }
        Ok((self.address.clone(), files))
    }

    /// Of our snapshot of the table that every node has.
    fn tag(&self) -> Option<String> {
        let tables = self.data.iter().flat_map(|data| entries(&data.join("system")));
        let local = tables.filter(|path| name(path).starts_with("local-"));
        let mut tags = local.flat_map(|path| entries(&path.join("snapshots"))).map(|path| name(&path));
        tags.find(|tag| tag.starts_with("cassy-") && tag.ends_with("-1"))
    }
}

/// One node's files by its address, or what was seen instead.
type Attempt = Result<(String, oracle::Files), String>;

/// Until all are kept, or the backup has ended; for each that was not, what was seen of it.
fn keep_all(mut keepers: Vec<Keeper>, stopped: &Receiver<()>) -> Result<Vec<Attempt>, Failure> {
    let mut kept = Vec::new();
    while !keepers.is_empty() && stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
        for mut keeper in std::mem::take(&mut keepers) {
            let place = if keeper.keep()? { &mut kept } else { &mut keepers };
            place.push(keeper);
        }
    }
    let missed = keepers.into_iter().map(|keeper| Ok(Err(format!("{}: {}", keeper.address, keeper.seen))));
    kept.iter().map(|keeper| keeper.files().map(Ok)).chain(missed).collect()
}

/// The tables whose part of the snapshot is whole: Cassandra describes it last.
fn described(data: &Path, tag: &str) -> Vec<String> {
    let tables = entries(data).into_iter().flat_map(|keyspace| entries(&keyspace));
    let whole = tables.filter(|table| table.join("snapshots").join(tag).join("manifest.json").exists());
    whole.filter_map(|table| Some(format!("{}/{}", name(table.parent()?), table_name(&table)))).collect()
}

fn table_name(directory: &Path) -> String {
    let name = name(directory);
    name.rsplit_once('-').map_or(name.clone(), |(table, _)| table.to_owned())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The files of a restored node are those of its snapshot, byte for byte, none missing and none too many.
pub(crate) fn files_are_back(node: &ClusterNode, files: &KeptFiles) -> Result<(), Failure> {
    let directories = node.cassandra.data_directories();
    let staging = directories.iter().find(|data| data.join("node-backup").exists());
    assert_eq!(staging, None, "staging is removed");
    let differences = oracle::differences(&files[&node.address()], &oracle::placed(&directories)?);
    assert_eq!(differences, Vec::<String>::new(), "{}", node.address());
    Ok(())
}

/// No snapshot of ours is left on any node.
pub(crate) fn nothing_of_ours_is_left(cluster: &Cluster) -> Result<(), Failure> {
    for node in &cluster.nodes {
        let tags = oracle::snapshot_tags(&node.cassandra.data_directories())?;
        let ours: Vec<_> = tags.into_iter().filter(|tag| tag.starts_with("cassy-")).collect();
        assert_eq!(ours, Vec::<String>::new(), "{}", node.address());
    }
    Ok(())
}
