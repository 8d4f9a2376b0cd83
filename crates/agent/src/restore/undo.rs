//! Takes back what a stopped restore has begun: what is staged goes, what it moved aside is put back, the sentinel goes
//! last. It goes only when everything that the restore has made was seen to be gone: what cannot be looked at, or is
//! not known to be this restore's, keeps it.

use super::aside;
use super::error::RestoreError;
use super::facts::{Facts, Root, Target};
use super::marker::{self, Staging};
use super::place::existing;
use super::plan;
use super::tree::{FileError, Steps, Tree};

const COMPLETE: &str = "all files are in place, and the restore is complete";
const PLACED: &str =
    "files are in place already, and Cassandra does not start until the same restore is called again";
const MOVED_BEFORE: &str = "an earlier restore has moved things aside as well, and half of the data before must not start: \
    Cassandra does not start until the same restore is called again";
const UNMARKED: &str = "nothing marks a restore as begun, and files of the backup are in place: it was complete, and the \
    node has changed since";

/// `None` when the node was seen to be as it was before, else what remains, in words.
pub(crate) fn undo(facts: &Facts, steps: &Steps) -> Result<Option<String>, RestoreError> {
    let problems = problems(facts);
    if !problems.is_empty() {
        return Err(RestoreError::NotSeen { problems });
    }
    let left = not_known(facts).map_or_else(|| what_keeps_it(facts), |left| Ok(Some(left)))?;
    if left.is_some() {
        return Ok(left);
    }
    let roots = facts.roots.iter().filter(|root| root.exists).map(|root| existing(&root.path, steps));
    let roots: Vec<Tree> = roots.collect::<Result<_, _>>()?;
    if facts.is_resumed() {
        for root in &roots {
            marker::clear_staged(root, facts.staging)?;
        }
        if let Some(job_id) = &facts.move_aside {
            aside::put_back(&aside::moved_to(facts, job_id), job_id, steps)?;
        }
    }
    // A clean one may have what is left of a sentinel that was never set, or of one that is gone.
    for root in roots.iter().rev() {
        marker::remove(root, facts.staging)?;
    }
    Ok(if facts.complete { Some(COMPLETE.to_owned()) } else { left_aside(facts) })
}

/// What cannot be looked at. Where nothing was moved aside, nothing but the data directories was changed.
fn problems(facts: &Facts) -> Vec<String> {
    let roots = facts.roots.iter().map(|root| (&root.path, &root.problem));
    let sides = facts.sides.iter().filter(|_| facts.move_aside.is_some());
    let all = roots.chain(sides.map(|side| (&side.path, &side.problem)));
    let told = all.filter_map(|(path, problem)| {
        problem.as_ref().map(|problem| format!("directory {}: {problem}", path.display()))
    });
    let mut problems: Vec<String> = told.collect();
    problems.dedup();
    problems
}

/// Where the restore has begun, if it has, is not known, or not known to be its own.
fn not_known(facts: &Facts) -> Option<String> {
    if !facts.roots.iter().any(|root| root.exists) {
        return Some(nowhere(facts));
    }
    let mut strange = Vec::new();
    for root in &facts.roots {
        plan::stagings(facts, root, &mut strange);
    }
    (!strange.is_empty()).then(|| format!("nothing was taken back: {}", strange.join("; ")))
}

/// What is said where there is no directory to look at. A restore makes those that are missing, and these may be on a file
/// system that is not mounted: that nothing was seen is no proof that nothing was begun.
fn nowhere(facts: &Facts) -> String {
    let why = match &facts.target {
        Target::Unknown { reason } => format!("the node's data directories are not known: {reason}"),
        Target::Known(known) if facts.roots.is_empty() => {
            format!("{} names no data directory of Cassandra's own", known.path.display())
        }
        Target::Known(known) => {
            let names: Vec<_> = facts.roots.iter().map(|root| root.path.display().to_string()).collect();
            return format!(
                "nothing of it was seen: none of the data directories in {} is there ({}); if they were there before, see that \
                 their file systems are mounted, then restore the same backup again",
                known.path.display(),
                names.join(", ")
            );
        }
    };
    format!(
        "what it has begun was not looked for, as {why}; once that is mended, restore the same backup again"
    )
}

/// Why a restore whose directories are known is not taken back.
fn what_keeps_it(facts: &Facts) -> Result<Option<String>, FileError> {
    let is_from_before = facts.moves_aside().is_some();
    let is_placed = !is_from_before && facts.roots.iter().any(|root| root.placed.count > 0);
    if !facts.is_resumed() {
        let unmarked = (is_placed && !facts.complete).then(|| UNMARKED.to_owned());
        return Ok(unmarked.or_else(|| left_aside(facts).filter(|_| !facts.complete)));
    }
    if aside::is_moved_by_others(facts)? {
        return Ok(Some(MOVED_BEFORE.to_owned()));
    }
    if is_placed {
        return Ok(Some(PLACED.to_owned()));
    }
    if let Some(lacking) = without_sentinel(facts) {
        return Ok(Some(lacking));
    }
    let stray = facts.roots.iter().find(|root| !is_from_before && root.unexpected.count > 0);
    Ok(stray.map(|root| {
        format!(
            "data directory {} holds {}, and whether the restore has put that there is not known; Cassandra does not start \
             until it is moved aside and the same restore is called again",
            root.path.display(),
            plan::describe(&root.unexpected)
        )
    }))
}

/// Sentinels are set from the first directory on and removed from the last one on, and as long as something is staged all
/// are set: where one is missing all the same, the directory is not the one that the restore began in.
fn without_sentinel(facts: &Facts) -> Option<String> {
    let is_ours = |root: &&Root| root.staging == Staging::Ours;
    let is_staged = facts.roots.iter().any(|root| root.is_staged);
    let marked = facts.roots.iter().rposition(|root| is_ours(&root)).map_or(0, |last| last + 1);
    let all = if is_staged { facts.roots.len() } else { marked };
    let lacking = facts.roots.iter().take(all).find(|root| !is_ours(root))?;
    Some(format!(
        "nothing was taken back: {} has no sentinel, and another data directory has one: see that its file system is mounted \
         and that cassandra.yaml names the same directories in the same order, then restore the same backup again",
        lacking.path.display()
    ))
}

/// The directories for what was in the way that are still there.
fn left_aside(facts: &Facts) -> Option<String> {
    plan::moved(&aside::moved_by(facts, facts.move_aside.as_deref()?))
}
