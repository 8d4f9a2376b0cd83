//! Authorities and the certificates that they sign, made by the test that needs them.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{Doing, Failure};

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now.
    Good,
    /// It was good in 2020.
    Over,
    /// It will be good in 2990.
    Ahead,
}

/// A certificate and its key.
pub struct Identity {
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    /// One that nobody knows yet.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self, Failure> {
        Self::named("an authority of this test")
    }

    /// One of this name; two may bear the same.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn named(name: &str) -> Result<Self, Failure> {
        let mut params = params(&[])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().doing(|| "make a key")?;
        Ok(Self(CertifiedIssuer::self_signed(params, key).doing(|| "make an authority")?))
    }

    /// Its own certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names and addresses.
    ///
    /// # Errors
    /// When there can be none.
    pub fn sign(&self, names: &[&str], validity: Validity) -> Result<Identity, Failure> {
        let mut params = params(names)?;
        let years = match validity {
            Validity::Good => None,
            Validity::Over => Some((2020, 2021)),
            Validity::Ahead => Some((2990, 2991)),
        };
        if let Some((from, to)) = years {
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        }
        let key = KeyPair::generate().doing(|| "make a key")?;
        let certificate = params.signed_by(&key, &self.0).doing(|| "sign a certificate")?;
        Ok(Identity { certificate, key })
    }
}

fn params(names: &[&str]) -> Result<CertificateParams, Failure> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).doing(|| "name whom a certificate is for")
}

impl Identity {
    /// A gRPC server that has it.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("this provider has them all").with_no_client_auth();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = builder.with_single_cert(vec![self.certificate.der().clone()], key);
        let mut config = config.expect("key and certificate belong together");
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// The certificate and the key, for servers of others.
    #[must_use]
    pub fn pem(&self) -> (String, String) {
        (self.certificate.pem(), self.key.serialize_pem())
    }
}
