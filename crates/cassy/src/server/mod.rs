//! The server: everything that the configuration names, put together.
//!
//! Order matters: the port is bound first, so that a taken one is found before anything is touched; then the
//! lease, so that only one server drives jobs; then unfinished jobs go on; then requests are served.

mod addresses;
mod applications;
mod host_keys;
mod jmx;
mod lease;
mod nodes;
mod open_files;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::StoreGrant;
use cassy_api::Limits;
use cassy_catalog::Catalog;
use cassy_control::{ServiceParts, SystemClock, Tenure, chain};
use cassy_ssh::{Ssh, SshConfig};
use cassy_store::StoreAccess;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::ServerConfig;
pub(crate) use applications::{LOOK_UP_LIMIT, RealApplications};
use host_keys::RememberedKeys;
use nodes::RealNodes;
pub(crate) use open_files::raise as raise_open_files;

/// For each of TCP, key exchange and login.
const SSH_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the server did not start, or stopped.
#[derive(Debug, thiserror::Error)]
enum ServerError {
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    #[error("cannot listen on {address}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Catalog(cassy_catalog::OpenError),
    #[error("cannot open the store")]
    Store(#[source] cassy_store::StoreError),
    #[error("SSH is not configured well")]
    Ssh(#[source] cassy_ssh::SshError),
    #[error(transparent)]
    Lease(lease::LeaseProblem),
    #[error("cannot take up the unfinished jobs")]
    Jobs(#[source] cassy_control::OperationError),
    #[error("cannot serve")]
    Serve(#[source] cassy_api::ServeError),
}

impl ServerError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Some("Another process uses this port: stop it, or set the key port.".to_owned())
            }
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrNotAvailable => Some(
                "Set the key listen_address to an address of this machine, or to 0.0.0.0 for all.".to_owned(),
            ),
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("Ports below 1024 need privileges: set the key port to a higher one.".to_owned())
            }
            Self::Catalog(source) => source.hint().map(str::to_owned),
            Self::Store(source) => source.hint(),
            Self::Ssh(source) => source.hint(),
            Self::Lease(problem) => problem.hint(),
            _ => None,
        }
    }
}

/// Runs the server until it is told to stop.
pub(crate) fn run(config: ServerConfig) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(ServerError::Runtime).and_then(|runtime| runtime.block_on(serve(config)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: ServerConfig) -> Result<(), ServerError> {
    let limits = Limits::with_open_files(open_files::raise());
    let address = SocketAddr::new(config.listen_address, config.port);
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|source| ServerError::Bind { address, source })?;
    let catalog = Catalog::open(&config.metadata_db).await.map_err(ServerError::Catalog)?;
    let lease = lease::take(&catalog).await.map_err(ServerError::Lease)?;
    let parts = parts(&config, &catalog, lease.epoch)?;
    if let Err(error) = parts.store.check().await {
        tracing::warn!(
            error = chain(&error),
            "the store is not usable now; backups will be refused until it is"
        );
    }
    let tenure = Tenure::begin(parts, lease).await.map_err(ServerError::Jobs)?;
    tracing::info!(%address, connections = limits.connections, "serving gRPC");
    let stop = async {
        tokio::select! {
            () = told_to_stop() => {}
            () = tenure.lost() => {}
        }
    };
    let operations: Arc<dyn cassy_control::Operations> = tenure.clone();
    let served = cassy_api::serve(listener, operations, stop, limits).await;
    tenure.end().await.map_err(|lost| ServerError::Lease(lease::LeaseProblem::Lost(lost)))?;
    served.map_err(ServerError::Serve)
}

fn parts(config: &ServerConfig, catalog: &Catalog, epoch: i64) -> Result<ServiceParts, ServerError> {
    let location = config.store.to_string();
    let store = cassy_store::open(&StoreAccess::new(location.clone())).map_err(ServerError::Store)?;
    let ssh = SshConfig {
        user: config.ssh.user.clone(),
        private_key_path: config.ssh.private_key_path.clone(),
        port: config.ssh.port,
        known_hosts_path: config.ssh.known_hosts_path.clone(),
        strict_host_keys: config.ssh.strict_host_keys,
        connect_timeout: SSH_CONNECT_TIMEOUT,
        slave_command_path: config.slave_command_path.as_ref().map(|path| path.display().to_string()),
        refused_address: cassy_api::refused_address,
        command_prefix: config.ssh.command_prefix.clone(),
        own_binary: PathBuf::from("/proc/self/exe"),
    };
    let remembered = Arc::new(RememberedKeys::new(catalog.clone()));
    let ssh = Ssh::new(ssh, remembered).map_err(ServerError::Ssh)?;
    Ok(ServiceParts {
        catalog: catalog.clone(),
        epoch,
        store,
        grant: StoreGrant { location },
        access: Arc::new(RealNodes::new(ssh, config.jmx_port)),
        applications: Arc::new(RealApplications::new(
            config.srv_service_url.clone(),
            config.dns_server.clone(),
            config.applications_tls.clone(),
        )),
        longest_pause: config.max_pause,
        clock: Arc::new(SystemClock),
        cassandra_yaml: config.cassandra_yaml.as_ref().map(|path| path.display().to_string()),
    })
}

async fn told_to_stop() {
    let terminated = signal(SignalKind::terminate());
    let (Ok(mut terminated), Ok(mut interrupted)) = (terminated, signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    tracing::info!("stopping; unfinished jobs go on at the next start");
}
