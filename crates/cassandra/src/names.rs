//! Names that are sent to a node. Only valid ones can be made: an empty tag, or no keyspaces at all, would mean "all".

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The tag of a snapshot that we took: `cassy-<backup id>-<attempt>`. Snapshots with other tags are never touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotTag {
    backup_id: Uuid,
    attempt: u32,
}

/// A snapshot tag that somebody else chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot tag of ours (cassy-<backup id>-<attempt>)")]
pub struct NotOurTag;

impl SnapshotTag {
    /// The tag of an attempt of a backup.
    #[must_use]
    pub fn of(backup_id: Uuid, attempt: u32) -> Self {
        Self { backup_id, attempt }
    }

    /// The backup.
    #[must_use]
    pub fn backup_id(&self) -> Uuid {
        self.backup_id
    }

    /// The attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl fmt::Display for SnapshotTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cassy-{}-{}", self.backup_id.hyphenated(), self.attempt)
    }
}

impl FromStr for SnapshotTag {
    type Err = NotOurTag;

    fn from_str(text: &str) -> Result<Self, NotOurTag> {
        let (backup_id, attempt) =
            text.strip_prefix("cassy-").and_then(|rest| rest.rsplit_once('-')).ok_or(NotOurTag)?;
        let backup_id = Uuid::try_parse(backup_id).map_err(|_not_a_uuid| NotOurTag)?;
        let attempt = attempt.parse().map_err(|_not_a_number| NotOurTag)?;
        let tag = Self::of(backup_id, attempt);
        // Only the one spelling: what was not written by us is not ours.
        if tag.to_string() == text { Ok(tag) } else { Err(NotOurTag) }
    }
}

/// One or more keyspaces, sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspaces(Vec<String>);

impl Keyspaces {
    /// `None` when there is no keyspace, or a name is none that Cassandra allows. A dot would turn a keyspace into a
    /// table.
    #[must_use]
    pub fn new(mut names: Vec<String>) -> Option<Self> {
        names.sort_unstable();
        names.dedup();
        (!names.is_empty() && names.iter().all(|name| is_name(name))).then_some(Self(names))
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(crate) fn to_vec(&self) -> Vec<String> {
        self.0.clone()
    }
}

/// Whether this is a name of a keyspace or table: `\w+` (`SchemaConstants.PATTERN_WORD_CHARS`). The longest that a file
/// name leaves room for is 222.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=222).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_one_spelling() {
        let tag = SnapshotTag::of(Uuid::from_u128(0x0192_aaaa_bbbb_7ccc_8ddd_eeee_ffff_0000), 3);
        let text = "cassy-0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000-3";
        assert_eq!(tag.to_string(), text);
        assert_eq!(text.parse(), Ok(tag));
        let foreign = [
            "",
            "cassy-",
            "cassy--",
            "cassy-0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000",
            "cassy-0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000-",
            "cassy-0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000-03",
            "cassy-0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000-+3",
            "cassy-0192AAAA-bbbb-7ccc-8ddd-eeeeffff0000-3",
            "cassy-0192aaaabbbb7ccc8dddeeeeffff0000-3",
            "cassy-0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000-4294967296",
            "Cassy-0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000-3",
            "truncated-1700000000000-t1",
        ];
        for text in foreign {
            assert_eq!(text.parse::<SnapshotTag>(), Err(NotOurTag), "{text}");
        }
    }

    #[test]
    fn no_keyspaces_cannot_be_written() {
        assert_eq!(Keyspaces::new(vec![]), None);
        for bad in ["", "a.b", "a b", "a/b", "é", "a\0"] {
            assert_eq!(Keyspaces::new(vec!["ok".into(), bad.into()]), None, "{bad}");
        }
        assert_eq!(Keyspaces::new(vec!["x".repeat(223)]), None);
        let given = Keyspaces::new(vec!["b".into(), "A_1".into(), "b".into()]).expect("valid");
        assert_eq!(given.iter().collect::<Vec<_>>(), ["A_1", "b"]);
    }
}
