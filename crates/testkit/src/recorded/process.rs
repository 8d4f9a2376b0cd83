//! The process `recorded-node`.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::identity::Identity;
use super::mbeans::Mbeans;
use super::orders::Orders;
use super::wire;
use crate::{Doing, Failure};

/// In the log when the node may be asked.
pub(super) const READY_LINE: &str = "recorded node: ready";
/// Its own properties on the command line.
pub(super) const NODE: &str = "-Drecorded.node=";
pub(super) const DATA: &str = "-Drecorded.data=";
pub(super) const COMMIT_LOG: &str = "-Drecorded.commitlog=";
pub(super) const CACHES: &str = "-Drecorded.saved_caches=";
pub(super) const LISTEN: &str = "-Drecorded.listen=";
pub(super) const JMX_PORT: &str = "-Dcassandra.jmx.local.port=";
/// Beside the identity, in the node's directory.
pub(super) const SCHEMAS: &str = "schemas";
const SENTINEL: &str = "node-backup/RESTORE_INCOMPLETE/aa-1-big-Data.db";

/// Runs the node; returns only when it cannot.
///
/// # Errors
/// Whatever keeps it from starting, a restore that is unfinished for one.
pub fn run(arguments: &[String]) -> Failure {
    match start(arguments) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

enum Never {}

fn start(arguments: &[String]) -> Result<Never, Failure> {
    let all = |name: &'static str| arguments.iter().filter_map(move |argument| argument.strip_prefix(name));
    let one = |name: &'static str| all(name).next().ok_or_else(|| Failure::new(format!("{name} is missing")));
    let node = PathBuf::from(one(NODE)?);
    let data_directories: Vec<PathBuf> = all(DATA).map(PathBuf::from).collect();
    let commitlog = PathBuf::from(one(COMMIT_LOG)?);
    begin_commit_log(&commitlog)?;
    refuse_unreadable(&data_directories)?;
    let orders = Orders::of(&node);
    orders.forget_held().doing(|| "forget what an earlier process held")?;
    // A running Cassandra is also known by the ports that its configuration names.
    let _held: Vec<TcpListener> = all(LISTEN).map(bind).collect::<Result<_, _>>()?;
    let registry = bind(one(JMX_PORT)?)?;
    let objects = bind("0")?;
    let mbeans = Arc::new(Mbeans {
        identity: Identity::read(&node)?,
        data_directories,
        commitlog,
        caches: PathBuf::from(one(CACHES)?),
        schemas: node.join(SCHEMAS),
        orders,
        objects_port: objects.local_addr().doing(|| "ask for the port")?.port(),
    });
    say(READY_LINE);
    let second = Arc::clone(&mbeans);
    std::thread::spawn(move || accept(&objects, &second));
    Err(accept(&registry, &mbeans))
}

/// Cassandra makes an empty segment before it looks at the SSTables, so one that refuses to start leaves it.
fn begin_commit_log(directory: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).doing(|| "read the clock")?;
    let segment = directory.join(format!("CommitLog-7-{}.log", now.as_nanos() / 1_000));
    std::fs::write(&segment, "").doing(|| format!("write {}", segment.display()))
}

fn refuse_unreadable(data_directories: &[PathBuf]) -> Result<(), Failure> {
    let sentinel = data_directories.iter().map(|data| data.join(SENTINEL)).find(|path| path.exists());
    match sentinel {
        Some(path) => {
            Err(Failure::new(format!("Detected unreadable sstables {}, please check", path.display())))
        }
        None => Ok(()),
    }
}

fn bind(port: &str) -> Result<TcpListener, Failure> {
    let number: u16 = port.parse().doing(|| format!("read the port {port:?}"))?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, number)).doing(|| format!("listen on 127.0.0.1:{port}"))
}

/// Serves each connection in a thread of its own, as a call may hang.
fn accept(listener: &TcpListener, mbeans: &Arc<Mbeans>) -> Failure {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let mbeans = Arc::clone(mbeans);
                std::thread::spawn(move || serve(stream, &mbeans));
            }
            Err(error) => return Failure::new(format!("accept a connection: {error}")),
        }
    }
}

fn serve(stream: TcpStream, mbeans: &Mbeans) {
    let served = wire::serve(stream, &|call| mbeans.answer(call));
    if let Err(error) = served
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        say(&format!("the connection ends: {error}"));
    }
}

#[allow(clippy::print_stderr, reason = "it is the process's log")]
fn say(text: &str) {
    eprintln!("{text}");
}
