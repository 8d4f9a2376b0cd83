//! From facts to a plan: what stands in the way, with what to do about each, and what the operator should know.
//! Pure and total; everything that is in the way is found at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use cassy_agent_protocol::{MovedAside, RestorePlan, RestoreScope, RestoreWay};
use cassy_backup_format::ConfigurationFacts;

use super::aside;
use super::facts::{Facts, Found, Known, Owner, Root, Side, SideKind, Target};
use super::layout::names_the_root;
use super::marker::{Staging, Way};
use crate::inspect::configuration::{RackFile, simple_name};

const MOVE: &str = "move them aside, or set move_aside to have it done";
/// Views that are named in a warning.
const SHOWN_VIEWS: usize = 10;
/// Room for directories and the file system's own needs, beside the files.
const SPARE_BYTES: u64 = 16 << 20;

/// See the module.
pub(crate) fn plan(facts: &Facts) -> RestorePlan {
    let mut plan = RestorePlan {
        data_directories: facts.roots.iter().map(|root| root.path.display().to_string()).collect(),
        free_bytes: facts.roots.iter().map(|root| root.free_bytes).collect(),
        files: facts.backup.files,
        bytes: facts.roots.iter().fold(0, |sum, root| sum.saturating_add(root.missing_bytes)),
        ..RestorePlan::default()
    };
    running(facts, &mut plan.findings);
    match &facts.target {
        Target::Unknown { reason } => plan.findings.push(format!(
            "the node's cassandra.yaml cannot be read: {reason}; name it with cassandra_yaml, or put it there"
        )),
        Target::Known(known) => {
            address(facts, known, &mut plan.findings);
            configuration(facts, known, &mut plan);
            if let RestoreWay::Copy { originals, living } = &facts.way {
                copy(facts, known, living, &mut plan);
                foreign_seeds(known, originals, &mut plan.findings);
            }
            plan.seeds.clone_from(&known.seeds);
            rack(facts, known, &mut plan.findings);
        }
    }
    for root in &facts.roots {
        directory(facts, root, &mut plan);
    }
    space(facts, &mut plan.findings);
    for side in &facts.sides {
        side_directory(facts, side, &mut plan);
    }
    moved_aside(facts, &mut plan);
    age(facts, &mut plan.warnings);
    views(facts, &mut plan.warnings);
    plan
}

fn moved_aside(facts: &Facts, plan: &mut RestorePlan) {
    let Some(job_id) = &facts.move_aside else { return };
    for aside::InTheWay { directory, found } in aside::in_the_way(facts) {
        if let Some(inner) = aside::nested(facts, &directory) {
            plan.findings.push(format!(
                "{} lies in {}, and what is in the way in the one cannot be told from the other; move it aside by hand",
                inner.display(),
                directory.display()
            ));
        }
        plan.moved_aside.push(MovedAside {
            to: directory.join(aside::directory(job_id)).display().to_string(),
            directory: directory.display().to_string(),
            files: found.count,
            bytes: found.bytes,
        });
    }
}

fn running(facts: &Facts, findings: &mut Vec<String>) {
    if let Some(reason) = &facts.unlisted {
        findings.push(format!(
            "whether a Cassandra is running cannot be told, as the processes cannot be listed: {reason}; let the agent see /proc"
        ));
    }
    for daemon in &facts.daemons {
        let what = match &daemon.directories {
            Ok(directories) => format!("it has {}", directories.join(", ")),
            Err(reason) => format!("which directories it has is not known: {reason}"),
        };
        findings.push(format!("Cassandra is running as process {} ({what}); stop it", daemon.pid));
    }
    for listener in &facts.listeners {
        findings.push(format!(
            "something listens on {listener}, as a running Cassandra of this configuration would; stop it"
        ));
    }
}

/// With the `system` keyspace of another node's backup a node passes for that one, and joins its ring: where the
/// original still runs, rows are lost.
fn address(facts: &Facts, known: &Known, findings: &mut Vec<String>) {
    let (was, is) = (facts.backup.address.parse::<IpAddr>(), known.address.parse::<IpAddr>());
    if let (Ok(was), Ok(is)) = (was, is)
        && was.to_canonical() != is.to_canonical()
        && facts.way == RestoreWay::InPlace
    {
        findings.push(format!(
            "the backup is of {was}, and this is {is}; if this node takes the place of that one, say so with source_of"
        ));
    }
}

fn configuration(facts: &Facts, known: &Known, plan: &mut RestorePlan) {
    let (was, is) = (&facts.backup.configuration, &known.configuration);
    let yaml = known.path.display();
    if is.data_directories.is_empty() {
        plan.findings.push(format!("{yaml} names no data directory; set data_file_directories"));
    }
    if names_the_root(is) {
        plan.findings.push(format!(
            "{yaml} names the root of the file system as one of Cassandra's directories; name a directory of its own"
        ));
    }
    let tokens =
        was.num_tokens.map_or(facts.backup.tokens.len(), |tokens| usize::try_from(tokens).unwrap_or(0));
    if let Some(text) = &known.wrong_num_tokens {
        plan.findings.push(format!(
            "num_tokens is {text:?} in {yaml}, which is not a number; change the line to num_tokens: {}",
            tokens.max(1)
        ));
    }
    let mut differs = |key: &str, was: &str, is: Option<&str>| {
        plan.findings.push(match is {
            Some(is) => format!(
                "{key} is {is:?} in {yaml}, and the backup has {was:?}; change the line to {key}: {was}"
            ),
            None => {
                format!("{key} is not set in {yaml}, and the backup has {was:?}; add the line {key}: {was}")
            }
        });
    };
    let cluster = is.cluster_name.as_deref();
    let is_copy = matches!(facts.way, RestoreWay::Copy { .. });
    if !is_copy && cluster.unwrap_or("Test Cluster") != facts.backup.cluster_name {
        differs("cluster_name", &yaml_text(&facts.backup.cluster_name), cluster);
    }
    let partitioner = is.partitioner.as_deref();
    if partitioner.is_some_and(|class| simple_name(class) != simple_name(&facts.backup.partitioner)) {
        differs("partitioner", &facts.backup.partitioner, partitioner);
    }
    if let Some(was) = &was.endpoint_snitch
        && is.endpoint_snitch.as_deref().map(simple_name) != Some(simple_name(was))
    {
        differs("endpoint_snitch", was, is.endpoint_snitch.as_deref());
    }
    let has = is.num_tokens.map(|tokens| tokens.to_string());
    if known.wrong_num_tokens.is_none()
        && tokens > 0
        && is.num_tokens.map_or(1, |tokens| usize::try_from(tokens).unwrap_or(0)) != tokens
    {
        differs("num_tokens", &tokens.to_string(), has.as_deref());
    }
    formats(was, is, &mut differs);
    changed(facts, known, &mut plan.warnings);
}

/// Without `system` a node knows neither its tokens nor that it has its data already, and nothing but the name of its
/// cluster keeps it from the original's ring.
fn copy(facts: &Facts, known: &Known, living: &[String], plan: &mut RestorePlan) {
    let yaml = known.path.display();
    let line = format!("change the line to initial_token: {}", facts.backup.tokens.join(","));
    let is = known.configuration.initial_token.as_deref().unwrap_or_default();
    let is: BTreeSet<_> = is.split(',').map(str::trim).filter(|token| !token.is_empty()).collect();
    if is.is_empty() {
        plan.findings
            .push(format!("initial_token is not set in {yaml}, and a copy has no other tokens; {line}"));
    } else if is != facts.backup.tokens.iter().map(String::as_str).collect() {
        plan.findings.push(format!("initial_token in {yaml} does not name the tokens of the backup; {line}"));
    }
    if known.auto_bootstrap != Some(false) {
        plan.findings.push(format!(
            "auto_bootstrap is not false in {yaml}, and a copy would stream from others what it has already; change \
             the line to auto_bootstrap: false"
        ));
    }
    let cluster = known.configuration.cluster_name.as_deref().unwrap_or("Test Cluster");
    if cluster != facts.backup.cluster_name {
        return;
    }
    let line = "cluster_name: 'a name of its own'";
    match living {
        [] => plan.warnings.push(format!(
            "cluster_name in {yaml} is that of the original cluster, of which nobody answers; were it to come back, the \
             two would join: better change the line to {line}"
        )),
        living => plan.findings.push(format!(
            "cluster_name in {yaml} is that of the original cluster, of which {} are alive, and the copy would join \
             their ring; change the line to {line}",
            living.join(", ")
        )),
    }
}

/// A node asks its seeds for its ring: one of the original cluster would answer with that one's.
fn foreign_seeds(known: &Known, originals: &[String], findings: &mut Vec<String>) {
    let address = |text: &String| text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let originals: BTreeSet<_> = originals.iter().filter_map(address).collect();
    let is_original = |seed: &&String| address(seed).is_some_and(|seed| originals.contains(&seed));
    let foreign: Vec<_> = known.seeds.iter().filter(is_original).map(String::as_str).collect();
    if !foreign.is_empty() {
        findings.push(format!(
            "the seeds in {} name {} of the original cluster, which the copy would ask for its ring; change the line to \
             - seeds: \"addresses of nodes of the copy\"",
            known.path.display(),
            foreign.join(", ")
        ));
    }
}

/// A name as it can stand in a yaml.
fn yaml_text(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.'))
        && !name.ends_with(' ');
    if plain { name.to_owned() } else { format!("'{}'", name.replace('\'', "''")) }
}

/// Newer files under an older setting: Cassandra refuses to start on them, or cannot go back. The other way
/// round is what an upgrade does.
fn formats(
    was: &ConfigurationFacts,
    is: &ConfigurationFacts,
    differs: &mut dyn FnMut(&str, &str, Option<&str>),
) {
    if was.uuid_sstable_identifiers == Some(true) && is.uuid_sstable_identifiers != Some(true) {
        differs("uuid_sstable_identifiers_enabled", "true", is.uuid_sstable_identifiers.map(|_| "false"));
    }
    if let Some(format) = was.sstable_format.as_deref().filter(|format| *format != "big")
        && is.sstable_format.as_deref() != Some(format)
    {
        differs("sstable: selected_format", format, is.sstable_format.as_deref());
    }
    if let Some(mode) = was.storage_compatibility_mode.as_deref()
        && mode != "CASSANDRA_4"
        && is.storage_compatibility_mode.as_deref().unwrap_or("CASSANDRA_4") == "CASSANDRA_4"
    {
        differs("storage_compatibility_mode", mode, is.storage_compatibility_mode.as_deref());
    }
}

/// What may differ, and should be known.
fn changed(facts: &Facts, known: &Known, warnings: &mut Vec<String>) {
    let (was, is) = (&facts.backup.configuration, &known.configuration);
    if let Some(layout) = known.layout.as_ref().filter(|layout| layout.is_spread()) {
        warnings.push(format!(
            "the backup's node had {} data directories, this one has {}: each SSTable goes where most room is left",
            layout.recorded_data(),
            layout.data().len()
        ));
    }
    let is_copy = matches!(facts.way, RestoreWay::Copy { .. });
    if !is_copy && is.initial_token.is_some() && is.initial_token != was.initial_token {
        warnings.push(format!(
            "initial_token in {} is not that of the backup; the restored node keeps the tokens of the backup",
            known.path.display()
        ));
    }
}

fn rack(facts: &Facts, known: &Known, findings: &mut Vec<String>) {
    let Some(rack) = &known.rack else { return };
    let (dc, rack_name) = (&facts.backup.datacenter, &facts.backup.rack);
    let RackFile { path, datacenter, rack } = match rack {
        Ok(file) => file,
        Err(reason) => {
            findings.push(format!(
                "{reason}; the snitch needs the file, with the lines dc={dc} and rack={rack_name}"
            ));
            return;
        }
    };
    for (key, is, was) in [("dc", datacenter, dc), ("rack", rack, rack_name)] {
        if !was.is_empty() && is.as_ref() != Some(was) {
            let is = is.as_deref().unwrap_or("not set");
            findings.push(format!(
                "{key} is {is} in {}, and the backup has {was:?}; Cassandra does not start with another one: change the line to {key}={was}",
                path.display()
            ));
        }
    }
}

fn directory(facts: &Facts, root: &Root, plan: &mut RestorePlan) {
    let path = root.path.display();
    if let Some(problem) = &root.problem {
        plan.findings.push(format!("data directory {path} cannot be looked at: {problem}"));
        return;
    }
    stagings(facts, root, &mut plan.findings);
    content(facts, root, &mut plan.findings);
    if !root.writable {
        let name = &facts.agent.name;
        plan.findings.push(if root.read_only {
            format!("the file system of data directory {path} is mounted read-only; mount it read-write")
        } else if root.exists {
            format!("user {name} must not write to data directory {path}; let the agent run as root or as its owner")
        } else {
            format!("data directory {path} does not exist and user {name} must not make it; make it, or let the agent run as root")
        });
    }
    owner(facts, root, plan);
}

/// What stands where restores stage and is not this one's, or not this one's alone.
pub(crate) fn stagings(facts: &Facts, root: &Root, findings: &mut Vec<String>) {
    let other = RestoreScope::ALL.map(RestoreScope::staging).into_iter().find(|name| *name != facts.staging);
    let asked = Way::of(&facts.way);
    staging(root, facts.staging, &root.staging, asked, findings);
    match &root.other_staging {
        Staging::Ours => findings.push(format!(
            "{} has a part of this restore as well as {}; move the one with fewer files aside",
            root.path.join(other.unwrap_or_default()).display(),
            facts.staging
        )),
        found => staging(root, other.unwrap_or_default(), found, asked, findings),
    }
}

fn staging(root: &Root, name: &str, found: &Staging, asked: Way, findings: &mut Vec<String>) {
    let staging = root.path.join(name);
    let staging = staging.display();
    match found {
        Staging::Clean | Staging::Ours => {}
        Staging::OtherWay { begun } => findings.push(format!(
            "what was begun in {} is incomplete ({staging}): {begun}, and asked for is {asked}; finish it as it was begun, \
             or give it up: remove {staging} and everything else in the data directory",
            root.path.display()
        )),
        Staging::Other { backup_id } => findings.push(format!(
            "a restore of backup {backup_id} into {} is incomplete ({staging}); restore that backup again to finish it, with \
             snapshot_only as it was then, or give it up: remove {staging} and everything else in the data directory",
            root.path.display()
        )),
        Staging::Foreign { what } => findings.push(format!(
            "{staging} is in the way: {what}; it is not from a restore that is known here: move it aside"
        )),
    }
}

fn content(facts: &Facts, root: &Root, findings: &mut Vec<String>) {
    let path = root.path.display();
    if facts.complete || facts.moves_aside().is_some() {
        return;
    }
    if facts.is_resumed() {
        if root.unexpected.count > 0 {
            findings.push(format!(
                "data directory {path} holds {} that an interrupted restore of this backup has not placed; move them \
                 aside",
                describe(&root.unexpected)
            ));
        }
        return;
    }
    let mut all = root.unexpected.clone();
    all.add_all(&root.placed);
    if all.count > 0 {
        findings.push(format!("data directory {path} is not empty: it holds {}; {MOVE}", describe(&all)));
    }
}

pub(crate) fn describe(found: &Found) -> String {
    let example = found.example.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    match found.count {
        1 => format!("one file, {example}"),
        count => format!("{count} files, such as {example}"),
    }
}

fn owner(facts: &Facts, root: &Root, plan: &mut RestorePlan) {
    let path = root.path.display();
    let (uid, name) = match &root.owner {
        Owner::Known { uid, name } => (*uid, name),
        Owner::NoSuchUser { name } => {
            plan.findings.push(format!(
                "data directory {path} does not exist, and neither does user {name}, to whom it belonged; make the \
                 directory with the owner that Cassandra runs as"
            ));
            return;
        }
    };
    if facts.agent.uid != 0 && facts.agent.uid != uid {
        plan.findings.push(format!(
            "data directory {path} belongs to {name} and the agent runs as {}, which cannot give files to {name}; \
             let the agent run as root or as {name}",
            facts.agent.name
        ));
    }
    let Some(was) = facts.backup.configuration.owner.as_ref().filter(|was| *was != name) else { return };
    if uid == 0 {
        plan.findings.push(format!(
            "data directory {path} belongs to {name}, and the backup's to {was}; Cassandra could not write its own \
             files: chown {was} {path}"
        ));
    } else {
        plan.warnings
            .push(format!("data directory {path} belongs to {name}, the backup's belonged to {was}"));
    }
}

fn space(facts: &Facts, findings: &mut Vec<String>) {
    let mut file_systems: BTreeMap<u64, (u64, u64, Vec<String>)> = BTreeMap::new();
    for root in facts.roots.iter().filter(|root| root.problem.is_none()) {
        let (needed, free, paths) = file_systems.entry(root.device).or_insert((0, u64::MAX, Vec::new()));
        *needed = needed.saturating_add(root.missing_bytes);
        *free = (*free).min(root.free_bytes);
        paths.push(root.path.display().to_string());
    }
    for (needed, free, paths) in file_systems.into_values() {
        if needed > 0 && needed.saturating_add(SPARE_BYTES) > free {
            findings.push(format!(
                "the file system of {} has {free} bytes free, and the restore needs {needed} and {SPARE_BYTES} to \
                 spare; free space there",
                paths.join(", ")
            ));
        }
    }
}

fn side_directory(facts: &Facts, side: &Side, plan: &mut RestorePlan) {
    let path = side.path.display();
    let (what, why) = match side.kind {
        SideKind::CommitLog | SideKind::Segments | SideKind::RefusedStarts => {
            ("commit log", "Cassandra would replay them over the restored data")
        }
        SideKind::Hints => ("hints", "Cassandra would send them to other nodes"),
        SideKind::SavedCaches => ("saved caches", "caches of the data before"),
        SideKind::ChangeData => ("cdc", "changes of the data before"),
    };
    let must_be_empty = match side.kind {
        SideKind::CommitLog | SideKind::Segments | SideKind::Hints => true,
        SideKind::SavedCaches | SideKind::RefusedStarts => false,
        // Who reads the changes of a whole cluster would find those from after the instant among them.
        SideKind::ChangeData => facts.scope == RestoreScope::Cluster,
    };
    if let Some(problem) = &side.problem {
        let text = format!("{what} directory {path} cannot be looked at: {problem}");
        if must_be_empty {
            plan.findings.push(text);
        } else {
            plan.warnings.push(text);
        }
        return;
    }
    let is_log = matches!(side.kind, SideKind::Segments | SideKind::RefusedStarts);
    let is_moved = facts.moves_aside().is_some() || is_log && facts.moves_segments().is_some();
    if side.found.count == 0 || is_moved {
        return;
    }
    let holds = describe(&side.found);
    let how = if facts.is_staged() && !is_log { "move them aside" } else { MOVE };
    match side.kind {
        SideKind::RefusedStarts if facts.deletes_segments(side) => plan.warnings.push(format!(
            "{what} directory {path} holds {holds}, made by a start that the interrupted restore refused; the \
             restore deletes such segments"
        )),
        _ if must_be_empty || is_log => plan
            .findings
            .push(format!("{what} directory {path} is not empty: it holds {holds}; {why}: {how}")),
        SideKind::SavedCaches => {
            plan.warnings
                .push(format!("{what} directory {path} holds {holds}; the restore deletes saved caches"));
        }
        _ => {
            plan.warnings.push(format!("{what} directory {path} holds {holds}, {why}; they are left alone"));
        }
    }
}

fn age(facts: &Facts, warnings: &mut Vec<String>) {
    let age_seconds = facts.now_ms.saturating_sub(facts.backup.created_at_ms) / 1000;
    let age_seconds = u64::try_from(age_seconds).unwrap_or(0);
    if age_seconds > facts.backup.gc_grace_seconds {
        warnings.push(format!(
            "the backup is {} old, older than the smallest gc_grace_seconds ({}): rows deleted since may come back \
             from it where other replicas have already forgotten the deletion",
            days(age_seconds),
            days(facts.backup.gc_grace_seconds)
        ));
    }
}

/// Of the whole cluster at one instant nothing is to be said: there nobody wrote.
fn views(facts: &Facts, warnings: &mut Vec<String>) {
    let views = &facts.backup.views;
    if views.is_empty() || facts.scope == RestoreScope::Cluster {
        return;
    }
    let mut named: Vec<String> = views.iter().take(SHOWN_VIEWS).cloned().collect();
    if views.len() > SHOWN_VIEWS {
        named.push(format!("and {} more", views.len() - SHOWN_VIEWS));
    }
    warnings.push(format!(
        "materialized views ({}): a backup of single nodes does not promise that they agree with their tables: the \
         snapshots of a view and of its table are not of one instant, and its rows may lie on other nodes; nodetool \
         repair does not mend that: drop and create again each view whose table was written to during the backup or \
         since",
        named.join(", ")
    ));
}

fn days(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600) {
        (0, 0) => format!("{seconds} seconds"),
        (0, hours) => format!("{hours} hours"),
        (1, _) => "1 day".to_owned(),
        (days, _) => format!("{days} days"),
    }
}

/// What was there before, once the restore is complete.
pub(crate) fn moved(directories: &[PathBuf]) -> Option<String> {
    let names: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
    let what =
        format!("what was in the way lies in {}; remove it when it is needed no more", names.join(", "));
    (!names.is_empty()).then_some(what)
}

/// What the operator does after the restore.
pub(crate) fn notes(facts: &Facts) -> Vec<String> {
    // Which version is installed is not known here: one that cannot read the files refuses to start on them.
    let version = format!("start Cassandra {} or a newer one that reads its files", facts.backup.version);
    let mut notes = vec![if facts.scope == RestoreScope::Cluster {
        format!("{version}, in the order that the answer of the restore has said")
    } else if facts.backup.counters {
        format!(
            "a table has counters: {version}, with -Dcassandra.join_ring=false, run nodetool repair -full, then \
             nodetool join"
        )
    } else {
        format!("{version}; where other replicas were written to since the backup, run nodetool repair -full")
    }];
    if facts.way == RestoreWay::Replacement {
        notes.insert(
            0,
            format!(
                "the node takes the place of {}, host id and tokens included: that one must never start again",
                facts.backup.address
            ),
        );
    }
    age(facts, &mut notes);
    notes
}
