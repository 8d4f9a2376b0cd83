//! Listings, a page at a time. They must go forward, stay within their prefix, and end.

use std::sync::Arc;

use cassy_backup_format::ObjectKey;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http::Method;

use super::client::{Ask, S3Client};
use super::transport::Pieces;
use super::xml::{self, NotXml};
use crate::{IncompleteObject, ObjectMeta, StoreError};

/// A thousand keys of 1,024 bytes, escaped, with what is told of them.
const PAGE_LIMIT_BYTES: usize = 16 << 20;
/// S3's own limit.
const PAGE_LIMIT: usize = 1000;
/// Of one listing: no prefix of ours holds a hundred million objects.
const PAGES_LIMIT: u32 = 100_000;
/// Of an upload's id, and of a token to go on with.
pub(super) const ID_LIMIT_BYTES: usize = 4096;

/// What one page holds.
struct Page<T> {
    found: Vec<T>,
    /// How to ask for the next one.
    next: Option<Vec<(&'static str, String)>>,
}

/// Objects under a prefix, in the order of their keys.
pub(super) fn objects(
    client: Arc<S3Client>,
    prefix: &str,
) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
    let listing = Listing::new(client, prefix);
    pages(listing, ("list-type", "2"), Listing::page_of_objects)
}

/// Uploads under a prefix that were neither completed nor aborted.
pub(super) fn uploads(
    client: Arc<S3Client>,
    prefix: &str,
) -> BoxStream<'static, Result<IncompleteObject, StoreError>> {
    let listing = Listing::new(client, prefix);
    pages(listing, ("uploads", ""), Listing::page_of_uploads)
}

struct Listing {
    client: Arc<S3Client>,
    /// With the store's own.
    prefix: String,
    /// The place of what was listed last.
    last: Option<(String, String)>,
    pages: u32,
}

impl Listing {
    fn new(client: Arc<S3Client>, prefix: &str) -> Self {
        let prefix = format!("{}{prefix}", client.place.prefix);
        Self { client, prefix, last: None, pages: 0 }
    }

    fn ask(&self, query: &[(&'static str, String)]) -> Ask {
        let mut all = vec![("prefix", self.prefix.clone())];
        all.extend_from_slice(query);
        Ask {
            method: Method::GET,
            key: None,
            query: all,
            headers: Vec::new(),
            body: Pieces::default(),
            operation: "list",
            subject: self.prefix.clone(),
        }
    }

    /// Notes where the listing is; what does not come after what came before is an error.
    fn goes_on(&mut self, key: &str, upload: &str) -> Result<(), NotXml> {
        if !key.starts_with(&self.prefix) {
            return Err(NotXml("it lists a key that is not under the prefix that was asked for"));
        }
        let place = (key.to_owned(), upload.to_owned());
        if self.last.as_ref().is_some_and(|last| place <= *last) {
            return Err(NotXml("its listing does not go forward"));
        }
        self.last = Some(place);
        Ok(())
    }

    /// The key without the store's prefix; `None` for a name that is no key of ours.
    fn own(&self, key: &str) -> Option<ObjectKey> {
        key.strip_prefix(&self.client.place.prefix)?.parse().ok()
    }

    fn page_of_objects(&mut self, body: &[u8]) -> Result<Page<ObjectMeta>, NotXml> {
        let mut found = Vec::new();
        let (mut key, mut size, mut count) = (String::new(), None, 0);
        let (mut is_result, mut truncated, mut token) = (false, false, String::new());
        xml::walk(body, |path, text| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            match path.as_slice() {
                ["ListBucketResult"] => is_result = true,
                ["ListBucketResult", "IsTruncated"] => truncated = text == "true",
                ["ListBucketResult", "NextContinuationToken"] => text.clone_into(&mut token),
                ["ListBucketResult", "Contents", "Key"] => text.clone_into(&mut key),
                ["ListBucketResult", "Contents", "Size"] => size = text.parse::<u64>().ok(),
                ["ListBucketResult", "Contents"] => {
                    count += 1;
                    self.goes_on(&key, "")?;
                    let size = size.take().ok_or(NotXml("it lists an object without a size"))?;
                    found.extend(self.own(&key).map(|key| ObjectMeta { key, size }));
                }
                _ => {}
            }
            Ok(())
        })?;
        let token = [("continuation-token", token)];
        self.page(is_result, count, truncated.then(|| token.to_vec()), found)
    }

    fn page_of_uploads(&mut self, body: &[u8]) -> Result<Page<IncompleteObject>, NotXml> {
        let mut found = Vec::new();
        let (mut key, mut upload, mut count) = (String::new(), String::new(), 0);
        let (mut is_result, mut truncated) = (false, false);
        let (mut next_key, mut next_upload) = (String::new(), String::new());
        // Uploads of one key come in the order of their beginning, not of their ids.
        let mut last_key = self.last.take().map(|(key, _)| key).unwrap_or_default();
        xml::walk(body, |path, text| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            match path.as_slice() {
                ["ListMultipartUploadsResult"] => is_result = true,
                ["ListMultipartUploadsResult", "IsTruncated"] => truncated = text == "true",
                ["ListMultipartUploadsResult", "NextKeyMarker"] => text.clone_into(&mut next_key),
                ["ListMultipartUploadsResult", "NextUploadIdMarker"] => text.clone_into(&mut next_upload),
                ["ListMultipartUploadsResult", "Upload", "Key"] => text.clone_into(&mut key),
                ["ListMultipartUploadsResult", "Upload", "UploadId"] => text.clone_into(&mut upload),
                ["ListMultipartUploadsResult", "Upload"] => {
                    count += 1;
                    if key < last_key {
                        return Err(NotXml("its listing does not go forward"));
                    }
                    self.last = None;
                    self.goes_on(&key, &upload)?;
                    key.clone_into(&mut last_key);
                    let upload = upload.clone();
                    found.extend(self.own(&key).map(|key| IncompleteObject { key, upload }));
                }
                _ => {}
            }
            Ok(())
        })?;
        let next = [("key-marker", next_key), ("upload-id-marker", next_upload)];
        self.page(is_result, count, truncated.then(|| next.to_vec()), found)
    }

    fn page<T>(
        &mut self,
        is_result: bool,
        count: usize,
        next: Option<Vec<(&'static str, String)>>,
        found: Vec<T>,
    ) -> Result<Page<T>, NotXml> {
        self.pages += 1;
        if !is_result {
            return Err(NotXml("it is no listing"));
        }
        if count > PAGE_LIMIT {
            return Err(NotXml("it lists more at once than S3 does"));
        }
        if let Some(next) = &next {
            let unusable = |(_, text): &(&str, String)| text.is_empty() || text.len() > ID_LIMIT_BYTES;
            if count == 0 || next.first().is_none_or(unusable) {
                return Err(NotXml("its listing does not go forward"));
            }
            if self.pages >= PAGES_LIMIT {
                return Err(NotXml("its listing does not end"));
            }
        }
        Ok(Page { found, next })
    }
}

/// Asks for page after page.
fn pages<T: Send + 'static>(
    listing: Listing,
    kind: (&'static str, &'static str),
    read: fn(&mut Listing, &[u8]) -> Result<Page<T>, NotXml>,
) -> BoxStream<'static, Result<T, StoreError>> {
    let begin = (listing, Some(Vec::new()));
    let pages = stream::try_unfold(begin, move |(mut listing, query)| async move {
        let Some(query) = query else { return Ok::<_, StoreError>(None) };
        let ask = listing.ask(&query).query(kind.0, kind.1);
        let body = listing.client.whole(&ask, PAGE_LIMIT_BYTES).await?.body;
        let page = read(&mut listing, &body).map_err(|wrong| listing.client.not_xml(&ask, wrong))?;
        if page.next.as_ref() == Some(&query) {
            return Err(listing.client.misbehaved(&ask, "its listing does not go forward"));
        }
        Ok(Some((page.found, (listing, page.next))))
    });
    pages.map_ok(|found| stream::iter(found.into_iter().map(Ok))).try_flatten().boxed()
}
