//! Very many requests at the same instant: none of them is made a job, and a node sees few of them at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::world::{Action, FakeAccess, NODE, Ring, backup};
use async_trait::async_trait;
use cassy_agent_protocol::ServerHello;
use cassy_control::nodes::{Agent, Cassandra, NodeAccess, NodeError};
use cassy_control::{
    BackupRequest, Cluster, OperationError, OperationErrorKind, Operations, Service, ServiceParts,
};
use futures::future::join_all;
use tokio::task::JoinHandle;

const MANY: usize = 1000;

/// How many are at work on each node now, and how many were at most.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, (usize, usize)>>);

struct Counted {
    counts: Arc<Counts>,
    what: String,
}

impl Counts {
    fn enter(self: &Arc<Self>, what: &str) -> Counted {
        let mut counts = self.0.lock().unwrap();
        let (now, most) = counts.entry(what.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        Counted { counts: Arc::clone(self), what: what.to_owned() }
    }

    fn most(&self, what: &str) -> usize {
        self.0.lock().unwrap().get(what).map_or(0, |(_, most)| *most)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.0.lock().unwrap().get_mut(&self.what).unwrap().0 -= 1;
    }
}

/// Each login takes a little while.
struct CountingAccess {
    inner: FakeAccess,
    counts: Arc<Counts>,
}

#[async_trait]
impl NodeAccess for CountingAccess {
    async fn agent(&self, address: &str, hello: ServerHello) -> Result<Box<dyn Agent>, NodeError> {
        self.inner.agent(address, hello).await
    }

    async fn meet(&self, address: &str) -> Result<(), NodeError> {
        let _meeting = self.counts.enter("meet");
        tokio::task::yield_now().await;
        self.inner.meet(address).await
    }

    async fn cassandra(&self, address: &str) -> Result<Box<dyn Cassandra>, NodeError> {
        let _asking = self.counts.enter("ask");
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.inner.cassandra(address).await
    }
}

struct Scene {
    ring: Arc<Ring>,
    counts: Arc<Counts>,
    service: Arc<Service>,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let counts = Arc::<Counts>::default();
        let catalog = crate::world::open_catalog(directory.path()).await;
        let lease = crate::world::take_lease(&catalog, Duration::from_secs(3600)).await;
        let access = CountingAccess { inner: FakeAccess(Arc::clone(&ring)), counts: Arc::clone(&counts) };
        let parts = ServiceParts {
            access: Arc::new(access),
            ..crate::world::parts(directory.path(), &ring, &catalog, &lease)
        };
        Self { ring, counts, service: Service::start(parts).await.unwrap(), _directory: directory }
    }
}

impl Scene {
    fn register(&self) -> JoinHandle<Result<Cluster, OperationError>> {
        let service = Arc::clone(&self.service);
        tokio::spawn(async move { service.register_cluster(NODE).await })
    }

    /// Waits until so many have begun.
    async fn questions(&self, count: usize) {
        while self.ring.steps(&["connect"]).len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn of_a_thousand_requests_at_once_few_ask_a_node() {
    let scene = Scene::set().await;
    let registered = join_all((0..MANY).map(|_| scene.service.register_cluster(NODE))).await;
    let cluster = registered.into_iter().map(|answer| answer.unwrap().cluster_id).next().unwrap();
    assert_eq!((scene.counts.most("ask"), scene.counts.most("meet")), (1, 1));

    // All but one are refused, as none is done while the first one is under way.
    scene.ring.on("flush", Action::Hang);
    let asked = (0..MANY).map(|_| {
        let (service, request) = (Arc::clone(&scene.service), backup(&cluster));
        tokio::spawn(async move { service.take_backup(request).await })
    });
    let asked: Vec<_> = asked.collect();
    while asked.iter().filter(|asked| asked.is_finished()).count() < MANY - 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    scene.ring.heal();
    let answers: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(scene.counts.most("ask"), 1);
    scene.service.shut_down().await;
}

/// A node that is out of reach takes its whole time for each question: who came meanwhile shares one answer.
#[tokio::test]
async fn whoever_waits_for_a_node_shares_the_next_answer() {
    let scene = Scene::set().await;
    scene.ring.on("connect", Action::Hang);
    let first = scene.register();
    scene.questions(1).await;
    let others: Vec<_> = (1..MANY).map(|_| scene.register()).collect();
    while !(first.is_finished() && others.iter().all(tokio::task::JoinHandle::is_finished)) {
        pass(20).await;
    }
    for asked in others {
        let refused = asked.await.unwrap().unwrap_err();
        assert_eq!(refused.kind, OperationErrorKind::Unavailable, "{refused}");
        assert_eq!(refused.message, format!("{NODE}: its Cassandra did not answer within 180 s"));
    }
    assert_eq!(scene.ring.steps(&["connect"]).len(), 2);
}

async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Those before have hung up in the middle of their questions. It may well be alive: its place must not be taken.
#[tokio::test]
async fn a_node_that_has_no_time_for_a_question_is_not_taken_for_dead() {
    let scene = Scene::set().await;
    let cluster = scene.service.register_cluster(NODE).await.unwrap().cluster_id;
    let request = BackupRequest { idempotency_key: Some("k".to_owned()), ..backup(&cluster) };
    let snapshot_id = scene.service.take_backup(request.clone()).await.unwrap().snapshot_id;
    while scene.service.take_backup(request.clone()).await.unwrap().status != cassy_control::Status::Completed
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    scene.ring.log.lock().unwrap().clear();
    scene.ring.on("connect", Action::Hang);
    let mut hanging_up = Vec::new();
    for _ in 0..3 {
        hanging_up.push(scene.register());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut elsewhere = crate::world::restore(&cluster, &snapshot_id);
    elsewhere.source_of = BTreeMap::from([("127.0.0.5".to_owned(), NODE.to_owned())]);
    let service = Arc::clone(&scene.service);
    let restore = tokio::spawn(async move { service.restore_backup(elsewhere).await });
    for (number, asker) in (1..).zip(hanging_up) {
        scene.questions(number).await;
        // In small steps, as the restore has to read the store before it asks.
        for _ in 0..150 {
            pass(1).await;
        }
        asker.abort();
    }
    while !restore.is_finished() {
        pass(20).await;
    }
    let refused = restore.await.unwrap().unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::Exhausted, "{refused}");
    assert!(refused.message.ends_with("this one has waited 400 s for its turn"), "{refused}");
    assert!(refused.hints[0].contains("send the request again"), "{refused:?}");
    assert_eq!(scene.ring.steps(&["plan_restore"]), Vec::<String>::new());
    scene.ring.heal();
}
