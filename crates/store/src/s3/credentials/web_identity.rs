//! A token in a file, as Kubernetes puts it there, exchanged for credentials at AWS's STS.

use std::path::Path;

use bytes::Bytes;

use super::super::transport::{Plain, Transport};
use super::super::{sign, time, xml};
use super::{ANSWER_LIMIT_BYTES, Environment, NoCredentials, S3Credentials};

pub(super) async fn fetch(
    environment: &Environment,
    transport: &Transport,
) -> Result<Option<S3Credentials>, NoCredentials> {
    let file = environment.variable("AWS_WEB_IDENTITY_TOKEN_FILE");
    let (Some(file), Some(role)) = (file, environment.variable("AWS_ROLE_ARN")) else { return Ok(None) };
    let session = environment.variable("AWS_ROLE_SESSION_NAME");
    assume(environment, transport, role, Path::new(file), session).await.map(Some)
}

pub(super) async fn assume(
    environment: &Environment,
    transport: &Transport,
    role: &str,
    file: &Path,
    session: Option<&str>,
) -> Result<S3Credentials, NoCredentials> {
    let token = tokio::fs::read_to_string(file).await.map_err(|error| {
        let reason = format!("the token of the web identity, {}: {error}", file.display());
        NoCredentials::wrong(reason, "Let the user that runs this process read the file.")
    })?;
    let query = sign::query(&[
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", session.unwrap_or("cassy")),
        ("WebIdentityToken", token.trim()),
    ]);
    let endpoint = match (environment.variable("AWS_ENDPOINT_URL_STS"), environment.region()) {
        (Some(endpoint), _) => endpoint.trim_end_matches('/').to_owned(),
        (None, Some(region)) => format!("https://sts.{region}.{}", super::super::place::domain(region)),
        (None, None) => "https://sts.amazonaws.com".to_owned(),
    };
    let request = Plain {
        method: "POST",
        uri: format!("{endpoint}/"),
        headers: vec![("content-type", "application/x-www-form-urlencoded".to_owned())],
        body: Bytes::from(query),
    };
    let (status, body) = transport
        .ask(request, ANSWER_LIMIT_BYTES)
        .await
        .map_err(|error| NoCredentials::for_now(format!("STS at {endpoint}: {error}")))?;
    if status >= 500 {
        return Err(NoCredentials::for_now(format!("STS at {endpoint} answered {status}")));
    }
    if status != 200 {
        let code = xml::text_at(&body, &["ErrorResponse", "Error", "Code"]).unwrap_or_default();
        let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
        return Err(NoCredentials::wrong(
            format!("STS at {endpoint} refuses the role {role}: {status} {code}"),
            "Let this role trust the web identity.",
        ));
    }
    parsed(&body).ok_or_else(|| NoCredentials::for_now(format!("STS at {endpoint} answered no credentials")))
}

fn parsed(body: &[u8]) -> Option<S3Credentials> {
    let text = |name: &str| {
        let path =
            ["AssumeRoleWithWebIdentityResponse", "AssumeRoleWithWebIdentityResult", "Credentials", name];
        xml::text_at(body, &path).filter(|text| !text.is_empty())
    };
    Some(S3Credentials {
        access_key_id: text("AccessKeyId")?,
        secret_access_key: text("SecretAccessKey")?,
        session_token: Some(text("SessionToken")?),
        expires_at_ms: Some(time::parse(&text("Expiration")?)?),
    })
}
