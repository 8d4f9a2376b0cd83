//! Listening TCP sockets of the agent's own network namespace, from `/proc/net`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use super::configuration::Listener;

const LISTEN: &str = "0A";

/// Every address that something listens on.
pub(crate) fn listening(proc_root: &Path) -> Vec<SocketAddr> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|name| fs::read_to_string(proc_root.join("self/net").join(name)).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(listening_address).collect::<Vec<_>>())
        .collect()
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    if state != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    Some(SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel prints words of 32 bits in the machine's own order of bytes.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let ([a, b, c, d], [e, f, g, h]) = (word(0)?, word(1)?);
            let ([i, j, k, l], [m, n, o, p]) = (word(2)?, word(3)?);
            let address = Ipv6Addr::from([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]);
            Some(address.to_canonical())
        }
        _ => None,
    }
}

/// Which of these sockets is the listener's. One on all addresses counts, and so does any with the port when
/// the listener's own address is not known.
pub(crate) fn occupied(listener: &Listener, sockets: &[SocketAddr]) -> Option<SocketAddr> {
    let own: Option<Vec<IpAddr>> = listener
        .address
        .as_deref()
        .and_then(|address| (address, listener.port).to_socket_addrs().ok())
        .map(|addresses| addresses.map(|address| address.ip().to_canonical()).collect());
    sockets.iter().copied().find(|socket| {
        let on_it = match &own {
            Some(own) => {
                own.iter().any(|ip| *ip == socket.ip() || ip.is_unspecified()) || socket.ip().is_unspecified()
            }
            None => true,
        };
        socket.port() == listener.port && on_it
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_tables() {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("self/net");
        fs::create_dir_all(&net).unwrap();
        let head = "  sl  local_address rem_address   st\n";
        fs::write(
            net.join("tcp"),
            format!("{head}   0: 0100007F:2352 00000000:0000 0A 0\n   1: 0100007F:1F90 0100007F:9 01 0\nx\n"),
        )
        .unwrap();
        fs::write(
            net.join("tcp6"),
            format!("{head}  0: 00000000000000000000000000000000:1B58 0:0 0A\n  1: 0000000000000000FFFF00000201000A:0016 0:0 0A\n"),
        )
        .unwrap();
        let found: Vec<String> = listening(root.path()).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.1:9042", "[::]:7000", "10.0.1.2:22"]);
    }

    #[test]
    fn a_listener_is_recognized_by_its_address() {
        let sockets: Vec<SocketAddr> =
            ["127.0.0.1:9042", "10.0.0.1:7000", "[::]:7001"].map(|s| s.parse().unwrap()).to_vec();
        let occupied = |address: Option<&str>, port| {
            let listener = Listener { key: "k", address: address.map(str::to_owned), port };
            occupied(&listener, &sockets).is_some()
        };
        assert!(occupied(Some("127.0.0.1"), 9042));
        assert!(!occupied(Some("127.0.0.2"), 9042));
        assert!(occupied(Some("0.0.0.0"), 9042));
        assert!(occupied(Some("10.9.9.9"), 7001));
        assert!(occupied(None, 7000));
        assert!(!occupied(None, 7002));
    }
}
