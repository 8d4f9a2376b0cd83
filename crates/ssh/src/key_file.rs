//! The private key that the server logs in with: OpenSSH's own format, PKCS#1, PKCS#8 and SEC1.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use russh::keys::{Algorithm, HashAlg, PrivateKey, decode_secret_key};

use crate::error::SshError;

/// No key file is longer.
const LIMIT_BYTES: u64 = 1 << 20;

/// Reads the key anew each time, so that a replaced file is used at once.
pub(crate) async fn load(path: &Path) -> Result<Arc<PrivateKey>, SshError> {
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_key(&path));
    reading.await.expect("reading a key does not panic")
}

/// Whether the file holds a private key that can be used; what is wrong is [`SshError::KeyFile`].
pub fn check_private_key(path: &Path) -> Result<(), SshError> {
    read_key(path).map(|_key| ())
}

fn read_key(path: &Path) -> Result<Arc<PrivateKey>, SshError> {
    let refuse =
        |reason: &str, source| SshError::KeyFile { path: path.to_owned(), reason: reason.to_owned(), source };
    let text = read(path).map_err(|source| refuse("the file cannot be read", Some(source.into())))?;
    if let Some(reason) = unusable(&text) {
        return Err(refuse(reason, None));
    }
    let key = decode_secret_key(&text, None).map_err(|source| match source {
        russh::keys::Error::KeyIsEncrypted => refuse(ENCRYPTED, None),
        source => {
            refuse("it is no private key in OpenSSH or PEM format, or it is damaged", Some(source.into()))
        }
    })?;
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. } => Ok(Arc::new(key)),
        other => {
            let reason = format!("keys of type {other} are not supported; use Ed25519, ECDSA or RSA");
            Err(refuse(&reason, None))
        }
    }
}

/// The fingerprint in the notation of `ssh-keygen -l`.
pub(crate) fn fingerprint(key: &PrivateKey) -> String {
    key.public_key().fingerprint(HashAlg::Sha256).to_string()
}

const ENCRYPTED: &str = "it is protected by a passphrase, which nobody can type here; make a key without one \
                         (ssh-keygen -t ed25519 -N '' -f FILE) or take it away (ssh-keygen -p -N '' -f FILE)";

fn read(path: &Path) -> std::io::Result<String> {
    // To open a pipe would wait for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LIMIT_BYTES).read_to_end(&mut bytes)?;
    // What is not text is no key; the decoder says so.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What can be said without decoding.
fn unusable(text: &str) -> Option<&'static str> {
    let encrypted_ppk = |line: &str| line.starts_with("Encryption:") && !line.contains("none");
    let head = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(4);
    for line in head {
        if line.starts_with("-----BEGIN ENCRYPTED") || line.contains("4,ENCRYPTED") || encrypted_ppk(line) {
            return Some(ENCRYPTED);
        }
        if line.starts_with("-----BEGIN DSA") {
            return Some("DSA keys are not supported; use Ed25519, ECDSA or RSA");
        }
        if ["ssh-", "ecdsa-sha2-"].iter().any(|start| line.starts_with(start)) {
            return Some("it holds a public key; the private one is needed, mostly the file without .pub");
        }
    }
    None
}
