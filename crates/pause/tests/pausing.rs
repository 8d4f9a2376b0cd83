//! Pausing many instances at once: who says no, who lies, who is slow, who is somebody else by now.
//!
//! In memory, on a clock that jumps: a second here takes no time.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_pause::{PauseClient, Unpaused};
use cassy_testkit::application::{Behaviour, FakeApplication, FakeNetwork, Generation};
use expect_test::expect;
use tokio::time::Instant;
use tonic::Code;

const WITHIN: Duration = Duration::from_secs(30);

/// Applications on a network of their own.
struct Many {
    client: PauseClient,
    applications: Vec<Arc<FakeApplication>>,
    instances: Vec<Instance>,
}

impl Many {
    fn of(behaviours: impl IntoIterator<Item = Behaviour>) -> Self {
        let network = FakeNetwork::default();
        let applications: Vec<_> = behaviours.into_iter().map(FakeApplication::start).collect();
        let instances = applications.iter().map(|application| network.add(application)).collect();
        Self { client: PauseClient::new(network), applications, instances }
    }

    fn paused(&self) -> Vec<bool> {
        self.applications.iter().map(|application| application.is_paused()).collect()
    }
}

fn older() -> Behaviour {
    Behaviour { generation: Generation::Older, ..Behaviour::default() }
}

fn texts(errors: &[cassy_pause::InstanceError]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

#[tokio::test(start_paused = true)]
async fn three_hundred_instances_pause_and_unpause() {
    let behaviours = (0..300).map(|number| if number % 2 == 0 { Behaviour::default() } else { older() });
    let many = Many::of(behaviours);
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    assert!(pausing.failures().is_empty(), "{}", texts(&pausing.failures()));
    assert!(pausing.answered_within().iter().all(Option::is_some));
    assert!(many.paused().iter().all(|paused| *paused));
    assert!(pausing.check(WITHIN).await.is_empty());
    let unpaused = pausing.unpause(WITHIN).await;
    assert_eq!(unpaused.len(), 300);
    assert!(unpaused.iter().all(|one| matches!(one, Ok(Unpaused::Acknowledged))));
    assert!(many.paused().iter().all(|paused| !*paused));
    assert!(many.applications.iter().all(|application| application.calls().unpause == 1));
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_told_how_long_it_may_wait_for_its_requests() {
    let many = Many::of([Behaviour::default()]);
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    assert!(pausing.failures().is_empty());
    assert_eq!(many.applications[0].calls().wait_limit, Some(Duration::from_secs(29)));
}

#[tokio::test(start_paused = true)]
async fn one_refusal_is_named_and_the_others_are_paused() {
    let refusing = Behaviour {
        refuses_pause: Some((Code::FailedPrecondition, "not\nnow".to_owned())),
        ..Behaviour::default()
    };
    let many = Many::of([Behaviour::default(), refusing, older()]);
    let begun = Instant::now();
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    expect![[r#"
        app2.example.com (10.0.0.2:60051): refused Pause with FailedPrecondition: not\nnow
    "#]]
    .assert_eq(&texts(&pausing.failures()));
    assert!(!pausing.failures()[0].problem.is_unavailable());
    assert_eq!(
        pausing.answered_within().iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, true]
    );
    assert_eq!(many.paused(), [true, false, true]);
    assert_eq!(pausing.check(WITHIN).await.len(), 1);
    let unpaused = pausing.unpause(WITHIN).await;
    assert!(unpaused.iter().all(Result::is_ok));
    assert_eq!(many.paused(), [false; 3]);
    // Who has said no is not paused later: nothing is waited for.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn paused_with_an_open_gate_is_not_paused() {
    let many = Many::of([Behaviour { leaves_gate_open: true, ..Behaviour::default() }, Behaviour::default()]);
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    expect![[r#"
        app1.example.com (10.0.0.1:60051): is not paused, although it has answered Pause
    "#]]
    .assert_eq(&texts(&pausing.failures()));
    assert!(pausing.unpause(WITHIN).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_somebody_opens_in_between_is_seen() {
    let many = Many::of([Behaviour::default(), Behaviour::default()]);
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    many.applications[1].gate().open();
    expect![[r#"
        app2.example.com (10.0.0.2:60051): is not paused, although it has answered Pause
    "#]]
    .assert_eq(&texts(&pausing.check(WITHIN).await));
}

#[tokio::test(start_paused = true)]
async fn another_process_is_not_the_one_that_was_paused() {
    for behaviour in [Behaviour::default(), older()] {
        let many = Many::of([behaviour]);
        let pausing = many.client.pause(&many.instances, WITHIN).await;
        assert!(pausing.failures().is_empty());
        many.applications[0].restart().await.unwrap();
        // Even if it were paused, by somebody else.
        many.applications[0].gate().close();
        let failures = pausing.check(WITHIN).await;
        assert_eq!(failures.len(), 1);
        let text = failures[0].to_string();
        assert!(text.contains("the connection broke during CheckPaused: "), "{text}");
        assert!(matches!(pausing.unpause(WITHIN).await[..], [Ok(Unpaused::Acknowledged)]));
        assert_eq!(many.paused(), [false]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_broke_is_no_proof_although_the_process_lives() {
    let many = Many::of([older()]);
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    many.applications[0].cut();
    assert_eq!(pausing.check(WITHIN).await.len(), 1);
    assert_eq!(many.paused(), [true]);
    assert!(matches!(pausing.unpause(WITHIN).await[..], [Ok(Unpaused::Acknowledged)]));
    assert_eq!(many.paused(), [false]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_hangs_holds_up_nobody_and_not_for_ever() {
    let many = Many::of([Behaviour { hangs: true, ..Behaviour::default() }, Behaviour::default()]);
    let begun = Instant::now();
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    assert_eq!(begun.elapsed().as_secs(), 30);
    expect![[r#"
        app1.example.com (10.0.0.1:60051): no answer to Pause within 30000 ms
    "#]]
    .assert_eq(&texts(&pausing.failures()));
    let answered = pausing.answered_within()[1].unwrap();
    assert!(answered < Duration::from_secs(1), "{answered:?}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_checks_too_slowly_is_not_known_to_be_paused() {
    let slow = Behaviour { checks_after: Duration::from_secs(60), ..Behaviour::default() };
    let many = Many::of([slow.clone(), Behaviour { generation: Generation::Older, ..slow }]);
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    expect![[r#"
        app1.example.com (10.0.0.1:60051): no answer to CheckPaused within 30000 ms
        app2.example.com (10.0.0.2:60051): no answer to CheckPaused within 30000 ms
    "#]]
    .assert_eq(&texts(&pausing.failures()));
    // The Pause itself was answered: one Unpause is enough.
    assert!(pausing.unpause(WITHIN).await.iter().all(Result::is_ok));
    assert_eq!(many.paused(), [false; 2]);
}

#[tokio::test(start_paused = true)]
async fn requests_that_do_not_end_are_the_instances_own_refusal() {
    let many = Many::of([Behaviour::default()]);
    let pass = many.applications[0].gate().enter().await;
    let begun = Instant::now();
    let pausing = many.client.pause(&many.instances, Duration::from_secs(10)).await;
    expect![[r#"
        app1.example.com (10.0.0.1:60051): refused Pause with FailedPrecondition: requests have not ended in time
    "#]]
    .assert_eq(&texts(&pausing.failures()));
    assert_eq!(begun.elapsed().as_secs(), 9);
    drop(pass);
    assert_eq!(many.paused(), [false]);
}

#[tokio::test(start_paused = true)]
async fn nobody_there_and_nobody_heard_of_are_told_apart() {
    let network = FakeNetwork::default();
    let gone = FakeApplication::start(Behaviour::default());
    let instances = [network.add(&gone), network.silent()];
    gone.stop().await;
    let client = PauseClient::new(network);
    let begun = Instant::now();
    let pausing = client.pause(&instances, WITHIN).await;
    assert_eq!(begun.elapsed().as_secs(), 5);
    let failures = pausing.failures();
    let causes: Vec<String> =
        failures.iter().filter_map(|one| Some(std::error::Error::source(one)?.to_string())).collect();
    assert_eq!(causes, ["connection refused", "no answer within 5000 ms"]);
    assert!(failures.iter().all(|failure| failure.problem.is_unavailable()));
    assert_eq!(texts(&client.unreachable(&instances, WITHIN).await), texts(&failures));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_admin_service_is_no_pause() {
    let unknown = Behaviour {
        refuses_pause: Some((Code::Unimplemented, "unknown service rpc.Admin".to_owned())),
        ..Behaviour::default()
    };
    let many = Many::of([unknown]);
    let failures = many.client.pause(&many.instances, WITHIN).await.failures();
    assert!(failures[0].problem.hint().contains("rpc.Admin"), "{}", failures[0].problem.hint());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_to_pause_when_one_cannot_be_connected_to() {
    let mut many = Many::of([Behaviour::default()]);
    many.instances.push(FakeNetwork::default().silent());
    let begun = Instant::now();
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    assert!(begun.elapsed() < WITHIN / 2, "{:?}", begun.elapsed());
    assert!(texts(&pausing.failures()).contains("silent.example.com"), "{:?}", pausing.failures());
    assert_eq!((pausing.failures().len(), many.applications[0].calls().pause), (1, 0));
    // So there is nothing to end, and nothing that could be left.
    assert!(pausing.unpause(Duration::ZERO).await.iter().all(Result::is_ok));
    assert_eq!(many.applications[0].calls().unpause, 0);
}

#[tokio::test(start_paused = true)]
async fn one_refusal_ends_the_wait_for_those_that_take_long() {
    let refuses = Behaviour {
        refuses_pause: Some((Code::FailedPrecondition, "no".to_owned())),
        ..Behaviour::default()
    };
    let slow = Behaviour { pauses_after: WITHIN / 2, ..Behaviour::default() };
    let many = Many::of([Behaviour::default(), refuses, slow]);
    let begun = Instant::now();
    let pausing = many.client.pause(&many.instances, WITHIN).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(pausing.failures().len(), 1, "only what failed is named");
    let unpausing = pausing.unpause(WITHIN * 2);
    tokio::pin!(unpausing);
    // The first goes on at once; the slow one is unpaused once more when it has closed its gate.
    let soon = tokio::time::timeout(Duration::from_secs(1), &mut unpausing).await;
    assert!(soon.is_err() && many.paused() == [false; 3]);
    assert!(unpausing.await.iter().all(Result::is_ok));
    assert_eq!((many.paused(), many.applications[2].calls().closed), (vec![false; 3], 1));
}
