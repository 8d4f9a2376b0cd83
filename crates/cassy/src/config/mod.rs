//! The server's configuration: read, and checked as a whole, before anything is opened or bound.
//!
//! Every problem is one line that names file, key, value and what was expected, and the exit code is 64. What only
//! time or another process can change (a store that is not mounted, a database that is locked or damaged, a port that
//! is taken) is found later, and is no matter of the configuration. A value that could hold a password is never shown
//! in full.

mod keys;
mod problems;
mod properties;
mod settings;
mod words;

pub(crate) use problems::{ConfigError, Problem};

use cassy_catalog::MetadataUrl;
use cassy_pause::Tls;
use cassy_ssh::SshError;
use cassy_store::StoreLocation;
use settings::Settings;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration file is not larger than this.
const LIMIT_BYTES: u64 = 1 << 20;

/// A file of certificates neither; all of it goes to the guards.
const CERTIFICATES_LIMIT_BYTES: u64 = 1 << 20;

/// What the server is told by its configuration file. Every value is checked, every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerConfig {
    /// Where gRPC listens.
    pub(crate) listen_address: IpAddr,
    /// The port of gRPC.
    pub(crate) port: u16,
    /// The JMX port of all Cassandra nodes.
    pub(crate) jmx_port: u16,
    /// How nodes are reached.
    pub(crate) ssh: SshConfig,
    /// A directory on the nodes in which the agent's binary is looked for first.
    pub(crate) slave_command_path: Option<PathBuf>,
    /// Where backups are.
    pub(crate) store: StoreLocation,
    /// Where histories and jobs are.
    pub(crate) metadata_db: MetadataUrl,
    /// The SRV record of the applications that are paused for a cluster-wide backup.
    pub(crate) srv_service_url: Option<String>,
    /// TLS to them; plain gRPC without it.
    pub(crate) applications_tls: Option<Tls>,
    /// Host and port of the DNS server that knows it; the system's own when there is none.
    pub(crate) dns_server: Option<String>,
    /// The longest time for which the applications are paused.
    pub(crate) max_pause: Duration,
    /// Where Cassandra's own configuration is on the nodes, when it cannot be found out.
    pub(crate) cassandra_yaml: Option<PathBuf>,
}

/// How nodes are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SshConfig {
    pub(crate) user: String,
    /// Was there and readable when the configuration was checked.
    pub(crate) private_key_path: PathBuf,
    pub(crate) port: u16,
    /// May not exist, unless `strict_host_keys`. `None` without a home directory.
    pub(crate) known_hosts_path: Option<PathBuf>,
    /// Only hosts in `known_hosts_path` are trusted; otherwise also those seen at registration.
    pub(crate) strict_host_keys: bool,
    /// What the agent's command is put behind, such as `sudo -n -u cassandra`; empty for nothing.
    pub(crate) command_prefix: Vec<String>,
}

/// A usable configuration, and what is odd about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) config: ServerConfig,
    pub(crate) warnings: Vec<Problem>,
}

/// Reads and checks the file. `home` is the home directory of the user who runs the server.
pub(crate) fn load(path: &Path, home: Option<&Path>) -> Result<Loaded, ConfigError> {
    let file: String = path.display().to_string().chars().flat_map(keys::escaped).collect();
    let bytes =
        read(path, LIMIT_BYTES).map_err(|source| ConfigError::Unreadable { file: file.clone(), source })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LIMIT_BYTES {
        return Err(ConfigError::TooLarge { file, limit_bytes: LIMIT_BYTES });
    }
    let syntax = |source| ConfigError::Syntax { file: file.clone(), source };
    let entries = properties::parse(&bytes).map_err(syntax)?;
    let mut settings = Settings::new(file, &entries);
    let config = server_config(&mut settings, home);
    settings.finish(config)
}

/// One byte more than the limit at most.
fn read(path: &Path, limit_bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Looks at every key, so that all problems are found at once; `None` when there is one.
fn server_config(settings: &mut Settings<'_>, home: Option<&Path>) -> Option<ServerConfig> {
    let listen_address =
        settings.or_default(keys::LISTEN_ADDRESS, keys::ip_address, Ipv4Addr::UNSPECIFIED.into());
    let port = settings.or_default(keys::PORT, keys::port, 20051);
    let jmx_port = settings.or_default(keys::JMX_PORT, keys::port, 7199);
    let ssh = ssh_config(settings, home);
    let slave_command_path = settings.optional(keys::SLAVE_COMMAND_PATH, keys::path_on_nodes);
    let store = store(settings);
    let default_db = MetadataUrl::SqliteFile(PathBuf::from("cassy.db"));
    let metadata_db = settings.or_default(keys::METADATA_DB_URL, keys::metadata_url, default_db);
    let srv_service_url = settings.optional(keys::SRV_SERVICE_URL, keys::srv_name);
    let applications_tls = applications_tls(settings, home);
    let dns_server = settings.optional(keys::DNS_SERVER, keys::host_and_port);
    let max_pause = settings.or_default(keys::MAX_PAUSE_MS, keys::pause_ms, Duration::from_secs(30));
    let cassandra_yaml = settings.optional(keys::CASSANDRA_YAML, keys::path_on_nodes);
    Some(ServerConfig {
        listen_address: listen_address?,
        port: port?,
        jmx_port: jmx_port?,
        ssh: ssh?,
        slave_command_path: slave_command_path?,
        store: store?,
        metadata_db: metadata_db?,
        srv_service_url: srv_service_url?,
        applications_tls: applications_tls?,
        dns_server: dns_server?,
        max_pause: max_pause?,
        cassandra_yaml: cassandra_yaml?,
    })
}

fn ssh_config(settings: &mut Settings<'_>, home: Option<&Path>) -> Option<SshConfig> {
    let user = settings.required(keys::SSH_USER, "expected the user for SSH to the nodes", keys::user_name);
    let missing = "expected the file of a private key for SSH to the nodes";
    let private_key_path =
        settings.required(keys::SSH_PRIVATE_KEY_PATH, missing, |value| private_key(value, home));
    if let Some(mode) = private_key_path.as_deref().and_then(mode_for_everybody) {
        let advice = format!("everybody may read this key (mode {mode:04o}): chmod 600 makes it private");
        settings.warn(keys::SSH_PRIVATE_KEY_PATH, &advice);
    }
    let port = settings.or_default(keys::SSH_PORT, keys::port, 22);
    let strict_host_keys = settings.or_default(keys::SSH_STRICT_HOST_KEYS, keys::flag, false);
    let known_hosts_path = known_hosts_path(settings, home, strict_host_keys == Some(true));
    let command_prefix = settings.or_default(keys::SSH_COMMAND_PREFIX, words::split, Vec::new());
    Some(SshConfig {
        user: user?,
        private_key_path: private_key_path?,
        port: port?,
        known_hosts_path: known_hosts_path?,
        strict_host_keys: strict_host_keys?,
        command_prefix: command_prefix?,
    })
}

/// The file may be missing, unless no other host is to be trusted. Inner `None`: there is no home directory.
fn known_hosts_path(
    settings: &mut Settings<'_>,
    home: Option<&Path>,
    strict: bool,
) -> Option<Option<PathBuf>> {
    let judge = |value: &str| match local_path(value, home)?.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound && !strict => local_path(value, home),
        _ => readable_file(value, home),
    };
    let named = settings.optional(keys::SSH_KNOWN_HOSTS_PATH, judge)?;
    let path = named.or_else(|| Some(home?.join(".ssh/known_hosts")));
    if strict && !path.as_deref().is_some_and(Path::is_file) {
        let wanted = path.map_or("a file".to_owned(), |path| path.display().to_string());
        let expected = format!("expected {wanted} with the nodes' host keys, as no others are to be trusted");
        settings.refuse(keys::SSH_STRICT_HOST_KEYS, &expected);
        return None;
    }
    Some(path)
}

/// Outer `None`: there is a problem. Inner `None`: plain gRPC.
fn applications_tls(settings: &mut Settings<'_>, home: Option<&Path>) -> Option<Option<Tls>> {
    let wanted = settings.or_default(keys::SRV_SERVICE_TLS, keys::flag, false);
    let name = settings.optional(keys::SRV_SERVICE_TLS_SERVER_NAME, keys::certified_name);
    if wanted? {
        let missing = "expected a file with the certificates of the authorities that sign those of the applications, \
                       in PEM, such as /etc/ssl/certs/ca-certificates.crt";
        let judge = |value: &str| trusted(value, home, name.clone().flatten().as_deref());
        let tls = settings.required(keys::SRV_SERVICE_TLS_CA_PATH, missing, judge);
        return name.and(tls).map(Some);
    }
    let useless = [keys::SRV_SERVICE_TLS_CA_PATH, keys::SRV_SERVICE_TLS_SERVER_NAME];
    let useless: Vec<_> = useless.into_iter().filter(|key| settings.raw(key).is_some()).collect();
    for key in &useless {
        settings
            .refuse(key, "is of no use without srv_service_tls: expected that to be true, or nothing here");
    }
    useless.is_empty().then_some(None)
}

/// Whose certificates are believed.
pub(crate) fn trusted(value: &str, home: Option<&Path>, name: Option<&str>) -> Result<Tls, keys::Expected> {
    let path = readable_file(value, home)?;
    let bytes = read(&path, CERTIFICATES_LIMIT_BYTES);
    let bytes = bytes.map_err(|error| format!("expected a readable file: {error}"))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > CERTIFICATES_LIMIT_BYTES {
        return Err(format!("expected a file of at most {CERTIFICATES_LIMIT_BYTES} bytes"));
    }
    Tls::of_pem(&bytes, name).map_err(|error| format!("expected certificates in PEM: {error}"))
}

/// The URI tells the kind of store; `storage_type` may only agree.
fn store(settings: &mut Settings<'_>) -> Option<StoreLocation> {
    let missing = "expected where backups are kept, such as file:///mnt/backups";
    let named = settings.optional(keys::STORAGE_TYPE, keys::storage_type)?;
    let of_uri = settings.raw(keys::STORAGE_BASE_URI).and_then(keys::type_of_uri);
    if let (Some(named), Some(of_uri)) = (named, of_uri)
        && named != of_uri
    {
        let expected =
            format!("contradicts storage_base_uri, which is of type {of_uri}: expected {of_uri}, or nothing");
        settings.refuse(keys::STORAGE_TYPE, &expected);
        return None;
    }
    settings.required(keys::STORAGE_BASE_URI, missing, keys::store)
}

/// A key with which the server can log in, kept as `ssh` wants it kept.
fn private_key(value: &str, home: Option<&Path>) -> Result<PathBuf, keys::Expected> {
    let path = readable_file(value, home)?;
    let metadata = path.metadata().map_err(|error| format!("expected a readable file: {error}"))?;
    let (mode, own) = (metadata.mode() & 0o7777, metadata.uid() == rustix::process::getuid().as_raw());
    // The rule of OpenSSH, which leaves alone what belongs to others, such as a mounted secret.
    if own && mode & 0o077 != 0 {
        return Err(format!(
            "expected a key that only its owner may read (mode {mode:04o}): chmod 600 makes it so"
        ));
    }
    match cassy_ssh::check_private_key(&path) {
        Ok(()) => Ok(path),
        Err(SshError::KeyFile { reason, source, .. }) => {
            let source = source.map(|source| format!(" ({source})")).unwrap_or_default();
            Err(format!("expected a private key without a passphrase: {reason}{source}"))
        }
        Err(other) => Err(other.to_string()),
    }
}

fn readable_file(value: &str, home: Option<&Path>) -> Result<PathBuf, keys::Expected> {
    let path = local_path(value, home)?;
    let unreadable = |error| format!("expected a readable file: {error}");
    // First of all: to open a pipe would wait for its other end.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err("expected a readable file: it is not a regular file".to_owned());
    }
    std::fs::File::open(&path).map_err(unreadable)?;
    Ok(path)
}

/// A path on this machine; `~/` is the home directory.
fn local_path(value: &str, home: Option<&Path>) -> Result<PathBuf, keys::Expected> {
    match value.strip_prefix("~/") {
        Some(rest) => Ok(home.ok_or("expected an absolute path: there is no home directory")?.join(rest)),
        None => Ok(PathBuf::from(value)),
    }
}

fn mode_for_everybody(path: &Path) -> Option<u32> {
    let mode = path.metadata().ok()?.mode() & 0o7777;
    (mode & 0o004 != 0).then_some(mode)
}

/// One line for the log: what the server will do, defaults included.
impl fmt::Display for ServerConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none =
            |path: &Option<PathBuf>| path.as_ref().map_or("none".to_owned(), |p| p.display().to_string());
        let ssh = &self.ssh;
        write!(out, "gRPC on {} port {}, JMX port {}, ", self.listen_address, self.port, self.jmx_port)?;
        write!(out, "SSH as {} port {} with {}, ", ssh.user, ssh.port, ssh.private_key_path.display())?;
        write!(out, "known hosts {} (strict: {}), ", or_none(&ssh.known_hosts_path), ssh.strict_host_keys)?;
        if !ssh.command_prefix.is_empty() {
            write!(out, "agent behind {:?}, ", ssh.command_prefix)?;
        }
        write!(out, "agent first in {}, store {}, ", or_none(&self.slave_command_path), self.store)?;
        write!(out, "metadata {}, ", self.metadata_db)?;
        write!(out, "SRV record {}, ", self.srv_service_url.as_deref().unwrap_or("none"))?;
        if let Some(tls) = &self.applications_tls {
            let trust = tls.trust();
            let named = trust.server_name.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
            write!(out, "TLS to its instances{named} by {} authorities, ", trust.authorities.len())?;
        }
        write!(out, "DNS server {}, ", self.dns_server.as_deref().unwrap_or("the system's"))?;
        write!(out, "pauses of at most {} ms, ", self.max_pause.as_millis())?;
        write!(out, "cassandra.yaml {}", or_none(&self.cassandra_yaml))
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
