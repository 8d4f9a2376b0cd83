//! Lists of superseded files: exactly what they name goes, whoever has written them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use bytes::Bytes;
use cassy_agent_protocol::StoreGrant;
use cassy_backup_format::{BackupId, BackupKind, ConfigurationFacts, ManifestWriter};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";

/// A node with a store, and a directory for the agent's own files.
struct Scene {
    base: tempfile::TempDir,
    request: SupersededRequest,
}

impl Scene {
    fn new(directories: &[&str]) -> Self {
        let base = tempfile::tempdir().expect("tempdir");
        let made = ["store", "spool"].into_iter().chain(directories.iter().copied());
        made.for_each(|name| fs::create_dir_all(base.path().join(name)).expect("mkdir"));
        let text = |name: &str| base.path().join(name).to_str().expect("text").to_owned();
        let request = SupersededRequest {
            store: StoreGrant { location: format!("file://{}", text("store")) },
            cluster_id: "Test/Cluster-1".parse().expect("id"),
            host_id: uuid::Uuid::from_u128(1).into(),
            backup_id: BackupId::at(1),
            data_directories: directories.iter().map(|name| text(name)).collect(),
        };
        Self { base, request }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// And commits a backup of every table that has something in the list.
    async fn list(&self) -> u64 {
        let listed = list(&Context::default(), &self.request, &self.path("spool")).await.expect("listed");
        let list = SupersededList::open(File::open(self.stored()).expect("open")).expect("header");
        self.commit(list.map(|noted| noted.expect("line").table).collect(), |_| ());
        listed
    }

    /// Stores a manifest with these tables.
    fn commit(&self, tables: BTreeSet<TableRef>, change: impl FnOnce(&mut Header)) {
        let mut header = Header {
            format: FORMAT,
            least_reader: LEAST_READER,
            cluster_id: self.request.cluster_id.clone(),
            cluster_name: "Test/Cluster".to_owned(),
            host_id: self.request.host_id,
            address: "127.0.0.1".to_owned(),
            tokens: vec!["-1".to_owned()],
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            cassandra_version: "5.0.9".to_owned(),
            partitioner: "Murmur3Partitioner".to_owned(),
            backup_id: self.request.backup_id,
            kind: BackupKind::NodeSnapshot,
            created_at_ms: 1,
            parent: None,
            base: None,
            truncations: None,
            configuration: ConfigurationFacts {
                data_directories: self.request.data_directories.clone(),
                ..ConfigurationFacts::default()
            },
            tables: tables.into_iter().collect(),
            schema: Vec::new(),
        };
        change(&mut header);
        let manifest = ManifestWriter::new(Vec::new(), &header).expect("header").finish().expect("footer");
        write_bytes(&self.manifest(), &manifest.0);
    }

    fn manifest(&self) -> PathBuf {
        let key = keys(&self.request).expect("keys");
        self.path("store").join(key.node_manifest(&self.request.host_id, &self.request.backup_id).as_str())
    }

    /// By another agent than the one that has noted them: nothing is left but the object.
    async fn clear(&self) -> Result<u64, SupersededError> {
        let cleared = clear(&Context::default(), &self.request, &self.path("spool")).await;
        assert_eq!(fs::read_dir(self.path("spool")).expect("list").count(), 0);
        cleared
    }

    fn stored(&self) -> PathBuf {
        self.path("store").join(open(&self.request).expect("open").1.as_str())
    }

    /// The object with other lines, whole and with a footer that fits.
    fn forge(&self, change: impl Fn(&mut SupersededHeader, &mut Vec<SupersededFile>)) {
        let list = SupersededList::open(File::open(self.stored()).expect("open")).expect("header");
        let mut header = list.header().clone();
        let mut files: Vec<_> = list.map(|file| file.expect("line")).collect();
        change(&mut header, &mut files);
        let mut lines = SupersededWriter::new(Vec::new(), &header).expect("header");
        files.iter().for_each(|file| lines.push(file).expect("line"));
        fs::write(self.stored(), lines.finish().expect("footer").0).expect("write");
    }
}

fn write(path: PathBuf) {
    write_bytes(&path, b"x");
}

fn write_bytes(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
    fs::write(path, bytes).expect("write");
}

#[tokio::test]
async fn exactly_the_noted_files_go() {
    let scene = Scene::new(&["one", "two"]);
    for data in ["one", "two"] {
        for keyspace in ["ks", "backups", "snapshots"] {
            let table = scene.path(data).join(keyspace).join(format!("backups-{ID}"));
            write(table.join("backups/nb-1-big-Data.db"));
            write(table.join("backups/nb-1-big-TOC.txt"));
            write(table.join("backups/.idx/nb-1-big-Data.db"));
            write(table.join("backups/README"));
            write(table.join("nb-1-big-Data.db"));
            write(table.join("snapshots/backups/nb-1-big-Data.db"));
        }
    }
    let table = scene.path("one/ks").join(format!("backups-{ID}"));
    let outside = scene.path("outside");
    write(outside.join("nb-1-big-Data.db"));
    symlink(outside.join("nb-1-big-Data.db"), table.join("backups/nb-3-big-Data.db")).expect("symlink");
    let linked = scene.path("one/ks").join(format!("linked-{ID}"));
    fs::create_dir_all(&linked).expect("mkdir");
    symlink(&outside, linked.join("backups")).expect("symlink");

    assert_eq!(scene.list().await, 18);
    write(table.join("backups/nb-2-big-Data.db"));
    fs::rename(table.join("backups/nb-1-big-TOC.txt"), table.join("elsewhere")).expect("rename");
    write(table.join("backups/nb-1-big-TOC.txt"));

    assert_eq!(scene.clear().await.expect("clear"), 17);
    assert_eq!(scene.clear().await.expect("again"), 0);
    for kept in ["backups/nb-2-big-Data.db", "backups/nb-1-big-TOC.txt", "backups/README", "nb-1-big-Data.db"]
    {
        assert!(table.join(kept).exists(), "{kept}");
    }
    assert!(table.join("backups/.idx").is_dir());
    assert!(!table.join("backups/.idx/nb-1-big-Data.db").exists());
    assert!(table.join("snapshots/backups/nb-1-big-Data.db").exists());
    assert!(outside.join("nb-1-big-Data.db").exists());
}

/// What is left of a table that was dropped, or made again, may be nowhere else.
#[tokio::test]
async fn what_belongs_to_a_table_that_the_backup_does_not_hold_stays() {
    const OTHER_ID: &str = "ffffffffffffffffffffffffffffffff";
    let scene = Scene::new(&["data"]);
    let file = |keyspace: &str, table: &str, id: &str| {
        scene.path("data").join(keyspace).join(format!("{table}-{id}/backups/nb-1-big-Data.db"))
    };
    let files = [
        file("ks", "held", ID),
        file("ks", "held", OTHER_ID),
        file("ks", "gone", ID),
        file("old", "held", ID),
    ];
    files.iter().cloned().for_each(write);
    assert_eq!(scene.list().await, 4);
    let held = TableRef { keyspace: "ks".to_owned(), table: "held".to_owned(), id: ID.to_owned() };
    scene.commit(BTreeSet::from([held]), |_| ());
    assert_eq!(scene.clear().await.expect("clear"), 1);
    assert_eq!(files.map(|file| file.exists()), [false, true, true, true]);
}

#[tokio::test]
async fn without_a_whole_manifest_of_the_backup_nothing_goes() {
    let scene = Scene::new(&["data"]);
    let file = scene.path("data/ks").join(format!("t-{ID}/backups/nb-1-big-Data.db"));
    write(file.clone());
    assert_eq!(scene.list().await, 1);
    let whole = fs::read(scene.manifest()).expect("read");
    fs::write(scene.manifest(), &whole[..whole.len() - 20]).expect("write");
    let error = scene.clear().await.expect_err("truncated");
    assert!(matches!(error, SupersededError::Manifest { .. }), "{error}");
    let table = TableRef { keyspace: "ks".to_owned(), table: "t".to_owned(), id: ID.to_owned() };
    type Change = fn(&mut Header);
    let others: [Change; 3] = [
        |header| header.cluster_id = "Other-1".parse().expect("id"),
        |header| header.host_id = uuid::Uuid::from_u128(2).into(),
        |header| header.backup_id = BackupId::at(2),
    ];
    for change in others {
        scene.commit(BTreeSet::from([table.clone()]), change);
        let error = scene.clear().await.expect_err("another");
        assert!(matches!(error, SupersededError::OtherManifest { .. }), "{error}");
    }
    fs::remove_file(scene.manifest()).expect("remove");
    let error = scene.clear().await.expect_err("none");
    assert!(matches!(error, SupersededError::Transfer { .. }), "{error}");
    assert!(file.exists());
    scene.commit(BTreeSet::from([table]), |_| ());
    assert_eq!(scene.clear().await.expect("clear"), 1);
}

#[tokio::test]
async fn without_a_list_nothing_goes() {
    let scene = Scene::new(&["data"]);
    let file = scene.path("data/ks").join(format!("t-{ID}/backups/nb-1-big-Data.db"));
    write(file.clone());
    assert_eq!(scene.clear().await.expect("clear"), 0);
    assert!(file.exists());
}

/// A job that takes another snapshot notes again; what was noted first is older than either snapshot.
#[tokio::test]
async fn the_first_list_of_a_backup_stays() {
    let scene = Scene::new(&["data"]);
    let backups = scene.path("data/ks").join(format!("t-{ID}/backups"));
    write(backups.join("nb-1-big-Data.db"));
    assert_eq!(scene.list().await, 1);
    write(backups.join("nb-2-big-Data.db"));
    assert_eq!(scene.list().await, 1);
    assert_eq!(scene.clear().await.expect("clear"), 1);
    assert!(backups.join("nb-2-big-Data.db").exists());
}

#[tokio::test]
async fn a_table_that_is_gone_by_then_is_fine() {
    let scene = Scene::new(&["data"]);
    let table = scene.path("data/ks").join(format!("t-{ID}"));
    write(table.join("backups/nb-1-big-Data.db"));
    assert_eq!(scene.list().await, 1);
    fs::remove_dir_all(&table).expect("drop");
    assert_eq!(scene.clear().await.expect("clear"), 0);
}

/// Inodes count within one file system, and are used again: another file may have the same number by then.
#[tokio::test]
async fn a_file_of_another_device_or_birth_stays() {
    type Change = fn(&mut SupersededFile);
    let changes: [(&str, Change, u64); 5] = [
        ("device", |noted| noted.device.1 += 1, 0),
        ("inode", |noted| noted.inode += 1, 0),
        ("birth", |noted| noted.birth_ns = noted.birth_ns.map(|at| at + 1), 0),
        ("no birth was known", |noted| noted.birth_ns = None, 1),
        ("nothing", |_| (), 1),
    ];
    for (what, change, gone) in changes {
        let scene = Scene::new(&["data"]);
        let file = scene.path("data/ks").join(format!("t-{ID}/backups/nb-1-big-Data.db"));
        write(file.clone());
        assert_eq!(scene.list().await, 1);
        scene.forge(|_, files| files.iter_mut().for_each(change));
        assert_eq!(scene.clear().await.expect("clear"), gone, "{what}");
        assert_eq!(file.exists(), gone == 0, "{what}");
    }
}

/// Whoever can write to the store could name any file of the node.
#[tokio::test]
async fn a_list_that_somebody_else_has_written_leads_nowhere() {
    type Forge = fn(&mut SupersededHeader, &mut Vec<SupersededFile>);
    let forges: [(&str, Forge); 9] = [
        ("live", |_, files| files[0].name = "../nb-1-big-Data.db".replace('/', "-")),
        ("stranger", |_, files| files[0].name = "passwd".to_owned()),
        ("no id", |_, files| files[0].table.id = "x".to_owned()),
        ("no table", |_, files| files[0].table.table = String::from("-")),
        ("dots", |_, files| files[0].table.id = format!("{ID}x")),
        ("cluster", |header, _| header.cluster_id = "Other-1".parse().expect("id")),
        ("node", |header, _| header.host_id = uuid::Uuid::from_u128(2).into()),
        ("backup", |header, _| header.backup_id = BackupId::at(2)),
        ("later", |_, files| files.push(SupersededFile { name: "x".to_owned(), ..files[0].clone() })),
    ];
    for (what, forge) in forges {
        let scene = Scene::new(&["data"]);
        let table = scene.path("data/ks").join(format!("t-{ID}"));
        for kept in ["backups/nb-1-big-Data.db", "nb-1-big-Data.db"] {
            write(table.join(kept));
        }
        assert_eq!(scene.list().await, 1);
        scene.forge(forge);
        let error = scene.clear().await.expect_err(what);
        assert!(matches!(error, SupersededError::Foreign { .. }), "{what}: {error}");
        assert_eq!(error.into_agent_error().kind, AgentErrorKind::Permanent);
        assert!(table.join("backups/nb-1-big-Data.db").exists() && table.join("nb-1-big-Data.db").exists());
    }
}

#[tokio::test]
async fn only_the_nodes_own_data_directories_are_touched() {
    let mut scene = Scene::new(&["data", "other"]);
    for data in ["data", "other"] {
        write(scene.path(data).join("ks").join(format!("t-{ID}/backups/nb-1-big-Data.db")));
    }
    assert_eq!(scene.list().await, 2);
    scene.request.data_directories.pop();
    assert_eq!(scene.clear().await.expect("clear"), 1);
    assert!(scene.path("other/ks").join(format!("t-{ID}/backups/nb-1-big-Data.db")).exists());
}

#[tokio::test]
async fn of_a_damaged_list_nothing_goes() {
    let scene = Scene::new(&["data"]);
    let backups = scene.path("data/ks").join(format!("t-{ID}/backups"));
    (0..50).for_each(|number| write(backups.join(format!("nb-{number}-big-Data.db"))));
    assert_eq!(scene.list().await, 50);
    let whole = fs::read(scene.stored()).expect("read");
    for damaged in
        [&whole[..whole.len() / 2], &whole[..whole.len() - 1], b"", b"{}", &[&whole[..], b"x"].concat()]
    {
        fs::write(scene.stored(), damaged).expect("write");
        let error = scene.clear().await.expect_err("damaged");
        assert!(matches!(error, SupersededError::List { operation: "read", .. }), "{error}");
        // The next try of the same backup finds it as well.
        list(&Context::default(), &scene.request, &scene.path("spool")).await.expect_err("damaged");
    }
    assert_eq!(fs::read_dir(&backups).expect("list").count(), 50);
}

#[tokio::test]
async fn a_list_that_was_deleted_is_no_failure_and_clearing_can_be_cancelled() {
    let scene = Scene::new(&["data"]);
    write(scene.path("data/ks").join(format!("t-{ID}/backups/nb-1-big-Data.db")));
    assert_eq!(scene.list().await, 1);
    let (store, key) = open(&scene.request).expect("open");
    store.delete(&key).await.expect("delete");
    assert_eq!(scene.clear().await.expect("clear"), 0);
    store.put(&key, Bytes::from_static(b"again")).await.expect("put");
    let ctx = Context::default();
    ctx.cancel.cancel();
    let error = clear(&ctx, &scene.request, &scene.path("spool")).await.expect_err("cancelled");
    assert_eq!(error.into_agent_error().kind, AgentErrorKind::Cancelled);
}
