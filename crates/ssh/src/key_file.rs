//! The private key that the server logs in with: OpenSSH's own format, PKCS#1, PKCS#8 and SEC1.

use std::path::Path;
use std::sync::Arc;

use russh::keys::{Algorithm, HashAlg, PrivateKey, decode_secret_key};
use tokio::io::AsyncReadExt;

use crate::error::SshError;

/// No key file is longer.
const LIMIT_BYTES: u64 = 1 << 20;

/// Reads the key anew each time, so that a replaced file is used at once.
pub(crate) async fn load(path: &Path) -> Result<Arc<PrivateKey>, SshError> {
    let refuse = |reason: String| SshError::KeyFile { path: path.to_owned(), reason, source: None };
    let text = read(path).await.map_err(|source| SshError::KeyFile {
        path: path.to_owned(),
        reason: "the file cannot be read".into(),
        source: Some(source.into()),
    })?;
    if let Some(reason) = unusable(&text) {
        return Err(refuse(reason));
    }
    let key = decode_secret_key(&text, None).map_err(|source| match source {
        russh::keys::Error::KeyIsEncrypted => refuse(ENCRYPTED.into()),
        source => SshError::KeyFile {
            path: path.to_owned(),
            reason: "it is no private key in OpenSSH or PEM format, or it is damaged".into(),
            source: Some(source.into()),
        },
    })?;
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. } => Ok(Arc::new(key)),
        other => Err(refuse(format!("keys of type {other} are not supported; use Ed25519, ECDSA or RSA"))),
    }
}

/// The fingerprint in the notation of `ssh-keygen -l`.
pub(crate) fn fingerprint(key: &PrivateKey) -> String {
    key.public_key().fingerprint(HashAlg::Sha256).to_string()
}

const ENCRYPTED: &str = "it is protected by a passphrase, which nobody can type here; make a key without one \
                         (ssh-keygen -t ed25519 -N '' -f FILE) or take it away (ssh-keygen -p -N '' -f FILE)";

async fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(LIMIT_BYTES).read_to_end(&mut bytes).await?;
    // What is not text is no key; the decoder says so.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What can be said without decoding.
fn unusable(text: &str) -> Option<String> {
    let encrypted_ppk = |line: &str| line.starts_with("Encryption:") && !line.contains("none");
    let head = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(4);
    for line in head {
        if line.starts_with("-----BEGIN ENCRYPTED") || line.contains("4,ENCRYPTED") || encrypted_ppk(line) {
            return Some(ENCRYPTED.into());
        }
        if line.starts_with("-----BEGIN DSA") {
            return Some("DSA keys are not supported; use Ed25519, ECDSA or RSA".into());
        }
        if ["ssh-", "ecdsa-sha2-"].iter().any(|start| line.starts_with(start)) {
            return Some(
                "it holds a public key; the private one is needed, mostly the file without .pub".into(),
            );
        }
    }
    None
}
