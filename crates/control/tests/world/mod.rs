//! A fake ring for tests of the control plane: one node that answers as it is told. The database and the store
//! are real; each step of either can be held, or made to fail, before and after it has its effect.

// Each test program uses a part of it.
#![allow(dead_code)]

pub(crate) mod applications;
mod cassandra;
pub(crate) mod schema;
pub(crate) mod store;

use std::collections::BTreeMap;
use std::panic::panic_any;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use applications::FakeApplications;
use async_trait::async_trait;
use cassy_agent_protocol::{
    MovedAside, NodeFacts, Progress, Reply, Request, RestorePlan, RestoreSummary, RestoreWay, ServerHello,
    StoreGrant, UploadRequest, UploadSummary,
};
use cassy_backup_format::{ConfigurationFacts, Header, HostId, Keys, ManifestWriter, ParentRef};
use cassy_catalog::{Catalog, Lease, MetadataUrl, SERVER_LEASE};
use cassy_control::nodes::{
    Agent, Cassandra, ClientActivity, NodeAccess, NodeError, NodeErrorKind, OnProgress,
};
use cassy_control::{
    BackupRequest, BackupType, HistorySelector, Operations, RestoreRequest, RestoreType, Service,
    ServiceParts, SystemClock,
};
use cassy_store::{Store, StoreAccess};
use schema::{Changes, Schema};
use store::HeldStore;
use tokio::sync::{Notify, watch};

pub(crate) const NODE: &str = "127.0.0.1";

/// What the fake does when a step is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Fail(NodeErrorKind),
    Panic,
    /// Answers when the ring is healed; [`Ring::reached`] tells that it was reached.
    Hang,
    /// Of an agent: says so many times that it goes on, each time after [`BEAT`]; [`Ring::reached`] tells each.
    Beat(u32),
}

/// Of a request that is slow and says so.
pub(crate) const BEAT: Duration = Duration::from_secs(500);

/// The fake node: steps are named by the request or the call.
#[derive(Default)]
pub(crate) struct Ring {
    pub(crate) actions: Mutex<BTreeMap<String, Action>>,
    once: Mutex<BTreeMap<String, Action>>,
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) snapshots: Mutex<BTreeMap<String, Vec<String>>>,
    pub(crate) broken: Mutex<Vec<String>>,
    pub(crate) schema: Mutex<Schema>,
    pub(crate) changes: Mutex<Changes>,
    pub(crate) findings: Mutex<Vec<String>>,
    pub(crate) down: Mutex<Vec<String>>,
    /// The name of its cluster, when it is of another one.
    pub(crate) other_cluster: Mutex<Option<String>>,
    /// The node that it says it is, when it does not tell the truth.
    pub(crate) passes_for: Mutex<Option<HostId>>,
    /// Its mode, when it is not NORMAL.
    pub(crate) mode: Mutex<Option<String>>,
    pub(crate) no_data_directories: AtomicBool,
    /// The request to which its agent has no fitting answer.
    pub(crate) misunderstood: Mutex<Option<&'static str>>,
    /// What it says of its uploads, when it does not tell the truth.
    pub(crate) upload_lie: Mutex<Option<fn(&mut UploadSummary)>>,
    pub(crate) incremental_backups_off: AtomicBool,
    /// Further nodes of the ring, alive.
    pub(crate) strangers: Mutex<Vec<String>>,
    /// Which of them all it is itself.
    pub(crate) seat: usize,
    /// Which cluster it is of; each has a name and host ids of its own.
    pub(crate) cluster: usize,
    /// What its clients do.
    pub(crate) activity: Mutex<Activity>,
    pub(crate) hint_files: AtomicU64,
    pub(crate) uptime: Mutex<Duration>,
    /// Its cassandra.yaml was changed just now.
    pub(crate) new_yaml: AtomicBool,
    /// cassandra.yaml does not switch incremental backups on.
    pub(crate) off_at_start: AtomicBool,
    /// Of each upload, the key of its parent.
    pub(crate) parents: Mutex<Vec<Option<String>>>,
    /// What each upload says of its SSTables.
    pub(crate) corrupt: Mutex<Vec<String>>,
    /// The manifests of the plans of restores.
    pub(crate) planned: Mutex<Vec<String>>,
    /// The targets of those that take another node's place.
    pub(crate) replaced: Mutex<Vec<String>>,
    pub(crate) reached: Notify,
    healed: Notify,
    agents: watch::Sender<usize>,
    beats: watch::Sender<u32>,
    pub(crate) store: Mutex<Option<Arc<dyn Store>>>,
}

impl Ring {
    pub(crate) fn on(&self, step: &str, action: Action) {
        self.actions.lock().unwrap().insert(step.to_owned(), action);
    }

    /// The next time only.
    pub(crate) fn once(&self, step: &str, action: Action) {
        self.once.lock().unwrap().insert(step.to_owned(), action);
    }

    /// Whether what was to happen once has happened.
    pub(crate) fn fired(&self, step: &str) -> bool {
        !self.once.lock().unwrap().contains_key(step)
    }

    pub(crate) fn heal(&self) {
        self.actions.lock().unwrap().clear();
        self.wake();
    }

    /// Lets what hangs go on.
    pub(crate) fn wake(&self) {
        self.healed.notify_waiters();
    }

    /// How many agents live.
    pub(crate) fn agents(&self) -> usize {
        *self.agents.borrow()
    }

    /// Waits until no agent lives.
    pub(crate) async fn no_agents(&self) {
        let mut agents = self.agents.subscribe();
        let none = agents.wait_for(|count| *count == 0);
        tokio::time::timeout(Duration::from_secs(60), none).await.expect("the agents end").unwrap();
    }

    pub(crate) fn steps(&self, wanted: &[&str]) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|step| wanted.contains(&step.as_str())).cloned().collect()
    }

    fn address(&self) -> String {
        let strangers = self.strangers.lock().unwrap();
        self.seat.checked_sub(1).map_or(first_of(self.cluster), |seat| strangers[seat].clone())
    }

    /// The node, and the strangers.
    fn members(&self) -> BTreeMap<String, HostId> {
        let strangers = self.strangers.lock().unwrap();
        let strangers = strangers.iter().enumerate();
        let host_id =
            |number| format!("6a5c7f0e-{:04}-4000-8000-{number:012}", self.cluster).parse().unwrap();
        let strangers = strangers.map(|(number, address)| (address.clone(), host_id(2 + number)));
        strangers.chain([(first_of(self.cluster), host_id(1))]).collect()
    }

    /// The same, as it says.
    fn ring(&self) -> BTreeMap<String, HostId> {
        let mut ring = self.members();
        ring.extend(self.passes_for.lock().unwrap().map(|other| (self.address(), other)));
        ring
    }

    async fn step(&self, step: &str) -> Result<(), NodeError> {
        self.log.lock().unwrap().push(step.to_owned());
        let once = self.once.lock().unwrap().remove(step);
        let action = once.or_else(|| self.actions.lock().unwrap().get(step).cloned());
        match action {
            None => Ok(()),
            Some(Action::Fail(kind)) => {
                Err(NodeError::new(kind, format!("{}: {step} was made to fail", self.address())))
            }
            Some(Action::Panic) => panic_any(format!("{step} was made to panic")),
            Some(Action::Hang) => {
                let healed = self.healed.notified();
                self.reached.notify_one();
                healed.await;
                Ok(())
            }
            Some(Action::Beat(times)) => {
                for _ in 0..times {
                    let beat = tokio::time::sleep(BEAT);
                    self.reached.notify_one();
                    beat.await;
                    self.beats.send_modify(|beats| *beats += 1);
                }
                Ok(())
            }
        }
    }
}

/// What the clients of a node do.
#[derive(Default)]
pub(crate) struct Activity {
    /// Looks that find a write under way; with the last of them it is counted.
    pub(crate) under_way: u64,
    /// Looks until a write begins.
    pub(crate) begins_after: Option<u64>,
    /// Whether the write is one of the node's own.
    pub(crate) by_system: bool,
    writes: u64,
    system_writes: u64,
}

impl Activity {
    fn look(&mut self) -> ClientActivity {
        match &mut self.begins_after {
            Some(0) => (self.begins_after, self.under_way) = (None, 3),
            Some(looks) => *looks -= 1,
            None => {}
        }
        let tasks = u64::from(self.under_way > 0);
        if self.under_way == 1 {
            self.writes += 1;
            self.system_writes += u64::from(self.by_system);
        }
        self.under_way = self.under_way.saturating_sub(1);
        ClientActivity { tasks, writes: self.writes }
    }
}

/// The nodes of a ring, by address.
#[derive(Clone)]
pub(crate) struct Rings(pub(crate) BTreeMap<String, Arc<Ring>>);

impl Rings {
    pub(crate) fn of(addresses: &[&str]) -> Self {
        let strangers: Vec<_> = addresses[1..].iter().map(ToString::to_string).collect();
        let ring = |seat| Ring { seat, strangers: Mutex::new(strangers.clone()), ..Ring::default() };
        let rings =
            addresses.iter().enumerate().map(|(seat, address)| (address.to_string(), Arc::new(ring(seat))));
        Self(rings.collect())
    }

    /// Further clusters of one node each, at [`first_of`].
    pub(crate) fn and_clusters(mut self, count: usize) -> Self {
        let ring = |cluster| (first_of(cluster), Arc::new(Ring { cluster, ..Ring::default() }));
        self.0.extend((1..=count).map(ring));
        self
    }
}

/// The first node of a cluster.
pub(crate) fn first_of(cluster: usize) -> String {
    if cluster == 0 { NODE.to_owned() } else { format!("127.0.{cluster}.1") }
}

#[async_trait]
impl NodeAccess for Rings {
    async fn agent(&self, address: &str, hello: ServerHello) -> Result<Box<dyn Agent>, NodeError> {
        FakeAccess(Arc::clone(&self.0[address])).agent(address, hello).await
    }

    async fn meet(&self, _address: &str) -> Result<(), NodeError> {
        Ok(())
    }

    async fn cassandra(&self, address: &str) -> Result<Box<dyn Cassandra>, NodeError> {
        FakeAccess(Arc::clone(&self.0[address])).cassandra(address).await
    }
}

#[derive(Clone)]
pub(crate) struct FakeAccess(pub(crate) Arc<Ring>);

/// Counted as long as it lives.
struct FakeAgent(Arc<Ring>, Notify);

impl FakeAgent {
    fn start(ring: &Arc<Ring>) -> Self {
        ring.agents.send_modify(|count| *count += 1);
        Self(Arc::clone(ring), Notify::new())
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.0.agents.send_modify(|count| *count -= 1);
    }
}

struct FakeCassandra(Arc<Ring>);

pub(crate) fn host_id() -> HostId {
    "6a5c7f0e-0000-4000-8000-000000000001".parse().unwrap()
}

#[async_trait]
impl NodeAccess for FakeAccess {
    async fn agent(&self, _address: &str, _hello: ServerHello) -> Result<Box<dyn Agent>, NodeError> {
        self.0.step("agent").await?;
        Ok(Box::new(FakeAgent::start(&self.0)))
    }

    async fn meet(&self, _address: &str) -> Result<(), NodeError> {
        Ok(())
    }

    async fn cassandra(&self, _address: &str) -> Result<Box<dyn Cassandra>, NodeError> {
        self.0.step("connect").await?;
        Ok(Box::new(FakeCassandra(Arc::clone(&self.0))))
    }
}

#[async_trait]
impl Agent for FakeAgent {
    async fn request(&self, request: Request, progress: OnProgress) -> Result<Reply, NodeError> {
        let json = serde_json::to_value(&request).unwrap();
        let name = json["request"].as_str().unwrap();
        // What is asked to stop does so until it has had its effect.
        let mut beats = self.0.beats.subscribe();
        let reached = self.0.step(name);
        tokio::pin!(reached);
        loop {
            tokio::select! {
                biased;
                () = self.1.notified() => {
                    return Err(NodeError::new(NodeErrorKind::Transient, format!("{name} was cancelled")));
                }
                reached = &mut reached => break reached?,
                Ok(()) = beats.changed() => progress(Progress::default()),
            }
        }
        let is_misunderstood = *self.0.misunderstood.lock().unwrap() == Some(name);
        let reply = match request {
            _ if is_misunderstood => Reply::Done,
            Request::Inspect(_) => Reply::Inspected(Box::new(NodeFacts {
                pid: Some(1),
                configuration: ConfigurationFacts {
                    incremental_backups: (!self.0.off_at_start.load(Ordering::SeqCst)).then_some(true),
                    ..configuration()
                },
                yaml_age_ms: if self.0.new_yaml.load(Ordering::SeqCst) { 0 } else { 365 * 86_400_000 },
                free_bytes: vec![1 << 40],
            })),
            Request::ListSuperseded(_) => Reply::Superseded { files: 0 },
            Request::CheckSnapshot(check) => Reply::SnapshotChecked { broken: self.0.broken(&check) },
            Request::Upload(upload) => {
                progress(Progress { bytes_done: 7, bytes_total: 7, files_done: 1, files_total: 1 });
                Reply::Uploaded(self.upload(&upload).await)
            }
            Request::ClearSuperseded(_) | Request::ClearIncluded(_) => Reply::Cleared { files: 0 },
            Request::ListSnapshots(_) => Reply::Snapshots { tags: self.0.own_tags() },
            Request::SweepSnapshots(sweep) => {
                let swept: Vec<_> = sweep.tags.iter().map(ToString::to_string).collect();
                self.0.snapshots.lock().unwrap().retain(|tag, _| !swept.contains(tag));
                Reply::Cleared { files: 0 }
            }
            Request::PlanRestore(plan) => {
                self.0.planned.lock().unwrap().push(plan.manifest.key.to_string());
                self.0
                    .replaced
                    .lock()
                    .unwrap()
                    .extend((plan.way == RestoreWay::Replacement).then_some(plan.target));
                Reply::Planned(RestorePlan {
                    findings: self.0.findings.lock().unwrap().clone(),
                    warnings: vec!["it is late".to_owned()],
                    data_directories: vec!["/data".to_owned()],
                    files: 3,
                    bytes: 7,
                    free_bytes: vec![9],
                    moved_aside: plan.move_aside.iter().map(|job_id| moved_aside(job_id)).collect(),
                    seeds: Vec::new(),
                })
            }
            Request::Restore(_) => Reply::Restored(RestoreSummary {
                notes: vec!["start Cassandra".to_owned()],
                ..RestoreSummary::default()
            }),
            Request::Lock(_) | Request::CheckStore(_) | Request::Guard(_) | Request::ReleaseGuard => {
                Reply::Done
            }
            Request::UndoRestore(_) => Reply::Undone { left: None },
            Request::ReadTokens(_) => Reply::Tokens { yaml: String::new(), tokens: Vec::new() },
        };
        self.0.step(&format!("after {name}")).await?;
        Ok(reply)
    }

    async fn cassandra(&self) -> Result<Box<dyn Cassandra>, NodeError> {
        FakeAccess(Arc::clone(&self.0)).cassandra(NODE).await
    }

    async fn cancel(&self) {
        self.1.notify_waiters();
    }

    async fn close(&self) {}
}

impl FakeAgent {
    /// The manifest of an empty node.
    async fn upload(&self, request: &UploadRequest) -> UploadSummary {
        let store = self.0.store.lock().unwrap().clone().unwrap();
        let keys = Keys::new(request.cluster_id.clone()).unwrap();
        let is_corrupt = !self.0.corrupt.lock().unwrap().is_empty();
        let (host_id, backup_id) = (&request.host_id, &request.backup_id);
        let key = match (request.base, is_corrupt) {
            (Some(base), _) => keys.increment_manifest(host_id, backup_id, &base),
            (None, true) => keys.corrupt_node_manifest(host_id, backup_id),
            (None, false) => keys.node_manifest(host_id, backup_id),
        };
        let parent = request.parent.as_ref().map(|parent| parent.key.to_string());
        self.0.parents.lock().unwrap().push(parent);
        let body = bytes::Bytes::from(empty_manifest(request));
        let blake3 = blake3::hash(&body).to_hex().to_string();
        let size = body.len() as u64;
        let _taken_by_an_earlier_try = store.put(&key, body).await;
        let mut summary = UploadSummary {
            manifest: key,
            blake3,
            size,
            sstables: 0,
            files: 0,
            bytes: 0,
            sent_bytes: 7,
            left_orphans: false,
            taken: 0,
            left: 0,
            tables: request.snapshot.tables.iter().map(schema::table).collect(),
            corrupt: self.0.corrupt.lock().unwrap().clone(),
        };
        if let Some(lie) = *self.0.upload_lie.lock().unwrap() {
            lie(&mut summary);
        }
        summary
    }
}

fn moved_aside(job_id: &str) -> MovedAside {
    let (directory, to) = ("/data".to_owned(), format!("/data/moved-aside-{job_id}"));
    MovedAside { directory, to, files: 4, bytes: 24 }
}

pub(crate) fn configuration() -> ConfigurationFacts {
    serde_json::from_value(serde_json::json!({
        "data_directories": ["/data"], "directory_mode": 0o755, "file_mode": 0o644
    }))
    .unwrap()
}

pub(crate) fn empty_manifest(request: &UploadRequest) -> Vec<u8> {
    let header = Header {
        format: 1,
        least_reader: 1,
        cluster_id: request.cluster_id.clone(),
        cluster_name: request.cluster_name.clone(),
        host_id: request.host_id,
        address: request.address.clone(),
        tokens: request.tokens.clone(),
        datacenter: request.datacenter.clone(),
        rack: request.rack.clone(),
        cassandra_version: request.cassandra_version.clone(),
        partitioner: request.partitioner.clone(),
        backup_id: request.backup_id,
        kind: request.kind,
        created_at_ms: request.created_at_ms,
        parent: request.parent.as_ref().map(|parent| ParentRef {
            key: parent.key.clone(),
            backup_id: parent.backup_id,
            blake3: parent.blake3.clone(),
        }),
        base: request.base,
        truncations: None,
        configuration: request.configuration.clone(),
        tables: Vec::new(),
        schema: Vec::new(),
    };
    ManifestWriter::new(Vec::new(), &header).unwrap().finish().unwrap().0
}

/// The metadata database in a directory.
pub(crate) async fn open_catalog(directory: &Path) -> Catalog {
    let url: MetadataUrl = format!("jdbc:sqlite:{}", directory.join("cassy.db").display()).parse().unwrap();
    Catalog::open(&url).await.unwrap()
}

/// Whoever had it before is dead.
pub(crate) async fn take_lease(catalog: &Catalog, ttl: Duration) -> Lease {
    let holder = format!("test-{:?}", std::time::Instant::now());
    catalog.take_lease(SERVER_LEASE, &holder, ttl, |_| true).await.unwrap()
}

/// What a service is made of, with the store in the same directory.
pub(crate) fn parts(directory: &Path, ring: &Arc<Ring>, catalog: &Catalog, lease: &Lease) -> ServiceParts {
    let root = directory.join("store");
    std::fs::create_dir_all(&root).unwrap();
    let location = format!("file://{}", root.display());
    let store = cassy_store::open(&StoreAccess::new(location.clone())).unwrap();
    *ring.store.lock().unwrap() = Some(Arc::clone(&store));
    ServiceParts {
        catalog: catalog.clone(),
        epoch: lease.epoch,
        store: Arc::new(HeldStore { inner: store, ring: Arc::clone(ring) }),
        grant: StoreGrant { location },
        access: Arc::new(FakeAccess(Arc::clone(ring))),
        applications: Arc::new(FakeApplications::default()),
        longest_pause: Duration::from_secs(5),
        clock: Arc::new(SystemClock),
        cassandra_yaml: None,
    }
}

/// A server's control plane on a directory; another one on the same directory is the server restarted.
pub(crate) struct Server {
    pub(crate) service: Arc<Service>,
    pub(crate) catalog: Catalog,
    pub(crate) lease: Lease,
}

impl Server {
    pub(crate) async fn start(directory: &Path, ring: &Arc<Ring>) -> Self {
        let catalog = open_catalog(directory).await;
        let lease = take_lease(&catalog, Duration::from_secs(3600)).await;
        let parts = parts(directory, ring, &catalog, &lease);
        Self { service: Service::start(parts).await.unwrap(), catalog, lease }
    }

    /// Of a ring of several nodes, with applications over it.
    pub(crate) async fn start_over(directory: &Path, rings: &Rings, applications: &FakeApplications) -> Self {
        let catalog = open_catalog(directory).await;
        let lease = take_lease(&catalog, Duration::from_secs(3600)).await;
        let mut common = None;
        for ring in rings.0.values() {
            common = Some(parts(directory, ring, &catalog, &lease));
        }
        let parts = ServiceParts {
            access: Arc::new(rings.clone()),
            applications: Arc::new(applications.clone()),
            ..common.unwrap()
        };
        Self { service: Service::start(parts).await.unwrap(), catalog, lease }
    }

    pub(crate) async fn register(&self) -> String {
        self.service.register_cluster(NODE).await.unwrap().cluster_id
    }

    /// The history once no entry is under way.
    pub(crate) async fn settled(&self, cluster_id: &str) -> Vec<(cassy_control::Status, String)> {
        let limit = Duration::from_secs(60);
        let mut last = Vec::new();
        let settled = async {
            while last.is_empty() || last.iter().any(|(status, _)| (*status as u8) < 3) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let selector =
                    HistorySelector { cluster_id: Some(cluster_id.to_owned()), ..HistorySelector::default() };
                let entries = self.service.list_backups(selector).await.unwrap();
                last = entries.into_iter().map(|e| (e.status, e.message)).collect();
            }
        };
        let ended = tokio::time::timeout(limit, settled).await.is_ok();
        assert!(ended, "the jobs did not end; the last state was {last:?}");
        last
    }

    /// Waits until no job is unfinished.
    pub(crate) async fn idle(&self) {
        let idle = async {
            while !self.catalog.unfinished_jobs().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), idle).await.expect("the jobs end");
    }
}

pub(crate) fn backup(cluster_id: &str) -> BackupRequest {
    BackupRequest {
        cluster_id: cluster_id.to_owned(),
        target_ips: Vec::new(),
        snapshot_id: None,
        backup_type: BackupType::Node,
        keep_unproven: false,
        idempotency_key: None,
    }
}

pub(crate) fn restore(cluster_id: &str, snapshot_id: &str) -> RestoreRequest {
    RestoreRequest {
        cluster_id: cluster_id.to_owned(),
        target_ips: Vec::new(),
        snapshot_id: snapshot_id.to_owned(),
        restore_type: RestoreType::Node,
        snapshot_only: false,
        source_of: BTreeMap::new(),
        move_aside: false,
        dry_run: false,
        idempotency_key: None,
    }
}

/// Every file below a directory.
pub(crate) fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path.display().to_string()) }
        }
    }
    found
}
