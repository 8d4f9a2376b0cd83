//! A guard as a loop, in memory, on a clock that jumps: what makes it unpause, and what does not.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cassy_agent_protocol::{GuardOrder, Instance};
use cassy_pause::{Alarm, OrderError, PauseClient, Relief, stand_guard};
use cassy_testkit::application::{Behaviour, FakeApplication, FakeNetwork};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const DEADLINE: Duration = Duration::from_secs(30);
const GIVE_UP: Duration = Duration::from_secs(60);

/// Two applications, the second one paused, and a guard that was given its order.
struct Guarded {
    applications: [Arc<FakeApplication>; 2],
    client: PauseClient,
    instances: Vec<Instance>,
    pipe: DuplexStream,
    answers: BufReader<DuplexStream>,
    terminate: Option<oneshot::Sender<()>>,
    said: Arc<Mutex<Vec<String>>>,
    guard: JoinHandle<Result<Relief, OrderError>>,
    begun: Instant,
}

impl Guarded {
    fn by(order: impl FnOnce(&[Instance]) -> Vec<u8>, silent: bool) -> Self {
        let network = FakeNetwork::default();
        let applications = [(); 2].map(|()| FakeApplication::start(Behaviour::default()));
        let mut instances: Vec<Instance> =
            applications.iter().map(|application| network.add(application)).collect();
        if silent {
            instances.push(network.silent());
        }
        applications[1].gate().close();
        let client = PauseClient::new(network);
        let (mut pipe, input) = duplex(8 << 20);
        let (output, answers) = duplex(1 << 20);
        let (terminate, terminated) = oneshot::channel();
        let said = Arc::<Mutex<Vec<String>>>::default();
        let (hears, own, order) = (Arc::clone(&said), client.clone(), order(&instances));
        let guard = tokio::spawn(async move {
            let terminated = async { terminated.await.unwrap() };
            let say = |text: &str| hears.lock().unwrap().push(text.to_owned());
            stand_guard(BufReader::new(input), output, &own, terminated, say).await
        });
        // There is room for it: it does not wait.
        futures::executor::block_on(pipe.write_all(&order)).unwrap();
        Self {
            applications,
            client,
            instances,
            pipe,
            answers: BufReader::new(answers),
            terminate: Some(terminate),
            said,
            guard,
            begun: Instant::now(),
        }
    }

    async fn armed() -> Self {
        let mut guarded = Self::by(good, false);
        assert_eq!(guarded.answer().await, "ready {\"unreachable\":[]}\n");
        guarded
    }

    async fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).await.unwrap();
        line
    }

    /// Whether all were unpaused in the end, why, and after how many seconds.
    async fn relief(self) -> (Alarm, Vec<String>, u64) {
        let relief = self.guard.await.unwrap().unwrap();
        let Relief::Unpaused { alarm, left } = relief else { panic!("{relief:?}") };
        assert!(self.applications.iter().all(|application| !application.is_paused()));
        (alarm, left.iter().map(ToString::to_string).collect(), self.begun.elapsed().as_secs())
    }
}

/// Says what the future is; its type has no name.
fn order(instances: &[Instance]) -> GuardOrder {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    GuardOrder {
        job_id: "j1".to_owned(),
        instances: instances.to_vec(),
        deadline_ms: millis(DEADLINE),
        give_up_ms: millis(GIVE_UP),
        tls: None,
    }
}

fn line(order: &GuardOrder) -> Vec<u8> {
    let mut line = serde_json::to_vec(order).unwrap();
    line.push(b'\n');
    line
}

fn good(instances: &[Instance]) -> Vec<u8> {
    line(&order(instances))
}

#[tokio::test(start_paused = true)]
async fn one_that_is_let_go_does_nothing() {
    let mut guarded = Guarded::armed().await;
    sleep(Duration::from_secs(10)).await;
    guarded.pipe.write_all(b"done\n").await.unwrap();
    assert!(matches!(guarded.guard.await.unwrap(), Ok(Relief::Released)));
    assert!(guarded.applications[1].is_paused(), "it is not the guard that unpauses");
    assert_eq!(guarded.applications[0].calls(), guarded.applications[1].calls());
    assert_eq!(guarded.applications[0].calls().unpause, 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_pipe_unpauses_at_once_and_until_no_pause_can_come_late() {
    let mut guarded = Guarded::armed().await;
    sleep(Duration::from_secs(10)).await;
    drop(std::mem::replace(&mut guarded.pipe, duplex(1).0));
    sleep(Duration::from_millis(10)).await;
    assert!(!guarded.applications[1].is_paused(), "at once");
    // A Pause that was on its way when its sender died.
    sleep(Duration::from_secs(15)).await;
    guarded.applications[0].gate().close();
    sleep(Duration::from_secs(2)).await;
    assert!(!guarded.applications[0].is_paused());
    let said = Arc::clone(&guarded.said);
    assert_eq!(guarded.relief().await, (Alarm::InputEnded, Vec::new(), 31));
    let expected = "job j1: the process that paused the applications is gone; unpausing 2 instances";
    assert_eq!(*said.lock().unwrap(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_unpauses_although_the_pipe_is_there() {
    let guarded = Guarded::armed().await;
    assert_eq!(guarded.relief().await, (Alarm::Deadline, Vec::new(), 31));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_told_to_end_unpauses_first() {
    let mut guarded = Guarded::armed().await;
    guarded.terminate.take().unwrap().send(()).unwrap();
    sleep(Duration::from_millis(10)).await;
    assert!(!guarded.applications[1].is_paused(), "at once");
    assert_eq!(guarded.relief().await.0, Alarm::Terminated);
}

#[tokio::test(start_paused = true)]
async fn anything_but_the_word_unpauses() {
    for (words, alarm) in [
        (&b"don"[..], Alarm::InputEnded),
        (b"done", Alarm::InputEnded),
        (b"done!\n", Alarm::InputOdd),
        (b" done\n", Alarm::InputOdd),
        (b"\n", Alarm::InputOdd),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff", Alarm::InputOdd),
    ] {
        let mut guarded = Guarded::armed().await;
        guarded.pipe.write_all(words).await.unwrap();
        drop(std::mem::replace(&mut guarded.pipe, duplex(1).0));
        assert_eq!(guarded.relief().await.0, alarm, "{words:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_unreachable_is_said_at_once_and_named_in_the_end() {
    let mut guarded = Guarded::by(good, true);
    let answer = guarded.answer().await;
    let expected = "ready {\"unreachable\":[{\"host\":\"silent.example.com\",\"address\":\"10.255.0.1:60051\",\
                    \"reason\":\"cannot be connected to: no answer within 3000 ms\",\"hint\":\"Look ";
    assert!(answer.starts_with(expected), "{answer}");
    assert!(guarded.begun.elapsed() < Duration::from_secs(5), "its starter waits no longer");
    let silent = "silent.example.com (10.255.0.1:60051): cannot be connected to".to_owned();
    assert_eq!(guarded.relief().await, (Alarm::Deadline, vec![silent], 91));
}

#[tokio::test(start_paused = true)]
async fn one_whose_starter_does_not_listen_stands_all_the_same() {
    let mut guarded = Guarded::by(good, false);
    drop(std::mem::replace(&mut guarded.answers, BufReader::new(duplex(1).0)));
    assert_eq!(guarded.relief().await.0, Alarm::Deadline);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_was_sent_by_the_dead_does_not_last() {
    let guarded = Guarded::armed().await;
    let late = |behaviour: &mut Behaviour| behaviour.pauses_after = Duration::from_secs(20);
    guarded.applications[0].behave(late);
    let dying = guarded.client.pause(&guarded.instances[..1], DEADLINE);
    assert!(tokio::time::timeout(Duration::from_secs(1), dying).await.is_err());
    let Guarded { pipe, guard, applications, .. } = guarded;
    drop(pipe);
    let relief = guard.await.unwrap().unwrap();
    assert!(matches!(relief, Relief::Unpaused { alarm: Alarm::InputEnded, left } if left.is_empty()));
    assert_eq!(applications[0].calls().pause, 1);
    assert!(!applications[0].is_paused());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_order_is_refused_in_words() {
    let endless = |change: fn(&mut GuardOrder)| {
        move |instances: &[Instance]| {
            let mut order = order(instances);
            change(&mut order);
            line(&order)
        }
    };
    let refused = async |guarded: Guarded| {
        let Guarded { pipe, guard, .. } = guarded;
        drop(pipe);
        guard.await.unwrap().unwrap_err().to_string()
    };
    let text = refused(Guarded::by(endless(|order| order.deadline_ms = u64::MAX), false)).await;
    assert_eq!(text, "the order's deadline_ms is longer than 24 h");
    let text = refused(Guarded::by(endless(|order| order.give_up_ms = u64::MAX), false)).await;
    assert_eq!(text, "the order's give_up_ms is longer than 24 h");
    for (bytes, expected) in [
        (&b""[..], "the standard input ended before the order"),
        (b"{\"job_id\":", "the standard input ended before the order"),
        (b"\n", "the order is not understood"),
        (b"done\n", "the order is not understood"),
        (b"{\"job_id\":\"j\"}\n", "the order is not understood"),
        (b"\xff\xfe\n", "the order is not understood"),
    ] {
        assert_eq!(refused(Guarded::by(|_| bytes.to_vec(), false)).await, expected, "{bytes:?}");
    }
    let text = refused(Guarded::by(|_| vec![b'['; (4 << 20) + 1], false)).await;
    assert_eq!(text, "the order is longer than 4194304 bytes");
    let text = refused(Guarded::by(|_| format!("{}\n", "[".repeat(1 << 20)).into_bytes(), false)).await;
    assert_eq!(text, "the order is not understood", "however deep");
}

#[tokio::test(start_paused = true)]
async fn an_order_that_does_not_come_is_not_waited_for_for_ever() {
    let guarded = Guarded::by(|_| Vec::new(), false);
    let error = guarded.guard.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "no order came on the standard input within 10 s");
}
