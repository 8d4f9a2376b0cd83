//! Whether a table's snapshot is whole. Cassandra says so nowhere: a call that returned proves nothing, as a table
//! whose snapshot fails is logged and skipped.

use std::collections::BTreeSet;

use cassy_backup_format::TableRef;
use cassy_sstable::{DATA_COMPONENT, SnapshotManifest, TOC_COMPONENT, Toc, missing_components};

use super::inventory::{SstableFiles, TableContent, small_file};
use crate::directory::FileError;
use crate::failure::chain;

/// More than the largest TOC that is taken for one.
const TOC_LIMIT_BYTES: u64 = 8 << 20;
/// So many problems of a table are told in words.
const PROBLEMS_TOLD: usize = 3;

/// What is wrong with a table's snapshot; empty when it is whole: there is a manifest.json, exactly its Data.db
/// files are there, each with its TOC.txt and all that this names, and nothing else.
pub(crate) fn problems(content: &TableContent) -> Result<Vec<String>, FileError> {
    let mut problems = Vec::new();
    match listed(content) {
        Ok(listed) => compare(content, &listed, &mut problems),
        Err(problem) => problems.push(problem),
    }
    for sstable in &content.sstables {
        problems.extend(sstable_problem(sstable)?);
    }
    let strangers = content.strangers.iter();
    problems.extend(strangers.map(|path| format!("{} is no component of an SSTable", path.display())));
    Ok(problems)
}

/// `keyspace.table: what is wrong`, a line for each of the first problems.
pub(crate) fn describe(problems: &[String], table: &TableRef) -> Vec<String> {
    let TableRef { keyspace, table, .. } = table;
    let told = problems.iter().take(PROBLEMS_TOLD);
    let mut lines: Vec<String> = told.map(|problem| format!("{keyspace}.{table}: {problem}")).collect();
    if problems.len() > PROBLEMS_TOLD {
        lines
            .push(format!("{keyspace}.{table}: {} more problems like these", problems.len() - PROBLEMS_TOLD));
    }
    lines
}

type DataFiles = BTreeSet<(Option<String>, String)>;

/// The Data.db files that Cassandra's manifests name.
fn listed(content: &TableContent) -> Result<DataFiles, String> {
    if content.manifests.is_empty() {
        return Err(
            "no manifest.json of Cassandra is there, so its snapshot failed or is under way".to_owned()
        );
    }
    let mut listed = DataFiles::new();
    for (path, bytes) in &content.manifests {
        let manifest = SnapshotManifest::parse(bytes)
            .map_err(|error| format!("{}: {}", path.display(), chain(&error)))?;
        listed.extend(manifest.files);
    }
    Ok(listed)
}

fn compare(content: &TableContent, listed: &DataFiles, problems: &mut Vec<String>) {
    let has_data = |sstable: &&SstableFiles| sstable.files.get(DATA_COMPONENT).is_some();
    let data_files = content.sstables.iter().filter(has_data);
    let present: DataFiles = data_files
        .map(|sstable| (sstable.index().map(str::to_owned), sstable.file_name(DATA_COMPONENT)))
        .collect();
    for missing in listed.difference(&present) {
        problems.push(format!("{} is missing, which its manifest.json names", relative(missing)));
    }
    for unlisted in present.difference(listed) {
        problems.push(format!("{} is there, which no manifest.json names", relative(unlisted)));
    }
}

fn relative((index, file): &(Option<String>, String)) -> String {
    match index {
        Some(index) => format!("{index}/{file}"),
        None => file.clone(),
    }
}

fn sstable_problem(sstable: &SstableFiles) -> Result<Option<String>, FileError> {
    let path = sstable.full_path().join(&sstable.name);
    if sstable.files.get(TOC_COMPONENT).is_none() {
        return Ok(Some(format!("{}-{TOC_COMPONENT} is missing", path.display())));
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
    let missing = missing_components(&toc, &present);
    Ok((!missing.is_empty()).then(|| format!("{} lacks {}", path.display(), missing.join(", "))))
}

fn read_toc(sstable: &SstableFiles) -> Result<Vec<u8>, FileError> {
    small_file(&sstable.open()?, &sstable.file_name(TOC_COMPONENT), TOC_LIMIT_BYTES)
}
