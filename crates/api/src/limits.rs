//! What a client may ask of the server at most. Every limit has a default that suits a public port.

use std::time::Duration;

/// The bounds of one gRPC port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A request message. 10,000 target addresses take less than half of the default.
    pub request_bytes: usize,
    /// All headers of a request together.
    pub header_bytes: u32,
    /// Connections at once; another one is closed as soon as it is accepted.
    pub connections: usize,
    /// Requests at once; another one is answered RESOURCE_EXHAUSTED.
    pub requests: usize,
    /// Reflection streams at once, counted apart: they live as long as their client likes, up to `reflection_time`.
    pub reflection_streams: usize,
    /// Requests at once on one connection; HTTP/2 makes the client wait with the others.
    pub streams_per_connection: u32,
    /// From a request's headers to its last byte.
    pub request_time: Duration,
    /// From an answer's first byte until the client has taken its last.
    pub response_time: Duration,
    /// The whole of a reflection stream.
    pub reflection_time: Duration,
    /// From the connection to its first request. Also ends those who never finish the HTTP/2 preface.
    pub first_request_time: Duration,
    /// Without any request after that; the client is told and connects again when it needs to.
    pub idle_time: Duration,
    /// Between two pings that find out whether the peer is still there.
    pub ping_interval: Duration,
    /// For the answer to a ping.
    pub ping_time: Duration,
    /// For requests under way when the server stops, and for a client to take note that its idle connection ends.
    pub shutdown_time: Duration,
}

/// More connections than this bring nothing: the requests at once are bounded anyhow.
const CONNECTIONS: u64 = 10_000;
/// Of the files that the process may have open, every fourth is kept for the nodes, the database and the store.
const OTHERS: u64 = 4;

impl Limits {
    /// For a process that may have so many files open at once: as many connections as that leaves room for, so that
    /// who asks too much is answered, and not cut off. The other limits are the default ones.
    pub fn with_open_files(open_files: u64) -> Self {
        let connections = (open_files - open_files / OTHERS).clamp(1, CONNECTIONS);
        Self { connections: usize::try_from(connections).unwrap_or(usize::MAX), ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: 1 << 20,
            header_bytes: 16 << 10,
            connections: 1_000,
            requests: 512,
            reflection_streams: 128,
            streams_per_connection: 200,
            request_time: Duration::from_secs(30),
            response_time: Duration::from_secs(60),
            reflection_time: Duration::from_secs(600),
            first_request_time: Duration::from_secs(20),
            idle_time: Duration::from_secs(300),
            ping_interval: Duration::from_secs(30),
            ping_time: Duration::from_secs(20),
            shutdown_time: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_requests_are_noticed_before_too_many_connections() {
        let connections =
            [0, 1_024, 4_096, 1 << 20, u64::MAX].map(|files| Limits::with_open_files(files).connections);
        assert_eq!(connections, [1, 768, 3_072, 10_000, 10_000]);
        let Limits { requests, reflection_streams, .. } = Limits::default();
        assert!(requests + reflection_streams < Limits::with_open_files(1_024).connections);
    }
}
