//! One run: a cluster, its backups, the faults of the seed, a time without faults, one more backup, and the checks.

mod inflict;
mod observe;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cassy_control::{BackupAnswer, BackupRequest, BackupType, OperationError, Operations};
use sqlx::SqliteConnection;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::faults::{Fault, Kind, Plan};
use crate::log::Log;
use crate::machine::Machine;
use crate::server::Server;
use crate::world::{Mark, Violation, Without, World};

/// While somebody is paused, or about to be; and else.
const FINE: Duration = Duration::from_millis(5);
const COARSE: Duration = Duration::from_millis(20);
/// When faults have to have begun, and when everything has to have ended once they stop.
const FAULTS_END_MS: u64 = 40_000;
const CALM_LIMIT_MS: u64 = 1_800_000;

/// What became of a run.
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    pub(crate) violations: Vec<Violation>,
    pub(crate) fired: BTreeMap<Kind, u32>,
    pub(crate) trace: Vec<(u64, String)>,
    pub(crate) log: Vec<(u64, String)>,
}

type Answers = Arc<Mutex<Vec<Result<BackupAnswer, OperationError>>>>;

/// Something that is due at an instant.
#[derive(Clone, Copy)]
enum Due {
    Start,
    Resume,
    Silence,
    Unlock,
    Heal(Kind, u64),
    Ask,
}

struct Run {
    world: Arc<World>,
    machine: Machine,
    server: Option<Server>,
    /// In real time: for the database, beside the server.
    desk: Runtime,
    directory: TempDir,
    plan: Plan,
    cluster: String,
    faults: Vec<Fault>,
    due: Vec<(u64, Due)>,
    clients: Vec<AbortHandle>,
    answers: Answers,
    lock: Option<SqliteConnection>,
    stray: Option<AbortHandle>,
    /// Since when the server runs, and is not suspended.
    server_up_since: Option<u64>,
    hot_until: u64,
}

/// Plays a seed.
pub(crate) fn play(seed: u64, without: Without) -> Outcome {
    let machine = Machine::boot();
    let world = World::new(seed, without, machine.handle());
    let log = Log::new(&world);
    let mut run = Run::new(world, machine, Plan::of(seed));
    tracing::subscriber::with_default(log.clone(), || run.play());
    if log.holds("database is locked") {
        run.world.fired(Kind::DatabaseLocked);
    }
    let trace = run.world.trace();
    let state = run.world.lock();
    let (violations, fired) = (state.violations.clone(), state.fired.clone());
    drop(state);
    Outcome { plan: run.plan.clone(), violations, fired, trace, log: log.lines() }
}

/// So many clients ask one after another, without any other fault, and hang up at instants of chance. How many did so
/// before they had an answer, and how many jobs there were.
pub(crate) fn hang_up_often(count: u64) -> (usize, usize, Vec<Violation>) {
    let machine = Machine::boot();
    let world = World::new(100, Without::Nothing, machine.handle());
    let plan = Plan { nodes: 3, apps: 3, backups: 0, faults: Vec::new(), ..Plan::of(100) };
    let mut run = Run::new(world, machine, plan);
    run.build();
    run.start_server();
    run.register();
    for _ in 0..count {
        run.ask();
        let patience = run.world.dice("patience").between(0, 1300);
        let end = run.world.now() + patience;
        run.until(end, |_| false);
        run.hang_up();
        let end = run.world.now() + CALM_LIMIT_MS;
        if !run.until(end, Run::is_over) {
            run.lost("a job did not end");
        }
    }
    run.ask();
    let end = run.world.now() + CALM_LIMIT_MS;
    run.until(end, Run::is_over);
    run.judge();
    let hung_up = run.world.lock().fired.get(&Kind::ClientHangsUp).copied().unwrap_or(0);
    let violations = run.world.lock().violations.clone();
    let jobs = run.world.lock().jobs.len();
    (hung_up as usize, jobs, violations)
}

impl Run {
    fn new(world: Arc<World>, machine: Machine, plan: Plan) -> Self {
        let memory = PathBuf::from("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Self {
            world,
            machine,
            server: None,
            desk: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            directory: directory.unwrap(),
            faults: plan.faults.clone(),
            plan,
            cluster: String::new(),
            due: Vec::new(),
            clients: Vec::new(),
            answers: Answers::default(),
            lock: None,
            stray: None,
            server_up_since: None,
            hot_until: 0,
        }
    }

    fn play(&mut self) {
        self.build();
        self.start_server();
        self.register();
        let first = self.world.now() + 50;
        for number in 0..self.plan.backups as u64 {
            let after = self.world.dice("second backup").between(0, 3000) * number;
            self.due.push((first + after, Due::Ask));
        }
        let end = self.world.now() + FAULTS_END_MS;
        let answered = |run: &Self| run.world.now() > first + 3000 && run.is_over();
        self.until(end, answered);
        self.calm();
        let end = self.world.now() + CALM_LIMIT_MS;
        if !self.until(end, Self::is_over) {
            self.lost("the jobs did not end");
            return;
        }
        // A snapshot whose call hung may come late.
        let late = self.world.now() + 25_000;
        self.until(late, |_| false);
        let before = self.answers.lock().unwrap().len();
        self.ask();
        let end = self.world.now() + CALM_LIMIT_MS;
        if !self.until(end, |run| run.answers.lock().unwrap().len() > before && run.is_over()) {
            self.lost("the backup without faults did not end");
            return;
        }
        self.judge();
    }

    fn lost(&self, what: &str) {
        let closed: Vec<_> = self.world.lock().apps.iter().map(|app| app.is_paused).collect();
        let violation = Violation::Lost(format!("{what}; paused: {closed:?}"));
        self.world.lock().violations.push(violation);
    }

    /// Goes on until then, or the condition, which is true.
    fn until(&mut self, end_ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let mut next_look = 0;
        loop {
            self.settle();
            self.observe();
            if self.inflict() {
                continue;
            }
            let now = self.world.now();
            if now >= next_look {
                if done(self) {
                    return true;
                }
                next_look = now + 500;
            }
            if now >= end_ms {
                return false;
            }
            self.advance();
        }
    }

    fn settle(&self) {
        loop {
            self.machine.settle();
            if let Some(server) = &self.server {
                server.settle();
            }
            if !self.machine.is_wanted() && !self.server.as_ref().is_some_and(Server::is_wanted) {
                return;
            }
        }
    }

    fn advance(&mut self) {
        let time = if self.world.now() < self.hot_until { FINE } else { COARSE };
        self.world.go_on(time);
        self.machine.advance(time);
        if let Some(server) = &mut self.server {
            server.advance(time);
        }
    }

    fn start_server(&mut self) {
        let longest = Duration::from_millis(self.plan.longest);
        self.server = Some(Server::start(&self.world, &self.desk, self.directory.path(), longest));
        self.server_up_since = Some(self.world.now());
    }

    fn register(&mut self) {
        let end = self.world.now() + 10_000;
        self.until(end, |run| run.server.as_ref().is_some_and(|server| server.tenure().is_some()));
        let server = self.server.as_ref().unwrap();
        let (tenure, registered) = (server.tenure().unwrap(), Arc::<Mutex<Option<String>>>::default());
        let place = Arc::clone(&registered);
        server.spawn(async move {
            let cluster = tenure.register_cluster(&crate::nodes::address(0)).await.unwrap();
            *place.lock().unwrap() = Some(cluster.cluster_id);
        });
        let known = Arc::clone(&registered);
        self.until(end, move |_| known.lock().unwrap().is_some());
        self.cluster = registered.lock().unwrap().clone().unwrap();
    }

    /// A client asks for a backup; it comes back later when nobody answers. In the first instants of a server that was
    /// resumed, whether it finds out about its lease before or after a request is up to the dice of `select!`.
    fn ask(&mut self) {
        let now = self.world.now();
        let settled = self.server_up_since.is_some_and(|since| now >= since + 1000);
        let tenure = self.server.as_ref().filter(|_| settled).and_then(Server::tenure);
        let Some(tenure) = tenure else {
            self.due.push((now + 500, Due::Ask));
            return;
        };
        self.world.mark(Mark::Asked);
        let request = BackupRequest {
            backup_type: BackupType::Cluster,
            keep_unproven: self.plan.keep_unproven,
            ..crate::fakes::backup(&self.cluster)
        };
        let (answers, world) = (Arc::clone(&self.answers), Arc::clone(&self.world));
        let client = self.server.as_ref().unwrap().spawn(async move {
            let answer = tenure.take_backup(request).await;
            let status =
                answer.as_ref().map_or("an error".to_owned(), |answer| format!("{:?}", answer.status));
            world.say(format!("a client hears {status}"));
            answers.lock().unwrap().push(answer);
        });
        self.clients.push(client);
    }

    /// Nobody is paused, no client waits, no job is unfinished, no intent is open.
    fn is_over(&self) -> bool {
        let Some(server) = self.server.as_ref().filter(|server| !server.is_suspended()) else { return false };
        let waits = self.due.iter().any(|(_, due)| matches!(due, Due::Ask));
        let waits = waits || self.clients.iter().any(|client| !client.is_finished());
        if waits || server.tenure().is_none() || self.world.lock().apps.iter().any(|app| app.is_paused) {
            return false;
        }
        server.ask(&self.desk, async {
            let jobs = server.catalog.unfinished_jobs().await.unwrap();
            let intents = server.catalog.open_pause_intents().await.unwrap();
            jobs.is_empty() && intents.is_empty()
        })
    }
}
