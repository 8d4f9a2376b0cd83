//! The `cassy` binary: reads the command line and the configuration, and becomes what they ask for.

mod agent;
mod cli;
mod config;
mod guard;
mod server;
mod unpause;

use cli::{Command, ServerArguments, UnpauseArguments};
use config::{ConfigError, Loaded};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().collect()) {
        Ok(Command::Server(arguments)) => start_server(&arguments),
        Ok(Command::Agent) => agent::run(),
        Ok(Command::Guard) => guard::run(),
        Ok(Command::Unpause(arguments)) => unpause(&arguments),
        Err(error) => {
            // Nobody is left to tell when even this cannot be printed.
            let _ = error.print();
            ExitCode::from(cli::exit_code(&error))
        }
    }
}

/// Everything in the configuration is checked before anything is opened.
fn start_server(arguments: &ServerArguments) -> ExitCode {
    match load(&arguments.config) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            start_logging();
            server::run(loaded.config)
        }
        Err(error) => wrong(&error),
    }
}

/// The configuration is only looked at when it is named.
fn unpause(arguments: &UnpauseArguments) -> ExitCode {
    let trusted = |path: &String| config::trusted(path, None, arguments.tls_server_name.as_deref());
    let tls = match arguments.tls_ca.as_ref().map(trusted).transpose() {
        Ok(tls) => tls,
        Err(expected) => {
            eprintln!("error: --tls-ca: {expected}");
            return ExitCode::from(cli::EXIT_USAGE);
        }
    };
    match arguments.config.as_deref().map(load).transpose() {
        Ok(loaded) => unpause::run(loaded.map(|loaded| loaded.config).as_ref(), arguments, tls),
        Err(error) => wrong(&error),
    }
}

fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    config::load(path, home.as_deref())
}

fn wrong(error: &ConfigError) -> ExitCode {
    for line in error.lines() {
        eprintln!("{line}");
    }
    ExitCode::from(cli::EXIT_USAGE)
}

/// Logs go to standard error; `CASSY_LOG` chooses what, as in `info,cassy_ssh=debug`.
pub(crate) fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CASSY_LOG");
    let filter = filter.unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
