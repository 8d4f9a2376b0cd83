//! Where credentials come from, by fakes of what AWS puts beside a process.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cassy_store::{Class, Credentials, Environment, S3Credentials, StoreError};
use tokio::sync::watch;

use crate::fake::{Fake, error, reply};
use crate::{key, open, settings};

const NOWHERE: &str = "http://127.0.0.1:9";

fn chain(home: &Path, variables: &[(&str, &str)]) -> Credentials {
    let mut all = BTreeMap::from([("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())]);
    all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Credentials::chain(Environment::new(all, Some(home.to_owned())))
}

async fn id(credentials: &Credentials) -> Result<String, String> {
    let found = credentials.current().await.map_err(|error| error.to_string())?;
    Ok(format!(
        "{}/{}/{}",
        found.access_key_id,
        found.secret_access_key,
        found.session_token.unwrap_or_default()
    ))
}

/// `2026-11-24T10:11:12Z`, this much from now.
fn from_now(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let output = std::process::Command::new("date")
        .args([
            "-u",
            "-d",
            &format!("@{}", i64::try_from(now).expect("small") + seconds),
            "+%Y-%m-%dT%H:%M:%SZ",
        ])
        .output()
        .expect("date runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn json(id: &str, expires_in_s: i64) -> String {
    let end = from_now(expires_in_s);
    format!(
        "{{\"Version\":1,\"Code\":\"Success\",\"AccessKeyId\":\"{id}\",\"SecretAccessKey\":\"s\",\"Token\":\"t\",\
         \"Expiration\":\"{end}\"}}"
    )
}

#[tokio::test]
async fn environment_and_profiles() {
    let home = tempfile::tempdir().expect("tempdir");
    let aws = home.path().join(".aws");
    std::fs::create_dir(&aws).expect("mkdir");
    let of_environment =
        [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")];
    assert_eq!(id(&chain(home.path(), &of_environment)).await.as_deref(), Ok("E/s/t"));
    let none = id(&chain(home.path(), &[])).await.expect_err("none");
    assert!(none.contains("there are no credentials for S3"), "{none}");
    let half = id(&chain(home.path(), &of_environment[..1])).await.expect_err("half");
    assert!(half.contains("AWS_SECRET_ACCESS_KEY is not"), "{half}");

    std::fs::write(aws.join("credentials"), "[default]\naws_access_key_id=D\naws_secret_access_key=s\n")
        .expect("write");
    let config = "[profile p]\ncredential_process = echo '{\"Version\":1,\"AccessKeyId\":\"P\",\"SecretAccessKey\":\"s\"}'\n\
                  [profile sso]\nsso_session = x\n[profile fails]\ncredential_process = echo secret; exit 3\n";
    std::fs::write(aws.join("config"), config).expect("write");
    assert_eq!(id(&chain(home.path(), &[])).await.as_deref(), Ok("D/s/"));
    assert_eq!(id(&chain(home.path(), &of_environment)).await.as_deref(), Ok("E/s/t"));
    assert_eq!(id(&chain(home.path(), &[("AWS_PROFILE", "p")])).await.as_deref(), Ok("P/s/"));
    for (profile, said) in
        [("nobody", "names the profile nobody"), ("sso", "sso_session"), ("fails", "exit status: 3")]
    {
        let refused = id(&chain(home.path(), &[("AWS_PROFILE", profile)])).await.expect_err(profile);
        assert!(refused.contains(said) && !refused.contains("secret"), "{refused}");
    }
    let elsewhere = home.path().join("elsewhere");
    std::fs::write(&elsewhere, "[default]\naws_access_key_id=X\naws_secret_access_key=s\n").expect("write");
    let named = elsewhere.display().to_string();
    assert_eq!(
        id(&chain(home.path(), &[("AWS_SHARED_CREDENTIALS_FILE", &named)])).await.as_deref(),
        Ok("X/s/")
    );
    std::fs::write(&elsewhere, "[default]\naws_access_key_id=a b\naws_secret_access_key=s\n").expect("write");
    let odd = id(&chain(home.path(), &[("AWS_SHARED_CREDENTIALS_FILE", &named)])).await.expect_err("odd");
    assert!(odd.contains("characters"), "{odd}");
}

#[tokio::test]
async fn instance_metadata_by_version_two_only() {
    let home = tempfile::tempdir().expect("tempdir");
    let answer = json("I", 7200);
    let fake = Fake::start(move |asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("PUT", "/latest/api/token") => reply(200, &[], "the-token"),
        _ if asked.headers.get("x-aws-ec2-metadata-token").is_none_or(|token| token != "the-token") => {
            error(401, "Unauthorized")
        }
        ("GET", "/latest/meta-data/iam/security-credentials/") => reply(200, &[], "my-role\n"),
        ("GET", "/latest/meta-data/iam/security-credentials/my-role") => reply(200, &[], &answer),
        _ => error(404, "NotFound"),
    })
    .await;
    let own = [
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", fake.endpoint.as_str()),
    ];
    let credentials = chain(home.path(), &own);
    assert_eq!(id(&credentials).await.as_deref(), Ok("I/s/t"));
    assert_eq!(id(&credentials).await.as_deref(), Ok("I/s/t"));
    assert_eq!(fake.asked().len(), 3, "what holds for long is not fetched again");
    let nobody = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", NOWHERE)];
    let none = id(&chain(home.path(), &nobody)).await.expect_err("no instance");
    assert!(none.contains("there are no credentials"), "{none}");
}

#[tokio::test]
async fn container_and_web_identity() {
    let home = tempfile::tempdir().expect("tempdir");
    let file = home.path().join("token");
    std::fs::write(&file, "a-token\n").expect("write");
    let file = file.display().to_string();
    let answer = json("C", 7200);
    let fake = Fake::start(move |asked| match asked.headers.get("authorization").map(String::as_str) {
        Some("a-token") => reply(200, &[], &answer),
        _ => error(403, "AccessDenied"),
    })
    .await;
    let uri = format!("{}/creds", fake.endpoint);
    let set = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file),
    ];
    assert_eq!(id(&chain(home.path(), &set)).await.as_deref(), Ok("C/s/t"));
    let refused = id(&chain(home.path(), &set[..1])).await.expect_err("no token");
    assert!(refused.contains("403"), "{refused}");
    let outside = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/creds")];
    let refused = id(&chain(home.path(), &outside)).await.expect_err("not ours");
    assert!(refused.contains("neither https"), "{refused}");

    let end = from_now(3600);
    let sts = Fake::start(move |asked| {
        let body = String::from_utf8_lossy(&asked.body);
        if !body.contains("WebIdentityToken=a-token") || !body.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr") {
            return reply(400, &[], "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>");
        }
        reply(
            200,
            &[],
            format!(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                 <AccessKeyId>W</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
                 <Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>"
            ),
        )
    })
    .await;
    let endpoint = ("AWS_ENDPOINT_URL_STS", sts.endpoint.as_str());
    let token = ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str());
    let good = [endpoint, token, ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")];
    assert_eq!(id(&chain(home.path(), &good)).await.as_deref(), Ok("W/s/t"));
    let refused =
        id(&chain(home.path(), &[endpoint, token, ("AWS_ROLE_ARN", "other")])).await.expect_err("other");
    assert!(refused.contains("400 AccessDenied") && !refused.contains("a-token"), "{refused}");
}

#[tokio::test]
async fn what_ends_soon_or_has_ended_at_the_store_is_fetched_again() {
    let home = tempfile::tempdir().expect("tempdir");
    let source = Fake::start(|asked| {
        reply(200, &[], json(&format!("N{}", asked.number), [60, 7200, 7200][asked.number.min(2)]))
    })
    .await;
    let uri = format!("{}/creds", source.endpoint);
    let credentials = chain(home.path(), &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str())]);
    assert_eq!(id(&credentials).await.as_deref(), Ok("N0/s/t"));
    assert_eq!(id(&credentials).await.as_deref(), Ok("N1/s/t"), "a minute is soon");
    let store = Fake::start(|asked| match asked.headers["authorization"].contains("Credential=N1/") {
        true => error(400, "ExpiredToken"),
        false => reply(200, &[("etag", "\"e\"")], "x"),
    })
    .await;
    let store = open("s3://bucket", settings(&store.endpoint, None), credentials.clone());
    assert_eq!(store.get(&key("a"), 1).await.expect("read"), "x");
    assert_eq!(id(&credentials).await.as_deref(), Ok("N2/s/t"));
}

fn sent(id: &str, expires_at_ms: Option<i64>) -> Option<S3Credentials> {
    let (access_key_id, secret_access_key) = (id.to_owned(), "s".to_owned());
    Some(S3Credentials { access_key_id, secret_access_key, session_token: None, expires_at_ms })
}

#[tokio::test(start_paused = true)]
async fn an_agent_waits_for_newer_ones_when_those_it_was_sent_have_ended() {
    let (sender, receiver) = watch::channel(None);
    let credentials = Credentials::sent(receiver);
    let none = credentials.current().await.expect_err("none was sent");
    assert!(matches!(none, StoreError::Credentials { .. }) && none.class() == Class::Transient, "{none:?}");
    sender.send_replace(sent("A", Some(1)));
    let waiting = tokio::spawn({
        let credentials = credentials.clone();
        async move { id(&credentials).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished(), "the old ones have ended");
    sender.send_replace(sent("B", None));
    assert_eq!(waiting.await.expect("no panic").as_deref(), Ok("B/s/"));
    assert!(!format!("{credentials:?} {:?}", sent("secret-id", None)).contains("secret-id"));
}
