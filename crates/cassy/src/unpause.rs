//! `cassy unpause`: what remains when server and guards are gone.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_control::applications::Applications;
use tokio::net::lookup_host;

use crate::cli::UnpauseArguments;
use crate::config::ServerConfig;
use crate::server::RealApplications;

/// For all that are asked.
const LIMIT: Duration = Duration::from_secs(60);

/// Unpauses those that are named, or whom the SRV record names; succeeds when all have acknowledged it.
pub(crate) fn run(config: Option<&ServerConfig>, arguments: &UnpauseArguments) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start: {error}")),
    };
    let service = config.and_then(|config| config.srv_service_url.clone());
    let dns_server = config.and_then(|config| config.dns_server.clone());
    runtime.block_on(unpause(&RealApplications::new(service, dns_server), &arguments.instance))
}

async fn unpause(applications: &RealApplications, named: &[String]) -> ExitCode {
    let instances = match named.is_empty() {
        true => applications.find().await.map_err(|failure| failure.text()),
        false => resolved(named).await,
    };
    let instances = match instances {
        Ok(instances) => instances,
        Err(message) => return failed(&message),
    };
    let unpaused = applications.client().unpause(&instances, Duration::ZERO, LIMIT).await;
    let mut left = 0;
    for (instance, outcome) in instances.iter().zip(unpaused) {
        match outcome {
            Ok(_) => say(&format!("{instance}: goes on")),
            Err(error) => {
                left += 1;
                eprintln!("{error}\nhint: {}", error.problem.hint());
            }
        }
    }
    if left == 0 { ExitCode::SUCCESS } else { failed(&format!("{left} instances are not known to go on")) }
}

async fn resolved(named: &[String]) -> Result<Vec<Instance>, String> {
    let mut instances = Vec::new();
    for name in named {
        let found: Vec<SocketAddr> =
            lookup_host(name).await.map_err(|error| format!("{name}: {error}"))?.collect();
        let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
        instances.extend(found.into_iter().map(|address| Instance { host: host.to_owned(), address }));
    }
    Ok(instances)
}

/// Nobody may be left to read it.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn failed(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
