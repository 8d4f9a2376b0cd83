//! The service of one process of an application, and how it misbehaves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cassy_pause::proto::admin_server::Admin;
use cassy_pause::proto::{CheckPausedResponse, PauseRequest, StatsResponse};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Response, Status};

use super::gate::Gate;

/// For a Pause that says no limit.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Which methods an application has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Generation {
    /// Stats; knows no limit of a Pause.
    Older,
    /// CheckPaused.
    #[default]
    Newer,
}

/// How an application behaves; by default well.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Which methods it has.
    pub generation: Generation,
    /// Refuses every Pause like this.
    pub refuses_pause: Option<(Code, String)>,
    /// Takes so long before it closes its gate and answers; goes on with it when the caller has given up.
    pub pauses_after: Duration,
    /// Answers Pause, and lets requests through all the same.
    pub leaves_gate_open: bool,
    /// Answers CheckPaused as if its gate were closed, whatever it is.
    pub claims_pause: bool,
    /// Refuses so many Unpauses.
    pub refuses_unpauses: u32,
    /// Takes so long before it answers CheckPaused or Stats.
    pub checks_after: Duration,
    /// Answers nothing.
    pub hangs: bool,
}

/// What an application was asked, over all its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Times.
    pub pause: u32,
    /// Times.
    pub unpause: u32,
    /// Times.
    pub check_paused: u32,
    /// Times.
    pub stats: u32,
    /// Times that it closed its gate.
    pub closed: u32,
    /// The limit that the last Pause named.
    pub wait_limit: Option<Duration>,
}

/// What all processes of one application share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) behaviour: Mutex<Behaviour>,
    pub(super) calls: Mutex<Calls>,
}

impl Shared {
    fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn calls(&self) -> Calls {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, count: impl FnOnce(&mut Calls)) {
        count(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// One process.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) gate: Arc<Gate>,
    pub(super) shared: Arc<Shared>,
    /// What goes on when its caller is gone; ends with the process.
    pub(super) tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Service {
    async fn begin(&self, count: impl FnOnce(&mut Calls)) -> Behaviour {
        self.shared.count(count);
        let behaviour = self.shared.behaviour();
        if behaviour.hangs {
            std::future::pending::<()>().await;
        }
        behaviour
    }

    async fn close(&self, limit: Duration, behaviour: &Behaviour) -> Result<(), Status> {
        sleep(behaviour.pauses_after).await;
        if behaviour.leaves_gate_open {
            return Ok(());
        }
        self.gate.close();
        self.shared.count(|calls| calls.closed += 1);
        match timeout(limit, self.gate.drained()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Status::failed_precondition("unpaused while it was being paused")),
            Err(_elapsed) => {
                self.gate.open();
                Err(Status::failed_precondition("requests have not ended in time"))
            }
        }
    }
}

#[tonic::async_trait]
impl Admin for Service {
    /// In a task of its own: it ends as it must, whether or not somebody still waits for it.
    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<()>, Status> {
        let millis = request.get_ref().max_pause_wait_time.and_then(|millis| u64::try_from(millis).ok());
        let limit = millis.map(Duration::from_millis);
        let behaviour = self.begin(|calls| {
            calls.pause += 1;
            calls.wait_limit = limit;
        });
        let behaviour = behaviour.await;
        if let Some((code, message)) = behaviour.refuses_pause {
            return Err(Status::new(code, message));
        }
        let limit = limit.filter(|_| behaviour.generation == Generation::Newer).unwrap_or(LONGEST_WAIT);
        let (answer, closed) = tokio::sync::oneshot::channel();
        let service = self.clone();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            // The caller may be gone.
            let _ = answer.send(service.close(limit, &behaviour).await);
        });
        let closed = closed.await.map_err(|_ended| Status::unavailable("the process ends"))?;
        closed.map(Response::new)
    }

    async fn unpause(&self, _request: Request<()>) -> Result<Response<()>, Status> {
        self.begin(|calls| calls.unpause += 1).await;
        let mut behaviour = self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
        if behaviour.refuses_unpauses > 0 {
            behaviour.refuses_unpauses -= 1;
            return Err(Status::internal("cannot unpause now"));
        }
        self.gate.open();
        Ok(Response::new(()))
    }

    async fn check_paused(&self, _request: Request<()>) -> Result<Response<CheckPausedResponse>, Status> {
        let behaviour = self.begin(|calls| calls.check_paused += 1).await;
        sleep(behaviour.checks_after).await;
        match behaviour.generation {
            Generation::Newer => Ok(Response::new(CheckPausedResponse {
                paused: behaviour.claims_pause || self.gate.is_closed(),
            })),
            Generation::Older => Err(Status::unimplemented("method not found: rpc.Admin/CheckPaused")),
        }
    }

    async fn stats(&self, _request: Request<()>) -> Result<Response<StatsResponse>, Status> {
        let behaviour = self.begin(|calls| calls.stats += 1).await;
        sleep(behaviour.checks_after).await;
        match behaviour.generation {
            Generation::Older => {
                Ok(Response::new(StatsResponse { stats: "{\"totalSucceeded\":0}".to_owned() }))
            }
            Generation::Newer => Err(Status::unimplemented("method not found: rpc.Admin/Stats")),
        }
    }
}
