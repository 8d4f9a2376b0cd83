//! The applications as the control plane wants them, over DNS and gRPC, and guards beside the server.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{GuardOrder, Instance, TlsTrust};
use cassy_api::refused_address;
use cassy_control::applications::{Applications, Guard, InstanceFailure, Pause};
use cassy_control::chain;
use cassy_control::job::Failure;
use cassy_pause::{
    Dns, GuardHandle, InstanceError, PauseClient, Pausing, TcpDial, Tls, find_instances, start_guard,
};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

/// For the system's resolver.
pub(crate) const LOOK_UP_LIMIT: Duration = Duration::from_secs(15);

/// So many instances are named.
const NAMED: usize = 5;

/// See the module.
pub(crate) struct RealApplications {
    service: Option<String>,
    /// Host and port.
    dns_server: Option<String>,
    client: PauseClient,
    tls: Option<Tls>,
}

impl RealApplications {
    pub(crate) fn new(service: Option<String>, dns_server: Option<String>, tls: Option<Tls>) -> Self {
        let plain = PauseClient::new(TcpDial);
        let client = tls.clone().map_or(plain.clone(), |tls| plain.over_tls(tls));
        Self { service, dns_server, client, tls }
    }

    pub(crate) fn client(&self) -> &PauseClient {
        &self.client
    }
}

#[async_trait]
impl Applications for RealApplications {
    fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    fn tls(&self) -> Option<&TlsTrust> {
        self.tls.as_ref().map(Tls::trust)
    }

    async fn find(&self) -> Result<Vec<Instance>, Failure> {
        let Some(service) = &self.service else {
            return Err(Failure {
                unavailable: false,
                message: "no applications are configured".to_owned(),
                hint: Some("set srv_service_url to the SRV record that names their instances".to_owned()),
            });
        };
        let dns = match &self.dns_server {
            Some(server) => Dns::at(address_of(server).await?),
            None => Dns::of_system(),
        };
        let found = find_instances(&dns, service).await.map_err(|error| Failure {
            unavailable: error.is_unavailable(),
            message: format!("the applications cannot be found: {}", chain(&error)),
            hint: Some(error.hint().to_owned()),
        })?;
        found.into_iter().map(judged).collect()
    }

    async fn guard(&self, order: &GuardOrder) -> Result<Box<dyn Guard>, Failure> {
        let started = start_guard(Path::new("/proc/self/exe"), order, Stdio::inherit()).await;
        let guard = started.map_err(|error| Failure {
            unavailable: true,
            message: format!("no guard could be started, so nobody was paused: {}", chain(&error)),
            hint: Some("a guard is a process of this machine, `cassy guard`: see its limits".to_owned()),
        })?;
        let Some(first) = guard.unreachable().first() else {
            return Ok(Box::new(Beside(guard)));
        };
        let hint = first.hint.clone();
        let unavailable = guard.unreachable().iter().all(|one| one.unavailable);
        let named: Vec<_> = guard.unreachable().iter().take(NAMED).map(ToString::to_string).collect();
        let message = format!(
            "{} instances cannot be connected to, so nobody was paused: {}",
            guard.unreachable().len(),
            named.join("; ")
        );
        if let Err(error) = guard.release().await {
            tracing::warn!(%error, "the guard was not released");
        }
        Err(Failure { unavailable, message, hint: Some(hint) })
    }

    async fn pause(&self, instances: &[Instance], within: Duration) -> Box<dyn Pause> {
        let pausing = self.client.pause(instances, within).await;
        let failures = failures(pausing.failures());
        Box::new(RealPause { pausing, failures })
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

/// What DNS says is data of somebody else: where no application is, nothing is connected to.
fn judged(instance: Instance) -> Result<Instance, Failure> {
    match refused_address(instance.address.ip()) {
        None => Ok(instance),
        Some(why) => Err(Failure {
            unavailable: false,
            message: format!("{instance} can be no instance of an application: {why}"),
            hint: Some("correct the records that srv_service_url leads to".to_owned()),
        }),
    }
}

async fn address_of(server: &str) -> Result<std::net::SocketAddr, Failure> {
    let failure = |why: String| Failure {
        unavailable: true,
        message: format!("the DNS server {server} cannot be found: {why}"),
        hint: Some("check the key dns_server, or write an address into it".to_owned()),
    };
    let found = timeout(LOOK_UP_LIMIT, lookup_host(server)).await;
    let found = found.map_err(|_elapsed| failure("no answer in time".to_owned()))?;
    let mut found = found.map_err(|error| failure(error.to_string()))?;
    found.next().ok_or_else(|| failure("it has no address".to_owned()))
}

struct RealPause {
    pausing: Pausing,
    failures: Vec<InstanceFailure>,
}

#[async_trait]
impl Pause for RealPause {
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
        failures(self.pausing.check(within).await)
    }

    async fn unpause(&self, within: Duration) -> Vec<InstanceFailure> {
        failures(self.pausing.unpause(within).await.into_iter().filter_map(Result::err))
    }
}

struct Beside(GuardHandle);

#[async_trait]
impl Guard for Beside {
    async fn release(self: Box<Self>) -> Result<(), String> {
        self.0.release().await.map_err(|error| error.to_string())
    }
}

fn failures(errors: impl IntoIterator<Item = InstanceError>) -> Vec<InstanceFailure> {
    let failure = |error: InstanceError| InstanceFailure {
        failure: Failure {
            unavailable: error.problem.is_unavailable(),
            message: chain(&error.problem),
            hint: Some(error.problem.hint().to_owned()),
        },
        instance: error.instance,
    };
    errors.into_iter().map(failure).collect()
}
