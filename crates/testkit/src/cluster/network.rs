//! The network of one cluster: a bridge that this machine is on as well, and a veth pair to each node.
//!
//! Networks are numbered. Who uses a number holds an abstract socket of that name, which no two processes can, and which
//! ends with its process; so what bears the number of nobody was left behind by a run that was killed, and is removed
//! by the next one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::ip::ip;
use super::namespace::{INTERFACE, Namespace};
use crate::{Doing, Failure};

/// Short, as an interface's name has at most 15 bytes.
const PREFIX: &str = "cassykit";
/// No host of any network: addresses for tests of network devices (RFC 2544).
const RANGE: [u8; 2] = [198, 18];
const NETWORK_MASK: u32 = 0xffff_ff00;
const FIRST_NODE: u8 = 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Network {
    number: u8,
    /// Held, never read: the reservation ends with it.
    _reservation: UnixListener,
}

impl Network {
    /// Removes what killed runs have left, and makes a network of a number that nobody uses.
    pub(super) fn new() -> Result<Self, Failure> {
        remove_leftovers()?;
        let routes = std::fs::read_to_string("/proc/net/route").doing(|| "read the routes")?;
        let free = (0..=u8::MAX).filter(|number| !is_routed(&routes, *number));
        let reserved = free.filter_map(|number| Some((number, reserve(number)?))).next();
        let (number, reservation) =
            reserved.ok_or_else(|| Failure::new("all networks of the kit are in use"))?;
        let network = Self { number, _reservation: reservation };
        let bridge = bridge(number);
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["address", "add", &network.with_prefix(network.here()), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        Ok(network)
    }

    /// This machine's own address.
    pub(super) fn here(&self) -> Ipv4Addr {
        self.host(1)
    }

    /// The address of the node of this number, from 1.
    pub(super) fn node(&self, node: u8) -> Ipv4Addr {
        self.host(FIRST_NODE.saturating_add(node))
    }

    /// As `ip` wants an interface's address.
    pub(super) fn with_prefix(&self, address: Ipv4Addr) -> String {
        format!("{address}/24")
    }

    /// Connects a namespace, and answers what the connection is called on this side.
    pub(super) fn attach(&self, namespace: &Namespace, node: u8) -> Result<String, Failure> {
        let name = format!("{}n{node}", bridge(self.number));
        let holder = namespace.holder();
        ip(&["link", "add", &name, "type", "veth", "peer", "name", INTERFACE, "netns", &holder])?;
        ip(&["link", "set", &name, "master", &bridge(self.number), "up"])?;
        namespace.add_address(&self.with_prefix(self.node(node)))?;
        Ok(name)
    }

    fn host(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(RANGE[0], RANGE[1], self.number, host)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(failure) = remove(&names(), self.number) {
            eprintln!("{failure}");
        }
    }
}

fn bridge(number: u8) -> String {
    format!("{PREFIX}{number}")
}

fn reserve(number: u8) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("cassy-testkit/network/{number}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

fn remove_leftovers() -> Result<(), Failure> {
    let names = names();
    let numbers: BTreeSet<u8> = names.iter().filter_map(|name| number_of(name)).collect();
    for number in numbers {
        let Some(_reservation) = reserve(number) else { continue };
        remove(&names, number)?;
    }
    Ok(())
}

/// Removes all interfaces of this number. Those of nodes may go by themselves meanwhile, with their namespaces.
fn remove(names: &[String], number: u8) -> Result<(), Failure> {
    for name in names.iter().filter(|name| number_of(name) == Some(number)) {
        let removed = ip(&["link", "delete", name]);
        if self::names().contains(name) {
            removed?;
        }
    }
    Ok(())
}

/// All interfaces of this machine.
fn names() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// The number of the network that an interface belongs to; `None` for all that are not the kit's.
fn number_of(name: &str) -> Option<u8> {
    let rest = name.strip_prefix(PREFIX)?;
    let (number, node) = rest.split_once('n').unwrap_or((rest, "0"));
    let _is_a_number: u8 = node.parse().ok()?;
    number.parse().ok()
}

/// Whether this machine knows a way, other than the default one, to the addresses of this number.
fn is_routed(routes: &str, number: u8) -> bool {
    let wanted = u32::from(Ipv4Addr::new(RANGE[0], RANGE[1], number, 0));
    routes.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let column = |index: usize| {
            columns.get(index).and_then(|text| u32::from_str_radix(text, 16).ok()).map(u32::from_be)
        };
        let (Some(to), Some(mask)) = (column(1), column(7)) else { return false };
        let common = mask & NETWORK_MASK;
        mask != 0 && to & common == wanted & common
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kits_own_interfaces_have_a_number() {
        let known = ["cassykit0", "cassykit255", "cassykit7n12"].map(number_of);
        assert_eq!(known, [Some(0), Some(255), Some(7)]);
        let others =
            ["eth0", "cassykit", "cassykit256", "cassykit7nx", "cassykitn3", "xcassykit7", "cassykit-1"];
        assert!(others.iter().all(|name| number_of(name).is_none()));
    }

    #[test]
    fn a_range_that_leads_elsewhere_is_not_taken() {
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let route = |to: &str, mask: &str| format!("{head}eth1 {to} 00000000 0001 0 0 0 {mask} 0 0 0\n");
        assert!(!is_routed(&route("00000000", "00000000"), 7), "the default route");
        assert!(!is_routed(&route("000200C0", "00FFFFFF"), 7), "192.0.2.0/24");
        assert!(is_routed(&route("000712C6", "00FFFFFF"), 7), "198.18.7.0/24");
        assert!(!is_routed(&route("000712C6", "00FFFFFF"), 8));
        assert!(is_routed(&route("000012C6", "0000FEFF"), 200), "198.18.0.0/15");
        assert!(is_routed(&route("0A0712C6", "FFFFFFFF"), 7), "198.18.7.10/32");
    }
}
