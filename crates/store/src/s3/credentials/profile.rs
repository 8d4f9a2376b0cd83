//! `~/.aws/credentials` and `~/.aws/config`: keys, or a command that prints them (`credential_process`).
//!
//! A profile that takes on a role or signs on by SSO is refused by name.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::super::transport::Transport;
use super::{ANSWER_LIMIT_BYTES, Environment, NoCredentials, S3Credentials, web_identity};

const FILE_LIMIT_BYTES: u64 = 1 << 20;
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// What this version cannot do.
const UNSUPPORTED: [&str; 4] = ["source_profile", "credential_source", "sso_session", "sso_start_url"];

type Section = BTreeMap<String, String>;

pub(super) async fn fetch(
    environment: &Environment,
    transport: &Transport,
) -> Result<Option<S3Credentials>, NoCredentials> {
    let named = environment.variable("AWS_PROFILE");
    let name = named.unwrap_or("default");
    let mut merged = Section::new();
    let mut files = Vec::new();
    let of_config = if name == "default" { "default".to_owned() } else { format!("profile {name}") };
    for (variable, below_home, heading) in [
        ("AWS_CONFIG_FILE", ".aws/config", of_config.as_str()),
        // What is in both is taken from this one.
        ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", name),
    ] {
        let Some(path) = environment.file(variable, below_home) else { continue };
        if let Some(text) = read(&path).await? {
            merged.extend(section(&text, heading));
        }
        files.push(path.display().to_string());
    }
    if merged.is_empty() {
        return match named {
            Some(name) => Err(NoCredentials::wrong(
                format!("AWS_PROFILE names the profile {name}, which is not in {}", files.join(" or ")),
                "Write this profile, or unset AWS_PROFILE.",
            )),
            None => Ok(None),
        };
    }
    of_section(name, &merged, environment, transport).await
}

async fn of_section(
    name: &str,
    section: &Section,
    environment: &Environment,
    transport: &Transport,
) -> Result<Option<S3Credentials>, NoCredentials> {
    let value = |key: &str| section.get(key).filter(|value| !value.is_empty());
    if let (Some(id), Some(secret)) = (value("aws_access_key_id"), value("aws_secret_access_key")) {
        return Ok(Some(S3Credentials {
            access_key_id: id.clone(),
            secret_access_key: secret.clone(),
            session_token: value("aws_session_token").cloned(),
            expires_at_ms: None,
        }));
    }
    if let (Some(role), Some(file)) = (value("role_arn"), value("web_identity_token_file")) {
        let session = value("role_session_name").map(String::as_str);
        return web_identity::assume(environment, transport, role, Path::new(file), session).await.map(Some);
    }
    if let Some(command) = value("credential_process") {
        return run(name, command).await.map(Some);
    }
    if let Some(unsupported) = UNSUPPORTED.into_iter().find(|key| value(key).is_some()) {
        return Err(NoCredentials::wrong(
            format!("the profile {name} says {unsupported}, which this version cannot do"),
            "Give it keys or a credential_process, such as aws configure export-credentials --format process.",
        ));
    }
    Ok(None)
}

async fn read(path: &Path) -> Result<Option<String>, NoCredentials> {
    let hint = "Let the user that runs this process read the file, or name another one.";
    let wrong = |reason: String| NoCredentials::wrong(format!("{}: {reason}", path.display()), hint);
    match tokio::fs::metadata(path).await {
        Ok(metadata) if !metadata.is_file() => return Err(wrong("it is no regular file".to_owned())),
        Ok(metadata) if metadata.len() > FILE_LIMIT_BYTES => {
            return Err(wrong("it is too large".to_owned()));
        }
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(wrong(error.to_string())),
    }
    tokio::fs::read_to_string(path).await.map(Some).map_err(|error| wrong(error.to_string()))
}

/// The lines under `[heading]`. Indented lines belong to a nested setting, such as `s3 =`, and are none of ours.
fn section(text: &str, heading: &str) -> Section {
    let mut within = false;
    let mut found = Section::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(title) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            within = title.split_whitespace().eq(heading.split_whitespace());
        } else if within
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = trimmed.split_once('=')
        {
            found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

/// What the command prints goes nowhere else: neither its output nor its errors are repeated.
async fn run(profile: &str, command: &str) -> Result<S3Credentials, NoCredentials> {
    let what = format!("the credential_process of the profile {profile}");
    let wrong = |reason: &str| {
        NoCredentials::wrong(format!("{what} {reason}"), "Run the command by hand, and see what it says.")
    };
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(COMMAND_LIMIT, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(wrong(&format!("cannot be run: {error}"))),
        Err(_elapsed) => return Err(wrong(&format!("did not end within {} s", COMMAND_LIMIT.as_secs()))),
    };
    if !output.status.success() {
        return Err(wrong(&format!("failed ({})", output.status)));
    }
    let body = output.stdout.get(..output.stdout.len().min(ANSWER_LIMIT_BYTES)).unwrap_or_default();
    S3Credentials::from_json(body, "SecretAccessKey")
        .ok_or_else(|| wrong("printed no credentials in the format that AWS describes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lines_of_the_profile_count() {
        let text = "[default]\naws_access_key_id = A\n# aws_access_key_id = B\n\n[ profile  x ]\nRegion=r\ns3 =\n  max=1\n\
                    a = b = c\n[y]\na = d\n";
        let expected = [("a", "b = c"), ("region", "r"), ("s3", "")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(section(text, "profile x"), Section::from(expected));
        assert_eq!(section(text, "default").len(), 1);
        assert!(section(text, "x").is_empty());
    }
}
