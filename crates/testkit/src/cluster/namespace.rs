//! A network namespace that lives as long as a process in it, so that nothing of it outlives its test: it has no name
//! and no mount.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::ip;
use crate::{Doing, Failure, Launch, Lifetime, Probe, Process, wait_for};

const LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// What its end of the veth pair is called in it.
pub(super) const INTERFACE: &str = "eth0";

/// See the module.
#[derive(Debug)]
pub(crate) struct Namespace {
    holder: Process,
    handle: Arc<File>,
}

impl Namespace {
    /// Makes one, with a loopback of its own and nothing else.
    pub(super) async fn new(directory: &Path) -> Result<Self, Failure> {
        let mut holder = Process::start(&Launch {
            name: "a network namespace".to_owned(),
            program: "unshare".into(),
            arguments: ["--net", "--", "sleep", "infinity"].map(OsString::from).into(),
            directory: directory.to_owned(),
            environment: Default::default(),
            log: directory.join("namespace.log"),
            lifetime: Lifetime::Owned,
        })?;
        let own = std::fs::read_link("/proc/self/ns/net").doing(|| "read the own network namespace")?;
        wait_for("the network namespace is there", LIMIT, async || {
            let made = std::fs::read_link(link(&holder));
            match holder.ended() {
                Some(status) => Probe::Broken(Failure::new(format!(
                    "no network namespace was made ({status}): {}",
                    holder.log()
                ))),
                None if made.as_ref().is_ok_and(|made| *made != own) => Probe::Ready(()),
                None => Probe::NotYet(format!("{made:?}")),
            }
        })
        .await?;
        let handle = File::open(link(&holder)).doing(|| "open the network namespace")?;
        let namespace = Self { holder, handle: Arc::new(handle) };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The process that holds it.
    pub(super) fn holder(&self) -> String {
        self.holder.pid().to_string()
    }

    /// Gives its interface this address.
    pub(super) fn add_address(&self, address: &str) -> Result<(), Failure> {
        self.ip(&["address", "add", address, "dev", INTERFACE])?;
        self.ip(&["link", "set", INTERFACE, "up"])
    }

    /// Takes it away again.
    pub(super) fn remove_address(&self, address: &str) -> Result<(), Failure> {
        self.ip(&["address", "delete", address, "dev", INTERFACE])
    }

    /// The command that runs this one in it. It does not fork, so the process id is the program's.
    pub(crate) fn command(&self, program: PathBuf, arguments: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
        let mut words = vec![self.entry().into(), "--".into(), program.into_os_string()];
        words.extend(arguments);
        ("nsenter".into(), words)
    }

    /// Connects from within it: a thread goes in, and the socket stays there when the thread has ended.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<tokio::net::TcpStream> {
        let address = SocketAddr::new(host.parse().map_err(io::Error::other)?, port);
        let handle = Arc::clone(&self.handle);
        let (answer, connected) = tokio::sync::oneshot::channel();
        // A thread of a pool would take the namespace along to its next task.
        std::thread::spawn(move || {
            let network = Some(LinkNameSpaceType::Network);
            let connected = move_into_link_name_space(handle.as_fd(), network).map_err(io::Error::from);
            let _asker_may_be_gone =
                answer.send(connected.and_then(|()| TcpStream::connect_timeout(&address, CONNECT_LIMIT)));
        });
        let stream = connected.await.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        tokio::net::TcpStream::from_std(stream)
    }

    fn ip(&self, arguments: &[&str]) -> Result<(), Failure> {
        let entry = self.entry();
        let mut words = vec![entry.as_str(), "--", "ip"];
        words.extend(arguments);
        ip::run("nsenter", &words)
    }

    fn entry(&self) -> String {
        format!("--net={}", link(&self.holder))
    }
}

fn link(holder: &Process) -> String {
    format!("/proc/{}/ns/net", holder.pid())
}
