//! Hosts and IP addresses of requests: what they may look like, and which ones nobody means.
//!
//! Only the text is judged here. What a host name resolves to is judged where it is resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HOST_CHARS: usize = 253;
const LABEL_CHARS: usize = 63;

/// Why `text` cannot be the address of a Cassandra node, or the address in its usual spelling.
pub(crate) fn parse_host(text: &str) -> Result<String, &'static str> {
    if text.chars().count() > HOST_CHARS {
        return Err("it is longer than the 253 characters of a host name");
    }
    if text.chars().any(char::is_control) {
        return Err("it holds control characters");
    }
    if text.chars().any(char::is_whitespace) {
        return Err("it holds spaces");
    }
    if text.contains("://") {
        return Err("it carries a scheme; give the host alone");
    }
    if text.contains('%') {
        return Err("it carries a zone or percent signs");
    }
    if text.contains(['[', ']']) {
        return Err("it carries brackets; give an IPv6 address without them, and without a port");
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return refused_address(address).map_or_else(|| Ok(address.to_string()), Err);
    }
    if let Some((_, port)) = text.rsplit_once(':')
        && port.chars().all(|c| c.is_ascii_digit())
    {
        return Err("it carries a port; the port is the server's jmx_port");
    }
    host_name(text).map(str::to_owned)
}

/// The address in its usual spelling, `::ffff:10.0.0.1` being 10.0.0.1.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn host_name(text: &str) -> Result<&str, &'static str> {
    let labels = text.strip_suffix('.').unwrap_or(text);
    if !labels.split('.').all(is_label) {
        return Err("it is neither a host name nor an IP address");
    }
    // Resolvers take `2852039166`, `0xa9fea9fe` and `169.254.43518` for addresses.
    if labels.rsplit('.').next().is_some_and(is_number) {
        return Err("it ends in a number, but is no IP address in its usual spelling");
    }
    Ok(text)
}

fn is_label(label: &str) -> bool {
    let fits = (1..=LABEL_CHARS).contains(&label.len());
    let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    fits && plain && !label.starts_with('-') && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hex.map_or_else(
        || label.chars().all(|c| c.is_ascii_digit()),
        |rest| rest.chars().all(|c| c.is_ascii_hexdigit()),
    )
}

/// Why no Cassandra node has this address: asking there would reach something that was not meant to be asked.
/// Loopback and private networks are fine.
#[must_use]
pub fn refused_address(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(v4) => refused_v4(v4),
        IpAddr::V6(v6) => refused_v6(v6),
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.octets().starts_with(&[0]) {
        Some("it is the unspecified address")
    } else if address.is_link_local() || address == Ipv4Addr::new(100, 100, 100, 200) {
        Some("it is link-local or a cloud's metadata service")
    } else if address.is_multicast() || address.is_broadcast() {
        Some("it is a multicast or broadcast address")
    } else {
        None
    }
}

fn refused_v6(address: Ipv6Addr) -> Option<&'static str> {
    const EC2_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    if address.is_unspecified() {
        Some("it is the unspecified address")
    } else if address.is_unicast_link_local() || address == EC2_METADATA {
        Some("it is link-local or a cloud's metadata service")
    } else if address.is_multicast() {
        Some("it is a multicast or broadcast address")
    } else {
        embedded_v4(address).and_then(refused_v4)
    }
}

/// The IPv4 address behind an IPv4-compatible (`::a.b.c.d`) or NAT64 (`64:ff9b::a.b.c.d`) one.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(from_segments(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from_segments(high, low)),
        _ => None,
    }
}

fn from_segments(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_may_be_cassandra() {
        for (text, usual) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("10.0.0.1", "10.0.0.1"),
            ("192.168.254.169", "192.168.254.169"),
            ("100.64.0.1", "100.64.0.1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
            ("localhost", "localhost"),
            ("cassandra-1.example.com", "cassandra-1.example.com"),
            ("cassandra-1.example.com.", "cassandra-1.example.com."),
            ("stack_node_1", "stack_node_1"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1a", "1a"),
        ] {
            assert_eq!(parse_host(text).as_deref(), Ok(usual), "{text}");
        }
    }

    #[test]
    fn hosts_that_are_refused() {
        let label = "a".repeat(64);
        for (text, reason) in [
            ("a\0b", "control"),
            ("a\nb", "control"),
            (" 10.0.0.1", "spaces"),
            ("a b", "spaces"),
            ("file:///etc/passwd", "scheme"),
            ("http://10.0.0.1", "scheme"),
            ("10.0.0.1:7199", "port"),
            ("node:7199", "port"),
            ("node:", "port"),
            ("[::]", "brackets"),
            ("[::1]:7199", "brackets"),
            ("fe80::1%eth0", "zone"),
            ("%31", "percent"),
            ("::", "unspecified"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("::ffff:0.0.0.0", "unspecified"),
            ("169.254.169.254", "metadata"),
            ("169.254.0.1", "link-local"),
            ("::ffff:169.254.169.254", "metadata"),
            ("::169.254.169.254", "metadata"),
            ("64:ff9b::a9fe:a9fe", "metadata"),
            ("fd00:ec2::254", "metadata"),
            ("100.100.100.200", "metadata"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("ff02::1", "multicast"),
            ("2852039166", "number"),
            ("0xa9fea9fe", "number"),
            ("0xA9.254.169.254", "number"),
            ("169.254.43518", "number"),
            ("169.254.169.0376", "number"),
            ("256.1.1.1", "number"),
            ("0X", "number"),
            ("node.1", "number"),
            ("node.1.", "number"),
            ("-oProxyCommand=id", "neither"),
            ("-node", "neither"),
            ("node..example", "neither"),
            (".", "neither"),
            ("a;id", "neither"),
            ("$(id)", "neither"),
            ("user@node", "neither"),
            ("../etc/passwd", "neither"),
            ("<script>", "neither"),
            ("' OR 1=1", "spaces"),
            ("b\u{fc}cher.example", "neither"),
            ("node\u{202e}", "neither"),
            (&label, "neither"),
        ] {
            let refusal = parse_host(text).expect_err(text);
            assert!(refusal.contains(reason), "{text}: {refusal}");
        }
        assert!(parse_host(&"a.".repeat(127)).is_err());
        assert!(parse_host(&"a.".repeat(126)).is_ok());
    }

    #[test]
    fn addresses_have_one_spelling() {
        assert_eq!(parse_ip("::ffff:10.0.0.1"), parse_ip("10.0.0.1"));
        assert_eq!(parse_ip("2001:db8:0:0:0:0:0:1"), parse_ip("2001:DB8::1"));
        for text in [
            "",
            "node",
            "10.0.0.1:7199",
            "10.0.0",
            "010.0.0.1",
            "[::1]",
            "fe80::1%1",
            " 10.0.0.1",
            "1.2.3.4;id",
        ] {
            assert_eq!(parse_ip(text), None, "{text}");
        }
    }
}
