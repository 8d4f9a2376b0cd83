//! One request to S3, signed, tried again by the class of what went wrong, its answer judged.
//!
//! Invariants: no answer is read beyond its limit; no redirect is followed, so that credentials go to the configured
//! host alone; a request is tried again only with the very same bytes.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;

use super::credentials::{Credentials, S3Credentials};
use super::place::{Patience, Place, S3Settings};
use super::sign::{self, Unsigned};
use super::transport::{Pieces, Transport, TransportError};
use super::xml::{self, NotXml};
use crate::{Class, Refusal, StoreError};

/// An error's body; only its beginning is of use.
const ERROR_LIMIT_BYTES: usize = 64 << 10;
/// The longest message of a store that is repeated.
const MESSAGE_LIMIT: usize = 200;
/// A whole answer may take so many times as long as its beginning.
const WHOLE_ANSWER: u32 = 5;
/// Pauses do not grow beyond so many times the first one.
const LONGEST_PAUSE: u32 = 30;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Below the prefix; `None` for the bucket itself.
    pub(super) key: Option<String>,
    pub(super) query: Vec<(&'static str, String)>,
    /// Names in lower case.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Pieces,
    /// For messages.
    pub(super) operation: &'static str,
    /// For messages.
    pub(super) subject: String,
}

impl Ask {
    pub(super) fn of_object(method: Method, operation: &'static str, key: &str) -> Self {
        Self {
            method,
            key: Some(key.to_owned()),
            query: Vec::new(),
            headers: Vec::new(),
            body: Pieces::default(),
            operation,
            subject: key.to_owned(),
        }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Pieces>) -> Self {
        self.body = body.into();
        self
    }
}

/// A small answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// See the module.
#[derive(Debug)]
pub(super) struct S3Client {
    pub(super) place: Place,
    region: String,
    transport: Transport,
    credentials: Credentials,
    patience: Patience,
}

impl S3Client {
    pub(super) fn new(
        bucket: &str,
        prefix: &str,
        settings: &S3Settings,
        credentials: Credentials,
    ) -> Result<Self, StoreError> {
        let wrong = |what| move |reason: String| StoreError::Settings { what, reason };
        let place = Place::new(bucket, prefix, settings)
            .map_err(|reason| wrong("endpoint or region")(reason.to_owned()))?;
        let transport = Transport::new(settings.ca_pem.as_deref(), settings.patience.silence)
            .map_err(|error| wrong("list of certificates")(error.to_string()))?;
        let (region, patience) = (settings.region.clone(), settings.patience);
        Ok(Self { place, region, transport, credentials, patience })
    }

    /// The beginning of a good answer, whose body is still to be read; tried again until there is one.
    pub(super) async fn begin(&self, ask: &Ask) -> Result<Response<Incoming>, StoreError> {
        let mut tries = self.tries();
        loop {
            match self.once(ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// The whole of a good answer of at most so many bytes; tried again until there is one.
    pub(super) async fn whole(&self, ask: &Ask, limit_bytes: usize) -> Result<Answer, StoreError> {
        let mut tries = self.tries();
        loop {
            match self.try_whole(ask, limit_bytes).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// The same, tried once.
    pub(super) async fn try_whole(&self, ask: &Ask, limit_bytes: usize) -> Result<Answer, StoreError> {
        let (parts, body) = self.once(ask).await?.into_parts();
        let patience = self.patience.silence * WHOLE_ANSWER;
        let body = self.transport.collect(body, limit_bytes, patience).await;
        let body = body.map_err(|error| self.broke(ask, error))?;
        Ok(Answer { headers: parts.headers, body })
    }

    pub(super) fn tries(&self) -> Tries {
        Tries { patience: self.patience, made: 0 }
    }

    /// The next piece of a body.
    pub(super) async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, TransportError> {
        self.transport.piece(body).await
    }

    /// How long an answer may pause.
    pub(super) fn silence(&self) -> Duration {
        self.transport.limit()
    }

    async fn once(&self, ask: &Ask) -> Result<Response<Incoming>, StoreError> {
        let credentials = self.credentials.current().await?;
        let request = self.signed(ask, &credentials)?;
        let answer = self.transport.send(request).await.map_err(|error| self.broke(ask, error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let error = self.refusal(ask, answer).await;
        if error.refusal().is_some_and(|(_, code)| code.starts_with("ExpiredToken")) {
            self.credentials.refused(&credentials).await;
        }
        Err(error)
    }

    fn signed(&self, ask: &Ask, credentials: &S3Credentials) -> Result<Request<Pieces>, StoreError> {
        let path = sign::path(&self.place.path(ask.key.as_deref()));
        let pairs: Vec<(&str, &str)> =
            ask.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let query = sign::query(&pairs);
        let hashed;
        let payload = if self.place.is_tls {
            sign::UNSIGNED
        } else {
            hashed = sign::payload_hash(ask.body.as_slice());
            &hashed
        };
        let unsigned = Unsigned {
            method: ask.method.as_str(),
            host: &self.place.host,
            path: &path,
            query: &query,
            headers: ask.headers.clone(),
            payload,
            service: "s3",
        };
        let headers = sign::headers(unsigned, credentials, &self.region, SystemTime::now());
        let mut request = Request::builder().method(&ask.method).uri(self.place.uri(&path, &query));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if !matches!(ask.method, Method::GET | Method::HEAD | Method::DELETE) {
            request = request.header("content-length", ask.body.bytes());
        }
        request
            .header("host", &self.place.host)
            .body(ask.body.clone())
            .map_err(|error| self.broke(ask, TransportError::Request(error)))
    }

    /// What an answer that is no success means.
    async fn refusal(&self, ask: &Ask, answer: Response<Incoming>) -> StoreError {
        let (parts, body) = answer.into_parts();
        let region = parts.headers.get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
        let region = region.filter(|region| super::check_region(region).is_ok()).map(str::to_owned);
        // What cannot be read says no more than the status.
        let body = self.transport.collect(body, ERROR_LIMIT_BYTES, self.silence()).await.unwrap_or_default();
        self.answered(ask, parts.status.as_u16(), &body, region)
    }

    /// An error in the words of the store.
    pub(super) fn answered(&self, ask: &Ask, status: u16, body: &[u8], region: Option<String>) -> StoreError {
        let code = xml::text_at(body, &["Error", "Code"]).unwrap_or_default();
        let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
        let is_of_object = ask.key.is_some() && !matches!(code.as_str(), "NoSuchBucket" | "NoSuchUpload");
        if status == 404 && is_of_object {
            return StoreError::NotFound { operation: ask.operation, key: ask.subject.clone() };
        }
        let message = xml::text_at(body, &["Error", "Message"]).unwrap_or_default();
        let message =
            message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_LIMIT).collect();
        StoreError::Answered(Box::new(Refusal {
            operation: ask.operation,
            subject: ask.subject.clone(),
            place: self.place.shown(),
            status,
            code,
            message,
            region,
        }))
    }

    pub(super) fn broke(&self, ask: &Ask, error: TransportError) -> StoreError {
        if let TransportError::TooLarge(limit) = error {
            return self.misbehaved(ask, format!("it has more than {limit} bytes"));
        }
        StoreError::Unreachable {
            operation: ask.operation,
            subject: ask.subject.clone(),
            place: self.place.shown(),
            is_untrusted: error.is_untrusted(),
            source: error.into(),
        }
    }

    pub(super) fn misbehaved(&self, ask: &Ask, reason: impl Into<String>) -> StoreError {
        let (operation, subject) = (ask.operation, ask.subject.clone());
        StoreError::Misbehaved { operation, subject, place: self.place.shown(), reason: reason.into() }
    }

    pub(super) fn not_xml(&self, ask: &Ask, NotXml(reason): NotXml) -> StoreError {
        self.misbehaved(ask, reason)
    }
}

/// How often something was tried, and how long to wait before it is tried again.
pub(super) struct Tries {
    patience: Patience,
    made: u32,
}

impl Tries {
    /// Whether something was tried before.
    pub(super) fn is_repeated(&self) -> bool {
        self.made > 0
    }

    /// Waits before the next try; the error itself when it is final.
    pub(super) async fn after(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.made += 1;
        if error.class() != Class::Transient || self.made >= self.patience.tries {
            return Err(error);
        }
        let times = 2u32.saturating_pow(self.made - 1).min(LONGEST_PAUSE);
        tokio::time::sleep((self.patience.pause * times).mul_f64(jitter())).await;
        Ok(())
    }

    /// What was tried has got further: the next failure is the first one again.
    pub(super) fn forget(&mut self) {
        self.made = 0;
    }
}

/// From 0.5 to 1.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(std::process::id());
    0.5 + f64::from(u32::try_from(random & 0xffff).unwrap_or_default()) / f64::from(0x2_0000)
}
