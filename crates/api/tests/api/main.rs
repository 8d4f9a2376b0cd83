//! The gRPC port as clients meet it: a server on a port of its own over operations that are played.

#![allow(clippy::unwrap_used)] // Allowed in tests, and what lies around them here is as much of a test.

mod answers;
mod bad_inputs;
mod grpcurl;
mod limits;
mod played;
mod reflection;
mod validation;
