//! What no honest store does, by a fake: lies about sizes, keys, ranges and checksums, listings without end, redirects,
//! huge errors, silence, drips; answers that get lost. Each is an error within bounds, or is seen through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cassy_store::{Class, Patience, S3Settings, Store, StoreError};
use futures::TryStreamExt;

use crate::fake::{Asked, Fake, Sent, error, reply};
use crate::{PATIENCE, key, keys_of, open, settings};

const ETAG: (&str, &str) = ("etag", "\"e\"");

fn store(fake: &Fake) -> Arc<dyn Store> {
    impatient(fake, Duration::from_secs(20))
}

fn impatient(fake: &Fake, silence: Duration) -> Arc<dyn Store> {
    let patience = Patience { silence, ..PATIENCE };
    let settings = S3Settings { patience, ..settings(&fake.endpoint, None) };
    open("s3://bucket/base", settings, keys_of("id", "top-secret"))
}

async fn fake(answer: impl Fn(&Asked) -> Sent + Send + Sync + 'static) -> (Fake, Arc<dyn Store>) {
    let fake = Fake::start(answer).await;
    let store = store(&fake);
    (fake, store)
}

async fn list_of(body: &'static str) -> Result<Vec<String>, StoreError> {
    let (_fake, store) = fake(move |_| reply(200, &[], body)).await;
    let listed: Vec<_> = store.list("a/").try_collect().await?;
    Ok(listed.into_iter().map(|object| object.key.to_string()).collect())
}

fn misbehaved(error: &StoreError, reason: &str) {
    assert!(matches!(error, StoreError::Misbehaved { .. }), "{error:?}");
    assert!(error.to_string().contains(reason), "{error}");
    assert_eq!(error.class(), Class::Permanent);
}

#[tokio::test]
async fn a_listing_stays_in_its_prefix_and_goes_forward() {
    let good = "<ListBucketResult><Contents><Key>base/a/1</Key><Size>1</Size></Contents><Contents>\
                <Key>base/a/2&amp;</Key><Size>2</Size></Contents></ListBucketResult>";
    assert_eq!(list_of(good).await.expect("listed"), ["a/1", "a/2&"]);
    // Names that are no keys are passed over.
    let odd = "<ListBucketResult><Contents><Key>base/a/\u{1b}[2J</Key><Size>1</Size></Contents><Contents>\
               <Key>base/a//x</Key><Size>2</Size></Contents></ListBucketResult>";
    assert_eq!(list_of(odd).await.expect("listed"), Vec::<String>::new());
    for (body, reason) in [
        (
            "<ListBucketResult><Contents><Key>other/a/1</Key><Size>1</Size></Contents></ListBucketResult>",
            "not under the prefix",
        ),
        (
            "<ListBucketResult><Contents><Key>base/b</Key><Size>1</Size></Contents></ListBucketResult>",
            "not under the prefix",
        ),
        (
            "<ListBucketResult><Contents><Key>base/a/2</Key><Size>1</Size></Contents><Contents>\
             <Key>base/a/1</Key><Size>2</Size></Contents></ListBucketResult>",
            "does not go forward",
        ),
        (
            "<ListBucketResult><Contents><Key>base/a/1</Key><Size>-1</Size></Contents></ListBucketResult>",
            "without a size",
        ),
        (
            "<ListBucketResult><Contents><Key>base/a/1</Key><Size>18446744073709551616</Size></Contents>\
             </ListBucketResult>",
            "without a size",
        ),
        ("<html><body>Log in first</body></html>", "it is no listing"),
        ("<!DOCTYPE x [<!ENTITY a 'aaaa'>]><ListBucketResult>&a;</ListBucketResult>", "document type"),
        ("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", "does not go forward"),
        ("", "it ends too early"),
    ] {
        misbehaved(&list_of(body).await.expect_err(reason), reason);
    }
}

#[tokio::test]
async fn a_listing_that_repeats_itself_ends_with_an_error() {
    let page = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
                <Contents><Key>base/a/1</Key><Size>1</Size></Contents></ListBucketResult>";
    let (fake, store) = fake(move |_| reply(200, &[], page)).await;
    let error = store.list("a/").try_collect::<Vec<_>>().await.expect_err("for ever");
    misbehaved(&error, "does not go forward");
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_list_of_uploads_that_repeats_itself_ends_with_an_error() {
    let page = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>base/a/1</NextKeyMarker>\
                <NextUploadIdMarker>u</NextUploadIdMarker><Upload><Key>base/a/1</Key><UploadId>u</UploadId></Upload>\
                </ListMultipartUploadsResult>";
    let (fake, store) = fake(move |_| reply(200, &[], page)).await;
    let error = store.list_incomplete("a/").try_collect::<Vec<_>>().await.expect_err("for ever");
    misbehaved(&error, "does not go forward");
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_listing_larger_than_a_page_is_not_read_into_memory() {
    let (_fake, store) = fake(|_| reply(200, &[], vec![b' '; 17 << 20])).await;
    let error = store.list("a/").try_collect::<Vec<_>>().await.expect_err("too large");
    misbehaved(&error, "more than 16777216 bytes");
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let elsewhere = Fake::start(|_| reply(200, &[], "secret")).await;
    for status in [301, 302, 307, 308] {
        let target = elsewhere.endpoint.clone();
        let headers = move |_: &Asked| {
            let body = "<Error><Code>PermanentRedirect</Code></Error>";
            reply(status, &[("location", &target), ("x-amz-bucket-region", "eu-west-1")], body)
        };
        let (fake, store) = fake(headers).await;
        let error = store.get(&key("a"), 10).await.expect_err("a redirect");
        assert!(matches!(error, StoreError::Answered(_)), "{error:?}");
        assert_eq!(error.class(), Class::Permanent);
        assert!(error.hint().is_some_and(|hint| hint.contains("eu-west-1") && hint.contains("s3_region")));
        assert_eq!(fake.asked().len(), 1);
    }
    assert!(elsewhere.asked().is_empty(), "credentials went nowhere else");
}

#[tokio::test]
async fn a_huge_error_is_cut_short() {
    let (_fake, store) = fake(|_| {
        let message = format!("line\u{1b}[2J {}", "x".repeat(10_000));
        reply(400, &[], format!("<Error><Code>Bad<x/></Code><Message>{message}</Message></Error>"))
    })
    .await;
    let error = store.check().await.expect_err("no");
    assert!(error.to_string().len() < 500 && !error.to_string().contains(char::is_control), "{error}");
    let (_fake, store) = self::fake(|_| reply(400, &[], vec![b'x'; 8 << 20])).await;
    let error = store.check().await.expect_err("no");
    assert!(matches!(error, StoreError::Answered(_)), "{error:?}");
    assert!(error.to_string().len() < 300, "{error}");
}

#[tokio::test]
async fn a_body_that_is_shorter_than_it_said_is_taken_up_again() {
    let body = "0123456789";
    let (fake, store) = fake(move |asked| match asked.headers.get("range").map(String::as_str) {
        None => reply(200, &[("content-length", "10"), ETAG], &body[..4]),
        Some("bytes=4-9") => {
            reply(206, &[("content-range", "bytes 4-9/10"), ("content-length", "6")], &body[4..7])
        }
        Some("bytes=7-9") => reply(206, &[("content-range", "bytes 7-9/10")], &body[7..]),
        other => panic!("{other:?}"),
    })
    .await;
    assert_eq!(store.get(&key("a"), 10).await.expect("read"), body);
    let matched: Vec<_> = fake.asked().iter().map(|asked| asked.headers.get("if-match").cloned()).collect();
    assert_eq!(matched, [None, Some("\"e\"".to_owned()), Some("\"e\"".to_owned())]);
}

#[tokio::test]
async fn a_body_that_never_comes_whole_is_an_error() {
    let (fake, store) = fake(|asked| match asked.headers.get("range") {
        None => reply(200, &[("content-length", "10"), ETAG], "0123"),
        Some(_) => reply(206, &[("content-range", "bytes 4-9/10"), ("content-length", "6")], ""),
    })
    .await;
    let error = store.get(&key("a"), 10).await.expect_err("cut");
    assert!(matches!(error, StoreError::Unreachable { .. } | StoreError::Truncated { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Transient);
    assert_eq!(fake.asked().len(), 4, "as often as the patience says");
}

#[tokio::test]
async fn another_object_in_its_place_is_not_read_on() {
    let (_fake, store) = fake(|asked| match asked.headers.get("if-match") {
        None => reply(200, &[("content-length", "10"), ETAG], "0123"),
        Some(_) => error(412, "PreconditionFailed"),
    })
    .await;
    let error = store.get(&key("a"), 10).await.expect_err("another");
    assert!(error.to_string().contains("PreconditionFailed"), "{error}");
    assert_eq!(error.class(), Class::Permanent);
}

#[tokio::test]
async fn lies_about_ranges_and_lengths_are_seen() {
    for (status, headers, body, reason) in [
        (200, &[][..], "0123456789", "does not hold the range"),
        (206, &[], "23", "does not say which range"),
        (206, &[("content-range", "bytes 0-1/10")], "23", "another range"),
        (206, &[("content-range", "bytes 2-18446744073709551615/10")], "23", "does not say which range"),
        (206, &[("content-range", "bytes 2-3/10")], "2345", "longer than it said"),
    ] {
        let (_fake, store) = fake(move |_| reply(status, headers, body)).await;
        let read = async { store.read(&key("a"), Some(2..4)).await?.try_collect::<Vec<Bytes>>().await };
        misbehaved(&read.await.expect_err(reason), reason);
    }
    let (_fake, store) = fake(|_| reply(206, &[("content-range", "bytes 2-3/3")], "2")).await;
    let outside = store.read(&key("a"), Some(2..4)).await.map(drop);
    assert!(matches!(outside, Err(StoreError::OutOfRange { size: 3, .. })), "{outside:?}");
    let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01234\r\n".to_vec();
    let (_fake, store) = fake(move |_| Sent::Silence(endless.clone())).await;
    misbehaved(&store.get(&key("a"), 10).await.expect_err("no length"), "it says no length");
}

#[tokio::test]
async fn an_object_of_ten_gigabytes_is_not_read_into_memory() {
    let (_fake, store) = fake(|_| reply(200, &[("content-length", "10737418240"), ETAG], [0; 100])).await;
    let error = store.get(&key("a"), 10).await.expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn what_the_stores_own_checksum_denies_is_damaged() {
    let sum = ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=");
    let (_fake, store) = fake(move |_| reply(200, &[ETAG, sum], "0123")).await;
    let error = store.get(&key("a"), 10).await.expect_err("damaged");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Transient);
    // A checksum of parts says nothing about the whole.
    let parts = [ETAG, ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=-2"), ("x-amz-checksum-type", "COMPOSITE")];
    let (_fake, store) = fake(move |_| reply(200, &parts, "0123")).await;
    assert_eq!(store.get(&key("a"), 10).await.expect("read"), "0123");
    let (fake, store) = fake(move |_| reply(200, &[ETAG, sum], "")).await;
    let error = store.put(&key("a"), Bytes::from_static(b"0123")).await.expect_err("damaged on the way");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert_eq!(fake.asked().len(), 4, "it is sent again");
}

#[tokio::test]
async fn a_store_that_slows_us_down_is_asked_again() {
    let (fake, store) = fake(|asked| match asked.number {
        0 => error(503, "SlowDown"),
        1 => error(500, "InternalError"),
        2 => error(400, "RequestTimeout"),
        _ => reply(200, &[ETAG], "x"),
    })
    .await;
    assert_eq!(store.get(&key("a"), 1).await.expect("read"), "x");
    assert_eq!(fake.asked().len(), 4);
    let (fake, store) = self::fake(|_| error(503, "SlowDown")).await;
    let error = store.delete(&key("a")).await.expect_err("slow");
    assert_eq!(error.class(), Class::Transient);
    assert_eq!(fake.asked().len(), 4);
    let (fake, store) = self::fake(|_| self::error(403, "AccessDenied")).await;
    let error = store.delete(&key("a")).await.expect_err("denied");
    assert_eq!(error.class(), Class::Permanent);
    assert_eq!(fake.asked().len(), 1, "no use in asking again");
}

/// The first answer gets lost after the store has done what was asked.
#[tokio::test]
async fn an_answer_that_got_lost_is_not_a_foreign_object() {
    let sum = Arc::new(std::sync::Mutex::new(String::new()));
    let told = Arc::clone(&sum);
    let honest = move |asked: &Asked| match (asked.method.as_str(), asked.number) {
        ("PUT", 0) => {
            asked.headers["x-amz-checksum-crc64nvme"].clone_into(&mut told.lock().expect("no panic"));
            Sent::Bytes(Vec::new())
        }
        ("PUT", _) => error(412, "PreconditionFailed"),
        _ => {
            let sum = told.lock().expect("no panic").clone();
            reply(200, &[("content-length", "4"), ("x-amz-checksum-crc64nvme", &sum)], "")
        }
    };
    let (fake, store) = fake(honest).await;
    let stored = store.put(&key("a"), Bytes::from_static(b"0123")).await.expect("ours after all");
    assert_eq!(stored.size, 4);
    assert_eq!(fake.asked().len(), 3);
    // The same without a lost answer, and with another content, is somebody else's.
    for lost in [0, 1] {
        let (_fake, store) = self::fake(move |asked| match asked.method.as_str() {
            "PUT" if asked.number < lost => Sent::Bytes(Vec::new()),
            "PUT" => error(412, "PreconditionFailed"),
            _ => reply(200, &[("content-length", "4"), ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")], ""),
        })
        .await;
        let taken = store.put(&key("a"), Bytes::from_static(b"0123")).await;
        assert!(matches!(taken, Err(StoreError::AlreadyExists { .. })), "{lost}: {taken:?}");
    }
}

#[tokio::test]
async fn a_completion_that_fails_behind_its_200_is_a_failure() {
    let (fake, store) = fake(|asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", path) if path.contains("uploads=") => reply(
            200,
            &[],
            "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
        ),
        ("PUT", _) => reply(200, &[ETAG], ""),
        ("POST", _) => error(200, "InternalError"),
        ("DELETE", _) => reply(204, &[], ""),
        other => panic!("{other:?}"),
    })
    .await;
    let mut writer = store.create(&key("a"), None).await.expect("begun");
    writer.write(Bytes::from(vec![1; 9 << 20])).await.expect("written");
    let failed = writer.finish().await.expect_err("not there");
    assert!(failed.to_string().contains("InternalError"), "{failed}");
    let asked = fake.asked();
    assert_eq!(asked.last().expect("asked").method, "DELETE", "the upload was given up");
    let completion =
        asked.iter().find(|asked| asked.method == "POST" && asked.path.contains("uploadId")).expect("it");
    assert_eq!(completion.headers["if-none-match"], "*");
    let list = String::from_utf8_lossy(&completion.body).into_owned();
    assert!(
        list.contains("<ETag>&quot;e&quot;</ETag>") && list.contains("<PartNumber>2</PartNumber>"),
        "{list}"
    );
}

#[tokio::test]
async fn silence_and_drips_end() {
    let silence = Duration::from_millis(300);
    let header = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\netag: \"e\"\r\n\r\n".to_vec();
    let sent: [fn(Vec<u8>) -> Sent; 3] = [|_| Sent::Silence(Vec::new()), Sent::Silence, Sent::Drip];
    for kind in sent {
        let header = header.clone();
        let fake = Fake::start(move |_| kind(header.clone())).await;
        let begun = Instant::now();
        let error = impatient(&fake, silence).get(&key("a"), 1 << 30).await.expect_err("for ever");
        assert!(matches!(error, StoreError::Unreachable { .. } | StoreError::Misbehaved { .. }), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
    let dripping = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n<ListBucketResult>".to_vec();
    let fake = Fake::start(move |_| Sent::Drip(dripping.clone())).await;
    let begun = Instant::now();
    let listed = impatient(&fake, silence).list("").try_collect::<Vec<_>>().await;
    assert!(matches!(listed, Err(StoreError::Unreachable { .. })), "{listed:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// A fake of a store that puts whatever it is told, whatever the conditions.
#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_and_one_that_ignores_checksums_is_named() {
    let (_fake, store) = fake(|_| reply(200, &[ETAG], "")).await;
    store.check().await.expect("it can be written to");
    let error = store.probe().await.expect_err("unfit");
    assert!(matches!(error, StoreError::Unfit { .. }), "{error:?}");
    assert!(error.to_string().contains("If-None-Match"), "{error}");
    assert_eq!(error.class(), Class::Permanent);

    let (fake, store) = self::fake(|asked| match asked.path.as_str() {
        path if path.ends_with("store-probe") && asked.number > 0 => self::error(412, "PreconditionFailed"),
        _ => reply(200, &[ETAG], ""),
    })
    .await;
    let warnings = store.probe().await.expect("fit");
    assert!(warnings.len() == 1 && warnings[0].contains("does not verify checksums"), "{warnings:?}");
    let asked = fake.asked();
    let last = asked.last().expect("asked");
    assert!(
        last.method == "DELETE" && last.path.contains("store-probe-"),
        "what was let in is cleared: {last:?}"
    );
    let before = asked.len();
    store.probe().await.expect("fit");
    assert_eq!(fake.asked().len(), before + 1, "what was proven is not proven again");
}

#[tokio::test]
async fn nothing_secret_is_sent_or_shown() {
    let (fake, store) = fake(|_| error(403, "AccessDenied")).await;
    let error = store.check().await.expect_err("denied");
    let seen = format!("{:?} {error} {error:?} {store:?}", fake.asked());
    assert!(!seen.contains("top-secret"), "{seen}");
}
