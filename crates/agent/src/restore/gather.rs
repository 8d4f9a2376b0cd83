//! Looks at the node for a plan's [`Facts`]. Changes nothing.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cassy_agent_protocol::{RestoreRequest, RestoreScope};
use cassy_backup_format::{ConfigurationFacts, Header, SstableEntry, TableRef};
use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use super::aside::{self, LOST_FOUND};
use super::error::RestoreError;
use super::facts::{Agent, Backup, Facts, Found, Known, Owner, Root, Running, Side, SideKind, Target};
use super::layout::{Layout, names_the_root};
use super::manifest::{Manifest, directories, table_directory};
use super::marker::{self, Marker, STAGED, Staging};
use super::tree::{FileError, Found as TreeFound, Kind, Ownership, Steps, Tree};
use super::{schema, spread};
use crate::failure::chain;
use crate::inspect::account::Accounts;
use crate::inspect::configuration::{Configuration, Recorded};
use crate::inspect::{Machine, daemon_configuration, free_bytes, nearest_existing, overlap, process, socket};

const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// See the module.
pub(crate) fn gather(
    machine: &Machine,
    request: &RestoreRequest,
    manifest: &Manifest,
) -> Result<Facts, RestoreError> {
    let header = &manifest.header;
    let (target, listeners) = target(machine, request, header);
    let mut facts = Facts {
        backup: backup(manifest),
        scope: request.scope,
        staging: request.scope.staging(),
        roots: Vec::new(),
        sides: Vec::new(),
        way: request.way.clone(),
        move_aside: request.move_aside.clone(),
        daemons: Vec::new(),
        unlisted: None,
        listeners,
        agent: agent(machine),
        complete: false,
        now_ms: now_ms(),
        target,
    };
    match daemons(machine, &facts.target) {
        Ok(daemons) => facts.daemons = daemons,
        Err(error) => facts.unlisted = Some(error.to_string()),
    }
    let Target::Known(known) = &facts.target else { return Ok(facts) };
    if names_the_root(&known.configuration) {
        return Ok(facts);
    }
    let Some(layout) = &known.layout else {
        facts.sides = sides(&known.configuration, None);
        return Ok(facts);
    };
    let marker = Marker::of(request);
    facts.staging = staging(request.scope, layout.roots(), &marker);
    let looks = Looks { machine, header, agent: &facts.agent, staging: facts.staging, marker: &marker };
    facts.roots = layout.roots().iter().map(|path| looks.root(path)).collect();
    facts.sides = sides(&known.configuration, facts.begun_ns());
    if let Target::Known(known) = &mut facts.target
        && let Some(layout) = &mut known.layout
    {
        facts.complete = take_inventory(manifest, layout, facts.staging, &mut facts.roots)?;
    }
    Ok(facts)
}

/// What a restore of the other scope has begun is finished where it was begun.
fn staging(scope: RestoreScope, roots: &[PathBuf], marker: &Marker) -> &'static str {
    let is_begun = |name: &str| {
        let look = |path: &PathBuf| {
            let tree = Tree::root(path, &Steps::default())?;
            tree.map_or(Ok(Staging::Clean), |tree| Staging::look(&tree, name, marker))
        };
        roots.iter().any(|path| matches!(look(path), Ok(Staging::Ours)))
    };
    let own = scope.staging();
    let other = RestoreScope::ALL.map(RestoreScope::staging).into_iter().find(|name| *name != own);
    other.filter(|other| !is_begun(own) && is_begun(other)).unwrap_or(own)
}

fn backup(manifest: &Manifest) -> Backup {
    let header = &manifest.header;
    Backup {
        created_at_ms: header.created_at_ms,
        cluster_name: header.cluster_name.clone(),
        version: header.cassandra_version.clone(),
        partitioner: header.partitioner.clone(),
        datacenter: header.datacenter.clone(),
        rack: header.rack.clone(),
        tokens: header.tokens.clone(),
        address: header.address.clone(),
        configuration: header.configuration.clone(),
        files: manifest.files,
        counters: schema::has_counters(&header.schema),
        views: schema::views(&header.schema),
        gc_grace_seconds: schema::smallest_gc_grace_seconds(&header.schema),
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn agent(machine: &Machine) -> Agent {
    let uid = rustix::process::geteuid().as_raw();
    Agent { uid, name: Accounts::read(&machine.passwd).name(uid) }
}

fn target(machine: &Machine, request: &RestoreRequest, header: &Header) -> (Target, Vec<String>) {
    let recorded = header.configuration.yaml_path.as_slice();
    let configuration = match stopped_configuration(machine, request.cassandra_yaml.as_deref(), recorded) {
        Ok(configuration) => configuration,
        Err(reason) => return (Target::Unknown { reason }, Vec::new()),
    };
    let facts = configuration.facts(&Recorded(&header.configuration));
    let sockets = socket::listening(&machine.proc_root);
    let listeners = configuration
        .listeners()
        .iter()
        .filter_map(|listener| Some(format!("{} ({})", socket::occupied(listener, &sockets)?, listener.key)))
        .collect();
    let known = Known {
        layout: Layout::new(&facts, &header.configuration),
        auto_bootstrap: configuration.auto_bootstrap(),
        seeds: configuration.seeds(),
        wrong_num_tokens: configuration.not_a_number("num_tokens"),
        rack: configuration.rack_file().map(|rack| rack.map_err(|error| chain(&error))),
        path: configuration.path,
        configuration: facts,
        address: request.target.clone(),
    };
    (Target::Known(Box::new(known)), listeners)
}

/// The one that was asked for; else the one that the backup's Cassandra had loaded, if it is still there; else
/// one of the packages'.
pub(super) fn stopped_configuration(
    machine: &Machine,
    asked: Option<&str>,
    recorded: &[String],
) -> Result<Configuration, String> {
    if let Some(path) = asked {
        return Configuration::read(Path::new(path)).map_err(|error| chain(&error));
    }
    let candidates: Vec<PathBuf> =
        recorded.iter().map(PathBuf::from).chain(machine.packaged_yaml.iter().cloned()).collect();
    match candidates.iter().find(|path| path.exists()) {
        Some(path) => Configuration::read(path).map_err(|error| chain(&error)),
        None => {
            let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            Err(format!("no cassandra.yaml was found (looked for {})", tried.join(", ")))
        }
    }
}

/// Daemons that own a directory of the target's, in whichever network; and those of the agent's own network
/// whose directories cannot be told.
fn daemons(machine: &Machine, target: &Target) -> std::io::Result<Vec<Running>> {
    let own = match target {
        Target::Known(known) => all_directories(&known.configuration),
        Target::Unknown { .. } => Vec::new(),
    };
    let mut running = Vec::new();
    for daemon in process::daemons(&machine.proc_root)? {
        let directories =
            daemon_configuration(machine, &daemon).map(|yaml| all_directories(&yaml.facts(&daemon)));
        let concerns_us = match &directories {
            Ok(directories) => overlap(directories, &own),
            Err(_) => daemon.same_network,
        };
        if concerns_us {
            running.push(Running { pid: daemon.pid, directories });
        }
    }
    Ok(running)
}

fn all_directories(facts: &ConfigurationFacts) -> Vec<String> {
    let mut all = facts.data_directories.clone();
    all.extend(facts.local_system_data_directory.clone());
    all.extend(facts.commitlog_directory.clone());
    all.extend(facts.hints_directory.clone());
    all
}

/// `begun_ns` is of the restore that is to be finished.
fn sides(facts: &ConfigurationFacts, begun_ns: Option<i64>) -> Vec<Side> {
    [
        (SideKind::CommitLog, &facts.commitlog_directory),
        (SideKind::Segments, &facts.commitlog_directory),
        (SideKind::RefusedStarts, &facts.commitlog_directory),
        (SideKind::Hints, &facts.hints_directory),
        (SideKind::SavedCaches, &facts.saved_caches_directory),
        (SideKind::ChangeData, &facts.cdc_raw_directory),
    ]
    .into_iter()
    .filter_map(|(kind, path)| Some(side(kind, PathBuf::from(path.as_ref()?), begun_ns)))
    .collect()
}

fn side(kind: SideKind, path: PathBuf, begun_ns: Option<i64>) -> Side {
    let mut side = Side { kind, path, found: Found::default(), problem: None, has_aside: false };
    side.problem = look_at(&mut side, begun_ns).err().map(|error| chain(&error));
    side
}

fn look_at(side: &mut Side, begun_ns: Option<i64>) -> Result<(), FileError> {
    let Some(tree) = Tree::root(&side.path, &Steps::default())? else { return Ok(()) };
    side.has_aside = aside::has_aside(&tree)?;
    tree.walk(&|path: &Path| is_nobodys(path), &mut |file| {
        let of_this_kind = match side.kind {
            SideKind::CommitLog => !is_segment(file.path),
            SideKind::Segments => is_segment(file.path) && !is_since(begun_ns, file.mtime_ns),
            SideKind::RefusedStarts => is_segment(file.path) && is_since(begun_ns, file.mtime_ns),
            SideKind::Hints | SideKind::SavedCaches | SideKind::ChangeData => true,
        };
        if of_this_kind {
            side.found.add(side.path.join(file.path), file.size);
        }
        Ok(())
    })
}

/// True for what lies in a data directory of Cassandra's and is in nobody's way, or is looked at by itself.
fn is_set_apart(path: &Path) -> bool {
    is_nobodys(path) || RestoreScope::ALL.iter().any(|scope| path == Path::new(scope.staging()))
}

/// True for what lies in a directory of Cassandra's and is in nobody's way.
fn is_nobodys(path: &Path) -> bool {
    path == Path::new(LOST_FOUND) || path.parent() == Some(Path::new("")) && aside::is_aside(path.as_os_str())
}

/// Written since the restore was begun that is to be finished.
pub(crate) fn is_since(begun_ns: Option<i64>, mtime_ns: i64) -> bool {
    begun_ns.is_some_and(|begun_ns| mtime_ns >= begun_ns)
}

/// `CommitLogDescriptor`: `CommitLog-<version>-<id>.log`, directly in the directory.
pub(crate) fn is_segment(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|name| !name.contains('/') && name.starts_with("CommitLog-") && name.ends_with(".log"))
}

/// What looking at a root needs.
struct Looks<'a> {
    machine: &'a Machine,
    header: &'a Header,
    agent: &'a Agent,
    staging: &'static str,
    marker: &'a Marker,
}

impl Looks<'_> {
    fn root(&self, path: &Path) -> Root {
        let mut root = Root {
            path: path.to_owned(),
            exists: false,
            problem: None,
            writable: false,
            read_only: false,
            owner: Owner::Known { uid: self.agent.uid, name: self.agent.name.clone() },
            ownership: Ownership {
                uid: None,
                gid: None,
                directory_mode: DIRECTORY_MODE,
                file_mode: FILE_MODE,
            },
            device: 0,
            free_bytes: 0,
            staging: Staging::Clean,
            other_staging: Staging::Clean,
            begin: None,
            is_staged: false,
            has_aside: false,
            missing_bytes: 0,
            placed: Found::default(),
            unexpected: Found::default(),
        };
        if let Err(error) = self.look(&mut root) {
            root.problem = Some(chain(&error));
        }
        root
    }

    fn look(&self, root: &mut Root) -> Result<(), FileError> {
        let tree = Tree::root(&root.path, &Steps::default())?;
        root.exists = tree.is_some();
        if let Some(tree) = &tree {
            root.staging = Staging::look(tree, self.staging, self.marker)?;
            for other in
                RestoreScope::ALL.map(RestoreScope::staging).iter().filter(|name| **name != self.staging)
            {
                root.other_staging = Staging::look(tree, other, self.marker)?;
            }
            if root.staging == Staging::Ours {
                root.begin = marker::begin_of(tree, self.staging)?;
            }
            root.is_staged =
                root.staging == Staging::Ours && tree.descend(&[self.staging, STAGED])?.is_some();
            root.has_aside = aside::has_aside(tree)?;
        }
        let existing = nearest_existing(&root.path);
        let failed = |source| FileError::new("look at", existing, source);
        root.free_bytes = free_bytes(existing).map_err(failed)?;
        let nearest = Tree::root(existing, &Steps::default())?;
        root.device = nearest.map_or(Ok(0), |nearest| nearest.device())?;
        let access = Access::WRITE_OK | Access::EXEC_OK;
        let writable = rustix::fs::accessat(CWD, existing, access, AtFlags::EACCESS);
        root.writable = writable.is_ok();
        root.read_only = writable == Err(Errno::ROFS);
        self.owner(root, tree.as_ref())
    }

    fn owner(&self, root: &mut Root, tree: Option<&Tree>) -> Result<(), FileError> {
        let recorded = &self.header.configuration;
        let users = Accounts::read(&self.machine.passwd);
        let (uid, gid) = match tree {
            Some(tree) => {
                let stat = tree.own_stat()?;
                (stat.st_uid, Some(stat.st_gid))
            }
            None => {
                let name = recorded.owner.clone().unwrap_or_else(|| self.agent.name.clone());
                let Some(uid) = users.number(&name) else {
                    root.owner = Owner::NoSuchUser { name };
                    return Ok(());
                };
                let groups = Accounts::read(&self.machine.group);
                (uid, recorded.group.as_ref().and_then(|group| groups.number(group)))
            }
        };
        root.owner = Owner::Known { uid, name: users.name(uid) };
        let is_root = self.agent.uid == 0;
        root.ownership = Ownership {
            uid: is_root.then_some(uid),
            gid: gid.filter(|_| is_root),
            directory_mode: known_mode(recorded.directory_mode, DIRECTORY_MODE) | 0o700,
            file_mode: known_mode(recorded.file_mode, FILE_MODE) | 0o600,
        };
        Ok(())
    }
}

/// Permission bits alone: nothing that a manifest says makes a file run as somebody.
fn known_mode(recorded: u32, default: u32) -> u32 {
    match recorded & 0o777 {
        0 => default,
        mode => mode,
    }
}

/// Compares what lies in the roots with what the manifest wants there, and assigns what is spread. True when it is
/// exactly that.
fn take_inventory(
    manifest: &Manifest,
    layout: &mut Layout,
    staging: &str,
    roots: &mut [Root],
) -> Result<bool, RestoreError> {
    let mut present = Present::default();
    for (index, root) in roots.iter_mut().enumerate() {
        if let Err(error) = present.read(index, root) {
            root.problem.get_or_insert(chain(&error));
        }
    }
    let trees: Vec<Option<Tree>> = roots.iter().map(|root| staged_tree(root, staging)).collect();
    let mut collisions = Collisions::default();
    let mut everything = true;
    for entry in manifest.entries()? {
        let entry = entry?;
        let others = collisions.of(&entry);
        let index = layout.root_of(&entry).unwrap_or_else(|| {
            let is_there = |index: usize| has_some_of(&entry, index, trees.get(index), &present);
            let index = spread::choose(layout.data(), others, roots, is_there);
            layout.assign(&entry, index);
            index
        });
        collisions.check(&entry, index)?;
        let (Some(root), Some(staged)) = (roots.get_mut(index), trees.get(index)) else { continue };
        everything &= take_sstable(&entry, index, root, staged.as_ref(), &mut present);
    }
    let nothing_else = present.0.is_empty() && roots.iter().all(|root| root.unexpected.count == 0);
    if !present.0.is_empty() {
        for (index, root) in roots.iter_mut().enumerate().filter(|(_, root)| root.problem.is_none()) {
            if let Err(error) = present.tell(index, root) {
                root.problem = Some(chain(&error));
            }
        }
    }
    Ok(everything && nothing_else && manifest.files > 0)
}

/// The files that are there, each by a fingerprint of root, path below it and size, as there may be very many.
#[derive(Default)]
struct Present(HashSet<[u8; 16]>);

impl Present {
    fn read(&mut self, index: usize, root: &mut Root) -> Result<(), FileError> {
        let Root { path, unexpected, .. } = root;
        files_below(path, |found| match (found.kind, found.path.to_str()) {
            (Kind::File, Some(path)) => {
                self.0.insert(fingerprint(index, path, found.size));
            }
            _ => unexpected.add(path.join(found.path), found.size),
        })
    }

    /// True when the file is there; it is not looked for again.
    fn take(&mut self, index: usize, path: &str, size: u64) -> bool {
        self.0.remove(&fingerprint(index, path, size))
    }

    fn has(&self, index: usize, path: &str, size: u64) -> bool {
        self.0.contains(&fingerprint(index, path, size))
    }

    /// What is left is nothing that the backup has.
    fn tell(&self, index: usize, root: &mut Root) -> Result<(), FileError> {
        let Root { path, unexpected, .. } = root;
        files_below(path, |found| {
            let text = found.path.to_str().filter(|_| found.kind == Kind::File);
            if text.is_some_and(|text| self.0.contains(&fingerprint(index, text, found.size))) {
                unexpected.add(path.join(found.path), found.size);
            }
        })
    }
}

fn files_below(root: &Path, mut see: impl FnMut(TreeFound<'_>)) -> Result<(), FileError> {
    let Some(tree) = Tree::root(root, &Steps::default())? else { return Ok(()) };
    tree.walk(&is_set_apart, &mut |found| {
        see(found);
        Ok(())
    })
}

fn fingerprint(index: usize, path: &str, size: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(index as u64).to_le_bytes()).update(&size.to_le_bytes()).update(path.as_bytes());
    let digest = *hasher.finalize().as_bytes();
    std::array::from_fn(|place| digest.get(place).copied().unwrap_or_default())
}

fn staged_tree(root: &Root, staging: &str) -> Option<Tree> {
    if root.staging != Staging::Ours {
        return None;
    }
    let tree = Tree::root(&root.path, &Steps::default()).ok().flatten()?;
    tree.descend(&[staging, STAGED]).ok().flatten()
}

/// Equal names from several of the backup's directories must not meet in one of the target's. They follow one
/// another in a manifest.
#[derive(Default)]
struct Collisions {
    name: Option<(TableRef, Option<String>, String)>,
    roots: Vec<usize>,
}

impl Collisions {
    /// The roots that have an SSTable of this name already.
    fn of(&mut self, entry: &SstableEntry) -> &[usize] {
        let name = (entry.table.clone(), entry.index.clone(), entry.name.clone());
        if self.name.as_ref() != Some(&name) {
            self.name = Some(name);
            self.roots.clear();
        }
        &self.roots
    }

    fn check(&mut self, entry: &SstableEntry, root: usize) -> Result<(), RestoreError> {
        if self.of(entry).contains(&root) {
            let table = format!("{}/{}", entry.table.keyspace, table_directory(entry));
            return Err(RestoreError::Collision { sstable: entry.name.clone(), table });
        }
        self.roots.push(root);
        Ok(())
    }
}

/// True when a part of the SSTable was brought to this root.
fn has_some_of(entry: &SstableEntry, index: usize, staged: Option<&Option<Tree>>, present: &Present) -> bool {
    let table = table_directory(entry);
    let names = directories(entry, &table);
    let prefix = names.join("/");
    let staged = staged.and_then(Option::as_ref).and_then(|tree| tree.descend(&names).ok().flatten());
    entry.files.iter().any(|file| {
        present.has(index, &format!("{prefix}/{}", file.name), file.size)
            || staged.as_ref().is_some_and(|tree| matches!(tree.stat(OsStr::new(&file.name)), Ok(Some(_))))
    })
}

/// True when all files of the SSTable are in place.
fn take_sstable(
    entry: &SstableEntry,
    index: usize,
    root: &mut Root,
    staged: Option<&Tree>,
    present: &mut Present,
) -> bool {
    let table = table_directory(entry);
    let names = directories(entry, &table);
    let prefix = names.join("/");
    let staged = staged.and_then(|tree| tree.descend(&names).ok().flatten());
    let mut everything = true;
    for file in &entry.files {
        let path = format!("{prefix}/{}", file.name);
        if present.take(index, &path, file.size) {
            root.placed.add(root.path.join(path), file.size);
            continue;
        }
        everything = false;
        let staged_size = staged.as_ref().and_then(|tree| tree.stat(OsStr::new(&file.name)).ok().flatten());
        if staged_size.is_none_or(|stat| u64::try_from(stat.st_size).ok() != Some(file.size)) {
            root.missing_bytes = root.missing_bytes.saturating_add(file.size);
        }
    }
    everything
}
