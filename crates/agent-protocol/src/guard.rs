//! Guards: who unpauses the applications when the server cannot. The order is a line of JSON, to an agent in a frame,
//! to `cassy guard` on its standard input.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// An instance of an application: a gRPC endpoint with the service `rpc.Admin`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// The target of the SRV record: a host name, without a dot at its end.
    pub host: String,
    /// One of its addresses, and the record's port.
    pub address: SocketAddr,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.host, self.address)
    }
}

/// What a guard has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardOrder {
    /// The job whose pause it is.
    pub job_id: String,
    /// Whom to unpause.
    pub instances: Vec<Instance>,
    /// From the arming of the guard to the instant at which it unpauses, in milliseconds.
    pub deadline_ms: u64,
    /// How long it tries from then on, in milliseconds, as long as one has not acknowledged.
    pub give_up_ms: u64,
    /// How to speak to them: by TLS, or plain without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsTrust>,
}

/// Whose certificates are believed. No key is among it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsTrust {
    /// The certificates of the authorities, each in base64 of DER.
    pub authorities: Vec<String>,
    /// Whom the certificates of the instances are for, where it is not the instance's host.
    pub server_name: Option<String>,
}
