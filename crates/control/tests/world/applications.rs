//! Fake applications over the fake ring: instances with a gate, and faults by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{GuardOrder, Instance};
use cassy_control::applications::{Applications, Guard, InstanceFailure, Pause};
use cassy_control::job::Failure;
use tokio::time::Instant;

/// All of them; clones are the same applications.
#[derive(Clone, Default)]
pub(crate) struct FakeApplications(pub(crate) Arc<Mutex<State>>);

#[derive(Default)]
pub(crate) struct State {
    /// Whom the SRV record names; none: there is no record.
    pub(crate) named: Vec<Instance>,
    /// Whom it names from the next look on.
    pub(crate) named_later: Option<Vec<Instance>>,
    /// Whose gate is closed.
    pub(crate) paused: BTreeSet<Instance>,
    pub(crate) refuse_pause: BTreeSet<Instance>,
    /// Says that it is paused, and is not.
    pub(crate) gate_open: BTreeSet<Instance>,
    /// Unpauses refused, so many times.
    pub(crate) deaf: BTreeMap<Instance, u32>,
    pub(crate) guard_fails: bool,
    /// It has unpaused somebody before it is released.
    pub(crate) guard_was_alarmed: bool,
    pub(crate) is_configured: bool,
    /// What happened, in order.
    pub(crate) log: Vec<String>,
}

/// `count` instances.
pub(crate) fn instances(count: u16) -> Vec<Instance> {
    let instance =
        |number| Instance { host: format!("app{number}.test"), address: ([127, 0, 0, 1], number).into() };
    (1..=count).map(instance).collect()
}

impl FakeApplications {
    pub(crate) fn of(count: u16) -> Self {
        let state = State { named: instances(count), is_configured: true, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn go_on(&self, instances: &[Instance]) -> Vec<InstanceFailure> {
        let mut state = self.lock();
        state.log.push("unpause".to_owned());
        let mut left = Vec::new();
        for instance in instances {
            match state.deaf.get_mut(instance).filter(|times| **times > 0) {
                Some(times) => {
                    *times -= 1;
                    left.push(failed(instance, "does not answer"));
                }
                None => drop(state.paused.remove(instance)),
            }
        }
        left
    }
}

fn failed(instance: &Instance, message: &str) -> InstanceFailure {
    let failure = Failure { unavailable: true, message: message.to_owned(), hint: None };
    InstanceFailure { instance: instance.clone(), failure }
}

#[async_trait]
impl Applications for FakeApplications {
    fn service(&self) -> Option<&str> {
        self.lock().is_configured.then_some("_app._tcp.test")
    }

    async fn find(&self) -> Result<Vec<Instance>, Failure> {
        let mut state = self.lock();
        let named = state.named.clone();
        if let Some(later) = state.named_later.take() {
            state.named = later;
        }
        if named.is_empty() {
            let message = "there is no SRV record _app._tcp.test".to_owned();
            return Err(Failure { unavailable: false, message, hint: None });
        }
        Ok(named)
    }

    async fn guard(&self, order: &GuardOrder) -> Result<Box<dyn Guard>, Failure> {
        self.lock().log.push("guard".to_owned());
        if self.lock().guard_fails {
            let message = "no guard could be started".to_owned();
            return Err(Failure { unavailable: true, message, hint: None });
        }
        Ok(Box::new(FakeGuard { applications: self.clone(), instances: Some(order.instances.clone()) }))
    }

    async fn pause(&self, instances: &[Instance], _within: Duration) -> Box<dyn Pause> {
        let mut state = self.lock();
        state.log.push("pause".to_owned());
        let mut failures = Vec::new();
        for instance in instances {
            if state.refuse_pause.contains(instance) {
                failures.push(failed(instance, "refuses to pause"));
            } else {
                state.paused.insert(instance.clone());
            }
        }
        let (applications, instances) = (self.clone(), instances.to_vec());
        Box::new(FakePause { applications, asked_at: Instant::now(), instances, failures })
    }

    async fn unpause(
        &self,
        instances: &[Instance],
        _late: Duration,
        _within: Duration,
    ) -> Vec<InstanceFailure> {
        let left = self.go_on(instances);
        if !left.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        left
    }
}

struct FakePause {
    applications: FakeApplications,
    asked_at: Instant,
    instances: Vec<Instance>,
    failures: Vec<InstanceFailure>,
}

#[async_trait]
impl Pause for FakePause {
    fn asked_at(&self) -> Instant {
        self.asked_at
    }

    fn failures(&self) -> &[InstanceFailure] {
        &self.failures
    }

    fn answered_within(&self) -> Vec<Option<Duration>> {
        self.instances.iter().map(|_| Some(Duration::from_millis(1))).collect()
    }

    async fn check(&self, _within: Duration) -> Vec<InstanceFailure> {
        let mut state = self.applications.lock();
        state.log.push("check".to_owned());
        let is_awake =
            |instance: &&Instance| state.gate_open.contains(*instance) || !state.paused.contains(*instance);
        self.instances.iter().filter(is_awake).map(|instance| failed(instance, "is not paused")).collect()
    }

    async fn unpause(&self, _within: Duration) -> Vec<InstanceFailure> {
        self.applications.go_on(&self.instances)
    }
}

struct FakeGuard {
    applications: FakeApplications,
    instances: Option<Vec<Instance>>,
}

#[async_trait]
impl Guard for FakeGuard {
    async fn release(mut self: Box<Self>) -> Result<(), String> {
        self.instances.take();
        let mut state = self.applications.lock();
        state.log.push("guard released".to_owned());
        if state.guard_was_alarmed { Err("it has unpaused".to_owned()) } else { Ok(()) }
    }
}

impl Drop for FakeGuard {
    fn drop(&mut self) {
        let Some(instances) = self.instances.take() else { return };
        self.applications.lock().log.push("guard at work".to_owned());
        self.applications.go_on(&instances);
    }
}
