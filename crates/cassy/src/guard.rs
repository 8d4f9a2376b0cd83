//! A guard's process: it leads a session of its own, and hangs on its standard input.

use std::process::ExitCode;

use cassy_pause::{PauseClient, Relief, TcpDial, stand_guard};
use tokio::io::BufReader;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A guard that has unpaused everybody; one that was let go ends with 0.
const ALARMED: u8 = 3;

/// Runs until it is let go, or has unpaused.
pub(crate) fn run() -> ExitCode {
    // One that leads a group already cannot; then it has a group of its own, at least.
    let _already_leads = rustix::process::setsid();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the guard cannot start: {error}")),
    };
    let code = runtime.block_on(guard());
    // A read of standard input that will never end does not hold the process.
    runtime.shutdown_background();
    code
}

async fn guard() -> ExitCode {
    // Those of a terminal that goes away, and of whoever wants to stop the server, are not for a guard.
    let ignored: Vec<_> = [SignalKind::hangup(), SignalKind::interrupt()].map(signal).into_iter().collect();
    // From here on: later would be too late for a signal that comes right after the order.
    let terminated = signal(SignalKind::terminate());
    // Each instance is a connection.
    crate::server::raise_open_files();
    let client = PauseClient::new(TcpDial);
    let input = BufReader::new(tokio::io::stdin());
    let stood = stand_guard(input, tokio::io::stdout(), &client, told(terminated), say).await;
    drop(ignored);
    match stood {
        Ok(Relief::Released) => ExitCode::SUCCESS,
        Ok(Relief::Unpaused { left, .. }) if left.is_empty() => {
            say("all instances go on");
            ExitCode::from(ALARMED)
        }
        Ok(Relief::Unpaused { left, .. }) => {
            left.iter().for_each(|error| say(&format!("not known to go on: {error}")));
            failed("run `cassy unpause`")
        }
        Err(error) => failed(&error.to_string()),
    }
}

async fn told(signal: std::io::Result<Signal>) {
    let Ok(mut signal) = signal else { return std::future::pending().await };
    signal.recv().await;
}

fn failed(message: &str) -> ExitCode {
    say(message);
    ExitCode::FAILURE
}

/// Nobody may be left to hear it.
fn say(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "guard: {message}");
}
