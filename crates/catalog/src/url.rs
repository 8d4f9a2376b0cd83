//! The value of `metadata_db_url`: a JDBC URL, as Java Cassy has it.

use crate::OpenError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Which metadata database to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataUrl {
    /// `jdbc:sqlite:FILE`; a relative path is relative to the working directory.
    SqliteFile(PathBuf),
    /// `jdbc:sqlite::memory:`: gone when the server stops. For trying things out.
    SqliteMemory,
}

/// Why a text is no [`MetadataUrl`]. The text itself is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataUrlError {
    /// A database that is planned, but not served yet.
    #[error("{product} is not supported yet: expected jdbc:sqlite:FILE")]
    NotYet {
        /// Its name.
        product: &'static str,
    },
    /// Another kind of database, or no JDBC URL at all.
    #[error("expected jdbc:sqlite:FILE, for example jdbc:sqlite:cassy.db")]
    Unsupported,
    /// `jdbc:sqlite:` with nothing behind it.
    #[error("expected a file name after jdbc:sqlite:, for example jdbc:sqlite:cassy.db")]
    NoFile,
    /// `jdbc:sqlite:cassy.db?key=value`, `jdbc:sqlite:file:...`, `jdbc:sqlite::resource:...`
    #[error("expected a plain file name after jdbc:sqlite:, without parameters and without another scheme")]
    NotAPlainFile,
}

const SQLITE: &str = "jdbc:sqlite:";
const LATER: [(&str, &str); 3] =
    [("jdbc:postgresql:", "PostgreSQL"), ("jdbc:mysql:", "MySQL"), ("jdbc:mariadb:", "MariaDB")];

impl FromStr for MetadataUrl {
    type Err = MetadataUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((_, product)) = LATER.iter().find(|(prefix, _)| without_prefix(text, prefix).is_some()) {
            return Err(MetadataUrlError::NotYet { product });
        }
        match without_prefix(text, SQLITE).ok_or(MetadataUrlError::Unsupported)? {
            "" => Err(MetadataUrlError::NoFile),
            ":memory:" => Ok(Self::SqliteMemory),
            file if file.starts_with(':')
                || file.contains('?')
                || without_prefix(file, "file:").is_some() =>
            {
                Err(MetadataUrlError::NotAPlainFile)
            }
            file if file.ends_with('/') => Err(MetadataUrlError::NoFile),
            file => Ok(Self::SqliteFile(PathBuf::from(file))),
        }
    }
}

/// The rest of `text` behind `prefix`, whose letters may be of any case.
fn without_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

impl MetadataUrl {
    /// The file, when there is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::SqliteFile(path) => Some(path),
            Self::SqliteMemory => None,
        }
    }

    /// Whether a database can be there: opens nothing but the file's first bytes, and creates nothing. Whether
    /// somebody else has it locked, or whether it is damaged, is seen when it is opened.
    pub fn check_place(&self) -> Result<(), OpenError> {
        self.file().map_or(Ok(()), crate::open::check_place)
    }
}

impl fmt::Display for MetadataUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SqliteFile(path) => write!(out, "{SQLITE}{}", path.display()),
            Self::SqliteMemory => write!(out, "{SQLITE}:memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<MetadataUrl, MetadataUrlError> {
        text.parse()
    }

    #[test]
    fn the_sqlite_forms_are_taken_and_printed_back() {
        for (text, path) in [
            ("jdbc:sqlite:cassy.db", "cassy.db"),
            ("jdbc:sqlite:/var/lib/cassy/cassy.db", "/var/lib/cassy/cassy.db"),
            ("jdbc:sqlite:../a b%20ü#.db", "../a b%20ü#.db"),
        ] {
            assert_eq!(parsed(text), Ok(MetadataUrl::SqliteFile(PathBuf::from(path))));
            assert_eq!(parsed(text).unwrap().to_string(), text);
        }
        assert_eq!(parsed("JDBC:SQLite:x"), Ok(MetadataUrl::SqliteFile(PathBuf::from("x"))));
        assert_eq!(parsed("jdbc:sqlite::memory:").unwrap().to_string(), "jdbc:sqlite::memory:");
    }

    #[test]
    fn everything_else_is_refused_with_what_was_expected() {
        for product in ["postgresql", "mysql", "mariadb"] {
            let error = parsed(&format!("jdbc:{product}://db/cassy?user=u&password=secret")).unwrap_err();
            assert!(matches!(error, MetadataUrlError::NotYet { .. }));
            assert!(!error.to_string().contains("secret"));
        }
        for text in
            ["", "cassy.db", "sqlite:cassy.db", "jdbc:oracle:thin:@x", "jdbc:sqlit", "jdbc:h2:mem", "é"]
        {
            assert_eq!(parsed(text), Err(MetadataUrlError::Unsupported), "{text}");
        }
        assert_eq!(parsed("jdbc:sqlite:"), Err(MetadataUrlError::NoFile));
        assert_eq!(parsed("jdbc:sqlite:dir/"), Err(MetadataUrlError::NoFile));
        for text in ["jdbc:sqlite:a.db?mode=ro", "jdbc:sqlite:file:a.db", "jdbc:sqlite::resource:a.db"] {
            assert_eq!(parsed(text), Err(MetadataUrlError::NotAPlainFile), "{text}");
        }
    }
}
