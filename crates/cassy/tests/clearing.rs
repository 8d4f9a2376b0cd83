//! What is cleared on a real Cassandra and what never is: leftovers of ended jobs also where Cassandra does not see
//! them, never what a link leads to, never a snapshot of somebody else. And backups while keyspaces are dropped.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cassy_api::proto::OperationStatus;
use cassy_testkit::{Cql, Doing, Failure, Probe, Runtime, World, dataset, oracle, wait_for};

/// The files that a link leads to.
const PRECIOUS: [&str; 3] = ["precious", "below/precious", "nb-1-big-Data.db"];

#[tokio::test]
async fn only_our_own_leftovers_go_and_no_link_is_followed() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let world = World::builder(&runtime)?.start().await?;
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let cluster = world.register().await?;
    let ended = world.back_up(&cluster).await?;

    let target = world.path().join("elsewhere");
    fill(&target)?;
    leftovers_go_and_the_snapshots_of_others_stay(&world, &cql, &cluster, &ended, &target).await?;
    a_link_into_a_live_snapshot_is_not_followed(&world, &cluster, &target).await?;
    what_cassandra_itself_does_with_a_link(&world).await
}

/// Leftovers of an ended job: in keyspaces and tables with the names of Cassandra's own directories, and of a table that
/// was dropped since, each with a link to a directory elsewhere.
async fn leftovers_go_and_the_snapshots_of_others_stay(
    world: &World,
    cql: &Cql,
    cluster: &str,
    ended: &str,
    target: &Path,
) -> Result<(), Failure> {
    let foreign = ["cassy-notours", "cassy-0197a5ac-0000-7000-8000-000000000000-1", "operators-own"];
    cql.execute("CREATE TABLE shop.dropped (id int PRIMARY KEY, value text)").await?;
    cql.execute("INSERT INTO shop.dropped (id, value) VALUES (1, 'x')").await?;
    world.node.flush(&["shop"]).await?;
    let tables = [("snapshots", "backups"), ("backups", "snapshots"), ("shop", "plain"), ("shop", "dropped")];
    let mut leftovers = Vec::new();
    for (keyspace, table) in tables {
        let table = table_directory(world, keyspace, table)?;
        for tag in [format!("cassy-{ended}-1"), format!("cassy-{ended}-2")] {
            leftovers.push(snapshot_by_hand(&table, &tag, Some(target))?);
        }
        for tag in foreign {
            snapshot_by_hand(&table, tag, None)?;
        }
    }
    cql.execute("DROP TABLE shop.dropped").await?;
    assert!(
        leftovers.iter().all(|leftover| leftover.is_dir()),
        "Cassandra leaves them, also of a dropped table"
    );
    world.back_up(cluster).await?;
    let left: Vec<_> = leftovers.iter().filter(|leftover| leftover.exists()).collect();
    assert!(left.is_empty(), "the next backup clears them: {left:?}");
    assert_precious(target);
    assert_eq!(tags(world)?, foreign.map(str::to_owned).into(), "nobody else's snapshot is touched");
    for (keyspace, table) in tables {
        let table = table_directory(world, keyspace, table)?;
        let files = foreign.map(|tag| table.join("snapshots").join(tag).join("manifest.json"));
        assert!(files.iter().all(|file| file.is_file()), "{}: each with its files", table.display());
    }
    Ok(())
}

/// The backup fails over it, by name, when it sees it; whether it does or not, the target stays as it is.
async fn a_link_into_a_live_snapshot_is_not_followed(
    world: &World,
    cluster: &str,
    target: &Path,
) -> Result<(), Failure> {
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        // An empty store, so that everything is sent and there is time.
        fs::remove_dir_all(world.store().join("cassy")).doing(|| "empty the store")?;
        let id = world.begin_backup(cluster).await?;
        let tag = format!("cassy-{id}-1");
        let snapshot = table_directory(world, "system", "local")?.join("snapshots").join(&tag);
        let linked = symlink(target, snapshot.join("linked"));
        let (status, message) = world.backup_outcome(&id).await?;
        if status == OperationStatus::Failed {
            assert!(message.contains("a symbolic link") && message.contains("hint: "), "{message}");
        }
        assert_precious(target);
        assert!(!tags(world)?.contains(&tag), "the snapshot and the link are gone");
        if linked.is_ok() {
            return Ok(());
        }
    }
    Err(Failure::new(format!(
        "in none of {TRIES} backups the snapshot was still there when TakeBackup had answered"
    )))
}

/// Why the agent sweeps before Cassandra clears. Measured on 5.0.9, and true as long as this passes: its own
/// `clearSnapshot` follows a link that lies in a snapshot, and deletes all below the directory that it leads to. Tried
/// with a snapshot of the operator's and a directory of this test.
async fn what_cassandra_itself_does_with_a_link(world: &World) -> Result<(), Failure> {
    let target = world.path().join("followed");
    fill(&target)?;
    world.node.nodetool(&["snapshot", "-t", "with-a-link", "shop"]).await?;
    let table = table_directory(world, "shop", "plain")?;
    symlink(&target, table.join("snapshots/with-a-link/linked")).doing(|| "link")?;
    world.node.nodetool(&["clearsnapshot", "-t", "with-a-link", "shop"]).await?;
    let left: Vec<_> = PRECIOUS.iter().filter(|name| target.join(name).exists()).collect();
    assert!(left.is_empty(), "this Cassandra follows no link; say so in the comment: {left:?}");
    Ok(())
}

/// A keyspace is dropped and another one made in the checks, in the flush, and in the snapshot.
#[tokio::test]
async fn keyspaces_that_are_dropped_and_made_meanwhile_stop_no_backup() -> Result<(), Failure> {
    const ROUNDS: usize = 9;
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.start().await?;
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let rows = dataset::fingerprints(&cql).await?;
    let cluster = world.register().await?;
    make_keyspace(&cql, 0).await?;
    let mut completed = Vec::new();
    for (round, moment) in Moment::ALL.into_iter().cycle().take(ROUNDS).enumerate() {
        let (begun, changed) = tokio::join!(world.begin_backup(&cluster), async {
            moment.comes(&world, round).await?;
            cql.execute(&format!("DROP KEYSPACE passing_{round}")).await?;
            make_keyspace(&cql, round + 1).await
        });
        changed?;
        let id = begun?;
        let (status, message) = world.backup_outcome(&id).await?;
        if status == OperationStatus::Completed {
            completed.push(id);
        } else {
            let names_it = message.contains("dropped") && message.contains(&format!("passing_{round}"));
            assert!(names_it, "{moment:?}: {message}");
        }
        assert!(!message.contains("left for a later backup"), "{moment:?}: {message}");
        let ours: Vec<_> = tags(&world)?.into_iter().filter(|tag| tag.starts_with("cassy-")).collect();
        assert!(ours.is_empty(), "{moment:?}: nothing of ours is left: {ours:?}");
    }
    assert!(completed.len() >= Moment::ALL.len(), "{} of {ROUNDS} were completed", completed.len());

    let last = completed.pop().ok_or_else(|| Failure::new("no backup was completed"))?;
    world.node.stop().await?;
    world.node.wipe()?;
    world.restore(&cluster, &last).await?;
    world.node.start().await?;
    let found = dataset::fingerprints(&world.cql().await?).await?;
    assert_eq!(dataset::differences(&rows, &found), Vec::<String>::new());
    Ok(())
}

/// When the keyspace is dropped.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The agent is there, and nothing is touched yet.
    Checks,
    /// The keyspace's own row was just flushed.
    Flush,
    /// The first table has its snapshot.
    Snapshot,
}

impl Moment {
    const ALL: [Self; 3] = [Self::Checks, Self::Flush, Self::Snapshot];

    async fn comes(self, world: &World, round: usize) -> Result<(), Failure> {
        let keyspace = format!("passing_{round}");
        wait_for(format!("{self:?} of round {round}"), Duration::from_secs(60), async || {
            let has_come = match self {
                Self::Checks => Ok(world.sshd.has_sessions()),
                Self::Flush => table_directory(world, &keyspace, "t").map(|table| has_sstable(&table)),
                Self::Snapshot => tags(world).map(|tags| tags.iter().any(|tag| tag.starts_with("cassy-"))),
            };
            match has_come {
                Ok(true) => Probe::Ready(()),
                outcome => Probe::NotYet(format!("{outcome:?}")),
            }
        })
        .await
    }
}

/// With a row that no flush has written yet.
async fn make_keyspace(cql: &Cql, number: usize) -> Result<(), Failure> {
    let name = format!("passing_{number}");
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    cql.execute(&format!("CREATE KEYSPACE {name} WITH replication = {replication}")).await?;
    cql.execute(&format!("CREATE TABLE {name}.t (id int PRIMARY KEY)")).await?;
    cql.execute(&format!("INSERT INTO {name}.t (id) VALUES (1)")).await
}

fn has_sstable(table: &Path) -> bool {
    let entries = fs::read_dir(table).into_iter().flatten().filter_map(Result::ok);
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with("-Data.db"))
}

/// Files that must never go.
fn fill(target: &Path) -> Result<(), Failure> {
    fs::create_dir_all(target.join("below")).doing(|| "make the directory that links lead to")?;
    PRECIOUS.iter().try_for_each(|name| fs::write(target.join(name), "x").doing(|| format!("write {name}")))
}

fn assert_precious(target: &Path) {
    let gone: Vec<_> = PRECIOUS.iter().filter(|name| !target.join(name).is_file()).collect();
    assert!(gone.is_empty(), "a link was followed: {gone:?} are gone from {}", target.display());
}

/// As a server that died would leave it; with a link to `target` at its top and among an index's files.
fn snapshot_by_hand(table: &Path, tag: &str, target: Option<&Path>) -> Result<PathBuf, Failure> {
    let snapshot = table.join("snapshots").join(tag);
    let made = fs::create_dir_all(snapshot.join(".index"))
        .and_then(|()| fs::write(snapshot.join("manifest.json"), "{\"files\":[]}"))
        .and_then(|()| fs::write(snapshot.join(".index/nb-1-big-Data.db"), "x"))
        .and_then(|()| target.map_or(Ok(()), |target| symlink(target, snapshot.join("link"))))
        .and_then(|()| target.map_or(Ok(()), |target| symlink(target, snapshot.join(".index/link"))));
    made.doing(|| format!("make {}", snapshot.display()))?;
    Ok(snapshot)
}

fn tags(world: &World) -> Result<BTreeSet<String>, Failure> {
    Ok(oracle::snapshot_tags(&world.node.data_directories())?.into_iter().collect())
}

fn table_directory(world: &World, keyspace: &str, table: &str) -> Result<PathBuf, Failure> {
    let keyspace = world.node.data_directories().remove(0).join(keyspace);
    let entries = fs::read_dir(&keyspace).doing(|| format!("list {}", keyspace.display()))?;
    let prefix = format!("{table}-");
    let found = entries.filter_map(Result::ok).find(|e| e.file_name().to_string_lossy().starts_with(&prefix));
    found.map(|entry| entry.path()).ok_or_else(|| Failure::new(format!("no directory of {table}")))
}
