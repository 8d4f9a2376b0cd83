//! Everything but the server: instances, nodes, the lines between them, the clock of the run, and what is known of all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_control::Clock;
use cassy_testkit::application::{Behaviour, Calls, FakeApplication};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::dice::Dice;
use crate::faults::Kind;
use crate::guards::Guardian;
use crate::nodes::Node;
use crate::store::MemoryStore;

/// What a run goes without, to show that its checks see what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    Guards,
    CheckPaused,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    Server,
    Node(usize),
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) without: Without,
    pub(crate) handle: Handle,
    pub(crate) store: Arc<MemoryStore>,
    /// A line or an agent is not what it was.
    pub(crate) changed: Notify,
    now_ms: AtomicU64,
    order: AtomicU64,
    state: Mutex<State>,
}

/// One instance of the applications.
pub(crate) struct App {
    pub(crate) process: Arc<FakeApplication>,
    pub(crate) instance: Instance,
    /// By the SRV record.
    pub(crate) is_named: bool,
    pub(crate) requests: Option<AbortHandle>,
    pub(crate) is_paused: bool,
    /// Faults of its behaviour that are set.
    pub(crate) faults: BTreeSet<Kind>,
    pub(crate) seen: Calls,
    pub(crate) deaf: u32,
    /// When it last was in no state to be unpaused.
    pub(crate) obstacle: Option<u64>,
}

/// What the oracle of consistency has to know, with its place among all events.
pub(crate) enum Deed {
    /// A request passed the gate of this instance.
    Passed(u64, usize),
    /// A write took effect, or was counted, on this node.
    Written(u64, usize),
}

/// A pause as the server meant it.
pub(crate) struct PauseRecord {
    pub(crate) job_id: String,
    pub(crate) instances: Vec<Instance>,
    pub(crate) began: u64,
    pub(crate) guardians: Vec<Guardian>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) apps: Vec<App>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) cut_off: BTreeSet<(Host, usize)>,
    pub(crate) obstacles: BTreeMap<(Host, usize), u64>,
    pub(crate) dns_fails: bool,
    /// Changes of the SRV record that nobody has seen.
    pub(crate) dns_changes: Vec<Kind>,
    pub(crate) pauses: Vec<PauseRecord>,
    pub(crate) beside: Option<AbortHandle>,
    pub(crate) fired: BTreeMap<Kind, u32>,
    pub(crate) trace: Vec<(u64, String)>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) deeds: Vec<Deed>,
    pub(crate) jobs: Vec<String>,
    counts: BTreeMap<String, u64>,
    /// What faults are set relative to.
    pub(crate) marks: BTreeMap<Mark, u64>,
}

/// Instants that faults are set relative to; the first of each in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    Asked,
    Guarded,
    Paused,
    Snapshot,
    Unpaused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Violation {
    PausedForTooLong(String),
    FalselyConsistent(String),
    Lost(String),
    Left(String),
}

impl World {
    /// How an application behaves while nothing is wrong with it. What it says of its pause is worth nothing where that
    /// is ignored.
    pub(crate) fn well_behaved(&self) -> Behaviour {
        Behaviour { claims_pause: self.without == Without::CheckPaused, ..Behaviour::default() }
    }

    pub(crate) fn new(seed: u64, without: Without, handle: Handle) -> Arc<Self> {
        Arc::new(Self {
            seed,
            without,
            handle,
            store: Arc::default(),
            changed: Notify::new(),
            now_ms: AtomicU64::new(0),
            order: AtomicU64::new(1),
            state: Mutex::default(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn now(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    pub(crate) fn go_on(&self, time: Duration) {
        self.now_ms.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// The place of an event among all: what happens at the same millisecond has an order, too.
    pub(crate) fn place(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }

    /// Does it here, whoever asked: it goes on when the one who asked is gone.
    pub(crate) async fn here<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.handle.spawn(work).await.expect("the world does not end, nor panic")
    }

    pub(crate) fn say(&self, text: impl Into<String>) {
        let now = self.now();
        self.lock().trace.push((now, text.into()));
    }

    pub(crate) fn fired(&self, kind: Kind) {
        *self.lock().fired.entry(kind).or_default() += 1;
        self.say(format!("{kind:?} takes effect"));
    }

    pub(crate) fn mark(&self, mark: Mark) {
        let now = self.now();
        self.lock().marks.entry(mark).or_insert(now);
    }

    /// A choice for the next event of this name.
    pub(crate) fn dice(&self, purpose: &str) -> Dice {
        let mut state = self.lock();
        let count = state.counts.entry(purpose.to_owned()).or_default();
        *count += 1;
        let name = format!("{purpose} {count}");
        drop(state);
        Dice::of(self.seed, &name)
    }

    pub(crate) async fn delay(&self, purpose: &str, first: u64, last: u64) {
        let time = self.dice(purpose).between(first, last);
        tokio::time::sleep(Duration::from_millis(time)).await;
    }

    /// A number instead of an id that no seed repeats.
    pub(crate) fn job(&self, id: &str) -> String {
        let jobs = &mut self.lock().jobs;
        let known = jobs.iter().position(|job| job == id);
        let place = known.unwrap_or_else(|| {
            jobs.push(id.to_owned());
            jobs.len() - 1
        });
        format!("job{}", place + 1)
    }

    /// Events in order, those of one instant by name: these are not in an order that anybody could rely on.
    pub(crate) fn trace(&self) -> Vec<(u64, String)> {
        let mut trace = self.lock().trace.clone();
        trace.sort();
        trace
    }
}

/// The wall clock of this world.
pub(crate) struct WorldClock(pub(crate) Arc<World>);

const EPOCH_MS: i64 = 1_700_000_000_000;

impl Clock for WorldClock {
    fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.0.now()).unwrap()
    }
}

impl App {
    pub(crate) fn new(index: usize, process: Arc<FakeApplication>, is_named: bool) -> Self {
        let last = u8::try_from(index + 1).expect("they are not that many");
        let instance =
            Instance { host: format!("app{}.test", index + 1), address: ([10, 0, 0, last], 60051).into() };
        Self {
            process,
            instance,
            is_named,
            requests: None,
            is_paused: false,
            faults: BTreeSet::new(),
            seen: Calls::default(),
            deaf: 0,
            obstacle: None,
        }
    }
}
