//! Faults between the parts: the way to the node is cut, half open or stalled, the server's host is suspended for
//! longer than every heartbeat, the metadata database is locked, full or read-only. After each: one final state, a
//! retry that succeeds, a restore that is equal, nothing left.

use std::path::Path;
use std::time::Duration;

use crate::faults::{Agent, Injection, Instant, Scene, all_or_left_out, can_mount, can_trace};
use cassy_testkit::{Doing, Failure, Probe, Relay, Way, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, Executor, SqliteConnection};

/// Every job goes on by itself within this time after its fault.
const BOUND: Duration = Duration::from_secs(120);
/// Longer than every heartbeat, and than the server's lease.
const SUSPENDED: Duration = Duration::from_secs(35);
const LOCKED: Duration = Duration::from_secs(40);
const DATABASE_BYTES: u64 = 8 << 20;
/// What the server logs when it takes the node's agent for gone.
const GONE: &str = "the agent is gone";

/// What it logs when it does not drive its jobs any more.
const RAN_OUT: &str = "the lease may have run out";

/// A world whose server reaches the node through a relay.
async fn relayed() -> Result<(Scene, Relay), Failure> {
    let mut scene = Scene::start().await?;
    let relay = Relay::to(scene.world.sshd.port()).await?;
    let known_hosts = scene.world.sshd.known_hosts();
    let line = std::fs::read_to_string(&known_hosts).doing(|| "read the known hosts")?;
    let own = line.replace(&format!(":{} ", scene.world.sshd.port()), &format!(":{} ", relay.port()));
    std::fs::write(&known_hosts, format!("{line}{own}")).doing(|| "make the relay's port known")?;
    scene.world.server.settings_mut().set("ssh_port", relay.port().to_string());
    scene.world.server.start_again().await?;
    Ok((scene, relay))
}

async fn ended(agent: &Agent) -> Result<(), Failure> {
    wait_for("the agent ends", Duration::from_secs(60), async || match agent.is_alive() {
        false => Probe::Ready(()),
        true => Probe::NotYet("it runs".to_owned()),
    })
    .await
}

async fn logged_again(scene: &Scene, text: &str, before: usize) -> Result<(), Failure> {
    wait_for(format!("the server logs {text:?}"), BOUND, async || {
        match scene.world.server.log().matches(text).count() {
            count if count > before => Probe::Ready(()),
            count => Probe::NotYet(format!("{count} times; {}", scene.world.server.process().log_tail())),
        }
    })
    .await
}

/// Breaks the way, and mends it when both sides, or the server's alone, have noticed.
async fn broken(scene: &Scene, relay: &Relay, way: Way, agent: &Agent) -> Result<(), Failure> {
    let before = scene.world.server.log().matches(GONE).count();
    relay.set(way);
    agent.go_on();
    logged_again(scene, GONE, before).await?;
    match way {
        Way::HalfOpen => assert!(agent.is_alive(), "the node's side has not heard of it"),
        _ => ended(agent).await?,
    }
    relay.set(Way::Open);
    Ok(())
}

/// What was half open ends, as a keep-alive of TCP would end it later.
async fn forget(scene: &Scene, relay: &Relay) -> Result<(), Failure> {
    relay.set(Way::Cut);
    scene.world.sshd.sessions_ended().await?;
    relay.set(Way::Open);
    Ok(())
}

async fn ways_that_break(ways: &[(&str, Way)]) -> Result<(), Failure> {
    let (mut scene, relay) = relayed().await?;
    for (name, way) in ways {
        let fault = format!("{name} in mid-upload");
        let ended = scene.broken_backup(async |agent| broken(&scene, &relay, *way, agent).await).await?;
        assert!(ended.completed && ended.took < BOUND, "{fault}: {ended:?}");
        forget(&scene, &relay).await?;
        scene.backup_recovers(&fault, &ended).await?;

        let backup = scene.world.back_up(&scene.cluster).await?;
        for instant in [Instant::Staging, Instant::Placing] {
            let fault = format!("{name} in mid-{instant:?}").to_lowercase();
            let ended = scene
                .broken_restore(&backup, instant, async |scene, agent| {
                    broken(scene, &relay, *way, agent).await
                })
                .await?;
            assert!(ended.completed && ended.took < BOUND, "{fault}: {ended:?}");
            forget(&scene, &relay).await?;
            scene.restore_recovers(&fault, &ended).await?;
        }
    }
    scene.all_faults_fired(3 * ways.len());
    Ok(())
}

#[tokio::test]
async fn a_job_goes_on_when_the_way_to_its_node_was_cut() -> Result<(), Failure> {
    ways_that_break(&[("the way is cut", Way::Cut)]).await
}

#[tokio::test]
async fn a_job_goes_on_when_the_way_to_its_node_was_half_open() -> Result<(), Failure> {
    if !all_or_left_out("a way that is half open") {
        return Ok(());
    }
    ways_that_break(&[("the way is half open", Way::HalfOpen)]).await
}

#[tokio::test]
async fn a_job_goes_on_when_the_way_to_its_node_was_stalled() -> Result<(), Failure> {
    if !all_or_left_out("a way that stalls") {
        return Ok(());
    }
    ways_that_break(&[("the way stalls", Way::Stalled)]).await
}

/// A way that stays cut ends the job: the tries are bounded.
#[tokio::test]
async fn a_way_that_stays_cut_fails_the_job_within_a_bound() -> Result<(), Failure> {
    if !all_or_left_out("a way that stays cut") {
        return Ok(());
    }
    let (mut scene, relay) = relayed().await?;
    let ended = scene
        .broken_backup(async |_| {
            relay.set(Way::Cut);
            Ok(())
        })
        .await?;
    relay.set(Way::Open);
    assert!(!ended.completed && ended.took < 2 * BOUND, "{ended:?}");
    scene.backup_recovers("the way stays cut", &ended).await?;
    scene.all_faults_fired(1);
    Ok(())
}

#[tokio::test]
async fn a_job_goes_on_after_the_servers_host_was_suspended() -> Result<(), Failure> {
    if !all_or_left_out("a server that is suspended for 35 s") {
        return Ok(());
    }
    let mut scene = Scene::start().await?;
    let ended = scene.broken_backup(async |agent| suspended(&scene, agent).await).await?;
    assert!(ended.completed && ended.took < BOUND, "{ended:?}");
    scene.backup_recovers("the server is suspended in mid-upload", &ended).await?;

    let backup = scene.world.back_up(&scene.cluster).await?;
    let suspend = async |scene: &Scene, agent: &Agent| suspended(scene, agent).await;
    let ended = scene.broken_restore(&backup, Instant::Placing, suspend).await?;
    assert!(ended.completed && ended.took < BOUND, "{ended:?}");
    scene.restore_recovers("the server is suspended in mid-placing", &ended).await?;
    scene.all_faults_fired(2);
    Ok(())
}

async fn suspended(scene: &Scene, agent: &Agent) -> Result<(), Failure> {
    let server = i32::try_from(scene.world.server.process().pid()).ok().and_then(Pid::from_raw);
    let server = server.ok_or_else(|| Failure::new("the server has no process id"))?;
    kill_process(server, Signal::STOP).doing(|| "suspend the server")?;
    let begun = tokio::time::Instant::now();
    agent.go_on();
    let agent_ended = ended(agent).await;
    tokio::time::sleep_until(begun + SUSPENDED).await;
    kill_process(server, Signal::CONT).doing(|| "let the server go on")?;
    agent_ended
}

#[tokio::test]
async fn a_job_goes_on_after_the_database_was_locked() -> Result<(), Failure> {
    if !all_or_left_out("a database that is locked for 40 s") {
        return Ok(());
    }
    let mut scene = Scene::start().await?;
    let ended = scene.broken_backup(async |agent| locked(&scene, agent).await).await?;
    assert!(ended.completed && ended.took < BOUND, "{ended:?}");
    scene.backup_recovers("the database is locked in mid-upload", &ended).await?;

    let backup = scene.world.back_up(&scene.cluster).await?;
    let lock = async |scene: &Scene, agent: &Agent| locked(scene, agent).await;
    let ended = scene.broken_restore(&backup, Instant::Placing, lock).await?;
    assert!(ended.completed && ended.took < BOUND, "{ended:?}");
    scene.restore_recovers("the database is locked in mid-placing", &ended).await?;
    scene.all_faults_fired(2);
    Ok(())
}

async fn somebody_else(database: &Path) -> Result<SqliteConnection, Failure> {
    let url = format!("sqlite:{}", database.display());
    SqliteConnection::connect(&url).await.doing(|| "open the database")
}

async fn locked(scene: &Scene, agent: &Agent) -> Result<(), Failure> {
    let before = scene.world.server.log().matches(RAN_OUT).count();
    let mut connection = somebody_else(&scene.world.path().join("server/cassy.db")).await?;
    connection.execute("BEGIN EXCLUSIVE").await.doing(|| "lock the database")?;
    let begun = tokio::time::Instant::now();
    agent.go_on();
    logged_again(scene, RAN_OUT, before).await?;
    tokio::time::sleep_until(begun + LOCKED).await;
    connection.execute("ROLLBACK").await.doing(|| "unlock the database")?;
    connection.close().await.doing(|| "close the database")
}

#[tokio::test]
async fn a_job_goes_on_when_a_full_database_has_room_again() -> Result<(), Failure> {
    if !can_mount("a database that is full") {
        return Ok(());
    }
    let mut scene = Scene::with_database(Some(DATABASE_BYTES)).await?;
    let ended = scene.broken_backup(async |agent| full(&scene, agent).await).await?;
    assert!(ended.completed && ended.took < BOUND, "{ended:?}");
    scene.backup_recovers("the database is full in mid-upload", &ended).await?;
    scene.all_faults_fired(1);
    Ok(())
}

async fn full(scene: &Scene, agent: &Agent) -> Result<(), Failure> {
    let before = scene.world.server.log().matches("database or disk is full").count();
    // What it has written to its log before is written over without any room, unless the log is cut off.
    let log = scene.database().with_extension("db-wal");
    let mut connection = somebody_else(&scene.database()).await?;
    wait_for("the log is cut off", BOUND, async || {
        let cut = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
        match std::fs::metadata(&log).map(|found| found.len()) {
            Ok(0) => Probe::Ready(()),
            other => Probe::NotYet(format!("{other:?} bytes, {cut:?}")),
        }
    })
    .await?;
    scene.mounts[0].fill()?;
    connection.close().await.doing(|| "close the database")?;
    agent.go_on();
    let seen = logged_again(scene, "database or disk is full", before).await;
    scene.mounts[0].make_room()?;
    seen
}

#[tokio::test]
async fn a_job_goes_on_when_a_read_only_database_is_writable_again() -> Result<(), Failure> {
    if !can_trace("a database that becomes read-only") {
        return Ok(());
    }
    let mut scene = Scene::with_database(None).await?;
    let ended = scene.broken_backup(async |agent| read_only(&scene, agent).await).await?;
    assert!(ended.completed && ended.took < BOUND, "{ended:?}");
    scene.backup_recovers("the database becomes read-only in mid-upload", &ended).await?;
    scene.all_faults_fired(1);
    Ok(())
}

/// No file system with a file that is open for writing can be remounted. A broken disk makes it read-only all the
/// same, and then writes are answered like this.
async fn read_only(scene: &Scene, agent: &Agent) -> Result<(), Failure> {
    let database = scene.database();
    let files = [database.clone(), database.with_extension("db-wal"), database.with_extension("db-journal")];
    let server = scene.world.server.process().pid();
    let calls = "write,pwrite64,ftruncate,fallocate";
    let injection = Injection::into(server, scene.world.path(), calls, "error=EROFS", &files).await?;
    agent.go_on();
    injection.fired(1).await?;
    injection.lift().await
}

#[tokio::test]
async fn a_server_does_not_start_on_a_read_only_database_and_takes_its_job_up_later() -> Result<(), Failure> {
    if !can_mount("a database that is read-only at the start") {
        return Ok(());
    }
    let mut scene = Scene::with_database(Some(DATABASE_BYTES)).await?;
    let id = {
        let agent = tokio::spawn(scene.ambush(Instant::Upload));
        let id = scene.world.begin_backup(&scene.cluster).await?;
        let agent = agent.await.doing(|| "wait for the agent")??;
        scene.world.server.kill();
        agent.go_on();
        id
    };
    let begun = std::time::Instant::now();
    scene.mounts[0].make_read_only()?;
    let refused = scene.world.server.start_again().await.expect_err("the database is read-only").to_string();
    let path = scene.database().display().to_string();
    assert!(refused.contains(&path) && refused.contains("ead-only"), "{refused}");
    scene.mounts[0].make_writable()?;
    scene.world.server.start_again().await?;
    let ended = scene.backup_ended(id, begun).await?;
    assert!(ended.completed, "{ended:?}");
    scene.backup_recovers("the database is read-only when the server starts", &ended).await?;
    scene.all_faults_fired(1);
    Ok(())
}
