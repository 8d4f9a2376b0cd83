//! The `cassy` binary: reads the command line and the configuration, and becomes what they ask for.

mod agent;
mod cli;
mod config;
mod server;

use cli::{Command, ServerArguments};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().collect()) {
        Ok(Command::Server(arguments)) => start_server(&arguments),
        Ok(Command::Agent) => agent::run(),
        Err(error) => {
            // Nobody is left to tell when even this cannot be printed.
            let _ = error.print();
            ExitCode::from(cli::exit_code(&error))
        }
    }
}

/// Everything in the configuration is checked before anything is opened.
fn start_server(arguments: &ServerArguments) -> ExitCode {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    match config::load(&arguments.config, home.as_deref()) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            start_logging();
            server::run(loaded.config)
        }
        Err(error) => {
            for line in error.lines() {
                eprintln!("{line}");
            }
            ExitCode::from(cli::EXIT_USAGE)
        }
    }
}

/// Logs go to standard error; `CASSY_LOG` chooses what, as in `info,cassy_ssh=debug`.
pub(crate) fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CASSY_LOG");
    let filter = filter.unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
