//! The tag of a snapshot that a backup has taken, and its only spelling.

use std::fmt;
use std::str::FromStr;

use cassy_backup_format::BackupId;
use serde::{Deserialize, Serialize};

/// `cassy-<backup id>-<attempt>`. What is spelled in any other way is somebody else's and cannot be named by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotTag {
    backup_id: BackupId,
    attempt: u32,
}

/// A snapshot tag that somebody else chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of Cassy's own snapshot tags (cassy-<backup id>-<attempt>)")]
pub struct ForeignTag;

impl SnapshotTag {
    /// The tag of an attempt of a backup.
    #[must_use]
    pub fn of(backup_id: BackupId, attempt: u32) -> Self {
        Self { backup_id, attempt }
    }

    /// The backup that took it.
    #[must_use]
    pub fn backup_id(&self) -> BackupId {
        self.backup_id
    }
}

impl fmt::Display for SnapshotTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cassy-{}-{}", self.backup_id, self.attempt)
    }
}

impl FromStr for SnapshotTag {
    type Err = ForeignTag;

    fn from_str(text: &str) -> Result<Self, ForeignTag> {
        let parts = text.strip_prefix("cassy-").and_then(|rest| rest.rsplit_once('-'));
        let (backup_id, attempt) = parts.ok_or(ForeignTag)?;
        let backup_id = backup_id.parse().map_err(|_no_id| ForeignTag)?;
        let attempt = attempt.parse().map_err(|_no_number| ForeignTag)?;
        let tag = Self::of(backup_id, attempt);
        if tag.to_string() == text { Ok(tag) } else { Err(ForeignTag) }
    }
}

impl TryFrom<String> for SnapshotTag {
    type Error = ForeignTag;

    fn try_from(text: String) -> Result<Self, ForeignTag> {
        text.parse()
    }
}

impl From<SnapshotTag> for String {
    fn from(tag: SnapshotTag) -> Self {
        tag.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_one_spelling() {
        let text = "cassy-0193b0a0-0000-7000-8000-000000000001-1";
        let tag: SnapshotTag = text.parse().expect("ours");
        assert_eq!(tag.to_string(), text);
        for foreign in [
            "",
            "cassy",
            "cassy-",
            "*",
            "..",
            "../x",
            "manual",
            "cassy-1-1",
            "cassy-notours",
            "cassy-0193b0a0-0000-7000-8000-000000000001",
            "cassy-0193b0a0-0000-7000-8000-000000000001-",
            "cassy-0193b0a0-0000-7000-8000-000000000001-01",
            "cassy-0193b0a0-0000-7000-8000-000000000001-+1",
            "cassy-0193B0A0-0000-7000-8000-000000000001-1",
            "cassy-0193b0a0000070008000000000000001-1",
            "cassy-0193b0a0-0000-7000-8000-000000000001-1/..",
            "cassy-0193b0a0-0000-7000-8000-000000000001-99999999999",
        ] {
            assert_eq!(foreign.parse::<SnapshotTag>(), Err(ForeignTag), "{foreign}");
            assert!(serde_json::from_value::<SnapshotTag>(foreign.into()).is_err(), "{foreign}");
        }
    }
}
