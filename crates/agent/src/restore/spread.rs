//! Which data directory gets an SSTable where the backup's node had more or fewer of them than the target. Pure.
//!
//! Invariant: what an earlier call has brought somewhere stays there, whatever room there is now. So a restore that was
//! interrupted goes on, and one that was complete is known to be.

use std::cmp::Reverse;
use std::ops::Range;

use super::facts::Root;

/// The root where the SSTable is already, wholly or in part; else where most room is left. None that is taken by another
/// one of the same name, as long as there is another root.
pub(crate) fn choose(
    all: Range<usize>,
    taken: &[usize],
    roots: &[Root],
    is_there: impl Fn(usize) -> bool,
) -> usize {
    let free = || all.clone().filter(|index| !taken.contains(index));
    let there = free().find(|index| is_there(*index));
    there.or_else(|| free().max_by_key(|index| (room(roots, *index), Reverse(*index)))).unwrap_or(all.start)
}

/// What is left on the root's file system once everything that was assigned so far is there; of several roots on one, more
/// where less was assigned.
fn room(roots: &[Root], index: usize) -> (u64, Reverse<u64>) {
    let Some(root) = roots.get(index) else { return (0, Reverse(0)) };
    let beside = roots.iter().filter(|other| other.device == root.device);
    let left = beside.fold(root.free_bytes, |left, other| left.saturating_sub(other.missing_bytes));
    (left, Reverse(root.missing_bytes.saturating_add(root.placed.bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::facts::{Found, Owner};
    use crate::restore::marker::Staging;
    use crate::restore::tree::Ownership;

    fn root(device: u64, free_bytes: u64) -> Root {
        Root {
            path: "/data".into(),
            exists: true,
            problem: None,
            writable: true,
            read_only: false,
            owner: Owner::Known { uid: 0, name: "root".to_owned() },
            ownership: Ownership { uid: None, gid: None, directory_mode: 0o755, file_mode: 0o644 },
            device,
            free_bytes,
            staging: Staging::Clean,
            other_staging: Staging::Clean,
            is_staged: false,
            has_aside: false,
            begin: None,
            missing_bytes: 0,
            placed: Found::default(),
            unexpected: Found::default(),
        }
    }

    /// Where SSTables of these sizes go, one after another.
    fn assigned(roots: &mut [Root], sizes: &[u64]) -> Vec<usize> {
        let mut all = Vec::new();
        for size in sizes {
            let index = choose(0..roots.len(), &[], roots, |_| false);
            roots[index].missing_bytes += size;
            all.push(index);
        }
        all
    }

    #[test]
    fn each_goes_where_most_room_is_left() {
        let mut roots = [root(1, 100), root(2, 250)];
        assert_eq!(assigned(&mut roots, &[100, 60, 20, 10]), [1, 1, 0, 1]);
    }

    #[test]
    fn on_one_file_system_the_directories_take_turns() {
        let mut roots = [root(1, 100), root(1, 100), root(2, 90)];
        assert_eq!(assigned(&mut roots, &[5, 4, 3, 2, 1]), [0, 1, 1, 2, 2]);
    }

    #[test]
    fn what_is_there_stays_and_equal_names_do_not_meet() {
        let roots = [root(1, 1), root(2, 100), root(3, 50)];
        assert_eq!(choose(0..3, &[], &roots, |index| index == 0), 0);
        assert_eq!(choose(0..3, &[0], &roots, |index| index == 0), 1);
        assert_eq!(choose(0..3, &[1], &roots, |_| false), 2);
        assert_eq!(choose(0..1, &[0], &roots, |_| false), 0, "there is no other one");
    }
}
