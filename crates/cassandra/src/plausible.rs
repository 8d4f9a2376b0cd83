//! What may come from a node. Each function takes text from the node and gives a typed value, or says what is wrong.

use std::net::IpAddr;

use uuid::Uuid;

use crate::names::is_name;

/// What is wrong with a value, and the value, shortened and escaped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Implausible(pub(crate) String);

pub(crate) type Plausible<T> = Result<T, Implausible>;

/// Longest path that Linux takes.
const PATH_BYTES: usize = 4096;
/// Free text: cluster name, datacenter, rack, partitioner.
const TEXT_CHARS: usize = 1024;
/// Characters of a refused value that a message shows.
const SHOWN_CHARS: usize = 80;

pub(crate) fn refuse<T>(problem: &str, value: &str) -> Plausible<T> {
    let shown: String = value.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    Err(Implausible(format!("{problem}: \"{shown}\"")))
}

/// An IP address of a node, in its canonical form. No host name, no zone, no port.
pub(crate) fn address(text: &str) -> Plausible<IpAddr> {
    let Ok(ip) = text.parse::<IpAddr>() else { return refuse("not an IP address", text) };
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || is_link_local(ip) {
        return refuse("not the address of a node", text);
    }
    Ok(ip)
}

/// Needs a zone to be reached, and is where clouds have their metadata services: a login must not go there.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

pub(crate) fn host_id(text: &str) -> Plausible<Uuid> {
    match Uuid::try_parse(text) {
        Ok(id) if text.len() == 36 && !id.is_nil() => Ok(id),
        _ => refuse("not a host id (UUID)", text),
    }
}

/// An absolute directory other than the root, in one spelling. A tarball's start script makes
/// `/opt/cassandra/bin/../data/data` of the default (`CASSANDRA_HOME` is `dirname $0`/..), so `..` is resolved.
pub(crate) fn directory(text: &str) -> Plausible<String> {
    if text.len() > PATH_BYTES || text.chars().any(char::is_control) {
        return refuse("not a directory", text);
    }
    if !text.starts_with('/') {
        return refuse("not an absolute directory", text);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/').filter(|segment| !segment.is_empty() && *segment != ".") {
        if segment != ".." {
            segments.push(segment);
        } else if segments.pop().is_none() {
            return refuse("a directory above the root", text);
        }
    }
    if segments.is_empty() {
        return refuse("the root directory", text);
    }
    Ok(segments.iter().flat_map(|segment| ["/", segment]).collect())
}

/// A keyspace or table.
pub(crate) fn name(text: &str) -> Plausible<String> {
    if is_name(text) { Ok(text.to_owned()) } else { refuse("not a name of a keyspace or table", text) }
}

/// Text that somebody chose freely.
pub(crate) fn text(text: &str) -> Plausible<String> {
    if text.is_empty() {
        return refuse("empty", text);
    }
    if text.chars().count() > TEXT_CHARS || text.chars().any(char::is_control) {
        return refuse("too long, or with control characters", text);
    }
    Ok(text.to_owned())
}

/// A token of any partitioner: decimal or hexadecimal.
pub(crate) fn token(text: &str) -> Plausible<String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let valid = (1..=256).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if valid { Ok(text.to_owned()) } else { refuse("not a token", text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let good = [
            ("127.0.0.1", "127.0.0.1"),
            ("0:0:0:0:0:0:0:1", "::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:DB8::1", "2001:db8::1"),
        ];
        for (text, expected) in good {
            assert_eq!(address(text).map(|ip| ip.to_string()), Ok(expected.to_owned()), "{text}");
        }
        let bad = [
            "",
            "1.2.3.4;id",
            "localhost",
            "/127.0.0.1",
            "127.0.0.1:7000",
            "[::1]",
            "fe80::1%eth0",
            "010.0.0.1",
            "1.2.3",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            " 1.2.3.4",
        ];
        for text in bad {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn directories() {
        for (text, expected) in [
            ("/a", "/a"),
            ("/var//lib/./cassandra/data/", "/var/lib/cassandra/data"),
            ("/a b/ü..", "/a b/ü.."),
            ("/opt/cassandra/bin/../data/data", "/opt/cassandra/data/data"),
        ] {
            assert_eq!(directory(text), Ok(expected.to_owned()), "{text}");
        }
        for text in [
            "",
            "/",
            "//",
            "/.",
            "a/b",
            "./a",
            "/a/../..",
            "/a/..",
            "/..",
            "/a\nb",
            "/a\0",
            &format!("/{}", "x".repeat(4096)),
        ] {
            assert!(directory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_ids_tokens_and_names() {
        assert!(host_id("6d194555-f6eb-41d0-c000-000000000001").is_ok());
        for text in [
            "",
            "6d194555f6eb41d0c000000000000001",
            "{6d194555-f6eb-41d0-c000-000000000001}",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert!(host_id(text).is_err(), "{text}");
        }
        assert!(token("-9223372036854775808").is_ok() && token("00ff").is_ok());
        for text in ["", "-", "--1", "1;2", "x"] {
            assert!(token(text).is_err(), "{text}");
        }
        assert!(name("t_1").is_ok() && name("a/b").is_err());
        assert!(text("Größe <b>").is_ok() && text("").is_err() && text("a\u{1b}[2J").is_err());
    }

    #[test]
    fn a_refused_value_is_shown_short_and_escaped() {
        let Implausible(shown) = address(&format!("\u{1b}{}", "x".repeat(1000))).expect_err("refused");
        assert!(shown.starts_with("not an IP address: \"\\u{1b}xxx") && shown.len() < 120, "{shown}");
    }
}
