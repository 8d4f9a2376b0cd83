//! The tests of this crate, in one program: its parts are compiled and linked once.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod bad_inputs;
mod cancel;
mod clearing;
mod dry_run;
mod floods;
mod freeze;
mod idempotency;
mod increments;
mod jobs;
mod lease;
mod liars;
mod overlap;
mod refusals;
mod restore_targets;
mod rules;
mod stages;
mod stuck_agent;
mod whole_cluster;
mod world;
