//! A fake: stands in for Cassandra in tests, answers JMX about recorded data, and knows nothing else. See
//! `cassy_testkit::RecordedNode`, which starts it with the arguments that it needs.

use std::process::ExitCode;

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let failure = cassy_testkit::run_recorded_node(&arguments);
    eprintln!("recorded node: {failure}");
    ExitCode::from(3)
}
