//! Is this the node that it was before? What known_hosts says goes first, then what Cassy saw at the first
//! connection. Reading happens before the connection; [`KnownKeys::judge`] is pure.
//!
//! Invariants: a host with any known key is never accepted with another one, whatever its type (the types of
//! the known keys are asked for first); a revoked key is never accepted; what cannot be read is an error, not
//! an unknown host.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey};
use sha1::Sha1;

use crate::error::{BoxError, Endpoint, KnownIn, SshError};

/// The system-wide file, read when the user's own is not named in the configuration.
const SYSTEM_FILE: &str = "/etc/ssh/ssh_known_hosts";

/// Remembers the host keys seen at first connections.
#[async_trait]
pub trait HostKeys: Send + Sync {
    /// The key remembered for this host and port, as `remember` was given it.
    async fn known(&self, host: &str, port: u16) -> Result<Option<String>, BoxError>;

    /// Remembers a key (`ssh-ed25519 AAAA...`). A key that is there already stays: two first connections may
    /// happen at once.
    async fn remember(&self, host: &str, port: u16, key: &str) -> Result<(), BoxError>;
}

/// What is known of one host before it is connected to.
#[derive(Debug)]
pub(crate) struct KnownKeys {
    node: Endpoint,
    strict: bool,
    /// The file that new keys are added to by hand.
    file: PathBuf,
    /// Entries for exactly this host and port, or for a pattern that covers it.
    listed: Vec<Known>,
    /// Entries for the host without its port: they can vouch for a key, not refuse one.
    portless: Vec<Known>,
    revoked: Vec<Known>,
    remembered: Option<PublicKey>,
}

#[derive(Debug, Clone)]
struct Known {
    key: PublicKey,
    known_in: KnownIn,
}

/// A key that may be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// It was known.
    Known,
    /// It is seen for the first time, and is to be remembered once the login succeeded.
    FirstSeen,
}

impl KnownKeys {
    /// Reads the files, and asks `memory`.
    pub(crate) async fn read(
        node: &Endpoint,
        file: Option<&Path>,
        strict: bool,
        memory: &dyn HostKeys,
    ) -> Result<Self, SshError> {
        let files = match file {
            Some(file) => vec![file.to_owned()],
            None => default_files(),
        };
        let mut known = Self {
            node: node.clone(),
            strict,
            file: files.first().cloned().unwrap_or_default(),
            listed: Vec::new(),
            portless: Vec::new(),
            revoked: Vec::new(),
            remembered: None,
        };
        for path in files {
            match tokio::fs::read(&path).await {
                Ok(text) => known.add_file(&path, &String::from_utf8_lossy(&text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(SshError::KnownHosts { path, source }),
            }
        }
        known.remembered = remembered(node, memory).await?;
        Ok(known)
    }

    fn add_file(&mut self, path: &Path, text: &str) {
        let names = Names::of(&self.node);
        for (index, line) in text.lines().enumerate() {
            // As ssh does, lines that cannot be understood are passed over.
            let Ok(entry) = line.trim().parse::<Entry>() else { continue };
            let listed = covers(entry.host_patterns(), &names.with_port);
            let portless = covers(entry.host_patterns(), &names.host);
            let known = Known {
                key: entry.public_key().clone(),
                known_in: KnownIn::File { path: path.to_owned(), line: index + 1 },
            };
            match entry.marker() {
                Some(Marker::Revoked) if listed || portless => self.revoked.push(known),
                Some(_) => {}
                None if listed => self.listed.push(known),
                None if portless => self.portless.push(known),
                None => {}
            }
        }
    }

    /// The host key algorithms to ask for, those of known keys first. SHA-1 signatures are never asked for.
    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        let known: Vec<Algorithm> = match self.listed.is_empty() && self.portless.is_empty() {
            true => self.remembered.iter().map(PublicKey::algorithm).collect(),
            false => self.listed.iter().chain(&self.portless).map(|known| known.key.algorithm()).collect(),
        };
        let mut algorithms = OFFERED.to_vec();
        algorithms.sort_by_key(|offered| !known.iter().any(|known| same_type(known, offered)));
        algorithms
    }

    /// May this key be talked to?
    pub(crate) fn judge(&self, shown: &PublicKey) -> Result<Trust, SshError> {
        let is_shown = |known: &&Known| known.key.key_data() == shown.key_data();
        if let Some(revoked) = self.revoked.iter().find(is_shown) {
            return Err(SshError::HostKeyRevoked {
                node: self.node.clone(),
                known_in: revoked.known_in.clone(),
                shown: described(shown),
            });
        }
        if self.listed.iter().any(|known| is_shown(&known)) {
            return Ok(Trust::Known);
        }
        let same_type_first =
            self.listed.iter().min_by_key(|known| !same_type(&known.key.algorithm(), &shown.algorithm()));
        if let Some(known) = same_type_first {
            return Err(self.changed(known.known_in.clone(), &known.key, shown));
        }
        if self.portless.iter().any(|known| is_shown(&known)) {
            return Ok(Trust::Known);
        }
        match &self.remembered {
            Some(key) if key.key_data() == shown.key_data() => Ok(Trust::Known),
            Some(key) => Err(self.changed(KnownIn::FirstSeen, key, shown)),
            None if self.strict => Err(SshError::HostKeyUnknown {
                node: self.node.clone(),
                shown: described(shown),
                file: self.file.clone(),
            }),
            None => Ok(Trust::FirstSeen),
        }
    }

    fn changed(&self, known_in: KnownIn, known: &PublicKey, shown: &PublicKey) -> SshError {
        SshError::HostKeyChanged {
            node: self.node.clone(),
            known_in: Box::new(known_in),
            known: described(known),
            shown: described(shown),
            file: self.file.clone(),
        }
    }
}

/// `ssh-ed25519 SHA256:...`
pub(crate) fn described(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

async fn remembered(node: &Endpoint, memory: &dyn HostKeys) -> Result<Option<PublicKey>, SshError> {
    let failed = |source| SshError::HostKeyStore { node: node.clone(), what: "read", source };
    let Some(text) = memory.known(&node.host, node.port).await.map_err(failed)? else { return Ok(None) };
    PublicKey::from_openssh(&text).map(Some).map_err(|source| failed(source.into()))
}

fn default_files() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from(SYSTEM_FILE)];
    if let Some(home) = std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) {
        files.insert(0, home.join(".ssh/known_hosts"));
    }
    files
}

const OFFERED: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// The same kind of key, whatever hash an RSA signature uses.
fn same_type(a: &Algorithm, b: &Algorithm) -> bool {
    matches!((a, b), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. })) || a == b
}

/// How known_hosts files name a node.
struct Names {
    /// `host`, or `[host]:port` when the port is not 22.
    with_port: String,
    host: String,
}

impl Names {
    fn of(node: &Endpoint) -> Self {
        let host = node.host.to_lowercase();
        let with_port = match node.port {
            22 => host.clone(),
            port => format!("[{host}]:{port}"),
        };
        Self { with_port, host }
    }
}

fn covers(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
            .is_ok_and(|hmac| hmac.chain_update(name).verify_slice(hash).is_ok()),
        HostPatterns::Patterns(patterns) => {
            let matching = |pattern: &str| glob(pattern.to_lowercase().as_bytes(), name.as_bytes());
            let negated = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(matching);
            !negated && patterns.iter().any(|pattern| matching(pattern))
        }
    }
}

/// `*` is any text, `?` any one character.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    // Where to go on when the rest does not match: after the last `*`, one more byte of the name taken by it.
    let (mut pattern, mut name) = (pattern, name);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => return true,
            (Some((b'*', rest)), _) => {
                retry = Some((rest, name));
                pattern = rest;
            }
            (Some((&p, rest)), Some((&n, tail))) if p == n || p == b'?' => (pattern, name) = (rest, tail),
            _ => {
                let Some((after_star, taken_from)) = retry else { return false };
                let Some((_, tail)) = taken_from.split_first() else { return false };
                retry = Some((after_star, tail));
                (pattern, name) = (after_star, tail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=";

    fn known(host: &str, port: u16, strict: bool, file: &str, remembered: Option<&str>) -> KnownKeys {
        let mut known = KnownKeys {
            node: Endpoint { host: host.into(), port },
            strict,
            file: "kh".into(),
            listed: vec![],
            portless: vec![],
            revoked: vec![],
            remembered: remembered.map(key),
        };
        known.add_file(Path::new("kh"), file);
        known
    }

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).unwrap()
    }

    /// What becomes of a host that shows ED.
    fn verdict(host: &str, port: u16, file: &str) -> String {
        match known(host, port, false, file, None).judge(&key(ED)) {
            Ok(trust) => format!("{trust:?}"),
            Err(SshError::HostKeyChanged { known_in, .. }) => format!("changed {known_in}"),
            Err(SshError::HostKeyRevoked { known_in, .. }) => format!("revoked {known_in}"),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn listed_hosts() {
        for (host, port, file, expected) in [
            ("n1", 22, format!("n1 {ED}"), "Known"),
            ("N1", 22, format!("n1 {ED}"), "Known"),
            ("n1", 22, format!("n2,n1 {ED} a comment"), "Known"),
            ("n1", 22, format!("# n1 {OTHER}\n\nn1 {ED}"), "Known"),
            ("n1", 22, format!("n2 {OTHER}"), "FirstSeen"),
            ("n1", 22, format!("# top\nn1 {OTHER}"), "changed kh:2"),
            ("n1", 22, format!("n1 {OTHER}\nn1 {ED}"), "Known"),
            ("n1", 22, format!("n1 {ECDSA}"), "changed kh:1"),
            ("n1", 22, format!("n1 {ECDSA}\nn1 {OTHER}"), "changed kh:2"),
            ("n1", 2222, format!("[n1]:2222 {ED}"), "Known"),
            ("n1", 2222, format!("[n1]:2222 {OTHER}"), "changed kh:1"),
            ("n1", 2222, format!("[n1]:2223 {OTHER}"), "FirstSeen"),
            ("n1", 2222, format!("n1 {ED}"), "Known"),
            ("n1", 2222, format!("n1 {OTHER}"), "FirstSeen"),
            ("n1", 2222, format!("n1 {ED}\n[n1]:2222 {OTHER}"), "changed kh:2"),
            ("fe80::1", 2222, format!("[fe80::1]:2222 {ED}"), "Known"),
            ("n1.db.lan", 22, format!("*.db.lan {ED}"), "Known"),
            ("n1.db.lan", 22, format!("*.db.lan,!n?.db.lan {OTHER}"), "FirstSeen"),
            ("n1", 22, format!("@revoked * {ED}\nn1 {ED}"), "revoked kh:1"),
            ("n1", 22, format!("@revoked * {OTHER}\nn1 {ED}"), "Known"),
            ("n1", 22, format!("@cert-authority * {OTHER}"), "FirstSeen"),
            ("n1", 22, "n1 ssh-ed25519 garbage\nn1\nn1 rsa1 x".to_string(), "FirstSeen"),
        ] {
            assert_eq!(verdict(host, port, &file), expected, "{host}:{port} in {file}");
        }
    }

    #[test]
    fn hashed_names() {
        let line = format!("|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak= {OTHER}");
        assert_eq!(verdict("example.com", 22, &line), "changed kh:1");
        assert_eq!(verdict("example.org", 22, &line), "FirstSeen");
    }

    #[test]
    fn remembered_keys() {
        assert_eq!(known("n1", 22, true, "", Some(ED)).judge(&key(ED)).unwrap(), Trust::Known);
        let changed = known("n1", 22, false, "", Some(OTHER)).judge(&key(ED)).unwrap_err();
        assert!(
            matches!(changed, SshError::HostKeyChanged { known_in, .. } if *known_in == KnownIn::FirstSeen)
        );
        // What the operator wrote goes before what was seen.
        let listed = known("n1", 22, false, &format!("n1 {ED}"), Some(OTHER));
        assert_eq!(listed.judge(&key(ED)).unwrap(), Trust::Known);
    }

    #[test]
    fn strict_mode_refuses_the_unknown() {
        let error = known("n1", 2222, true, "", None).judge(&key(ED)).unwrap_err();
        assert!(error.to_string().contains("n1:2222"), "{error}");
        assert!(error.hint().unwrap().contains("ssh-keyscan -p 2222 n1 >> kh"));
    }

    #[test]
    fn known_types_are_asked_for_first() {
        let first = |file: &str, remembered| known("n1", 22, false, file, remembered).algorithms().remove(0);
        assert_eq!(first("", None), Algorithm::Ed25519);
        let p256 = Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 };
        assert_eq!(first("", Some(ECDSA)), p256);
        assert_eq!(first(&format!("n1 {ECDSA}"), Some(ED)), p256);
        assert!(!known("n1", 22, false, "", None).algorithms().contains(&Algorithm::Rsa { hash: None }));
    }

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("?", "", false),
            ("*.*", "a.b.c", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
