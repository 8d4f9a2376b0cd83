//! Format 1: keys, manifests, trash lists, and the samples that stay readable for ever.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod bad_inputs;
mod documents;
mod fixture;
mod forged_manifest;
mod keys;
mod node_manifest;
mod samples;
