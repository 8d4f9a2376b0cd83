//! What must be known of a store before anything is entrusted to it.

use bytes::Bytes;
use http::Method;

use super::client::{Ask, S3Client};
use super::{SMALL_LIMIT_BYTES, checksum};
use crate::StoreError;

/// Of this name there is one object in each store, put by whoever comes first, and never deleted: nobody but the server
/// needs the right to delete.
const WITNESS: &str = "cassy/store-probe";
const CONTENT: &[u8] =
    b"Cassy has put this here to see whether it may write. It is never read, and may be deleted.\n";

/// Whether the bucket can be listed and written to.
pub(super) async fn check(client: &S3Client) -> Result<(), StoreError> {
    put_witness(client).await.map(drop)
}

/// Whether the store keeps what it promises; answers what can be lived with.
pub(super) async fn probe(client: &S3Client) -> Result<Vec<String>, StoreError> {
    put_witness(client).await?;
    if put_witness(client).await? {
        return Err(StoreError::Unfit {
            place: client.place.shown(),
            reason: "it overwrites an object where it was told not to (If-None-Match: * was ignored), so that two \
                     servers could destroy each other's manifests"
                .to_owned(),
        });
    }
    Ok(ignores_checksums(client).await?.into_iter().collect())
}

/// True when it was not there before.
async fn put_witness(client: &S3Client) -> Result<bool, StoreError> {
    let content = Bytes::from_static(CONTENT);
    let ask = Ask::of_object(Method::PUT, "write", WITNESS)
        .header("if-none-match", "*")
        .header(checksum::HEADER, checksum::of(std::slice::from_ref(&content)))
        .body(content);
    match client.whole(&ask, SMALL_LIMIT_BYTES).await {
        Ok(_) => Ok(true),
        Err(error) if error.refusal().is_some_and(|(status, _)| status == 412) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts an object with a wrong checksum, which must be refused.
async fn ignores_checksums(client: &S3Client) -> Result<Option<String>, StoreError> {
    let key = format!("{WITNESS}-{}", uuid::Uuid::new_v4());
    let ask = Ask::of_object(Method::PUT, "write", &key)
        .header("if-none-match", "*")
        .header(checksum::HEADER, checksum::of(&[]))
        .body(Bytes::from_static(CONTENT));
    match client.try_whole(&ask, SMALL_LIMIT_BYTES).await {
        Ok(_) => {
            let cleared = Ask::of_object(Method::DELETE, "delete", &key);
            client.whole(&cleared, SMALL_LIMIT_BYTES).await?;
            Ok(Some(format!(
                "{} does not verify checksums (CRC-64/NVME): what is damaged on the way there is found by a restore \
                 only",
                client.place.shown()
            )))
        }
        Err(error) if error.refusal().is_some_and(|(status, _)| status == 400) => Ok(None),
        Err(error) => Err(error),
    }
}
