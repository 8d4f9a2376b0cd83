//! Starting an agent and losing it. The agent here is a shell script that greets and sends heartbeats.

use std::path::Path;
use std::sync::{Arc, Mutex};

use cassy_agent_protocol::{DataDirectories, Request, ServerHello};
use cassy_ssh::{AgentCallError, SshConfig, SshError};
use tokio::sync::watch;

use crate::server::{DEADLINE, Sshd, ssh, sshd, told, until};

/// Writes its process id and its parent's (sshd's process for this connection) beside itself.
pub(crate) const AGENT: &str = r#"#!/bin/sh
[ "$1" = agent ] || exit 0
frame() { printf "\\000\\000\\$(printf %03o $((${#1} / 256)))\\$(printf %03o $((${#1} % 256)))%s" "$1"; }
build=$(sha256sum <"$0")
printf 'CASSY-AGENT 1\n'
frame "{\"type\":\"hello\",\"build\":\"${build%% *}\",\"version\":\"0\",\"hostname\":\"h\",\"pid\":$$,\"user\":\"u\"}"
printf 'awake \033[31m\n' >&2
echo "$$ $PPID" >"${0%/*}/pids.new" && mv "${0%/*}/pids.new" "${0%/*}/pids"
( while sleep 0.1; do frame '{"type":"heartbeat"}'; done ) &
cat >/dev/null
kill $!
echo "stdin ended" >&2
"#;

/// Any request.
fn listing() -> Request {
    Request::ListSnapshots(DataDirectories { data_directories: Vec::new() })
}

pub(crate) fn hello() -> ServerHello {
    ServerHello { job_id: "j".into(), epoch: 1, heartbeat_ms: 100, silence_ms: 5000 }
}

pub(crate) fn config(sshd: &Sshd) -> SshConfig {
    SshConfig { slave_command_path: Some(sshd.path("bin").to_str().unwrap().into()), ..sshd.config() }
}

/// The agent's process id, and that of its sshd.
async fn pids(sshd: &Sshd) -> (String, String) {
    until("the agent's process id", || sshd.path("bin/pids").exists()).await;
    let text = std::fs::read_to_string(sshd.path("bin/pids")).unwrap();
    let (own, parent) = text.trim().split_once(' ').unwrap();
    (own.to_owned(), parent.to_owned())
}

fn lives(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[tokio::test]
async fn it_greets_and_ends_with_its_handle() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(AGENT);
    std::fs::write(sshd.path("home/.bashrc"), "printf 'Welcome, '\n").unwrap();
    let ssh = ssh(config(&sshd));
    let agent = ssh.agent("127.0.0.1", hello()).await.unwrap();
    let (pid, _) = pids(&sshd).await;
    assert_eq!(agent.hello().pid.to_string(), pid);
    drop(agent);
    until("the agent has ended", || !lives(&pid)).await;

    std::fs::remove_file(sshd.path("bin/pids")).unwrap();
    let agent = ssh.agent("127.0.0.1", hello()).await.unwrap();
    let (pid, _) = pids(&sshd).await;
    agent.close().await;
    until("the agent has ended", || !lives(&pid)).await;
    until("a goodbye", || sshd.log().contains("Received disconnect")).await;
}

#[tokio::test]
async fn a_broken_connection_is_noticed_at_both_ends() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(AGENT);
    let agent = ssh(config(&sshd)).agent("127.0.0.1", hello()).await.unwrap();
    let (pid, parent) = pids(&sshd).await;
    let (progress, _) = watch::channel(Default::default());
    let request = agent.request(listing(), progress);
    let kill = async { std::process::Command::new("kill").args(["-9", &parent]).status().unwrap() };
    let (outcome, _) = tokio::time::timeout(DEADLINE, async { tokio::join!(request, kill) }).await.unwrap();
    assert!(matches!(outcome, Err(AgentCallError::Gone(_))), "{outcome:?}");
    assert!(!agent.gone().await.is_empty());
    until("the agent has ended", || !lives(&pid)).await;
}

#[tokio::test]
async fn an_agent_that_dies_is_gone_with_its_last_words() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(&AGENT.replace("cat >/dev/null\n", "sleep 0.3\nkill $!\necho out of luck >&2\nexit 7\n"));
    let agent = ssh(config(&sshd)).agent("127.0.0.1", hello()).await.unwrap();
    let reason = tokio::time::timeout(DEADLINE, agent.gone()).await.unwrap();
    assert!(reason.contains("exit status 7") && reason.contains("out of luck"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_is_killed_is_gone_with_the_signal_and_its_last_words() {
    let Some(sshd) = sshd().await else { return };
    // One process, so that nothing of it is left to hold its streams.
    let (before, _) = AGENT.split_once("( while").expect("the agent beats in the background");
    sshd.own_binary(&format!("{before}exec cat >/dev/null\n"));
    let agent = ssh(config(&sshd)).agent("127.0.0.1", hello()).await.unwrap();
    let (pid, _) = pids(&sshd).await;
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let reason = tokio::time::timeout(DEADLINE, agent.gone()).await.unwrap();
    assert!(reason.contains("killed by signal KILL") && reason.contains("awake"), "{reason}");
}

#[tokio::test]
async fn agents_that_do_not_start() {
    let Some(sshd) = sshd().await else { return };
    for (agent, expected) in [
        ("#!/bin/sh\n[ $# -gt 1 ] || exit 3\n", "exit status 3"),
        ("#!/bin/sh\n[ \"$1\" = agent ] && echo no room >&2 && exit 5\nexit 0\n", "no room"),
        ("#!/bin/sh\necho 'CASSY-AGENT 99'\n", "CASSY-AGENT 99"),
        ("#!/bin/sh\necho hello\n", "hello"),
    ] {
        sshd.own_binary(agent);
        let error = ssh(config(&sshd)).agent("127.0.0.1", hello()).await.unwrap_err();
        assert!(matches!(error, SshError::Launch { .. }), "{}", told(&error));
        assert!(told(&error).contains(expected), "{}", told(&error));
    }
    sshd.own_binary(&AGENT.replace("build=$(sha256sum <\"$0\")", "build=another"));
    let error = ssh(config(&sshd)).agent("127.0.0.1", hello()).await.unwrap_err();
    assert!(matches!(error, SshError::WrongBuild { .. }), "{}", told(&error));
}

#[tokio::test]
async fn its_standard_error_is_logged_escaped() {
    let Some(sshd) = sshd().await else { return };
    sshd.own_binary(&AGENT.replace("awake", "awake at last"));
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // For all tests of this process: with one for this thread only, a line that another thread reached first
    // may stay switched off.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let agent = ssh(config(&sshd)).agent("127.0.0.1", hello()).await.unwrap();
    until("the agent's words", || log.text().contains("awake at last")).await;
    assert!(log.text().contains("INFO agent: awake at last \\u{1b}[31m node=127.0.0.1"), "{}", log.text());
    agent.close().await;
    until("the agent's last words", || log.text().contains("stdin ended")).await;
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
