//! A real OpenSSH server, on 127.0.0.1 or in a network namespace, with keys of its own. It works as an ordinary user,
//! who can then log in only as himself, and as root.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Namespace;
use crate::runtime::READY_LIMIT;
use crate::{Doing, Failure, Launch, Lifetime, Port, Probe, Process, ProcessId, wait_for};

const PROGRAM: &str = "/usr/sbin/sshd";
const STOP_LIMIT: Duration = Duration::from_secs(10);
const STANDARD_PORT: u16 = 22;

/// Where the server listens.
#[derive(Debug)]
pub(crate) enum Door {
    /// 127.0.0.1, a port that was free.
    Loopback(Port),
    /// The standard port of this address.
    Namespace(Arc<Namespace>, Ipv4Addr),
}

impl Door {
    fn address(&self) -> Ipv4Addr {
        match self {
            Self::Loopback(_) => Ipv4Addr::LOCALHOST,
            Self::Namespace(_, address) => *address,
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Loopback(port) => port.number(),
            Self::Namespace(..) => STANDARD_PORT,
        }
    }
}

/// As known_hosts names it.
impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(port) => write!(f, "[{}]:{port}", self.address()),
            Self::Namespace(_, address) => address.fmt(f),
        }
    }
}

/// The server and what a client needs to use it.
#[derive(Debug)]
pub struct Sshd {
    directory: PathBuf,
    door: Door,
    user: String,
    lifetime: Lifetime,
    /// Lines of sshd_config, before the kit's own: there the first word counts.
    configuration: String,
    process: Process,
}

impl Sshd {
    /// Makes keys in `directory` and starts the server.
    ///
    /// # Errors
    /// When OpenSSH is missing or the server does not start.
    pub async fn start(directory: impl Into<PathBuf>) -> Result<Self, Failure> {
        Self::start_with(directory, "", Lifetime::Owned).await
    }

    /// The same, with lines of sshd_config that win over the kit's.
    ///
    /// # Errors
    /// As [`Sshd::start`].
    pub async fn start_with(
        directory: impl Into<PathBuf>,
        configuration: &str,
        lifetime: Lifetime,
    ) -> Result<Self, Failure> {
        let directory = directory.into();
        loop {
            let door = Door::Loopback(Port::reserve()?);
            match Self::start_at(door, &directory, configuration, lifetime).await {
                Err((log, _)) if log.contains("Address already in use") => {}
                started => return started.map_err(|(_, failure)| failure),
            }
        }
    }

    /// In a network namespace, with lines of sshd_config that win over the kit's. Keys that are in the directory are
    /// used.
    pub(crate) async fn start_in(
        namespace: Arc<Namespace>,
        address: Ipv4Addr,
        directory: &Path,
        configuration: &str,
    ) -> Result<Self, Failure> {
        let door = Door::Namespace(namespace, address);
        let started = Self::start_at(door, directory, configuration, Lifetime::Owned).await;
        started.map_err(|(_, failure)| failure)
    }

    /// An error comes with the server's log.
    async fn start_at(
        door: Door,
        directory: &Path,
        configuration: &str,
        lifetime: Lifetime,
    ) -> Result<Self, (String, Failure)> {
        let plain = |failure| (String::new(), failure);
        prepare(directory).map_err(plain)?;
        let user = user_name().map_err(plain)?;
        let process = launch(directory, &door, configuration, lifetime).await?;
        let (directory, configuration) = (directory.to_owned(), configuration.to_owned());
        let server = Self { directory, door, user, lifetime, configuration, process };
        server.write_known_hosts().map_err(plain)?;
        Ok(server)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.door.port()
    }

    /// Who can log in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The private key that is let in.
    pub fn client_key(&self) -> PathBuf {
        self.directory.join("client_key")
    }

    /// The known_hosts file that names this server's host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    /// What the server has logged since it was (re)started.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Restarts the server with a new host key, on the same port. The known_hosts file keeps the old one.
    ///
    /// # Errors
    /// When the server does not start again.
    pub async fn replace_host_key(&mut self) -> Result<(), Failure> {
        let key = self.directory.join("host_key");
        for old in [key.clone(), key.with_extension("pub")] {
            std::fs::remove_file(&old).doing(|| format!("remove {}", old.display()))?;
        }
        generate_key(&key)?;
        self.restart().await
    }

    /// Writes the present host key to the known_hosts file, in place of an earlier one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_known_hosts(&self) -> Result<(), Failure> {
        let line = self.known_hosts_line()?;
        std::fs::write(self.known_hosts(), line).doing(|| format!("write {}", self.known_hosts().display()))
    }

    /// The line that names the present host key.
    pub(crate) fn known_hosts_line(&self) -> Result<String, Failure> {
        let public = self.directory.join("host_key.pub");
        let text = std::fs::read_to_string(&public).doing(|| format!("read {}", public.display()))?;
        let key: Vec<&str> = text.split_whitespace().take(2).collect();
        Ok(format!("{} {}\n", self.door, key.join(" ")))
    }

    /// From now on nobody is let in. Sessions that are open go on.
    ///
    /// # Errors
    /// When the file of authorized keys cannot be written.
    pub fn refuse_logins(&self) -> Result<(), Failure> {
        set_authorized_keys(&self.directory, false)
    }

    /// The client key is let in again.
    ///
    /// # Errors
    /// When the file of authorized keys cannot be written.
    pub fn allow_logins(&self) -> Result<(), Failure> {
        set_authorized_keys(&self.directory, true)
    }

    /// Cuts all open sessions, with the programs that run in them, as the loss of the node would. The server goes on.
    pub fn cut_sessions(&self) {
        self.process.kill_descendants();
    }

    /// Ends the server and all its sessions.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts the server again, on the same port.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<(), Failure> {
        self.stop();
        let started = launch(&self.directory, &self.door, &self.configuration, self.lifetime).await;
        self.process = started.map_err(|(_, failure)| failure)?;
        Ok(())
    }

    /// Starts the server again on another address of its namespace.
    pub(crate) async fn move_to(&mut self, address: Ipv4Addr) -> Result<(), Failure> {
        if let Door::Namespace(_, old) = &mut self.door {
            *old = address;
        }
        self.restart().await?;
        self.write_known_hosts()
    }

    /// The agents that run in sessions of this server.
    pub fn agents(&self) -> Vec<ProcessId> {
        let is_agent = |process: &ProcessId| process.arguments().get(1).is_some_and(|word| word == "agent");
        self.process.descendants().into_iter().filter(is_agent).collect()
    }

    /// Whether programs run in sessions of this server.
    pub fn has_sessions(&self) -> bool {
        self.process.has_descendants()
    }

    /// Waits until no session is open and no program of one runs.
    ///
    /// # Errors
    /// When some still runs after a few seconds.
    pub async fn sessions_ended(&self) -> Result<(), Failure> {
        wait_for("all sessions of sshd end", STOP_LIMIT, async || {
            if self.has_sessions() { Probe::NotYet("some run".to_owned()) } else { Probe::Ready(()) }
        })
        .await
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn leave_running(&mut self) {
        self.process.leave_running();
    }
}

/// Makes what a server needs, unless it is there.
fn prepare(directory: &Path) -> Result<(), Failure> {
    let home = directory.join("home");
    std::fs::create_dir_all(&home).doing(|| format!("make {}", home.display()))?;
    if rustix::process::getuid().is_root() {
        std::fs::create_dir_all("/run/sshd")
            .doing(|| "make /run/sshd, which sshd wants when root starts it")?;
    }
    generate_key(&directory.join("host_key"))?;
    generate_key(&directory.join("client_key"))?;
    set_authorized_keys(directory, true)
}

async fn launch(
    directory: &Path,
    door: &Door,
    configuration: &str,
    lifetime: Lifetime,
) -> Result<Process, (String, Failure)> {
    let plain = |failure| (String::new(), failure);
    let file = directory.join("sshd_config");
    std::fs::write(&file, configuration_text(directory, door, configuration))
        .doing(|| format!("write {}", file.display()))
        .map_err(plain)?;
    // In the foreground, logging to standard error.
    let (mut program, mut arguments) =
        (PROGRAM.into(), ["-D".into(), "-e".into(), "-f".into(), file.into()].into());
    if let Door::Namespace(namespace, _) = door {
        (program, arguments) = namespace.command(program, arguments);
    }
    let mut process = Process::start(&Launch {
        name: format!("the sshd {door}"),
        program,
        arguments,
        directory: directory.to_owned(),
        environment: BTreeMap::new(),
        log: directory.join("sshd.log"),
        lifetime,
    })
    .map_err(plain)?;
    let listening = format!("Server listening on {} port {}", door.address(), door.port());
    let waited = wait_for("sshd listens", READY_LIMIT, async || {
        let ended = process.ended();
        let log = process.log();
        match ended {
            Some(status) => Probe::Broken(Failure::new(format!(
                "sshd ended at once ({status}; Debian's package is `openssh-server`):\n{log}"
            ))),
            None if log.contains(&listening) => Probe::Ready(()),
            None => Probe::NotYet(log),
        }
    })
    .await;
    match waited {
        Ok(()) => Ok(process),
        Err(failure) => Err((process.log(), failure)),
    }
}

/// The home is one of its own: what a shell reads there at each log-in may take long, or fail, and is no part of a test.
fn configuration_text(directory: &Path, door: &Door, first: &str) -> String {
    let (place, address, port) = (directory.display(), door.address(), door.port());
    format!(
        r#"{first}
Port {port}
ListenAddress {address}
HostKey "{place}/host_key"
PidFile none
AuthorizedKeysFile "{place}/authorized_keys"
StrictModes no
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding no
UsePAM no
UseDNS no
PrintMotd no
MaxSessions 64
MaxStartups 64
LogLevel VERBOSE
Subsystem sftp internal-sftp
SetEnv "HOME={place}/home"
"#
    )
}

fn set_authorized_keys(directory: &Path, let_in: bool) -> Result<(), Failure> {
    let public = directory.join("client_key.pub");
    let key = std::fs::read_to_string(&public).doing(|| format!("read {}", public.display()))?;
    let file = directory.join("authorized_keys");
    let text = if let_in { key } else { String::new() };
    std::fs::write(&file, text).doing(|| format!("write {}", file.display()))
}

pub(crate) fn generate_key(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "cassy-test", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .doing(|| "run ssh-keygen (Debian's package is `openssh-client`)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("ssh-keygen for {}: {said}", path.display())))
}

/// The name of the user who runs this; the environment may not say it.
fn user_name() -> Result<String, Failure> {
    let output = Command::new("id").arg("-un").output().doing(|| "run id")?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !name.is_empty() {
        return Ok(name);
    }
    Err(Failure::new("the user who runs this has no name, so he cannot log in by ssh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ssh(server: &Sshd, command: &str) -> std::process::Output {
        tokio::process::Command::new("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                "IdentitiesOnly=yes",
            ])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", server.known_hosts().display()))
            .arg("-i")
            .arg(server.client_key())
            .args(["-p", &server.port().to_string()])
            .arg(format!("{}@127.0.0.1", server.user()))
            .arg(command)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn lets_in_refuses_and_changes_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Sshd::start(directory.path()).await.unwrap();

        let output = ssh(&server, "echo $((6 * 7))").await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{}", server.log());

        server.refuse_logins().unwrap();
        let output = ssh(&server, "true").await;
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
        server.allow_logins().unwrap();
        assert!(ssh(&server, "true").await.status.success());

        server.replace_host_key().await.unwrap();
        let output = ssh(&server, "true").await;
        assert!(String::from_utf8_lossy(&output.stderr).contains("HOST IDENTIFICATION HAS CHANGED"));
        server.write_known_hosts().unwrap();
        assert!(ssh(&server, "true").await.status.success());
        server.sessions_ended().await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_session_takes_its_program_along() {
        let directory = tempfile::tempdir().unwrap();
        let server = Sshd::start(directory.path()).await.unwrap();
        let marker = directory.path().join("started");
        let command = format!("touch {}; exec sleep 300", marker.display());
        let session = ssh(&server, &command);
        let cut = async {
            wait_for("the command runs", Duration::from_secs(30), async || {
                if marker.exists() { Probe::Ready(()) } else { Probe::NotYet(server.log()) }
            })
            .await
            .unwrap();
            assert!(server.has_sessions());
            server.cut_sessions();
        };
        let (output, ()) = tokio::join!(session, cut);
        assert!(!output.status.success());
        server.sessions_ended().await.unwrap();
    }
}
