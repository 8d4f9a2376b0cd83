//! Who we are to S3: the standard chain of AWS, or what a server has sent to its agent.
//!
//! The chain ends at the first source that is configured: one that is configured and fails is an error, never a
//! reason to go on as somebody else. Order: environment, web identity, profile files, container, instance
//! metadata. SSO is not there, and is refused by name. Nothing here is ever shown: `Debug` redacts.

mod container;
mod environment;
mod instance;
mod profile;
mod web_identity;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

pub use self::environment::Environment;
use super::time;
use super::transport::Transport;
use crate::StoreError;

/// Newer ones are fetched when these have less time left.
const EARLY: Duration = Duration::from_secs(10 * 60);
/// What the server sends has to come within this time.
const SENT_LIMIT: Duration = Duration::from_secs(60);
/// The answer of any source.
const ANSWER_LIMIT_BYTES: usize = 64 << 10;

/// Keys to an account at S3.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    /// The public part.
    pub access_key_id: String,
    /// The secret part.
    pub secret_access_key: String,
    /// Of temporary ones.
    pub session_token: Option<String>,
    /// When they end, Unix milliseconds; `None` for never.
    pub expires_at_ms: Option<i64>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials").field("expires_at_ms", &self.expires_at_ms).finish_non_exhaustive()
    }
}

impl S3Credentials {
    /// Whether they still hold after `left` more time.
    pub fn hold_for(&self, left: Duration) -> bool {
        let left_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        self.expires_at_ms.is_none_or(|end| end.saturating_sub(left_ms) > time::now_ms())
    }

    /// What AWS's own sources answer in JSON.
    fn from_json(body: &[u8], secret: &'static str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let text = |name: &str| value.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let expires_at_ms = match text("Expiration") {
            Some(end) => Some(time::parse(&end)?),
            None => None,
        };
        let session_token = text("Token").or_else(|| text("SessionToken"));
        let credentials = Self {
            access_key_id: text("AccessKeyId")?,
            secret_access_key: text(secret)?,
            session_token,
            expires_at_ms,
        };
        credentials.can_be_sent().then_some(credentials)
    }

    /// They go into headers.
    fn can_be_sent(&self) -> bool {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        plain(&self.access_key_id) && self.session_token.as_deref().is_none_or(plain)
    }
}

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoCredentials {
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
    pub(crate) is_transient: bool,
}

impl NoCredentials {
    fn wrong(reason: impl Into<String>, hint: &str) -> Self {
        Self { reason: reason.into(), hint: Some(hint.to_owned()), is_transient: false }
    }

    fn for_now(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None, is_transient: true }
    }
}

impl From<NoCredentials> for StoreError {
    fn from(none: NoCredentials) -> Self {
        let NoCredentials { reason, hint, is_transient } = none;
        Self::Credentials { reason, hint, is_transient }
    }
}

/// Where credentials come from; clones share what was fetched.
#[derive(Clone)]
pub struct Credentials(Source);

#[derive(Clone)]
enum Source {
    Chain(Arc<Chain>),
    Sent(watch::Receiver<Option<S3Credentials>>),
    Fixed(S3Credentials),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Source::Chain(_) => "Credentials(chain)",
            Source::Sent(_) => "Credentials(sent)",
            Source::Fixed(_) => "Credentials(fixed)",
        })
    }
}

struct Chain {
    environment: Environment,
    transport: Transport,
    held: Mutex<Option<S3Credentials>>,
}

impl Credentials {
    /// The standard chain, looked through when they are first needed, and again before they end.
    pub fn chain(environment: Environment) -> Self {
        let transport = Transport::plain();
        Self(Source::Chain(Arc::new(Chain { environment, transport, held: Mutex::default() })))
    }

    /// What a server sends, and sends again before it ends.
    pub fn sent(receiver: watch::Receiver<Option<S3Credentials>>) -> Self {
        Self(Source::Sent(receiver))
    }

    /// These.
    pub fn fixed(credentials: S3Credentials) -> Self {
        Self(Source::Fixed(credentials))
    }

    /// Credentials that hold now.
    pub async fn current(&self) -> Result<S3Credentials, StoreError> {
        match &self.0 {
            Source::Chain(chain) => chain.current().await.map_err(StoreError::from),
            Source::Sent(receiver) => sent(receiver.clone()).await.map_err(StoreError::from),
            Source::Fixed(credentials) => Ok(credentials.clone()),
        }
    }

    /// The store says that these have ended: they are not used again.
    pub(crate) async fn refused(&self, used: &S3Credentials) {
        if let Source::Chain(chain) = &self.0 {
            chain.held.lock().await.take_if(|held| held == used);
        }
    }
}

async fn sent(mut receiver: watch::Receiver<Option<S3Credentials>>) -> Result<S3Credentials, NoCredentials> {
    let usable = |sent: &Option<S3Credentials>| {
        sent.as_ref().is_some_and(|credentials| credentials.hold_for(Duration::ZERO))
    };
    match tokio::time::timeout(SENT_LIMIT, receiver.wait_for(usable)).await {
        Ok(Ok(credentials)) => {
            credentials.clone().ok_or_else(|| NoCredentials::for_now("the server has sent no credentials"))
        }
        Ok(Err(_closed)) => Err(NoCredentials::for_now("the server is gone, and the credentials have ended")),
        Err(_elapsed) => {
            Err(NoCredentials::for_now("the server has sent no credentials that have not ended yet"))
        }
    }
}

impl Chain {
    async fn current(&self) -> Result<S3Credentials, NoCredentials> {
        let mut held = self.held.lock().await;
        if let Some(credentials) = held.as_ref().filter(|held| held.hold_for(EARLY)) {
            return Ok(credentials.clone());
        }
        match self.fetch().await {
            Ok(fetched) => Ok(held.insert(fetched).clone()),
            // The old ones do for a while.
            Err(failed) => match held.as_ref().filter(|held| held.hold_for(Duration::ZERO)) {
                Some(credentials) => Ok(credentials.clone()),
                None => Err(failed),
            },
        }
    }

    async fn fetch(&self) -> Result<S3Credentials, NoCredentials> {
        let environment = &self.environment;
        let found = match environment.credentials()? {
            Some(found) => Some(found),
            None => match web_identity::fetch(environment, &self.transport).await? {
                Some(found) => Some(found),
                None => match profile::fetch(environment, &self.transport).await? {
                    Some(found) => Some(found),
                    None => match container::fetch(environment, &self.transport).await? {
                        Some(found) => Some(found),
                        None => instance::fetch(environment, &self.transport).await?,
                    },
                },
            },
        };
        match found {
            Some(found) if found.can_be_sent() => Ok(found),
            Some(_) => Err(NoCredentials::wrong(
                "the credentials hold characters that cannot be part of credentials",
                "Look for blanks, quotes or line ends in them.",
            )),
            None => Err(NoCredentials::wrong(
                "there are no credentials for S3 in the environment, in profile files, from a web identity, from a \
                 container or from the instance's metadata",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, write ~/.aws/credentials, or give the machine a \
                 role.",
            )),
        }
    }
}
