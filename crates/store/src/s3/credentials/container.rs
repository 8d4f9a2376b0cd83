//! The endpoint that ECS and EKS give a container.

use std::net::IpAddr;

use bytes::Bytes;

use super::super::transport::{Plain, Transport};
use super::{ANSWER_LIMIT_BYTES, Environment, NoCredentials, S3Credentials};

const ECS: &str = "http://169.254.170.2";
/// Of ECS and EKS; besides these and loopback, plain HTTP is not trusted with a token.
const OF_AWS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
const HINT: &str = "Correct the variable AWS_CONTAINER_CREDENTIALS_FULL_URI, or unset it.";

pub(super) async fn fetch(
    environment: &Environment,
    transport: &Transport,
) -> Result<Option<S3Credentials>, NoCredentials> {
    let uri = match (
        environment.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        environment.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ) {
        (Some(path), _) => format!("{ECS}{path}"),
        (None, Some(uri)) => {
            check(uri)?;
            uri.to_owned()
        }
        (None, None) => return Ok(None),
    };
    let token = match environment.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Some(tokio::fs::read_to_string(file).await.map_err(|error| {
            let hint = "Let the user that runs this process read the file.";
            NoCredentials::wrong(format!("the container's token, {file}: {error}"), hint)
        })?),
        None => environment.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
    };
    let headers = token.map(|token| ("authorization", token.trim().to_owned())).into_iter().collect();
    let request = Plain { method: "GET", uri: uri.clone(), headers, body: Bytes::new() };
    let (status, body) = transport
        .ask(request, ANSWER_LIMIT_BYTES)
        .await
        .map_err(|error| NoCredentials::for_now(format!("the container's credentials, {uri}: {error}")))?;
    let found = (status == 200).then(|| S3Credentials::from_json(&body, "SecretAccessKey")).flatten();
    let nothing = || NoCredentials::for_now(format!("{uri} answered {status}, and no credentials"));
    found.map(Some).ok_or_else(nothing)
}

fn check(uri: &str) -> Result<(), NoCredentials> {
    let parsed: http::Uri = uri
        .parse()
        .map_err(|_invalid| NoCredentials::wrong("AWS_CONTAINER_CREDENTIALS_FULL_URI is not a URI", HINT))?;
    let host = parsed.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if parsed.scheme_str() == Some("https") || is_loopback || OF_AWS.contains(&host) {
        return Ok(());
    }
    let reason =
        "AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor an address of the container's own host";
    Err(NoCredentials::wrong(reason, HINT))
}
