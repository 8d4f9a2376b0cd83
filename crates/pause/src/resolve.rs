//! From the name of an SRV record to the instances that it names (RFC 2782).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use cassy_agent_protocol::Instance;
use futures::stream::{self, StreamExt, TryStreamExt};

/// Hosts that are looked up at a time.
const AT_ONCE: usize = 16;

/// Looks names up. Every look-up ends by itself.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The targets of an SRV record and their ports, whatever their priority and weight.
    ///
    /// # Errors
    /// When there is none, or nobody could say.
    async fn srv(&self, name: &str) -> Result<Vec<(String, u16)>, ResolveError>;
    /// The addresses of a host, or of an address in digits.
    ///
    /// # Errors
    /// When there is none, or nobody could say.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It cannot be asked for.
    #[error("{name}: not a name that DNS can have")]
    OddName {
        /// As it is written.
        name: String,
    },
    /// NXDOMAIN.
    #[error("{name}: the name does not exist, says the DNS server {server}")]
    NoName {
        /// Asked for.
        name: String,
        /// Who says so.
        server: SocketAddr,
    },
    /// The name exists.
    #[error("{name}: the name has no {kind} record")]
    NoRecords {
        /// Asked for.
        name: String,
        /// Of which kind.
        kind: &'static str,
    },
    /// Aliases without end.
    #[error("{name}: it is an alias of an alias, and so on without an end")]
    EndlessChain {
        /// Asked for.
        name: String,
    },
    /// The target is `.`, which RFC 2782 gives this meaning.
    #[error("{name}: the SRV record says that there is no such service (its target is `.`)")]
    NoService {
        /// Of the record.
        name: String,
    },
    /// No host can have this name, or no service this port.
    #[error("{name}: the SRV record names a target that cannot be connected to: {target} port {port}")]
    OddTarget {
        /// Of the record.
        name: String,
        /// As it can be shown.
        target: String,
        /// Of the target.
        port: u16,
    },
    /// No server answered to the matter; this is the last one.
    #[error("{name}: no answer from DNS, at last from {server}: {reason}")]
    NoAnswer {
        /// Asked for.
        name: String,
        /// Asked last.
        server: SocketAddr,
        /// What it said.
        reason: String,
    },
    /// Nobody can be asked.
    #[error("/etc/resolv.conf, which names the DNS servers, cannot be read")]
    NoServers {
        /// Why.
        source: io::Error,
    },
    /// It comes before the servers.
    #[error("/etc/hosts, which may name the instances, cannot be read")]
    NoHosts {
        /// Why.
        source: io::Error,
    },
}

impl ResolveError {
    /// Whether it is certain that there is nothing.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::NoName { .. } | Self::NoRecords { .. })
    }

    /// Whether nobody could say, rather than having said no.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::NoServers { .. } | Self::NoHosts { .. })
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::OddName { .. } | Self::NoName { .. } | Self::NoRecords { .. } => {
                "Check the name in srv_service_url and the zone: each instance of the applications needs an SRV record \
                 with the port of its rpc.Admin service, and its target an address."
            }
            Self::EndlessChain { .. } => "Correct the CNAME records of the zone.",
            Self::NoService { .. } => {
                "Correct the SRV record, or take a backup of type 2, which pauses nobody."
            }
            Self::OddTarget { .. } => "Correct the SRV record: a host name and a port from 1 to 65535.",
            Self::NoAnswer { .. } => {
                "Check the DNS server; the key dns_server names another one than those of /etc/resolv.conf."
            }
            Self::NoServers { .. } | Self::NoHosts { .. } => {
                "Make the file readable, or set the key dns_server."
            }
        }
    }
}

/// Whom the SRV record names at this moment, each address of a target by itself; in order, none twice, never empty.
///
/// # Errors
/// When one of the targets leads nowhere: who that is cannot be paused.
pub async fn find_instances(resolver: &dyn Resolve, name: &str) -> Result<Vec<Instance>, ResolveError> {
    let targets = resolver.srv(name).await?;
    let found = stream::iter(targets).map(|(host, port)| instances(resolver, host, port));
    let found: Vec<Vec<Instance>> = found.buffer_unordered(AT_ONCE).try_collect().await?;
    let mut found: Vec<Instance> = found.into_iter().flatten().collect();
    found.sort();
    // Two names of one address are one process.
    let mut seen = BTreeSet::new();
    found.retain(|instance| seen.insert(instance.address));
    match found.is_empty() {
        true => Err(ResolveError::NoRecords { name: name.to_owned(), kind: "SRV" }),
        false => Ok(found),
    }
}

async fn instances(resolver: &dyn Resolve, host: String, port: u16) -> Result<Vec<Instance>, ResolveError> {
    let addresses = resolver.addresses(&host).await?;
    if addresses.is_empty() {
        return Err(ResolveError::NoRecords { name: host, kind: "address" });
    }
    let instance = |address| Instance { host: host.clone(), address: SocketAddr::new(address, port) };
    Ok(addresses.into_iter().map(instance).collect())
}
