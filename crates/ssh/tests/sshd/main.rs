//! Against a real OpenSSH server: logging in, putting the agent on the node, starting it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod launch;
mod login;
mod prefix;
mod push;
mod server;
