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
          server  Start the server
          help    Print this message or the help of the given subcommand(s)

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

#[test]
fn a_wrong_configuration_is_one_line_and_64() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "").unwrap();
    let file = dir.path().join("cassy.properties");
    let text = format!(
        "scalar.cassy.server.ssh_user=foo\nscalar.cassy.server.ssh_private_key_path={}\n\
         scalar.cassy.server.storage_base_uri=file:///mnt/backups\nscalar.cassy.server.port=abc\n",
        key.display()
    );
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let path = file.display().to_string();
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
fn a_missing_configuration_is_one_line_and_64() {
    let stderr = expect![[r#"
        error: cannot read the configuration file /none/cassy.properties: No such file or directory (os error 2)
    "#]];
    check(&cassy(&["server", "--config", "/none/cassy.properties"]), 64, &expect![""], &stderr);
}
