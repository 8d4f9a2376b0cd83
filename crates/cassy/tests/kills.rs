//! Server, agent, and both killed in mid-upload and in mid-placement, on a real Cassandra: one final state, a retry
//! that succeeds, a restore that is equal, nothing left behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cassy_api::proto::{BackupListingRequest, BackupRequest, OperationStatus};
use cassy_backup_format::ManifestReader;
use cassy_testkit::{Doing, Failure, Probe, Runtime, World, dataset, oracle, wait_for};

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Server,
    Agent,
    Both,
}

impl Victim {
    const ALL: [Self; 3] = [Self::Server, Self::Agent, Self::Both];
}

#[tokio::test]
async fn whoever_dies_the_job_ends_once_and_the_data_comes_back() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.start().await?;
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let rows = dataset::fingerprints(&cql).await?;
    let cluster = world.register().await?;

    for victim in Victim::ALL {
        killed_in_mid_upload(&mut world, &cluster, victim).await?;
    }
    clients_that_hang_up(&world, &cluster).await?;
    let backup = world.back_up(&cluster).await?;
    assert_no_leftovers(&world)?;

    for victim in Victim::ALL {
        world.node.stop().await?;
        world.node.wipe()?;
        killed_in_mid_placement(&mut world, &cluster, &backup, victim).await?;
        world.node.start().await?;
        let found = dataset::fingerprints(&world.cql().await?).await?;
        assert_eq!(dataset::differences(&rows, &found), Vec::<String>::new(), "{victim:?}");
    }
    Ok(())
}

/// The job is taken up by the next server, or by the next agent: it ends COMPLETED, once.
async fn killed_in_mid_upload(world: &mut World, cluster: &str, victim: Victim) -> Result<(), Failure> {
    // An empty store, so that everything is sent and there is something to interrupt.
    remove_backups(&world.store())?;
    let before = objects(&world.store())?;
    let snapshot_id = world.begin_backup(cluster).await?;
    wait_for("objects are sent", Duration::from_secs(60), async || match objects(&world.store()) {
        Ok(now) if now.difference(&before).any(|key| key.contains("/data/")) => Probe::Ready(()),
        Ok(now) => Probe::NotYet(format!("{} objects", now.len())),
        Err(failure) => Probe::NotYet(failure.to_string()),
    })
    .await?;
    kill(world, victim).await?;
    let (status, message) = world.backup_outcome(&snapshot_id).await?;
    assert_eq!(status, OperationStatus::Completed, "{victim:?}: {message}");
    let request = BackupListingRequest { snapshot_id, ..Default::default() };
    let entries =
        world.server.client()?.list_backups(request).await.doing(|| "ListBackups")?.into_inner().entries;
    assert_eq!(entries.len(), 1, "{victim:?}: one row, one final state");
    assert_no_leftovers(world)
}

/// Cassandra refuses to start on what is half placed, and a second call finishes it.
async fn killed_in_mid_placement(
    world: &mut World,
    cluster: &str,
    backup: &str,
    victim: Victim,
) -> Result<(), Failure> {
    let data = world.node.data_directories();
    let caught = Arc::new(AtomicBool::new(false));
    let watcher = watch_for_placing(data[0].clone(), Arc::clone(&caught));
    world.begin_restore(cluster, backup).await?;
    wait_for("files are placed", Duration::from_secs(120), async || match caught.load(Ordering::Acquire) {
        false => Probe::NotYet("no file is placed".to_owned()),
        true => Probe::Ready(()),
    })
    .await?;
    kill_only(world, victim);
    watcher.join().expect("the watcher ends");
    agent_ended(&data[0]).await?;
    if victim == Victim::Agent {
        // The server brings in another agent at once; an operator who starts Cassandra meanwhile is in its way.
        let started = world.node.start().await;
        let (status, message) = world.restore_outcome(backup).await?;
        world.node.kill();
        if status == OperationStatus::Failed {
            assert!(message.contains("Cassandra is running"), "{victim:?}: {message}");
            // Unless everything was in place already and only the answer was lost, Cassandra refused to start.
            assert!(started.is_err() || !sentinel(&data), "{victim:?}: Cassandra started on half a restore");
            if started.is_ok() {
                return Ok(());
            }
            world.restore(cluster, backup).await?;
        }
    } else {
        if sentinel(&data) {
            assert!(
                world.node.start().await.is_err(),
                "{victim:?}: Cassandra must not start on half a restore"
            );
            let log = world.node.log();
            assert!(log.contains("unreadable sstables"), "{victim:?}: {log}");
            world.node.kill();
        }
        // The job goes on by itself, with the next server.
        world.server.start_again().await?;
        let (status, message) = world.restore_outcome(backup).await?;
        assert_eq!(status, OperationStatus::Completed, "{victim:?}: {message}");
    }
    assert!(!data.iter().any(|data| data.join("node-backup").exists()), "{victim:?}: staging is gone");
    Ok(())
}

async fn clients_that_hang_up(world: &World, cluster: &str) -> Result<(), Failure> {
    for millis in [0, 3, 40, 250, 900] {
        let request = BackupRequest { cluster_id: cluster.to_owned(), backup_type: 2, ..Default::default() };
        let mut client = world.server.client()?;
        // The elapsed time is the instant at which the client hangs up.
        let _hung_up = tokio::time::timeout(Duration::from_millis(millis), client.take_backup(request)).await;
        drop(client);
        let listing = BackupListingRequest { cluster_id: cluster.to_owned(), ..Default::default() };
        wait_for("no job is under way", Duration::from_secs(120), async || {
            let mut client = world.server.client().expect("the server runs");
            match client.list_backups(listing.clone()).await {
                Err(status) => Probe::NotYet(status.to_string()),
                Ok(answer) => {
                    let entries = answer.into_inner().entries;
                    let open = entries.iter().any(|e| e.status < OperationStatus::Completed as i32);
                    if open || world.sshd.has_sessions() {
                        Probe::NotYet(format!("{entries:?}"))
                    } else {
                        Probe::Ready(())
                    }
                }
            }
        })
        .await?;
    }
    Ok(())
}

/// Kills, and starts the server again when it was the victim.
async fn kill(world: &mut World, victim: Victim) -> Result<(), Failure> {
    kill_only(world, victim);
    if victim != Victim::Agent {
        world.server.start_again().await?;
    }
    Ok(())
}

fn kill_only(world: &mut World, victim: Victim) {
    if victim != Victim::Agent {
        world.server.kill();
    }
    if victim != Victim::Server {
        world.sshd.cut_sessions();
    }
}

/// Placing takes milliseconds, so a thread looks without pause for the first keyspace that appears, and stops the
/// agent there and then: it is killed, or let go on by the loss of its server, from exactly that point.
fn watch_for_placing(data: PathBuf, caught: Arc<AtomicBool>) -> JoinHandle<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    std::thread::spawn(move || {
        while Instant::now() < deadline {
            let entries = std::fs::read_dir(&data).into_iter().flatten().filter_map(Result::ok);
            if entries.into_iter().any(|entry| entry.file_name() != "node-backup") {
                caught.store(true, Ordering::Release);
                return;
            }
        }
    })
}

/// An agent holds the lock of the first data directory until it ends.
async fn agent_ended(data: &Path) -> Result<(), Failure> {
    wait_for("the agent ends", Duration::from_secs(60), async || {
        match std::fs::File::open(data).map(|directory| directory.try_lock().is_ok()) {
            Ok(true) => Probe::Ready(()),
            outcome => Probe::NotYet(format!("{outcome:?}")),
        }
    })
    .await
}

fn assert_no_leftovers(world: &World) -> Result<(), Failure> {
    let tags = oracle::snapshot_tags(&world.node.data_directories())?;
    assert_eq!(tags, Vec::<String>::new(), "no snapshot is left");
    let odd: Vec<_> = objects(&world.store())?
        .into_iter()
        .filter(|key| key.ends_with(".part") || key.contains("/pin/") || key.contains("/probe/"))
        .collect();
    assert_eq!(odd, Vec::<String>::new(), "no half object, pin or probe is left");
    assert_eq!(unnamed_objects(&world.store())?, Vec::<String>::new(), "no object of a dead session is left");
    Ok(())
}

fn objects(store: &Path) -> Result<BTreeSet<String>, Failure> {
    Ok(oracle::everything(&[store.to_owned()])?.into_iter().map(|path| path.display().to_string()).collect())
}

fn remove_backups(store: &Path) -> Result<(), Failure> {
    let backups = store.join("cassy");
    if backups.exists() {
        std::fs::remove_dir_all(&backups).doing(|| "empty the store")?;
    }
    Ok(())
}

/// The keys of data objects that no node manifest names.
fn unnamed_objects(store: &Path) -> Result<Vec<String>, Failure> {
    let keys = objects(store)?;
    let mut named = BTreeSet::new();
    for manifest in keys.iter().filter(|key| key.contains("/manifest/")) {
        let file = std::fs::File::open(manifest).doing(|| format!("open {manifest}"))?;
        for entry in ManifestReader::open(file).doing(|| format!("read {manifest}"))? {
            let objects = entry.doing(|| format!("read {manifest}"))?.objects;
            named.extend(
                objects.into_iter().map(|object| store.join(object.key.as_str()).display().to_string()),
            );
        }
    }
    assert!(!named.is_empty(), "there is a manifest");
    Ok(keys.into_iter().filter(|key| key.contains("/data/") && !named.contains(key)).collect())
}

fn sentinel(data: &[PathBuf]) -> bool {
    data.iter().any(|directory| directory.join("node-backup/RESTORE_INCOMPLETE/aa-1-big-Data.db").exists())
}
