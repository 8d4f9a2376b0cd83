//! The `s3:` backend: on real servers, and on fakes that say that they are, for what no honest server does.

mod credentials;
mod fake;
mod hostile;
mod real;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cassy_backup_format::ObjectKey;
use cassy_store::{Credentials, Patience, S3Credentials, S3Settings, Store, StoreAccess};

/// Tests wait as long as needed, and not as long as operators are ready to.
const PATIENCE: Patience =
    Patience { tries: 4, pause: Duration::from_millis(5), silence: Duration::from_secs(20) };

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

fn settings(endpoint: &str, ca_file: Option<&Path>) -> S3Settings {
    let ca_pem = ca_file.map(|file| std::fs::read_to_string(file).expect("the certificate is there"));
    S3Settings { endpoint: Some(endpoint.to_owned()), ca_pem, patience: PATIENCE, ..S3Settings::default() }
}

fn keys_of(id: &str, secret: &str) -> Credentials {
    Credentials::fixed(S3Credentials {
        access_key_id: id.to_owned(),
        secret_access_key: secret.to_owned(),
        session_token: None,
        expires_at_ms: None,
    })
}

fn open(location: &str, s3: S3Settings, credentials: Credentials) -> Arc<dyn Store> {
    let access = StoreAccess { location: location.to_owned(), s3, credentials: Some(credentials) };
    cassy_store::open(&access).expect("it opens")
}
