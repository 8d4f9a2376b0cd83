//! A snapshot and the increments on it, on a real node and through the public interface. Each rule of the chain has a
//! table of its own, on which a row would be lost, or come back from the dead, without the rule.
//!
//! One node for all scenes, in this order, as starting it is what takes the time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cassy_api::proto::{OperationStatus, RestoreRequest};
use cassy_backup_format::{ManifestReader, SstableEntry};
use cassy_testkit::dataset::{self, Fingerprints};
use cassy_testkit::{Cql, Doing, Failure, Probe, Runtime, World, oracle, wait_for};

const LIMIT: Duration = Duration::from_secs(120);
/// What happens to each is in its scene.
const TABLES: [&str; 7] = ["gap", "deleted", "half", "twice", "truncated", "dropped", "remade"];

#[tokio::test]
async fn a_chain_of_increments_brings_back_what_was_there_and_nothing_else() -> Result<(), Failure> {
    let Some(runtime) = Runtime::or_skip().await else { return Ok(()) };
    let mut chain = Chain::begin(&runtime).await?;
    chain.an_increment_over_a_newer_snapshot_is_refused().await?;
    chain.a_row_was_deleted_and_compacted_before_the_base().await?;
    chain.a_base_whose_clearing_was_cut_is_cleared_before_an_increment().await?;
    let at_the_base = chain.rows().await?;

    chain.tables_are_truncated_and_dropped().await?;
    chain.what_is_half_linked_is_left_for_the_next_increment().await?;
    chain.of_two_sstables_with_one_name_both_are_kept().await?;
    let at_the_end = chain.rows().await?;

    chain.comes_back(false).await?;
    chain.nothing_is_left_of_what_was_dropped()?;
    assert_eq!(dataset::differences(&at_the_end, &chain.rows().await?), Vec::<String>::new());
    chain.write(4, &["gap"]).await?;
    chain.world.add_increment(&chain.cluster, &chain.base).await?;

    chain.comes_back(true).await?;
    assert_eq!(dataset::differences(&at_the_base, &chain.rows().await?), Vec::<String>::new());
    chain.after_a_restore_there_is_a_new_chain().await
}

struct Chain {
    world: World,
    cql: Cql,
    cluster: String,
    /// The snapshot that the increments are on.
    base: String,
    /// Where files of the node are put for a while.
    aside: PathBuf,
}

impl Chain {
    /// A node with one row in each table, flushed.
    async fn begin(runtime: &Runtime) -> Result<Self, Failure> {
        let world = World::builder(runtime)?.start().await?;
        let cql = world.cql().await?;
        cql.execute(
            "CREATE KEYSPACE chain WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        )
        .await?;
        for table in TABLES {
            cql.execute(&create(table)).await?;
        }
        let cluster = world.register().await?;
        let aside = world.path().join("aside");
        fs::create_dir(&aside).doing(|| format!("make {}", aside.display()))?;
        let chain = Self { world, cql, cluster, base: String::new(), aside };
        chain.write(1, &TABLES).await?;
        Ok(chain)
    }

    /// The row that was flushed between the two snapshots is no longer in `backups/`.
    async fn an_increment_over_a_newer_snapshot_is_refused(&mut self) -> Result<(), Failure> {
        self.base = self.world.back_up(&self.cluster).await?;
        self.write(2, &["gap"]).await?;
        let newer = self.world.back_up(&self.cluster).await?;
        self.write(3, &["gap"]).await?;
        let refused = self.world.server.begin_increment(&self.cluster, &self.base).await;
        let refused = refused.expect_err("row 2 would not be in it").to_string();
        assert!(refused.contains("would have a gap") && refused.contains(&newer), "{refused}");
        Ok(())
    }

    /// So that the row, which is written once more, is in `backups/` alone, and so is its deletion.
    async fn a_row_was_deleted_and_compacted_before_the_base(&mut self) -> Result<(), Failure> {
        self.write(1, &["deleted"]).await?;
        self.forget("deleted").await?;
        self.write(2, &["deleted"]).await
    }

    /// An agent that was killed has cleared the deletion and not the row; the list of both is still in the store.
    async fn a_base_whose_clearing_was_cut_is_cleared_before_an_increment(&mut self) -> Result<(), Failure> {
        let directory = self.table("deleted")?.join("backups");
        let [row, deletion, ..] = &names(&directory)?.into_iter().collect::<Vec<_>>()[..] else {
            panic!("two SSTables in {}", directory.display())
        };
        move_set(&directory, row, &self.aside, hard_link)?;
        move_set(&directory, deletion, &self.aside, |from, _| fs::remove_file(from))?;
        self.base = self.world.begin_backup(&self.cluster).await?;
        self.world.server.freeze();
        let list = self.stored("/superseded/")?;
        let noted = fs::read(&list).doing(|| format!("read {}", list.display()))?;
        self.world.server.thaw();
        let (status, message) = self.world.backup_outcome(&self.base).await?;
        assert_eq!(status, OperationStatus::Completed, "{message}");
        for table in TABLES {
            assert!(names(&self.table(table)?.join("backups"))?.is_empty(), "{table}: superseded is cleared");
        }
        assert!(!list.exists(), "and so is the list");

        move_set(&self.aside, row, &directory, fs::rename)?;
        fs::create_dir_all(list.parent().expect("it has a place")).doing(|| "make the list's place")?;
        fs::write(&list, noted).doing(|| format!("write {}", list.display()))?;
        self.world.add_increment(&self.cluster, &self.base).await?;
        let of_deleted = self.lines("deleted")?;
        assert!(!of_deleted.contains_key(row), "{row} was superseded: {:?}", of_deleted.keys());
        assert!(names(&directory)?.is_empty() && !list.exists(), "cleared first");
        Ok(())
    }

    async fn tables_are_truncated_and_dropped(&mut self) -> Result<(), Failure> {
        self.write(2, &["truncated", "dropped", "remade"]).await?;
        let remade = create("remade");
        let statements =
            ["TRUNCATE chain.truncated", "DROP TABLE chain.dropped", "DROP TABLE chain.remade", &remade];
        self.cql.execute_all(&statements).await?;
        self.write(3, &["truncated", "remade"]).await
    }

    /// Of one its TOC.txt is not linked yet, of another one its Data.db; the others were linked less than a minute ago.
    async fn what_is_half_linked_is_left_for_the_next_increment(&mut self) -> Result<(), Failure> {
        let directory = self.table("half")?.join("backups");
        let mut half = Vec::new();
        for (row, component) in [(2, "TOC.txt"), (3, "Data.db")] {
            let before = names(&directory)?;
            self.write(row, &["half"]).await?;
            let [name] = &names(&directory)?.difference(&before).cloned().collect::<Vec<_>>()[..] else {
                panic!("one SSTable of one flush")
            };
            let file = format!("{name}-{component}");
            fs::rename(directory.join(&file), self.aside.join(&file)).doing(|| format!("move {file}"))?;
            half.push((name.clone(), file));
        }
        let message = self.world.add_increment(&self.cluster, &self.base).await?;
        assert!(message.contains("2 SSTables in backups/ without a whole TOC.txt are left"), "{message}");
        let lines = self.lines("half")?;
        for (name, file) in half {
            assert!(!lines.contains_key(&name), "{name} is not whole: {:?}", lines.keys());
            assert!(names(&directory)?.contains(&name), "{name} stays until it is whole");
            fs::rename(self.aside.join(&file), directory.join(&file)).doing(|| format!("move {file}"))?;
        }
        Ok(())
    }

    /// When nothing of a table is left, Cassandra begins to count anew at its next start.
    async fn of_two_sstables_with_one_name_both_are_kept(&mut self) -> Result<(), Failure> {
        self.forget("twice").await?;
        self.world.add_increment(&self.cluster, &self.base).await?;
        let before = self.lines("twice")?;
        self.world.node.stop().await?;
        self.world.node.start().await?;
        self.cql = self.world.cql().await?;
        self.write(2, &["twice"]).await?;
        let [name] = &names(&self.table("twice")?.join("backups"))?.into_iter().collect::<Vec<_>>()[..]
        else {
            panic!("one SSTable of one flush")
        };
        assert!(before.contains_key(name), "{name} comes again: {:?}", before.keys());
        self.world.add_increment(&self.cluster, &self.base).await?;
        let after = self.lines("twice")?;
        assert_eq!(after.len(), before.len() + 1, "{:?}", after.keys());
        assert!(before.iter().all(|(name, line)| after.get(name) == Some(line)), "what was there stays");
        Ok(())
    }

    /// The old one has rows that the restored node does not have; after a restore of its end it went on.
    async fn after_a_restore_there_is_a_new_chain(&mut self) -> Result<(), Failure> {
        self.write(5, &["gap"]).await?;
        let refused = self.world.server.begin_increment(&self.cluster, &self.base).await;
        let refused = refused.expect_err("its rows would come back").to_string();
        let why = format!("the snapshot {} was restored to it after the backup", self.base);
        assert!(refused.contains(&why), "{refused}");
        let newer = self.world.back_up(&self.cluster).await?;
        self.world.add_increment(&self.cluster, &newer).await.map(drop)
    }

    /// The node loses everything, is restored and started.
    async fn comes_back(&mut self, snapshot_only: bool) -> Result<(), Failure> {
        self.world.node.stop().await?;
        self.world.node.wipe()?;
        let request = RestoreRequest {
            cluster_id: self.cluster.clone(),
            snapshot_id: self.base.clone(),
            restore_type: 2,
            snapshot_only,
            ..RestoreRequest::default()
        };
        let begun = self.world.server.client()?.restore_backup(request).await.doing(|| "RestoreBackup")?;
        assert_eq!(begun.into_inner().message.contains("with the increments"), !snapshot_only);
        let (status, message) = self.world.restore_outcome(&self.base).await?;
        assert_eq!(status, OperationStatus::Completed, "{message}");
        self.world.node.start().await?;
        self.cql = self.world.cql().await?;
        Ok(())
    }

    /// Neither the table nor the first table of a name that there is again.
    fn nothing_is_left_of_what_was_dropped(&self) -> Result<(), Failure> {
        assert_eq!(tables(&self.world)?.get("dropped"), None);
        assert_eq!(tables(&self.world)?["remade"].len(), 1);
        Ok(())
    }

    /// A row in each of these tables, flushed.
    async fn write(&self, row: u32, tables: &[&str]) -> Result<(), Failure> {
        for table in tables {
            let statement = format!("INSERT INTO chain.{table} (id, value) VALUES ({row}, 'row {row}')");
            self.cql.execute(&statement).await?;
        }
        self.world.node.flush(&["chain"]).await
    }

    /// Deletes the first row, its only one, and has the deletion forgotten with it: no SSTable is left. A deletion of this
    /// very second is not forgotten yet.
    async fn forget(&self, table: &str) -> Result<(), Failure> {
        self.cql.execute(&format!("DELETE FROM chain.{table} WHERE id = 1")).await?;
        self.world.node.flush(&["chain"]).await?;
        let directory = self.table(table)?;
        wait_for(format!("nothing is left of {table} but in backups/"), LIMIT, async || {
            let compacted = self.world.node.nodetool(&["compact", "chain", table]).await;
            match compacted.and_then(|_| names(&directory)) {
                Ok(left) if left.is_empty() => Probe::Ready(()),
                Ok(left) => Probe::NotYet(format!("{left:?}")),
                Err(failure) => Probe::Broken(failure),
            }
        })
        .await
    }

    /// All tables that there are.
    async fn rows(&self) -> Result<Fingerprints, Failure> {
        let query = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'chain'";
        let mut all = Fingerprints::new();
        for name in self.cql.rows(query).await?.into_iter().flatten() {
            let table = TABLES.iter().find(|table| name == format!("Text(\"{table}\")"));
            let table = format!("chain.{}", table.expect("a table of the test"));
            all.insert(table.clone(), self.cql.fingerprint(&table).await?);
        }
        Ok(all)
    }

    /// The lines of a table in the last increment, by the names of the SSTables.
    fn lines(&self, table: &str) -> Result<BTreeMap<String, SstableEntry>, Failure> {
        let path = self.stored(&format!(".on-{}.jsonl.zst", self.base))?;
        let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let mut found = BTreeMap::new();
        for line in ManifestReader::open(bytes.as_slice()).doing(|| format!("read {}", path.display()))? {
            let line = line.doing(|| format!("read {}", path.display()))?;
            if (line.table.keyspace.as_str(), line.table.table.as_str()) == ("chain", table) {
                found.insert(line.name.clone(), line);
            }
        }
        Ok(found)
    }

    /// The newest object whose path has this part.
    fn stored(&self, part: &str) -> Result<PathBuf, Failure> {
        let all = oracle::everything(&[self.world.store()])?;
        let newest = all.into_iter().filter(|path| path.display().to_string().contains(part)).max();
        newest.ok_or_else(|| Failure::new(format!("no object is called {part}")))
    }

    /// The directory of a table that was made once.
    fn table(&self, table: &str) -> Result<PathBuf, Failure> {
        match tables(&self.world)?.remove(table).as_deref() {
            Some([directory]) => Ok(directory.clone()),
            found => Err(Failure::new(format!("{table} has the directories {found:?}"))),
        }
    }
}

/// What is deleted can be forgotten at once.
fn create(table: &str) -> String {
    format!("CREATE TABLE chain.{table} (id int PRIMARY KEY, value text) WITH gc_grace_seconds = 0")
}

/// The directories of each table of ours.
fn tables(world: &World) -> Result<BTreeMap<String, Vec<PathBuf>>, Failure> {
    let keyspace = world.node.data_directories().remove(0).join("chain");
    let mut tables = BTreeMap::<String, Vec<PathBuf>>::new();
    for entry in fs::read_dir(&keyspace).doing(|| format!("list {}", keyspace.display()))? {
        let path = entry.doing(|| format!("list {}", keyspace.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (table, _id) = name.split_once('-').expect("a table's name and id");
        tables.entry(table.to_owned()).or_default().push(path);
    }
    Ok(tables)
}

/// The names of the SSTables in a directory.
fn names(directory: &Path) -> Result<BTreeSet<String>, Failure> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(BTreeSet::new()) };
    let files = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let files: Result<Vec<String>, std::io::Error> = files.collect();
    let files = files.doing(|| format!("list {}", directory.display()))?;
    Ok(files.iter().filter_map(|file| Some(file.rsplit_once('-')?.0.to_owned())).collect())
}

/// Does this to every file of an SSTable, with its path in the other directory.
fn move_set(
    from: &Path,
    name: &str,
    to: &Path,
    how: impl Fn(PathBuf, PathBuf) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let entries = fs::read_dir(from).doing(|| format!("list {}", from.display()))?;
    for entry in entries {
        let file = entry.doing(|| format!("list {}", from.display()))?.file_name();
        if file.to_string_lossy().starts_with(&format!("{name}-")) {
            how(from.join(&file), to.join(&file)).doing(|| format!("move {}", file.display()))?;
        }
    }
    Ok(())
}

fn hard_link(from: PathBuf, to: PathBuf) -> std::io::Result<()> {
    fs::hard_link(from, to)
}
