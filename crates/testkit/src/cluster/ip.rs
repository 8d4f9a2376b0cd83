//! iproute2, which makes interfaces.

use std::process::{Command, Stdio};

use crate::{Doing, Failure};

/// Runs `ip` with these words.
pub(super) fn ip(arguments: &[&str]) -> Result<(), Failure> {
    run("ip", arguments)
}

pub(super) fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let what = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .doing(|| format!("{} (Debian's packages are `iproute2` and `util-linux`)", what()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{}: {}", what(), said.trim())))
}
