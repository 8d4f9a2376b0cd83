//! On a real versitygw; on MinIO with `CASSY_TEST_ALL=1`.

use std::sync::Arc;

use bytes::Bytes;
use cassy_store::{Class, IncompleteObject, Store, StoreError, conformance};
use cassy_testkit::S3Server;
use cassy_testkit::s3_server::{ACCESS_KEY, Make, SECRET_KEY};
use futures::TryStreamExt;
use tempfile::TempDir;

use crate::{key, keys_of, open, settings};

/// A server with a bucket.
struct Scene {
    server: S3Server,
    _directory: TempDir,
}

impl Scene {
    async fn start(make: Make, is_tls: bool) -> Option<Self> {
        let directory = tempfile::tempdir().expect("tempdir");
        let server = S3Server::start_with(make, directory.path(), is_tls).await.expect("it starts")?;
        server.make_bucket("backups").expect("a bucket");
        Some(Self { server, _directory: directory })
    }

    fn open(&self, location: &str) -> Arc<dyn Store> {
        let ca = self.server.ca_file();
        let settings = settings(&self.server.endpoint(), ca.exists().then_some(ca.as_path()));
        open(location, settings, keys_of(ACCESS_KEY, SECRET_KEY))
    }
}

async fn conforms(scene: &Scene, location: &str) {
    let store = scene.open(location);
    let failures = conformance::run(&store, "cassy/conformance").await;
    assert!(failures.is_empty(), "{failures:#?}\n{}", scene.server.log());
    assert_eq!(store.probe().await.expect("it is fit"), Vec::<String>::new());
    let left: Vec<_> = store.list("").try_collect().await.expect("list");
    let left: Vec<String> = left.into_iter().map(|object| object.key.to_string()).collect();
    assert_eq!(left, ["cassy/store-probe"], "everything else was cleared");
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_conforms() {
    let Some(scene) = Scene::start(Make::Versitygw, false).await else { return };
    conforms(&scene, "s3://backups").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_conforms_over_tls_below_a_prefix() {
    let Some(scene) = Scene::start(Make::Versitygw, true).await else { return };
    conforms(&scene, "s3://backups/a b/ünï+c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_conforms() {
    if std::env::var("CASSY_TEST_ALL").as_deref() != Ok("1") {
        return eprintln!("skipped: MinIO is for CASSY_TEST_ALL=1");
    }
    let Some(scene) = Scene::start(Make::Minio, false).await else { return };
    conforms(&scene, "s3://backups/prefix").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_nobody_we_know_is_refused_and_the_key_is_named() {
    let Some(scene) = Scene::start(Make::Versitygw, true).await else { return };
    let store =
        open("s3://backups", settings(&scene.server.endpoint(), None), keys_of(ACCESS_KEY, SECRET_KEY));
    let error = store.check().await.expect_err("untrusted");
    assert!(matches!(error, StoreError::Unreachable { is_untrusted: true, .. }), "{error:?}");
    assert_eq!(error.class(), Class::Permanent);
    assert!(error.hint().is_some_and(|hint| hint.contains("s3_ca_file")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_gets_wrong_is_said() {
    let Some(scene) = Scene::start(Make::Versitygw, false).await else { return };
    let endpoint = scene.server.endpoint();
    let cases = [
        ("s3://backups", ACCESS_KEY, "wrong", "us-east-1", "SignatureDoesNotMatch", "credentials"),
        ("s3://backups", "nobody", SECRET_KEY, "us-east-1", "InvalidAccessKeyId", "credentials"),
        ("s3://missing", ACCESS_KEY, SECRET_KEY, "us-east-1", "NoSuchBucket", "Create the bucket"),
        ("s3://backups", ACCESS_KEY, SECRET_KEY, "eu-west-9", "AuthorizationHeaderMalformed", "s3_region"),
    ];
    for (location, id, secret, region, code, hint) in cases {
        let mut settings = settings(&endpoint, None);
        region.clone_into(&mut settings.region);
        let error = open(location, settings, keys_of(id, secret)).check().await.expect_err(code);
        let text = error.to_string();
        assert!(text.contains(code) && text.contains("cannot write cassy/store-probe"), "{text}");
        assert!(!text.contains(SECRET_KEY), "{text}");
        assert_eq!(error.class(), Class::Permanent, "{text}");
        assert!(error.hint().is_some_and(|told| told.contains(hint)), "{text}: {:?}", error.hint());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for() {
    let Some(mut scene) = Scene::start(Make::Versitygw, false).await else { return };
    scene.server.kill();
    let mut settings = settings(&scene.server.endpoint(), None);
    let gone = open("s3://backups", settings.clone(), keys_of(ACCESS_KEY, SECRET_KEY));
    let error = gone.check().await.expect_err("away");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Transient);
    settings.patience.tries = 10_000;
    let store = open("s3://backups", settings, keys_of(ACCESS_KEY, SECRET_KEY));
    let (checked, started) = tokio::join!(store.check(), scene.server.start_again());
    started.expect("it starts again");
    checked.expect("it came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_in_parts_has_the_stores_own_checksum_and_its_loser_leaves_nothing() {
    let Some(scene) = Scene::start(Make::Versitygw, false).await else { return };
    let store = scene.open("s3://backups");
    let body: Bytes = (0..20u32 << 20).map(|i| u8::try_from(i * 7 % 251).expect("small")).collect();
    let size = Some(body.len() as u64);
    let mut racers = Vec::new();
    for _ in 0..3 {
        let mut writer = store.create(&key("a/large"), size).await.expect("begun");
        writer.write(body.clone()).await.expect("written");
        racers.push(writer.finish());
    }
    let outcomes = futures::future::join_all(racers).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert!(
        lost.iter().all(|lost| matches!(lost, Err(StoreError::AlreadyExists { .. }))) && won.len() == 1,
        "{won:?} {lost:?}"
    );
    let checksum = won.into_iter().next().expect("one").expect("won").checksum.expect("a checksum");
    assert!(checksum.starts_with("crc64nvme:"), "{checksum}");
    assert_eq!(store.get(&key("a/large"), 1 << 30).await.expect("read"), body);
    let left: Vec<IncompleteObject> = store.list_incomplete("").try_collect().await.expect("list");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_writer_leaves_is_listed_apart_and_can_be_cleared() {
    let Some(scene) = Scene::start(Make::Versitygw, false).await else { return };
    let store = scene.open("s3://backups/p");
    let mut writer = store.create(&key("dir/object"), None).await.expect("begun");
    writer.write(Bytes::from(vec![7; 17 << 20])).await.expect("written");
    // As if this process had died: nothing of it runs on.
    Box::leak(Box::new(writer));
    let left: Vec<_> = store.list_incomplete("dir/obj").try_collect().await.expect("list");
    let [left] = left.as_slice() else { panic!("one is left: {left:?}") };
    assert_eq!(left.key, key("dir/object"));
    assert!(store.list_incomplete("other").try_collect::<Vec<_>>().await.expect("list").is_empty());
    store.abort_incomplete(left).await.expect("abort");
    store.abort_incomplete(left).await.expect("abort again");
    assert!(store.list_incomplete("").try_collect::<Vec<_>>().await.expect("list").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_writer_clears_up() {
    let Some(scene) = Scene::start(Make::Versitygw, false).await else { return };
    let store = scene.open("s3://backups");
    let mut writer = store.create(&key("a"), None).await.expect("begun");
    writer.write(Bytes::from(vec![7; 9 << 20])).await.expect("written");
    drop(writer);
    cassy_testkit::wait_for("nothing is left", std::time::Duration::from_secs(30), async || {
        match store.list_incomplete("").try_collect::<Vec<_>>().await {
            Ok(left) if left.is_empty() => cassy_testkit::Probe::Ready(()),
            other => cassy_testkit::Probe::NotYet(format!("{other:?}")),
        }
    })
    .await
    .expect("cleared");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_have_many_pages() {
    let Some(scene) = Scene::start(Make::Versitygw, false).await else { return };
    let store = scene.open("s3://backups/p");
    let names: Vec<String> = (0..1_100).map(|number| format!("many/{number:04}")).collect();
    let put = |name: String| {
        let store = Arc::clone(&store);
        async move { store.put(&key(&name), Bytes::new()).await.map(drop) }
    };
    use futures::StreamExt;
    let all = futures::stream::iter(names.clone()).map(put).buffer_unordered(16);
    all.try_collect::<Vec<()>>().await.expect("put");
    let listed: Vec<_> = store.list("many/").try_collect().await.expect("list");
    let listed: Vec<String> = listed.into_iter().map(|object| object.key.to_string()).collect();
    assert_eq!(listed, names);
}
