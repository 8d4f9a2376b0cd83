//! The server: the real control plane on a machine of its own, so that it can be killed, and stopped, as a process can.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cassy_agent_protocol::StoreGrant;
use cassy_catalog::{Catalog, MetadataUrl, SERVER_LEASE};
use cassy_control::{ServiceParts, Tenure};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::applications::SimulatedApplications;
use crate::machine::Machine;
use crate::nodes::Nodes;
use crate::store::SharedStore;
use crate::world::{World, WorldClock};

/// Of the lease, as in the product.
const TTL: Duration = Duration::from_secs(20);
/// In real time, for one answer of the database.
const DATABASE_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    machine: Machine,
    world: Arc<World>,
    pub(crate) catalog: Catalog,
    tenure: Arc<Mutex<Option<Arc<Tenure>>>>,
    /// Not polled; its clock is so far behind.
    suspended: Option<Duration>,
}

impl Server {
    pub(crate) fn start(world: &Arc<World>, desk: &Runtime, directory: &Path, longest: Duration) -> Self {
        let url: MetadataUrl =
            format!("jdbc:sqlite:{}", directory.join("cassy.db").display()).parse().unwrap();
        let catalog = desk.block_on(Catalog::open_in_order(&url)).unwrap();
        let holder = format!("server {}", world.place());
        let lease = catalog.take_lease(SERVER_LEASE, &holder, TTL, |_| true);
        let lease = desk.block_on(lease).unwrap();
        at_rest(desk, &catalog);
        let parts = ServiceParts {
            catalog: catalog.clone(),
            epoch: lease.epoch,
            store: Arc::new(SharedStore(Arc::clone(&world.store))),
            grant: StoreGrant { location: "file:///simulated".to_owned() },
            access: Arc::new(Nodes(Arc::clone(world))),
            applications: Arc::new(SimulatedApplications::new(world)),
            longest_pause: longest,
            clock: Arc::new(WorldClock(Arc::clone(world))),
            cassandra_yaml: None,
        };
        let machine = Machine::boot();
        let tenure = Arc::<Mutex<Option<Arc<Tenure>>>>::default();
        let begun = Arc::clone(&tenure);
        machine.handle().spawn(async move {
            let tenure = Tenure::begin(parts, lease).await.expect("the jobs can be read");
            *begun.lock().unwrap() = Some(tenure);
        });
        world.say("the server is started");
        Self { machine, world: Arc::clone(world), catalog, tenure, suspended: None }
    }

    /// When it answers requests.
    pub(crate) fn tenure(&self) -> Option<Arc<Tenure>> {
        self.tenure.lock().unwrap().clone()
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    pub(crate) fn suspend(&mut self) {
        self.suspended.get_or_insert_default();
    }

    /// It finds that time has passed.
    pub(crate) fn resume(&mut self) {
        if let Some(behind) = self.suspended.take() {
            self.machine.advance(behind);
        }
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.machine.handle().spawn(work).abort_handle()
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        match &mut self.suspended {
            Some(behind) => *behind += time,
            None => self.machine.advance(time),
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        !self.is_suspended() && self.machine.is_wanted()
    }

    /// Runs until nothing can run any more and no call to the database is under way: such a call takes no time.
    pub(crate) fn settle(&self) {
        if self.is_suspended() {
            return;
        }
        loop {
            self.machine.settle();
            if self.world.store.take_was_read() {
                self.machine.await_blocking();
            } else if self.catalog.is_at_work() {
                self.await_database();
            } else if !self.machine.is_wanted() {
                return;
            }
        }
    }

    fn await_database(&self) {
        let begun = Instant::now();
        while self.catalog.is_at_work() && !self.machine.is_wanted() {
            assert!(begun.elapsed() < DATABASE_LIMIT, "the database does not answer");
            // Nothing here is told when a thread of SQLite hands in its answer.
            std::thread::park_timeout(Duration::from_micros(10));
        }
    }

    /// The process ends in the middle of everything, between two calls to the database.
    pub(crate) fn kill(self, desk: &Runtime) {
        desk.block_on(self.catalog.close());
        self.machine.pull_the_plug();
    }

    /// A call to the database for the run itself.
    pub(crate) fn ask<T>(&self, desk: &Runtime, work: impl Future<Output = T>) -> T {
        let answer = desk.block_on(work);
        at_rest(desk, &self.catalog);
        answer
    }
}

/// What a call has lent comes back by a task of its own.
fn at_rest(desk: &Runtime, catalog: &Catalog) {
    desk.block_on(async {
        while catalog.is_at_work() {
            tokio::task::yield_now().await;
        }
    });
}
