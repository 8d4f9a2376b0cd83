//! From a `cassandra.yaml` (or nothing) to the directories and settings that matter to backup and restore.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cassy_backup_format::ConfigurationFacts;
use rustix::fs::OFlags;

use super::process::Daemon;
use super::yaml::{self, Document, YamlError};

/// Nobody has more.
const SEEDS_LIMIT: usize = 1_000;

/// Why a configuration cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigurationError {
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is larger than {} bytes", .path.display(), yaml::LIMIT_BYTES)]
    TooLarge { path: PathBuf },
    #[error("{} is not in UTF-8", .path.display())]
    NotText { path: PathBuf },
    #[error("{} is not a configuration of Cassandra", .path.display())]
    Yaml {
        path: PathBuf,
        #[source]
        source: YamlError,
    },
}

/// A configuration that has been read.
#[derive(Debug, Clone)]
pub(crate) struct Configuration {
    /// The `cassandra.yaml`.
    pub(crate) path: PathBuf,
    document: Document,
}

/// What a relative or absent directory is resolved with.
pub(crate) trait Defaults {
    /// A path as Cassandra resolves it.
    fn resolve(&self, path: &str) -> Option<PathBuf>;
    /// Where Cassandra keeps what has no key, by its name there: `data`, `commitlog`, `hints`, `saved_caches`, `cdc_raw`.
    fn storage(&self, name: &str) -> Option<PathBuf>;
}

impl Defaults for Daemon {
    fn resolve(&self, path: &str) -> Option<PathBuf> {
        Daemon::resolve(self, path)
    }

    fn storage(&self, name: &str) -> Option<PathBuf> {
        Daemon::resolve(self, self.property("cassandra.storagedir")?).map(|storage| storage.join(name))
    }
}

/// For a node whose Cassandra is stopped: what was recorded at the backup, else where the packages keep it.
pub(crate) struct Recorded<'a>(pub(crate) &'a ConfigurationFacts);

impl Defaults for Recorded<'_> {
    fn resolve(&self, path: &str) -> Option<PathBuf> {
        Some(PathBuf::from(path)).filter(|path| path.is_absolute())
    }

    fn storage(&self, name: &str) -> Option<PathBuf> {
        let recorded = match name {
            "data" => self.0.data_directories.first(),
            "commitlog" => self.0.commitlog_directory.as_ref(),
            "hints" => self.0.hints_directory.as_ref(),
            "saved_caches" => self.0.saved_caches_directory.as_ref(),
            "cdc_raw" => self.0.cdc_raw_directory.as_ref(),
            _ => None,
        };
        Some(recorded.map_or_else(|| Path::new("/var/lib/cassandra").join(name), PathBuf::from))
    }
}

impl Configuration {
    /// Reads a file, with bounds.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigurationError> {
        let path = path.to_owned();
        let text = read_text(&path)?;
        match Document::parse(&text) {
            Ok(document) => Ok(Self { path, document }),
            Err(source) => Err(ConfigurationError::Yaml { path, source }),
        }
    }

    /// What is written for a number, when it is none.
    pub(crate) fn not_a_number(&self, key: &str) -> Option<String> {
        let written = self.document.text(key)?;
        self.document.number(key).is_none().then(|| written.to_owned())
    }

    /// The seeds, by address or name, without the port that one may have.
    pub(crate) fn seeds(&self) -> Vec<String> {
        let written = self.document.text("seed_provider.parameters.seeds").unwrap_or_default();
        split(written).take(SEEDS_LIMIT).map(|seed| host(&seed)).collect()
    }

    /// The tokens that `initial_token` names.
    pub(crate) fn initial_tokens(&self) -> Vec<String> {
        split(self.document.text("initial_token").unwrap_or_default()).collect()
    }

    /// Whether a node without data of its own streams it from others.
    pub(crate) fn auto_bootstrap(&self) -> Option<bool> {
        self.document.flag("auto_bootstrap")
    }

    /// The facts, directories resolved. What cannot be resolved is absent.
    pub(crate) fn facts(&self, defaults: &dyn Defaults) -> ConfigurationFacts {
        let yaml = &self.document;
        let text = |key: &str| yaml.text(key).map(str::to_owned);
        let directory = |key: &str, name: &str| {
            let path = match yaml.text(key) {
                Some(path) => defaults.resolve(path),
                None => defaults.storage(name),
            };
            path.as_deref().map(display)
        };
        ConfigurationFacts {
            data_directories: self.data_directories(defaults).iter().map(|path| display(path)).collect(),
            local_system_data_directory: yaml
                .text("local_system_data_file_directory")
                .and_then(|path| defaults.resolve(path))
                .as_deref()
                .map(display),
            commitlog_directory: directory("commitlog_directory", "commitlog"),
            hints_directory: directory("hints_directory", "hints"),
            saved_caches_directory: directory("saved_caches_directory", "saved_caches"),
            cdc_raw_directory: self.cdc_raw_directory(&directory),
            num_tokens: yaml.number("num_tokens"),
            initial_token: text("initial_token"),
            cluster_name: text("cluster_name"),
            partitioner: text("partitioner"),
            endpoint_snitch: text("endpoint_snitch"),
            sstable_format: text("sstable.selected_format"),
            uuid_sstable_identifiers: yaml
                .flag("uuid_sstable_identifiers_enabled")
                .or_else(|| yaml.flag("enable_uuid_sstable_identifiers")),
            storage_compatibility_mode: text("storage_compatibility_mode"),
            incremental_backups: yaml.flag("incremental_backups"),
            yaml_path: Some(self.path.to_string_lossy().into_owned()),
            owner: None,
            group: None,
            directory_mode: 0,
            file_mode: 0,
        }
    }

    fn data_directories(&self, defaults: &dyn Defaults) -> Vec<PathBuf> {
        let listed = self.document.list("data_file_directories");
        if listed.is_empty() {
            return defaults.storage("data").into_iter().collect();
        }
        listed.into_iter().filter_map(|path| defaults.resolve(path)).collect()
    }

    /// Without change data capture Cassandra has no such directory, unless it is named.
    fn cdc_raw_directory(&self, directory: &dyn Fn(&str, &str) -> Option<String>) -> Option<String> {
        let named = self.document.text("cdc_raw_directory").is_some();
        let enabled = self.document.flag("cdc_enabled") == Some(true);
        (named || enabled).then(|| directory("cdc_raw_directory", "cdc_raw")).flatten()
    }

    /// The ports and addresses that a running Cassandra listens on: (what, key, address as written, port).
    pub(crate) fn listeners(&self) -> [Listener; 2] {
        let address = |address: &str, interface: &str| match self.document.text(interface) {
            Some(_) => None,
            None => Some(self.document.text(address).unwrap_or("localhost").to_owned()),
        };
        let port = |key: &str, default| {
            self.document.number(key).and_then(|port| u16::try_from(port).ok()).unwrap_or(default)
        };
        [
            Listener {
                key: "native_transport_port",
                address: address("rpc_address", "rpc_interface"),
                port: port("native_transport_port", 9042),
            },
            Listener {
                key: "storage_port",
                address: address("listen_address", "listen_interface"),
                port: port("storage_port", 7000),
            },
        ]
    }

    /// Datacenter and rack of `cassandra-rackdc.properties` beside the yaml, for the snitches that read them
    /// there; `None` for other snitches.
    pub(crate) fn rack_file(&self) -> Option<Result<RackFile, ConfigurationError>> {
        let snitch = self.document.text("endpoint_snitch")?;
        if simple_name(snitch) != "GossipingPropertyFileSnitch" {
            return None;
        }
        let path = self.path.parent().unwrap_or(Path::new("/")).join("cassandra-rackdc.properties");
        Some(read_text(&path).map(|text| RackFile::parse(path, &text)))
    }
}

/// Where a Cassandra listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// The key of the port.
    pub(crate) key: &'static str,
    /// The address or name; `None` when only the interface is named.
    pub(crate) address: Option<String>,
    /// The port.
    pub(crate) port: u16,
}

/// What `cassandra-rackdc.properties` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RackFile {
    /// The file.
    pub(crate) path: PathBuf,
    /// `dc`.
    pub(crate) datacenter: Option<String>,
    /// `rack`.
    pub(crate) rack: Option<String>,
}

impl RackFile {
    fn parse(path: PathBuf, text: &str) -> Self {
        let value = |name: &str| {
            text.lines()
                .map(str::trim)
                .filter(|line| !line.starts_with(['#', '!']))
                .filter_map(|line| line.split_once(['=', ':']))
                .rfind(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        Self { datacenter: value("dc"), rack: value("rack"), path }
    }
}

/// Addresses in their usual spelling.
fn host(seed: &str) -> String {
    let socket = seed.parse::<SocketAddr>().map(|socket| socket.ip());
    match seed.parse::<IpAddr>().or(socket) {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => seed.split_once(':').map_or(seed, |(name, _port)| name).to_owned(),
    }
}

fn split(list: &str) -> impl Iterator<Item = String> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned)
}

/// The class without its package.
pub(crate) fn simple_name(class: &str) -> &str {
    class.rsplit('.').next().unwrap_or(class)
}

fn read_text(path: &Path) -> Result<String, ConfigurationError> {
    let read = || -> std::io::Result<Vec<u8>> {
        // A FIFO would wait for somebody who writes to it.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = fs::File::options().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(yaml::LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > yaml::LIMIT_BYTES {
        return Err(ConfigurationError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).ok().ok_or_else(|| ConfigurationError::NotText { path: path.to_owned() })
}

fn display(path: &Path) -> String {
    path.components().collect::<PathBuf>().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(text: &str) -> (tempfile::TempDir, Configuration) {
        let etc = tempfile::tempdir().unwrap();
        let path = etc.path().join("cassandra.yaml");
        fs::write(&path, text).unwrap();
        let configuration = Configuration::read(&path).unwrap();
        (etc, configuration)
    }

    #[test]
    fn absent_directories_come_from_what_was_recorded_else_from_the_packages() {
        let recorded = ConfigurationFacts { hints_directory: Some("/h".to_owned()), ..Default::default() };
        let (_etc, configuration) =
            configuration("cluster_name: c\ndata_file_directories: [/a, /b/]\ncdc_enabled: true\n");
        let facts = configuration.facts(&Recorded(&recorded));
        assert_eq!(facts.data_directories, ["/a", "/b"]);
        assert_eq!(facts.hints_directory.as_deref(), Some("/h"));
        assert_eq!(facts.commitlog_directory.as_deref(), Some("/var/lib/cassandra/commitlog"));
        assert_eq!(facts.cdc_raw_directory.as_deref(), Some("/var/lib/cassandra/cdc_raw"));
    }

    #[test]
    fn a_rack_file_is_read_for_the_gossiping_snitch_only() {
        let (etc, with) = configuration("endpoint_snitch: GossipingPropertyFileSnitch\n");
        assert!(with.rack_file().unwrap().is_err());
        let file = etc.path().join("cassandra-rackdc.properties");
        fs::write(&file, "# dc=no\ndc = dc1\nrack=r1\n\nprefer_local: true\n").unwrap();
        let rack = with.rack_file().unwrap().unwrap();
        assert_eq!((rack.datacenter.as_deref(), rack.rack.as_deref()), (Some("dc1"), Some("r1")));
        assert!(configuration("endpoint_snitch: SimpleSnitch\n").1.rack_file().is_none());
    }

    #[test]
    fn listeners_have_cassandras_defaults() {
        let [native, storage] = configuration("listen_address: 10.0.0.1\nstorage_port: 7100\n").1.listeners();
        assert_eq!((native.address.as_deref(), native.port), (Some("localhost"), 9042));
        assert_eq!((storage.address.as_deref(), storage.port), (Some("10.0.0.1"), 7100));
        let [_, storage] = configuration("listen_interface: eth0\n").1.listeners();
        assert_eq!(storage.address, None);
    }

    #[test]
    fn seeds_and_tokens_are_listed_without_what_is_written_around_them() {
        let seeds = "10.0.0.1:7000, ::ffff:10.0.0.2,[2001:DB8::1]:7000 ,2001:DB8::2,node5,node6:7000,";
        let (_etc, configuration) = configuration(&format!(
            "initial_token: -5, 6 ,\nauto_bootstrap: no\nseed_provider:\n  - parameters: [{{seeds: '{seeds}'}}]\n"
        ));
        let expected = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "node5", "node6"];
        assert_eq!(configuration.seeds(), expected);
        assert_eq!(configuration.initial_tokens(), ["-5", "6"]);
        assert_eq!(configuration.auto_bootstrap(), Some(false));
    }

    #[test]
    fn what_is_no_configuration_is_refused_by_name() {
        let etc = tempfile::tempdir().unwrap();
        let path = etc.path().join("c.yaml");
        let error = |path: &Path| Configuration::read(path).unwrap_err().to_string();
        assert!(error(&path).contains("cannot read"));
        assert!(error(etc.path()).contains("cannot read"));
        fs::write(&path, [0xff, 0xfe, b'a']).unwrap();
        assert!(error(&path).contains("UTF-8"));
        fs::write(&path, "a: [").unwrap();
        assert!(error(&path).contains("not a configuration"));
        fs::write(&path, "a".repeat(2 << 20)).unwrap();
        assert!(error(&path).contains("larger"));
    }
}
