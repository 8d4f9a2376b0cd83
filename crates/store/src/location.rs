//! The store's URI: parsed once, at the edge.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize};

/// Everything but what RFC 3986 leaves unreserved, and the slash.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Schemes of stores that later versions use.
const LATER: &[&str] = &["s3", "azure", "azblob", "abfs", "abfss", "https", "gs", "gcs", "sftp"];

/// Where a store is. `Display` gives the URI back, in its plainest spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreLocation {
    /// `file:///absolute/path`: a directory that server and nodes all see. Absolute, without `.` and `..`,
    /// never `/` itself.
    File(PathBuf),
    /// A store that this version recognizes and cannot use yet; the whole URI.
    Later(String),
}

/// Why a text is not the URI of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the URI of a store: {reason}")]
pub struct LocationError {
    text: String,
    reason: String,
    hint: Option<String>,
}

impl LocationError {
    fn new(text: &str, reason: impl Into<String>, hint: Option<String>) -> Self {
        let text = text.chars().take(200).collect();
        Self { text, reason: reason.into(), hint }
    }

    /// What to write instead, when it is known.
    pub fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

impl FromStr for StoreLocation {
    type Err = LocationError;
    fn from_str(text: &str) -> Result<Self, LocationError> {
        let Some((scheme, rest)) = text.split_once(':') else {
            let hint = text.starts_with('/').then(|| format!("Write {}.", file_uri(Path::new(text))));
            return Err(LocationError::new(text, "it has no scheme such as file:", hint));
        };
        if text.chars().any(char::is_control) {
            return Err(LocationError::new(text, "it holds a control character", None));
        }
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "file" => file_path(text, rest).map(Self::File),
            later if LATER.contains(&later) => Ok(Self::Later(text.to_owned())),
            _ => Err(LocationError::new(text, format!("the scheme {scheme}: is unknown"), None)),
        }
    }
}

/// `rest` is what follows `file:`; RFC 8089 allows `/path`, `///path` and `//localhost/path`.
fn file_path(text: &str, rest: &str) -> Result<PathBuf, LocationError> {
    let error = |reason: &str, hint: &str| Err(LocationError::new(text, reason, Some(hint.to_owned())));
    let path = match rest.strip_prefix("//") {
        Some(after) => after.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(after),
        None => rest,
    };
    if !path.starts_with('/') {
        return error(
            "its path is relative, or it names a host",
            "Write file:///absolute/path, with three slashes.",
        );
    }
    if path.contains(['?', '#']) {
        return error("it holds a ? or #", "Write %3F for a ? and %23 for a # in the path.");
    }
    if has_stray_percent(path) {
        return error("a % is not followed by two hexadecimal digits", "Write %25 for a % in the path.");
    }
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    if bytes.iter().any(u8::is_ascii_control) {
        return error("its path holds a control character", "Choose another path.");
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    if path.components().any(|part| part == Component::ParentDir) {
        return error("its path holds ..", "Write the path without .. in it.");
    }
    // Collecting the components leaves out `.`, doubled slashes and a slash at the end.
    let path: PathBuf = path.components().collect();
    if path == Path::new("/") {
        return error("it is the root of the file system", "Name a directory for the backups alone.");
    }
    Ok(path)
}

fn has_stray_percent(path: &str) -> bool {
    path.split('%').skip(1).any(|after| {
        let mut digits = after.bytes().take(2);
        !(digits.next().is_some_and(|b| b.is_ascii_hexdigit())
            && digits.next().is_some_and(|b| b.is_ascii_hexdigit()))
    })
}

fn file_uri(path: &Path) -> String {
    format!("file://{}", percent_encode(path.as_os_str().as_bytes(), ENCODED))
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(&file_uri(path)),
            Self::Later(uri) => f.write_str(uri),
        }
    }
}

/// What is needed to open a store; sent to agents in a frame, never in argv, environment or files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAccess {
    /// The store's URI, as configured.
    pub location: String,
}

impl fmt::Debug for StoreAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreAccess").field("location", &self.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<StoreLocation, String> {
        text.parse().map_err(|error: LocationError| format!("{error}"))
    }

    #[test]
    fn file_uris_name_absolute_paths() {
        for (text, path, display) in [
            ("file:///backups/cassy", "/backups/cassy", "file:///backups/cassy"),
            ("FILE:///backups/", "/backups", "file:///backups"),
            ("file:/backups", "/backups", "file:///backups"),
            ("file://localhost/backups", "/backups", "file:///backups"),
            ("file:////backups//a/./b", "/backups/a/b", "file:///backups/a/b"),
            ("file:///a b", "/a b", "file:///a%20b"),
            ("file:///a%20b", "/a b", "file:///a%20b"),
            ("file:///100%25", "/100%", "file:///100%25"),
            ("file:///a%2Fb", "/a/b", "file:///a/b"),
            ("file:///datensicherung/ä", "/datensicherung/ä", "file:///datensicherung/%C3%A4"),
        ] {
            let location = parsed(text).expect(text);
            assert_eq!(location, StoreLocation::File(path.into()), "{text}");
            assert_eq!(location.to_string(), display);
            assert_eq!(parsed(display), Ok(location), "{display} round-trips");
        }
    }

    #[test]
    fn wrong_uris_say_what_is_wrong() {
        for (text, reason) in [
            ("file://relative", "its path is relative, or it names a host"),
            ("file://host/path", "its path is relative, or it names a host"),
            ("file://localhostile/path", "its path is relative, or it names a host"),
            ("file:relative", "its path is relative, or it names a host"),
            ("file:", "its path is relative, or it names a host"),
            ("file:///", "it is the root of the file system"),
            ("file:///.", "it is the root of the file system"),
            ("file:///a/../../etc", "its path holds .."),
            ("file:///a/%2e%2E/etc", "its path holds .."),
            ("file:///a%", "a % is not followed by two hexadecimal digits"),
            ("file:///a%zz", "a % is not followed by two hexadecimal digits"),
            ("file:///a%4", "a % is not followed by two hexadecimal digits"),
            ("file:///a%00b", "its path holds a control character"),
            ("file:///a?b", "it holds a ? or #"),
            ("file:///a\nb", "it holds a control character"),
            ("/backups", "it has no scheme such as file:"),
            ("", "it has no scheme such as file:"),
            ("ftp://host/path", "the scheme ftp: is unknown"),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.ends_with(reason), "{text}: {error}");
        }
        let error = "/back ups".parse::<StoreLocation>().expect_err("no scheme");
        assert_eq!(error.hint().as_deref(), Some("Write file:///back%20ups."));
    }

    #[test]
    fn stores_of_later_versions_are_recognized() {
        for uri in [
            "s3://bucket/path",
            "gs://bucket",
            "sftp://user@host/path",
            "https://acct.blob.core.windows.net/c",
        ] {
            assert_eq!(parsed(uri), Ok(StoreLocation::Later(uri.to_owned())));
            let error = crate::open(&StoreAccess { location: uri.to_owned() }).expect_err("later");
            assert!(error.to_string().contains("not supported yet"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn display_round_trips(bytes in proptest::collection::vec(1u8..=255, 1..40)) {
            let path = Path::new("/").join(std::ffi::OsStr::from_bytes(&bytes));
            if let Ok(location) = file_uri(&path).parse::<StoreLocation>() {
                proptest::prop_assert_eq!(location.to_string().parse::<StoreLocation>(), Ok(location));
            }
        }
    }
}
