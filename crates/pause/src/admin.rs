//! One connection to one instance, and the calls on it.
//!
//! Invariant: it is dialled once. What comes after its loss is an error, never another connection: an answer says
//! something about the process that gave the answers before.

use std::future::{Ready, ready};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use cassy_agent_protocol::Instance;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};
use tower_service::Service;

use crate::dial::{ByteStream, Dial};
use crate::error::{Call, Problem, chain, shown};
use crate::proto::PauseRequest;
use crate::proto::admin_client::AdminClient;

/// Answers are a few bytes; figures may be more.
const ANSWER_LIMIT_BYTES: usize = 64 << 10;
const HEADERS_LIMIT_BYTES: u32 = 16 << 10;

/// An open connection. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Connection {
    client: AdminClient<Channel>,
}

/// What an instance says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It holds requests back.
    Paused,
    /// It does not.
    Open,
    /// It is of the older generation, which does not tell.
    Untold,
}

impl Connection {
    /// Dials once and waits for an HTTP/2 connection.
    pub(crate) async fn open(
        dial: &dyn Dial,
        instance: &Instance,
        deadline: Instant,
    ) -> Result<Self, Problem> {
        let begun = Instant::now();
        let silent = || {
            let message = format!("no answer within {} ms", begun.elapsed().as_millis());
            Problem::unreachable(io::Error::new(io::ErrorKind::TimedOut, message))
        };
        let stream = match timeout_at(deadline, dial.dial(instance)).await {
            Ok(dialled) => dialled.map_err(Problem::unreachable)?,
            Err(_elapsed) => return Err(silent()),
        };
        let endpoint = endpoint(instance).http2_max_header_list_size(HEADERS_LIMIT_BYTES);
        match timeout_at(deadline, endpoint.connect_with_connector(Once(Some(stream)))).await {
            Ok(Ok(channel)) => {
                let client = AdminClient::new(channel).max_decoding_message_size(ANSWER_LIMIT_BYTES);
                Ok(Self { client })
            }
            Ok(Err(error)) => Err(Problem::unreachable(io::Error::other(shown(&chain(&error))))),
            Err(_elapsed) => Err(silent()),
        }
    }

    /// Asks the instance to pause, which it may take `wait` for.
    pub(crate) async fn pause(&self, wait: Duration, within: Duration) -> Result<(), Problem> {
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let request = PauseRequest { wait_outstanding: true, max_pause_wait_time: Some(wait) };
        let mut client = self.client.clone();
        called(Call::Pause, within, client.pause(request)).await.map(drop)
    }

    pub(crate) async fn unpause(&self, within: Duration) -> Result<(), Problem> {
        let mut client = self.client.clone();
        called(Call::Unpause, within, client.unpause(())).await.map(drop)
    }

    /// Asks whether the instance is paused. One of the older generation has to answer something at least.
    pub(crate) async fn standing(&self, within: Duration) -> Result<Standing, Problem> {
        let begun = Instant::now();
        let mut client = self.client.clone();
        match called(Call::CheckPaused, within, client.check_paused(())).await {
            Ok(answer) if answer.paused => Ok(Standing::Paused),
            Ok(_open) => Ok(Standing::Open),
            Err(Problem::Refused { code: Code::Unimplemented, .. }) => {
                let left = within.saturating_sub(begun.elapsed());
                called(Call::Stats, left, client.stats(Request::new(()))).await?;
                Ok(Standing::Untold)
            }
            Err(problem) => Err(problem),
        }
    }
}

async fn called<T>(
    call: Call,
    within: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Problem> {
    match timeout(within, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Problem::of_status(call, &status)),
        Err(_elapsed) => Err(Problem::TimedOut { call, within }),
    }
}

/// The authority is the name in the SRV record, as a proxy may look at it; a name that no URI can have is left out.
fn endpoint(instance: &Instance) -> Endpoint {
    let host = match instance.host.contains(':') {
        true => format!("[{}]", instance.host),
        false => instance.host.clone(),
    };
    let named = Endpoint::from_shared(format!("http://{host}:{}", instance.address.port()));
    let numbered = || Endpoint::from_shared(format!("http://{}", instance.address));
    named.or_else(|_odd| numbered()).unwrap_or_else(|_never| Endpoint::from_static("http://instance"))
}

/// Hands out the connection that was dialled, and no second one.
struct Once(Option<Box<dyn ByteStream>>);

impl Service<Uri> for Once {
    type Response = TokioIo<Box<dyn ByteStream>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let lost = || io::Error::new(io::ErrorKind::ConnectionReset, "it was closed by the other side");
        ready(self.0.take().map(TokioIo::new).ok_or_else(lost))
    }
}
