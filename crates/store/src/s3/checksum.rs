//! CRC-64/NVME, which S3 computes too, as S3 writes it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use http::HeaderMap;

/// The header that holds it, in requests and in answers.
pub(super) const HEADER: &str = "x-amz-checksum-crc64nvme";

/// A checksum that grows.
pub(super) struct Crc64(Digest);

impl Crc64 {
    pub(super) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Nvme))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn text(&self) -> String {
        STANDARD.encode(self.0.finalize().to_be_bytes())
    }
}

/// Of all pieces, one after the other.
pub(super) fn of(pieces: &[Bytes]) -> String {
    let mut crc = Crc64::new();
    for piece in pieces {
        crc.update(piece);
    }
    crc.text()
}

/// What the store says the checksum of the whole object is; one of parts (`...-7`) says nothing about it.
pub(super) fn in_headers(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get("x-amz-checksum-type").and_then(|kind| kind.to_str().ok());
    let text = headers.get(HEADER)?.to_str().ok()?;
    let is_whole = kind.is_none_or(|kind| kind == "FULL_OBJECT") && !text.contains('-');
    is_whole.then(|| text.to_owned())
}

/// As manifests name it.
pub(super) fn named(text: &str) -> String {
    format!("crc64nvme:{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_one_of_the_catalogues() {
        // The check value of CRC-64/NVME, of the digits from 1 to 9.
        let check = STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_be_bytes());
        assert_eq!(of(&[Bytes::from_static(b"12345"), Bytes::from_static(b"6789")]), check);
        assert_eq!(of(&[]), "AAAAAAAAAAA=");
    }
}
