//! The requests that make an object: put at once, or begun, sent in parts, completed, aborted.
//!
//! What is asked for again after an answer got lost may have been done: then the object that is there is compared with
//! what was sent.

use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use http::Method;

use super::checksum;
use super::client::{Ask, S3Client, Tries};
use super::transport::Pieces;
use super::{SMALL_LIMIT_BYTES, xml};
use crate::{StoreError, StoredObject};

/// A part that the store has.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) number: u32,
    etag: String,
    checksum: String,
}

/// Puts a whole object where there is none.
pub(super) async fn put(
    client: &S3Client,
    key: &ObjectKey,
    pieces: Vec<Bytes>,
) -> Result<StoredObject, StoreError> {
    let body = Pieces::from(pieces);
    let (size, sum) = (body.bytes(), checksum::of(body.as_slice()));
    let ask = Ask::of_object(Method::PUT, "write", key.as_str())
        .header("if-none-match", "*")
        .header(checksum::HEADER, sum.clone())
        .body(body);
    let mut tries = client.tries();
    loop {
        let error = match client.try_whole(&ask, SMALL_LIMIT_BYTES).await {
            Ok(answer) => match checksum::in_headers(&answer.headers) {
                Some(told) if told != sum => damaged(&ask, &sum, &told),
                told => return stored(client, key.as_str(), size, &sum, told).await,
            },
            Err(error) if is_taken(&error) => return taken(client, key, size, &sum, &tries).await,
            Err(error) => error,
        };
        tries.after(error).await?;
    }
}

/// Begins an object that is sent in parts; answers the upload's id.
pub(super) async fn begin(client: &S3Client, key: &str) -> Result<String, StoreError> {
    let ask = Ask::of_object(Method::POST, "write", key)
        .query("uploads", "")
        .header("x-amz-checksum-algorithm", "CRC64NVME")
        .header("x-amz-checksum-type", "FULL_OBJECT");
    let answer = client.whole(&ask, SMALL_LIMIT_BYTES).await?;
    let id = xml::text_at(&answer.body, &["InitiateMultipartUploadResult", "UploadId"]);
    let fits = |id: &String| !id.is_empty() && id.len() <= super::list::ID_LIMIT_BYTES;
    id.filter(fits).ok_or_else(|| client.misbehaved(&ask, "it names no upload"))
}

/// Sends a part.
pub(super) async fn part(
    client: &S3Client,
    key: &str,
    upload: &str,
    number: u32,
    pieces: Vec<Bytes>,
) -> Result<Part, StoreError> {
    let body = Pieces::from(pieces);
    let checksum = checksum::of(body.as_slice());
    let ask = Ask::of_object(Method::PUT, "write", key)
        .query("partNumber", number.to_string())
        .query("uploadId", upload)
        .header(checksum::HEADER, checksum.clone())
        .body(body);
    let mut tries = client.tries();
    let answer = loop {
        let answer = client.try_whole(&ask, SMALL_LIMIT_BYTES).await;
        let error = match answer.map(|answer| (checksum::in_headers(&answer.headers), answer)) {
            Ok((Some(told), _)) if told != checksum => damaged(&ask, &checksum, &told),
            Ok((_, answer)) => break answer,
            Err(error) => error,
        };
        tries.after(error).await?;
    };
    let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok());
    let etag = etag.filter(|etag| !etag.is_empty() && etag.len() <= 256);
    let etag = etag.ok_or_else(|| client.misbehaved(&ask, "it gives a part no ETag"))?.to_owned();
    Ok(Part { number, etag, checksum })
}

/// Makes an object of its parts where there is none.
pub(super) async fn complete(
    client: &S3Client,
    key: &ObjectKey,
    upload: &str,
    parts: &[Part],
    size: u64,
    sum: &str,
) -> Result<StoredObject, StoreError> {
    let ask = Ask::of_object(Method::POST, "write", key.as_str())
        .query("uploadId", upload)
        .header("if-none-match", "*")
        .header(checksum::HEADER, sum.to_owned())
        .header("x-amz-checksum-type", "FULL_OBJECT")
        .header("x-amz-mp-object-size", size.to_string())
        .body(Bytes::from(list_of(parts)));
    let mut tries = client.tries();
    loop {
        let error = match client.try_whole(&ask, SMALL_LIMIT_BYTES).await {
            // S3 begins with 200 and may end with an error all the same.
            Ok(answer) if xml::text_at(&answer.body, &["Error", "Code"]).is_some() => {
                client.answered(&ask, 500, &answer.body, None)
            }
            Ok(answer) => {
                let told = told_sum(client, &ask, &answer.body)?;
                if let Some(told) = told.as_ref().filter(|told| *told != sum) {
                    return Err(damaged(&ask, sum, told));
                }
                return stored(client, key.as_str(), size, sum, told).await;
            }
            Err(error) if is_taken(&error) => return taken(client, key, size, sum, &tries).await,
            Err(error) if is_gone(&error) && tries.is_repeated() => {
                return match taken(client, key, size, sum, &tries).await {
                    // The upload is gone, and so is what it was to become.
                    Err(missing) if missing.is_not_found() => Err(error),
                    outcome => outcome,
                };
            }
            Err(error) => error,
        };
        tries.after(error).await?;
    }
}

/// The checksum of the whole in the answer to a completion.
fn told_sum(client: &S3Client, ask: &Ask, body: &[u8]) -> Result<Option<String>, StoreError> {
    let told = |name| xml::text_at(body, &["CompleteMultipartUploadResult", name]);
    if told("ETag").is_none() {
        return Err(client.misbehaved(ask, "it does not say that the object is there"));
    }
    let is_whole = told("ChecksumType").is_none_or(|kind| kind == "FULL_OBJECT");
    Ok(told("ChecksumCRC64NVME").filter(|text| is_whole && !text.is_empty() && !text.contains('-')))
}

/// Gives an upload up; one that is gone is fine.
pub(super) async fn abort(client: &S3Client, key: &str, upload: &str) -> Result<(), StoreError> {
    let ask = Ask::of_object(Method::DELETE, "abort", key).query("uploadId", upload);
    match client.whole(&ask, SMALL_LIMIT_BYTES).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || is_gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Size and checksum of an object, as the store tells them.
pub(super) async fn head(client: &S3Client, key: &str) -> Result<(u64, Option<String>), StoreError> {
    let ask = Ask::of_object(Method::HEAD, "read", key).header("x-amz-checksum-mode", "ENABLED");
    let answer = client.whole(&ask, SMALL_LIMIT_BYTES).await?;
    let length = answer.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let length = length.ok_or_else(|| client.misbehaved(&ask, "it does not say how long the object is"))?;
    Ok((length, checksum::in_headers(&answer.headers)))
}

/// The object is acknowledged: with its checksum, or else with its size.
async fn stored(
    client: &S3Client,
    key: &str,
    size: u64,
    sum: &str,
    told: Option<String>,
) -> Result<StoredObject, StoreError> {
    if told.is_some() {
        return Ok(StoredObject { size, checksum: Some(checksum::named(sum)) });
    }
    let (size, checksum) = head(client, key).await?;
    match checksum {
        Some(told) if told != sum => {
            let ask = Ask::of_object(Method::HEAD, "write", key);
            Err(damaged(&ask, sum, &told))
        }
        checksum => Ok(StoredObject { size, checksum: checksum.as_deref().map(checksum::named) }),
    }
}

/// There is an object of this key, which an earlier try may have made.
async fn taken(
    client: &S3Client,
    key: &ObjectKey,
    size: u64,
    sum: &str,
    tries: &Tries,
) -> Result<StoredObject, StoreError> {
    let already = || StoreError::AlreadyExists { key: key.clone() };
    if !tries.is_repeated() {
        return Err(already());
    }
    let (there, checksum) = head(client, key.as_str()).await?;
    if there == size && checksum.as_deref() == Some(sum) {
        return Ok(StoredObject { size, checksum: Some(checksum::named(sum)) });
    }
    Err(already())
}

fn damaged(ask: &Ask, expected: &str, got: &str) -> StoreError {
    let got = got.chars().filter(char::is_ascii_graphic).take(40).collect();
    let (operation, subject) = (ask.operation, ask.subject.clone());
    StoreError::Damaged { operation, subject, expected: expected.to_owned(), got }
}

/// The precondition failed: an object has this key.
fn is_taken(error: &StoreError) -> bool {
    error.refusal().is_some_and(|(status, _)| status == 412)
}

fn is_gone(error: &StoreError) -> bool {
    error.refusal().is_some_and(|(_, code)| code == "NoSuchUpload")
}

fn list_of(parts: &[Part]) -> String {
    let mut list = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
    for Part { number, etag, checksum } in parts {
        let etag = xml::escaped(etag);
        list.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>\
             <ChecksumCRC64NVME>{checksum}</ChecksumCRC64NVME></Part>"
        ));
    }
    list.push_str("</CompleteMultipartUpload>");
    list
}
