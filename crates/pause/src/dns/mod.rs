//! A stub resolver. It is our own because it asks for SRV records, which the system's resolver does not answer, and for
//! all addresses of a host, of which the one of a static binary gives no more than 48 and does not say so.
//!
//! Names are absolute: search domains are not applied. All servers are asked in turn, twice; what a server says of a
//! name (it does not exist, it has no such record) is believed, what it cannot say is asked of the next one.

mod hosts;
mod message;
mod name;
mod servers;
mod transport;

#[cfg(test)]
mod fuzz;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use async_trait::async_trait;

use crate::resolve::{Resolve, ResolveError};
use hosts::Hosts;
use message::{Answer, Data, Kind, Record};
use name::Name;
use servers::Servers;
use transport::Transport;

const ROUNDS: usize = 2;
/// Names that lead to other names, one after another.
const CHAIN_LIMIT: usize = 8;
const NO_SUCH_NAME: u8 = 3;

/// See the module.
#[derive(Debug, Clone)]
pub struct Dns {
    servers: Servers,
    /// Asked for addresses before the servers.
    hosts: Option<Hosts>,
    transport: Transport,
}

impl Dns {
    /// Asks this server alone, for addresses, too.
    #[must_use]
    pub fn at(server: SocketAddr) -> Self {
        Self { servers: Servers::Named(server), hosts: None, transport: Transport::default() }
    }

    /// Asks the servers of `/etc/resolv.conf`, for addresses `/etc/hosts` first.
    #[must_use]
    pub fn of_system() -> Self {
        let hosts = Some(Hosts(PathBuf::from("/etc/hosts")));
        let servers = Servers::Listed(PathBuf::from("/etc/resolv.conf"));
        Self { servers, hosts, transport: Transport::default() }
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
            match self.transport.ask(*server, name, kind).await {
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

    async fn of_servers(&self, host: &Name) -> Result<Vec<IpAddr>, ResolveError> {
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
        if let Some(hosts) = &self.hosts {
            let listed = hosts.addresses(host).await;
            let listed = listed.map_err(|source| ResolveError::NoHosts { source })?;
            if !listed.is_empty() {
                return Ok(listed);
            }
        }
        let name = Name::parse(host).ok_or_else(|| ResolveError::OddName { name: host.to_owned() })?;
        self.of_servers(&name).await
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

#[cfg(test)]
mod tests {
    use cassy_testkit::dns::DnsServer;

    use super::*;

    #[tokio::test]
    async fn what_the_hosts_file_says_comes_first_and_else_every_address_is_found() {
        let server = DnsServer::start().await.unwrap();
        for number in 0..100 {
            server.address_of("app.example.com", [10, 0, 0, number].into());
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let dns = Dns { hosts: Some(Hosts(path.clone())), ..Dns::at(server.address()) };
        assert_eq!(dns.addresses("app.example.com").await.unwrap().len(), 100, "without such a file");
        std::fs::write(&path, "10.1.0.1 other.example.com\n").unwrap();
        assert_eq!(dns.addresses("app.example.com").await.unwrap().len(), 100);
        let asked = server.queries();
        std::fs::write(&path, "10.1.0.1 app.example.com\n10.1.0.2 app.example.com\n").unwrap();
        let found = dns.addresses("app.example.com").await.unwrap();
        assert_eq!(found, [IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 1, 0, 2])]);
        assert_eq!(server.queries(), asked);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = dns.addresses("app.example.com").await.unwrap_err();
        assert!(matches!(&error, ResolveError::NoHosts { .. }) && error.is_unavailable(), "{error}");
    }
}
