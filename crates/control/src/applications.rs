//! What a cluster-wide backup needs of the applications over Cassandra, as traits of our own: the binary wires them
//! to DNS, gRPC and guard processes, tests to fakes.

use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{GuardOrder, Instance, TlsTrust};
use tokio::time::Instant;

use crate::job::Failure;

/// Finds, pauses and unpauses the instances of the applications.
#[async_trait]
pub trait Applications: Send + Sync + 'static {
    /// The SRV record that names the instances (`srv_service_url`); `None` when none is configured.
    fn service(&self) -> Option<&str>;
    /// How a guard is sure of whom it speaks to; `None` where no TLS is spoken.
    fn tls(&self) -> Option<&TlsTrust> {
        None
    }
    /// Whom the SRV record names at this moment, each address of a target by itself; in order, none twice, never
    /// empty.
    async fn find(&self) -> Result<Vec<Instance>, Failure>;
    /// Starts a guard in a process of its own. It is armed when this returns, and reaches every instance.
    async fn guard(&self, order: &GuardOrder) -> Result<Box<dyn Guard>, Failure>;
    /// Asks all instances at once to pause; ends when each has answered, or `within` has passed.
    async fn pause(&self, instances: &[Instance], within: Duration) -> Box<dyn Pause>;
    /// Unpauses all instances at once, again and again, until each has acknowledged it or `within` has passed; `late` is
    /// how long a Pause that a dead server has sent may still take effect: as long it is repeated. Answers those that
    /// have not acknowledged.
    async fn unpause(&self, instances: &[Instance], late: Duration, within: Duration)
    -> Vec<InstanceFailure>;
}

/// Unpauses when its pipe ends or its deadline passes.
#[async_trait]
pub trait Guard: Send {
    /// Everything is unpaused: the guard ends without doing anything. An error when it did something before, or may have.
    async fn release(self: Box<Self>) -> Result<(), String>;
}

/// Instances that were asked to pause.
#[async_trait]
pub trait Pause: Send + Sync {
    /// When the first was asked to pause; when it was begun, if none was. Nobody was paused before.
    fn asked_at(&self) -> Instant;
    /// Those that did not say that they are paused; empty when all are.
    fn failures(&self) -> &[InstanceFailure];
    /// How long each took to say so, in the order of the request; `None` for those that did not.
    fn answered_within(&self) -> Vec<Option<Duration>>;
    /// Asks all at once whether they are still paused, each on the connection on which it answered the Pause. Empty
    /// when all are.
    async fn check(&self, within: Duration) -> Vec<InstanceFailure>;
    /// Unpauses all, at first on those connections, until each has acknowledged it or `within` has passed. One whose
    /// Pause got no answer is unpaused again and again as long as that Pause may still take effect. Answers those that
    /// have not acknowledged.
    async fn unpause(&self, within: Duration) -> Vec<InstanceFailure>;
}

/// What went wrong with one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFailure {
    /// Which.
    pub instance: Instance,
    /// What, why, what to do.
    pub failure: Failure,
}
