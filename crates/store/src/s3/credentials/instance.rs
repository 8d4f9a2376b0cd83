//! The metadata of an EC2 instance, version 2 only.

use std::time::Duration;

use bytes::Bytes;

use super::super::transport::{Plain, Transport};
use super::{ANSWER_LIMIT_BYTES, Environment, NoCredentials, S3Credentials};

const ENDPOINT: &str = "http://169.254.169.254";
/// Where nobody answers within this time there is no such service.
const FIRST_LIMIT: Duration = Duration::from_secs(2);
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

pub(super) async fn fetch(
    environment: &Environment,
    transport: &Transport,
) -> Result<Option<S3Credentials>, NoCredentials> {
    let is_disabled = |value: &str| value.eq_ignore_ascii_case("true");
    if environment.variable("AWS_EC2_METADATA_DISABLED").is_some_and(is_disabled) {
        return Ok(None);
    }
    let endpoint = environment.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(ENDPOINT);
    let endpoint = endpoint.trim_end_matches('/');
    let failed =
        |what: &str| NoCredentials::for_now(format!("the instance's metadata at {endpoint}: {what}"));
    let request = Plain {
        method: "PUT",
        uri: format!("{endpoint}/latest/api/token"),
        headers: vec![("x-aws-ec2-metadata-token-ttl-seconds", "300".to_owned())],
        body: Bytes::new(),
    };
    let asked = tokio::time::timeout(FIRST_LIMIT, transport.ask(request, ANSWER_LIMIT_BYTES)).await;
    let token = match asked {
        Ok(Ok((200, token))) => String::from_utf8_lossy(&token).trim().to_owned(),
        Ok(Ok((status, _))) => return Err(failed(&format!("asked for a token, it answered {status}"))),
        // No instance of EC2.
        Ok(Err(_)) | Err(_) => return Ok(None),
    };
    let get = async |path: &str| {
        let headers = vec![("x-aws-ec2-metadata-token", token.clone())];
        let uri = format!("{endpoint}{path}");
        let request = Plain { method: "GET", uri, headers, body: Bytes::new() };
        transport.ask(request, ANSWER_LIMIT_BYTES).await.map_err(|error| failed(&error.to_string()))
    };
    let role = match get(ROLES).await? {
        (200, roles) => String::from_utf8_lossy(&roles).lines().next().unwrap_or_default().trim().to_owned(),
        // An instance without a role.
        (404, _) => return Ok(None),
        (status, _) => return Err(failed(&format!("asked for its role, it answered {status}"))),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
    if role.is_empty() || !role.chars().all(is_name) {
        return Err(failed("it names no role"));
    }
    let (status, body) = get(&format!("{ROLES}{role}")).await?;
    let found = (status == 200).then(|| S3Credentials::from_json(&body, "SecretAccessKey")).flatten();
    found
        .map(Some)
        .ok_or_else(|| failed(&format!("for the role {role} it answered {status}, and no credentials")))
}
