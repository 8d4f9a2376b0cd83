//! The keys of the configuration file: what each is called, and how a value is judged.

use cassy_catalog::{MetadataUrl, OpenError};
use cassy_pause::Tls;
use cassy_store::StoreLocation;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What every key begins with.
pub(crate) const PREFIX: &str = "scalar.cassy.server.";

pub(crate) const PORT: &str = "port";
pub(crate) const LISTEN_ADDRESS: &str = "listen_address";
pub(crate) const JMX_PORT: &str = "jmx_port";
pub(crate) const SSH_USER: &str = "ssh_user";
pub(crate) const SSH_PRIVATE_KEY_PATH: &str = "ssh_private_key_path";
pub(crate) const SSH_PORT: &str = "ssh_port";
pub(crate) const SSH_KNOWN_HOSTS_PATH: &str = "ssh_known_hosts_path";
pub(crate) const SSH_STRICT_HOST_KEYS: &str = "ssh_strict_host_keys";
pub(crate) const SSH_COMMAND_PREFIX: &str = "ssh_command_prefix";
pub(crate) const SLAVE_COMMAND_PATH: &str = "slave_command_path";
pub(crate) const STORAGE_BASE_URI: &str = "storage_base_uri";
pub(crate) const STORAGE_TYPE: &str = "storage_type";
pub(crate) const METADATA_DB_URL: &str = "metadata_db_url";
pub(crate) const SRV_SERVICE_URL: &str = "srv_service_url";
pub(crate) const SRV_SERVICE_TLS: &str = "srv_service_tls";
pub(crate) const SRV_SERVICE_TLS_CA_PATH: &str = "srv_service_tls_ca_path";
pub(crate) const SRV_SERVICE_TLS_SERVER_NAME: &str = "srv_service_tls_server_name";
pub(crate) const DNS_SERVER: &str = "dns_server";
pub(crate) const MAX_PAUSE_MS: &str = "max_pause_ms";
pub(crate) const CASSANDRA_YAML: &str = "cassandra_yaml";

/// All of them, without the prefix.
pub(crate) const ALL: [&str; 20] = [
    PORT,
    LISTEN_ADDRESS,
    JMX_PORT,
    SSH_USER,
    SSH_PRIVATE_KEY_PATH,
    SSH_PORT,
    SSH_KNOWN_HOSTS_PATH,
    SSH_STRICT_HOST_KEYS,
    SSH_COMMAND_PREFIX,
    SLAVE_COMMAND_PATH,
    STORAGE_BASE_URI,
    STORAGE_TYPE,
    METADATA_DB_URL,
    SRV_SERVICE_URL,
    SRV_SERVICE_TLS,
    SRV_SERVICE_TLS_CA_PATH,
    SRV_SERVICE_TLS_SERVER_NAME,
    DNS_SERVER,
    MAX_PAUSE_MS,
    CASSANDRA_YAML,
];

/// The known key that an unknown one is most likely meant to be.
pub(crate) fn nearest(unknown: &str) -> Option<&'static str> {
    let written = unknown.strip_prefix(PREFIX).unwrap_or(unknown);
    let written = written.rsplit('.').next().unwrap_or(written).to_lowercase().replace('-', "_");
    let similarity = |key: &&str| strsim::jaro_winkler(key, &written);
    let best = ALL.into_iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(&best) > 0.8).then_some(best)
}

/// What was expected in place of a value; the end of a line of error.
pub(crate) type Expected = String;

pub(crate) fn port(value: &str) -> Result<u16, Expected> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|number| digits && *number != 0);
    number.ok_or_else(|| "expected a port number from 1 to 65535".to_owned())
}

pub(crate) fn ip_address(value: &str) -> Result<IpAddr, Expected> {
    let expected = "expected an IP address, such as 127.0.0.1, or 0.0.0.0 for all interfaces";
    value.parse().ok().ok_or_else(|| expected.to_owned())
}

pub(crate) fn flag(value: &str) -> Result<bool, Expected> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

pub(crate) fn user_name(value: &str) -> Result<String, Expected> {
    let refused = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '<' | '>' | '\'' | '"');
    if value.starts_with('-') || value.contains(refused) {
        return Err("expected a user name".to_owned());
    }
    Ok(value.to_owned())
}

pub(crate) fn path_on_nodes(value: &str) -> Result<PathBuf, Expected> {
    if !value.starts_with('/') {
        return Err("expected an absolute path on the Cassandra nodes".to_owned());
    }
    Ok(PathBuf::from(value))
}

pub(crate) fn metadata_url(value: &str) -> Result<MetadataUrl, Expected> {
    let url: MetadataUrl =
        value.parse().map_err(|error: cassy_catalog::MetadataUrlError| error.to_string())?;
    match url.check_place() {
        Ok(()) => Ok(url),
        Err(OpenError::NoDirectory { .. }) => Err("expected a file in a directory that exists".to_owned()),
        Err(OpenError::NotAFile { .. }) => Err("expected a file: it is not a regular file".to_owned()),
        Err(OpenError::NotADatabase { .. }) => Err("expected an SQLite database: it is none".to_owned()),
        Err(OpenError::NoAccess { source, .. }) => {
            Err(format!("expected a file that can be read and written: {source}"))
        }
        Err(other) => Err(other.to_string()),
    }
}

/// A name that can be looked up: labels of letters, digits, `-` and `_`.
pub(crate) fn srv_name(value: &str) -> Result<String, Expected> {
    let name = value.strip_suffix('.').unwrap_or(value);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
    if name.len() > 253 || !name.split('.').all(label) {
        return Err("expected the name of an SRV record, such as _app._tcp.example.com".to_owned());
    }
    Ok(value.to_owned())
}

/// Whom a certificate is for.
pub(crate) fn certified_name(value: &str) -> Result<String, Expected> {
    let expected =
        |_odd| "expected the name or the address of a host, as it is in its certificate".to_owned();
    Tls::check_name(value).map(|()| value.to_owned()).map_err(expected)
}

/// A host or an address, and a port: `10.0.0.2:53`, `dns.example.com:53`, `[2001:db8::53]:53`.
pub(crate) fn host_and_port(value: &str) -> Result<String, Expected> {
    let expected = || "expected host:port, such as 10.0.0.2:53 or [2001:db8::53]:53".to_owned();
    if value.parse::<std::net::SocketAddr>().is_ok() {
        return Ok(value.to_owned());
    }
    let (host, number) = value.rsplit_once(':').ok_or_else(expected)?;
    port(number).map_err(|_not_a_port| expected())?;
    srv_name(host).map(|_| value.to_owned()).map_err(|_not_a_name| expected())
}

/// The longest pause of the applications: what is shorter holds no snapshot, what is longer nobody can mean.
pub(crate) fn pause_ms(value: &str) -> Result<Duration, Expected> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|number| digits && (100..=600_000).contains(number));
    let expected = || "expected milliseconds from 100 to 600000".to_owned();
    number.map(Duration::from_millis).ok_or_else(expected)
}

/// The kinds of store, by their `storage_type` and the schemes of their URIs.
const STORES: [(&str, &[&str]); 5] = [
    ("file", &["file"]),
    ("aws_s3", &["s3"]),
    ("azure_blob", &["https", "azure", "azblob", "abfs", "abfss"]),
    ("gcs", &["gs", "gcs"]),
    ("sftp", &["sftp"]),
];
const SERVED: &str = "file";
const LATER: &str = "aws_s3, azure_blob, gcs and sftp come with later versions";

/// The store's kind, as `storage_type` names it.
pub(crate) fn storage_type(value: &str) -> Result<&'static str, Expected> {
    let found = STORES.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
    found
        .map(|(name, _)| *name)
        .ok_or_else(|| format!("expected file, or nothing, as the storage_base_uri tells; {LATER}"))
}

/// The kind of the store that this URI is of.
pub(crate) fn type_of_uri(uri: &str) -> Option<&'static str> {
    let (scheme, _) = uri.split_once(':')?;
    let scheme = scheme.to_ascii_lowercase();
    STORES.iter().find(|(_, schemes)| schemes.contains(&scheme.as_str())).map(|(name, _)| *name)
}

pub(crate) fn store(uri: &str) -> Result<StoreLocation, Expected> {
    match type_of_uri(uri) {
        Some(SERVED) => {}
        Some(later) => {
            return Err(format!("{later} is not supported yet: expected file:///absolute/path; {LATER}"));
        }
        None => return Err("expected the URI of a store, such as file:///absolute/path".to_owned()),
    }
    let described = |error: cassy_store::LocationError| {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("expected file:///absolute/path, a directory for the backups alone{hint}")
    };
    let location: StoreLocation = uri.parse().map_err(described)?;
    if let StoreLocation::File(path) = &location {
        could_be_directory(path)?;
    }
    Ok(location)
}

/// What is not there now may be mounted later; what is there and no directory stays in the way.
fn could_be_directory(path: &Path) -> Result<(), Expected> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            Err("expected a directory for the backups: it is none".to_owned())
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Err("expected a directory for the backups: a part of the path is a file".to_owned())
        }
        _ => Ok(()),
    }
}

/// The value as it may be shown: no control characters, nothing that could be a password or a token.
pub(crate) fn shown(key: &str, value: &str) -> String {
    const LIMIT: usize = 120;
    let may_hold_secrets = matches!(key, STORAGE_BASE_URI | METADATA_DB_URL);
    let value = if may_hold_secrets { without_secrets(value) } else { value.to_owned() };
    let mut shown: String = value.chars().take(LIMIT).flat_map(escaped).collect();
    if value.chars().count() > LIMIT {
        shown.push_str("...");
    }
    shown
}

/// Control characters, and those that turn the direction of a text, by their number.
pub(crate) fn escaped(c: char) -> impl Iterator<Item = char> {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let text = if c.is_control() || turns { c.escape_default().to_string() } else { c.to_string() };
    text.chars().collect::<Vec<_>>().into_iter()
}

/// Without user and password before a host, and without query and fragment.
fn without_secrets(uri: &str) -> String {
    let (before, after) = uri.split_at(uri.find("//").map_or(0, |at| at + 2));
    let (after, query) = after.split_at(after.find(['?', '#', ';']).unwrap_or(after.len()));
    let host_end = after.find('/').unwrap_or(after.len());
    let (authority, path) = after.split_at(host_end);
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) if !before.is_empty() => format!("...@{host}"),
        _ => authority.to_owned(),
    };
    let query = if query.is_empty() { "" } else { "?..." };
    format!("{before}{authority}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(port("1"), Ok(1));
        assert_eq!(port("65535"), Ok(65535));
        for bad in ["0", "65536", "-1", "+1", "1.0", "0x10", "ten", "", "１", "99999999999999999999"] {
            assert_eq!(port(bad).unwrap_err(), "expected a port number from 1 to 65535", "{bad}");
        }
    }

    #[test]
    fn names() {
        assert!(srv_name("_app._tcp.example.com").is_ok());
        assert!(srv_name("_app._tcp.example.com.").is_ok());
        for bad in ["<srv-service-url>", "a..b", ".", "a b", "ä", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(srv_name(bad).is_err(), "{bad}");
        }
        assert!(user_name("cassandra").is_ok() && user_name("DOM\\user@realm").is_ok());
        for bad in ["-oProxyCommand=x", "a b", "<username>", "a:b", "root/x"] {
            assert!(user_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dns_servers_and_pauses() {
        for good in ["10.0.0.2:53", "[::1]:5353", "dns.example.com:53"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in ["10.0.0.2", "::1:x", "dns.example.com:0", "a b:53", ":53", "-", "dns:65536"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
        assert_eq!(pause_ms("30000"), Ok(Duration::from_secs(30)));
        for bad in ["99", "600001", "-1", "1s", "30 000", "99999999999999999999"] {
            assert!(pause_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_of_stores() {
        assert_eq!(storage_type("AWS_S3"), Ok("aws_s3"));
        assert_eq!(storage_type("File"), Ok("file"));
        assert!(storage_type("s3").is_err());
        assert_eq!(type_of_uri("S3://bucket"), Some("aws_s3"));
        assert_eq!(type_of_uri("/path"), None);
    }

    #[test]
    fn the_nearest_key() {
        for (written, key) in [
            ("scalar.cassy.server.prot", Some(PORT)),
            ("scalar.cassy.server.ssh-user", Some(SSH_USER)),
            ("port", Some(PORT)),
            ("scalar.cassy.storage_base_url", Some(STORAGE_BASE_URI)),
            ("scalar.cassy.server.JmxPort", Some(JMX_PORT)),
            ("scalar.cassy.server.quux", None),
            ("", None),
        ] {
            assert_eq!(nearest(written), key, "{written}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for (key, value, expected) in [
            (METADATA_DB_URL, "jdbc:mysql://u:p@db:3306/c?password=p", "jdbc:mysql://...@db:3306/c?..."),
            (METADATA_DB_URL, "jdbc:sqlserver://db;user=u;password=p", "jdbc:sqlserver://db?..."),
            (METADATA_DB_URL, "jdbc:sqlite:a@b.db", "jdbc:sqlite:a@b.db"),
            (
                STORAGE_BASE_URI,
                "https://a.blob.core.windows.net/c?sv=1&sig=x",
                "https://a.blob.core.windows.net/c?...",
            ),
            (STORAGE_BASE_URI, "file:///a/b", "file:///a/b"),
            (PORT, "a\nb\u{202e}\u{1b}[31m", "a\\nb\\u{202e}\\u{1b}[31m"),
        ] {
            assert_eq!(shown(key, value), expected);
        }
        assert_eq!(shown(PORT, &"9".repeat(500)).len(), 123);
    }
}
