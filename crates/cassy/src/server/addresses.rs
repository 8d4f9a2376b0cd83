//! Where a host is: looked up once, judged, and only then connected to. A name that leads to an address which no
//! Cassandra node has is refused, whatever a second look-up would say.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use cassy_api::refused_address;
use cassy_cassandra::{Channel, Dialer};
use cassy_control::nodes::{NodeError, NodeErrorKind};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A node that takes longer is behind a firewall; there may be another way to it.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// Asks the system's resolver; an address in digits is answered as it is.
pub(super) async fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip().to_canonical()).collect())
}

/// The addresses that were found for the host, when every one of them may be connected to.
pub(super) fn judged(host: &str, found: io::Result<Vec<IpAddr>>) -> Result<Vec<IpAddr>, NodeError> {
    let refused = |kind, message, hint: &str| NodeError { kind, message, hint: Some(hint.to_owned()) };
    let addresses = found.map_err(|error| {
        let message = format!("{host}: its address cannot be looked up: {error}");
        refused(NodeErrorKind::Unreachable, message, "Check the host's name and this machine's resolver.")
    })?;
    if addresses.is_empty() {
        let message = format!("{host}: the name has no address");
        return Err(refused(NodeErrorKind::Permanent, message, "Check the host's name."));
    }
    let bad = addresses.iter().find_map(|address| Some((address, refused_address(*address)?)));
    match bad {
        None => Ok(addresses),
        Some((address, reason)) => {
            let message = format!("{host}: its address {address} is not connected to: {reason}");
            let hint = "Give an address of the Cassandra node, or correct what its name resolves to.";
            Err(refused(NodeErrorKind::Permanent, message, hint))
        }
    }
}

/// Plain TCP to the addresses that were judged, and to no others.
pub(super) struct JudgedDialer {
    pub(super) addresses: Vec<IpAddr>,
}

#[async_trait]
impl Dialer for JudgedDialer {
    async fn dial(&self, _host: &str, port: u16) -> io::Result<Box<dyn Channel>> {
        let mut failure = io::Error::other("there is no address to connect to");
        for address in &self.addresses {
            let connected = timeout(CONNECT_LIMIT, TcpStream::connect((*address, port))).await;
            match connected.unwrap_or_else(|_elapsed| Err(silent(*address, port))) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Box::new(stream));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn is_confidential(&self, _host: &str) -> bool {
        self.addresses.iter().all(IpAddr::is_loopback)
    }
}

fn silent(address: IpAddr, port: u16) -> io::Error {
    let message = format!("no answer from {address} port {port} within {} s", CONNECT_LIMIT.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str]) -> io::Result<Vec<IpAddr>> {
        Ok(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn a_name_that_leads_to_what_is_no_node_is_refused() {
        for addresses in [
            &["169.254.169.254"][..],
            &["fe80::1"],
            &["fd00:ec2::254"],
            &["0.0.0.0"],
            &["::ffff:169.254.169.254"],
            &["64:ff9b::a9fe:a9fe"],
            &["10.0.0.1", "169.254.169.254"],
        ] {
            let error = judged("node.example", found(addresses)).unwrap_err();
            assert_eq!(error.kind, NodeErrorKind::Permanent, "{addresses:?}");
            assert!(error.message.starts_with("node.example: its address "), "{error}");
            assert!(error.hint.is_some(), "{addresses:?}");
        }
    }

    #[test]
    fn loopback_and_private_networks_are_fine() {
        for addresses in [&["127.0.0.1", "::1"][..], &["10.0.0.1"], &["fd00::1"], &["192.0.2.1"]] {
            assert_eq!(judged("node", found(addresses)).unwrap(), found(addresses).unwrap());
        }
    }

    #[test]
    fn a_resolver_that_fails_may_answer_later_and_an_empty_answer_stays() {
        let failed = judged("node", Err(io::Error::other("try again"))).unwrap_err();
        assert!(failed.is_transient() && failed.message.contains("try again"), "{failed}");
        assert!(!judged("node", found(&[])).unwrap_err().is_transient());
    }

    /// The name changes between the look-up and the connection: it is not asked again.
    #[tokio::test]
    async fn what_was_judged_is_what_is_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialer = JudgedDialer { addresses: judged("rebound.invalid", found(&["127.0.0.1"])).unwrap() };
        let (dialled, accepted) = tokio::join!(dialer.dial("rebound.invalid", port), listener.accept());
        assert!(dialled.is_ok() && accepted.is_ok());
        assert!(dialer.is_confidential("rebound.invalid"));
        let public = JudgedDialer { addresses: found(&["127.0.0.1", "192.0.2.1"]).unwrap() };
        assert!(!public.is_confidential("localhost"));
    }

    #[tokio::test]
    async fn addresses_in_digits_need_no_resolver() {
        for (text, address) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::ffff:10.0.0.1", "10.0.0.1")] {
            assert_eq!(look_up(text).await.unwrap(), found(&[address]).unwrap());
        }
    }
}
