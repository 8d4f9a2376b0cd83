//! The command line. `cassy-server` is another name of the same binary, as Java Cassy calls it.

use clap::{ArgGroup, Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Wrong usage or configuration, as sysexits.h numbers it.
pub(crate) const EXIT_USAGE: u8 = 64;

const EXAMPLES: &str = "\
Examples:
  cassy server --config conf/cassy.properties
      Start the server. Every key of its configuration is explained in that file.
  grpcurl -plaintext -d '{\"cassandra_host\": \"192.168.0.10\"}' 127.0.0.1:20051 rpc.Cassy.RegisterCluster
      Register the cluster that this node belongs to.
  grpcurl -plaintext -d '{\"cluster_id\": \"CLUSTER-ID\", \"backup_type\": 2}' 127.0.0.1:20051 rpc.Cassy.TakeBackup
      Back it up.
  cassy unpause --config conf/cassy.properties
      Let the applications go on, should a backup have left them paused.

Exit codes:
  0   all went well
  1   it did not
  64  wrong usage, or a wrong value in the configuration";

const UNPAUSE_EXAMPLES: &str = "\
Examples:
  cassy unpause --config conf/cassy.properties
      All instances that the SRV record names.
  cassy unpause --instance 10.0.0.7:60053 --instance app2.example.com:60053
      These alone; with --tls-ca /etc/cassy/ca.pem where they speak TLS.

Exit codes: 0 when every instance has acknowledged that it goes on, 1 otherwise.";

/// Backs up and restores Apache Cassandra clusters.
#[derive(Debug, Parser)]
#[command(name = "cassy", version, after_help = EXAMPLES, arg_required_else_help = true, propagate_version = true)]
struct Cassy {
    #[command(subcommand)]
    command: Command,
}

/// Starts the Cassy server; the same as `cassy server`.
#[derive(Debug, Parser)]
#[command(name = "cassy-server", version)]
struct CassyServer {
    #[command(flatten)]
    arguments: ServerArguments,
}

/// What the binary is to be.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Start the server.
    Server(ServerArguments),
    /// Let applications go on that a backup has paused, when server and guards are gone.
    Unpause(UnpauseArguments),
    /// Unpause when the process at the other end of standard input is gone. Started by the server and by agents.
    #[command(hide = true)]
    Guard,
    /// Serve a Cassy server on this node, over standard input and output. Started by the server itself.
    #[command(hide = true)]
    Agent,
}

/// How the server is started.
#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct ServerArguments {
    /// The configuration, a .properties file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// Who is to go on.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(after_help = UNPAUSE_EXAMPLES, group = ArgGroup::new("whom").args(["config", "instance"]).required(true).multiple(true))]
#[group(skip)]
pub(crate) struct UnpauseArguments {
    /// The server's configuration: its srv_service_url names the instances, its metadata database those that were paused.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// An instance, instead of those that the SRV record names. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) instance: Vec<String>,
    /// Speak TLS to the instances, and believe the authorities whose certificates (PEM) are in this file. Without it the
    /// configuration says how they are spoken to; without one, it is plain gRPC.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<String>,
    /// Whom the instances' certificates are for, when it is not the HOST.
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub(crate) tls_server_name: Option<String>,
}

/// What these arguments, with the program's name before them, ask for. Help and version are errors too, with
/// exit code 0.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Command, clap::Error> {
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == "cassy-server") {
        return CassyServer::try_parse_from(arguments).map(|cli| Command::Server(cli.arguments));
    }
    Cassy::try_parse_from(arguments).map(|cli| cli.command)
}

/// The exit code of a command line that asked for nothing that could be done.
pub(crate) fn exit_code(error: &clap::Error) -> u8 {
    if error.use_stderr() { EXIT_USAGE } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(line: &[&str]) -> Result<Command, clap::Error> {
        parse(line.iter().map(OsString::from).collect())
    }

    fn server(config: &str) -> Command {
        Command::Server(ServerArguments { config: PathBuf::from(config) })
    }

    #[test]
    fn the_definition_is_sound() {
        Cassy::command().debug_assert();
        CassyServer::command().debug_assert();
    }

    #[test]
    fn the_server_has_two_names() {
        for line in [
            &["cassy", "server", "--config", "a"][..],
            &["/usr/bin/cassy", "server", "--config=a"],
            &["cassy-server", "--config", "a"],
            &["build/install/cassy/bin/cassy-server", "--config=a"],
        ] {
            assert_eq!(parsed(line).unwrap(), server("a"), "{line:?}");
        }
        assert_eq!(parsed(&["cassy", "agent"]).unwrap(), Command::Agent);
    }

    #[test]
    fn help_and_version_are_no_failures() {
        for line in [
            &["cassy", "--help"][..],
            &["cassy", "-h"],
            &["cassy", "--version"],
            &["cassy", "-V"],
            &["cassy", "help"],
            &["cassy", "server", "--help"],
            &["cassy", "server", "--version"],
            &["cassy-server", "--help"],
            &["cassy-server", "--version"],
        ] {
            assert_eq!(exit_code(&parsed(line).unwrap_err()), 0, "{line:?}");
        }
    }

    #[test]
    fn wrong_usage_is_64() {
        for line in [
            &[][..],
            &["cassy"],
            &["cassy", "serve"],
            &["cassy", "server"],
            &["cassy", "server", "--config"],
            &["cassy", "server", "--config", "a", "b"],
            &["cassy", "server", "--conf", "a"],
            &["cassy-server"],
            &["cassy-server", "server", "--config", "a"],
            &["cassy", "agent", "--x"],
        ] {
            assert_eq!(exit_code(&parsed(line).unwrap_err()), EXIT_USAGE, "{line:?}");
        }
    }

    #[test]
    fn who_is_to_go_on_is_named() {
        let line = ["cassy", "unpause", "--instance", "a:1", "--instance", "[::1]:2"];
        let instance = vec!["a:1".to_owned(), "[::1]:2".to_owned()];
        assert_eq!(
            parsed(&line).unwrap(),
            Command::Unpause(UnpauseArguments { instance, ..UnpauseArguments::default() })
        );
        for line in [
            &["cassy", "unpause"][..],
            &["cassy", "unpause", "--tls-ca", "ca.pem"],
            &["cassy", "unpause", "--instance", "a:1", "--tls-server-name", "a"],
        ] {
            assert_eq!(exit_code(&parsed(line).unwrap_err()), EXIT_USAGE, "{line:?}");
        }
        assert_eq!(parsed(&["cassy", "guard"]).unwrap(), Command::Guard);
    }

    #[test]
    fn the_agent_is_hidden() {
        assert!(!Cassy::command().render_long_help().to_string().contains("agent"));
    }
}
