//! Where a bucket is: endpoint, path style or virtual host, prefix; and what a user may say about it.

use http::Uri;
use percent_encoding::percent_decode_str;

/// How a bucket is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// `https://host:port` of a server that speaks S3; AWS itself when there is none.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: String,
    /// Whether the bucket is part of the path, not of the host's name. `None`: at AWS it is part of the host's name, at
    /// other servers of the path.
    pub path_style: Option<bool>,
    /// Certificates, in the PEM format, that alone are trusted in place of the system's.
    pub ca_pem: Option<String>,
    /// How long to wait and to try.
    pub patience: Patience,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: DEFAULT_REGION.to_owned(),
            path_style: None,
            ca_pem: None,
            patience: Patience::default(),
        }
    }
}

/// The region that is asked when none is named.
pub const DEFAULT_REGION: &str = "us-east-1";

/// How long to wait and to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries of one request, the first included.
    pub tries: u32,
    /// Before the second try; doubled for each further one, to 30 times as much at most.
    pub pause: std::time::Duration,
    /// For an answer to begin, and for each pause in it.
    pub silence: std::time::Duration,
}

impl Default for Patience {
    fn default() -> Self {
        use std::time::Duration;
        Self { tries: 8, pause: Duration::from_millis(200), silence: Duration::from_secs(60) }
    }
}

/// A text that is no endpoint; says what is wrong.
pub fn check_endpoint(text: &str) -> Result<(), &'static str> {
    parse_endpoint(text).map(drop)
}

fn parse_endpoint(text: &str) -> Result<(bool, String), &'static str> {
    let uri: Uri = text.parse().map_err(|_invalid| "it is no URI")?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("it does not begin with https:// or http://"),
    };
    let authority = uri.authority().ok_or("it names no host")?.as_str();
    if authority.contains('@') {
        return Err("it holds a user or a password");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("it has a path");
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err("it names no host");
    }
    let default = if is_tls { ":443" } else { ":80" };
    Ok((is_tls, authority.strip_suffix(default).unwrap_or(authority).to_owned()))
}

/// A text that is no region; says what is wrong.
pub fn check_region(text: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
        return Err("it is not made of lower-case letters, digits and dashes");
    }
    Ok(())
}

/// The domain of AWS that a region is in.
pub(super) fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) is_tls: bool,
    /// With the port, unless it is the usual one.
    pub(super) host: String,
    /// `/bucket`, or nothing where the host's name holds it.
    base: String,
    /// What all keys begin with; empty, or with a slash at its end.
    pub(super) prefix: String,
    pub(super) bucket: String,
}

impl Place {
    pub(super) fn new(bucket: &str, prefix: &str, settings: &S3Settings) -> Result<Self, &'static str> {
        check_region(&settings.region)?;
        let region = &settings.region;
        let (is_tls, host) = match &settings.endpoint {
            Some(endpoint) => parse_endpoint(endpoint)?,
            None => (true, format!("s3.{region}.{}", domain(region))),
        };
        // A certificate for *.host covers no dots.
        let usual = settings.endpoint.is_some() || bucket.contains('.');
        let (host, base) = if settings.path_style.unwrap_or(usual) {
            (host, format!("/{bucket}"))
        } else {
            (format!("{bucket}.{host}"), String::new())
        };
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { is_tls, host, base, prefix, bucket: bucket.to_owned() })
    }

    /// The path of an object, or of the bucket, before it is encoded.
    pub(super) fn path(&self, key: Option<&str>) -> String {
        match key {
            Some(key) => format!("{}/{}{key}", self.base, self.prefix),
            None if self.base.is_empty() => "/".to_owned(),
            None => self.base.clone(),
        }
    }

    pub(super) fn uri(&self, path: &str, query: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        let separator = if query.is_empty() { "" } else { "?" };
        format!("{scheme}://{}{path}{separator}{query}", self.host)
    }

    /// `host/bucket`, for messages.
    pub(super) fn shown(&self) -> String {
        format!("{}{}", self.host, self.base)
    }
}

/// The bucket and the prefix in what follows `s3:`.
pub(crate) fn bucket_and_prefix(rest: &str) -> Result<(String, String), (&'static str, &'static str)> {
    const FORM: &str = "Write s3://bucket or s3://bucket/prefix.";
    let Some(rest) = rest.strip_prefix("//") else { return Err(("it names no bucket", FORM)) };
    if rest.contains(['?', '#']) {
        return Err(("it holds a ? or #", "Endpoint, region and credentials have keys of their own."));
    }
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains(['@', ':']) {
        return Err((
            "it holds a user, a password or a port",
            "Endpoint and credentials have keys of their own.",
        ));
    }
    check_bucket(bucket).map_err(|reason| (reason, FORM))?;
    let prefix: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if prefix.iter().any(|segment| matches!(*segment, "." | "..")) {
        return Err(("its path holds . or ..", "Write the path without them."));
    }
    let prefix = prefix.join("/");
    if percent_decode_str(&prefix).count() != prefix.len() {
        return Err(("its path holds an encoded character", "Write the characters themselves."));
    }
    if prefix.len() > PREFIX_LIMIT_BYTES {
        return Err(("its path is too long", "Leave room for the keys: 200 bytes are the most."));
    }
    Ok((bucket.to_owned(), prefix))
}

/// Of the 1,024 bytes that a key may have.
const PREFIX_LIMIT_BYTES: usize = 200;

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
fn check_bucket(bucket: &str) -> Result<(), &'static str> {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = bucket.as_bytes();
    let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if bucket.is_empty() {
        return Err("it names no bucket");
    }
    if !(3..=63).contains(&bytes.len())
        || !bytes.iter().all(allowed)
        || !is_edge(bytes.first())
        || !is_edge(bytes.last())
        || bucket.contains("..")
        || bucket.parse::<std::net::Ipv4Addr>().is_ok()
    {
        return Err("the name of its bucket is none");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(
        bucket: &str,
        prefix: &str,
        endpoint: Option<&str>,
        path_style: Option<bool>,
    ) -> (String, String) {
        let endpoint = endpoint.map(str::to_owned);
        let settings =
            S3Settings { endpoint, path_style, region: "eu-west-1".to_owned(), ..Default::default() };
        let place = Place::new(bucket, prefix, &settings).expect("a place");
        (place.uri(&place.path(Some("a/b")), ""), place.uri(&place.path(None), "x="))
    }

    #[test]
    fn buckets_are_in_the_host_or_in_the_path() {
        let both = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            place("bucket", "p/q", None, None),
            both(
                "https://bucket.s3.eu-west-1.amazonaws.com/p/q/a/b",
                "https://bucket.s3.eu-west-1.amazonaws.com/?x="
            )
        );
        assert_eq!(
            place("my.bucket", "", None, None),
            both(
                "https://s3.eu-west-1.amazonaws.com/my.bucket/a/b",
                "https://s3.eu-west-1.amazonaws.com/my.bucket?x="
            )
        );
        assert_eq!(
            place("bucket", "", Some("http://127.0.0.1:9000/"), None).0,
            "http://127.0.0.1:9000/bucket/a/b"
        );
        assert_eq!(
            place("bucket", "", Some("https://s3.test:443"), Some(false)).0,
            "https://bucket.s3.test/a/b"
        );
        assert_eq!(domain("cn-north-1"), "amazonaws.com.cn");
    }

    #[test]
    fn wrong_endpoints_and_regions_are_named() {
        for (text, reason) in [
            ("s3.test", "it does not begin with https:// or http://"),
            ("ftp://s3.test", "it does not begin with https:// or http://"),
            ("https://user:secret@s3.test", "it holds a user or a password"),
            ("https://s3.test/path", "it has a path"),
            ("https://s3.test/?x", "it has a path"),
            ("https://s3 test", "it is no URI"),
            ("", "it is no URI"),
        ] {
            assert_eq!(check_endpoint(text), Err(reason), "{text}");
        }
        for good in ["https://s3.test", "http://[::1]:9000", "https://s3.test:8443/"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for bad in ["", "EU", "eu west", "a/b", &"x".repeat(65)] {
            assert!(check_region(bad).is_err(), "{bad}");
        }
    }
}
