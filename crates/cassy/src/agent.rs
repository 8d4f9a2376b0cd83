//! The agent's process: frames on standard input and output, logs on standard error, nothing else.

use std::fs::File;
use std::io;
use std::process::ExitCode;

use cassy_agent::Identity;
use sha2::{Digest, Sha256};

/// Runs until standard input ends.
pub(crate) fn run() -> ExitCode {
    crate::start_logging();
    let outcome = tokio::runtime::Runtime::new().and_then(|runtime| {
        let identity = Identity { build: build()?, version: env!("CARGO_PKG_VERSION").to_owned() };
        let ended = runtime.block_on(cassy_agent::run(tokio::io::stdin(), tokio::io::stdout(), identity));
        // A read of standard input that will never end does not hold the process.
        runtime.shutdown_background();
        ended.map_err(io::Error::other)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the agent stopped: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The SHA-256 of this executable: the name of the build.
fn build() -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open("/proc/self/exe")?, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}
