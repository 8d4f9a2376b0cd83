//! The story: rows, a backup, a disaster, a restore, the same rows.

use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{CassandraVersion, CassyServer, Failure, Lifetime, Runtime, World, oracle};

use crate::steps::Steps;
use crate::{kept, place};

/// Tells it. What it starts ends with this future, unless all went well and it is to be kept.
pub(crate) async fn tell(keep: bool) -> Result<(), Failure> {
    let version = CassandraVersion::default();
    let release = version.release();
    println!("Cassy quickstart: a real Cassandra {release} is backed up, destroyed, and brought back.\n");
    let mut steps = Steps::begin();
    CassyServer::binary()?;
    let name = format!("Find Java and Cassandra {release} (fetched by the first run only)");
    let runtime = steps.step(&name, async { Ok((Runtime::prepare(version).await?, String::new())) }).await?;

    let (directory, _lock) = place::make()?;
    let lifetime = if keep { Lifetime::Detachable } else { Lifetime::Owned };
    let builder = World::builder_in(&runtime, directory)?
        .lifetime(lifetime)
        .node(|node| node.cluster_name("Quickstart"));
    let mut world = steps.step("Start Cassandra, an sshd and the Cassy server", start(builder)).await?;
    let ended = happen(&mut steps, &mut world).await;
    let (cluster_id, snapshot_id) = ended.map_err(|failure| with_log(&world, &failure))?;
    steps.end();
    if keep { kept::keep(world, &cluster_id, &snapshot_id) } else { Ok(()) }
}

async fn start(builder: cassy_testkit::WorldBuilder) -> Result<(World, String), Failure> {
    let world = builder.start().await?;
    kept::record(&world)?;
    let found = format!("all on 127.0.0.1, in {}", world.path().display());
    Ok((world, found))
}

/// Everything that happens to the node. Answers the ids of the cluster and the backup.
async fn happen(steps: &mut Steps, world: &mut World) -> Result<(String, String), Failure> {
    let before =
        steps.step("Write rows: overwrites, deletes, TTLs, indexes, counters, some unflushed", write(world));
    let before = before.await?;
    let cluster = steps.step("Register the cluster, through gRPC", register(world)).await?;
    let snapshot = steps.step("Take a backup of the node, through gRPC", back_up(world, &cluster)).await?;
    steps.step("Kill Cassandra; delete its data, commit log and hints, `system` too", destroy(world)).await?;
    steps.step("Start Cassandra on the empty node: the tables are gone", look_at_nothing(world)).await?;
    steps.step("Stop it, empty the node again", empty(world)).await?;
    steps.step("Restore the backup, through gRPC", restore(world, &cluster, &snapshot)).await?;
    steps.step("Start Cassandra on what was restored", come_back(world)).await?;
    steps.step("Compare every row with what was there before", compare(world, &before)).await?;
    Ok((cluster, snapshot))
}

async fn write(world: &World) -> Result<(Fingerprints, String), Failure> {
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let before = dataset::fingerprints(&cql).await?;
    if let Some((table, _)) = before.iter().find(|(_, rows)| rows.is_empty()) {
        return Err(Failure::new(format!("{table} holds no rows, so comparing it would show nothing")));
    }
    let found = format!("{} rows in {} tables", count(&before), before.len());
    Ok((before, found))
}

async fn register(world: &World) -> Result<(String, String), Failure> {
    let id = world.register().await?;
    Ok((id.clone(), format!("cluster_id {id}")))
}

async fn back_up(world: &World, cluster: &str) -> Result<(String, String), Failure> {
    let id = world.back_up(cluster).await?;
    let objects = oracle::everything(&[world.store()])?;
    let bytes: u64 = objects.iter().filter_map(|path| path.metadata().ok()).map(|about| about.len()).sum();
    Ok((
        id.clone(),
        format!("snapshot_id {id}: {} objects, {} KiB in the store", objects.len(), bytes / 1024),
    ))
}

async fn destroy(world: &mut World) -> Result<((), String), Failure> {
    world.node.kill();
    world.node.wipe()?;
    nothing_is_left(world)?;
    Ok(((), "not one file is left".to_owned()))
}

async fn look_at_nothing(world: &mut World) -> Result<((), String), Failure> {
    world.node.start().await?;
    let cql = world.cql().await?;
    let left = dataset::existing_keyspaces(&cql).await?;
    if left.is_empty() {
        return Ok(((), String::new()));
    }
    Err(Failure::new(format!("these keyspaces are still there: {}", left.join(", "))))
}

async fn empty(world: &mut World) -> Result<((), String), Failure> {
    world.node.stop().await?;
    world.node.wipe()?;
    nothing_is_left(world)?;
    Ok(((), String::new()))
}

async fn restore(world: &World, cluster: &str, snapshot: &str) -> Result<((), String), Failure> {
    world.restore(cluster, snapshot).await?;
    let files = oracle::placed(&world.node.data_directories())?.len();
    Ok(((), format!("{files} files were verified and placed")))
}

async fn come_back(world: &mut World) -> Result<((), String), Failure> {
    world.node.start().await?;
    kept::record(world)?;
    Ok(((), String::new()))
}

async fn compare(world: &World, before: &Fingerprints) -> Result<((), String), Failure> {
    let cql = world.cql().await?;
    dataset::check_indexes(&cql).await?;
    let after = dataset::fingerprints(&cql).await?;
    let differences = dataset::differences(before, &after);
    if !differences.is_empty() {
        return Err(Failure::new(format!("what came back differs:\n{}", differences.join("\n"))));
    }
    Ok((
        (),
        format!(
            "all {} rows are equal, each cell's WRITETIME and TTL included; the indexes answer",
            count(&after)
        ),
    ))
}

fn nothing_is_left(world: &World) -> Result<(), Failure> {
    let left = oracle::everything(&world.node.own_directories())?;
    match left.first() {
        None => Ok(()),
        Some(path) => {
            Err(Failure::new(format!("{} files are left, {} among them", left.len(), path.display())))
        }
    }
}

fn count(tables: &Fingerprints) -> usize {
    tables.values().map(Vec::len).sum()
}

/// The directory goes with the story, so what the server said last is part of the failure.
fn with_log(world: &World, failure: &Failure) -> Failure {
    Failure::new(format!("{failure}\n\nThe server's log ends with\n{}", world.server.process().log_tail()))
}
