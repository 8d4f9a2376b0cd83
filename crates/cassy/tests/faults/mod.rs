//! What the tests of faults share: a world around a recorded node, ways to break it while it works, and what must hold
//! after each fault.
//!
//! Every fault is done to something real: a file system that is full is a small one that was filled, a disk that
//! fails is a system call that answers so.
#![allow(clippy::print_stdout, reason = "what came of each fault is for the reader of the test's output")]

mod agent;
mod left;
mod mount;
mod scene;
mod trace;

pub(crate) use agent::{Agent, ambush};
pub(crate) use left::nothing_is_left;
pub(crate) use mount::{Tmpfs, can_mount};
pub(crate) use scene::{Ended, Instant, Scene, holds_a_file};
pub(crate) use trace::{Injection, can_trace};

/// Whether tests that wait for longer than some twenty seconds run, too; says so when they do not.
pub(crate) fn all_or_left_out(what: &str) -> bool {
    let all = is_set("CASSY_TEST_ALL");
    if !all {
        println!("left out: {what} (waits for long; ./test --all runs it)");
    }
    all
}

/// What is missing is a failure where nothing may be.
pub(crate) fn left_out(what: &str, why: &str) {
    assert!(!is_set("CASSY_TEST_REQUIRE"), "{what}: {why}");
    println!("left out: {what}: {why}");
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}
