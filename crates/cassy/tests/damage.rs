//! What is wrong is refused, named, and leaves nothing behind: on a real Cassandra, its disk, and the store.

#![allow(clippy::print_stdout, reason = "the counts are for who reads the output")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cassy_api::proto::{BackupRequest, ClusterRegistrationRequest, OperationStatus, RestoreRequest};
use cassy_backup_format::ManifestReader;
use cassy_testkit::{Doing, Failure, Runtime, World, dataset, oracle};
use tonic::{Code, Status};

#[tokio::test]
async fn damage_is_refused_by_name() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.start().await?;
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let rows = dataset::fingerprints(&cql).await?;
    let cluster = world.register().await?;

    hosts_that_are_no_cassandra(&world).await?;
    a_table_whose_snapshot_fails(&world, &cluster).await?;
    a_store_that_is_missing(&world, &cluster).await?;
    logins_that_are_refused(&world, &cluster).await?;
    let backup = world.back_up(&cluster).await?;
    a_changed_host_key(&mut world, &cluster).await?;
    a_flipped_bit_on_the_node(&world, &cluster).await?;
    restores_that_must_not_start(&mut world, &cluster, &backup).await?;
    flipped_bits_in_the_store(&world, &cluster, &backup).await?;

    // After all of this the backup is what it was.
    world.restore(&cluster, &backup).await?;
    world.node.start().await?;
    let found = dataset::fingerprints(&world.cql().await?).await?;
    assert_eq!(dataset::differences(&rows, &found), Vec::<String>::new());
    Ok(())
}

async fn hosts_that_are_no_cassandra(world: &World) -> Result<(), Failure> {
    let mut client = world.server.client()?;
    for host in ["127.0.0.77", "no-such-host.invalid"] {
        let request = ClusterRegistrationRequest { cassandra_host: host.to_owned() };
        let refused = client.register_cluster(request).await.expect_err("nothing is there");
        assert_eq!(refused.code(), Code::Unavailable, "{host}: {refused}");
        assert!(refused.message().contains(host), "{refused}");
    }
    Ok(())
}

/// A file where Cassandra wants to make the table's `snapshots` directory.
async fn a_table_whose_snapshot_fails(world: &World, cluster: &str) -> Result<(), Failure> {
    let table = table_directory(world, "shop", "plain")?;
    let snapshots = table.join("snapshots");
    assert!(!snapshots.exists(), "no snapshot was taken before");
    fs::write(&snapshots, "in the way").doing(|| "put a file in the way")?;
    let id = world.begin_backup(cluster).await?;
    let (status, message) = world.backup_outcome(&id).await?;
    fs::remove_file(&snapshots).doing(|| "take the file away")?;
    assert_eq!(status, OperationStatus::Failed);
    assert!(message.contains("shop.plain"), "{message}");
    assert_nothing_of_ours_is_left(world)
}

async fn a_store_that_is_missing(world: &World, cluster: &str) -> Result<(), Failure> {
    let away = world.path().join("store-away");
    fs::rename(world.store(), &away).doing(|| "take the store away")?;
    let refused = take_backup(world, cluster).await;
    fs::rename(&away, world.store()).doing(|| "bring the store back")?;
    let refused = refused.expect_err("the store is missing");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains(&world.store().display().to_string()), "{refused}");
    assert_nothing_of_ours_is_left(world)
}

async fn logins_that_are_refused(world: &World, cluster: &str) -> Result<(), Failure> {
    world.sshd.refuse_logins()?;
    let refused = take_backup(world, cluster).await.expect_err("SSH refuses");
    world.sshd.allow_logins()?;
    assert!(matches!(refused.code(), Code::FailedPrecondition | Code::Unavailable), "{refused}");
    assert!(refused.message().contains(world.sshd.user()), "{refused}");
    assert_nothing_of_ours_is_left(world)
}

async fn a_changed_host_key(world: &mut World, cluster: &str) -> Result<(), Failure> {
    world.sshd.replace_host_key().await?;
    let refused = take_backup(world, cluster).await.expect_err("the host key has changed");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("host key"), "{refused}");
    world.sshd.write_known_hosts()
}

/// The live file is the snapshot's own: both are links to one inode.
async fn a_flipped_bit_on_the_node(world: &World, cluster: &str) -> Result<(), Failure> {
    let data = first_file(&table_directory(world, "shop", "orders")?, "-Data.db");
    flip_bit(&data);
    let id = world.begin_backup(cluster).await?;
    let (status, message) = world.backup_outcome(&id).await?;
    flip_bit(&data);
    assert_eq!(status, OperationStatus::Failed, "{message}");
    let sstable = data.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let sstable = sstable.trim_end_matches("-Data.db");
    assert!(message.contains("shop.orders") && message.contains(sstable), "{message}");
    assert_nothing_of_ours_is_left(world)
}

async fn restores_that_must_not_start(world: &mut World, cluster: &str, backup: &str) -> Result<(), Failure> {
    let refused = restore(world, cluster, backup).await.expect_err("Cassandra runs");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("running") || refused.message().contains("runs"), "{refused}");
    let data = world.node.data_directories().remove(0).display().to_string();
    assert!(refused.message().contains(&data), "what else is in the way is named too: {refused}");

    // Where nothing has changed since the backup, everything is in place already.
    world
        .cql()
        .await?
        .execute("INSERT INTO shop.plain (id, value) VALUES (4711, 'after the backup')")
        .await?;
    world.node.flush(&["shop"]).await?;
    world.node.stop().await?;
    let before = oracle::everything(&world.node.own_directories())?;
    let refused = restore(world, cluster, backup).await.expect_err("the directories are not empty");
    let commitlog = world.node.commitlog_directory().display().to_string();
    assert!(refused.message().contains(&data) && refused.message().contains(&commitlog), "{refused}");
    assert_eq!(
        oracle::everything(&world.node.own_directories())?,
        before,
        "a refused restore touches nothing"
    );

    world.node.wipe()?;
    let yaml = fs::read_to_string(world.node.yaml_path()).doing(|| "read cassandra.yaml")?;
    let changed = yaml.replace("num_tokens: ", "num_tokens: 1");
    assert_ne!(yaml, changed);
    fs::write(world.node.yaml_path(), changed).doing(|| "change cassandra.yaml")?;
    let refused = restore(world, cluster, backup).await.expect_err("the configuration differs");
    fs::write(world.node.yaml_path(), yaml).doing(|| "restore cassandra.yaml")?;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("num_tokens"), "{refused}");

    let unknown = restore(world, cluster, "0197a5ac-0000-7000-8000-000000000000").await;
    assert_eq!(unknown.expect_err("no such backup").code(), Code::NotFound);
    Ok(())
}

/// One bit in each kind of object that the backup relies on, and in a sample of the components.
async fn flipped_bits_in_the_store(world: &World, cluster: &str, backup: &str) -> Result<(), Failure> {
    let objects = relied_on(&world.store(), backup)?;
    let sample = (objects.len() / 12).max(1);
    let mut flips = 0;
    for object in objects.iter().step_by(sample).chain(objects.iter().filter(|o| is_manifest(o))) {
        flip_bit(object);
        let refusal = match restore(world, cluster, backup).await {
            Err(refused) => refused.message().to_owned(),
            Ok(()) => {
                let (status, message) = world.restore_outcome(backup).await?;
                assert_eq!(status, OperationStatus::Failed, "a bit was flipped in {}", object.display());
                message
            }
        };
        flip_bit(object);
        assert!(!refusal.is_empty());
        let left = oracle::everything(&world.node.data_directories())?;
        assert!(left.is_empty(), "{}: nothing is placed, nothing is left: {left:?}", object.display());
        flips += 1;
    }
    assert!(flips >= 12, "only {flips} bits were flipped");
    println!("{flips} bits flipped in the store, each refused");
    Ok(())
}

/// The backup's manifests, and of the objects that they name those of one keyspace.
fn relied_on(store: &Path, backup: &str) -> Result<Vec<PathBuf>, Failure> {
    let manifests = oracle::everything(&[store.to_owned()])?.into_iter().filter(|path| is_manifest(path));
    let manifests: Vec<_> = manifests.filter(|path| path.display().to_string().contains(backup)).collect();
    let mut objects = BTreeSet::new();
    for manifest in manifests.iter().filter(|path| path.extension().is_some_and(|ending| ending == "zst")) {
        let file = fs::File::open(manifest).doing(|| "open the node manifest")?;
        for entry in ManifestReader::open(file).doing(|| "read the node manifest")? {
            let named =
                entry.doing(|| "read the node manifest")?.objects.into_iter().map(|object| object.key);
            objects.extend(named.filter(|key| key.as_str().contains("/data/shop/")));
        }
    }
    Ok(objects.iter().map(|key| store.join(key.as_str())).chain(manifests).collect())
}

fn is_manifest(object: &Path) -> bool {
    let name = object.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    (name.ends_with(".jsonl.zst") && !name.contains("corrupt")) || name.ends_with(".json")
}

async fn take_backup(world: &World, cluster: &str) -> Result<(), Status> {
    let request = BackupRequest { cluster_id: cluster.to_owned(), backup_type: 2, ..Default::default() };
    let mut client = world.server.client().expect("the server runs");
    client.take_backup(request).await.map(|_| ())
}

async fn restore(world: &World, cluster: &str, backup: &str) -> Result<(), Status> {
    let request = RestoreRequest {
        cluster_id: cluster.to_owned(),
        snapshot_id: backup.to_owned(),
        restore_type: 2,
        ..Default::default()
    };
    let mut client = world.server.client().expect("the server runs");
    client.restore_backup(request).await.map(|_| ())
}

fn assert_nothing_of_ours_is_left(world: &World) -> Result<(), Failure> {
    let ours: Vec<_> = oracle::snapshot_tags(&world.node.data_directories())?
        .into_iter()
        .filter(|tag| tag.starts_with("cassy-"))
        .collect();
    assert_eq!(ours, Vec::<String>::new());
    Ok(())
}

fn table_directory(world: &World, keyspace: &str, table: &str) -> Result<PathBuf, Failure> {
    let keyspace = world.node.data_directories().remove(0).join(keyspace);
    let entries = fs::read_dir(&keyspace).doing(|| "list the keyspace")?;
    let prefix = format!("{table}-");
    let found = entries.filter_map(Result::ok).find(|e| e.file_name().to_string_lossy().starts_with(&prefix));
    found.map(|entry| entry.path()).ok_or_else(|| Failure::new(format!("no directory of {table}")))
}

fn first_file(directory: &Path, suffix: &str) -> PathBuf {
    let entries = fs::read_dir(directory).expect("the directory is there").filter_map(Result::ok);
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files.into_iter().find(|path| path.display().to_string().ends_with(suffix)).expect("there is such a file")
}

/// Flips a bit in the middle of a file; a second call flips it back.
fn flip_bit(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("the file can be written");
    let middle = file.metadata().expect("the file is there").len() / 2;
    let mut byte = [0_u8];
    file.read_exact_at(&mut byte, middle).expect("the file has bytes");
    file.write_all_at(&[byte[0] ^ 1], middle).expect("the file can be written");
}
