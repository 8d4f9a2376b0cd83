//! TLS to the instances: whose certificates are believed, and under which name.
//!
//! Invariants: a certificate is always checked, against the authorities that were named and no others; what travels to a
//! guard are certificates and a name, never a key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cassy_agent_protocol::TlsTrust;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::dial::ByteStream;
use crate::error::shown;

/// TLS as instances are spoken to by it. Clones share what they know.
#[derive(Clone)]
pub struct Tls {
    trust: Arc<TlsTrust>,
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

/// Two are the same when they believe the same.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.trust == other.trust
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authorities = self.trust.authorities.len();
        f.debug_struct("Tls").field("authorities", &authorities).field("name", &self.name).finish()
    }
}

/// What nobody can be believed by.
#[derive(Debug, thiserror::Error)]
pub enum TlsTrustError {
    /// A file of something else.
    #[error("there is no certificate in it (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// A damaged file.
    #[error("its certificates cannot be read: {0}")]
    Unreadable(String),
    /// One of them.
    #[error("its certificate number {number} cannot be used: {reason}")]
    Odd {
        /// From 1.
        number: usize,
        /// Why not.
        reason: String,
    },
    /// No certificate can be for it.
    #[error("{name} is not the name of a host")]
    OddName {
        /// As it can be shown.
        name: String,
    },
}

impl Tls {
    /// The certificates in this PEM file are the authorities; whatever else is in it is not looked at. `name` is
    /// whom the certificates of the instances have to be for, where that is not the target of the SRV record.
    ///
    /// # Errors
    /// When there is none, or one that cannot be used.
    pub fn of_pem(pem: &[u8], name: Option<&str>) -> Result<Self, TlsTrustError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|error| TlsTrustError::Unreadable(error.to_string()))?;
        let authorities = found.iter().map(|certificate| STANDARD.encode(certificate)).collect();
        Self::of(TlsTrust { authorities, server_name: name.map(ToOwned::to_owned) })
    }

    /// As somebody else has it.
    ///
    /// # Errors
    /// When there is none, or one that cannot be used.
    pub fn of(trust: TlsTrust) -> Result<Self, TlsTrustError> {
        let mut roots = RootCertStore::empty();
        for (number, authority) in (1..).zip(&trust.authorities) {
            let odd = |reason: String| TlsTrustError::Odd { number, reason };
            let certificate = STANDARD.decode(authority).map_err(|error| odd(error.to_string()))?;
            roots.add(certificate.into()).map_err(|error| odd(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(TlsTrustError::NoCertificate);
        }
        let name = trust.server_name.as_deref().map(server_name).transpose()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("this provider has them all");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { name, config: Arc::new(config), trust: Arc::new(trust) })
    }

    /// Whether a certificate can be for this name.
    ///
    /// # Errors
    /// When none can.
    pub fn check_name(name: &str) -> Result<(), TlsTrustError> {
        server_name(name).map(drop)
    }

    /// What a guard has to know of it.
    #[must_use]
    pub fn trust(&self) -> &TlsTrust {
        &self.trust
    }

    /// Speaks TLS on this connection with whoever has a certificate for this host.
    pub(crate) async fn over(
        &self,
        stream: Box<dyn ByteStream>,
        host: &str,
    ) -> Result<Box<dyn ByteStream>, TlsError> {
        let of_host = || {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let odd = |_| TlsError::OddName { name: shown(host) };
            ServerName::try_from(bare.to_owned()).map_err(odd)
        };
        let name = self.name.clone().map_or_else(of_host, Ok)?;
        match TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(error) => Err(TlsError::of(error)),
                None => Err(TlsError::Lost(error.to_string())),
            },
        }
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsTrustError> {
    let odd = |_| TlsTrustError::OddName { name: shown(name) };
    ServerName::try_from(name.to_owned()).map_err(odd)
}

/// Why there is no TLS with an instance. Nothing was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// No certificate can be for the target of the SRV record.
    #[error("no certificate can be for the name {name}")]
    OddName {
        /// As it can be shown.
        name: String,
    },
    /// Its certificate is for somebody else.
    #[error("its certificate is not for {expected}, but for {}", listed(.presented))]
    OtherName {
        /// Whom it was expected to be for.
        expected: String,
        /// Whom it is for.
        presented: Vec<String>,
    },
    /// Nobody who is believed has signed it.
    #[error("its certificate is signed by nobody whom srv_service_tls_ca_path names")]
    Unknown,
    /// Its certificate is over, or not yet good.
    #[error("its certificate {0}")]
    OutOfDate(String),
    /// Its certificate, for another reason.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// It says something else.
    #[error("what it answers is not TLS")]
    NotTls,
    /// It ended the handshake.
    #[error("it ended the handshake: {0}")]
    Refused(String),
    /// It went away.
    #[error("the connection was lost during the handshake: {0}")]
    Lost(String),
}

impl TlsError {
    fn of(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(reason) => Self::of_certificate(reason),
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) => Self::NotTls,
            other => Self::Refused(shown(&other.to_string())),
        }
    }

    fn of_certificate(reason: &CertificateError) -> Self {
        let between = |from: u64, to: u64| lasting(Duration::from_secs(to.saturating_sub(from)));
        match reason {
            // The second: by somebody of the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Unknown,
            CertificateError::ExpiredContext { time, not_after } => {
                Self::OutOfDate(format!("expired {} ago", between(not_after.as_secs(), time.as_secs())))
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                let ahead = between(time.as_secs(), not_before.as_secs());
                Self::OutOfDate(format!("is not valid yet, by this machine's clock for {ahead}"))
            }
            CertificateError::NotValidForNameContext { expected, presented } => Self::OtherName {
                expected: expected.to_str().into_owned(),
                presented: presented.iter().map(|name| shown(bare(name))).collect(),
            },
            other => Self::Certificate(shown(&other.to_string())),
        }
    }

    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::OddName { .. } => {
                "Correct the target of the SRV record, or name the certificate's host in srv_service_tls_server_name."
            }
            Self::OtherName { .. } => {
                "Give the application a certificate with the target of its SRV record in subjectAltName, or write the \
                 name that its certificate has into srv_service_tls_server_name."
            }
            Self::Unknown => {
                "Put the certificate of the authority that signed it into the file that srv_service_tls_ca_path names, \
                 and let the application send its intermediate certificates, too."
            }
            Self::OutOfDate(_) => "Renew the application's certificate; compare the clocks of both machines.",
            Self::Certificate(_) => {
                "Give the application an end-entity certificate that an authority of srv_service_tls_ca_path has signed."
            }
            Self::NotTls => {
                "Look whether the application's rpc.Admin speaks TLS on this port; if all speak plain gRPC, set \
                 srv_service_tls to false."
            }
            Self::Refused(_) | Self::Lost(_) => {
                "Look into the application's log, and whether its rpc.Admin speaks TLS on this port (1.2 or 1.3); Cassy \
                 shows no certificate of its own."
            }
        }
    }
}

/// `DnsName("a.example.com")` without its kind.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

/// Names of a certificate; there may be many.
fn listed(names: &[String]) -> String {
    const NAMED: usize = 5;
    match names.len() {
        0 => "nobody (it has no subjectAltName)".to_owned(),
        count if count > NAMED => format!("{} and {} others", names[..NAMED].join(", "), count - NAMED),
        _ => names.join(", "),
    }
}

fn lasting(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 2 * 3600 => format!("{} min", seconds / 60),
        seconds if seconds < 48 * 3600 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / (24 * 3600)),
    }
}
