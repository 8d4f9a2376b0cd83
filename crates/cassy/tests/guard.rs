//! Guards as processes of their own: who dies, or is too slow, leaves nobody paused.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::{GuardOrder, Instance};
use cassy_pause::{PauseClient, TcpDial, start_guard};
use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::{Failure, Probe, wait_for};

const BINARY: &str = env!("CARGO_BIN_EXE_cassy");
const LIMIT: Duration = Duration::from_secs(30);
/// A guard that is at work ends soon after it.
const LONG: u64 = 8_000;

/// An instance that is paused.
async fn paused(address: &str) -> Result<(Arc<FakeApplication>, Instance), Failure> {
    let address: SocketAddr = address.parse().unwrap();
    let application = FakeApplication::listen(Behaviour::default(), address).await?;
    let instance = Instance { host: "app.test".to_owned(), address: application.address() };
    let client = PauseClient::new(TcpDial);
    let pausing = client.pause(std::slice::from_ref(&instance), LIMIT).await;
    assert!(pausing.failures().is_empty() && application.is_paused());
    Ok((application, instance))
}

fn order(instance: &Instance, deadline_ms: u64) -> GuardOrder {
    GuardOrder {
        job_id: "job".to_owned(),
        instances: vec![instance.clone()],
        deadline_ms,
        give_up_ms: 10_000,
        tls: None,
    }
}

async fn goes_on(application: &FakeApplication) -> Result<(), Failure> {
    wait_for("the application goes on", LIMIT, async || match application.is_paused() {
        false => Probe::Ready(()),
        true => Probe::NotYet("it is paused".to_owned()),
    })
    .await
}

#[tokio::test]
async fn a_guard_that_is_let_go_does_nothing() -> Result<(), Failure> {
    let (application, instance) = paused("127.0.0.1:0").await?;
    let guard = start_guard(Path::new(BINARY), &order(&instance, LONG), Stdio::null()).await.unwrap();
    assert!(guard.unreachable().is_empty());
    guard.release().await.unwrap();
    assert!(application.is_paused());
    Ok(())
}

#[tokio::test]
async fn a_guard_whose_pipe_ends_unpauses() -> Result<(), Failure> {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (application, instance) = paused(address).await?;
        drop(start_guard(Path::new(BINARY), &order(&instance, LONG), Stdio::null()).await.unwrap());
        goes_on(&application).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_guard_whose_deadline_passes_unpauses() -> Result<(), Failure> {
    let (application, instance) = paused("127.0.0.1:0").await?;
    let guard = start_guard(Path::new(BINARY), &order(&instance, 300), Stdio::null()).await.unwrap();
    goes_on(&application).await?;
    drop(guard);
    Ok(())
}

#[tokio::test]
async fn a_guard_leads_a_session_of_its_own_and_unpauses_when_it_is_told_to_end() -> Result<(), Failure> {
    let (application, instance) = paused("127.0.0.1:0").await?;
    let guard = start_guard(Path::new(BINARY), &order(&instance, LONG), Stdio::null()).await.unwrap();
    let id = rustix::process::Pid::from_raw(i32::try_from(guard.id().unwrap()).unwrap()).unwrap();
    assert_eq!(rustix::process::getsid(Some(id)).unwrap(), id);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
    assert!(application.is_paused());
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    goes_on(&application).await
}

#[tokio::test]
async fn what_a_guard_cannot_reach_is_named() -> Result<(), Failure> {
    let (application, instance) = paused("127.0.0.1:0").await?;
    application.stop().await;
    let guard = start_guard(Path::new(BINARY), &order(&instance, LONG), Stdio::null()).await.unwrap();
    let [out_of_reach] = guard.unreachable() else { panic!("{:?}", guard.unreachable()) };
    assert_eq!(out_of_reach.instance, instance);
    assert!(out_of_reach.reason.contains("refused"), "{out_of_reach}");
    guard.release().await.unwrap();
    Ok(())
}
