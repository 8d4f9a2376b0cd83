//! Reading: an object or a range of it, taken up again where a connection breaks.
//!
//! Invariants: never more bytes than were announced; taken up again only in the very object in which reading began (by
//! its ETag); an object that is read as a whole is compared with the store's own checksum of it, if there is one.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::checksum::{self, Crc64};
use super::client::{Ask, S3Client, Tries};
use super::put;
use super::transport::TransportError;
use crate::StoreError;

/// Less than this in one span of the longest pause is taken for a broken connection.
const SLOWEST_BYTES: u64 = 64 << 10;

/// Begins to read.
pub(super) async fn open(
    client: Arc<S3Client>,
    key: ObjectKey,
    range: Option<Range<u64>>,
) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
    if let Some(range) = range.as_ref().filter(|range| range.is_empty()) {
        // HTTP cannot ask for nothing.
        let (size, _) = put::head(&client, key.as_str()).await?;
        check_within(&key, range, size)?;
        return Ok(stream::empty().boxed());
    }
    let ask = Ask::of_object(Method::GET, "read", key.as_str());
    let ask = match &range {
        Some(range) => ask.header("range", of(range)),
        None => ask.header("x-amz-checksum-mode", "ENABLED"),
    };
    let answer = match client.begin(&ask).await {
        Err(error) if error.refusal().is_some_and(|(status, _)| status == 416) => {
            let (size, _) = put::head(&client, key.as_str()).await?;
            return Err(out_of(&key, &range.unwrap_or_default(), size));
        }
        answer => answer?,
    };
    let headers = answer.headers();
    let (span, whole) = match range {
        Some(range) => {
            let (told, size) = told_range(&client, &ask, &answer)?;
            check_within(&key, &range, size)?;
            if told != range {
                return Err(client.misbehaved(&ask, "it holds another range"));
            }
            (range, None)
        }
        None => {
            if answer.status() != StatusCode::OK {
                return Err(client.misbehaved(&ask, "it holds only a part of the object"));
            }
            let size = length(headers).ok_or_else(|| client.misbehaved(&ask, "it says no length"))?;
            (0..size, checksum::in_headers(headers).map(|sum| (Crc64::new(), sum)))
        }
    };
    let etag = headers.get("etag").and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let tries = client.tries();
    let reading = Reading {
        pace: Pace::new(),
        body: Some(answer.into_body()),
        client,
        key,
        at: span.start,
        end: span.end,
        etag,
        whole,
        tries,
    };
    let pieces = stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|piece| (piece, reading)))
    });
    Ok(pieces.boxed())
}

struct Reading {
    client: Arc<S3Client>,
    key: ObjectKey,
    body: Option<Incoming>,
    /// The next byte.
    at: u64,
    end: u64,
    etag: Option<String>,
    /// Of a whole object: what it is so far, and what it has to be.
    whole: Option<(Crc64, String)>,
    tries: Tries,
    pace: Pace,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            let failed = match self.piece().await {
                Ok(Some(piece)) if piece.is_empty() => continue,
                Ok(Some(piece)) => return self.took(piece).map(Some),
                Ok(None) if self.at == self.end => return self.ended(),
                Ok(None) => {
                    let (expected, got) = (self.end, self.at);
                    StoreError::Truncated { key: self.key.clone(), expected, got }
                }
                Err(error) => error,
            };
            self.body = None;
            self.tries.after(failed).await?;
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, StoreError> {
        let ask = Ask::of_object(Method::GET, "read", self.key.as_str());
        let body = match &mut self.body {
            Some(body) => body,
            None if self.at == self.end => return Ok(None),
            None => {
                let body = self.again().await?;
                self.pace = Pace::new();
                self.body.insert(body)
            }
        };
        let begun = Instant::now();
        let piece = self.client.piece(body).await.map_err(|error| self.client.broke(&ask, error))?;
        let bytes = piece.as_ref().map_or(0, Bytes::len) as u64;
        let silence = self.client.silence();
        if piece.is_some() && self.pace.is_too_slow(begun.elapsed(), bytes, silence) {
            return Err(self.client.broke(&ask, TransportError::Silence(silence)));
        }
        Ok(piece)
    }

    /// The rest of the same object.
    async fn again(&self) -> Result<Incoming, StoreError> {
        let rest = self.at..self.end;
        let mut ask = Ask::of_object(Method::GET, "read", self.key.as_str()).header("range", of(&rest));
        if let Some(etag) = &self.etag {
            ask = ask.header("if-match", etag.clone());
        }
        let answer = self.client.begin(&ask).await?;
        let (told, _) = told_range(&self.client, &ask, &answer)?;
        if told != rest {
            return Err(self.client.misbehaved(&ask, "it holds another range"));
        }
        Ok(answer.into_body())
    }

    fn took(&mut self, piece: Bytes) -> Result<Bytes, StoreError> {
        if piece.len() as u64 > self.end - self.at {
            let ask = Ask::of_object(Method::GET, "read", self.key.as_str());
            return Err(self.client.misbehaved(&ask, "it is longer than it said"));
        }
        self.at += piece.len() as u64;
        if let Some((crc, _)) = &mut self.whole {
            crc.update(&piece);
        }
        self.tries.forget();
        Ok(piece)
    }

    fn ended(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some((crc, expected)) = self.whole.take() else { return Ok(None) };
        let got = crc.text();
        if got == expected {
            return Ok(None);
        }
        let expected = expected.chars().filter(char::is_ascii_graphic).take(40).collect();
        Err(StoreError::Damaged { operation: "read", subject: self.key.to_string(), expected, got })
    }
}

/// How fast bytes come, while somebody waits for them.
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new() -> Self {
        Self { waited: Duration::ZERO, bytes: 0 }
    }

    fn is_too_slow(&mut self, waited: Duration, bytes: u64, span: Duration) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < span {
            return false;
        }
        let is_slow = self.bytes < SLOWEST_BYTES;
        *self = Self::new();
        is_slow
    }
}

fn of(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end - 1)
}

/// The range that the answer says it holds, and the size of the whole.
fn told_range(
    client: &S3Client,
    ask: &Ask,
    answer: &Response<Incoming>,
) -> Result<(Range<u64>, u64), StoreError> {
    let told = || {
        let text = answer.headers().get("content-range")?.to_str().ok()?;
        let (span, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let (first, last, size) = (first.parse().ok()?, last.parse::<u64>().ok()?, size.parse().ok()?);
        Some((first..last.checked_add(1)?, size))
    };
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Err(client.misbehaved(ask, "it does not hold the range that was asked for"));
    }
    told().ok_or_else(|| client.misbehaved(ask, "it does not say which range it holds"))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get("content-length")?.to_str().ok()?.parse().ok()
}

fn check_within(key: &ObjectKey, range: &Range<u64>, size: u64) -> Result<(), StoreError> {
    if range.end <= size { Ok(()) } else { Err(out_of(key, range, size)) }
}

fn out_of(key: &ObjectKey, range: &Range<u64>, size: u64) -> StoreError {
    StoreError::OutOfRange { key: key.clone(), range: range.clone(), size }
}
