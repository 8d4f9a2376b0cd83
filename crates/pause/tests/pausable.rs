//! The example `pausable` under load: clients that never stop calling while it is paused and unpaused again and again.
//! Each request is answered, by a number of its own; none while it is paused.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

#[path = "../examples/pausable/admin.rs"]
#[allow(unreachable_pub, reason = "an example of its own")]
mod admin;
#[path = "../examples/pausable/application.rs"]
#[allow(unreachable_pub, reason = "an example of its own")]
mod application;
#[path = "../examples/pausable/gate.rs"]
#[allow(unreachable_pub, reason = "an example of its own")]
mod gate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_pause::proto::admin_server::AdminServer;
use cassy_pause::{PauseClient, TcpDial, Unpaused};
use cassy_testkit::{Probe, catch};
use futures::StreamExt;
use futures::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Server;

use admin::GateAdmin;
use application::Counter;
use gate::Gate;

const CLIENTS: usize = 64;
/// Of these, each opens a connection for every request.
const CLIENTS_ANEW: usize = 16;
const PAUSES: usize = 200;
/// Every so many pauses, the caller gives up in the middle.
const GIVEN_UP: usize = 10;
const HELD_FOR: Duration = Duration::from_millis(5);
const WITHIN: Duration = Duration::from_secs(30);

/// The example, on loopback.
struct Pausable {
    counter: Arc<Counter>,
    gate: Arc<Gate>,
    address: SocketAddr,
    instance: Instance,
}

impl Pausable {
    async fn start() -> Self {
        let gate = Gate::new();
        let counter = Counter::new(gate.clone());
        let (listener, address) = bound().await;
        tokio::spawn(counter.clone().serve(listener));
        let (listener, administration) = bound().await;
        let service = AdminServer::new(GateAdmin { gate: gate.clone() });
        let incoming = futures::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming.boxed()));
        let instance = Instance { host: "localhost".to_owned(), address: administration };
        Self { counter, gate, address, instance }
    }
}

async fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What the clients see.
#[derive(Default)]
struct Load {
    ends: AtomicBool,
    sent: AtomicUsize,
    answered: AtomicUsize,
}

impl Load {
    /// The numbers that were answered. A request without an answer is a panic.
    async fn client(self: Arc<Self>, address: SocketAddr, anew: bool) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        while !self.ends.load(Ordering::SeqCst) {
            if anew {
                stream = BufReader::new(TcpStream::connect(address).await.expect("nobody is turned away"));
            }
            self.sent.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"\n").await.expect("no connection is cut off");
            let mut line = String::new();
            let read = timeout(WITHIN, stream.read_line(&mut line)).await.expect("each request is answered");
            read.expect("no connection is cut off");
            numbers.push(line.trim().parse().expect("a number is the answer, and nothing else"));
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
        numbers
    }

    fn under_way(&self) -> usize {
        self.sent.load(Ordering::SeqCst) - self.answered.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_dropped_or_refused_over_hundreds_of_pauses() {
    let pausable = Pausable::start().await;
    let load = Arc::new(Load::default());
    let client = |number| Arc::clone(&load).client(pausable.address, number < CLIENTS_ANEW);
    let clients: Vec<JoinHandle<Vec<u64>>> =
        (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect();

    let pauses = PauseClient::new(TcpDial);
    let instances = [pausable.instance.clone()];
    let (mut held, mut given_up, begun) = (0, 0, Instant::now());
    for number in 1..=PAUSES {
        // Some requests go through before it is paused again.
        let before = pausable.counter.value();
        let enough = catch("requests go through", WITHIN, async || match pausable.counter.value() - before {
            through if through >= CLIENTS as u64 => Probe::Ready(()),
            through => Probe::NotYet(format!("{through} requests")),
        });
        enough.await.unwrap();
        if number % GIVEN_UP == 0 {
            // One request stays under way, so that this Pause cannot be answered.
            let pass = pausable.gate.enter().await;
            let pausing = pauses.pause(&instances, Duration::from_millis(60)).await;
            assert_eq!(pausing.failures().len(), 1, "a request is under way");
            assert!(pausing.unpause(WITHIN).await.iter().all(Result::is_ok));
            drop(pass);
            given_up += 1;
            continue;
        }
        let pausing = pauses.pause(&instances, WITHIN).await;
        assert!(pausing.failures().is_empty(), "{:?}", pausing.failures());
        let value = pausable.counter.value();
        sleep(HELD_FOR).await;
        held += load.under_way();
        assert!(pausing.check(WITHIN).await.is_empty());
        assert_eq!(pausable.counter.value(), value, "nothing goes through while it is paused");
        let unpaused = pausing.unpause(WITHIN).await;
        assert!(matches!(unpaused[..], [Ok(Unpaused::Acknowledged)]), "{unpaused:?}");
    }
    load.ends.store(true, Ordering::SeqCst);
    let numbers = join_all(clients).await.into_iter().flat_map(|client| client.expect("no client fails"));
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();

    let sent = load.sent.load(Ordering::SeqCst);
    println!(
        "{PAUSES} pauses in {:?}, {given_up} of them given up; {sent} requests of {CLIENTS} clients, all answered; \
         {held} times one was held back by a closed gate",
        begun.elapsed()
    );
    assert_eq!((numbers.len(), load.under_way()), (sent, 0), "each request has its answer");
    let each: Vec<u64> = (1..=pausable.counter.value()).collect();
    assert_eq!(numbers, each, "no request was done twice, or without an answer");
    assert_eq!(given_up, PAUSES / GIVEN_UP);
    assert!(held >= (PAUSES - given_up) * CLIENTS / 2, "the gate held most of the clients each time: {held}");
}
