//! Agents behind a command prefix: another user, sudo that refuses, what does not work at all.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cassy_ssh::{Class, SshConfig, SshError};

use crate::launch::{AGENT, config, hello};
use crate::server::{Sshd, ssh, sshd, told, whoami};

/// Nobody's, here and elsewhere.
const USER: &str = "64123";

fn with_prefix(config: SshConfig, prefix: &[&str]) -> SshConfig {
    SshConfig { command_prefix: prefix.iter().map(|word| (*word).to_owned()).collect(), ..config }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// An agent that says as whom it runs, and writes nothing.
fn telling_agent() -> String {
    let told = AGENT.replace(r#"\"user\":\"u\""#, r#"\"user\":\"$(id -u)\""#);
    told.replace(r#"echo "$$ $PPID" >"${0%/*}/pids.new" && mv "${0%/*}/pids.new" "${0%/*}/pids""#, ":")
}

fn executable(sshd: &Sshd, name: &str, content: &str) -> String {
    let path = sshd.path(name);
    std::fs::write(&path, content).unwrap();
    set_mode(&path, 0o755);
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_agent_runs_as_the_user_that_the_prefix_makes_of_it() {
    let Some(sshd) = sshd().await else { return };
    if whoami("-u") != "0" {
        eprintln!("skipped: only root can run something as another user");
        return;
    }
    sshd.own_binary(&telling_agent());
    let own = ssh(config(&sshd)).agent("127.0.0.1", hello()).await.unwrap();
    assert_eq!(own.hello().user, "0");
    own.close().await;
    let binary = std::fs::read_dir(sshd.path("bin")).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&binary), mode(&sshd.path("bin"))), (0o700, 0o700));

    // What is there already is opened to the other user.
    set_mode(sshd.dir.path(), 0o711);
    let (user, group) = (format!("--reuid={USER}"), format!("--regid={USER}"));
    let prefix = ["setpriv", &user, &group, "--clear-groups"];
    let ssh = ssh(with_prefix(config(&sshd), &prefix));
    let agent = ssh.agent("127.0.0.1", hello()).await.unwrap();
    assert_eq!(agent.hello().user, USER);
    assert_eq!((mode(&binary), mode(&sshd.path("bin"))), (0o755, 0o755));
    agent.close().await;

    // What is not there is made so.
    std::fs::remove_dir_all(sshd.path("bin")).unwrap();
    let agent = ssh.agent("127.0.0.1", hello()).await.unwrap();
    assert_eq!((agent.hello().user.as_str(), mode(&binary)), (USER, 0o755));
}

#[tokio::test]
async fn a_directory_that_the_other_user_cannot_reach_is_passed_over() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(&telling_agent());
    set_mode(sshd.dir.path(), 0o711);
    let closed = sshd.path("closed");
    std::fs::create_dir(&closed).unwrap();
    set_mode(&closed, 0o700);
    let slave_command_path = Some(closed.join("bin").to_str().unwrap().to_owned());
    let config = with_prefix(SshConfig { slave_command_path, ..sshd.config() }, &["env"]);
    let (path, _) = ssh(config.clone()).push("127.0.0.1").await.unwrap();
    assert!(path.starts_with(sshd.path("home/.cache/cassy").to_str().unwrap()), "{path}");
    assert_eq!(mode(Path::new(&path)), 0o755);

    // The operator's own copy is used when everybody may run it, and never changed.
    let operators = sshd.path("opt");
    std::fs::create_dir(&operators).unwrap();
    executable(&sshd, "opt/cassy", &telling_agent());
    let config = SshConfig { slave_command_path: Some(operators.to_str().unwrap().to_owned()), ..config };
    let (path, sent) = ssh(config.clone()).push("127.0.0.1").await.unwrap();
    assert_eq!((Path::new(&path), sent), (operators.join("cassy").as_path(), false));
    set_mode(&operators.join("cassy"), 0o700);
    let (path, _) = ssh(config).push("127.0.0.1").await.unwrap();
    assert_ne!(Path::new(&path), operators.join("cassy"));
    assert_eq!(mode(&operators.join("cassy")), 0o700);
}

#[tokio::test]
async fn a_prefix_that_is_not_allowed_is_told_with_the_line_that_allows_it() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(&telling_agent());
    set_mode(sshd.dir.path(), 0o711);
    for words in [
        "sudo: a password is required",
        "Sorry, user x is not allowed to execute '/y agent' as cassandra on h.",
        "x is not in the sudoers file.",
    ] {
        let sudo = executable(&sshd, "sudo", &format!("#!/bin/sh\necho \"{words}\" >&2\nexit 1\n"));
        for (option, target) in
            [(&["-u", "cassandra"][..], "cassandra"), (&["--user=c2"], "c2"), (&[], "root")]
        {
            let prefix: Vec<&str> = [sudo.as_str(), "-n"].into_iter().chain(option.iter().copied()).collect();
            let error =
                ssh(with_prefix(config(&sshd), &prefix)).agent("127.0.0.1", hello()).await.unwrap_err();
            assert_eq!(error.class(), Class::Permanent, "{}", told(&error));
            let SshError::Prefix { path, .. } = &error else { panic!("{}", told(&error)) };
            let line = format!("{} ALL=({target}) NOPASSWD: {path}", whoami("-un"));
            assert!(told(&error).contains(&line) && told(&error).contains(words), "{}", told(&error));
        }
    }
}

#[tokio::test]
async fn a_prefix_that_does_not_work_is_told_with_how_to_try_it() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(&telling_agent());
    set_mode(sshd.dir.path(), 0o711);
    for prefix in [&["/nonexistent/sudo"][..], &["false", "; touch DIR/was-run", "$(touch DIR/was-run)"]] {
        let here = sshd.dir.path().to_str().unwrap();
        let prefix: Vec<String> = prefix.iter().map(|word| word.replace("DIR", here)).collect();
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        let error = ssh(with_prefix(config(&sshd), &prefix)).agent("127.0.0.1", hello()).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{}", told(&error));
        assert!(told(&error).contains("Try it on the node as"), "{}", told(&error));
    }
    assert!(!sshd.path("was-run").exists(), "words are words");
}
