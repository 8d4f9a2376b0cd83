//! A stub resolver. It is our own because it asks for SRV records, which the system's resolver does not answer, and for
//! nothing else that would justify a library.
//!
//! Names are absolute: search domains are not applied. All servers are asked in turn, twice; what a server says of a
//! name (it does not exist, it has no such record) is believed, what it cannot say is asked of the next one.

mod message;
mod name;
mod servers;
mod transport;

#[cfg(test)]
mod fuzz;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::resolve::{Resolve, ResolveError};
use message::{Answer, Data, Kind, Record};
use name::Name;
use servers::Servers;

const ROUNDS: usize = 2;
/// Names that lead to other names, one after another.
const CHAIN_LIMIT: usize = 8;
const NO_SUCH_NAME: u8 = 3;
/// For the system's own resolver, whose patience is not ours to set.
const SYSTEM_LIMIT: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug, Clone)]
pub struct Dns {
    servers: Servers,
    /// Whether addresses come from the same servers; else from the system, with its hosts file.
    own_addresses: bool,
}

impl Dns {
    /// Asks this server alone, for addresses, too.
    #[must_use]
    pub fn at(server: SocketAddr) -> Self {
        Self { servers: Servers::Named(server), own_addresses: true }
    }

    /// Asks the servers of `/etc/resolv.conf`; addresses come from the system's resolver.
    #[must_use]
    pub fn of_system() -> Self {
        Self { servers: Servers::Listed(PathBuf::from("/etc/resolv.conf")), own_addresses: false }
    }

    /// The records of the name, or of the name that it leads to.
    async fn look_up(&self, name: &Name, kind: Kind) -> Result<Vec<Data>, ResolveError> {
        let mut current = name.clone();
        let mut seen = 0;
        while seen < CHAIN_LIMIT {
            let answer = self.query(&current, kind).await?;
            let of = |name: &Name| -> Vec<Data> {
                let of_name = answer.records.iter().filter(|record| record.name == *name);
                of_name.map(|Record { data, .. }| data.clone()).collect()
            };
            let asked = current.clone();
            // A server that follows the chain itself sends all of it.
            while seen < CHAIN_LIMIT {
                let records = of(&current);
                if records.iter().any(|data| data.is_of(kind)) {
                    return Ok(records.into_iter().filter(|data| data.is_of(kind)).collect());
                }
                let next = records.into_iter().find_map(|data| match data {
                    Data::Cname(next) => Some(next),
                    _ => None,
                });
                let Some(next) = next else { break };
                current = next;
                seen += 1;
            }
            if current == asked && seen < CHAIN_LIMIT {
                return Err(ResolveError::NoRecords { name: name.to_string(), kind: kind.text() });
            }
        }
        Err(ResolveError::EndlessChain { name: name.to_string() })
    }

    async fn query(&self, name: &Name, kind: Kind) -> Result<Answer, ResolveError> {
        let listed = self.servers.list().await;
        let servers = listed.map_err(|source| ResolveError::NoServers { source })?;
        let mut last = None;
        for server in std::iter::repeat_n(&servers, ROUNDS).flatten() {
            match transport::ask(*server, name, kind).await {
                Ok(answer) if answer.rcode == 0 => return Ok(answer),
                Ok(answer) if answer.rcode == NO_SUCH_NAME => {
                    return Err(ResolveError::NoName { name: name.to_string(), server: *server });
                }
                Ok(answer) => last = Some((*server, refusal(answer.rcode))),
                Err(error) => last = Some((*server, error.to_string())),
            }
        }
        let (server, reason) =
            last.unwrap_or_else(|| (([127, 0, 0, 1], 53).into(), "nobody was asked".to_owned()));
        Err(ResolveError::NoAnswer { name: name.to_string(), server, reason })
    }

    async fn own_addresses(&self, host: &Name) -> Result<Vec<IpAddr>, ResolveError> {
        let (v4, v6) = tokio::join!(self.look_up(host, Kind::A), self.look_up(host, Kind::Aaaa));
        let found = match (v4, v6) {
            // A name without one of the two is usual. That the other could not be asked is not: it may be an instance.
            (Ok(v4), Ok(v6)) => [v4, v6].concat(),
            (Ok(some), Err(none)) | (Err(none), Ok(some)) if none.is_absence() => some,
            (Err(error), Err(none)) | (Err(none), Err(error)) if none.is_absence() => return Err(error),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let address = |data| match data {
            Data::A(address) => Some(IpAddr::from(address)),
            Data::Aaaa(address) => Some(IpAddr::from(address)),
            _ => None,
        };
        Ok(found.into_iter().filter_map(address).collect())
    }
}

#[async_trait]
impl Resolve for Dns {
    async fn srv(&self, name: &str) -> Result<Vec<(String, u16)>, ResolveError> {
        let odd = || ResolveError::OddName { name: name.to_owned() };
        let asked = Name::parse(name).ok_or_else(odd)?;
        let records = self.look_up(&asked, Kind::Srv).await?;
        let target = |data| match data {
            Data::Srv { port, target } => Some((port, target)),
            _ => None,
        };
        records.into_iter().filter_map(target).map(|(port, target)| checked(name, &target, port)).collect()
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if !self.own_addresses {
            return of_system(host).await;
        }
        let name = Name::parse(host).ok_or_else(|| ResolveError::OddName { name: host.to_owned() })?;
        self.own_addresses(&name).await
    }
}

/// A target that can be an instance.
fn checked(name: &str, target: &Name, port: u16) -> Result<(String, u16), ResolveError> {
    if target.is_root() {
        return Err(ResolveError::NoService { name: name.to_owned() });
    }
    if !target.is_host() || port == 0 {
        return Err(ResolveError::OddTarget { name: name.to_owned(), target: target.to_string(), port });
    }
    Ok((target.as_str().to_owned(), port))
}

async fn of_system(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let failed = |source| ResolveError::System { host: host.to_owned(), source };
    match timeout(SYSTEM_LIMIT, tokio::net::lookup_host((host, 0))).await {
        Ok(found) => Ok(found.map_err(failed)?.map(|address| address.ip().to_canonical()).collect()),
        Err(_elapsed) => {
            let message = format!("no answer within {} s", SYSTEM_LIMIT.as_secs());
            Err(failed(io::Error::new(io::ErrorKind::TimedOut, message)))
        }
    }
}

fn refusal(rcode: u8) -> String {
    match rcode {
        1 => "it says that the question is malformed (FORMERR)".to_owned(),
        2 => "it failed (SERVFAIL)".to_owned(),
        4 => "it does not answer such questions (NOTIMP)".to_owned(),
        5 => "it refuses to answer (REFUSED)".to_owned(),
        other => format!("it answered with code {other}"),
    }
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::A | Self::Aaaa => "address",
            Self::Cname => "CNAME",
            Self::Srv => "SRV",
        }
    }
}
