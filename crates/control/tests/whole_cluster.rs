//! Restores of a whole cluster: which node every target is, in place or as a copy, what the operator does next, and a
//! second call after a node has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::world::{FakeAccess, Ring, open_catalog, parts, restore, take_lease};
use async_trait::async_trait;
use cassy_agent_protocol::{
    Reply, Request, RestorePlan, RestoreRequest as NodeRequest, RestoreScope, RestoreSummary, RestoreWay,
    ServerHello,
};
use cassy_backup_format::{
    BackupId, BackupKind, ClusterId, ClusterManifest, Header, HostId, Keys, ManifestWriter, NodeManifestRef,
    ParentRef,
};
use cassy_control::nodes::{Agent, Cassandra, NodeAccess, NodeError, NodeErrorKind, OnProgress};
use cassy_control::{
    HistorySelector, OperationError, OperationErrorKind, Operations, RestoreAnswer, RestoreRequest,
    RestoreType, Service, ServiceParts, Status,
};
use tempfile::TempDir;

const NODES: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
const ELSEWHERE: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

/// The stopped nodes: what their yaml says, and what they were asked.
#[derive(Default)]
struct Machines {
    /// `initial_token` by address.
    tokens: Mutex<BTreeMap<String, Vec<String>>>,
    seeds: Mutex<Vec<String>>,
    /// Whose restore fails.
    broken: Mutex<BTreeSet<String>>,
    planned: Mutex<BTreeMap<String, NodeRequest>>,
    restored: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Access {
    machines: Arc<Machines>,
    ring: FakeAccess,
    /// Whose Cassandras answer.
    alive: Arc<Mutex<BTreeSet<String>>>,
}

struct Machine {
    address: String,
    machines: Arc<Machines>,
}

#[async_trait]
impl NodeAccess for Access {
    async fn agent(&self, address: &str, _hello: ServerHello) -> Result<Box<dyn Agent>, NodeError> {
        Ok(Box::new(Machine { address: address.to_owned(), machines: Arc::clone(&self.machines) }))
    }

    async fn meet(&self, _address: &str) -> Result<(), NodeError> {
        Ok(())
    }

    async fn cassandra(&self, address: &str) -> Result<Box<dyn Cassandra>, NodeError> {
        if self.alive.lock().unwrap().contains(address) {
            return self.ring.cassandra(address).await;
        }
        Err(NodeError::new(NodeErrorKind::Unreachable, format!("{address}: nobody answers")))
    }
}

#[async_trait]
impl Agent for Machine {
    async fn request(&self, request: Request, _progress: OnProgress) -> Result<Reply, NodeError> {
        let failed = |message: &str| {
            Err(NodeError::new(NodeErrorKind::Permanent, format!("{}: {message}", self.address)))
        };
        match request {
            Request::Lock(_) => Ok(Reply::Done),
            Request::ReadTokens(_) => {
                match self.machines.tokens.lock().unwrap().get(&self.address).cloned() {
                    Some(tokens) => Ok(Reply::Tokens { yaml: "/etc/cassandra.yaml".to_owned(), tokens }),
                    None => failed("no cassandra.yaml was found"),
                }
            }
            Request::PlanRestore(request) => {
                self.machines.planned.lock().unwrap().insert(self.address.clone(), *request);
                Ok(Reply::Planned(RestorePlan {
                    data_directories: vec!["/data".to_owned()],
                    seeds: self.machines.seeds.lock().unwrap().clone(),
                    ..RestorePlan::default()
                }))
            }
            Request::Restore(_) if self.machines.broken.lock().unwrap().contains(&self.address) => {
                failed("the disk is full")
            }
            Request::Restore(_) => {
                self.machines.restored.lock().unwrap().push(self.address.clone());
                Ok(Reply::Restored(RestoreSummary::default()))
            }
            other => panic!("{other:?}"),
        }
    }

    async fn cassandra(&self) -> Result<Box<dyn Cassandra>, NodeError> {
        panic!("a stopped node has no Cassandra")
    }

    async fn cancel(&self) {}

    async fn close(&self) {}
}

struct Scene {
    _directory: TempDir,
    service: Arc<Service>,
    catalog: cassy_catalog::Catalog,
    machines: Arc<Machines>,
    ring: Arc<Ring>,
    store: Arc<dyn cassy_store::Store>,
    alive: Arc<Mutex<BTreeSet<String>>>,
    request: RestoreRequest,
}

fn host_id(node: usize) -> HostId {
    format!("6a5c7f0e-0000-4000-8000-{:012}", node + 1).parse().unwrap()
}

/// Two tokens of each node.
fn tokens(node: usize) -> Vec<String> {
    vec![format!("-{node}00"), format!("{node}00")]
}

impl Scene {
    /// A registered cluster of three, all of it stopped, with a backup of this type.
    async fn set(backup_type: u32) -> Self {
        Self::grown(backup_type, &[]).await
    }

    /// The same, to which these nodes came after the backup.
    async fn grown(backup_type: u32, newcomers: &[&str]) -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let others = NODES[1..].iter().chain(newcomers);
        ring.strangers.lock().unwrap().extend(others.map(ToString::to_string));
        let catalog = open_catalog(directory.path()).await;
        let lease = take_lease(&catalog, std::time::Duration::from_secs(3600)).await;
        let (machines, alive) = (Arc::new(Machines::default()), Arc::<Mutex<BTreeSet<_>>>::default());
        alive.lock().unwrap().insert(NODES[0].to_owned());
        let access = Access {
            machines: Arc::clone(&machines),
            ring: FakeAccess(Arc::clone(&ring)),
            alive: Arc::clone(&alive),
        };
        let parts =
            ServiceParts { access: Arc::new(access), ..parts(directory.path(), &ring, &catalog, &lease) };
        let store = Arc::clone(&parts.store);
        let service = Service::start(parts).await.unwrap();
        let cluster = service.register_cluster(NODES[0]).await.unwrap().cluster_id;
        alive.lock().unwrap().clear();
        let backup_id = BackupId::at(1_700_000_000_000);
        back_up(&*store, &cluster.parse().unwrap(), backup_id, backup_type).await;
        let request = RestoreRequest {
            restore_type: RestoreType::Cluster,
            ..restore(&cluster, &backup_id.to_string())
        };
        Self { _directory: directory, service, catalog, machines, ring, store, alive, request }
    }

    fn answers(&self, nodes: &[&str]) {
        *self.alive.lock().unwrap() = nodes.iter().map(ToString::to_string).collect();
    }

    /// All targets at new addresses, with the tokens of these nodes.
    fn elsewhere(&mut self, nodes: [usize; 3]) {
        self.request.target_ips = ELSEWHERE.map(str::to_owned).to_vec();
        let tokens = ELSEWHERE.iter().zip(nodes).map(|(address, node)| {
            // Their order does not matter.
            ((*address).to_owned(), tokens(node).into_iter().rev().collect())
        });
        *self.machines.tokens.lock().unwrap() = tokens.collect();
    }

    async fn ask(&self) -> Result<RestoreAnswer, OperationError> {
        let answer = self.service.restore_backup(self.request.clone()).await;
        let idle = async {
            while !self.catalog.unfinished_jobs().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), idle).await.expect("the jobs end");
        answer
    }

    async fn refused(&self, kind: OperationErrorKind) -> String {
        let error = self.ask().await.unwrap_err();
        assert_eq!(error.kind, kind, "{error:?}");
        assert!(self.machines.restored.lock().unwrap().is_empty());
        format!("{}\n{}", error.message, error.hints.join("\n"))
    }

    /// The host id whose data a target was asked to take, and how.
    fn planned(&self, address: &str) -> (HostId, RestoreWay) {
        let planned = self.machines.planned.lock().unwrap();
        let request = &planned[address];
        assert_eq!(request.scope, RestoreScope::Cluster);
        (request.host_id, request.way.clone())
    }

    async fn rows(&self) -> Vec<(String, u32, Status)> {
        let snapshot_id = Some(self.request.snapshot_id.clone());
        let selector = HistorySelector { snapshot_id, ..HistorySelector::default() };
        let rows = self.service.list_restores(selector).await.unwrap();
        let mut rows: Vec<_> =
            rows.into_iter().map(|row| (row.target_ip, row.operation_type, row.status)).collect();
        rows.sort_by(|one, other| one.0.cmp(&other.0));
        rows
    }
}

fn header(cluster: &ClusterId, node: usize, backup_id: BackupId) -> Header {
    Header {
        format: 1,
        least_reader: 1,
        cluster_id: cluster.clone(),
        cluster_name: "ring".to_owned(),
        host_id: host_id(node),
        address: NODES[node].to_owned(),
        tokens: tokens(node),
        datacenter: "dc1".to_owned(),
        rack: "rack1".to_owned(),
        cassandra_version: "5.0.9".to_owned(),
        partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
        backup_id,
        kind: BackupKind::ClusterSnapshot,
        created_at_ms: 1_700_000_000_000,
        parent: None,
        base: None,
        truncations: None,
        configuration: cassy_backup_format::ConfigurationFacts::default(),
        tables: Vec::new(),
        schema: Vec::new(),
    }
}

/// Manifests as a backup writes them, of nodes without files.
async fn back_up(store: &dyn cassy_store::Store, cluster: &ClusterId, backup_id: BackupId, backup_type: u32) {
    let keys = Keys::new(cluster.clone()).unwrap();
    let mut nodes = Vec::new();
    for node in 0..NODES.len() {
        let header = header(cluster, node, backup_id);
        let (bytes, _) = ManifestWriter::new(Vec::new(), &header).unwrap().finish().unwrap();
        let key = keys.node_manifest(&header.host_id, &backup_id);
        let (size, blake3) = (bytes.len() as u64, blake3::hash(&bytes).to_hex().to_string());
        store.put(&key, bytes.into()).await.unwrap();
        nodes.push(NodeManifestRef {
            host_id: header.host_id,
            address: header.address,
            datacenter: header.datacenter,
            rack: header.rack,
            key,
            size,
            blake3,
            sstables: 0,
            files: 0,
            bytes: 0,
        });
    }
    let manifest = ClusterManifest {
        format: 1,
        least_reader: 1,
        cluster_id: cluster.clone(),
        cluster_name: "ring".to_owned(),
        backup_id,
        backup_type,
        base: None,
        created_at_ms: 1_700_000_000_000,
        consistent: backup_type == 1,
        nodes,
        missing: Vec::new(),
        keyspaces: Vec::new(),
    };
    store.put(&keys.cluster_manifest(&backup_id), manifest.to_json().unwrap().into()).await.unwrap();
}

#[tokio::test]
async fn all_nodes_go_back_in_place_and_the_answer_says_what_comes_next_seeds_first() {
    let mut scene = Scene::set(1).await;
    *scene.machines.seeds.lock().unwrap() = vec![NODES[1].to_owned()];
    for target_ips in [Vec::new(), NODES.map(str::to_owned).to_vec()] {
        scene.request.target_ips = target_ips;
        let answer = scene.ask().await.unwrap();
        assert_eq!((answer.status, answer.restore_type), (Status::Started, RestoreType::Cluster));
        assert_eq!(answer.target_ips, NODES);
        for (node, address) in NODES.iter().enumerate() {
            assert_eq!(scene.planned(address), (host_id(node), RestoreWay::InPlace));
        }
        let at =
            |line: &str| answer.message.find(line).unwrap_or_else(|| panic!("{line}: {}", answer.message));
        assert!(at("1. start 127.0.0.2, a seed, and wait until it listens") < at("2. start 127.0.0.1\n"));
        assert!(at("2. start 127.0.0.1\n") < at("3. start 127.0.0.3\n"));
        at("Unable to gossip with any peers");
        at("nodetool repair -full");
        at("system.paxos is back on all nodes");
        scene.request.dry_run = true;
        let looked = scene.ask().await.unwrap();
        assert!(looked.message.contains("1. start 127.0.0.2, a seed"), "{}", looked.message);
        scene.request.dry_run = false;
    }
    let completed = |address: &&str| [(); 2].map(|()| ((*address).to_owned(), 1, Status::Completed));
    assert_eq!(scene.rows().await, NODES.iter().flat_map(completed).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_a_backup_of_the_cluster_goes_back_to_one_instant() {
    let mut scene = Scene::set(2).await;
    let told = scene.refused(OperationErrorKind::InvalidArgument).await;
    assert!(told.starts_with("The request is invalid or inconsistent.\n"), "{told}");
    assert!(told.contains("restore_type 2"), "{told}");
    scene.request.restore_type = RestoreType::Node;
    scene.ask().await.unwrap();
    // And of a backup of the cluster, single nodes go back as well.
    let mut scene = Scene::set(1).await;
    scene.request.restore_type = RestoreType::Node;
    scene.request.target_ips = vec![NODES[2].to_owned()];
    let answer = scene.ask().await.unwrap();
    assert!(!answer.message.contains("seed"), "{}", answer.message);
    assert_eq!(scene.machines.planned.lock().unwrap()[NODES[2]].scope, RestoreScope::Nodes);
    assert_eq!(scene.rows().await, [(NODES[2].to_owned(), 2, Status::Completed)]);
}

#[tokio::test]
async fn a_part_of_the_cluster_is_refused() {
    let mut scene = Scene::set(1).await;
    for targets in [&NODES[..1], &NODES[..2], &["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]] {
        scene.request.target_ips = targets.iter().map(ToString::to_string).collect();
        let told = scene.refused(OperationErrorKind::InvalidArgument).await;
        assert!(told.contains(&format!("target_ips names {}", targets.len())), "{told}");
    }
}

#[tokio::test]
async fn a_node_with_a_new_address_is_known_by_its_tokens() {
    let mut scene = Scene::set(1).await;
    scene.request.target_ips = [NODES[0], ELSEWHERE[1], NODES[2]].map(str::to_owned).to_vec();
    scene.machines.tokens.lock().unwrap().insert(ELSEWHERE[1].to_owned(), tokens(1));
    let answer = scene.ask().await.unwrap();
    assert_eq!(
        answer.target_ips,
        scene.request.target_ips.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    assert_eq!(scene.planned(ELSEWHERE[1]), (host_id(1), RestoreWay::Replacement));
    assert_eq!(scene.planned(NODES[0]), (host_id(0), RestoreWay::InPlace));
    assert!(answer.message.contains("system.paxos is back on all nodes"), "{}", answer.message);
}

#[tokio::test]
async fn a_node_that_takes_the_place_of_a_living_one_is_refused_in_place() {
    let mut scene = Scene::set(1).await;
    scene.request.source_of.insert(ELSEWHERE[1].to_owned(), NODES[1].to_owned());
    scene.answers(&NODES);
    let told = scene.refused(OperationErrorKind::FailedPrecondition).await;
    assert!(told.contains(&format!("{} (host id {}) is alive", NODES[1], host_id(1))), "{told}");
    scene.answers(&[]);
    scene.ask().await.unwrap();
    assert_eq!(scene.planned(ELSEWHERE[1]), (host_id(1), RestoreWay::Replacement));
}

#[tokio::test]
async fn all_at_new_addresses_are_a_copy_that_is_told_who_of_the_original_lives() {
    for alive in [false, true] {
        let mut scene = Scene::set(1).await;
        scene.elsewhere([2, 0, 1]);
        scene.answers(if alive { &NODES } else { &[] });
        *scene.machines.seeds.lock().unwrap() = vec![ELSEWHERE[0].to_owned()];
        let answer = scene.ask().await.unwrap();
        let living = if alive { NODES.map(str::to_owned).to_vec() } else { Vec::new() };
        for (address, node) in ELSEWHERE.iter().zip([2, 0, 1]) {
            let originals = [2, 0, 1].map(|node| NODES[node].to_owned()).to_vec();
            assert_eq!(
                scene.planned(address),
                (host_id(node), RestoreWay::Copy { originals, living: living.clone() })
            );
        }
        for line in [
            "1. start 10.0.0.1, a seed",
            "system.paxos is on none of its nodes",
            "keep its cluster_name apart",
        ] {
            assert!(answer.message.contains(line), "{line}: {}", answer.message);
        }
    }
}

#[tokio::test]
async fn source_of_makes_a_copy_as_well() {
    let mut scene = Scene::set(1).await;
    let sources =
        ELSEWHERE.iter().zip(NODES).map(|(target, source)| ((*target).to_owned(), source.to_owned()));
    scene.request.source_of = sources.collect();
    scene.ask().await.unwrap();
    let copy = RestoreWay::Copy { originals: NODES.map(str::to_owned).to_vec(), living: Vec::new() };
    assert_eq!(scene.planned(ELSEWHERE[2]), (host_id(2), copy));
}

#[tokio::test]
async fn targets_that_are_nobody_or_the_same_are_refused_by_name_all_at_once() {
    let mut scene = Scene::set(1).await;
    scene.elsewhere([0, 0, 1]);
    let told = scene.refused(OperationErrorKind::FailedPrecondition).await;
    assert!(told.contains("10.0.0.1 and 10.0.0.2 both have the tokens of 127.0.0.1"), "{told}");
    assert!(told.contains("say in source_of which node each of them was"), "{told}");
    let given = |address: &str, tokens: &[&str]| {
        let tokens = tokens.iter().map(ToString::to_string).collect();
        scene.machines.tokens.lock().unwrap().insert(address.to_owned(), tokens);
    };
    given("10.0.0.1", &[]);
    given("10.0.0.2", &["000"]);
    given("10.0.0.3", &["-000", "000", "1"]);
    let told = scene.refused(OperationErrorKind::FailedPrecondition).await;
    assert!(
        told.contains(
            "10.0.0.1 is no node of the backup by its address, and /etc/cassandra.yaml has no initial_token"
        ),
        "{told}"
    );
    for address in ["10.0.0.2", "10.0.0.3"] {
        assert!(
            told.contains(&format!(
                "{address} is no node of the backup by its address nor by the initial_token"
            )),
            "{told}"
        );
    }
    assert!(told.contains("initial_token: -100,100"), "{told}");
    scene.request.dry_run = true;
    let looked = scene.ask().await.unwrap();
    assert_eq!(looked.status, Status::Initialized);
    assert!(looked.message.contains("would be refused: 10.0.0.1 is no node"), "{}", looked.message);
    scene.request.dry_run = false;

    scene.machines.tokens.lock().unwrap().remove("10.0.0.1");
    let told = scene.refused(OperationErrorKind::FailedPrecondition).await;
    assert!(told.contains("10.0.0.1: no cassandra.yaml was found"), "{told}");
}

#[tokio::test]
async fn a_node_that_fails_fails_alone_and_a_second_call_resumes_it() {
    let scene = Scene::set(1).await;
    scene.machines.broken.lock().unwrap().insert(NODES[1].to_owned());
    scene.ask().await.unwrap();
    let status = |address: &str, status| (address.to_owned(), 1, status);
    let (completed, failed) = (Status::Completed, Status::Failed);
    assert_eq!(
        scene.rows().await,
        [status(NODES[0], completed), status(NODES[1], failed), status(NODES[2], completed)]
    );
    scene.machines.broken.lock().unwrap().clear();
    scene.machines.restored.lock().unwrap().clear();
    scene.ask().await.unwrap();
    let mut restored = scene.machines.restored.lock().unwrap().clone();
    restored.sort();
    assert_eq!(restored, NODES, "those that are complete are proven again");
    let rows = scene.rows().await;
    assert_eq!(rows.iter().filter(|row| row.2 == completed).count(), 5, "{rows:?}");
}

#[tokio::test]
async fn without_known_seeds_the_answer_says_so() {
    let scene = Scene::set(1).await;
    for (seeds, told) in [(vec![], "name none;"), (vec!["node1".to_owned()], "name node1;")] {
        *scene.machines.seeds.lock().unwrap() = seeds;
        let answer = scene.ask().await.unwrap();
        assert!(
            answer.message.contains("no node is known to be a seed: their cassandra.yaml ")
                && answer.message.contains(told),
            "{}",
            answer.message
        );
    }
}

/// A node that joined after the backup.
const NEWCOMER: &str = "127.0.0.4";

#[tokio::test]
async fn a_cluster_does_not_go_back_beside_a_living_node_that_joined_after_the_backup() {
    let mut scene = Scene::grown(1, &[NEWCOMER]).await;
    scene.answers(&[NEWCOMER]);
    let told = scene.refused(OperationErrorKind::FailedPrecondition).await;
    assert!(told.contains("from after its instant: 127.0.0.4\nstop them"), "{told}");
    scene.request.dry_run = true;
    let looked = scene.ask().await.unwrap().message;
    assert!(
        looked.contains("would be refused, for 1 reason\nwould be refused: nodes of the cluster"),
        "{looked}"
    );
    scene.request.source_of.insert(ELSEWHERE[1].to_owned(), NODES[1].to_owned());
    let looked = scene.ask().await.unwrap().message;
    assert!(
        looked.contains("would be refused, for 2 reasons"),
        "the one whose place is taken is alive, too: {looked}"
    );
    scene.request.source_of.clear();
    scene.request.dry_run = false;
    // Single nodes of the same backup go back among the living.
    scene.request.restore_type = RestoreType::Node;
    scene.ask().await.unwrap();
    scene.request.restore_type = RestoreType::Cluster;
    // Whoever has its address now is none of the cluster's.
    *scene.ring.other_cluster.lock().unwrap() = Some("another".to_owned());
    scene.ask().await.unwrap();
}

#[tokio::test]
async fn a_node_that_joined_after_the_backup_and_is_down_is_not_to_come_back_with_its_data() {
    let mut scene = Scene::grown(1, &[NEWCOMER]).await;
    let line = "never start with their data, which is from after the instant, the nodes that the backup does not have: \
                127.0.0.4; once";
    for dry_run in [true, false] {
        scene.request.dry_run = dry_run;
        let message = scene.ask().await.unwrap().message;
        let (never, first) = (message.find(line), message.find("1. start 127.0.0.1"));
        assert!(never.is_some() && never < first, "{message}");
    }
    // A node whose place is taken is named by its successor.
    scene.request.source_of.insert(ELSEWHERE[1].to_owned(), NODES[1].to_owned());
    let message = scene.ask().await.unwrap().message;
    assert!(message.contains(line), "{message}");
    // A copy leaves it alone, and must not ask it for its ring.
    scene.request.source_of.clear();
    scene.elsewhere([0, 1, 2]);
    let message = scene.ask().await.unwrap().message;
    assert!(!message.contains("never start with their data"), "{message}");
    let (_, RestoreWay::Copy { originals, .. }) = scene.planned(ELSEWHERE[0]) else { panic!("no copy") };
    assert_eq!(originals, [&NODES[..], &[NEWCOMER]].concat());
}

/// The steps claim it for counters and lightweight transactions.
#[tokio::test]
async fn a_cluster_goes_back_to_the_snapshot_without_its_increments() {
    const OF_ONE_INSTANT: [&str; 3] = [
        "the nodes are of one instant",
        "can be counted with at once",
        "transactions go on from that instant",
    ];
    let mut scene = Scene::set(1).await;
    let cluster: ClusterId = scene.request.cluster_id.parse().unwrap();
    let (base, increment) = (scene.request.snapshot_id.parse().unwrap(), BackupId::at(1_700_000_001_000));
    let of_increment = Header {
        kind: BackupKind::Incremental,
        base: Some(base),
        parent: Some(ParentRef {
            key: Keys::new(cluster.clone()).unwrap().node_manifest(&host_id(1), &base),
            backup_id: base,
            blake3: "0".repeat(64),
        }),
        ..header(&cluster, 1, increment)
    };
    let (bytes, _) = ManifestWriter::new(Vec::new(), &of_increment).unwrap().finish().unwrap();
    let key = Keys::new(cluster).unwrap().increment_manifest(&of_increment.host_id, &increment, &base);
    scene.store.put(&key, bytes.into()).await.unwrap();
    for dry_run in [true, false] {
        scene.request.dry_run = dry_run;
        let message = scene.ask().await.unwrap().message;
        assert!(OF_ONE_INSTANT.iter().all(|line| message.contains(line)), "{message}");
        let planned = scene.machines.planned.lock().unwrap();
        assert!(planned.values().all(|request| request.manifest.backup_id == base), "{planned:?}");
    }
}
