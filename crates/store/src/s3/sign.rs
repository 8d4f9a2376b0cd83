//! AWS Signature Version 4, in headers.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>. Every header that we set is
//! signed, so that none can be taken away on the way.

use std::time::SystemTime;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::credentials::S3Credentials;
use super::time;

/// Everything but what RFC 3986 leaves unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');
/// In the place of the payload's hash: TLS protects the payload, and a checksum of its own proves it.
pub(super) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// What is to be signed.
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    /// Encoded by [`path`].
    pub(super) path: &'a str,
    /// Encoded by [`query`].
    pub(super) query: &'a str,
    /// Names in lower case.
    pub(super) headers: Vec<(&'static str, String)>,
    /// SHA-256 in hexadecimal digits, or [`UNSIGNED`].
    pub(super) payload: &'a str,
    /// `s3`, but for other services of AWS.
    pub(super) service: &'a str,
}

/// A path as it is signed and sent.
pub(super) fn path(path: &str) -> String {
    utf8_percent_encode(path, ENCODED_PATH).to_string()
}

/// A query as it is signed and sent: in the order of its encoded names.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
    let mut encoded: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    encoded.sort_unstable();
    encoded.join("&")
}

/// The SHA-256 of a payload.
pub(super) fn payload_hash(pieces: &[Bytes]) -> String {
    let mut context = digest::Context::new(&SHA256);
    for piece in pieces {
        context.update(piece);
    }
    hex::encode(context.finish())
}

/// All headers to send but `host`: those given, and those that make the signature.
pub(super) fn headers(
    request: Unsigned<'_>,
    credentials: &S3Credentials,
    region: &str,
    now: SystemTime,
) -> Vec<(&'static str, String)> {
    let stamp = time::basic(now);
    let Unsigned { method, host, path, query, mut headers, payload, service } = request;
    headers.push(("x-amz-content-sha256", payload.to_owned()));
    headers.push(("x-amz-date", stamp.clone()));
    if let Some(token) = &credentials.session_token {
        headers.push(("x-amz-security-token", token.clone()));
    }
    let mut signed: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.trim())).collect();
    signed.push(("host", host));
    signed.sort_unstable();
    let canonical_headers: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical = format!("{method}\n{path}\n{query}\n{canonical_headers}\n{names}\n{payload}");
    let date = stamp.get(..8).unwrap_or_default();
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let hashed = hex::encode(digest::digest(&SHA256, canonical.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}");
    let mut key = format!("AWS4{}", credentials.secret_access_key).into_bytes();
    for part in [date, region, service, "aws4_request"] {
        key = hmac::sign(&Key::new(HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let signature = hex::encode(hmac::sign(&Key::new(HMAC_SHA256, &key), text.as_bytes()));
    let id = &credentials.access_key_id;
    headers.push((
        "authorization",
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"),
    ));
    headers
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn example() -> S3Credentials {
        S3Credentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            expires_at_ms: None,
        }
    }

    fn signature(request: Unsigned<'_>) -> String {
        // 2013-05-24, the day of the examples in AWS's documentation.
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let headers = headers(request, &example(), "us-east-1", now);
        let (_, value) = headers.last().expect("the authorization is last");
        value.rsplit_once("Signature=").expect("a signature").1.to_owned()
    }

    const HOST: &str = "examplebucket.s3.amazonaws.com";

    /// The examples of the documentation that is named above.
    #[test]
    fn the_documented_examples_are_signed_as_documented() {
        let empty = payload_hash(&[]);
        let request = Unsigned {
            method: "GET",
            host: HOST,
            path: &path("/test.txt"),
            query: "",
            headers: vec![("range", "bytes=0-9".to_owned())],
            payload: &empty,
            service: "s3",
        };
        assert_eq!(signature(request), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let request = Unsigned {
            method: "GET",
            host: HOST,
            path: "/",
            query: &query(&[("prefix", "J"), ("max-keys", "2")]),
            headers: Vec::new(),
            payload: &empty,
            service: "s3",
        };
        assert_eq!(signature(request), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
        let request = Unsigned {
            method: "PUT",
            host: HOST,
            path: &path("/test$file.text"),
            query: "",
            headers: vec![
                ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
            ],
            payload: &payload_hash(&[Bytes::from_static(b"Welcome to "), Bytes::from_static(b"Amazon S3.")]),
            service: "s3",
        };
        assert_eq!(signature(request), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    }

    #[test]
    fn paths_and_queries_are_encoded_once() {
        assert_eq!(path("/a b/%2E+c/ü"), "/a%20b/%252E%2Bc/%C3%BC");
        assert_eq!(query(&[("uploads", ""), ("a/b", "c=d&e")]), "a%2Fb=c%3Dd%26e&uploads=");
    }
}
