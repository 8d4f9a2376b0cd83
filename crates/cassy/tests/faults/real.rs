//! What only a real Cassandra does: tables that are dropped, created and altered while a backup runs, and a process
//! that dies in mid-snapshot.

#![allow(clippy::print_stdout, reason = "what came of each fault is for the reader of the test's output")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cassy_api::proto::{BackupListingRequest, BackupRequest, OperationStatus};
use cassy_testkit::{Cql, Doing, Failure, Probe, Runtime, World, dataset, wait_for};

use crate::faults::{Agent, ambush, holds_a_file, nothing_is_left};

const CHANGES: [&str; 3] = ["dropped", "created", "altered"];

/// Of a death that did not come at its instant.
const TRIES: u32 = 5;

/// When Cassandra is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    MidSnapshot,
    MidUpload,
}

/// When the agent stands still.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Nothing is touched yet.
    Checks,
    /// The first object is sent.
    Upload,
}

#[tokio::test]
async fn tables_and_cassandra_itself_come_and_go_while_a_backup_runs() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.start().await?;
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let rows = dataset::fingerprints(&cql).await?;
    let cluster = world.register().await?;
    let mut fired = 0;
    for moment in [Moment::Checks, Moment::Upload] {
        for change in CHANGES {
            changed_meanwhile(&world, &cql, &cluster, &format!("shop.changing_{fired}"), change, moment)
                .await?;
            fired += 1;
        }
    }
    drop(cql);
    cassandra_dies(&mut world, &cluster, Death::MidSnapshot).await?;
    fired += 1;
    cassandra_dies(&mut world, &cluster, Death::MidUpload).await?;
    fired += 1;

    let last = world.back_up(&cluster).await?;
    nothing_is_left(&world).await?;
    world.node.stop().await?;
    world.node.wipe()?;
    world.restore(&cluster, &last).await?;
    world.node.start().await?;
    let found = dataset::fingerprints(&world.cql().await?).await?;
    assert_eq!(dataset::differences(&rows, &found), Vec::<String>::new());
    assert_eq!(fired, 2 * CHANGES.len() + 2, "all faults fired");
    println!("all {fired} faults fired");
    Ok(())
}

async fn changed_meanwhile(
    world: &World,
    cql: &Cql,
    cluster: &str,
    table: &str,
    change: &str,
    moment: Moment,
) -> Result<(), Failure> {
    if change != "created" {
        cql.execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, value text)")).await?;
        cql.execute(&format!("INSERT INTO {table} (id, value) VALUES (1, 'x')")).await?;
    }
    let statement = match change {
        "dropped" => format!("DROP TABLE {table}"),
        "created" => format!("CREATE TABLE {table} (id int PRIMARY KEY)"),
        _ => format!("ALTER TABLE {table} ADD later int"),
    };
    empty_store(world)?;
    let agent = tokio::spawn(stopped(world, moment));
    let (begun, changed) = tokio::join!(world.begin_backup(cluster), async {
        let agent = agent.await.doing(|| "wait for the agent")??;
        cql.execute(&statement).await?;
        agent.go_on();
        Ok::<_, Failure>(())
    });
    changed?;
    let id = begun?;
    let (status, message) = world.backup_outcome(&id).await?;
    println!("a table is {change} in mid-{moment:?}: {}: {message}", status.as_str_name());
    assert_eq!(status, OperationStatus::Completed, "{moment:?}, {change}: {message}");
    one_final_state(world, &id).await?;
    nothing_is_left(world).await
}

/// Killed, and started before the job goes on: without its snapshot the backup fails, and the next one clears up after
/// it; with it nobody needs Cassandra any more.
async fn cassandra_dies(world: &mut World, cluster: &str, death: Death) -> Result<(), Failure> {
    for _ in 0..TRIES {
        empty_store(world)?;
        let mut client = world.server.client()?;
        let request = BackupRequest { cluster_id: cluster.to_owned(), backup_type: 2, ..Default::default() };
        let mid_upload = death == Death::MidUpload;
        let agent = mid_upload.then(|| tokio::spawn(stopped(world, Moment::Upload)));
        let begun = tokio::spawn(async move { client.take_backup(request).await });
        let is_hit = match agent {
            None => killed_in_a_snapshot(world).await?,
            Some(agent) => {
                let agent = agent.await.doing(|| "wait for the agent")??;
                world.node.kill();
                world.node.start().await?;
                agent.go_on();
                true
            }
        };
        let id =
            begun.await.doing(|| "wait for the answer")?.doing(|| "TakeBackup")?.into_inner().snapshot_id;
        let (status, message) = world.backup_outcome(&id).await?;
        println!("Cassandra dies, {death:?} (hit: {is_hit}): {}: {message}", status.as_str_name());
        one_final_state(world, &id).await?;
        world.back_up(cluster).await.doing(|| format!("the backup after a death, {death:?}"))?;
        nothing_is_left(world).await?;
        if is_hit {
            let expected = match death {
                Death::MidSnapshot => OperationStatus::Failed,
                Death::MidUpload => OperationStatus::Completed,
            };
            assert_eq!(status, expected, "{death:?}: {message}");
            return Ok(());
        }
    }
    Err(Failure::new(format!("none of {TRIES} deaths was {death:?}")))
}

/// Whether the snapshot was not whole when Cassandra was killed: a few hundred milliseconds, so nothing is waited for.
async fn killed_in_a_snapshot(world: &mut World) -> Result<bool, Failure> {
    let data = world.node.data_directories().remove(0);
    let watched = data.clone();
    let seen = tokio::task::spawn_blocking(move || snapshot_appears(&watched));
    seen.await.doing(|| "look for the snapshot")??;
    world.node.kill();
    let lacks_it = tables_of_the_system(&data).into_iter().any(|table| !has_manifest_of_ours(&table));
    world.node.start().await?;
    Ok(lacks_it)
}

/// Of each there is something in a snapshot of all keyspaces.
fn tables_of_the_system(data: &Path) -> Vec<PathBuf> {
    let keyspaces = ["system", "system_schema", "system_auth", "system_distributed", "system_traces"];
    let tables = keyspaces.iter().flat_map(|keyspace| std::fs::read_dir(data.join(keyspace)));
    tables.flat_map(|tables| tables.flatten().map(|table| table.path())).collect()
}

/// Cassandra writes it when a table's files are linked.
fn has_manifest_of_ours(table: &Path) -> bool {
    let tags = std::fs::read_dir(table.join("snapshots")).into_iter().flatten().flatten();
    let is_ours = |tag: &std::fs::DirEntry| tag.file_name().to_string_lossy().starts_with("cassy-");
    tags.filter(is_ours).any(|tag| tag.path().join("manifest.json").exists())
}

/// Its first directory.
fn snapshot_appears(data: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let tables = std::fs::read_dir(data.join("system")).into_iter().flatten().flatten();
        let mut tags =
            tables.flat_map(|table| std::fs::read_dir(table.path().join("snapshots"))).flatten().flatten();
        if tags.any(|tag| tag.file_name().to_string_lossy().starts_with("cassy-")) {
            return Ok(());
        }
    }
    Err(Failure::new("no snapshot is taken"))
}

fn stopped(world: &World, moment: Moment) -> impl Future<Output = Result<Agent, Failure>> + use<> {
    let (store, agents) = (world.store().join("cassy"), world.path().join("agent"));
    let (what, seen): (_, Box<dyn Fn() -> bool + Send>) = match moment {
        Moment::Checks => {
            let agents: PathBuf = agents.clone();
            ("an agent runs", Box::new(move || !Agent::running_from(&agents).is_empty()))
        }
        Moment::Upload => ("an object is sent", Box::new(move || holds_a_file(&store, "data", 4))),
    };
    ambush(agents, what, seen)
}

fn empty_store(world: &World) -> Result<(), Failure> {
    let backups = world.store().join("cassy");
    if backups.exists() {
        std::fs::remove_dir_all(backups).doing(|| "empty the store")?;
    }
    Ok(())
}

async fn one_final_state(world: &World, id: &str) -> Result<(), Failure> {
    let request = BackupListingRequest { snapshot_id: id.to_owned(), ..Default::default() };
    let mut client = world.server.client()?;
    wait_for("one row, one final state", Duration::from_secs(30), async || {
        match client.list_backups(request.clone()).await.map(|answer| answer.into_inner().entries) {
            Ok(entries) if entries.len() == 1 && entries[0].status() >= OperationStatus::Completed => {
                Probe::Ready(())
            }
            other => Probe::NotYet(format!("{other:?}")),
        }
    })
    .await
}
