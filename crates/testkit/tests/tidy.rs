//! The rules of the house that a compiler does not check.

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/bad_inputs.rs"]
mod bad_inputs;
#[path = "tidy/crates.rs"]
mod crates;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/mutations.rs"]
mod mutations;
#[path = "tidy/sources.rs"]
mod sources;
#[path = "tidy/workspace.rs"]
mod workspace;
