//! Rules that no other test would miss, on the real runner, a real database and a real store, with a fake node.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::world::{Action, NODE, Ring, Server, backup, files, host_id, restore};
use cassy_agent_protocol::UploadSummary;
use cassy_backup_format::{
    Attempt, BackupId, ClusterId, FileEntry, Keys, ManifestReader, ManifestWriter, ObjectEntry, ObjectKey,
    Pin, SessionId, SstableEntry, TableRef,
};
use cassy_catalog::{JobKind, NewJob, UploadSession};
use cassy_control::job::backup::{BackupNode, NodeDone};
use cassy_control::job::{BackupEvent, BackupJob, BackupStage};
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{HistorySelector, NodeEntry, Operations, Status};
use tempfile::TempDir;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);

struct Scene {
    directory: TempDir,
    ring: Arc<Ring>,
    server: Server,
    cluster: String,
    keys: Keys,
}

impl Scene {
    async fn set() -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        let keys = Keys::new(cluster.parse::<ClusterId>().unwrap()).unwrap();
        Self { directory, ring, server, cluster, keys }
    }

    /// A backup, to its end.
    async fn back_up(&self) -> String {
        let id = self.server.service.take_backup(backup(&self.cluster)).await.unwrap().snapshot_id;
        self.server.idle().await;
        id
    }

    async fn last(&self) -> (Status, String) {
        self.server.settled(&self.cluster).await.remove(0)
    }

    async fn newest(&self) -> NodeEntry {
        self.server.service.list_backups(HistorySelector::default()).await.unwrap().remove(0)
    }

    async fn reached(&self) {
        timeout(LONG, self.ring.reached.notified()).await.expect("the step is reached");
    }

    fn release(&self, step: &str) {
        self.ring.actions.lock().unwrap().remove(step);
        self.ring.wake();
    }

    /// A job that is never driven; its id.
    async fn file_a_live_job(&self) -> String {
        let id = BackupId::at(7).to_string();
        let live = NewJob {
            job_id: id.clone(),
            kind: JobKind::Backup,
            operation_type: 2,
            cluster_id: self.cluster.clone(),
            snapshot_id: id.clone(),
            stage: "upload".to_owned(),
            state_json: "{}".to_owned(),
            parts: Vec::new(),
            created_at: 7,
            rows: Vec::new(),
            key: None,
        };
        self.server.catalog.create_job(self.server.lease.epoch, &live).await.unwrap();
        id
    }

    fn session(&self, session: SessionId, job_id: &str) -> UploadSession {
        UploadSession {
            session_id: session.to_string(),
            cluster_id: self.cluster.clone(),
            host_id: host_id().to_string(),
            job_id: job_id.to_owned(),
            created_at: 1,
            closed: false,
        }
    }

    /// Where an object of the store is on the disk.
    fn object(&self, key: &ObjectKey) -> PathBuf {
        let path = self.directory.path().join("store").join(key.as_str());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// A backup whose cluster manifest finds its key taken; answers what is there.
    async fn backup_without_a_commit(&self) -> PathBuf {
        self.ring.on("put backup", Action::Hang);
        let id = self.server.service.take_backup(backup(&self.cluster)).await.unwrap().snapshot_id;
        self.reached().await;
        let path = self.object(&self.keys.cluster_manifest(&id.parse().unwrap()));
        fs::write(&path, "somebody else's").unwrap();
        self.release("put backup");
        self.server.idle().await;
        path
    }
}

#[tokio::test]
async fn a_backup_takes_its_steps_in_one_order() {
    let scene = Scene::set().await;
    scene.back_up().await;
    scene.ring.log.lock().unwrap().clear();
    scene.back_up().await;
    let order = [
        "put pin",
        "list_superseded",
        "flush",
        "take_snapshot",
        "check_snapshot",
        "upload",
        "clear_superseded",
        "sweep_snapshots",
        "clear_snapshot",
        "put backup",
        "delete pin",
    ];
    assert_eq!(scene.ring.steps(&order), order);
}

/// One node, which is to send.
fn sending() -> BackupJob {
    let node = BackupNode { stage: BackupStage::Upload, ..BackupNode::default() };
    BackupJob {
        backup_id: BackupId::at(1),
        base: None,
        cluster_wide: None,
        cluster_id: "c".parse().unwrap(),
        cluster_name: "c".to_owned(),
        created_at_ms: 1,
        stage: BackupStage::Upload,
        nodes: [("a".to_owned(), Arc::new(node))].into(),
        refusable: false,
        accepted: true,
        commit_failure: None,
        outcome: None,
        notes: Vec::new(),
        told: Vec::new(),
        cancelled: None,
    }
}

fn uploaded(job: BackupJob, corrupt: &[&str]) -> BackupJob {
    let done = NodeDone::Uploaded(summary(corrupt));
    job.step(BackupEvent::NodeDone(BackupStage::Upload, "a".to_owned(), done)).0
}

fn cleared(job: BackupJob) -> BackupJob {
    let done = NodeDone::Cleared(Vec::new());
    job.step(BackupEvent::NodeDone(BackupStage::Clear, "a".to_owned(), done)).0
}

fn summary(corrupt: &[&str]) -> UploadSummary {
    UploadSummary {
        manifest: "a/manifest".parse().unwrap(),
        blake3: "0".repeat(64),
        size: 1,
        sstables: 1,
        files: 1,
        bytes: 1,
        sent_bytes: 1,
        left_orphans: false,
        taken: 0,
        left: 0,
        tables: Vec::new(),
        corrupt: corrupt.iter().map(|&text| text.to_owned()).collect(),
    }
}

fn finished(job: BackupJob) -> BackupJob {
    job.step(BackupEvent::Committed).0.step(BackupEvent::Unpinned(Vec::new())).0
}

#[test]
fn no_row_is_final_before_all_that_it_waits_for_is_done() {
    let job = uploaded(sending(), &[]);
    assert_eq!((job.stage, job.history()[0].status), (BackupStage::Clear, Status::Started));
    let job = cleared(job);
    assert_eq!((job.stage, job.history()[0].status), (BackupStage::Commit, Status::Started));
    let job = finished(job);
    assert_eq!((job.stage, job.history()[0].status), (BackupStage::Finished, Status::Completed));
}

#[test]
fn a_node_with_a_corrupt_sstable_is_failed() {
    let job = cleared(uploaded(sending(), &["ks.t/nb-1-big: the CRC-32 of Data.db is another"]));
    let rows = finished(job).history();
    let row = &rows[0];
    assert_eq!(row.status, Status::Failed);
    assert!(row.message.contains("ks.t/nb-1-big"), "{}", row.message);
}

/// The node manifest is durable, and a restore unit of its own.
#[tokio::test]
async fn a_cluster_manifest_of_other_bytes_is_never_overwritten_nor_taken_for_ours() {
    let scene = Scene::set().await;
    let path = scene.backup_without_a_commit().await;
    let entry = scene.newest().await;
    assert_eq!(entry.status, Status::Completed, "{}", entry.message);
    assert!(entry.message.contains("the summary of the whole backup was not written"), "{}", entry.message);
    assert_eq!(fs::read_to_string(path).unwrap(), "somebody else's");
    let answer = scene.server.service.restore_backup(restore(&scene.cluster, &entry.snapshot_id)).await;
    assert_eq!(answer.unwrap().status, Status::Started, "what is COMPLETED can be restored");
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_a_success() {
    let scene = Scene::set().await;
    scene.ring.once("after put backup", Action::Fail(NodeErrorKind::Transient));
    scene.back_up().await;
    assert!(scene.ring.fired("after put backup"));
    let (status, message) = scene.last().await;
    assert_eq!(status, Status::Completed, "{message}");
    assert!(!message.contains("the summary of the whole backup was not written"), "{message}");
}

#[tokio::test]
async fn without_a_node_manifest_no_incremental_file_is_deleted() {
    let scene = Scene::set().await;
    scene.ring.on("upload", Action::Fail(NodeErrorKind::Permanent));
    scene.back_up().await;
    assert_eq!(scene.last().await.0, Status::Failed);
    assert_eq!(scene.ring.steps(&["clear_superseded"]), Vec::<String>::new(), "the upload has failed");

    let scene = Scene::set().await;
    scene.ring.corrupt.lock().unwrap().push("ks.t/nb-1-big: the CRC-32 of Data.db is another".to_owned());
    scene.back_up().await;
    assert_eq!(scene.last().await.0, Status::Failed);
    assert_eq!(scene.ring.steps(&["clear_superseded"]), Vec::<String>::new(), "the upload is corrupt");
}

#[tokio::test]
async fn snapshots_of_a_job_that_is_under_way_are_left_alone() {
    let scene = Scene::set().await;
    let other = scene.file_a_live_job().await;
    let tag = format!("cassy-{other}-1");
    scene.ring.snapshots.lock().unwrap().insert(tag.clone(), vec!["ks".to_owned()]);
    scene.server.service.take_backup(backup(&scene.cluster)).await.unwrap();
    assert_eq!(scene.last().await.0, Status::Completed);
    let kept: Vec<_> = scene.ring.snapshots.lock().unwrap().keys().cloned().collect();
    assert_eq!(kept, [tag]);
}

/// The pin is from before a restart of the server; what it does not name, a purge may delete.
#[tokio::test]
async fn what_an_existing_pin_does_not_name_is_not_relied_on() {
    for (is_named, what) in [(true, "named"), (false, "not named")] {
        let scene = Scene::set().await;
        let first: BackupId = scene.back_up().await.parse().unwrap();
        scene.ring.on("put pin", Action::Hang);
        scene.ring.on("upload", Action::Hang);
        let (service, request) = (Arc::clone(&scene.server.service), backup(&scene.cluster));
        let asked = tokio::spawn(async move { service.take_backup(request).await.unwrap() });
        scene.reached().await;
        let id = scene.server.catalog.unfinished_jobs().await.unwrap().remove(0).job_id;
        let parent = scene.keys.node_manifest(&host_id(), &first);
        let other = scene.keys.node_manifest(&host_id(), &BackupId::at(1));
        let backup_id: BackupId = id.parse().unwrap();
        let manifests = vec![if is_named { parent.clone() } else { other }];
        let pin = Pin { format: 1, backup_id, created_at_ms: 1, manifests };
        fs::write(scene.object(&scene.keys.pin(&backup_id)), pin.to_json().unwrap()).unwrap();
        scene.release("put pin");
        scene.reached().await;
        let stored = scene.server.catalog.job(&id).await.unwrap().unwrap();
        assert_eq!(stored.parts[0].name, NODE);
        let node: BackupNode = serde_json::from_str(&stored.parts[0].state_json).unwrap();
        let chosen = node.parent.map(|parent| parent.key);
        assert_eq!(chosen, is_named.then_some(parent), "{what}");
        scene.release("upload");
        scene.server.idle().await;
        assert_eq!(asked.await.unwrap().snapshot_id, id);
    }
}

/// Objects that sessions have left: unnamed and named ones of a dead session of ours, and one of a session that our
/// database does not know.
struct Left {
    unnamed: ObjectKey,
    named: ObjectKey,
    foreign: ObjectKey,
}

impl Scene {
    async fn leave_objects(&self) -> Left {
        let first: BackupId = self.back_up().await.parse().unwrap();
        let (own, foreign) = (SessionId::from_bytes([7; 12]), SessionId::from_bytes([8; 12]));
        let table = entry_table();
        let object = |session, number| {
            let (attempt, file) = (Attempt::new(session, number), "nb-1-big-Data.db");
            let key = self.keys.component(&host_id(), &table, None, "nb-1-big", attempt, file).unwrap();
            fs::write(self.object(&key), "data").unwrap();
            key
        };
        let left = Left { unnamed: object(own, 1), named: object(own, 2), foreign: object(foreign, 1) };
        let session = self.session(own, "a dead one");
        self.server.catalog.open_upload_session(self.server.lease.epoch, &session).await.unwrap();
        let whole = fs::read(self.object(&self.keys.node_manifest(&host_id(), &first))).unwrap();
        let mut header = ManifestReader::open(whole.as_slice()).unwrap().header().clone();
        (header.backup_id, header.tables) = (BackupId::at(5), vec![table.clone()]);
        let mut lines = ManifestWriter::new(Vec::new(), &header).unwrap();
        lines.push(&entry(table, left.named.clone())).unwrap();
        let manifest = self.keys.node_manifest(&host_id(), &header.backup_id);
        fs::write(self.object(&manifest), lines.finish().unwrap().0).unwrap();
        left
    }

    /// The names of what is left below `data/`.
    fn data_objects(&self) -> Vec<String> {
        let root = self.directory.path().join("store");
        let prefix = format!("{}/", root.display());
        let mut keys: Vec<_> = files(&root)
            .iter()
            .map(|path| path.strip_prefix(&prefix).unwrap().to_owned())
            .filter(|key| key.contains("/data/"))
            .collect();
        keys.sort();
        keys
    }
}

fn entry_table() -> TableRef {
    TableRef { keyspace: "ks".to_owned(), table: "t".to_owned(), id: "0".repeat(32) }
}

fn entry(table: TableRef, key: ObjectKey) -> SstableEntry {
    let blake3 = blake3::hash(b"data").to_hex().to_string();
    let file = FileEntry {
        name: "nb-1-big-Data.db".to_owned(),
        size: 4,
        blake3: blake3.clone(),
        crc32: 0,
        inode: 1,
        mtime_ns: 1,
        birth_ns: None,
        object: 0,
        offset: 0,
    };
    SstableEntry {
        table,
        index: None,
        name: "nb-1-big".to_owned(),
        directory: 0,
        files: vec![file],
        objects: vec![ObjectEntry { key, size: 4, blake3, store_checksum: None }],
        corrupt: false,
    }
}

fn sorted(keys: &[&ObjectKey]) -> Vec<String> {
    let mut keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn exactly_the_unnamed_objects_of_own_dead_sessions_go() {
    let scene = Scene::set().await;
    let left = scene.leave_objects().await;
    scene.back_up().await;
    assert_eq!(scene.data_objects(), sorted(&[&left.named, &left.foreign]));
    assert_eq!(scene.last().await.0, Status::Completed);
}

/// That the lock is held which keeps others from sending is the word of a node.
#[tokio::test]
async fn objects_of_another_job_that_is_under_way_stay() {
    let scene = Scene::set().await;
    let left = scene.leave_objects().await;
    let live = scene.file_a_live_job().await;
    let (at_work, table) = (SessionId::from_bytes([9; 12]), entry_table());
    let attempt = Attempt::new(at_work, 1);
    let key =
        scene.keys.component(&host_id(), &table, None, "nb-1-big", attempt, "nb-1-big-Data.db").unwrap();
    fs::write(scene.object(&key), "data").unwrap();
    let session = scene.session(at_work, &live);
    scene.server.catalog.open_upload_session(scene.server.lease.epoch, &session).await.unwrap();
    scene.server.service.take_backup(backup(&scene.cluster)).await.unwrap();
    assert_eq!(scene.last().await.0, Status::Completed);
    assert_eq!(scene.data_objects(), sorted(&[&left.named, &left.foreign, &key]));
    let sessions =
        scene.server.catalog.upload_sessions(&scene.cluster, &host_id().to_string()).await.unwrap();
    let open: Vec<_> = sessions.into_iter().filter(|session| !session.closed).collect();
    assert_eq!(open, [session]);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_stops_the_sweep() {
    let scene = Scene::set().await;
    let left = scene.leave_objects().await;
    let unreadable = scene.keys.node_manifest(&host_id(), &BackupId::at(6));
    fs::write(scene.object(&unreadable), "no manifest").unwrap();
    scene.back_up().await;
    assert_eq!(scene.data_objects(), sorted(&[&left.unnamed, &left.named, &left.foreign]));
    let (status, message) = scene.last().await;
    assert_eq!(status, Status::Completed);
    assert!(message.contains("objects of dead sessions were not cleared"), "{message}");
}

#[tokio::test]
async fn without_the_nodes_lock_no_object_is_swept() {
    let scene = Scene::set().await;
    let left = scene.leave_objects().await;
    scene.ring.on("sweep_snapshots", Action::Fail(NodeErrorKind::Permanent));
    scene.back_up().await;
    assert_eq!(scene.data_objects(), sorted(&[&left.unnamed, &left.named, &left.foreign]));
}
