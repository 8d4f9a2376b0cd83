//! The binary as it is started: what it prints, and with which code it ends.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions only

use expect_test::{Expect, expect};
use std::path::Path;
use std::process::{Command, Output};

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn cassy(arguments: &[&str]) -> Output {
    run(Path::new(env!("CARGO_BIN_EXE_cassy")), arguments)
}

fn check(output: &Output, code: i32, stdout: &Expect, stderr: &Expect) {
    stdout.assert_eq(str::from_utf8(&output.stdout).unwrap());
    stderr.assert_eq(str::from_utf8(&output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code));
}

#[test]
fn help() {
    let nothing = expect![""];
    check(
        &cassy(&["--help"]),
        0,
        &expect![[r#"
        Backs up and restores Apache Cassandra clusters

        Usage: cassy <COMMAND>

        Commands:
          server   Start the server
          unpause  Let applications go on that a backup has paused, when server and guards are gone
          help     Print this message or the help of the given subcommand(s)

        Options:
          -h, --help     Print help
          -V, --version  Print version

        Examples:
          cassy server --config conf/cassy.properties
              Start the server. Every key of its configuration is explained in that file.
          grpcurl -plaintext -d '{"cassandra_host": "192.168.0.10"}' 127.0.0.1:20051 rpc.Cassy.RegisterCluster
              Register the cluster that this node belongs to.
          grpcurl -plaintext -d '{"cluster_id": "CLUSTER-ID", "backup_type": 2}' 127.0.0.1:20051 rpc.Cassy.TakeBackup
              Back it up.
          cassy unpause --config conf/cassy.properties
              Let the applications go on, should a backup have left them paused.

        Exit codes:
          0   all went well
          1   it did not
          64  wrong usage, or a wrong value in the configuration
    "#]],
        &nothing,
    );
    check(
        &cassy(&["server", "--help"]),
        0,
        &expect![[r#"
        Start the server

        Usage: cassy server --config <FILE>

        Options:
              --config <FILE>  The configuration, a .properties file
          -h, --help           Print help
          -V, --version        Print version
    "#]],
        &nothing,
    );
}

#[test]
fn version() {
    let version = format!("cassy {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(str::from_utf8(&cassy(&["--version"]).stdout).unwrap(), version);
}

#[test]
fn usage() {
    check(
        &cassy(&["server"]),
        64,
        &expect![""],
        &expect![[r#"
        error: the following required arguments were not provided:
          --config <FILE>

        Usage: cassy server --config <FILE>

        For more information, try '--help'.
    "#]],
    );
}

/// A directory with a good private key, `key`, a pipe that nobody writes to, and a file with some text.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let keygen = ["-q", "-t", "ed25519", "-C", "", "-N", "", "-f"];
    let made = Command::new("ssh-keygen").args(keygen).arg(dir.path().join("key")).status().unwrap();
    let piped = Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap();
    assert!(made.success() && piped.success());
    std::fs::write(dir.path().join("text"), "some text\n").unwrap();
    dir
}

/// A configuration that is good but for this line; `DIR` in it is the directory.
fn configuration(dir: &Path, line: &str) -> String {
    let required = "scalar.cassy.server.ssh_user=foo\n\
                    scalar.cassy.server.ssh_private_key_path=DIR/key\n\
                    scalar.cassy.server.storage_base_uri=file://DIR\n\
                    scalar.cassy.server.metadata_db_url=jdbc:sqlite:DIR/cassy.db\n";
    let key = line.split_once('=').unwrap().0;
    let kept = required.lines().filter(|other| !other.starts_with(key));
    let text = kept.chain([line]).collect::<Vec<_>>().join("\n").replace("DIR", &dir.display().to_string());
    let file = dir.join("cassy.properties");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn a_wrong_configuration_is_one_line_and_64() {
    let dir = directory();
    let path = configuration(dir.path(), "scalar.cassy.server.port=abc");
    let line =
        format!("error: {path}: scalar.cassy.server.port = abc: expected a port number from 1 to 65535\n");
    let server = dir.path().join("cassy-server");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cassy"), &server).unwrap();
    for output in [cassy(&["server", "--config", &path]), run(&server, &["--config", &path])] {
        assert_eq!(str::from_utf8(&output.stderr).unwrap(), line);
        assert_eq!(output.status.code(), Some(64));
    }
}

#[test]
fn what_cannot_work_is_said_before_anything_is_opened() {
    let dir = directory();
    for line in [
        "scalar.cassy.server.ssh_private_key_path=DIR/none",
        "scalar.cassy.server.ssh_private_key_path=DIR",
        "scalar.cassy.server.ssh_private_key_path=DIR/pipe",
        "scalar.cassy.server.ssh_private_key_path=DIR/key.pub",
        "scalar.cassy.server.ssh_private_key_path=DIR/text",
        "scalar.cassy.server.ssh_known_hosts_path=DIR/pipe",
        "scalar.cassy.server.slave_command_path=bin",
        "scalar.cassy.server.metadata_db_url=jdbc:sqlite:DIR/none/cassy.db",
        "scalar.cassy.server.metadata_db_url=jdbc:sqlite:DIR/text",
        "scalar.cassy.server.metadata_db_url=jdbc:sqlite:DIR/pipe",
        "scalar.cassy.server.storage_base_uri=file://DIR/text",
    ] {
        let path = configuration(dir.path(), line);
        // A server that waits for the other end of a pipe never ends by itself.
        let arguments = ["20", env!("CARGO_BIN_EXE_cassy"), "server", "--config", &path];
        let output = run(Path::new("timeout"), &arguments);
        let said = str::from_utf8(&output.stderr).unwrap();
        let (key, value) = line.split_once('=').unwrap();
        let value = value.replace("DIR", &dir.path().display().to_string());
        assert_eq!(output.status.code(), Some(64), "{line}: {said}");
        assert!(said.starts_with(&format!("error: {path}: {key} = {value}: expected ")), "{line}: {said}");
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
        assert!(!dir.path().join("cassy.db").exists(), "{line}: nothing is opened");
    }
}

#[test]
fn an_address_that_is_not_this_machines_is_named_with_its_key() {
    let dir = directory();
    // Of a network for documentation (RFC 5737): no machine has it.
    let path = configuration(dir.path(), "scalar.cassy.server.listen_address=192.0.2.1");
    let output = cassy(&["server", "--config", &path]);
    let said = str::from_utf8(&output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("error: cannot listen on 192.0.2.1:20051") && said.contains("listen_address"),
        "{said}"
    );
}

#[test]
fn a_missing_configuration_is_one_line_and_64() {
    let stderr = expect![[r#"
        error: cannot read the configuration file /none/cassy.properties: No such file or directory (os error 2)
    "#]];
    check(&cassy(&["server", "--config", "/none/cassy.properties"]), 64, &expect![""], &stderr);
}
