//! What an increment adds to its parent: the parent's lines as far as they are still valid, merged with the SSTables
//! that lie complete in `backups/`.
//!
//! First everything is looked at ([`Increment::plan`]): what has to be sent, and which names are taken. Then the lines
//! are made in the manifest's order ([`Increment::portion`]), by the same rules. Invariants: nothing of the parent is
//! left out but what was dropped or truncated; nothing of `backups/` is left out but what is in the parent, was truncated
//! or is being linked; memory grows with names that are taken twice, not with node or table.

mod clear;
mod groups;
mod truncated;
mod unlinked;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use cassy_backup_format::{SstableEntry, TableRef};
use cassy_sstable::{DATA_COMPONENT, SstableIdentifier, SstableName};

pub(crate) use self::clear::clear_included;
use self::groups::{Group, Groups, Name};
use self::truncated::{Truncated, data_of, is_same_file};
use super::PORTION;
use super::choice::Chooser;
use super::error::UploadError;
use super::meter::Meter;
use super::parent::{Candidate, Cursor, Parent};
use super::reading::Buffers;
use super::sstable::{Job, Work};
use super::survey::{Survey, Surveyed, is_same};
use crate::context::Context;
use crate::directory::FileStat;
use crate::snapshot::{self, Linked, LookedAt, Problems, SstableFiles};

/// More half-linked SSTables of a table than a few crashes of Cassandra leave.
const HALF_LINKED: usize = 100;

/// What was found out before anything is sent.
#[derive(Debug, Default)]
pub(super) struct Increment {
    /// What is whole in `backups/` is judged by the same instant in both passes.
    looked_at: LookedAt,
    truncated: Truncated,
    /// Of these what the parent did not know.
    truncated_since: Truncated,
    /// The node's data directories.
    directories: Vec<PathBuf>,
    /// For the number of each of the parent's data directories the one in this manifest.
    numbers: Vec<u32>,
    /// SSTables whose name is another one's in the parent, by table and the name that they get.
    renamed: HashMap<TableRef, BTreeMap<Name, SstableFiles>>,
    /// To send: files and bytes.
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// SSTables that are being linked.
    pub(super) left: u64,
}

/// SSTables of a table of which more has to be known: what the parent has of them, under whatever name.
#[derive(Default)]
struct Unsure {
    /// Their names are those of others.
    taken: Vec<SstableFiles>,
    /// Not all of them is there, and why.
    half: Vec<(SstableFiles, String)>,
}

impl Unsure {
    /// Leaves those that the parent does not have, under whatever name: an earlier increment may have renamed them, and
    /// what is half there may be left over from clearing.
    fn look_up(
        &mut self,
        chooser: &Chooser<'_>,
        cursor: &mut Cursor,
        table: &TableRef,
    ) -> Result<(), UploadError> {
        let Self { taken, half } = self;
        while let Some(line) = cursor.next_of(table)? {
            half.retain(|(sstable, _)| !holds(&line, sstable));
            let Some(data) = data_of(&line.entry) else { continue };
            let is_it = |sstable: &SstableFiles| {
                let stat = sstable.files.get(DATA_COMPONENT);
                stat.is_some_and(|stat| is_same_file(data, stat))
                    && sstable.index() == line.entry.index.as_deref()
            };
            if let Some(place) = taken.iter().position(is_it)
                && let Some(sstable) = taken.get(place)
                && chooser.rows_blake3(sstable)? == data.blake3
            {
                taken.swap_remove(place);
            }
        }
        Ok(())
    }
}

/// What is to become of an SSTable in `backups/`.
enum Fate {
    New,
    /// Under the name of another one.
    Taken,
    /// Only some of it is there: what is wrong.
    Half(String),
    /// In the parent already, ruled out, or being linked.
    Not,
}

/// How far a pass is.
pub(super) struct Feed {
    /// The number of the table.
    table: usize,
    groups: Option<Groups>,
    cursor: Option<Cursor>,
    /// What is still to come of the table's SSTables with new names.
    renamed: BTreeMap<Name, SstableFiles>,
}

impl Feed {
    pub(super) fn new(cursor: Cursor) -> Self {
        Self { table: 0, groups: None, cursor: Some(cursor), renamed: BTreeMap::new() }
    }
}

/// The witness has the very same file.
fn has_the_same(surveyed: &Surveyed, sstable: &SstableFiles, component: &str) -> Result<bool, UploadError> {
    let name = sstable.file_name(component);
    let live = surveyed.snapshot.stat(&sstable.place.data, sstable.index(), &name)?;
    let identity = |stat: &FileStat| (stat.device, stat.inode);
    Ok(live.as_ref().map(identity) == sstable.files.get(component).map(identity))
}

impl Increment {
    /// Looks at every SSTable in `backups/` and every line of the parent. Blocks.
    pub(super) fn plan(
        ctx: &Context,
        survey: &mut Survey,
        parent: &Parent,
        looked_at: LookedAt,
    ) -> Result<Self, UploadError> {
        let before = parent.lines()?.header().clone();
        let tables = unlinked::tables(&before, &survey.header);
        if !tables.is_empty() {
            return Err(UploadError::NeverLinked { tables });
        }
        let before = before.truncations.unwrap_or_default();
        let now = survey.header.truncations.clone().unwrap_or_default();
        let mut increment = Self {
            looked_at,
            truncated: Truncated::new(&now),
            truncated_since: Truncated::new(now.iter().filter(|truncation| !before.contains(truncation))),
            directories: survey.directories.iter().map(|(_, path)| path.clone()).collect(),
            numbers: number_parents(survey, parent)?,
            ..Self::default()
        };
        let (meter, buffers, trashed) =
            (Meter::new(ctx.progress.clone(), 0, 0), Buffers::default(), HashSet::new());
        let chooser = Chooser { ctx, meter: &meter, buffers: &buffers, trashed: &trashed };
        let (mut cursor, mut second) = (parent.cursor()?, parent.cursor()?);
        let mut broken = Vec::new();
        for surveyed in &survey.tables {
            let table = &surveyed.snapshot.table;
            let mut groups = Groups::of(cursor, &survey.directories, table)?;
            let (mut unsure, mut highest) = (Unsure::default(), 0);
            while let Some(group) = groups.next()? {
                ctx.check()?;
                highest = highest.max(generation(&group.name.1));
                increment.look_at(&chooser, surveyed, group, &mut unsure)?;
            }
            cursor = groups.into_cursor();
            if !unsure.taken.is_empty() || !unsure.half.is_empty() {
                unsure.look_up(&chooser, &mut second, table)?;
                let mut problems = Problems::default();
                unsure.half.into_iter().for_each(|(_, problem)| problems.add(|| problem));
                broken.extend(problems.describe(table));
                increment.rename(table, unsure.taken, highest)?;
            }
        }
        if broken.is_empty() { Ok(increment) } else { Err(UploadError::HalfLinked { broken }) }
    }

    fn look_at(
        &mut self,
        chooser: &Chooser<'_>,
        surveyed: &Surveyed,
        group: Group,
        unsure: &mut Unsure,
    ) -> Result<(), UploadError> {
        let lines = self.valid(surveyed, group.lines)?;
        for sstable in group.found {
            match self.fate(chooser, surveyed, &sstable, &lines)? {
                Fate::New => self.count(&sstable),
                Fate::Taken => unsure.taken.push(sstable),
                Fate::Half(problem) if unsure.half.len() < HALF_LINKED => {
                    unsure.half.push((sstable, problem));
                }
                Fate::Half(problem) => return Err(UploadError::HalfLinked { broken: vec![problem] }),
                Fate::Not => {}
            }
        }
        Ok(())
    }

    fn fate(
        &mut self,
        chooser: &Chooser<'_>,
        surveyed: &Surveyed,
        sstable: &SstableFiles,
        lines: &[Candidate],
    ) -> Result<Fate, UploadError> {
        let linked = self.how_linked(surveyed, sstable)?;
        if matches!(linked, Linked::Underway) {
            self.left += 1;
            return Ok(Fate::Not);
        }
        if self.is_ruled_out(surveyed, sstable)? {
            return Ok(Fate::Not);
        }
        if let Linked::Half(problem) = linked {
            return Ok(Fate::Half(problem));
        }
        if chooser.has_rows(sstable, lines)? {
            return Ok(Fate::Not);
        }
        Ok(if lines.is_empty() { Fate::New } else { Fate::Taken })
    }

    fn count(&mut self, sstable: &SstableFiles) {
        self.files += sstable.files.len() as u64;
        self.bytes = self.bytes.saturating_add(sstable.bytes());
    }

    /// Gives each a generation above all of the table's.
    fn rename(
        &mut self,
        table: &TableRef,
        taken: Vec<SstableFiles>,
        mut highest: u32,
    ) -> Result<(), UploadError> {
        for sstable in taken {
            let told = || format!("{}.{}/{}", table.keyspace, table.table, sstable.name);
            let name = SstableName::parse(&sstable.name)
                .filter(|name| matches!(name.identifier, SstableIdentifier::Generation(_)))
                .ok_or_else(|| UploadError::Collides { sstable: told() })?;
            if highest >= i32::MAX.unsigned_abs() {
                return Err(UploadError::GenerationsUsedUp {
                    table: format!("{}.{}", table.keyspace, table.table),
                });
            }
            highest += 1;
            let name = name.renumber(SstableIdentifier::Generation(highest)).to_string();
            tracing::info!(sstable = told(), name, "its name is that of another SSTable in the parent");
            self.count(&sstable);
            let key = (sstable.index().map(str::to_owned), name.clone());
            self.renamed.entry(table.clone()).or_default().insert(key, sstable.renamed(name));
        }
        Ok(())
    }

    /// Of the parent's lines those that no truncation since has ruled out.
    fn valid(&self, surveyed: &Surveyed, lines: Vec<Candidate>) -> Result<Vec<Candidate>, UploadError> {
        let mut valid = Vec::with_capacity(lines.len());
        for line in lines {
            let is_gone =
                self.truncated_since.rules_out_line(&line.entry) && !self.is_live(surveyed, &line)?;
            if !is_gone {
                valid.push(line);
            }
        }
        Ok(valid)
    }

    /// The witness has the very file of the line.
    fn is_live(&self, surveyed: &Surveyed, line: &Candidate) -> Result<bool, UploadError> {
        let is_there = self.directories.contains(&line.data);
        let Some(data) = data_of(&line.entry).filter(|_| is_there) else { return Ok(false) };
        let live = surveyed.snapshot.stat(&line.data, line.entry.index.as_deref(), &data.name)?;
        Ok(live.is_some_and(|live| is_same_file(data, &live)))
    }

    fn is_ruled_out(&self, surveyed: &Surveyed, sstable: &SstableFiles) -> Result<bool, UploadError> {
        if !self.truncated.rules_out(&surveyed.snapshot.table.id, sstable) {
            return Ok(false);
        }
        Ok(!has_the_same(surveyed, sstable, DATA_COMPONENT)?)
    }

    fn how_linked(&self, surveyed: &Surveyed, sstable: &SstableFiles) -> Result<Linked, UploadError> {
        let mut components = sstable.files.iter().map(|(component, _)| component.as_str());
        let first = components.next().unwrap_or(DATA_COMPONENT);
        let any = if sstable.files.get(DATA_COMPONENT).is_some() { DATA_COMPONENT } else { first };
        let is_live = has_the_same(surveyed, sstable, any)?;
        Ok(snapshot::how_linked(sstable, self.looked_at, is_live)?)
    }

    /// The next lines, in the manifest's order, and what the step after that needs; `None` at the end. Blocks.
    pub(super) fn portion(
        &self,
        ctx: &Context,
        survey: &Survey,
        mut feed: Feed,
    ) -> Result<Option<(Vec<Work>, Feed)>, UploadError> {
        let mut work = Vec::new();
        while work.len() < PORTION {
            ctx.check()?;
            let Some(surveyed) = survey.tables.get(feed.table) else { break };
            let table = &surveyed.snapshot.table;
            let groups = match (&mut feed.groups, feed.cursor.take()) {
                (Some(groups), _) => groups,
                (begun, Some(cursor)) => {
                    feed.renamed = self.renamed.get(table).cloned().unwrap_or_default();
                    begun.insert(Groups::of(cursor, &survey.directories, table)?)
                }
                (None, None) => break,
            };
            let group = groups.next()?;
            let before = group.as_ref().map(|group| &group.name);
            while let Some(next) =
                feed.renamed.first_entry().filter(|next| before.is_none_or(|name| next.key() < name))
            {
                work.push(Work::Send(job(table, next.remove())));
            }
            match group {
                Some(group) => self.lines_of(surveyed, group, &mut work)?,
                None => {
                    feed.cursor = feed.groups.take().map(Groups::into_cursor);
                    feed.table += 1;
                }
            }
        }
        Ok((!work.is_empty()).then_some((work, feed)))
    }

    fn lines_of(&self, surveyed: &Surveyed, group: Group, work: &mut Vec<Work>) -> Result<(), UploadError> {
        let table = &surveyed.snapshot.table;
        let lines = self.valid(surveyed, group.lines)?;
        if lines.is_empty() {
            // What came after the plan was made may have a name that was given since: it is the next increment's.
            let given = self.renamed.get(table).is_some_and(|renamed| renamed.contains_key(&group.name));
            for sstable in group.found.into_iter().filter(|_| !given) {
                let is_whole = matches!(self.how_linked(surveyed, &sstable)?, Linked::Whole);
                let is_new = is_whole && !self.is_ruled_out(surveyed, &sstable)?;
                if is_new {
                    work.push(Work::Send(job(table, sstable)));
                }
            }
            return Ok(());
        }
        let mut entries: Vec<SstableEntry> = lines.into_iter().map(|line| line.entry).collect();
        for entry in &mut entries {
            let place = usize::try_from(entry.directory).unwrap_or(usize::MAX);
            entry.directory = self.numbers.get(place).copied().unwrap_or(entry.directory);
        }
        entries.sort_by_key(|entry| entry.directory);
        work.extend(entries.into_iter().map(|entry| Work::Keep(Box::new(entry))));
        Ok(())
    }
}

fn job(table: &TableRef, sstable: SstableFiles) -> Job {
    Job { table: table.clone(), sstable: Arc::new(sstable), candidates: Vec::new() }
}

/// Each file that is there is the very one of the line, whatever it is called there.
fn holds(line: &Candidate, sstable: &SstableFiles) -> bool {
    let SstableEntry { index, name, files, .. } = &line.entry;
    let is_there = |component: &str, stat| {
        let name = format!("{name}-{component}");
        files.iter().any(|file| file.name == name && is_same_file(file, stat))
    };
    index.as_deref() == sstable.index()
        && line.data == sstable.place.data
        && sstable.files.iter().all(|(component, stat)| is_there(component, stat))
}

fn generation(name: &str) -> u32 {
    match SstableName::parse(name).map(|name| name.identifier) {
        Some(SstableIdentifier::Generation(generation)) => generation,
        Some(SstableIdentifier::Uuid(_)) | None => 0,
    }
}

/// The manifest's numbers of the parent's data directories, by their paths. One that the node has no more is added at
/// the end of the list: its SSTables are still in the store.
fn number_parents(survey: &mut Survey, parent: &Parent) -> Result<Vec<u32>, UploadError> {
    let known = &mut survey.header.configuration.data_directories;
    let before = parent.lines()?.header().configuration.data_directories.clone();
    let number = |directory: String| {
        let place = known.iter().position(|known| is_same(known, &directory)).unwrap_or_else(|| {
            known.push(directory);
            known.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    };
    Ok(before.into_iter().map(number).collect())
}
