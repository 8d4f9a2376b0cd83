//! What is due at this instant: faults, their ends, requests of clients.

use std::sync::Arc;
use std::time::Duration;

use cassy_testkit::application::FakeApplication;
use sqlx::{Connection, Executor, SqliteConnection};
use tokio::task::AbortHandle;
use tonic::Code;

use super::{Due, Run};
use crate::faults::{Fault, Kind};
use crate::nodes::SnapshotFault;
use crate::server::Server;
use crate::world::{App, Host};

/// As the agent does: without a word from its server for so long, it ends.
const SILENCE_MS: u64 = 20_000;

impl Run {
    /// Whether there was anything.
    pub(super) fn inflict(&mut self) -> bool {
        let now = self.world.now();
        let (due, later) = self.due.drain(..).partition(|(at, _)| *at <= now);
        self.due = later;
        let marks = self.world.lock().marks.clone();
        let begins = |fault: &Fault| marks.get(&fault.when.0).is_some_and(|mark| mark + fault.when.1 <= now);
        let (begun, waiting) = self.faults.drain(..).partition(begins);
        self.faults = waiting;
        let (due, begun): (Vec<(u64, Due)>, Vec<Fault>) = (due, begun);
        let is_any = !due.is_empty() || !begun.is_empty();
        due.into_iter().for_each(|(_, due)| self.see_to(due));
        begun.into_iter().for_each(|fault| self.begin(&fault));
        is_any
    }

    /// No fault begins any more, and all have ended.
    pub(super) fn calm(&mut self) {
        self.faults.clear();
        self.world.say("the faults stop");
        for (_, due) in std::mem::take(&mut self.due) {
            self.see_to(due);
        }
        // What these have put off.
        for (_, due) in std::mem::take(&mut self.due) {
            self.see_to(due);
        }
        self.stray.take().inspect(AbortHandle::abort);
        for node in &mut self.world.lock().nodes {
            node.fault = None;
        }
    }

    fn see_to(&mut self, due: Due) {
        let now = self.world.now();
        match due {
            Due::Start if self.lock.is_some() => self.due.push((now + 100, Due::Start)),
            Due::Start => {
                if self.server.is_none() {
                    self.start_server();
                }
            }
            Due::Resume => {
                if let Some(server) = self.server.as_mut().filter(|server| server.is_suspended()) {
                    server.resume();
                    self.server_up_since = Some(now);
                    self.world.say("the server is resumed");
                }
            }
            Due::Silence => {
                if self.server.as_ref().is_some_and(Server::is_suspended) {
                    self.world.agents_end();
                }
            }
            Due::Unlock => {
                if let Some(mut lock) = self.lock.take() {
                    self.desk.block_on(async {
                        lock.execute("ROLLBACK").await.unwrap();
                        lock.close().await.unwrap();
                    });
                    self.world.say("the database is unlocked");
                }
            }
            Due::Heal(kind, victim) => self.heal(kind, victim),
            Due::Ask => self.ask(),
        }
    }

    fn begin(&mut self, fault: &Fault) {
        let (kind, victim) = (fault.kind, fault.victim);
        self.world.say(format!("{kind:?} ({victim}) for {} ms", fault.lasts));
        let end = self.world.now() + fault.lasts;
        match kind {
            Kind::ServerKilled => self.kill_server(end, Some(kind)),
            Kind::ServerAndGuardKilled => {
                let both = self.kill_guard() && self.server.is_some();
                self.kill_server(end, both.then_some(kind));
            }
            Kind::GuardKilled => {
                if self.kill_guard() {
                    self.world.fired(kind);
                }
            }
            Kind::ServerSuspended => self.suspend_server(end),
            Kind::ClientHangsUp => self.hang_up(),
            Kind::DatabaseLocked => self.lock_database(end),
            Kind::UnknownWriter => self.write_past_the_gates(victim),
            Kind::AgentDies => {
                if self.world.agents_of_node_end(self.of_nodes(victim)) {
                    self.world.fired(kind);
                }
            }
            Kind::JmxCut => self.world.lock().nodes[self.of_nodes(victim)].is_jmx_cut = true,
            Kind::SnapshotFails => self.snapshot(victim, SnapshotFault::Fails),
            Kind::SnapshotHangs => self.snapshot(victim, SnapshotFault::Hangs),
            Kind::SnapshotSkips => self.snapshot(victim, SnapshotFault::Skips),
            Kind::DnsFails => self.world.lock().dns_fails = true,
            Kind::DnsGains => self.dns_gains(),
            Kind::DnsLoses => self.dns_loses(victim),
            Kind::Partition => self.cut_off(victim),
            Kind::InstanceRestarts => self.restart(victim),
            Kind::ConnectionsCut => self.cut(victim),
            Kind::InstanceFrozen => {
                let index = self.of_apps(victim);
                self.world.lock().apps[index].faults.insert(kind);
            }
            _ => self.misbehave(kind, victim),
        }
        let ends = match kind {
            Kind::ServerKilled
            | Kind::ServerAndGuardKilled
            | Kind::ServerSuspended
            | Kind::DatabaseLocked => None,
            _ => Some(Due::Heal(kind, victim)),
        };
        self.due.extend(ends.map(|due| (end, due)));
    }

    fn of_nodes(&self, victim: u64) -> usize {
        usize::try_from(victim).unwrap() % self.plan.nodes
    }

    fn of_apps(&self, victim: u64) -> usize {
        usize::try_from(victim).unwrap() % self.plan.apps
    }

    fn kill_server(&mut self, start: u64, kind: Option<Kind>) {
        let Some(server) = self.server.take() else { return };
        server.kill(&self.desk);
        self.server_up_since = None;
        for pause in &mut self.world.lock().pauses {
            pause.guardians[0].killed = true;
        }
        if let Some(kind) = kind {
            self.world.fired(kind);
        }
        self.due.push((start, Due::Start));
    }

    /// Whether there was one.
    fn kill_guard(&self) -> bool {
        let mut state = self.world.lock();
        let Some(beside) = state.beside.take().filter(|beside| !beside.is_finished()) else { return false };
        beside.abort();
        if let Some(pause) = state.pauses.last_mut() {
            pause.guardians[1].killed = true;
        }
        true
    }

    fn suspend_server(&mut self, end: u64) {
        let Some(server) = self.server.as_mut().filter(|server| !server.is_suspended()) else { return };
        server.suspend();
        self.server_up_since = None;
        self.world.fired(Kind::ServerSuspended);
        self.due.push((self.world.now() + SILENCE_MS, Due::Silence));
        self.due.push((end, Due::Resume));
    }

    pub(super) fn hang_up(&self) {
        for client in self.clients.iter().filter(|client| !client.is_finished()) {
            client.abort();
            self.world.fired(Kind::ClientHangsUp);
        }
    }

    fn lock_database(&mut self, end: u64) {
        if self.lock.is_some() {
            return;
        }
        let url = format!("sqlite://{}", self.directory.path().join("cassy.db").display());
        let lock = self.desk.block_on(async {
            let mut lock = SqliteConnection::connect(&url).await.unwrap();
            lock.execute("PRAGMA busy_timeout = 10000").await.unwrap();
            lock.execute("BEGIN IMMEDIATE").await.unwrap();
            lock
        });
        self.lock = Some(lock);
        self.due.push((end, Due::Unlock));
    }

    fn write_past_the_gates(&mut self, victim: u64) {
        let (world, node) = (Arc::clone(&self.world), self.of_nodes(victim));
        let stray = self.machine.handle().spawn(async move {
            loop {
                world.delay("stray", 5, 90).await;
                let is_felt = world.lock().apps.iter().any(|app| app.is_paused);
                if is_felt {
                    world.fired(Kind::UnknownWriter);
                }
                Arc::clone(&world).write(node).await;
            }
        });
        self.stray.replace(stray.abort_handle()).inspect(AbortHandle::abort);
    }

    fn snapshot(&self, victim: u64, fault: SnapshotFault) {
        self.world.lock().nodes[self.of_nodes(victim)].fault = Some(fault);
    }

    fn dns_gains(&mut self) {
        self.add_app(true);
        self.world.lock().dns_changes.push(Kind::DnsGains);
    }

    fn dns_loses(&self, victim: u64) {
        let mut state = self.world.lock();
        if state.apps.iter().filter(|app| app.is_named).count() > 1 {
            state.apps[self.of_apps(victim)].is_named = false;
            state.dns_changes.push(Kind::DnsLoses);
        }
    }

    /// From the server's host, and sometimes from that of a node, too.
    fn cut_off(&self, victim: u64) {
        let mut state = self.world.lock();
        state.cut_off.insert((Host::Server, self.of_apps(victim)));
        if victim.is_multiple_of(3) {
            state.cut_off.insert((Host::Node(self.of_nodes(victim)), self.of_apps(victim)));
        }
    }

    fn restart(&self, victim: u64) {
        let index = self.of_apps(victim);
        let process = Arc::clone(&self.world.lock().apps[index].process);
        self.machine.block_on(process.restart()).unwrap();
        self.world.send_requests(index);
        let now = self.world.now();
        self.world.lock().apps[index].obstacle = Some(now);
        self.world.fired(Kind::InstanceRestarts);
    }

    fn cut(&self, victim: u64) {
        let now = self.world.now();
        let mut state = self.world.lock();
        let app = &mut state.apps[self.of_apps(victim)];
        app.process.cut();
        app.obstacle = Some(now);
        if app.is_paused {
            drop(state);
            self.world.fired(Kind::ConnectionsCut);
        }
    }

    fn misbehave(&self, kind: Kind, victim: u64) {
        let mut state = self.world.lock();
        let app = &mut state.apps[self.of_apps(victim)];
        app.faults.insert(kind);
        app.process.behave(|behaviour| match kind {
            Kind::PauseRefused => behaviour.refuses_pause = Some((Code::Internal, "not now".to_owned())),
            Kind::PauseLate => behaviour.pauses_after = Duration::from_millis(500 + victim % 400),
            Kind::GateLeftOpen => behaviour.leaves_gate_open = true,
            Kind::UnpauseFails => behaviour.refuses_unpauses = 1 + u32::try_from(victim % 6).unwrap(),
            _ => behaviour.hangs = true,
        });
        app.deaf = if kind == Kind::UnpauseFails { 1 + u32::try_from(victim % 6).unwrap() } else { app.deaf };
    }

    fn heal(&mut self, kind: Kind, victim: u64) {
        let (node, index) = (self.of_nodes(victim), self.of_apps(victim));
        let mut state = self.world.lock();
        match kind {
            Kind::JmxCut => state.nodes[node].is_jmx_cut = false,
            Kind::SnapshotFails | Kind::SnapshotHangs | Kind::SnapshotSkips => state.nodes[node].fault = None,
            Kind::DnsFails => state.dns_fails = false,
            Kind::DnsLoses => state.apps[index].is_named = true,
            Kind::Partition => {
                state.cut_off.remove(&(Host::Server, index));
                state.cut_off.remove(&(Host::Node(node), index));
                self.world.changed.notify_waiters();
            }
            Kind::UnknownWriter => {
                self.stray.take().inspect(AbortHandle::abort);
            }
            Kind::InstanceFrozen => {
                state.apps[index].faults.remove(&kind);
                self.world.changed.notify_waiters();
            }
            _ => {
                let app = &mut state.apps[index];
                if app.faults.remove(&kind) {
                    let behaves = self.world.well_behaved();
                    app.process.behave(|behaviour| *behaviour = behaves);
                    app.faults.retain(|kind| *kind == Kind::InstanceFrozen);
                    app.deaf = 0;
                }
            }
        }
    }

    /// A new instance, whose requests begin at once.
    pub(super) fn add_app(&self, is_named: bool) {
        let index = self.world.lock().apps.len();
        let process = {
            let handle = self.machine.handle();
            let _in_the_world = handle.enter();
            FakeApplication::start(self.world.well_behaved())
        };
        self.world.lock().apps.push(App::new(index, process, is_named));
        self.world.send_requests(index);
    }
}
