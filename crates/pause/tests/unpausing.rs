//! Unpausing: until it is certain that nobody is paused, whatever became of the Pause and of the process.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_pause::{InstanceError, PauseClient, Unpaused};
use cassy_testkit::application::{Behaviour, FakeApplication, FakeNetwork};
use tokio::time::{Instant, sleep};
use tonic::Code;

const WITHIN: Duration = Duration::from_secs(60);

/// An application and a client that reaches it.
struct One {
    client: PauseClient,
    application: Arc<FakeApplication>,
    instances: [Instance; 1],
}

impl One {
    fn of(behaviour: Behaviour) -> Self {
        let network = FakeNetwork::default();
        let application = FakeApplication::start(behaviour);
        let instances = [network.add(&application)];
        Self { client: PauseClient::new(network), application, instances }
    }

    async fn unpause(&self, within: Duration) -> Result<Unpaused, InstanceError> {
        self.client.unpause(&self.instances, Duration::ZERO, within).await.remove(0)
    }
}

fn late(pauses_after: u64) -> Behaviour {
    Behaviour { pauses_after: Duration::from_secs(pauses_after), ..Behaviour::default() }
}

#[tokio::test(start_paused = true)]
async fn an_unpause_that_is_refused_is_tried_until_it_is_acknowledged() {
    let one = One::of(Behaviour { refuses_unpauses: 7, ..Behaviour::default() });
    one.application.gate().close();
    let begun = Instant::now();
    assert_eq!(one.unpause(WITHIN).await.unwrap(), Unpaused::Acknowledged);
    assert!(!one.application.is_paused());
    assert_eq!(one.application.calls().unpause, 8);
    // 20 + 40 + 80 + 160 + 320 + 640 + 1000 ms.
    assert_eq!(begun.elapsed().as_millis() / 100, 22);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_acknowledges_is_named_when_time_is_over() {
    let one = One::of(Behaviour { refuses_unpauses: u32::MAX, ..Behaviour::default() });
    let begun = Instant::now();
    let error = one.unpause(WITHIN).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "app1.example.com (10.0.0.1:60051): refused Unpause with Internal: cannot unpause now"
    );
    assert_eq!(begun.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_closes_after_its_connection_broke_is_opened_again() {
    // Broken in the middle: the gate closes 5 s later, after a first Unpause was acknowledged.
    let one = One::of(late(5));
    let pausing = {
        let pause = one.client.pause(&one.instances, Duration::from_secs(10));
        let cut = async {
            sleep(Duration::from_secs(1)).await;
            one.application.cut();
        };
        tokio::join!(pause, cut).0
    };
    let begun = Instant::now();
    let unpaused = pausing.unpause(WITHIN).await.remove(0);
    assert_eq!(unpaused.unwrap(), Unpaused::Acknowledged);
    assert_eq!(begun.elapsed().as_secs(), 9, "as long as that Pause may last");
    assert!(!one.application.is_paused());
    let calls = one.application.calls();
    assert!(calls.pause == 1 && calls.unpause > 5, "{calls:?}");
    sleep(WITHIN).await;
    assert!(!one.application.is_paused());
}

#[tokio::test(start_paused = true)]
async fn acknowledged_too_early_is_not_enough() {
    let one = One::of(late(8));
    let pausing = tokio::time::timeout(Duration::from_secs(2), async {
        let pause = one.client.pause(&one.instances, Duration::from_secs(10));
        let cut = async {
            sleep(Duration::from_secs(1)).await;
            one.application.cut();
        };
        tokio::join!(pause, cut).0
    });
    let pausing = pausing.await.unwrap();
    let error = pausing.unpause(Duration::from_secs(4)).await.remove(0).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("its unanswered Pause may still take effect for"), "{text}");
    assert!(error.problem.hint().contains("cassy unpause"));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_gave_up_waiting_does_not_say_that_nothing_happens() {
    for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled] {
        let one =
            One::of(Behaviour { refuses_pause: Some((code, "upstream".to_owned())), ..Behaviour::default() });
        let pausing = one.client.pause(&one.instances, Duration::from_secs(10)).await;
        let begun = Instant::now();
        assert!(pausing.unpause(WITHIN).await.remove(0).is_ok());
        assert_eq!(begun.elapsed().as_secs(), 10, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_gone_is_not_paused() {
    let one = One::of(Behaviour::default());
    let pausing = one.client.pause(&one.instances, Duration::from_secs(10)).await;
    one.application.stop().await;
    let begun = Instant::now();
    assert_eq!(pausing.unpause(WITHIN).await.remove(0).unwrap(), Unpaused::Gone);
    let seconds = begun.elapsed().as_secs();
    assert!((3..6).contains(&seconds), "{seconds}: one refusal alone says little");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_comes_back_in_time_is_asked() {
    let one = One::of(Behaviour::default());
    one.application.stop().await;
    let back = async {
        sleep(Duration::from_secs(2)).await;
        one.application.restart().await.unwrap();
    };
    let (unpaused, ()) = tokio::join!(one.unpause(WITHIN), back);
    assert_eq!(unpaused.unwrap(), Unpaused::Acknowledged);
    assert_eq!(one.application.calls().unpause, 1);
}

#[tokio::test(start_paused = true)]
async fn a_process_counts_as_gone_only_after_its_pause_is_over() {
    let one = One::of(late(5));
    let cut = async {
        sleep(Duration::from_secs(1)).await;
        one.application.stop().await;
    };
    let (pausing, ()) = tokio::join!(one.client.pause(&one.instances, Duration::from_secs(20)), cut);
    let begun = Instant::now();
    assert_eq!(pausing.unpause(WITHIN).await.remove(0).unwrap(), Unpaused::Gone);
    assert_eq!(begun.elapsed().as_secs(), 19, "20 s from the Pause on");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_unreachable_may_be_paused_and_is_tried_to_the_end() {
    let network = FakeNetwork::default();
    let silent = [network.silent()];
    let client = PauseClient::new(network);
    let begun = Instant::now();
    let error = client.unpause(&silent, Duration::ZERO, WITHIN).await.remove(0).unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 60);
    assert_eq!(error.to_string(), "silent.example.com (10.255.0.1:60051): cannot be connected to");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_hangs_is_given_up_for_another() {
    let one = One::of(Behaviour::default());
    let pausing = one.client.pause(&one.instances, Duration::from_secs(10)).await;
    one.application.behave(|behaviour| behaviour.hangs = true);
    let recovers = async {
        sleep(Duration::from_secs(3)).await;
        one.application.behave(|behaviour| behaviour.hangs = false);
    };
    let begun = Instant::now();
    let (mut unpaused, ()) = tokio::join!(pausing.unpause(WITHIN), recovers);
    assert_eq!(unpaused.remove(0).unwrap(), Unpaused::Acknowledged);
    // And then a second, as whoever was silent may hold more than this.
    assert_eq!(begun.elapsed().as_secs(), 6);
    assert!(!one.application.is_paused());
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_somebody_else_is_waited_for_when_it_is_known_how_long() {
    let one = One::of(late(6));
    let other = one.client.clone();
    let abandoned =
        tokio::time::timeout(Duration::from_secs(1), other.pause(&one.instances, Duration::from_secs(10)));
    assert!(abandoned.await.is_err());
    let late = Duration::from_secs(9);
    let begun = Instant::now();
    let unpaused = one.client.unpause(&one.instances, late, WITHIN).await.remove(0);
    assert_eq!(unpaused.unwrap(), Unpaused::Acknowledged);
    assert_eq!(begun.elapsed(), late);
    assert!(!one.application.is_paused());
}
