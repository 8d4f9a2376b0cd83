//! Jobs as pure state machines, plans, and the runner.
//!
//! [`Service`] is the entry point: it answers [`Operations`], makes jobs ([`job`]) and has the runner drive them.
//! Nodes are reached through the traits of [`nodes`]; nothing here knows a wire format.

pub mod applications;
mod clock;
mod cut;
mod descriptions;
mod dry_run;
mod handles;
pub mod job;
mod link;
mod machine;
mod mapping;
mod next_steps;
pub mod nodes;
mod operations;
mod pauses;
mod perform;
mod progress;
mod registration;
mod runner;
mod service;
mod targets;
mod tenure;
mod told;

pub use clock::{Clock, SystemClock};
pub use operations::*;
pub use pauses::left_paused;
pub use perform::chain;
pub use service::{Service, ServiceParts};
pub use tenure::Tenure;
