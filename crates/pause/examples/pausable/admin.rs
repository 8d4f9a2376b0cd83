//! The service `rpc.Admin` of an application, over its gate.

use std::sync::Arc;
use std::time::Duration;

use cassy_pause::proto::admin_server::Admin;
use cassy_pause::proto::{CheckPausedResponse, PauseRequest, StatsResponse};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::gate::Gate;

/// For requests under way, when a client does not say how long.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// See the module.
pub struct GateAdmin {
    pub gate: Arc<Gate>,
}

#[tonic::async_trait]
impl Admin for GateAdmin {
    /// Answers only when nothing is under way any more. Whatever comes in between (time is over, the client hangs up and
    /// this future is dropped), the gate opens again: a pause that nobody knows of would last for ever.
    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<()>, Status> {
        let PauseRequest { wait_outstanding, max_pause_wait_time } = request.into_inner();
        let millis = max_pause_wait_time.and_then(|millis| u64::try_from(millis).ok());
        let limit = millis.map_or(LONGEST_WAIT, Duration::from_millis);
        if self.gate.is_closed() && self.gate.under_way() == 0 {
            return Ok(Response::new(()));
        }
        self.gate.close();
        if !wait_outstanding {
            return Ok(Response::new(()));
        }
        let mut closing = Closing { gate: &self.gate, stays: false };
        match timeout(limit, self.gate.drained()).await {
            Ok(true) => {
                closing.stays = true;
                Ok(Response::new(()))
            }
            Ok(false) => Err(Status::failed_precondition("it was unpaused while it was being paused")),
            Err(_elapsed) => {
                let (count, limit) = (self.gate.under_way(), limit.as_millis());
                let why = format!("{count} requests have not ended within {limit} ms");
                Err(Status::failed_precondition(why))
            }
        }
    }

    async fn unpause(&self, _request: Request<()>) -> Result<Response<()>, Status> {
        self.gate.open();
        Ok(Response::new(()))
    }

    async fn check_paused(&self, _request: Request<()>) -> Result<Response<CheckPausedResponse>, Status> {
        Ok(Response::new(CheckPausedResponse { paused: self.gate.is_closed() }))
    }

    /// Of the older generation, which an application need not have.
    async fn stats(&self, _request: Request<()>) -> Result<Response<StatsResponse>, Status> {
        Err(Status::unimplemented("Stats is not served here"))
    }
}

/// Opens the gate in the end, unless it is to stay closed.
struct Closing<'a> {
    gate: &'a Gate,
    stays: bool,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.gate.open();
        }
    }
}
