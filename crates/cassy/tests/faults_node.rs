//! Faults on the node: file systems that are full, read-only or broken, no more file descriptors, files that vanish,
//! change or are no files, a disk that hangs; on a real Cassandra tables that come and go, and a Cassandra that dies.
//! After each: one final state, a retry that succeeds, a restore that is equal, nothing left.

#[path = "faults/real.rs"]
mod real;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::faults::{Agent, Ended, Injection, Instant, Scene, all_or_left_out, can_mount, can_trace};
use cassy_testkit::{Doing, Failure, Order};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// Of the file systems that tests fill.
const STORE_BYTES: u64 = 96 << 20;
const DATA_BYTES: u64 = 128 << 20;

fn failed(ended: &Ended, words: &[&str]) {
    assert!(!ended.completed, "{ended:?}");
    says(ended, words);
}

fn says(ended: &Ended, words: &[&str]) {
    let missing: Vec<_> = words.iter().filter(|word| !ended.message.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} is not in {:?}", ended.message);
}

#[tokio::test]
async fn a_store_that_is_full_or_read_only_fails_the_backup_and_the_next_one_clears_up() -> Result<(), Failure>
{
    if !can_mount("a store that is full or read-only") {
        return Ok(());
    }
    let mut scene = Scene::mounted("store", STORE_BYTES).await?;
    let store = scene.world.store().display().to_string();

    let ended = scene.broken_backup(async |_| scene.mounts[0].fill()).await?;
    scene.mounts[0].make_room()?;
    failed(&ended, &["the store is full", "hint: Free space in the store"]);
    scene.backup_recovers("the store is full in mid-upload", &ended).await?;

    // The agent would keep a file open for writing, which no remount survives: so it is done before it sends.
    scene.world.node.order("takeSnapshot", &Order::Hang)?;
    let begun = std::time::Instant::now();
    let (id, became) = tokio::join!(scene.world.begin_backup(&scene.cluster), async {
        scene.world.node.hangs_in("takeSnapshot").await?;
        scene.mounts[0].make_read_only()?;
        scene.world.node.lift("takeSnapshot")
    });
    became?;
    let id = id?;
    let ended = scene.backup_ended(id, begun).await?;
    failed(&ended, &["access to the store is denied", "mounted read-only"]);

    let refused = scene.world.begin_backup(&scene.cluster).await.expect_err("the store is read-only");
    assert!(refused.to_string().contains("mounted read-only"), "{refused}");
    scene.happened("the store is read-only at the request", &refused.to_string());
    scene.mounts[0].make_writable()?;
    scene.backup_recovers("the store becomes read-only before the upload", &ended).await?;
    assert!(Path::new(&store).is_dir());
    scene.all_faults_fired(3);
    Ok(())
}

#[tokio::test]
async fn a_data_directory_that_is_full_or_read_only_is_named_and_left_as_it_was() -> Result<(), Failure> {
    if !can_mount("a data directory that is full or read-only") {
        return Ok(());
    }
    let mut scene = Scene::mounted("node/data", DATA_BYTES).await?;
    let data = scene.data().display().to_string();

    let ended = scene.broken_backup(async |_| scene.mounts[0].make_read_only()).await?;
    scene.mounts[0].make_writable()?;
    assert!(ended.completed, "nothing has to be written there: {ended:?}");
    says(&ended, &["left for a later backup", &data]);
    scene.backup_recovers("the data directory becomes read-only in mid-upload", &ended).await?;

    let backup = scene.world.back_up(&scene.cluster).await?;
    let full = async |scene: &Scene, _: &Agent| scene.mounts[0].fill();
    let ended = scene.broken_restore(&backup, Instant::Staging, full).await?;
    failed(&ended, &[&data, "No space left on device", "hint: Free space"]);
    assert_eq!(entries(&scene.data()), Vec::<String>::new(), "the data directory is as it was");
    scene.mounts[0].make_room()?;
    scene.restore_recovers("the data directory is full in mid-staging", &ended).await?;

    scene.empty_node().await?;
    scene.mounts[0].make_read_only()?;
    let refused = scene.world.restore(&scene.cluster, &backup).await.expect_err("nothing can be written");
    scene.mounts[0].make_writable()?;
    assert!(refused.to_string().contains(&data) && refused.to_string().contains("read-only"), "{refused}");
    assert_eq!(entries(&scene.data()), Vec::<String>::new(), "the data directory is as it was");
    scene.happened("the data directory is read-only at a restore", &refused.to_string());
    scene.world.restore(&scene.cluster, &backup).await?;
    scene.all_faults_fired(3);
    Ok(())
}

fn entries(directory: &Path) -> Vec<String> {
    let inside = fs::read_dir(directory).expect("it can be listed").flatten();
    inside.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// `(what, the calls that fail)`
const IN_A_BACKUP: [(&str, &str); 3] = [
    ("an I/O error of the node's disk in mid-upload", "pread64,preadv,preadv2"),
    ("an I/O error of the store while an object is written", "writev"),
    ("an I/O error of the store while an object is made durable", "fsync"),
];
const IN_A_RESTORE: [(&str, Instant, &str); 3] = [
    ("an I/O error while files are staged", Instant::Staging, "openat"),
    ("an I/O error while a directory is made for a file", Instant::Placing, "mkdirat"),
    ("an I/O error while files are placed", Instant::Placing, "renameat2"),
];

/// Each thread of the agent has its own count of calls, so one fault a thread is what "once" means here.
const ONCE: &str = "error=EIO:when=1";
const ALWAYS: &str = "error=EIO";
/// What a call answers that strace was taken away from in its middle (ENOSYS): no disk says so, and it is done again.
const TORN: &str = "(os error 38)";

async fn fails_once(scene: &Scene, agent: &Agent, calls: &str) -> Result<(), Failure> {
    let injection = Injection::into(agent.pid(), scene.world.path(), calls, ONCE, &[]).await?;
    agent.go_on();
    injection.fired(1).await?;
    injection.lift().await
}

#[tokio::test]
async fn an_i_o_error_that_passes_is_tried_again() -> Result<(), Failure> {
    if !can_trace("I/O errors that pass") {
        return Ok(());
    }
    let mut scene = Scene::start().await?;
    for (fault, calls) in IN_A_BACKUP {
        let ended = loop {
            let fails = async |agent: &Agent| fails_once(&scene, agent, calls).await;
            let ended = scene.broken_backup(fails).await?;
            if !ended.message.contains(TORN) {
                break ended;
            }
        };
        assert!(ended.completed, "{fault}: {ended:?}");
        scene.backup_recovers(fault, &ended).await?;
    }
    let backup = scene.world.back_up(&scene.cluster).await?;
    for (fault, instant, calls) in IN_A_RESTORE {
        let ended = loop {
            let fails = async |scene: &Scene, agent: &Agent| fails_once(scene, agent, calls).await;
            let ended = scene.broken_restore(&backup, instant, fails).await?;
            if !ended.message.contains(TORN) {
                break ended;
            }
        };
        assert!(ended.completed, "{fault}: {ended:?}");
        scene.restore_recovers(fault, &ended).await?;
    }
    scene.all_faults_fired(IN_A_BACKUP.len() + IN_A_RESTORE.len());
    Ok(())
}

#[tokio::test]
async fn an_i_o_error_that_stays_fails_the_job_until_the_disk_is_replaced() -> Result<(), Failure> {
    if !all_or_left_out("I/O errors that stay") || !can_trace("I/O errors that stay") {
        return Ok(());
    }
    let mut scene = Scene::start().await?;
    let path = scene.world.path().to_owned();
    for (fault, calls) in IN_A_BACKUP {
        let mut broken = None;
        let ended = scene
            .broken_backup(async |agent| {
                broken = Some(Injection::into(agent.pid(), &path, calls, ALWAYS, &[]).await?);
                Ok(())
            })
            .await?;
        let count = broken.as_ref().map_or(0, Injection::count);
        assert!(count >= 4, "{fault}: {count} calls failed, and an upload is tried four times");
        drop(broken);
        failed(&ended, &["I/O error"]);
        scene.backup_recovers(fault, &ended).await?;
    }
    let backup = scene.world.back_up(&scene.cluster).await?;
    for (fault, instant, calls) in IN_A_RESTORE {
        let mut broken = None;
        let ended = scene
            .broken_restore(&backup, instant, async |_, agent| {
                broken = Some(Injection::into(agent.pid(), &path, calls, ALWAYS, &[]).await?);
                Ok(())
            })
            .await?;
        let count = broken.as_ref().map_or(0, Injection::count);
        assert!(count >= 4, "{fault}: {count} calls failed, and a restore is tried four times");
        drop(broken);
        failed(&ended, &["I/O error"]);
        scene.restore_recovers(fault, &ended).await?;
    }
    scene.all_faults_fired(IN_A_BACKUP.len() + IN_A_RESTORE.len());
    Ok(())
}

#[tokio::test]
async fn an_agent_without_file_descriptors_goes_on_when_there_are_some() -> Result<(), Failure> {
    let mut scene = Scene::start().await?;
    // Of musl and glibc alike.
    let said = "(os error 24)";
    let ended = scene
        .broken_backup(async |agent| {
            agent.limit_open_files(Some(0))?;
            agent.go_on();
            scene.world.server.logged(said).await?;
            agent.limit_open_files(None)
        })
        .await?;
    assert!(ended.completed, "{ended:?}");
    scene.backup_recovers("no file descriptors in mid-upload", &ended).await?;

    let backup = scene.world.back_up(&scene.cluster).await?;
    let before = scene.world.server.log().matches(said).count();
    let ended = scene
        .broken_restore(&backup, Instant::Staging, async |scene, agent| {
            agent.limit_open_files(Some(0))?;
            agent.go_on();
            more_often(scene, said, before).await?;
            agent.limit_open_files(None)
        })
        .await?;
    assert!(ended.completed, "{ended:?}");
    scene.restore_recovers("no file descriptors in mid-staging", &ended).await?;

    let mut expected = 2;
    if all_or_left_out("file descriptors that stay used up") {
        let ended = scene.broken_backup(async |agent| agent.limit_open_files(Some(0))).await?;
        failed(&ended, &[said, "ulimit -n"]);
        scene.backup_recovers("no file descriptors until the end", &ended).await?;
        expected += 1;
    }
    scene.all_faults_fired(expected);
    Ok(())
}

async fn more_often(scene: &Scene, said: &str, before: usize) -> Result<(), Failure> {
    cassy_testkit::wait_for(format!("the server logs {said:?} again"), Duration::from_secs(60), async || {
        match scene.world.server.log().matches(said).count() {
            count if count > before => cassy_testkit::Probe::Ready(()),
            count => cassy_testkit::Probe::NotYet(format!("{count} times")),
        }
    })
    .await
}

type Change = fn(&Scene, &Path) -> std::io::Result<()>;

/// What happens to the files of a snapshot that is being sent, and what is said of it.
const IN_THE_SNAPSHOT: [(&str, Change, &[&str]); 4] = [
    ("files vanish from the snapshot", remove_all, &["many.files"]),
    ("files of the snapshot are replaced", replace_by_others, &["many.files", "checksum"]),
    (
        "symbolic links take the place of the snapshot's files",
        link_all,
        &["a symbolic link", "hint: Remove it"],
    ),
    ("FIFOs take the place of the snapshot's files", fifo_all, &["a FIFO", "hint: Remove it"]),
];

#[tokio::test]
async fn files_of_a_snapshot_that_vanish_or_change_fail_the_backup_by_name() -> Result<(), Failure> {
    let mut scene = Scene::start().await?;
    fs::write(scene.world.path().join("precious"), "x").doing(|| "make a file that must stay")?;
    for (fault, change, words) in IN_THE_SNAPSHOT {
        let ended = scene
            .broken_backup(async |_| {
                change(&scene, &scene.snapshot()).doing(|| format!("change files: {fault}"))
            })
            .await?;
        failed(&ended, words);
        scene.backup_recovers(fault, &ended).await?;
    }
    assert!(scene.world.path().join("precious").is_file(), "no link was followed");

    let ended = scene.broken_backup(async |_| clear_snapshots(&scene).doing(|| "clear the snapshot")).await?;
    failed(&ended, &["somebody cleared it", "clearsnapshot"]);
    scene.backup_recovers("the snapshot is cleared by somebody else", &ended).await?;

    let ended = scene.broken_backup(async |_| grow_all(&scene.snapshot(), 1).doing(|| "grow")).await?;
    grow_all(&scene.table("many", "files0"), -1).doing(|| "take it back")?;
    failed(&ended, &["many"]);
    scene.backup_recovers("files grow, in the snapshot and live as one", &ended).await?;

    let mut expected = IN_THE_SNAPSHOT.len() + 2;
    if rustix::process::geteuid().is_root() {
        let ended = scene
            .broken_backup(async |_| device_all(&scene.snapshot()).doing(|| "put devices there"))
            .await?;
        failed(&ended, &["a device", "hint: Remove it"]);
        scene.backup_recovers("devices take the place of the snapshot's files", &ended).await?;
        expected += 1;
    } else {
        println!("left out: devices among the files: only root makes them");
    }
    scene.all_faults_fired(expected);
    Ok(())
}

#[tokio::test]
async fn what_becomes_of_live_files_does_not_matter_once_the_snapshot_is_taken() -> Result<(), Failure> {
    let mut scene = Scene::start().await?;
    let live = scene.table("many", "files0");
    let kept = scene.world.path().join("kept");

    let ended =
        scene.broken_backup(async |_| remove_sstables(&live, 100).doing(|| "remove live SSTables")).await?;
    assert!(ended.completed, "{ended:?}");
    scene.backup_recovers("live SSTables vanish in mid-upload", &ended).await?;

    let ended = scene.broken_backup(async |_| copy_over(&live, &kept).doing(|| "replace live files")).await?;
    assert!(ended.completed, "{ended:?}");
    scene.backup_recovers("live files are replaced by equal ones in mid-upload", &ended).await?;
    scene.all_faults_fired(2);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_hangs_for_a_minute_does_no_work_twice() -> Result<(), Failure> {
    if !all_or_left_out("an agent that hangs for a minute") {
        return Ok(());
    }
    let mut scene = Scene::start().await?;
    let agents = scene.world.path().join("agent");
    let alone = async |agent: &Agent| {
        a_minute_passes().await?;
        let at_work = Agent::running_from(&agents);
        let others: Vec<_> = at_work.iter().filter(|other| other.pid() != agent.pid()).collect();
        assert!(agent.is_alive() && others.is_empty(), "one agent at most: {others:?}");
        Ok(())
    };
    let ended = scene.broken_backup(alone).await?;
    scene.backup_recovers("the agent hangs for a minute in mid-upload", &ended).await?;

    let backup = scene.world.back_up(&scene.cluster).await?;
    for (fault, instant) in [
        ("the agent hangs for a minute in mid-staging", Instant::Staging),
        ("the agent hangs for a minute in mid-placing", Instant::Placing),
    ] {
        let ended = scene.broken_restore(&backup, instant, async |_, agent| alone(agent).await).await?;
        scene.restore_recovers(fault, &ended).await?;
    }
    scene.all_faults_fired(3);
    Ok(())
}

/// The fault is the time itself: nothing else is waited for.
async fn a_minute_passes() -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_secs(60)).await;
    Ok(())
}

fn data_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.display().to_string().ends_with("-Data.db") {
            files.push(path);
        }
    }
    assert!(files.len() > 100, "{} has files", directory.display());
    Ok(files)
}

/// Puts something else in the place of each Data.db, as a rename does it.
fn put_in_place(directory: &Path, make: impl Fn(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    data_files(directory)?.into_iter().try_for_each(|path| {
        let beside = path.with_extension("beside");
        make(&beside)?;
        fs::rename(beside, path)
    })
}

fn remove_all(_: &Scene, snapshot: &Path) -> std::io::Result<()> {
    data_files(snapshot)?.into_iter().try_for_each(fs::remove_file)
}

fn replace_by_others(_: &Scene, snapshot: &Path) -> std::io::Result<()> {
    put_in_place(snapshot, |path| fs::write(path, vec![7; 20_000]))
}

fn link_all(scene: &Scene, snapshot: &Path) -> std::io::Result<()> {
    let target = scene.world.path().join("precious");
    put_in_place(snapshot, |path| std::os::unix::fs::symlink(&target, path))
}

fn fifo_all(_: &Scene, snapshot: &Path) -> std::io::Result<()> {
    let mode = Mode::from_raw_mode(0o600);
    put_in_place(snapshot, |path| mknodat(CWD, path, FileType::Fifo, mode, 0).map_err(Into::into))
}

/// The null device.
fn device_all(snapshot: &Path) -> std::io::Result<()> {
    let (mode, null) = (Mode::from_raw_mode(0o600), makedev(1, 3));
    put_in_place(snapshot, |path| {
        mknodat(CWD, path, FileType::CharacterDevice, mode, null).map_err(Into::into)
    })
}

fn grow_all(directory: &Path, by: i64) -> std::io::Result<()> {
    data_files(directory)?.into_iter().try_for_each(|path| {
        let file = fs::File::options().write(true).open(path)?;
        let size = file.metadata()?.len().saturating_add_signed(by);
        file.set_len(size)
    })
}

/// As `nodetool clearsnapshot --all` does it.
fn clear_snapshots(scene: &Scene) -> std::io::Result<()> {
    let keyspaces = fs::read_dir(scene.data())?.flatten();
    for keyspace in keyspaces {
        for table in fs::read_dir(keyspace.path())?.flatten() {
            let snapshots = table.path().join("snapshots");
            if snapshots.is_dir() {
                fs::remove_dir_all(snapshots)?;
            }
        }
    }
    Ok(())
}

/// As a compaction does it, with SSTables up to this number.
fn remove_sstables(live: &Path, last: usize) -> std::io::Result<()> {
    for number in 1..=last {
        for component in ["Data.db", "Digest.crc32", "TOC.txt"] {
            fs::remove_file(live.join(format!("nb-{number}-big-{component}")))?;
        }
    }
    Ok(())
}

/// Files with the same bytes that are other files.
fn copy_over(live: &Path, beside: &Path) -> std::io::Result<()> {
    data_files(live)?.into_iter().try_for_each(|path| {
        fs::copy(&path, beside)?;
        fs::rename(beside, &path)
    })
}
