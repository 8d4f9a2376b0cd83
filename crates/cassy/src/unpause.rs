//! `cassy unpause`: what remains when server and guards are gone.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_catalog::Catalog;
use cassy_control::applications::Applications;
use cassy_control::{chain, left_paused};
use cassy_pause::{Tls, Unpaused};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::cli::UnpauseArguments;
use crate::config::ServerConfig;
use crate::server::{LOOK_UP_LIMIT, RealApplications};

/// For all that are asked, from when no Pause can take effect any more.
const LIMIT: Duration = Duration::from_secs(60);
/// For the metadata database, which somebody may hold.
const DATABASE_LIMIT: Duration = Duration::from_secs(20);
/// How long a Pause may be under way, where no configuration says it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Unpauses those that are named, or whom the SRV record names; succeeds when all have acknowledged it.
pub(crate) fn run(config: Option<&ServerConfig>, arguments: &UnpauseArguments, tls: Option<Tls>) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start: {error}")),
    };
    let late = config.map_or(LONGEST_PAUSE, |config| config.max_pause) + Duration::from_secs(1);
    let tls = tls.or_else(|| config?.applications_tls.clone());
    runtime.block_on(async {
        let (instances, applications) = match config.filter(|_| arguments.instance.is_empty()) {
            None => {
                let named = resolved(&arguments.instance).await;
                let named = named.map(|instances| Known { instances, may_be_more: false });
                (named, RealApplications::new(None, None, tls))
            }
            Some(config) => {
                let (service, server) = (config.srv_service_url.clone(), config.dns_server.clone());
                let applications = RealApplications::new(service, server, tls);
                (known(config, &applications).await, applications)
            }
        };
        match instances {
            Ok(known) if known.instances.is_empty() => failed("nobody is known who could be paused"),
            Ok(known) => unpause(&applications, &known, late).await,
            Err(message) => failed(&message),
        }
    })
}

/// Who may be paused.
struct Known {
    instances: Vec<Instance>,
    /// The record or the database could not be asked.
    may_be_more: bool,
}

/// Whom the SRV record names, and whom the metadata database knows to have been paused: one that is paused may have lost
/// its record just for that. Either is enough.
async fn known(config: &ServerConfig, applications: &RealApplications) -> Result<Known, String> {
    let named = applications.find().await.map_err(|failure| failure.text());
    let paused = timeout(DATABASE_LIMIT, paused(config)).await;
    let paused = paused.unwrap_or_else(|_elapsed| Err("the metadata database does not answer".to_owned()));
    if let (Err(named), Err(paused)) = (&named, &paused) {
        return Err(format!("{named}\n{paused}"));
    }
    let may_be_more = named.is_err() || paused.is_err();
    let mut instances: Vec<Instance> = Vec::new();
    for found in [named, paused] {
        match found {
            Ok(found) => instances.extend(found),
            Err(message) => complain(&format!("warning: {message}")),
        }
    }
    instances.sort_by_key(|instance| instance.address);
    instances.dedup_by_key(|instance| instance.address);
    Ok(Known { instances, may_be_more })
}

/// The instances of pauses that are not known to be over.
async fn paused(config: &ServerConfig) -> Result<Vec<Instance>, String> {
    if config.metadata_db.file().is_some_and(|path| !path.exists()) {
        return Ok(Vec::new());
    }
    let catalog = Catalog::open(&config.metadata_db).await.map_err(|error| chain(&error))?;
    left_paused(&catalog).await.map_err(|error| chain(&error))
}

async fn unpause(applications: &RealApplications, known: &Known, late: Duration) -> ExitCode {
    let instances = &known.instances;
    let seconds = late.as_secs();
    say(&format!(
        "unpausing {} instances for {seconds} s, as long as a Pause may be under way",
        instances.len()
    ));
    let unpaused = applications.client().unpause(instances, late, late + LIMIT).await;
    let mut left = 0;
    for (instance, outcome) in instances.iter().zip(unpaused) {
        match outcome {
            Ok(Unpaused::Acknowledged | Unpaused::NeverAsked) => {
                say(&format!("{instance}: goes on"));
                continue;
            }
            Ok(Unpaused::Gone) => {
                complain(&format!("{instance}: nobody listens there, so nobody is paused there"));
            }
            Err(error) => complain(&format!("{error}\nhint: {}", error.problem.hint())),
        }
        left += 1;
    }
    match left {
        0 if known.may_be_more => failed("whether there are others is not known: see the warning above"),
        0 => ExitCode::SUCCESS,
        left => failed(&format!("{left} instances are not known to go on")),
    }
}

async fn resolved(named: &[String]) -> Result<Vec<Instance>, String> {
    let mut instances = Vec::new();
    for name in named {
        let found = timeout(LOOK_UP_LIMIT, lookup_host(name)).await;
        let found = found.map_err(|_elapsed| format!("{name}: its address was not found in time"))?;
        let found: Vec<SocketAddr> = found.map_err(|error| format!("{name}: {error}"))?.collect();
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

fn complain(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn failed(message: &str) -> ExitCode {
    complain(&format!("error: {message}"));
    ExitCode::FAILURE
}
