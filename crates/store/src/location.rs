//! The store's URI: parsed once, at the edge.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::s3::{self, Credentials, S3Settings};

/// Everything but what RFC 3986 leaves unreserved, and the slash.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Schemes of stores that later versions use.
const LATER: &[&str] = &["azure", "azblob", "abfs", "abfss", "https", "gs", "gcs", "sftp"];

/// Where a store is. `Display` gives the URI back, in its plainest spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreLocation {
    /// `file:///absolute/path`: a directory that server and nodes all see. Absolute, without `.` and `..`,
    /// never `/` itself.
    File(PathBuf),
    /// `s3://bucket/prefix`: a bucket at AWS, or at a server that speaks its protocol.
    S3 {
        /// The bucket.
        bucket: String,
        /// What all keys begin with, without a slash at either end; may be empty.
        prefix: String,
    },
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
        // What is before an @ may be a password.
        let text = match text.rsplit_once('@') {
            Some((_, after)) => format!("...@{after}"),
            None => text.to_owned(),
        };
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
            "s3" => match s3::bucket_and_prefix(rest) {
                Ok((bucket, prefix)) => Ok(Self::S3 { bucket, prefix }),
                Err((reason, hint)) => Err(LocationError::new(text, reason, Some(hint.to_owned()))),
            },
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
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Later(uri) => f.write_str(uri),
        }
    }
}

/// What is needed to open a store.
#[derive(Debug, Clone)]
pub struct StoreAccess {
    /// The store's URI, as configured.
    pub location: String,
    /// Of `s3:` only: how the bucket is reached.
    pub s3: S3Settings,
    /// Of `s3:` only: who we are to it. Without, such a store is refused.
    pub credentials: Option<Credentials>,
}

impl StoreAccess {
    /// A store that needs nothing but its URI.
    pub fn new(location: impl Into<String>) -> Self {
        Self { location: location.into(), s3: S3Settings::default(), credentials: None }
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
    fn s3_uris_name_a_bucket_and_a_prefix() {
        for (text, bucket, prefix, display) in [
            ("s3://bucket", "bucket", "", "s3://bucket"),
            ("S3://bucket/", "bucket", "", "s3://bucket"),
            ("s3://my.bucket-1//a/b c/", "my.bucket-1", "a/b c", "s3://my.bucket-1/a/b c"),
            ("s3://bucket/100%", "bucket", "100%", "s3://bucket/100%"),
        ] {
            let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
            let location = parsed(text).expect(text);
            assert_eq!(location, StoreLocation::S3 { bucket, prefix }, "{text}");
            assert_eq!(location.to_string(), display);
        }
        for (text, reason) in [
            ("s3:bucket", "it names no bucket"),
            ("s3://", "it names no bucket"),
            ("s3:///path", "it names no bucket"),
            ("s3://Bucket", "the name of its bucket is none"),
            ("s3://ab", "the name of its bucket is none"),
            ("s3://-abc", "the name of its bucket is none"),
            ("s3://a..b", "the name of its bucket is none"),
            ("s3://10.0.0.1", "the name of its bucket is none"),
            ("s3://bücket", "the name of its bucket is none"),
            ("s3://key:secret@bucket/p", "it holds a user, a password or a port"),
            ("s3://bucket:9000", "it holds a user, a password or a port"),
            ("s3://bucket/a/../b", "its path holds . or .."),
            ("s3://bucket/a%2Fb", "its path holds an encoded character"),
            ("s3://bucket?region=x", "it holds a ? or #"),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.ends_with(reason), "{text}: {error}");
        }
        let long = format!("s3://bucket/{}", "x".repeat(201));
        assert!(parsed(&long).expect_err("too long").ends_with("its path is too long"));
    }

    #[test]
    fn stores_of_later_versions_are_recognized() {
        for uri in ["gs://bucket", "sftp://user@host/path", "https://acct.blob.core.windows.net/c"] {
            assert_eq!(parsed(uri), Ok(StoreLocation::Later(uri.to_owned())));
            let error = crate::open(&StoreAccess::new(uri)).expect_err("later");
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
