//! A real sshd on a free loopback port, and keys made by ssh-keygen.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cassy_ssh::{BoxError, HostKeys, Ssh, SshConfig, SshError};

const SSHD: &str = "/usr/sbin/sshd";

/// How long a condition is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Sshd {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    child: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A running sshd that accepts `dir/id_ed25519`; nothing, with a printed reason, when there is none on this machine.
pub(crate) async fn sshd() -> Option<Sshd> {
    sshd_with("").await
}

/// The same, with more lines of configuration; `DIR` in them is the directory.
pub(crate) async fn sshd_with(lines: &str) -> Option<Sshd> {
    if !Path::new(SSHD).exists() {
        assert!(std::env::var_os("CASSY_TEST_REQUIRE").is_none(), "{SSHD} is missing");
        eprintln!("skipped: {SSHD} is missing");
        return None;
    }
    let mut dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "host_ed25519", &["-t", "ed25519"]);
    keygen(dir.path(), "id_ed25519", &["-t", "ed25519"]);
    std::fs::copy(dir.path().join("id_ed25519.pub"), dir.path().join("authorized_keys")).unwrap();
    if whoami("-u") == "0" {
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    // Between the choice of a port and its use somebody else may take it.
    for _ in 0..10 {
        let port = free_port();
        let child = start(dir.path(), port, lines);
        let mut sshd = Sshd { dir, port, child };
        if sshd.listens().await {
            return Some(sshd);
        }
        dir = std::mem::replace(&mut sshd.dir, tempfile::tempdir().unwrap());
    }
    panic!("no free port for sshd");
}

fn start(dir: &Path, port: u16, lines: &str) -> Child {
    let d = dir.display();
    let home = dir.join("home");
    std::fs::create_dir_all(&home).unwrap();
    let set_env =
        if lines.contains("SetEnv") { String::new() } else { format!("SetEnv HOME={}\n", home.display()) };
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {d}/host_ed25519\nAuthorizedKeysFile {d}/authorized_keys\n\
         PidFile {d}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n\
         KbdInteractiveAuthentication no\nMaxStartups 100\n{set_env}{}\n",
        lines.replace("DIR", &d.to_string())
    );
    std::fs::write(dir.join("config"), config).unwrap();
    std::fs::remove_file(dir.join("log")).ok();
    Command::new(SSHD)
        .args(["-D", "-f"])
        .arg(dir.join("config"))
        .arg("-E")
        .arg(dir.join("log"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

impl Sshd {
    /// False when the process ended, as it does when the port is taken.
    async fn listens(&mut self) -> bool {
        let line = format!("Server listening on 127.0.0.1 port {}.", self.port);
        for _ in 0..1000 {
            if self.log().contains(&line) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                assert!(self.log().contains("in use"), "sshd ended: {}", self.log());
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("sshd does not listen: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How a server would reach this node, with nothing known beforehand.
    pub(crate) fn config(&self) -> SshConfig {
        SshConfig {
            user: whoami("-un"),
            private_key_path: self.path("id_ed25519"),
            port: self.port,
            known_hosts_path: Some(self.path("known_hosts")),
            strict_host_keys: false,
            refused_address: |_| None,
            connect_timeout: Duration::from_secs(10),
            slave_command_path: None,
            command_prefix: Vec::new(),
            own_binary: self.path("cassy"),
        }
    }

    pub(crate) fn host_key(&self) -> String {
        std::fs::read_to_string(self.path("host_ed25519.pub")).unwrap()
    }

    pub(crate) fn known_hosts(&self, text: &str) {
        std::fs::write(self.path("known_hosts"), text).unwrap();
    }

    pub(crate) fn own_binary(&self, content: &str) {
        std::fs::write(self.path("cassy"), content).unwrap();
    }
}

/// Makes a key without a passphrase, unless the arguments name one.
pub(crate) fn keygen(dir: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let mut command = Command::new("ssh-keygen");
    command.arg("-q").arg("-f").arg(&path).args(arguments);
    if !arguments.contains(&"-N") {
        command.args(["-N", ""]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    path
}

pub(crate) fn whoami(option: &str) -> String {
    let output = Command::new("id").arg(option).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Remembers host keys in memory.
#[derive(Default)]
pub(crate) struct Memory(Mutex<HashMap<(String, u16), String>>);

impl Memory {
    pub(crate) fn with(host: &str, port: u16, key: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new([((host.to_owned(), port), key.to_owned())].into())))
    }

    pub(crate) fn key(&self, host: &str, port: u16) -> Option<String> {
        self.0.lock().unwrap().get(&(host.to_owned(), port)).cloned()
    }
}

#[async_trait]
impl HostKeys for Memory {
    async fn known(&self, host: &str, port: u16) -> Result<Option<String>, BoxError> {
        Ok(self.key(host, port))
    }

    async fn remember(&self, host: &str, port: u16, key: &str) -> Result<(), BoxError> {
        self.0.lock().unwrap().entry((host.to_owned(), port)).or_insert(key.to_owned());
        Ok(())
    }
}

/// Logs in to 127.0.0.1.
pub(crate) async fn log_in(config: SshConfig) -> Result<(), SshError> {
    ssh(config).check("127.0.0.1").await
}

pub(crate) fn ssh(config: SshConfig) -> Ssh {
    Ssh::new(config, Arc::new(Memory::default())).unwrap()
}

/// An error with its hint, for assertions.
pub(crate) fn told(error: &SshError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    format!("{text} [{}]", error.hint().unwrap_or_default())
}

/// Waits until the condition holds; when it does not, the panic names it.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = tokio::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
