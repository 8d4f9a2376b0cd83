//! Increments: what is taken over from the parent, what from `backups/`, and what is left.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cassy_backup_format::{NodeManifestName, TrashHeader, TrashWriter, Truncation};

use super::*;
use crate::directory::Directory;

pub(super) const CUT: &str = "000000000000000000000000000000c1";
pub(super) const TABLES: &[(&str, &str)] = &[("ks", "plain"), ("ks", "cut"), ("system", "local")];

/// A node with a snapshot of two tables that is sent, and is the base.
pub(super) struct Chain {
    pub(super) bench: Bench,
    pub(super) base: UploadSummary,
    base_id: BackupId,
}

/// Of a whole manifest, by its key.
pub(super) fn id_of(summary: &UploadSummary) -> Option<BackupId> {
    NodeManifestName::of(&summary.manifest).map(|name| name.backup_id)
}

impl Chain {
    pub(super) async fn begin() -> Self {
        let node = FakeNode::new(2);
        node.flush(&node.table(0, "ks", "plain"), "", "nb-1-big", 10, 5000);
        node.flush(&node.table(1, "ks", "plain"), ".idx", "nb-1-big", 20, 700);
        node.flush(&node.table_of(1, "ks", "cut", CUT), "", "nb-1-big", 30, 900);
        node.write_local("nb-1-big", &[]);
        let mut bench = Bench::new(node);
        bench.request.snapshot = bench.node.request(TAG, TABLES);
        let base = bench.upload().await.expect("uploaded");
        let base_id = bench.request.backup_id;
        Self { bench, base, base_id }
    }

    pub(super) fn plain(&self, directory: usize) -> PathBuf {
        self.bench.node.table(directory, "ks", "plain")
    }

    pub(super) fn cut(&self, directory: usize) -> PathBuf {
        self.bench.node.table_of(directory, "ks", "cut", CUT)
    }

    /// The witness of the next increment, on this parent.
    pub(super) fn next(&mut self, parent: &UploadSummary) {
        let number = self.bench.backups + 1;
        self.bench.next(&format!("cassy-0193b0a0-0000-7000-8000-{number:012}-1"), parent);
        self.bench.request.kind = BackupKind::Incremental;
        self.bench.request.base = Some(self.base_id);
        if let (Some(named), Some(id)) = (&mut self.bench.request.parent, id_of(parent)) {
            named.backup_id = id;
        }
    }

    pub(super) async fn increment(&mut self, parent: &UploadSummary) -> UploadSummary {
        self.next(parent);
        self.bench.upload().await.expect("uploaded")
    }

    /// When nothing has been linked for longer than Cassandra takes.
    async fn increment_later(&mut self, parent: &UploadSummary) -> Result<UploadSummary, UploadError> {
        self.increment_at(parent, SystemTime::now() + Duration::from_secs(61)).await
    }

    pub(super) async fn increment_at(
        &mut self,
        parent: &UploadSummary,
        at: SystemTime,
    ) -> Result<UploadSummary, UploadError> {
        self.next(parent);
        let looked_at = LookedAt::at(at);
        let Bench { request, spool, store, .. } = &self.bench;
        run_at(&Context::default(), request, spool, Arc::clone(store), looked_at).await
    }

    pub(super) async fn refused(&mut self, parent: &UploadSummary) -> UploadError {
        self.next(parent);
        let before = self.bench.objects().await.len();
        let error = self.bench.upload().await.expect_err("refused");
        assert_eq!(self.bench.objects().await.len(), before, "nothing was sent");
        error
    }

    /// `table/[index/]name@directory` of each line; every byte is read back from the store.
    pub(super) async fn lines(&self, summary: &UploadSummary) -> Vec<String> {
        let contents = self.bench.contents(summary).await;
        assert_eq!(contents.len() as u64, summary.files);
        let (_, entries) = self.bench.manifest(summary).await;
        let told = |entry: &SstableEntry| {
            let index = entry.index.iter().map(|index| format!("{index}/")).collect::<String>();
            format!("{}/{index}{}@{}", entry.table.table, entry.name, entry.directory)
        };
        entries.iter().filter(|entry| entry.table.keyspace == "ks").map(told).collect()
    }

    /// BLAKE3 of the rows of each SSTable with this name.
    pub(super) async fn rows(&self, summary: &UploadSummary, name: &str) -> Vec<String> {
        let (_, entries) = self.bench.manifest(summary).await;
        let file = format!("{name}-Data.db");
        let files =
            entries.iter().filter(|entry| entry.table.keyspace == "ks").flat_map(|entry| &entry.files);
        files.filter(|known| known.name == file).map(|file| file.blake3.clone()).collect()
    }
}

pub(super) fn rows_of(seed: u32, length: usize) -> String {
    blake3::hash(&crate::snapshot::fake::content(seed, length)).to_hex().to_string()
}

/// When a file was born, by the clock of the file system.
pub(super) fn born_ms(path: &Path) -> i64 {
    let directory = Directory::data(path.parent().expect("a parent")).expect("open");
    let name = path.file_name().expect("name").to_str().expect("text");
    directory.stat(name).expect("a file").birth_ns.expect("known here").div_euclid(1_000_000)
}

/// Files that are made from here on are born later than this.
pub(super) fn wait_until_after(base: &Path, at_ms: i64) {
    let probe = base.join("probe");
    loop {
        fs::write(&probe, "x").expect("write");
        let born = born_ms(&probe);
        fs::remove_file(&probe).expect("remove");
        if born > at_ms {
            return;
        }
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    i64::try_from(now).expect("soon enough")
}

const BASE: [&str; 3] = ["cut/nb-1-big@1", "plain/nb-1-big@0", "plain/.idx/nb-1-big@1"];

#[tokio::test]
async fn an_increment_is_its_parent_and_what_was_flushed_since() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    assert_eq!(chain.lines(&base).await, BASE);
    chain.bench.node.flush_incremental(&chain.plain(0), "", "nb-2-big", 40, 2 << 20);
    chain.bench.node.flush_incremental(&chain.plain(1), ".idx", "nb-2-big", 50, 600);
    let first = chain.increment(&base).await;
    let grown = [
        "cut/nb-1-big@1",
        "plain/nb-1-big@0",
        "plain/nb-2-big@0",
        "plain/.idx/nb-1-big@1",
        "plain/.idx/nb-2-big@1",
    ];
    assert_eq!(chain.lines(&first).await, grown);
    assert_eq!((first.taken, first.left, first.sstables), (2, 0, 6));
    assert!(first.sent_bytes > 2 << 20 && first.sent_bytes < (2 << 20) + 30_000, "{}", first.sent_bytes);
    let (header, _) = chain.bench.manifest(&first).await;
    assert_eq!((header.kind, header.base), (BackupKind::Incremental, Some(chain.base_id)));
    assert_eq!(header.parent.expect("a parent").key, base.manifest);
    let keys = Keys::new(header.cluster_id).expect("keys");
    assert_eq!(first.manifest, keys.increment_manifest(&header.host_id, &header.backup_id, &chain.base_id));

    // What is compacted meanwhile is of no interest, and nothing is sent twice.
    chain.bench.node.compact_away(&chain.plain(0), "nb-1-big");
    chain.bench.node.compact_away(&chain.plain(0), "nb-2-big");
    chain.bench.node.flush(&chain.plain(0), "", "nb-3-big", 60, 100);
    let second = chain.increment(&first).await;
    assert_eq!(chain.lines(&second).await, grown);
    assert_eq!((second.sent_bytes, second.taken), (0, 0));

    // A try whose answer was lost has sent everything.
    let again = chain.bench.upload().await.expect("the earlier answer");
    assert_eq!((&again.manifest, &again.blake3, again.sent_bytes), (&second.manifest, &second.blake3, 0));

    // A snapshot shares its objects with the increment before it.
    chain.next(&second);
    chain.bench.request.kind = BackupKind::NodeSnapshot;
    chain.bench.request.base = None;
    let snapshot = chain.bench.upload().await.expect("uploaded");
    assert_eq!(
        chain.lines(&snapshot).await,
        ["cut/nb-1-big@1", "plain/nb-3-big@0", "plain/.idx/nb-1-big@1", "plain/.idx/nb-2-big@1"]
    );
    assert!(snapshot.sent_bytes > 0 && snapshot.sent_bytes < 6_000, "{}", snapshot.sent_bytes);
}

#[tokio::test]
async fn what_is_half_linked_is_the_next_increments() {
    let mut chain = Chain::begin().await;
    let node = &chain.bench.node;
    for (name, missing) in [("nb-2-big", "TOC.txt"), ("nb-3-big", "Data.db"), ("nb-4-big", "Digest.crc32")] {
        node.flush_incremental(&chain.plain(0), "", name, 40, 100);
        fs::remove_file(chain.plain(0).join(format!("backups/{name}-{missing}"))).expect("remove");
    }
    node.flush_incremental(&chain.plain(1), ".idx", "nb-2-big", 50, 100);
    fs::remove_file(chain.plain(1).join("backups/.idx/nb-2-big-TOC.txt")).expect("remove");
    node.flush_incremental(&chain.plain(0), "", "nb-5-big", 60, 100);
    fs::write(chain.plain(0).join("backups/README"), "x").expect("write");
    let first = chain.increment(&chain.base.clone()).await;
    assert_eq!((first.taken, first.left), (1, 4));
    assert_eq!(
        chain.lines(&first).await,
        ["cut/nb-1-big@1", "plain/nb-1-big@0", "plain/nb-5-big@0", "plain/.idx/nb-1-big@1"]
    );
    for (name, missing) in [("nb-2-big", "TOC.txt"), ("nb-3-big", "Data.db"), ("nb-4-big", "Digest.crc32")] {
        let file = format!("{name}-{missing}");
        fs::hard_link(chain.plain(0).join(&file), chain.plain(0).join("backups").join(&file)).expect("link");
    }
    let second = chain.increment(&first).await;
    assert_eq!((second.taken, second.left), (3, 1));
}

#[tokio::test]
async fn what_was_streamed_as_a_whole_is_taken_without_a_toc_once_nothing_more_is_linked() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    chain.bench.node.flush_incremental(&plain, "", "nb-2-big", 40, 100);
    fs::remove_file(plain.join("backups/nb-2-big-TOC.txt")).expect("remove");
    fs::write(plain.join("backups/nb-2-big-CRC.db"), "crc").expect("write");
    let first = chain.increment(&base).await;
    assert_eq!((first.taken, first.left), (0, 1));
    assert_eq!(chain.lines(&first).await, BASE);
    let second = chain.increment_later(&first).await.expect("uploaded");
    assert_eq!((second.taken, second.left), (1, 0));
    assert_eq!(
        chain.lines(&second).await,
        ["cut/nb-1-big@1", "plain/nb-1-big@0", "plain/nb-2-big@0", "plain/.idx/nb-1-big@1"]
    );
    assert_eq!(chain.rows(&second, "nb-2-big").await, [rows_of(40, 100)]);
}

#[tokio::test]
async fn what_stays_half_linked_fails_the_increment_by_name() {
    for missing in ["TOC.txt", "Data.db", "Digest.crc32"] {
        let mut chain = Chain::begin().await;
        let (base, plain) = (chain.base.clone(), chain.plain(0));
        chain.bench.node.flush_incremental(&plain, "", "nb-2-big", 40, 100);
        fs::remove_file(plain.join(format!("backups/nb-2-big-{missing}"))).expect("remove");
        let objects = chain.bench.objects().await.len();
        let error = chain.increment_later(&base).await.expect_err(missing);
        assert_eq!(chain.bench.objects().await.len(), objects, "nothing was sent");
        let UploadError::HalfLinked { broken } = &error else { panic!("{missing}: {error}") };
        let [broken] = broken.as_slice() else { panic!("{missing}: {broken:?}") };
        assert!(broken.starts_with("ks.plain: ") && broken.contains("backups/nb-2-big"), "{broken}");
        assert!(broken.contains(missing), "{broken}");
        assert!(error.hint().is_some_and(|hint| hint.contains("backup_type 2")), "{error}");
        // What was linked a moment ago may still become whole.
        let first = chain.increment(&base).await;
        assert_eq!((first.taken, first.left), (0, 1), "{missing}");
    }
}

/// Its components are in the TOC of the live SSTable, which is that in `backups/` by a link, and nowhere else there.
#[tokio::test]
async fn without_an_index_that_was_made_later_an_sstable_is_whole() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    chain.bench.node.flush_incremental(&plain, "", "nb-2-big", 40, 100);
    let live = plain.join("nb-2-big-TOC.txt");
    let toc = fs::read_to_string(&live).expect("read") + "SAI+aa+later+Meta.db\n";
    fs::write(live, toc).expect("write");
    // What is linked right now may be followed by its index.
    let first = chain.increment(&base).await;
    assert_eq!((first.taken, first.left), (0, 1));
    let second = chain.increment_later(&first).await.expect("uploaded");
    assert_eq!((second.taken, second.left), (1, 0));
    assert_eq!(chain.rows(&second, "nb-2-big").await, [rows_of(40, 100)]);
    let (_, entries) = chain.bench.manifest(&second).await;
    let entry = entries.iter().find(|entry| entry.name == "nb-2-big").expect("there");
    assert!(entry.files.iter().any(|file| file.name == "nb-2-big-SAI+aa+GroupComplete.db"), "{entry:?}");
}

/// An agent that was killed while it cleared.
#[tokio::test]
async fn what_is_half_there_and_in_the_parent_is_no_gap() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    chain.bench.node.flush_incremental(&plain, "", "nb-2-big", 40, 100);
    chain.bench.node.compact_away(&plain, "nb-1-big");
    chain.bench.node.flush_incremental(&plain, "", "nb-1-big", 50, 5000);
    let first = chain.increment(&base).await;
    assert_eq!(chain.rows(&first, "nb-3-big").await, [rows_of(50, 5000)], "under another name");
    for name in ["nb-1-big", "nb-2-big"] {
        for gone in ["TOC.txt", "Index.db"] {
            fs::remove_file(plain.join(format!("backups/{name}-{gone}"))).expect("remove");
        }
    }
    let second = chain.increment_later(&first).await.expect("uploaded");
    assert_eq!((second.taken, second.left, second.sent_bytes), (0, 0, 0));
    assert_eq!(chain.lines(&second).await, chain.lines(&first).await);
}

#[tokio::test]
async fn what_the_base_has_already_is_not_taken_again() {
    let mut chain = Chain::begin().await;
    // Flushed after the superseded files were noted, and before the snapshot.
    let node = FakeNode::new(2);
    node.flush_incremental(&node.table(0, "ks", "plain"), "", "nb-1-big", 10, 5000);
    node.write_local("nb-1-big", &[]);
    chain.bench = Bench::new(node);
    chain.bench.request.snapshot = chain.bench.node.request(TAG, &[("ks", "plain"), ("system", "local")]);
    let base = chain.bench.upload().await.expect("uploaded");
    chain.base_id = chain.bench.request.backup_id;
    // Since then repaired: in the snapshot it would be another file.
    replace(&chain.plain(0).join("backups/nb-1-big-Statistics.db"), b"before the repair");
    let first = chain.increment(&base).await;
    assert_eq!(chain.lines(&first).await, ["plain/nb-1-big@0"]);
    assert_eq!((first.taken, first.left, first.sent_bytes), (0, 0, 0));
}

#[tokio::test]
async fn a_table_that_is_gone_or_made_again_loses_its_lines() {
    let mut chain = Chain::begin().await;
    fs::remove_dir_all(chain.cut(1)).expect("drop");
    chain.bench.node.table_of(0, "ks", "cut", "000000000000000000000000000000c2");
    let first = chain.increment(&chain.base.clone()).await;
    assert_eq!(chain.lines(&first).await, ["plain/nb-1-big@0", "plain/.idx/nb-1-big@1"]);
    let ids: Vec<_> = first.tables.iter().map(|table| table.id.as_str()).collect();
    assert_eq!(ids, ["000000000000000000000000000000c2", ID, ID]);
}

#[tokio::test]
async fn what_was_truncated_does_not_come_back() {
    let mut chain = Chain::begin().await;
    let (base, cut) = (chain.base.clone(), chain.cut(1));
    chain.bench.node.flush_incremental(&cut, "", "nb-2-big", 40, 100);
    let at_ms = born_ms(&cut.join("nb-2-big-Data.db"));
    ["nb-1-big", "nb-2-big"].iter().for_each(|name| chain.bench.node.compact_away(&cut, name));
    chain.bench.node.write_local("nb-2-big", &[(CUT, at_ms), (CUT, at_ms - 1), ("ff", now_ms())]);
    wait_until_after(chain.bench.node.base(), at_ms);
    chain.bench.node.flush_incremental(&cut, "", "nb-3-big", 50, 100);
    let first = chain.increment(&base).await;
    assert_eq!(chain.lines(&first).await, ["cut/nb-3-big@1", "plain/nb-1-big@0", "plain/.idx/nb-1-big@1"]);
    assert_eq!((first.taken, first.left), (1, 0));
    let truncations = chain.bench.manifest(&first).await.0.truncations;
    assert_eq!(truncations, Some(vec![Truncation { id: CUT.to_owned(), at_ms }]), "of known tables only");

    // Again, and the node flushes after that before the increment looks.
    let at_ms = born_ms(&cut.join("nb-3-big-Data.db"));
    chain.bench.node.compact_away(&cut, "nb-3-big");
    wait_until_after(chain.bench.node.base(), at_ms);
    chain.bench.node.flush_incremental(&cut, "", "nb-4-big", 60, 100);
    let second = chain.increment(&first).await;
    chain.bench.node.write_local("nb-3-big", &[(CUT, at_ms)]);
    chain.bench.node.compact_away(&cut, "nb-4-big");
    let third = chain.increment(&second).await;
    // nb-4 is in the second increment, which did not know of the truncation before it: it stays.
    assert_eq!(chain.lines(&third).await, ["cut/nb-4-big@1", "plain/nb-1-big@0", "plain/.idx/nb-1-big@1"]);
}

/// `nodetool import` of files that are older than the truncation: Cassandra has them live.
#[tokio::test]
async fn what_is_live_was_not_truncated() {
    let mut chain = Chain::begin().await;
    let (base, cut) = (chain.base.clone(), chain.cut(1));
    chain.bench.node.flush_incremental(&cut, "", "nb-2-big", 40, 100);
    chain.bench.node.write_local("nb-2-big", &[(CUT, born_ms(&cut.join("nb-2-big-TOC.txt")))]);
    let first = chain.increment(&base).await;
    let lines = ["cut/nb-1-big@1", "cut/nb-2-big@1", "plain/nb-1-big@0", "plain/.idx/nb-1-big@1"];
    assert_eq!(chain.lines(&first).await, lines);
    // From then on the truncation is an old one.
    ["nb-1-big", "nb-2-big"].iter().for_each(|name| chain.bench.node.compact_away(&cut, name));
    fs::remove_dir_all(cut.join("backups")).expect("cleared");
    let second = chain.increment(&first).await;
    assert_eq!(chain.lines(&second).await, lines);
}

#[tokio::test]
async fn of_two_sstables_with_one_name_the_later_gets_another() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    let node = &chain.bench.node;
    node.flush_incremental(&plain, "", "nb-9-big", 40, 100);
    node.compact_away(&plain, "nb-1-big");
    node.flush_incremental(&plain, "", "nb-1-big", 50, 5000);
    node.compact_away(&chain.plain(1).join(".idx"), "nb-1-big");
    node.flush_incremental(&chain.plain(1), ".idx", "nb-1-big", 60, 700);
    let first = chain.increment(&base).await;
    let lines = [
        "cut/nb-1-big@1",
        "plain/nb-1-big@0",
        "plain/nb-10-big@0",
        "plain/nb-9-big@0",
        "plain/.idx/nb-1-big@1",
        "plain/.idx/nb-11-big@1",
    ];
    assert_eq!(chain.lines(&first).await, lines);
    assert_eq!((first.taken, first.left), (3, 0));
    assert_eq!(chain.rows(&first, "nb-10-big").await, [rows_of(50, 5000)]);
    assert_eq!(chain.rows(&first, "nb-11-big").await, [rows_of(60, 700)]);
    let (_, entries) = chain.bench.manifest(&first).await;
    let entry = entries.iter().find(|entry| entry.name == "nb-10-big").expect("there");
    assert!(entry.files.iter().all(|file| file.name.starts_with("nb-10-big-")), "{entry:?}");
    let tar = chain.bench.store.get(&entry.objects[0].key, 1 << 20).await.expect("there");
    let mut tar = tar::Archive::new(tar.as_ref());
    let members =
        tar.entries().expect("a tar").map(|member| member.expect("one").path().expect("a name").into_owned());
    assert!(members.into_iter().all(|member| member.to_str().expect("text").starts_with("nb-10-big-")));

    // Whoever comes before they are cleared knows them again, under whatever name.
    let second = chain.increment(&first).await;
    assert_eq!(chain.lines(&second).await, lines);
    assert_eq!((second.taken, second.sent_bytes), (0, 0));
}

#[tokio::test]
async fn uuid_identifiers_are_not_given_another() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    let name = "da-3h5q_1oih_3aqow23nzcs57htqnl-bti";
    chain.bench.node.flush_incremental(&plain, "", name, 40, 100);
    let first = chain.increment(&base).await;
    chain.bench.node.compact_away(&plain, name);
    chain.bench.node.compact_away(&plain.join("backups"), name);
    chain.bench.node.flush_incremental(&plain, "", name, 50, 100);
    let error = chain.refused(&first).await;
    assert!(
        matches!(&error, UploadError::Collides { sstable } if sstable == &format!("ks.plain/{name}")),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_table_whose_generations_are_used_up_is_named() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    chain.bench.node.flush_incremental(&plain, "", "nb-2147483647-big", 40, 100);
    chain.bench.node.compact_away(&plain, "nb-1-big");
    chain.bench.node.flush_incremental(&plain, "", "nb-1-big", 50, 100);
    let error = chain.refused(&base).await;
    assert!(matches!(&error, UploadError::GenerationsUsedUp { table } if table == "ks.plain"), "{error}");
}

#[tokio::test]
async fn directories_are_known_by_their_paths() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    chain.next(&base);
    // The other way round, and one that is new in place of one that is gone.
    let third = chain.bench.node.base().join("data2");
    fs::create_dir(&third).expect("mkdir");
    let mut directories = chain.bench.request.snapshot.data_directories.clone();
    directories.reverse();
    directories.insert(0, third.to_str().expect("text").to_owned());
    chain.bench.request.snapshot.data_directories = directories.clone();
    chain.bench.request.configuration.data_directories = directories;
    chain.bench.node.flush_incremental(&chain.plain(1), "", "nb-2-big", 40, 100);
    let first = chain.bench.upload().await.expect("uploaded");
    assert_eq!(
        chain.lines(&first).await,
        ["cut/nb-1-big@1", "plain/nb-1-big@2", "plain/nb-2-big@1", "plain/.idx/nb-1-big@1"]
    );

    fs::remove_dir_all(chain.plain(1)).expect("a disk is gone");
    fs::remove_dir_all(chain.cut(1)).expect("a disk is gone");
    chain.cut(0);
    chain.next(&first);
    chain.bench.request.snapshot =
        chain.bench.node.request(&chain.bench.request.snapshot.tag.to_string(), TABLES);
    chain.bench.request.snapshot.data_directories.truncate(1);
    chain.bench.request.configuration.data_directories =
        chain.bench.request.snapshot.data_directories.clone();
    let second = chain.bench.upload().await.expect("uploaded");
    let (header, _) = chain.bench.manifest(&second).await;
    let names: Vec<_> = header
        .configuration
        .data_directories
        .iter()
        .map(|path| path.rsplit('/').next().expect("a name"))
        .collect();
    assert_eq!(names, ["data0", "data2", "data1"]);
    assert_eq!(
        chain.lines(&second).await,
        ["cut/nb-1-big@2", "plain/nb-1-big@0", "plain/nb-2-big@2", "plain/.idx/nb-1-big@2"]
    );
}

#[tokio::test]
async fn damage_among_the_new_makes_the_increment_corrupt() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    chain.bench.node.flush_incremental(&chain.plain(0), "", "nb-2-big", 40, 100);
    fs::write(chain.plain(0).join("backups/nb-2-big-Data.db"), "damaged").expect("write");
    let first = chain.increment(&base).await;
    assert!(first.corrupt[0].starts_with("ks.plain/nb-2-big: "), "{:?}", first.corrupt);
    assert!(first.manifest.as_str().ends_with(".corrupt.jsonl.zst"), "{}", first.manifest);
    // Nothing is added to it.
    let error = chain.refused(&first).await;
    assert!(matches!(error, UploadError::ParentDiffers { .. }), "{error}");
}

#[tokio::test]
async fn objects_that_a_purge_has_listed_cannot_be_taken_over() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    let (_, entries) = chain.bench.manifest(&base).await;
    let key = entries[0].objects[0].key.clone();
    let header = TrashHeader { format: 1, least_reader: 1, purge: "p".to_owned(), created_at_ms: 1 };
    let mut list = TrashWriter::new(Vec::new(), &header).expect("header");
    list.push(&key).expect("key");
    let body = list.finish().expect("footer").0;
    let place = Keys::new(chain.bench.request.cluster_id.clone()).expect("keys").trash("p").expect("key");
    chain.bench.store.put(&place, body.into()).await.expect("put");
    let error = chain.refused(&base).await;
    assert!(matches!(&error, UploadError::ParentTrashed { key: listed } if *listed == key), "{error}");
}

#[tokio::test]
async fn without_its_parent_there_is_no_increment() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    chain.bench.node.flush_incremental(&chain.plain(0), "", "nb-2-big", 40, 100);
    let first = chain.increment(&base).await;
    type Change = fn(&mut UploadRequest);
    let changes: [(&str, Change); 7] = [
        ("no parent", |request| request.parent = None),
        ("no base", |request| request.base = None),
        ("another base", |request| request.base = Some(BackupId::at(77))),
        ("of itself", |request| request.backup_id = request.parent.as_ref().expect("one").backup_id),
        ("another digest", |request| request.parent.as_mut().expect("one").blake3 = "0".repeat(64)),
        ("another node", |request| request.host_id = uuid::Uuid::from_u128(5).into()),
        ("gone", |request| request.parent.as_mut().expect("one").key = "cassy/1/x".parse().expect("a key")),
    ];
    for (what, change) in changes {
        chain.next(&base);
        let good = chain.bench.request.clone();
        change(&mut chain.bench.request);
        let before = chain.bench.objects().await.len();
        let error = chain.bench.upload().await.expect_err(what);
        assert!(
            matches!(
                &error,
                UploadError::NoChain
                    | UploadError::ParentDiffers { .. }
                    | UploadError::Store { source: cassy_store::StoreError::NotFound { .. }, .. }
            ),
            "{what}: {error}"
        );
        assert_eq!(chain.bench.objects().await.len(), before, "{what}: nothing was sent");
        chain.bench.request = good;
    }
    // A snapshot that is not the base, an increment on another base, and damage.
    for (parent, other) in [(&base, id_of(&first)), (&first, Some(BackupId::at(3)))] {
        chain.next(parent);
        chain.bench.request.base = other;
        let error = chain.bench.upload().await.expect_err("another base");
        assert!(error.to_string().contains("neither the snapshot"), "{error}");
    }
    let path = chain.bench.node.base().join("store").join(base.manifest.as_str());
    let mut stored = fs::read(&path).expect("read");
    stored.truncate(stored.len() - 20);
    fs::write(&path, &stored).expect("write");
    let damaged = UploadSummary { blake3: blake3::hash(&stored).to_hex().to_string(), ..base.clone() };
    chain.next(&damaged);
    let error = chain.bench.upload().await.expect_err("damaged");
    assert!(matches!(error, UploadError::Parent { .. }), "{error}");
}

#[tokio::test]
async fn without_what_was_truncated_there_is_no_increment() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    let local = chain.bench.node.table(0, "system", "local");
    fs::write(local.join("nb-1-big-Data.db"), "damaged").expect("write");
    let error = chain.refused(&base).await;
    assert!(matches!(error, UploadError::Truncations { .. }), "{error}");
    chain.bench.node.write_local("nb-1-big", &[]);
    fs::write(local.join("nb-1-big-CompressionInfo.db"), b"\0\x04Zstd").expect("write");
    let error = chain.refused(&base).await;
    assert!(error.hint().is_some_and(|hint| hint.contains("flush_compression")), "{error}");
    // A snapshot is as good without.
    chain.bench.request.kind = BackupKind::NodeSnapshot;
    chain.bench.request.base = None;
    let snapshot = chain.bench.upload().await.expect("uploaded");
    assert_eq!(chain.bench.manifest(&snapshot).await.0.truncations, None);
    fs::remove_dir_all(&local).expect("remove");
    chain.next(&base);
    chain.bench.request.snapshot.tables.pop();
    let error = chain.bench.upload().await.expect_err("no row");
    assert!(error.hint().is_some_and(|hint| hint.contains("backup_type 2")), "{error}");
}

/// The option of Cassandra 5.0: it links nothing of such a table.
#[tokio::test]
async fn a_table_of_which_nothing_is_linked_is_refused_by_name() {
    const OFF: &str = "CREATE TABLE ks.plain (a int PRIMARY KEY) WITH incremental_backups = false;";
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    chain.next(&base);
    let tag = chain.bench.request.snapshot.tag.to_string();
    for directory in 0..2 {
        let snapshot = chain.bench.node.snapshot_of(directory, "ks", "plain", &tag);
        fs::write(snapshot.join("schema.cql"), OFF).expect("write");
    }
    let objects = chain.bench.objects().await.len();
    let error = chain.bench.upload().await.expect_err("refused");
    assert!(matches!(&error, UploadError::NeverLinked { tables } if *tables == ["ks.plain"]), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("backup_type 2")), "{error}");
    assert_eq!(chain.bench.objects().await.len(), objects, "nothing was sent");

    // It was off at the base, and is on again.
    chain.bench.request.kind = BackupKind::NodeSnapshot;
    chain.bench.request.base = None;
    let base = chain.bench.upload().await.expect("a snapshot has such tables");
    chain.base_id = chain.bench.request.backup_id;
    let error = chain.refused(&base).await;
    assert!(matches!(&error, UploadError::NeverLinked { .. }), "{error}");
    // Of a table that is gone nothing is needed.
    (0..2).for_each(|directory| fs::remove_dir_all(chain.plain(directory)).expect("drop"));
    chain.next(&base);
    chain.bench.request.snapshot.tables.retain(|(_, table)| table != "plain");
    chain.bench.upload().await.expect("uploaded");
}

#[tokio::test]
async fn links_in_backups_lead_nowhere() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    chain.bench.node.flush_incremental(&chain.plain(0), "", "nb-2-big", 40, 100);
    let outside = chain.bench.node.base().join("outside");
    fs::rename(chain.plain(0).join("backups"), &outside).expect("move");
    std::os::unix::fs::symlink(&outside, chain.plain(0).join("backups")).expect("link");
    fs::create_dir_all(chain.cut(0).join("backups")).expect("mkdir");
    for file in fs::read_dir(&outside).expect("list") {
        let name = file.expect("entry").file_name();
        std::os::unix::fs::symlink(outside.join(&name), chain.cut(0).join("backups").join(name))
            .expect("link");
    }
    let first = chain.increment(&base).await;
    assert_eq!(chain.lines(&first).await, BASE);
    assert_eq!((first.taken, first.left), (0, 0));
}

/// On a slow disk they take longer than the server waits for a sign of life.
#[tokio::test]
async fn looking_at_the_witness_and_at_backups_is_progress() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    (2..22).for_each(|number| {
        chain.bench.node.flush_incremental(&chain.plain(0), "", &format!("nb-{number}-big"), number, 100);
    });
    chain.next(&base);
    let ctx = Context::default();
    let mut survey = survey(&ctx, &chain.bench.request).expect("surveyed");
    let surveyed = ctx.progress.beats();
    assert!(surveyed >= 24, "{surveyed}");
    let parent = Parent::required(&ctx, chain.bench.store.as_ref(), &chain.bench.request, &chain.bench.spool);
    let parent = parent.await.expect("whole");
    let before = ctx.progress.beats();
    Increment::plan(&ctx, &mut survey, &parent, LookedAt::default()).expect("planned");
    assert!(ctx.progress.beats() >= before + 24, "{before} and {}", ctx.progress.beats());
}

/// Between the first look and the sending: what appears under a name that was given away is the next increment's.
#[tokio::test]
async fn a_name_that_is_given_is_not_given_twice() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    chain.bench.node.compact_away(&plain, "nb-1-big");
    chain.bench.node.flush_incremental(&plain, "", "nb-1-big", 50, 5000);
    chain.next(&base);
    let (ctx, store) = (Context::default(), Arc::clone(&chain.bench.store));
    let parent = Parent::required(&ctx, store.as_ref(), &chain.bench.request, &chain.bench.spool);
    let parent = parent.await.expect("whole");
    let mut survey = survey(&Context::default(), &chain.bench.request).expect("surveyed");
    let increment = Increment::plan(&Context::default(), &mut survey, &parent, LookedAt::default());
    let increment = increment.expect("planned");
    chain.bench.node.flush_incremental(&plain, "", "nb-2-big", 60, 100);
    let feed = increment::Feed::new(parent.cursor().expect("a cursor"));
    let (work, _) = increment.portion(&Context::default(), &survey, feed).expect("work").expect("some");
    let sent: Vec<_> = work
        .iter()
        .filter_map(|work| match work {
            Work::Send(job) => Some((job.sstable.name.clone(), job.sstable.on_disk("Data.db"))),
            Work::Keep(_) => None,
        })
        .collect();
    assert_eq!(sent, [("nb-2-big".to_owned(), "nb-1-big-Data.db".to_owned())]);
    assert_eq!(fs::metadata(plain.join("backups/nb-2-big-Data.db")).expect("there").nlink(), 2);
}
