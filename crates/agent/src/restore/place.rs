//! Makes a restore begin, and ends it: the sentinel first, then (once everything is staged) each file by rename
//! to where Cassandra looks for it, then the caches of the data before go, and the sentinel last. Each step can
//! be done again by a later call. Nothing is overwritten.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cassy_agent_protocol::{AgentErrorKind, RestoreScope};
use cassy_backup_format::{FileEntry, SstableEntry};
use cassy_sstable::{ComponentName, TOC_COMPONENT};
use rustix::fs::Stat;
use rustix::io::Errno;

use super::aside::{self, InTheWay};
use super::error::RestoreError;
use super::facts::{Facts, Root, Side, SideKind};
use super::gather::{is_segment, is_since};
use super::layout::Layout;
use super::manifest::{Manifest, directories, table_directory};
use super::marker::{self, Marker, STAGED};
use super::stage::Destination;
use super::tree::{FileError, Kind, Steps, Tree, mtime_ns};
use crate::context::ProgressSink;
use crate::inspect::nearest_existing;
use crate::session::lock::{LockError, Locks};

/// Cassandra's `AutoSavingCache` names its files so.
const CACHES: [&str; 3] = ["KeyCache-", "RowCache-", "CounterCache-"];

/// What a restore has made before anything was staged.
pub(crate) struct Begun {
    pub(crate) destinations: Vec<Arc<Destination>>,
    /// Data directories (and parents) that did not exist, parents first.
    made: Vec<PathBuf>,
    /// What this call has moved aside, or begun to.
    moved: Vec<InTheWay>,
    steps: Steps,
}

/// Opens the data directories for a look only.
pub(crate) fn open(facts: &Facts, steps: &Steps) -> Result<Begun, RestoreError> {
    let mut destinations = Vec::new();
    for root in &facts.roots {
        let tree = existing(&root.path, steps)?;
        destinations.push(Arc::new(Destination { root: tree, staging: None, ownership: root.ownership }));
    }
    Ok(Begun { destinations, made: Vec::new(), moved: Vec::new(), steps: steps.clone() })
}

/// Makes the data directories where they are missing, and sets the sentinels: in the first one first, once it is locked.
/// What is in the way is moved aside then.
pub(crate) fn begin(
    facts: &Facts,
    marker: &Marker,
    locks: &Locks,
    steps: &Steps,
) -> Result<Begun, RestoreError> {
    let mut begun =
        Begun { destinations: Vec::new(), made: Vec::new(), moved: Vec::new(), steps: steps.clone() };
    let outcome = begun.begin(facts, marker, locks);
    // What another agent has begun meanwhile is that one's.
    let is_anothers = |error: &RestoreError| error.kind() == AgentErrorKind::Busy;
    if outcome.as_ref().is_err_and(|error| !is_anothers(error)) && !facts.is_resumed() {
        begun.abandon(facts);
    }
    outcome.map(|()| begun)
}

impl Begun {
    fn begin(&mut self, facts: &Facts, marker: &Marker, locks: &Locks) -> Result<(), RestoreError> {
        for (index, root) in facts.roots.iter().enumerate() {
            let tree = if index == 0 { self.lock_root(root, locks)? } else { self.make_root(root)? };
            let staging = marker::set(&tree, facts.staging, marker, &root.ownership)?;
            let destination = Destination { root: tree, staging: Some(staging), ownership: root.ownership };
            self.destinations.push(Arc::new(destination));
        }
        match facts.moves_aside() {
            Some(job_id) => self.move_aside(facts, job_id),
            None => self.move_segments(facts),
        }
    }

    /// Whether they are of refused starts or from before is not known for sure.
    fn move_segments(&mut self, facts: &Facts) -> Result<(), RestoreError> {
        let Some(job_id) = facts.moves_segments() else { return Ok(()) };
        self.moved = aside::in_the_way(facts);
        aside::move_all(&self.moved, job_id, &|name| !is_segment(Path::new(name)), &self.steps)?;
        Ok(())
    }

    /// Once files can be staged, nothing more is taken for what was there before.
    fn move_aside(&mut self, facts: &Facts, job_id: &str) -> Result<(), RestoreError> {
        self.moved = aside::in_the_way(facts);
        aside::move_all(
            &self.moved,
            job_id,
            &|name| RestoreScope::ALL.iter().any(|scope| name == scope.staging()),
            &self.steps,
        )?;
        for destination in &self.destinations {
            let staging = destination.staging.as_ref();
            staging.map(|staging| staging.ensure(&[STAGED], &destination.ownership)).transpose()?;
        }
        Ok(())
    }

    /// The first data directory is what agents lock. Where it was missing, its parent was locked instead, which nobody asks
    /// for any more once it is there.
    fn lock_root(&mut self, root: &Root, locks: &Locks) -> Result<Tree, RestoreError> {
        if !root.exists && Tree::root(&root.path, &self.steps)?.is_some() {
            return Err(RestoreError::Lock(LockError::Made { path: root.path.clone() }));
        }
        let tree = self.make_root(root)?;
        locks.hold(&root.path).map_err(RestoreError::Lock)?;
        Ok(tree)
    }

    fn make_root(&mut self, root: &Root) -> Result<Tree, RestoreError> {
        let steps = &self.steps;
        if let Some(tree) = Tree::root(&root.path, steps)? {
            return Ok(tree);
        }
        let mut parent = nearest_existing(&root.path).to_owned();
        let missing = root.path.strip_prefix(&parent).unwrap_or(&root.path).to_owned();
        for name in &missing {
            let Some(name) = name.to_str() else {
                return Err(FileError::new("make directory", &root.path, Errno::ILSEQ).into());
            };
            let tree = existing(&parent, steps)?;
            self.made.push(parent.join(name));
            tree.ensure(&[name], &root.ownership)?;
            tree.sync()?;
            parent.push(name);
        }
        Ok(existing(&root.path, steps)?)
    }

    /// Takes everything back, for a restore that has placed nothing: the node is as it was. What cannot be
    /// removed is logged; the sentinel then keeps Cassandra from starting. It does so too when an earlier call has
    /// moved things aside: half of the data before must not start.
    pub(crate) fn abandon(&self, facts: &Facts) {
        if facts.is_resumed() && facts.has_moved() {
            return;
        }
        if let Err(error) = self.try_abandon(facts) {
            tracing::warn!(error = crate::failure::chain(&error), "what was staged could not be removed");
        }
    }

    fn try_abandon(&self, facts: &Facts) -> Result<(), FileError> {
        let steps = &self.steps;
        let roots: Vec<Tree> = facts
            .roots
            .iter()
            .filter_map(|root| Tree::root(&root.path, steps).transpose())
            .collect::<Result<_, _>>()?;
        for root in &roots {
            marker::clear_staged(root, facts.staging)?;
        }
        if let Some(job_id) = &facts.move_aside {
            aside::put_back(&self.moved, job_id, steps)?;
        }
        for root in roots.iter().rev() {
            marker::remove(root, facts.staging)?;
        }
        for path in self.made.iter().rev() {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            if let Some(parent) = Tree::root(parent, steps)? {
                parent.remove_empty(name)?;
            }
        }
        Ok(())
    }

    /// Places everything that is staged and ends the restore.
    pub(crate) fn finish(
        &self,
        progress: &ProgressSink,
        facts: &Facts,
        manifest: &Manifest,
        layout: &Layout,
    ) -> Result<(), RestoreError> {
        self.sync()?;
        for entry in manifest.entries()? {
            let entry = entry?;
            progress.beat();
            let destination = layout.root_of(&entry).and_then(|root| self.destinations.get(root));
            let destination =
                destination.ok_or_else(|| manifest.refuse("a data directory is not there".to_owned()))?;
            place(destination, &entry)?;
        }
        let sides = |kind| facts.sides.iter().filter(move |side| side.kind == kind);
        for side in sides(SideKind::SavedCaches) {
            self.delete(side, |name, _| is_saved_cache(name))?;
        }
        let begun_ns = facts.begun_ns();
        for side in sides(SideKind::RefusedStarts).filter(|side| facts.deletes_segments(side)) {
            self.delete(side, |name, stat| {
                is_segment(Path::new(name)) && is_since(begun_ns, mtime_ns(stat))
            })?;
        }
        self.sync()?;
        for destination in &self.destinations {
            marker::empty_staged(&destination.root, facts.staging)?;
        }
        self.sync()?;
        self.unmark(facts)
    }

    /// The last act: the sentinel of the first data directory goes last.
    pub(crate) fn unmark(&self, facts: &Facts) -> Result<(), RestoreError> {
        for destination in self.destinations.iter().rev() {
            marker::remove(&destination.root, facts.staging)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), FileError> {
        let mut synced = Vec::new();
        for destination in &self.destinations {
            let device = destination.root.device()?;
            if !synced.contains(&device) {
                destination.root.sync_file_system()?;
                synced.push(device);
            }
        }
        Ok(())
    }

    fn delete(&self, side: &Side, is: impl Fn(&str, &Stat) -> bool) -> Result<(), FileError> {
        let Some(tree) = Tree::root(&side.path, &self.steps)? else { return Ok(()) };
        for (name, kind) in tree.entries()? {
            let stat = if kind == Kind::File { tree.stat(&name)? } else { None };
            if name.to_str().zip(stat).is_some_and(|(name, stat)| is(name, &stat)) {
                tree.remove(&name)?;
            }
        }
        tree.sync_file_system()
    }
}

fn is_saved_cache(name: &str) -> bool {
    CACHES.iter().any(|cache| name.contains(cache)) && (name.ends_with(".db") || name.ends_with(".crc"))
}

/// A directory that has to be there.
pub(crate) fn existing(path: &Path, steps: &Steps) -> Result<Tree, FileError> {
    Tree::root(path, steps)?.ok_or_else(|| FileError::new("open directory", path, Errno::NOENT))
}

/// Places one SSTable. What is in place already was proven when the others were staged, and has nothing staged any more:
/// what appeared meanwhile is another's, whatever its size.
fn place(destination: &Destination, entry: &SstableEntry) -> Result<(), RestoreError> {
    let table = table_directory(entry);
    let names = directories(entry, &table);
    let to = destination.root.ensure(&names, &destination.ownership)?;
    let staging = destination.staging.as_ref();
    let mut below = vec![STAGED];
    below.extend(&names);
    let staged = staging.map(|staging| staging.descend(&below)).transpose()?.flatten();
    let mut files: Vec<&FileEntry> = entry.files.iter().collect();
    files.sort_by_key(|file| is_toc(file));
    for file in files {
        let is_staged = staged.as_ref().map(|staged| staged.stat(OsStr::new(&file.name))).transpose()?;
        if is_staged.flatten().is_none() && to.file_size(&file.name)? == Some(file.size) {
            continue;
        }
        let Some(staged) = &staged else {
            return Err(FileError::new("place", to.path().join(&file.name), Errno::NOENT).into());
        };
        staged.own_file(&file.name, &destination.ownership)?;
        staged.move_file(&file.name, &to).map_err(|error| match error.errno() {
            Some(Errno::EXIST) => RestoreError::InTheWay {
                path: to.path().join(&file.name),
                reason: "it appeared meanwhile".to_owned(),
            },
            _ => error.into(),
        })?;
    }
    Ok(())
}

/// The list of the components comes last, as Cassandra writes it.
fn is_toc(file: &FileEntry) -> bool {
    ComponentName::parse(&file.name).is_some_and(|name| name.component == TOC_COMPONENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_caches_are_known_by_name() {
        for (name, is) in [
            ("KeyCache-f.db", true),
            ("KeyCache-f.crc", true),
            ("ks-t-0123-RowCache-d.db", true),
            ("CounterCache-e.db", true),
            ("notes.db", false),
            ("KeyCache-f.txt", false),
        ] {
            assert_eq!(is_saved_cache(name), is, "{name}");
        }
    }
}
