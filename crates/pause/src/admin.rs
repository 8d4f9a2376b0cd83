//! One connection to one instance, and the calls on it.
//!
//! Invariant: it is dialled once. What comes after its loss is an error, never another connection: an answer says
//! something about the process that gave the answers before.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use http::uri::{Authority, Scheme};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Code;

use crate::dial::{ByteStream, Dial};
use crate::error::{Call, Problem, shown};
use crate::grpc::{CallError, Caller, NotOpen};
use crate::proto::{CheckPausedResponse, PauseRequest, StatsResponse};
use crate::tls::Tls;

/// How instances are connected to.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) dial: Arc<dyn Dial>,
    /// Plain without it.
    pub(crate) tls: Option<Tls>,
}

impl Way {
    async fn stream(&self, instance: &Instance) -> Result<Box<dyn ByteStream>, Problem> {
        let stream = self.dial.dial(instance).await.map_err(Problem::unreachable)?;
        match &self.tls {
            Some(tls) => Ok(tls.over(stream, &instance.host).await?),
            None => Ok(stream),
        }
    }
}

/// An open connection. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Connection {
    caller: Caller,
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
    pub(crate) async fn open(way: &Way, instance: &Instance, deadline: Instant) -> Result<Self, Problem> {
        let begun = Instant::now();
        let opened = async {
            let stream = way.stream(instance).await?;
            let scheme = if way.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            Caller::open(stream, scheme, authority(instance)).await.map_err(not_open)
        };
        match timeout_at(deadline, opened).await {
            Ok(opened) => Ok(Self { caller: opened? }),
            Err(_elapsed) => {
                let message = format!("no answer within {} ms", begun.elapsed().as_millis());
                Err(Problem::unreachable(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
        }
    }

    /// Asks the instance to pause, which it may take `wait` for.
    pub(crate) async fn pause(&self, wait: Duration, within: Duration) -> Result<(), Problem> {
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let request = PauseRequest { wait_outstanding: true, max_pause_wait_time: Some(wait) };
        called(Call::Pause, within, self.caller.call("/rpc.Admin/Pause", &request)).await
    }

    pub(crate) async fn unpause(&self, within: Duration) -> Result<(), Problem> {
        called(Call::Unpause, within, self.caller.call("/rpc.Admin/Unpause", &())).await
    }

    /// Asks whether the instance is paused. One of the older generation has to answer something at least.
    pub(crate) async fn standing(&self, within: Duration) -> Result<Standing, Problem> {
        let begun = Instant::now();
        let asked = self.caller.call::<CheckPausedResponse>("/rpc.Admin/CheckPaused", &());
        match called(Call::CheckPaused, within, asked).await {
            Ok(answer) if answer.paused => Ok(Standing::Paused),
            Ok(_open) => Ok(Standing::Open),
            Err(Problem::Refused { code: Code::Unimplemented, .. }) => {
                let left = within.saturating_sub(begun.elapsed());
                let asked = self.caller.call::<StatsResponse>("/rpc.Admin/Stats", &());
                called(Call::Stats, left, asked).await?;
                Ok(Standing::Untold)
            }
            Err(problem) => Err(problem),
        }
    }
}

async fn called<T>(
    call: Call,
    within: Duration,
    answer: impl Future<Output = Result<T, CallError>>,
) -> Result<T, Problem> {
    match timeout(within, answer).await {
        Ok(answer) => answer.map_err(|error| Problem::of_call(call, &error)),
        Err(_elapsed) => Err(Problem::TimedOut { call, within }),
    }
}

fn not_open(error: NotOpen) -> Problem {
    match error {
        NotOpen::Lost(error) => Problem::NotHttp2 {
            reason: format!("it cut the connection off ({})", shown(&error.to_string())),
            cut: true,
        },
        NotOpen::Odd(reason) => Problem::NotHttp2 { reason: shown(&reason), cut: false },
    }
}

/// The name in the SRV record, as a proxy may look at it; a name that no URI can have is left out.
fn authority(instance: &Instance) -> Authority {
    let host = match instance.host.contains(':') && !instance.host.starts_with('[') {
        true => format!("[{}]", instance.host),
        false => instance.host.clone(),
    };
    let named = Authority::try_from(format!("{host}:{}", instance.address.port()));
    let numbered = || Authority::try_from(instance.address.to_string());
    named.or_else(|_odd| numbered()).unwrap_or_else(|_never| Authority::from_static("instance"))
}
