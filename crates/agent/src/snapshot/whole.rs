//! Whether a table's snapshot is whole. Cassandra says so nowhere: a call that returned proves nothing, as a table
//! whose snapshot fails is logged and skipped.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cassy_backup_format::TableRef;
use cassy_sstable::{
    DATA_COMPONENT, SnapshotManifest, TOC_COMPONENT, Toc, is_attached_index, missing_components,
};

use super::inventory::{TableContent, small_file};
use super::sstables::SstableFiles;
use crate::context::ProgressSink;
use crate::directory::{FileError, FileStat};
use crate::failure::chain;

/// More than the largest TOC that is taken for one.
const TOC_LIMIT_BYTES: u64 = 8 << 20;
/// So many problems of a table are told in words.
const PROBLEMS_TOLD: usize = 3;

/// What is wrong with a table's snapshot, the first few in words.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    told: Vec<String>,
    count: usize,
}

impl Problems {
    pub(super) fn one(problem: String) -> Self {
        Self { told: vec![problem], count: 1 }
    }

    pub(crate) fn add(&mut self, tell: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < PROBLEMS_TOLD {
            self.told.push(tell());
        }
    }

    /// Nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn extend(&mut self, others: Self) {
        let untold = others.count - others.told.len();
        others.told.into_iter().for_each(|problem| self.add(|| problem));
        self.count += untold;
    }

    /// `keyspace.table: what is wrong`, a line for each of the first.
    pub(crate) fn describe(&self, table: &TableRef) -> Vec<String> {
        let TableRef { keyspace, table, .. } = table;
        let mut lines: Vec<String> =
            self.told.iter().map(|problem| format!("{keyspace}.{table}: {problem}")).collect();
        if self.count > lines.len() {
            lines.push(format!("{keyspace}.{table}: {} more problems like these", self.count - lines.len()));
        }
        lines
    }
}

/// How much a table's SSTables are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    pub(crate) fn add(&mut self, sstable: &SstableFiles) {
        self.files += sstable.files.len() as u64;
        self.bytes = self.bytes.saturating_add(sstable.bytes());
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files of {} bytes", self.files, self.bytes)
    }
}

/// How much there is, and what is wrong with it. Nothing is when the snapshot is whole: there is a manifest.json,
/// exactly its Data.db files are there, each with all that its TOC.txt names (but for [`Needs::Rows`]), or that any
/// SSTable needs, and nothing else.
pub(crate) fn examine(
    progress: &ProgressSink,
    content: TableContent,
) -> Result<(Amount, Problems), FileError> {
    examine_until(|| false, progress, content)
}

/// The same, as long as nobody says that it is to stop: then what is answered says nothing.
pub(crate) fn examine_until(
    is_to_stop: impl Fn() -> bool,
    progress: &ProgressSink,
    content: TableContent,
) -> Result<(Amount, Problems), FileError> {
    let TableContent { sstables, manifests, strangers, .. } = content;
    let (mut amount, mut problems, mut incomplete) =
        (Amount::default(), Problems::default(), Problems::default());
    let mut listed = match Listed::parse(manifests) {
        Ok(listed) => Some(listed),
        Err(problem) => {
            problems.add(|| problem);
            None
        }
    };
    for sstable in sstables.take_while(|_| !is_to_stop()) {
        let sstable = sstable?;
        progress.beat();
        amount.add(&sstable);
        if let Some(listed) = &mut listed {
            listed.check_off(&sstable, &mut problems);
        }
        if let Some(problem) = sstable_problem(&sstable, Needs::Rows)? {
            incomplete.add(|| problem);
        }
    }
    if let Some(listed) = listed {
        listed.tell_missing(&mut problems);
    }
    problems.extend(incomplete);
    problems.extend(strangers);
    Ok((amount, problems))
}

/// What Cassandra's manifests name, and which of it is there.
struct Listed(Vec<(SnapshotManifest, Vec<bool>)>);

impl Listed {
    fn parse(manifests: Vec<(PathBuf, Vec<u8>)>) -> Result<Self, String> {
        if manifests.is_empty() {
            return Err(
                "no manifest.json of Cassandra is there, so its snapshot failed or is under way".to_owned()
            );
        }
        let parse = |(path, bytes): (PathBuf, Vec<u8>)| {
            let manifest = SnapshotManifest::parse(&bytes)
                .map_err(|error| format!("{}: {}", path.display(), chain(&error)))?;
            let is_there = vec![false; manifest.files().len()];
            Ok((manifest, is_there))
        };
        manifests.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    fn check_off(&mut self, sstable: &SstableFiles, problems: &mut Problems) {
        if sstable.files.get(DATA_COMPONENT).is_none() {
            return;
        }
        let (index, file) = (sstable.index(), sstable.file_name(DATA_COMPONENT));
        let mut is_listed = false;
        for (manifest, is_there) in &mut self.0 {
            let place = manifest.position(index, &file).and_then(|place| is_there.get_mut(place));
            is_listed |= place.map(|is_there| *is_there = true).is_some();
        }
        if !is_listed {
            problems.add(|| format!("{} is there, which no manifest.json names", relative(index, &file)));
        }
    }

    fn tell_missing(&self, problems: &mut Problems) {
        for (manifest, is_there) in &self.0 {
            let missing = manifest.files().zip(is_there).filter(|(_, is_there)| !**is_there);
            for ((index, file), _) in missing {
                problems
                    .add(|| format!("{} is missing, which its manifest.json names", relative(index, file)));
            }
        }
    }
}

fn relative(index: Option<&str>, file: &str) -> String {
    match index {
        Some(index) => format!("{index}/{file}"),
        None => file.to_owned(),
    }
}

/// Cassandra links the files of an SSTable into `backups/` within milliseconds.
const LINKING: Duration = Duration::from_secs(60);

/// The instant from which SSTables in `backups/` are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LookedAt {
    ns: i64,
}

impl LookedAt {
    /// Has to be taken before the directories are listed: what is listed half may be linked while it is looked at.
    pub(crate) fn at(now: SystemTime) -> Self {
        let ns = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self { ns: i64::try_from(ns).unwrap_or(i64::MAX) }
    }

    /// Nothing is linked to it any more. A link changes the file's `ctime`; but so does the snapshot of a live SSTable,
    /// whose files were linked when they were written. Only its TOC.txt is written again later.
    fn is_settled(self, sstable: &SstableFiles, is_live: bool) -> bool {
        let before = self.ns.saturating_sub(i64::try_from(LINKING.as_nanos()).unwrap_or(i64::MAX));
        let written = |stat: &FileStat| stat.birth_ns.unwrap_or(i64::MIN).max(stat.mtime_ns);
        let mut files = sstable.files.iter();
        files.all(|(component, stat)| {
            stat.ctime_ns < before || is_live && (component == TOC_COMPONENT || written(stat) < before)
        })
    }
}

/// How far Cassandra has come with linking an SSTable into `backups/`.
#[derive(Debug)]
pub(crate) enum Linked {
    /// All of it is there.
    Whole,
    /// Some is, and the rest may follow.
    Underway,
    /// Some is, and nothing follows: what is wrong.
    Half(String),
}

/// With a TOC.txt it is whole when all is there that this names. Without one (see [`problem_without_toc`]), or without
/// the index that it names, more may follow until nothing has for a while. It is live when the witness has it, too.
pub(crate) fn how_linked(
    sstable: &SstableFiles,
    looked_at: LookedAt,
    is_live: bool,
) -> Result<Linked, FileError> {
    let is_settled = looked_at.is_settled(sstable, is_live);
    let needs = if is_settled { Needs::Rows } else { Needs::All };
    Ok(match sstable_problem(sstable, needs)? {
        None if is_settled || sstable.files.get(TOC_COMPONENT).is_some() => Linked::Whole,
        Some(problem) if is_settled => Linked::Half(problem),
        _ => Linked::Underway,
    })
}

/// Any one of each line is in every SSTable, of whichever format, compressed or not.
const NEEDED_WITHOUT_TOC: [&[&str]; 4] = [
    &[DATA_COMPONENT],
    &["Statistics.db"],
    &["Index.db", "Partitions.db"],
    &["CompressionInfo.db", "CRC.db"],
];

/// An SSTable that was streamed as a whole has no TOC.txt (Cassandra's `SSTableZeroCopyWriter` writes none): Cassandra
/// goes by the names of the files then, and so does this. A snapshot links all that the running node has open.
fn problem_without_toc(sstable: &SstableFiles) -> Option<String> {
    let is_there = |component: &&str| sstable.files.get(component).is_some();
    let lacking = NEEDED_WITHOUT_TOC.iter().filter(|any| !any.iter().any(is_there));
    let mut lacking: Vec<String> = lacking.map(|any| any.join(" or ")).collect();
    // The two indexes of the format BTI are written together.
    if is_there(&"Partitions.db") && !is_there(&"Rows.db") {
        lacking.push("Rows.db".to_owned());
    }
    let path = sstable.full_path().join(&sstable.name);
    (!lacking.is_empty())
        .then(|| format!("{} has no {TOC_COMPONENT}, and lacks {}", path.display(), lacking.join(", ")))
}

/// What of that which a TOC.txt names has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Everything.
    All,
    /// All but indexes: one that is made on existing data comes into the TOC of a live SSTable, which snapshots and
    /// `backups/` share by a link, while they have no link to the index itself. Cassandra passes over what is not there
    /// (`TOCComponent.loadTOC`), and builds the index.
    Rows,
}

fn sstable_problem(sstable: &SstableFiles, needs: Needs) -> Result<Option<String>, FileError> {
    let path = sstable.full_path().join(&sstable.name);
    if sstable.files.get(TOC_COMPONENT).is_none() {
        return Ok(problem_without_toc(sstable));
    }
    let toc = match read_toc(sstable) {
        Ok(content) => Toc::parse(&content),
        Err(gone @ FileError::Vanished { .. }) => return Ok(Some(gone.to_string())),
        Err(error) => return Err(error),
    };
    let toc = match toc {
        Ok(toc) => toc,
        Err(error) => return Ok(Some(format!("{}-{TOC_COMPONENT}: {}", path.display(), chain(&error)))),
    };
    let present = sstable.files.iter().map(|(component, _)| component.clone()).collect();
    let mut missing = missing_components(&toc, &present);
    missing.retain(|component| needs == Needs::All || !is_attached_index(component));
    Ok((!missing.is_empty()).then(|| format!("{} lacks {}", path.display(), missing.join(", "))))
}

fn read_toc(sstable: &SstableFiles) -> Result<Vec<u8>, FileError> {
    small_file(&sstable.open()?, &sstable.file_name(TOC_COMPONENT), TOC_LIMIT_BYTES)
}
