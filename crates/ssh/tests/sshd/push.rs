//! Finding and putting the agent.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use cassy_ssh::{PushFailure, SshConfig, SshError};
use sha2::{Digest, Sha256};

use crate::server::{Sshd, ssh, sshd, sshd_with, told, whoami};

/// Stands for the executable: starts, does nothing.
const QUIET: &str = "#!/bin/sh\nexit 0\n";

fn in_directory(sshd: &Sshd, directory: &Path) -> SshConfig {
    SshConfig { slave_command_path: Some(directory.to_str().unwrap().into()), ..sshd.config() }
}

fn hash(content: &str) -> String {
    hex::encode(Sha256::digest(content))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn write_executable(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn sent_once_and_found_then() {
    let Some(sshd) = sshd_with("MaxSessions 1").await else { return };
    // More than one window and one pipe; the name needs quoting.
    let content = format!("{QUIET}{}", "# filler\n".repeat(600_000));
    sshd.own_binary(&content);
    let directory = sshd.path("it's $(here) \\ a!b");
    let name = format!("cassy-{}", hash(&content));
    let expected = directory.join(&name).to_str().unwrap().to_owned();
    let ssh = ssh(in_directory(&sshd, &directory));
    assert_eq!(ssh.push("127.0.0.1").await.unwrap(), (expected.clone(), true));
    assert_eq!(ssh.push("127.0.0.1").await.unwrap(), (expected.clone(), false));
    assert_eq!(std::fs::read_to_string(&expected).unwrap(), content);
    assert_eq!(std::fs::metadata(&expected).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(names(&directory), [name]);
}

#[tokio::test]
async fn the_cache_directory_is_the_default() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(QUIET);
    let (path, sent) = ssh(sshd.config()).push("127.0.0.1").await.unwrap();
    let expected = sshd.path(&format!("home/.cache/cassy/cassy-{}", hash(QUIET)));
    assert_eq!((Path::new(&path), sent), (expected.as_path(), true));

    let Some(sshd) = sshd_with("SetEnv HOME=/nonexistent XDG_CACHE_HOME=DIR/xdg").await else { return };
    sshd.own_binary(QUIET);
    let (path, _) = ssh(sshd.config()).push("127.0.0.1").await.unwrap();
    assert!(Path::new(&path).starts_with(sshd.path("xdg/cassy")), "{path}");
}

#[tokio::test]
async fn a_damaged_copy_is_replaced_and_old_ones_go() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(QUIET);
    let directory = sshd.path("bin");
    let ssh = ssh(in_directory(&sshd, &directory));
    let (path, _) = ssh.push("127.0.0.1").await.unwrap();
    std::fs::write(&path, "#!/bin/sh\ntouch \"$0.was-run\"\n").unwrap();
    std::fs::write(directory.join(format!("cassy-{}", "0".repeat(64))), "old").unwrap();
    std::fs::write(directory.join("cassy-notes"), "the operator's").unwrap();
    std::fs::write(directory.join(".cassy-young.part"), "under way").unwrap();
    let stale = std::fs::File::create(directory.join(".cassy-stale.part")).unwrap();
    stale.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 86_400)).unwrap();
    assert_eq!(ssh.push("127.0.0.1").await.unwrap(), (path, true));
    assert_eq!(names(&directory), [".cassy-young.part", &format!("cassy-{}", hash(QUIET)), "cassy-notes"]);
}

#[tokio::test]
async fn only_our_own_file_is_run() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(QUIET);
    let directory = sshd.path("opt");
    std::fs::create_dir(&directory).unwrap();
    write_executable(&directory.join("cassy"), "#!/bin/sh\ntouch \"$0.was-run\"\n");
    let ssh = ssh(in_directory(&sshd, &directory));
    let (path, sent) = ssh.push("127.0.0.1").await.unwrap();
    assert!(sent && path.contains("opt/cassy-"), "{path}");
    assert!(!directory.join("cassy.was-run").exists());

    write_executable(&directory.join("cassy"), QUIET);
    let (path, sent) = ssh.push("127.0.0.1").await.unwrap();
    assert_eq!((Path::new(&path), sent), (directory.join("cassy").as_path(), false));
}

/// What Java Cassy has where `slave_command_path` may still point to.
#[tokio::test]
async fn scripts_of_java_cassy_stay_as_they_are_and_are_never_run() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(QUIET);
    let directory = sshd.path("bin");
    std::fs::create_dir(&directory).unwrap();
    let scripts = ["cassy-backup", "cassy-restore", "cassy-downloader", "cassy-server"];
    for script in scripts {
        write_executable(&directory.join(script), "#!/bin/sh\ntouch \"$0.was-run\"\n");
    }
    let ssh = ssh(in_directory(&sshd, &directory));
    let own = format!("cassy-{}", hash(QUIET));
    for sent in [true, false] {
        assert_eq!(
            ssh.push("127.0.0.1").await.unwrap(),
            (directory.join(&own).to_str().unwrap().to_owned(), sent)
        );
        let mut expected: Vec<_> =
            scripts.iter().map(|script| (*script).to_owned()).chain([own.clone()]).collect();
        expected.sort();
        assert_eq!(names(&directory), expected);
    }
}

#[tokio::test]
async fn directories_that_others_could_use_are_passed_over() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(QUIET);
    let open = sshd.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let (path, _) = ssh(in_directory(&sshd, &open)).push("127.0.0.1").await.unwrap();
    assert!(path.contains("home/.cache/cassy"), "{path}");
    let link = sshd.path("link");
    std::fs::create_dir(sshd.path("target")).unwrap();
    std::os::unix::fs::symlink(sshd.path("target"), &link).unwrap();
    let (path, _) = ssh(in_directory(&sshd, &link)).push("127.0.0.1").await.unwrap();
    assert!(path.contains("home/.cache/cassy"), "{path}");
    assert!(names(&sshd.path("target")).is_empty());
}

#[tokio::test]
async fn a_file_system_without_exec_is_passed_over() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(QUIET);
    let Some(mount) = Mount::new(sshd.path("noexec"), "noexec,size=1m") else { return };
    let (path, _) = ssh(in_directory(&sshd, &mount.0)).push("127.0.0.1").await.unwrap();
    assert!(path.contains("home/.cache/cassy"), "{path}");
    assert!(names(&mount.0).is_empty());
}

#[tokio::test]
async fn a_full_file_system_is_named_and_left_clean() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(&format!("{QUIET}{}", "# filler\n".repeat(600_000)));
    let Some(mount) = Mount::new(sshd.path("small"), "size=1m") else { return };
    let directory = mount.0.join("cassy");
    let error = ssh(in_directory(&sshd, &directory)).push("127.0.0.1").await.unwrap_err();
    assert!(matches!(error, SshError::Push { reason: PushFailure::Full(_), .. }), "{}", told(&error));
    assert!(told(&error).contains("No space left on device"), "{}", told(&error));
    assert!(names(&directory).is_empty(), "{:?}", names(&directory));
}

#[tokio::test]
async fn an_account_whose_profile_talks() {
    let Some(sshd) = sshd().await else { return };
    std::fs::write(sshd.path("home/.bashrc"), "echo Welcome; printf 'no end of line'; echo oops >&2\n")
        .unwrap();
    sshd.own_binary(QUIET);
    let directory = sshd.path("bin");
    assert!(ssh(in_directory(&sshd, &directory)).push("127.0.0.1").await.unwrap().1);
}

#[tokio::test]
async fn an_account_that_runs_no_commands() {
    let Some(sshd) = sshd_with("ForceCommand echo This account is not available; false").await else {
        return;
    };
    sshd.own_binary(QUIET);
    let error = ssh(sshd.config()).push("127.0.0.1").await.unwrap_err();
    assert!(matches!(error, SshError::Shell { .. }), "{}", told(&error));
    assert!(told(&error).contains("This account is not available"), "{}", told(&error));
}

#[tokio::test]
async fn an_executable_that_is_replaced_or_absent() {
    let Some(sshd) = sshd().await else { return };
    let config = in_directory(&sshd, &sshd.path("bin"));
    let error = ssh(config.clone()).push("127.0.0.1").await.unwrap_err();
    assert!(matches!(error, SshError::OwnBinary { .. }), "{}", told(&error));

    sshd.own_binary(QUIET);
    let ssh = ssh(config);
    ssh.push("127.0.0.1").await.unwrap();
    sshd.own_binary("#!/bin/sh\nexit 1\n");
    std::fs::remove_dir_all(sshd.path("bin")).unwrap();
    let error = ssh.push("127.0.0.1").await.unwrap_err();
    assert!(matches!(error, SshError::OwnBinaryChanged { .. }), "{}", told(&error));
}

/// A tmpfs, until it is dropped.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(path: std::path::PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let root = whoami("-u") == "0";
        let mounted = root && {
            let options = format!("mode=0700,{options}");
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(&path)
                .status()
                .is_ok_and(|s| s.success())
        };
        if !mounted {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        Some(Self(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
