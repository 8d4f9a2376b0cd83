//! What runs on this node and how it is configured: the Cassandra that owns given data directories, its
//! `cassandra.yaml`, owners, modes and free space. Changes nothing.

pub(crate) mod access;
pub(crate) mod account;
pub(crate) mod configuration;
pub(crate) mod process;
pub(crate) mod socket;
mod yaml;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cassy_agent_protocol::{AgentError, AgentErrorKind, InspectRequest, NodeFacts};
use cassy_backup_format::ConfigurationFacts;

use access::Unreadable;
use account::Accounts;
use configuration::{Configuration, Recorded};
use process::Daemon;

use crate::failure::{IntoAgentError, agent_error, chain};

/// Where the things of the system are; tests have their own.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) proc_root: PathBuf,
    pub(crate) passwd: PathBuf,
    pub(crate) group: PathBuf,
    /// Where the packages put `cassandra.yaml`, the likeliest first.
    pub(crate) packaged_yaml: Vec<PathBuf>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            proc_root: "/proc".into(),
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            packaged_yaml: [
                "/etc/cassandra/cassandra.yaml",
                "/etc/cassandra/conf/cassandra.yaml",
                "/etc/cassandra/default.conf/cassandra.yaml",
                "/opt/cassandra/conf/cassandra.yaml",
            ]
            .map(PathBuf::from)
            .to_vec(),
        }
    }
}

/// Why a node cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    #[error(transparent)]
    Unreadable(Unreadable),
    #[error("cannot list the processes")]
    Processes(#[source] std::io::Error),
    #[error("cannot look at data directory {directory}")]
    DataDirectory {
        directory: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "no Cassandra with the data directories {} was found on this node{}",
        .directories.join(", "), tried_text(.tried)
    )]
    NotFound { directories: Vec<String>, tried: Vec<String> },
}

fn tried_text(tried: &[String]) -> String {
    if tried.is_empty() { String::new() } else { format!("; looked at: {}", tried.join("; ")) }
}

impl IntoAgentError for InspectError {
    fn into_agent_error(self) -> AgentError {
        let hint = match &self {
            Self::Unreadable(unreadable) => Some(unreadable.hint()),
            Self::Processes(_) => None,
            Self::DataDirectory { .. } => {
                Some("Let the agent run as root, or as the user who owns the data.".to_owned())
            }
            Self::NotFound { .. } => Some(
                "The agent has to run on the node itself, and to read the cassandra.yaml of the running Cassandra."
                    .to_owned(),
            ),
        };
        AgentError { hint, ..agent_error(&self, AgentErrorKind::Permanent) }
    }
}

/// Finds the Cassandra that owns these data directories, and says how it is configured.
pub(crate) fn inspect(machine: &Machine, request: &InspectRequest) -> Result<NodeFacts, InspectError> {
    let directories = &request.data_directories;
    access::check(machine, directories).map_err(InspectError::Unreadable)?;
    let mut tried = Vec::new();
    let found =
        running(machine, directories, &mut tried)?.or_else(|| packaged(machine, directories, &mut tried));
    let Some((pid, yaml, mut configuration)) = found else {
        return Err(InspectError::NotFound { directories: directories.clone(), tried });
    };
    // JMX has the last word: what the backup says of directories counts in this list.
    configuration.data_directories = directories.clone();
    if let Some(first) = directories.first() {
        record_ownership(machine, Path::new(first), &mut configuration).map_err(failed(first))?;
    }
    let free_bytes = directories
        .iter()
        .map(|directory| free_bytes(Path::new(directory)).map_err(failed(directory)))
        .collect::<Result<_, _>>()?;
    Ok(NodeFacts { pid, configuration, yaml_age_ms: age_ms(&yaml, SystemTime::now()), free_bytes })
}

fn failed(directory: &str) -> impl FnOnce(std::io::Error) -> InspectError {
    move |source| InspectError::DataDirectory { directory: directory.to_owned(), source }
}

/// The process id, the `cassandra.yaml`, and what it says.
type Found = Option<(Option<u32>, PathBuf, ConfigurationFacts)>;

fn running(
    machine: &Machine,
    directories: &[String],
    tried: &mut Vec<String>,
) -> Result<Found, InspectError> {
    let daemons = process::daemons(&machine.proc_root).map_err(InspectError::Processes)?;
    for daemon in daemons.iter().filter(|daemon| daemon.same_network) {
        match daemon_configuration(machine, daemon) {
            Ok(configuration) => {
                let facts = configuration.facts(daemon);
                if overlap(&facts.data_directories, directories) {
                    return Ok(Some((Some(daemon.pid), configuration.path, facts)));
                }
                let path = configuration.path.display();
                tried.push(format!(
                    "process {} with {path}, which has {}",
                    daemon.pid,
                    facts.data_directories.join(", ")
                ));
            }
            Err(reason) => tried.push(format!("process {}: {reason}", daemon.pid)),
        }
    }
    Ok(None)
}

/// A Cassandra whose process cannot be seen (another container's, hidden processes) may still have an ordinary
/// configuration.
fn packaged(machine: &Machine, directories: &[String], tried: &mut Vec<String>) -> Found {
    for path in machine.packaged_yaml.iter().filter(|path| path.is_file()) {
        match Configuration::read(path) {
            Ok(configuration) => {
                let facts = configuration.facts(&Recorded(&ConfigurationFacts::default()));
                if overlap(&facts.data_directories, directories) {
                    return Some((None, configuration.path, facts));
                }
                tried.push(format!("{}, which has {}", path.display(), facts.data_directories.join(", ")));
            }
            Err(error) => tried.push(chain(&error)),
        }
    }
    None
}

/// The configuration that a running daemon has loaded.
pub(crate) fn daemon_configuration(machine: &Machine, daemon: &Daemon) -> Result<Configuration, String> {
    let path = daemon.yaml().or_else(|| machine.packaged_yaml.iter().find(|path| path.is_file()).cloned());
    let Some(path) = path else { return Err("its cassandra.yaml was not found".to_owned()) };
    Configuration::read(&path).map_err(|error| chain(&error))
}

/// How long ago a file, or the link to it, was written or put there, in milliseconds; 0 when that is not known, or still to
/// come. A file that is moved to a name keeps the time at which it was written.
fn age_ms(path: &Path, now: SystemTime) -> u64 {
    let newest = |metadata: fs::Metadata| {
        let written = (metadata.mtime(), metadata.mtime_nsec());
        let (seconds, nanos) = written.max((metadata.ctime(), metadata.ctime_nsec()));
        seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
    };
    let (Ok(file), Ok(link)) = (fs::metadata(path), fs::symlink_metadata(path)) else { return 0 };
    let now_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    u64::try_from(now_ms.saturating_sub(newest(file).max(newest(link)))).unwrap_or(0)
}

/// True when a directory is in both lists, by path or by identity.
pub(crate) fn overlap(one: &[String], other: &[String]) -> bool {
    one.iter().any(|one| other.iter().any(|other| same_directory(Path::new(one), Path::new(other))))
}

fn same_directory(one: &Path, other: &Path) -> bool {
    if one.components().eq(other.components()) {
        return true;
    }
    let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((identity(one), identity(other)), (Some(one), Some(other)) if one == other)
}

/// The path itself, else its nearest parent that exists.
pub(crate) fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

/// Bytes that an ordinary user may still write to the file system of a path.
pub(crate) fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let statistics = rustix::fs::statvfs(path)?;
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

/// Owner, group and modes of the data: those of the `system` keyspace's directory and of a file in it, else of
/// the data directory.
fn record_ownership(machine: &Machine, data: &Path, facts: &mut ConfigurationFacts) -> std::io::Result<()> {
    let top = fs::metadata(data)?;
    let system = data.join("system");
    let directory = fs::symlink_metadata(&system).ok().filter(fs::Metadata::is_dir);
    let sample = directory.as_ref().and_then(|_| first_file(&system));
    let directory = directory.unwrap_or(top);
    facts.owner = Some(Accounts::read(&machine.passwd).name(directory.uid()));
    facts.group = Some(Accounts::read(&machine.group).name(directory.gid()));
    facts.directory_mode = directory.mode() & 0o777;
    facts.file_mode = sample.map_or(0, |file| file.mode() & 0o777);
    Ok(())
}

/// Some regular file in a table's directory of this keyspace.
fn first_file(keyspace: &Path) -> Option<fs::Metadata> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().take(1000);
    entries(keyspace)
        .filter(|table| table.file_type().is_ok_and(|kind| kind.is_dir()))
        .flat_map(|table| entries(&table.path()).collect::<Vec<_>>())
        .filter_map(|file| file.metadata().ok())
        .find(fs::Metadata::is_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Node {
        root: tempfile::TempDir,
        machine: Machine,
    }

    impl Node {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let proc_root = root.path().join("proc");
            fs::create_dir_all(proc_root.join("self/ns")).unwrap();
            symlink("net:[1]", proc_root.join("self/ns/net")).unwrap();
            fs::create_dir_all(root.path().join("data/system/local-1")).unwrap();
            let sample = root.path().join("data/system/local-1/nb-1-big-Data.db");
            fs::write(&sample, "x").unwrap();
            fs::set_permissions(&sample, fs::Permissions::from_mode(0o640)).unwrap();
            fs::set_permissions(root.path().join("data/system"), fs::Permissions::from_mode(0o751)).unwrap();
            let machine = Machine {
                proc_root,
                packaged_yaml: vec![root.path().join("packaged.yaml")],
                ..Machine::default()
            };
            Self { root, machine }
        }

        fn path(&self, name: &str) -> String {
            self.root.path().join(name).to_str().unwrap().to_owned()
        }

        fn daemon(&self, pid: u32, network: &str, yaml: &str) {
            let process = self.machine.proc_root.join(pid.to_string());
            fs::create_dir_all(process.join("ns")).unwrap();
            symlink(network, process.join("ns/net")).unwrap();
            let path = self.path(&format!("{pid}.yaml"));
            fs::write(&path, yaml).unwrap();
            let arguments = [
                "java",
                &format!("-Dcassandra.config=file://{path}"),
                &format!("-Dcassandra.storagedir={}", self.path("")),
                "org.apache.cassandra.service.CassandraDaemon",
            ];
            fs::write(process.join("cmdline"), arguments.join("\0")).unwrap();
        }

        fn inspect(&self) -> Result<NodeFacts, AgentError> {
            let request = InspectRequest { data_directories: vec![self.path("data")] };
            inspect(&self.machine, &request).map_err(IntoAgentError::into_agent_error)
        }
    }

    #[test]
    fn the_daemon_with_these_directories_in_this_network_is_found() {
        let node = Node::new();
        node.daemon(5, "net:[2]", "cluster_name: other network\n");
        node.daemon(6, "net:[1]", "cluster_name: other directories\ndata_file_directories: [/elsewhere]\n");
        node.daemon(7, "net:[1]", "cluster_name: it\nnum_tokens: 4\nendpoint_snitch: SimpleSnitch\n");
        let facts = node.inspect().unwrap();
        assert_eq!(facts.pid, Some(7));
        let configuration = facts.configuration;
        assert_eq!(configuration.cluster_name.as_deref(), Some("it"));
        assert_eq!(configuration.commitlog_directory, Some(node.path("commitlog")));
        assert_eq!(configuration.yaml_path, Some(node.path("7.yaml")));
        assert_eq!((configuration.directory_mode, configuration.file_mode), (0o751, 0o640));
        assert!(configuration.owner.is_some() && facts.free_bytes.len() == 1);
    }

    #[test]
    fn without_a_process_the_packages_configuration_serves() {
        let node = Node::new();
        fs::write(node.path("packaged.yaml"), format!("data_file_directories: [{}]\n", node.path("data/")))
            .unwrap();
        assert_eq!(node.inspect().unwrap().pid, None);
    }

    #[test]
    fn a_file_is_as_young_as_its_last_change_whatever_time_it_was_given() {
        let (node, hour) = (Node::new(), std::time::Duration::from_secs(3_600));
        let (yaml, link) = (node.root.path().join("its.yaml"), node.root.path().join("link.yaml"));
        fs::write(&yaml, "").unwrap();
        symlink(&yaml, &link).unwrap();
        let written = |at| fs::File::options().write(true).open(&yaml).unwrap().set_modified(at).unwrap();
        written(SystemTime::now() - 100 * hour);
        let later = SystemTime::now() + hour;
        for path in [&yaml, &link] {
            let age = age_ms(path, later);
            assert!((3_600_000..2 * 3_600_000).contains(&age), "{age}");
        }
        written(later + hour);
        assert_eq!(age_ms(&link, later), 0);
        assert_eq!(age_ms(&node.root.path().join("absent"), later), 0);
    }

    #[test]
    fn a_daemon_without_a_configuration_is_named_as_looked_at() {
        let node = Node::new();
        let process = node.machine.proc_root.join("7");
        fs::create_dir_all(process.join("ns")).unwrap();
        symlink("net:[1]", process.join("ns/net")).unwrap();
        fs::write(process.join("cmdline"), "java\0org.apache.cassandra.service.CassandraDaemon").unwrap();
        let error = node.inspect().unwrap_err();
        assert!(error.message.ends_with("looked at: process 7: its cassandra.yaml was not found"), "{error}");
        assert!(error.hint.unwrap().contains("to read the cassandra.yaml of the running Cassandra"));
    }

    #[test]
    fn what_was_looked_at_is_said_when_nothing_fits() {
        let node = Node::new();
        node.daemon(6, "net:[1]", "data_file_directories: [/elsewhere]\n");
        node.daemon(7, "net:[1]", "a: [\n");
        let error = node.inspect().unwrap_err();
        assert_eq!(error.kind, AgentErrorKind::Permanent);
        assert!(error.message.contains("process 6 with") && error.message.contains("/elsewhere"), "{error}");
        assert!(error.message.contains("process 7: ") && error.message.contains("line "), "{error}");
    }
}
