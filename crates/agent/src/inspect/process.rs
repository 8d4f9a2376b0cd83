//! Cassandra daemons in `/proc`: which there are, and where the `cassandra.yaml` is that each has loaded.
//!
//! Nothing here trusts a command line further than to read the files that it names.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const DAEMON_CLASS: &str = "org.apache.cassandra.service.CassandraDaemon";
/// Linux itself allows no more for all arguments together on an ordinary stack.
const CMDLINE_LIMIT_BYTES: u64 = 8 << 20;

/// A running Cassandra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    /// The process.
    pub(crate) pid: u32,
    /// In the agent's own network namespace; also when that cannot be read.
    pub(crate) same_network: bool,
    arguments: Vec<String>,
    working_directory: Option<PathBuf>,
    class_path_variable: Option<String>,
}

/// Every daemon below a `/proc`, by process id. Processes that cannot be looked at are passed over.
pub(crate) fn daemons(proc_root: &Path) -> std::io::Result<Vec<Daemon>> {
    let own_network = fs::read_link(proc_root.join("self/ns/net")).ok();
    let mut daemons = Vec::new();
    for entry in fs::read_dir(proc_root)? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        daemons.extend(daemon(pid, &entry.path(), own_network.as_deref()));
    }
    daemons.sort_by_key(|daemon| daemon.pid);
    Ok(daemons)
}

fn daemon(pid: u32, process: &Path, own_network: Option<&Path>) -> Option<Daemon> {
    let arguments = strings(&bounded(&process.join("cmdline"))?);
    if !is_daemon(&arguments) {
        return None;
    }
    let network = fs::read_link(process.join("ns/net")).ok();
    let same_network = match (own_network, network) {
        (Some(own), Some(other)) => own == other,
        _ => true,
    };
    let class_path_variable = bounded(&process.join("environ")).and_then(|bytes| {
        strings(&bytes).iter().find_map(|pair| Some(pair.strip_prefix("CLASSPATH=")?.to_owned()))
    });
    let working_directory = fs::read_link(process.join("cwd")).ok();
    Some(Daemon { pid, same_network, arguments, working_directory, class_path_variable })
}

/// A JVM whose arguments name the daemon's class. `grep CassandraDaemon` is none.
fn is_daemon(arguments: &[String]) -> bool {
    let Some((program, rest)) = arguments.split_first() else { return false };
    let program = program.rsplit('/').next().unwrap_or(program);
    let is_jvm = program.starts_with("java")
        || program.starts_with("jsvc")
        || rest.iter().any(|argument| argument.starts_with("-Dcassandra"));
    is_jvm && rest.iter().any(|argument| argument == DAEMON_CLASS)
}

fn bounded(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(CMDLINE_LIMIT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn strings(bytes: &[u8]) -> Vec<String> {
    bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| OsString::from_vec(part.to_vec()).to_string_lossy().into_owned())
        .collect()
}

impl Daemon {
    /// The last `-Dname=value`.
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.arguments
            .iter()
            .rev()
            .find_map(|argument| argument.strip_prefix("-D")?.strip_prefix(name)?.strip_prefix('='))
    }

    /// A path as the daemon itself would resolve it; `None` for a relative one when its working directory cannot
    /// be read.
    pub(crate) fn resolve(&self, path: &str) -> Option<PathBuf> {
        let path = Path::new(path);
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        Some(self.working_directory.as_ref()?.join(path))
    }

    /// The `cassandra.yaml` that it has loaded, as far as its command line and environment tell: what
    /// `cassandra.config` names, else the first on the class path.
    pub(crate) fn yaml(&self) -> Option<PathBuf> {
        match self.property("cassandra.config") {
            Some(config) => self.configured(config),
            None => self.on_class_path("cassandra.yaml"),
        }
    }

    fn configured(&self, config: &str) -> Option<PathBuf> {
        if let Some(url) = config.strip_prefix("file:") {
            return self.resolve(&decode_percent(file_url_path(url)));
        }
        if config.starts_with('/') {
            return Some(config.into());
        }
        self.on_class_path(config).or_else(|| self.resolve(config).filter(|path| path.is_file()))
    }

    fn on_class_path(&self, name: &str) -> Option<PathBuf> {
        let class_path = self.class_path_argument().or(self.class_path_variable.as_deref())?;
        class_path
            .split(':')
            .filter(|entry| !entry.is_empty())
            .filter_map(|entry| Some(self.resolve(entry)?.join(name)))
            .find(|path| path.is_file())
    }

    fn class_path_argument(&self) -> Option<&str> {
        let place = self
            .arguments
            .iter()
            .rposition(|argument| matches!(argument.as_str(), "-cp" | "-classpath" | "--class-path"));
        match place {
            Some(place) => self.arguments.get(place + 1).map(String::as_str),
            None => self.arguments.iter().rev().find_map(|argument| argument.strip_prefix("--class-path=")),
        }
    }
}

/// The path of what follows `file:`: `/p`, `///p`, `//p` (as some start scripts write it) or `//localhost/p`.
fn file_url_path(url: &str) -> &str {
    let Some(rest) = url.strip_prefix("//") else { return url };
    if let Some(path) = rest.strip_prefix("localhost")
        && path.starts_with('/')
    {
        return path;
    }
    rest
}

fn decode_percent(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = match (first, after.split_first_chunk::<2>()) {
            (b'%', Some((digits, after))) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .map(|code| (code, after)),
            _ => None,
        };
        let (byte, next) = code.unwrap_or((*first, after));
        bytes.push(byte);
        rest = next;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Proc(tempfile::TempDir);

    impl Proc {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("self/ns")).unwrap();
            symlink("net:[1]", root.path().join("self/ns/net")).unwrap();
            Self(root)
        }

        fn process(&self, pid: u32, network: &str, arguments: &[&str], environment: &[&str], cwd: &Path) {
            let process = self.0.path().join(pid.to_string());
            fs::create_dir_all(process.join("ns")).unwrap();
            symlink(network, process.join("ns/net")).unwrap();
            symlink(cwd, process.join("cwd")).unwrap();
            fs::write(process.join("cmdline"), arguments.join("\0") + "\0").unwrap();
            fs::write(process.join("environ"), environment.join("\0")).unwrap();
        }
    }

    #[test]
    fn only_jvms_with_the_class_are_daemons() {
        let proc = Proc::new();
        let here = Path::new("/");
        proc.process(7, "net:[1]", &["/usr/bin/java", "-Xmx1g", DAEMON_CLASS], &[], here);
        proc.process(8, "net:[2]", &["java", DAEMON_CLASS], &[], here);
        proc.process(9, "net:[1]", &["grep", DAEMON_CLASS], &[], here);
        proc.process(10, "net:[1]", &["java", "org.apache.cassandra.tools.NodeTool"], &[], here);
        fs::create_dir(proc.0.path().join("11")).unwrap();
        let daemons = daemons(proc.0.path()).unwrap();
        let found: Vec<_> = daemons.iter().map(|daemon| (daemon.pid, daemon.same_network)).collect();
        assert_eq!(found, [(7, true), (8, false)]);
    }

    #[test]
    fn the_configuration_is_found_in_every_way_that_cassandra_knows() {
        let etc = tempfile::tempdir().unwrap();
        let conf = etc.path().join("conf");
        fs::create_dir(&conf).unwrap();
        fs::write(conf.join("cassandra.yaml"), "a: b").unwrap();
        fs::write(conf.join("other.yaml"), "a: b").unwrap();
        let path = conf.to_str().unwrap();
        let yaml = |arguments: &[&str], environment: &[&str]| {
            let proc = Proc::new();
            let mut all = vec!["java"];
            all.extend(arguments);
            all.push(DAEMON_CLASS);
            proc.process(7, "net:[1]", &all, environment, etc.path());
            daemons(proc.0.path()).unwrap().pop().unwrap().yaml()
        };
        let property = |value: &str| yaml(&[&format!("-Dcassandra.config={value}")], &[]);
        assert_eq!(property("file:///etc/a%20b.yaml"), Some("/etc/a b.yaml".into()));
        assert_eq!(property("file:/etc/a.yaml"), Some("/etc/a.yaml".into()));
        assert_eq!(property("file:///x"), Some("/x".into()));
        assert_eq!(property("file://localhost/x"), Some("/x".into()));
        assert_eq!(property("/etc/a.yaml"), Some("/etc/a.yaml".into()));
        let first = conf.join("cassandra.yaml");
        assert_eq!(yaml(&["-cp", &format!("/nowhere:{path}:/lib/*")], &[]), Some(first.clone()));
        assert_eq!(yaml(&["-classpath", "conf:lib/*"], &[]), Some(first.clone()));
        assert_eq!(yaml(&[], &["A=b", &format!("CLASSPATH={path}")]), Some(first));
        assert_eq!(yaml(&["-Dcassandra.config=other.yaml", "-cp", path], &[]), Some(conf.join("other.yaml")));
        assert_eq!(yaml(&["-cp", "/nowhere"], &[]), None);
    }

    #[test]
    fn a_stray_percent_stays() {
        assert_eq!(decode_percent("%2F%zz%4"), "/%zz%4");
    }
}
