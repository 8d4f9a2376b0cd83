//! What only a real Cassandra does: tables that are dropped, created and altered while a backup runs, and a process
//! that dies in mid-snapshot.

#![allow(clippy::print_stdout, reason = "what came of each fault is for the reader of the test's output")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cassy_api::proto::{BackupListingRequest, OperationStatus};
use cassy_testkit::{Cql, Doing, Failure, Probe, Runtime, World, dataset, wait_for};

use super::faults::{Agent, ambush, holds_a_file, nothing_is_left};

const CHANGES: [&str; 3] = ["dropped", "created", "altered"];

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
    cassandra_dies(&mut world, &cluster, "in mid-snapshot").await?;
    cassandra_dies(&mut world, &cluster, "in mid-upload").await?;
    fired += 2;

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

/// Killed, and started before the job goes on: it is completed, or it fails and the next backup clears up after it.
async fn cassandra_dies(world: &mut World, cluster: &str, when: &str) -> Result<(), Failure> {
    empty_store(world)?;
    let data = world.node.data_directories().remove(0);
    let in_mid_snapshot = when == "in mid-snapshot";
    let agent = (!in_mid_snapshot).then(|| tokio::spawn(stopped(world, Moment::Upload)));
    let mut client = world.server.client()?;
    let request = cassy_api::proto::BackupRequest {
        cluster_id: cluster.to_owned(),
        backup_type: 2,
        ..Default::default()
    };
    let begun = tokio::spawn(async move { client.take_backup(request).await });
    if let Some(agent) = agent {
        let agent = agent.await.doing(|| "wait for the agent")??;
        world.node.kill();
        world.node.start().await?;
        agent.go_on();
    } else {
        // Without a pause: the whole snapshot takes some hundred milliseconds.
        let seen = tokio::task::spawn_blocking(move || snapshot_appears(&data));
        seen.await.doing(|| "look for the snapshot")??;
        world.node.kill();
    }
    world.node.start().await?;
    let begun = begun.await.doing(|| "wait for the answer")?;
    let id = begun.doing(|| "TakeBackup")?.into_inner().snapshot_id;
    let (status, message) = world.backup_outcome(&id).await?;
    println!("Cassandra is killed and started {when}: {}: {message}", status.as_str_name());
    one_final_state(world, &id).await?;
    world.back_up(cluster).await.doing(|| format!("the backup after a death {when}"))?;
    nothing_is_left(world).await
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
