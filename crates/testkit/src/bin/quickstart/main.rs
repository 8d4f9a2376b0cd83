//! `./quickstart`: watch Cassy back up a real Cassandra and bring it back from nothing.
//!
//! Everything runs on 127.0.0.1 in one temporary directory, and is gone afterwards, also after Ctrl-C.

#![allow(clippy::print_stdout)] // It is a story told on standard output.

mod kept;
mod place;
mod steps;
mod story;

use std::process::ExitCode;

use cassy_testkit::Failure;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Starts a real one-node Cassandra, an sshd and the Cassy server on loopback; writes rows, takes a backup through the
/// public API, destroys the node's data, restores it, and compares every row.
#[derive(Debug, Parser)]
#[command(name = "quickstart")]
struct Arguments {
    /// Leave everything running at the end, and print what to try next.
    #[arg(long, conflicts_with = "stop")]
    keep: bool,
    /// Stop and remove what earlier runs with --keep have left.
    #[arg(long)]
    stop: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(&arguments));
    runtime.shutdown_background();
    code
}

async fn run(arguments: &Arguments) -> ExitCode {
    let work = async { if arguments.stop { kept::stop_all() } else { story::tell(arguments.keep).await } };
    let ended = tokio::select! {
        ended = work => ended,
        name = interrupted() => {
            // The story was dropped here, and with it all that it had started.
            println!("\n{name}: everything was stopped and removed");
            return ExitCode::from(130);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nerror: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for a signal that asks us to end.
async fn interrupted() -> &'static str {
    let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("listen for signals: {error}")));
    let kinds =
        (listen(SignalKind::interrupt()), listen(SignalKind::terminate()), listen(SignalKind::hangup()));
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = kinds else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "Interrupted",
        _ = terminate.recv() => "Terminated",
        _ = hangup.recv() => "Hung up",
    }
}
