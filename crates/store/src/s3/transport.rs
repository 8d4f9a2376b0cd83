//! HTTP/1.1, with and without TLS: connections that are used again, every wait limited, no redirect followed, no
//! proxy, nothing read that was not asked for.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const IDLE_LIMIT: Duration = Duration::from_secs(20);
const IDLE_CONNECTIONS: usize = 16;
/// Headers of an answer, all in all.
const HEADERS_LIMIT_BYTES: usize = 64 << 10;
/// To send bodies at, at least.
const SLOWEST_BYTES_PER_S: u64 = 64 << 10;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("the connection failed")]
    Connection(#[source] hyper_util::client::legacy::Error),
    #[error("the connection broke")]
    Broke(#[source] hyper::Error),
    #[error("there was no answer within {} s", .0.as_secs_f32())]
    Silence(Duration),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
}

impl TransportError {
    /// The server's certificate is not one that we trust.
    pub(crate) fn is_untrusted(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
                return true;
            }
            // What an io::Error is made of does not count as its source.
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            cause = match inner {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        false
    }
}

/// Why a text holds no certificates that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CertificateError(String);

/// A request to a service that is not S3.
pub(crate) struct Plain {
    pub(crate) method: &'static str,
    pub(crate) uri: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

/// See the module; clones share connections.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Pieces>,
    limit: Duration,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    /// Trusts what the system trusts.
    pub(crate) fn plain() -> Self {
        Self::with_roots(system_roots(), Duration::from_secs(10))
    }

    /// Trusts these certificates alone, or what the system trusts. `limit` is for an answer to begin, and for each
    /// pause in it.
    pub(crate) fn new(ca_pem: Option<&str>, limit: Duration) -> Result<Self, CertificateError> {
        let roots = match ca_pem {
            Some(pem) => parse_certificates(pem)?,
            None => system_roots(),
        };
        Ok(Self::with_roots(roots, limit))
    }

    fn with_roots(roots: RootCertStore, limit: Duration) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(HEADERS_LIMIT_BYTES)
            .build(connector);
        Self { client, limit }
    }

    /// The beginning of the answer.
    pub(crate) async fn send(&self, request: Request<Pieces>) -> Result<Response<Incoming>, TransportError> {
        let length = request.body().left;
        let limit = self.limit + Duration::from_secs(length / SLOWEST_BYTES_PER_S);
        match timeout(limit, self.client.request(request)).await {
            Ok(answer) => answer.map_err(TransportError::Connection),
            Err(_elapsed) => Err(TransportError::Silence(limit)),
        }
    }

    /// The next piece of a body; `None` at its end.
    pub(crate) async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, TransportError> {
        loop {
            match timeout(self.limit, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => return Ok(Some(piece)),
                    Err(_trailers) => {}
                },
                Ok(Some(Err(error))) => return Err(TransportError::Broke(error)),
                Err(_elapsed) => return Err(TransportError::Silence(self.limit)),
            }
        }
    }

    /// All of a small body, within `patience` as a whole.
    pub(crate) async fn collect(
        &self,
        mut body: Incoming,
        limit_bytes: usize,
        patience: Duration,
    ) -> Result<Bytes, TransportError> {
        let reading = async {
            let mut all = Vec::new();
            while let Some(piece) = self.piece(&mut body).await? {
                if all.len() + piece.len() > limit_bytes {
                    return Err(TransportError::TooLarge(limit_bytes));
                }
                all.extend_from_slice(&piece);
            }
            Ok(all.into())
        };
        match timeout(patience, reading).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(TransportError::Silence(patience)),
        }
    }

    /// A whole exchange with a service that is not S3: the status, and a body of at most so many bytes.
    pub(crate) async fn ask(&self, plain: Plain, limit_bytes: usize) -> Result<(u16, Bytes), TransportError> {
        let mut request = Request::builder().method(plain.method).uri(plain.uri);
        for (name, value) in plain.headers {
            request = request.header(name, value);
        }
        let request = request.body(Pieces::from(plain.body)).map_err(TransportError::Request)?;
        let answer = self.send(request).await?;
        let status = answer.status().as_u16();
        Ok((status, self.collect(answer.into_body(), limit_bytes, self.limit).await?))
    }

    /// How long an answer may take to begin.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}

/// Says whether a text in the PEM format holds at least one certificate that can be trusted.
pub fn check_certificates(pem: &str) -> Result<(), CertificateError> {
    parse_certificates(pem).map(drop)
}

fn parse_certificates(pem: &str) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| CertificateError(error.to_string()))?;
        roots.add(certificate).map_err(|error| CertificateError(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(CertificateError("it holds no certificate in the PEM format".to_owned()));
    }
    Ok(roots)
}

/// Those of the system; on a node that has none, Mozilla's as they were when this was built.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// A body in pieces, which are shared, not copied, so that it can be sent again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pieces {
    pieces: Arc<[Bytes]>,
    next: usize,
    left: u64,
}

impl Pieces {
    pub(crate) fn as_slice(&self) -> &[Bytes] {
        &self.pieces
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.left
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(pieces: Vec<Bytes>) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: pieces.into(), next: 0, left }
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        vec![piece].into()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(piece) = self.pieces.get(self.next).cloned() else { return Poll::Ready(None) };
        self.next += 1;
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
