//! Moving aside what is in the way of a restore: by rename, within the very directory that it lies in, so that it does
//! not matter what is mounted where. Nothing is deleted, nothing overwritten.
//!
//! ```text
//! <directory>/moved-aside-<job>/backups/<what was in the directory>
//! ```
//! Of Cassandra's directories only the data directories are searched below their own names: before it starts, for
//! SSTables that it cannot read, and for snapshots. Neither search goes into a directory that is named `backups`
//! (`StartupChecks.checkSSTablesFormat`, `SnapshotLoader`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cassy_sstable::BACKUPS_DIRECTORY;

use super::facts::{Facts, Found, Side, SideKind};
use super::tree::{FileError, Ownership, Steps, Tree};

const PREFIX: &str = "moved-aside-";
/// Every file system of the ext family has it in its root.
pub(crate) const LOST_FOUND: &str = "lost+found";
/// Names of a directory that are in memory at once.
const PORTION: usize = 1_000;

/// The directory that a job moves things to.
pub(crate) fn directory(job_id: &str) -> String {
    format!("{PREFIX}{job_id}")
}

/// True for the name of such a directory, of whichever job.
pub(crate) fn is_aside(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
}

/// True when something has been moved aside in the directory before.
pub(crate) fn has_aside(tree: &Tree) -> Result<bool, FileError> {
    for entry in tree.each_entry()? {
        if is_aside(&entry?.0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What lies in a directory of Cassandra's and would be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InTheWay {
    pub(crate) directory: PathBuf,
    pub(crate) found: Found,
}

/// What would be moved, each directory once; nothing unless the restore is to move things.
pub(crate) fn in_the_way(facts: &Facts) -> Vec<InTheWay> {
    if facts.moves_segments().is_some() {
        let is_log = |side: &&Side| matches!(side.kind, SideKind::Segments | SideKind::RefusedStarts);
        return merged(facts.sides.iter().filter(is_log).map(|side| (&side.path, &side.found)));
    }
    if facts.moves_aside().is_none() {
        return Vec::new();
    }
    let roots =
        facts.roots.iter().flat_map(|root| [(&root.path, &root.placed), (&root.path, &root.unexpected)]);
    merged(roots.chain(facts.sides.iter().map(|side| (&side.path, &side.found))))
}

fn merged<'a>(found: impl Iterator<Item = (&'a PathBuf, &'a Found)>) -> Vec<InTheWay> {
    let mut all: Vec<InTheWay> = Vec::new();
    for (directory, found) in found.filter(|(_, found)| found.count > 0) {
        match all.iter_mut().find(|known| known.directory == *directory) {
            Some(known) => known.found.add_all(found),
            None => all.push(InTheWay { directory: directory.clone(), found: found.clone() }),
        }
    }
    all
}

/// The directories of this job that are there, with all that was moved.
pub(crate) fn moved_by(facts: &Facts, job_id: &str) -> Vec<PathBuf> {
    let directories =
        facts.roots.iter().map(|root| &root.path).chain(facts.sides.iter().map(|side| &side.path));
    let mut moved: Vec<PathBuf> = directories.map(|path| path.join(directory(job_id))).collect();
    moved.retain(|path| path.is_dir());
    moved.sort();
    moved.dedup();
    moved
}

/// Whether anybody but this job has moved something aside.
pub(crate) fn is_moved_by_others(facts: &Facts) -> Result<bool, FileError> {
    let own = facts.move_aside.as_deref().map(directory);
    let roots = facts.roots.iter().map(|root| &root.path);
    for path in roots.chain(facts.sides.iter().map(|side| &side.path)) {
        let Some(tree) = Tree::root(path, &Steps::default())? else { continue };
        for entry in tree.each_entry()? {
            let (name, _) = entry?;
            if is_aside(&name) && own.as_deref() != name.to_str() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The directories from which this job has moved something.
pub(crate) fn moved_to(facts: &Facts, job_id: &str) -> Vec<InTheWay> {
    let moved = moved_by(facts, job_id);
    let directories = moved.iter().filter_map(|aside| aside.parent());
    directories.map(|path| InTheWay { directory: path.to_owned(), found: Found::default() }).collect()
}

/// Moves everything in these directories, but what `stays` and what was moved before. Durable when it returns.
pub(crate) fn move_all(
    in_the_way: &[InTheWay],
    job_id: &str,
    stays: &dyn Fn(&OsStr) -> bool,
    steps: &Steps,
) -> Result<(), FileError> {
    let stays = |name: &OsStr| stays(name) || is_aside(name) || name == LOST_FOUND;
    for InTheWay { directory: path, .. } in in_the_way {
        let Some(tree) = Tree::root(path, steps)? else { continue };
        let to = tree.ensure(&[&directory(job_id), BACKUPS_DIRECTORY], &as_this(&tree)?)?;
        move_entries(&tree, &to, &stays)?;
        to.sync()?;
        tree.sync()?;
    }
    Ok(())
}

/// The way back, for a restore that has placed nothing.
pub(crate) fn put_back(in_the_way: &[InTheWay], job_id: &str, steps: &Steps) -> Result<(), FileError> {
    let name = directory(job_id);
    for InTheWay { directory: path, .. } in in_the_way {
        let Some(tree) = Tree::root(path, steps)? else { continue };
        let Some(aside) = tree.open(OsStr::new(&name))? else { continue };
        if let Some(moved) = aside.open(OsStr::new(BACKUPS_DIRECTORY))? {
            move_entries(&moved, &tree, &|_| false)?;
        }
        aside.remove_empty(BACKUPS_DIRECTORY)?;
        tree.remove_empty(&name)?;
        tree.sync()?;
    }
    Ok(())
}

fn move_entries(from: &Tree, to: &Tree, stays: &dyn Fn(&OsStr) -> bool) -> Result<(), FileError> {
    loop {
        let goes = from.each_entry()?.filter(|entry| !entry.as_ref().is_ok_and(|(name, _)| stays(name)));
        let portion = goes.take(PORTION).collect::<Result<Vec<_>, _>>()?;
        if portion.is_empty() {
            return Ok(());
        }
        for (name, _) in &portion {
            from.move_entry(name, to)?;
        }
    }
}

/// Cassandra has to be able to open it.
fn as_this(tree: &Tree) -> Result<Ownership, FileError> {
    let stat = tree.own_stat()?;
    let is_root = rustix::process::geteuid().is_root();
    Ok(Ownership {
        uid: is_root.then_some(stat.st_uid),
        gid: is_root.then_some(stat.st_gid),
        directory_mode: stat.st_mode & 0o777 | 0o700,
        file_mode: 0,
    })
}

/// Directories of Cassandra's that lie in another one: what is in the way in the outer one cannot be told from the
/// inner.
pub(crate) fn nested(facts: &Facts, outer: &Path) -> Option<PathBuf> {
    let inner = facts.roots.iter().map(|root| &root.path).chain(facts.sides.iter().map(|side| &side.path));
    inner.filter(|inner| inner.as_path() != outer).find(|inner| inner.starts_with(outer)).cloned()
}
