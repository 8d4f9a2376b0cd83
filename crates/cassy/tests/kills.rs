//! Server, agent, and both killed at seeded instants of backups and restores of a real Cassandra: one final state, at
//! most one retry, every row back, nothing left behind. The whole matrix, on a recorded node, is in `kill_matrix.rs`.
#![allow(clippy::print_stdout, reason = "the counts are for who reads the output")]

use std::time::Duration;

use cassy_api::proto::{BackupListingRequest, BackupRequest, OperationStatus};
use cassy_control::job::{BackupStage, RestoreStage};
use cassy_testkit::{Aim, Failure, Killer, Probe, Runtime, Seeded, Victim, World, dataset, wait_for};

/// In backups and in restores; with `./test --all` each stage and step under each victim as well, and so many more.
const KILLS: usize = 8;
const SEEDED_OF_ALL: usize = 10;

#[tokio::test]
async fn whoever_dies_the_job_ends_once_and_the_data_comes_back() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut world = World::builder(&runtime)?.start().await?;
    let cql = world.cql().await?;
    dataset::write(&world.node, &cql).await?;
    let rows = dataset::fingerprints(&cql).await?;
    let cluster = world.register().await?;
    clients_that_hang_up(&world, &cluster).await?;

    let mut seeded = Seeded::new()?;
    let mut killer = Killer::new(&mut world, &cluster).await?;
    let [backup, restore] = killer.measure().await?;
    let mut backups = kills(&mut seeded, Aim::Sending);
    let mut restores = kills(&mut seeded, Aim::Placing);
    assert_eq!(backups.len() + restores.len(), KILLS);
    if std::env::var_os("CASSY_TEST_ALL").is_some() {
        for victim in Victim::ALL {
            // No agent is at work any more when the job writes its summary.
            let has_agents = |stage: &BackupStage| victim == Victim::Server || *stage < BackupStage::Commit;
            let stages = BackupStage::ALL.into_iter().filter(has_agents);
            backups.extend(stages.map(|stage| (victim, Some(Aim::Stage(stage.name())))));
            let stages = RestoreStage::ALL.map(|stage| Aim::Stage(stage.name()));
            let steps = stages.into_iter().chain([Aim::Marked, Aim::Staging]);
            restores.extend(steps.map(|aim| (victim, Some(aim))));
        }
        let rounds = backups.len().max(restores.len()) + SEEDED_OF_ALL;
        for kills in [&mut backups, &mut restores] {
            let seeded = Victim::ALL.into_iter().cycle().map(|victim| (victim, None));
            kills.extend(seeded.take(rounds - kills.len()));
        }
    }
    let (wanted, mut done) = (backups.len() + restores.len(), 0);
    for (in_backup, in_restore) in backups.into_iter().zip(restores) {
        let mut instants = seeded.instants(backup);
        let aims = || in_backup.1.unwrap_or_else(|| Aim::After(instants()));
        let struck = killer.backup(in_backup.0, aims).await?;
        println!("{:?}: {struck:?}", in_backup.0);
        let mut instants = seeded.instants(restore);
        let aims = || in_restore.1.unwrap_or_else(|| Aim::After(instants()));
        let struck = killer.restore(&struck.snapshot_id, in_restore.0, aims).await?;
        println!("{:?}: {struck:?}", in_restore.0);
        killer.world.node.start().await?;
        let found = dataset::fingerprints(&killer.world.cql().await?).await?;
        assert_eq!(dataset::differences(&rows, &found), Vec::<String>::new(), "{struck:?}");
        done += 2;
    }
    assert_eq!(done, wanted, "all kills");
    println!("{done} kills");
    Ok(())
}

/// Each victim where most can go wrong, and one at any instant.
fn kills(seeded: &mut Seeded, aim: Aim) -> Vec<(Victim, Option<Aim>)> {
    let mut victims = Victim::ALL;
    seeded.shuffle(&mut victims);
    let mut kills: Vec<_> = victims.iter().map(|victim| (*victim, Some(aim))).collect();
    kills.push((victims[0], None));
    seeded.shuffle(&mut kills);
    kills
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
