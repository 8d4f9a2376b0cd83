//! What the server reaches the applications with: the real client, over the lines of this world.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{GuardOrder, Instance};
use cassy_control::applications::{Applications, Guard, InstanceFailure, Pause};
use cassy_control::job::Failure;
use cassy_pause::{InstanceError, PauseClient, Pausing};

use tokio::time::Instant;

use crate::faults::Kind;
use crate::guards::Pipe;
use crate::lines::Lines;
use crate::world::{Host, Mark, Without, World};

pub(crate) struct SimulatedApplications {
    world: Arc<World>,
    client: PauseClient,
}

impl SimulatedApplications {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let lines = Lines { world: Arc::clone(world), host: Host::Server };
        Self { world: Arc::clone(world), client: PauseClient::new(lines) }
    }
}

#[async_trait]
impl Applications for SimulatedApplications {
    fn service(&self) -> Option<&str> {
        Some("_app._tcp.test")
    }

    async fn find(&self) -> Result<Vec<Instance>, Failure> {
        let world = Arc::clone(&self.world);
        let found = self.world.here(async move {
            world.delay("dns", 1, 20).await;
            let (fails, changes) = {
                let mut state = world.lock();
                (state.dns_fails, std::mem::take(&mut state.dns_changes))
            };
            changes.into_iter().for_each(|kind| world.fired(kind));
            if fails {
                world.fired(Kind::DnsFails);
                return None;
            }
            let mut named: Vec<_> =
                world.lock().apps.iter().filter(|app| app.is_named).map(|app| app.instance.clone()).collect();
            named.sort();
            Some(named)
        });
        found.await.filter(|named| !named.is_empty()).ok_or_else(|| failure("DNS does not answer"))
    }

    async fn guard(&self, order: &GuardOrder) -> Result<Box<dyn Guard>, Failure> {
        self.world.pause_begins(order);
        if self.world.without == Without::Guards {
            return Ok(Box::new(Beside(None)));
        }
        let (world, order) = (Arc::clone(&self.world), order.clone());
        let opened = self.world.here(async move {
            let (pipe, process) = Pipe::open(&world, Host::Server, &order).await?;
            world.lock().beside = Some(process);
            Ok::<_, io::Error>(pipe)
        });
        let pipe = opened.await.map_err(|error| failure(&format!("no guard could be started: {error}")))?;
        if pipe.unreachable.is_empty() {
            return Ok(Box::new(Beside(Some(pipe))));
        }
        pipe.release().await.map_err(|why| failure(&why))?;
        Err(failure("instances cannot be connected to, so nobody was paused"))
    }

    async fn pause(&self, instances: &[Instance], within: Duration) -> Box<dyn Pause> {
        let pausing = self.client.pause(instances, within).await;
        let failures = failures(pausing.failures());
        Box::new(SimulatedPause { pausing, failures, world: Arc::clone(&self.world) })
    }

    async fn unpause(
        &self,
        instances: &[Instance],
        late: Duration,
        within: Duration,
    ) -> Vec<InstanceFailure> {
        let unpaused = self.client.unpause(instances, late, within).await;
        failures(unpaused.into_iter().filter_map(Result::err))
    }
}

struct SimulatedPause {
    pausing: Pausing,
    failures: Vec<InstanceFailure>,
    world: Arc<World>,
}

#[async_trait]
impl Pause for SimulatedPause {
    fn asked_at(&self) -> Instant {
        self.pausing.asked_at()
    }

    fn failures(&self) -> &[InstanceFailure] {
        &self.failures
    }

    fn answered_within(&self) -> Vec<Option<Duration>> {
        self.pausing.answered_within()
    }

    async fn check(&self, within: Duration) -> Vec<InstanceFailure> {
        match self.world.without {
            Without::CheckPaused => Vec::new(),
            _ => failures(self.pausing.check(within).await),
        }
    }

    async fn unpause(&self, within: Duration) -> Vec<InstanceFailure> {
        let left = failures(self.pausing.unpause(within).await.into_iter().filter_map(Result::err));
        self.world.mark(Mark::Unpaused);
        left
    }
}

struct Beside(Option<Pipe>);

#[async_trait]
impl Guard for Beside {
    async fn release(self: Box<Self>) -> Result<(), String> {
        match self.0 {
            Some(pipe) => pipe.release().await,
            None => Ok(()),
        }
    }
}

fn failure(message: &str) -> Failure {
    Failure { unavailable: true, message: message.to_owned(), hint: None }
}

fn failures(errors: impl IntoIterator<Item = InstanceError>) -> Vec<InstanceFailure> {
    let failed = |error: InstanceError| InstanceFailure {
        failure: Failure {
            unavailable: error.problem.is_unavailable(),
            message: cassy_control::chain(&error.problem),
            hint: Some(error.problem.hint().to_owned()),
        },
        instance: error.instance,
    };
    errors.into_iter().map(failed).collect()
}
