//! Cassandra's version, and which versions we refuse.

use std::fmt;

/// The version a node reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    text: String,
}

/// Longest version text that is kept.
const TEXT_BYTES: usize = 100;

impl ReleaseVersion {
    /// Parses the two leading numbers; a suffix such as `-beta2-local` is legal.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let (major, rest) = text.split_once('.')?;
        let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let (minor, _) = rest.split_at(end);
        Some(Self { major: number(major)?, minor: number(minor)?, text: text.to_owned() })
    }

    /// Whether the writes that a node coordinates are counted by table; since 4.0 (CASSANDRA-14232).
    pub(crate) fn counts_coordinated_writes(&self) -> bool {
        self.major >= 4
    }

    /// Whether a node says over JMX which hints wait; since 4.1 (CASSANDRA-14309).
    pub(crate) fn lists_pending_hints(&self) -> bool {
        (self.major, self.minor) >= (4, 1)
    }

    /// Why this version is not supported, if so.
    #[must_use]
    pub fn refusal(&self) -> Option<&'static str> {
        match (self.major, self.minor) {
            (0..=2, _) | (3, 0..=10) => Some("the oldest supported version is 3.11"),
            // 5.1 was the working title of 6.0.
            (5, 1..) | (6.., _) => Some(
                "since Cassandra 6.0 tokens, membership and schema live in a transactional log of the cluster, which a backup of \
                 files and tokens does not hold",
            ),
            _ => None,
        }
    }
}

fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_leading_numbers() {
        for (text, expected) in [
            ("5.0.9", Some((5, 0))),
            ("4.0-beta2-local", Some((4, 0))),
            ("3.11.19", Some((3, 11))),
            ("3.11", Some((3, 11))),
            ("4.0.0.6816", Some((4, 0))),
            ("5", None),
            ("", None),
            (".5", None),
            ("5.", None),
            ("5.x", None),
            ("+5.0", None),
            ("5.0\n", None),
            ("99999999999.0", None),
        ] {
            let parsed = ReleaseVersion::parse(text);
            assert_eq!(parsed.map(|version| (version.major, version.minor)), expected, "{text}");
        }
    }

    #[test]
    fn refuses_too_old_and_too_new() {
        for (text, refused) in [
            ("2.2.19", true),
            ("3.0.29", true),
            ("3.10", true),
            ("3.11.0", false),
            ("4.1.7", false),
            ("5.0.9", false),
            ("5.1-trunk", true),
            ("6.0.0", true),
        ] {
            assert_eq!(ReleaseVersion::parse(text).expect("parses").refusal().is_some(), refused, "{text}");
        }
    }
}
