//! Names of users and groups, from `/etc/passwd` and `/etc/group`. A static binary asks no name service: an
//! account that is not in these files goes by its number.

use std::fs::File;
use std::io::Read;
use std::path::Path;

const LIMIT_BYTES: u64 = 16 << 20;

/// A file of accounts, `name:password:number:...` on each line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    text: String,
}

impl Accounts {
    /// Reads `/etc/passwd` or `/etc/group`; without it every account goes by its number.
    pub(crate) fn read(path: &Path) -> Self {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LIMIT_BYTES).read_to_end(&mut bytes));
        if let Err(error) = read {
            tracing::warn!(path = %path.display(), %error, "accounts go by their numbers");
        }
        Self { text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    /// The name of a number, else the number.
    pub(crate) fn name(&self, number: u32) -> String {
        self.lines()
            .find(|(_, id)| *id == number)
            .map_or_else(|| number.to_string(), |(name, _)| name.to_owned())
    }

    /// The number of a name, or of a number in digits.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.lines().find(|(known, _)| *known == name).map(|(_, id)| id).or_else(|| name.parse().ok())
    }

    fn lines(&self) -> impl Iterator<Item = (&str, u32)> {
        self.text.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((name, fields.nth(1)?.parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_both_ways() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "root:x:0:0:root:/root:/bin/sh\nbroken\ncassandra:x:117:124::/:/bin/false\n")
            .unwrap();
        let accounts = Accounts::read(file.path());
        assert_eq!((accounts.name(117), accounts.name(5)), ("cassandra".to_owned(), "5".to_owned()));
        assert_eq!(
            (accounts.number("cassandra"), accounts.number("7"), accounts.number("x")),
            (Some(117), Some(7), None)
        );
        assert_eq!(Accounts::read(Path::new("/nonexistent")).name(0), "0");
    }
}
