//! Agents that run as another user than the one who logs in: what that user may not read refuses a backup before
//! anything is touched; what he may read is backed up as himself.

#![allow(clippy::print_stdout, reason = "says what was left out")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cassy_testkit::{Doing, Failure, RecordedNode, Recording, World, oracle};

/// Nobody's, here and elsewhere.
const USER: u32 = 64124;

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, PermissionsExt::from_mode(mode))
        .doing(|| format!("set a mode of {}", path.display()))
}

fn give_to_user(path: &Path) -> Result<(), Failure> {
    let status = Command::new("chown").args(["-R", &USER.to_string()]).arg(path).status();
    assert!(status.doing(|| "run chown")?.success());
    Ok(())
}

/// A world with one backup by root, in places that any user can get to, whose server then puts a prefix before agents.
async fn world(prefix: &str) -> Result<Option<(World<RecordedNode>, String)>, Failure> {
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root can run something as another user");
        return Ok(None);
    }
    let builder = World::recorded(&Recording::with_many_files(1, 20, 20_000)?)?;
    set_mode(builder.path(), 0o711)?;
    let mut world = builder.start().await?;
    let cluster = world.register().await?;
    world.back_up(&cluster).await?;
    world.sshd.sessions_ended().await?;
    world.server.settings_mut().set("ssh_command_prefix", prefix);
    world.server.start_again().await?;
    Ok(Some((world, cluster)))
}

fn as_user() -> String {
    format!("setpriv --reuid={USER} \"--regid={USER}\" '--clear-groups'")
}

async fn refusal(world: &World<RecordedNode>, cluster: &str) -> String {
    world.begin_backup(cluster).await.expect_err("the backup is refused").to_string()
}

#[tokio::test]
async fn what_the_agents_user_cannot_read_refuses_a_backup_before_anything_is_touched() -> Result<(), Failure>
{
    let Some((world, cluster)) = world(&as_user()).await? else { return Ok(()) };
    let directory = world.node.data_directories().remove(0);
    let table = directory.join("many").join(
        fs::read_dir(directory.join("many"))
            .doing(|| "list the tables")?
            .flatten()
            .next()
            .expect("one")
            .file_name(),
    );
    let file = fs::read_dir(&table).doing(|| "list the table")?.flatten().map(|entry| entry.path());
    let before = (
        oracle::everything(std::slice::from_ref(&directory))?,
        world.node.log().matches("takeSnapshot").count(),
    );
    for place in [directory.clone(), directory.join("many"), table.clone()] {
        set_mode(&place, 0o700)?;
        let text = refusal(&world, &cluster).await;
        for part in [
            &format!("user {USER} must not read data directory {}", directory.display()),
            &format!("({})", place.display()),
            "sudo -n -u root",
            "ssh_command_prefix",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        set_mode(&place, 0o755)?;
    }
    let files: Vec<_> = file.filter(|path| path.is_file()).collect();
    files.iter().try_for_each(|path| set_mode(path, 0o600))?;
    let text = refusal(&world, &cluster).await;
    assert!(text.contains("must not read data directory") && text.contains("-big-"), "{text}");
    let after = (oracle::everything(&[directory])?, world.node.log().matches("takeSnapshot").count());
    assert_eq!(before, after);
    Ok(())
}

#[tokio::test]
async fn what_the_agents_user_may_read_is_backed_up_as_that_user() -> Result<(), Failure> {
    let Some((world, cluster)) = world(&as_user()).await? else { return Ok(()) };
    for directory in world.node.data_directories().iter().chain([&world.store()]) {
        give_to_user(directory)?;
    }
    world.back_up(&cluster).await?;
    let manifests: Vec<_> = oracle::everything(&[world.store()])?
        .into_iter()
        .map(|path| path.to_string_lossy().into_owned())
        .filter(|path| path.contains("/manifest/") && path.ends_with(".jsonl.zst"))
        .collect();
    assert_eq!(manifests.len(), 2, "{manifests:?}");
    for path in manifests {
        assert_eq!(fs::metadata(world.store().join(&path)).doing(|| path)?.uid(), USER);
    }
    Ok(())
}

#[tokio::test]
async fn a_prefix_that_sudo_refuses_is_told_with_the_line_that_is_missing() -> Result<(), Failure> {
    let place = tempfile::tempdir().doing(|| "make a directory")?;
    let sudo = place.path().join("sudo");
    fs::write(&sudo, "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
        .doing(|| "write sudo")?;
    set_mode(&sudo, 0o755)?;
    let Some((world, cluster)) = world(&format!("'{}' -n -u cassandra", sudo.display())).await? else {
        return Ok(());
    };
    let text = refusal(&world, &cluster).await;
    let path = format!("ALL=(cassandra) NOPASSWD: {}/agent/cassy-", world.path().display());
    assert!(text.contains("a password is required") && text.contains(&path), "{text}");
    Ok(())
}
