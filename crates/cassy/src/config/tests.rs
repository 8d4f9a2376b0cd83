//! Whole files: what comes of them, and each line that is said about them.

use super::*;
use expect_test::{Expect, expect};
use std::os::unix::fs::PermissionsExt;

/// A directory with a private key in it, `DIR/key`, and its public key.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    keygen(&dir.path().join("key"), "");
    dir
}

fn keygen(path: &Path, passphrase: &str) {
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f"]).arg(path);
    assert!(keygen.status().expect("ssh-keygen runs (Debian's package is openssh-client)").success());
}

/// A named pipe that nobody writes to.
fn pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn load_text(dir: &Path, text: &str) -> Result<Loaded, ConfigError> {
    let file = dir.join("cassy.properties");
    std::fs::write(&file, text.replace("DIR", &dir.display().to_string())).unwrap();
    load(&file, Some(Path::new("/home/me")))
}

/// What is said about this text, added to the keys that are required.
fn check(text: &str, expected: Expect) {
    let dir = directory();
    let required = "scalar.cassy.server.ssh_user=foo\n\
                    scalar.cassy.server.ssh_private_key_path=DIR/key\n\
                    scalar.cassy.server.storage_base_uri=file:///mnt/backups\n";
    check_in(dir.path(), &format!("{required}{text}"), expected);
}

#[allow(clippy::needless_pass_by_value)] // reads better where it is called
fn check_in(dir: &Path, text: &str, expected: Expect) {
    let lines = match load_text(dir, text) {
        Ok(loaded) => {
            let warnings = loaded.warnings.iter().map(|problem| format!("warning: {problem}"));
            warnings.chain([loaded.config.to_string()]).collect()
        }
        Err(error) => error.lines(),
    };
    for line in &lines {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    expected.assert_eq(&lines.join("\n").replace(&dir.display().to_string(), "DIR"));
}

#[test]
fn defaults() {
    check(
        "",
        expect![
            "gRPC on 0.0.0.0 port 20051, JMX port 7199, SSH as foo port 22 with DIR/key, known hosts /home/me/.ssh/known_hosts (strict: false), agent first in none, store file:///mnt/backups, metadata jdbc:sqlite:cassy.db, SRV record none, DNS server the system's, pauses of at most 30000 ms, cassandra.yaml none"
        ],
    );
}

#[test]
fn every_key() {
    let text = "scalar.cassy.server.port=1\n\
                scalar.cassy.server.listen_address = ::1\n\
                scalar.cassy.server.jmx_port : 2\n\
                scalar.cassy.server.ssh_port 3\n\
                scalar.cassy.server.ssh_known_hosts_path=DIR/new\n\
                scalar.cassy.server.ssh_strict_host_keys=False\n\
                scalar.cassy.server.ssh_command_prefix=sudo -n '-u' cassandra\n\
                scalar.cassy.server.slave_command_path=/opt/cassy/bin\n\
                scalar.cassy.server.storage_type=FILE\n\
                scalar.cassy.server.metadata_db_url=jdbc:sqlite:/var/lib/cassy.db\n\
                scalar.cassy.server.srv_service_url=_app._tcp.\\\n   example.com\n\
                scalar.cassy.server.dns_server=10.0.0.2:53\n\
                scalar.cassy.server.max_pause_ms=5000\n\
                scalar.cassy.server.cassandra_yaml=/etc/cassandra/cassandra.yaml  \n";
    check(
        text,
        expect![
            "gRPC on ::1 port 1, JMX port 2, SSH as foo port 3 with DIR/key, known hosts DIR/new (strict: false), agent behind [\"sudo\", \"-n\", \"-u\", \"cassandra\"], agent first in /opt/cassy/bin, store file:///mnt/backups, metadata jdbc:sqlite:/var/lib/cassy.db, SRV record _app._tcp.example.com, DNS server 10.0.0.2:53, pauses of at most 5000 ms, cassandra.yaml /etc/cassandra/cassandra.yaml"
        ],
    );
}

#[test]
fn blank_values_are_not_set() {
    let text: String = keys::ALL
        .iter()
        .filter(|key| !["ssh_user", "ssh_private_key_path", "storage_base_uri"].contains(key))
        .map(|key| format!("scalar.cassy.server.{key}= \n"))
        .collect();
    let dir = directory();
    let blank = "scalar.cassy.server.ssh_user=foo\nscalar.cassy.server.ssh_private_key_path=DIR/key\n\
                 scalar.cassy.server.storage_base_uri=file:///mnt/backups\n";
    let with = load_text(dir.path(), &format!("{blank}{text}")).unwrap();
    assert_eq!(with, load_text(dir.path(), blank).unwrap());
}

#[test]
fn everything_missing_is_named_at_once() {
    let dir = directory();
    check_in(
        dir.path(),
        "# nothing\nscalar.cassy.server.ssh_user=\n",
        expect![[r#"
            error: DIR/cassy.properties: scalar.cassy.server.ssh_user: required, but not set: expected the user for SSH to the nodes
            error: DIR/cassy.properties: scalar.cassy.server.ssh_private_key_path: required, but not set: expected the file of a private key for SSH to the nodes
            error: DIR/cassy.properties: scalar.cassy.server.storage_base_uri: required, but not set: expected where backups are kept, such as file:///mnt/backups"#]],
    );
}

#[test]
fn wrong_values_are_named_with_what_was_expected() {
    check(
        "scalar.cassy.server.port=abc\n\
         scalar.cassy.server.jmx_port=70000\n\
         scalar.cassy.server.listen_address=localhost\n\
         scalar.cassy.server.ssh_port=0\n\
         scalar.cassy.server.ssh_strict_host_keys=yes\n\
         scalar.cassy.server.srv_service_url=<srv-service-url>\n\
         scalar.cassy.server.cassandra_yaml=cassandra.yaml\n\
         scalar.cassy.server.metadata_db_url=jdbc:oracle:thin:u/p@db\n",
        expect![[r#"
            error: DIR/cassy.properties: scalar.cassy.server.listen_address = localhost: expected an IP address, such as 127.0.0.1, or 0.0.0.0 for all interfaces
            error: DIR/cassy.properties: scalar.cassy.server.port = abc: expected a port number from 1 to 65535
            error: DIR/cassy.properties: scalar.cassy.server.jmx_port = 70000: expected a port number from 1 to 65535
            error: DIR/cassy.properties: scalar.cassy.server.ssh_port = 0: expected a port number from 1 to 65535
            error: DIR/cassy.properties: scalar.cassy.server.ssh_strict_host_keys = yes: expected true or false
            error: DIR/cassy.properties: scalar.cassy.server.metadata_db_url = jdbc:oracle:thin:u/p@db: expected jdbc:sqlite:FILE, for example jdbc:sqlite:cassy.db
            error: DIR/cassy.properties: scalar.cassy.server.srv_service_url = <srv-service-url>: expected the name of an SRV record, such as _app._tcp.example.com
            error: DIR/cassy.properties: scalar.cassy.server.cassandra_yaml = cassandra.yaml: expected an absolute path on the Cassandra nodes"#]],
    );
}

#[test]
fn the_store() {
    let dir = directory();
    let check = |uri: &str, kind: &str, expected: Expect| {
        let text = format!(
            "scalar.cassy.server.ssh_user=foo\nscalar.cassy.server.ssh_private_key_path=DIR/key\n\
             scalar.cassy.server.storage_base_uri={uri}\nscalar.cassy.server.storage_type={kind}\n"
        );
        let lines = load_text(dir.path(), &text).unwrap_err().lines();
        expected
            .assert_eq(&lines.join("\n").replace(&format!("{}/cassy.properties", dir.path().display()), "F"));
    };
    check(
        "s3://bucket",
        "aws_s3",
        expect![
            "error: F: scalar.cassy.server.storage_base_uri = s3://bucket: aws_s3 is not supported yet: expected file:///absolute/path; aws_s3, azure_blob, gcs and sftp come with later versions"
        ],
    );
    check(
        "s3://bucket",
        "",
        expect![
            "error: F: scalar.cassy.server.storage_base_uri = s3://bucket: aws_s3 is not supported yet: expected file:///absolute/path; aws_s3, azure_blob, gcs and sftp come with later versions"
        ],
    );
    check(
        "https://a.blob.core.windows.net/c?sig=secret",
        "Azure_Blob",
        expect![
            "error: F: scalar.cassy.server.storage_base_uri = https://a.blob.core.windows.net/c?...: azure_blob is not supported yet: expected file:///absolute/path; aws_s3, azure_blob, gcs and sftp come with later versions"
        ],
    );
    check(
        "file:///mnt/backups",
        "aws_s3",
        expect![
            "error: F: scalar.cassy.server.storage_type = aws_s3: contradicts storage_base_uri, which is of type file: expected file, or nothing"
        ],
    );
    check(
        "s3://bucket",
        "file",
        expect![
            "error: F: scalar.cassy.server.storage_type = file: contradicts storage_base_uri, which is of type aws_s3: expected aws_s3, or nothing"
        ],
    );
    check(
        "file:///mnt/backups",
        "nfs",
        expect![
            "error: F: scalar.cassy.server.storage_type = nfs: expected file, or nothing, as the storage_base_uri tells; aws_s3, azure_blob, gcs and sftp come with later versions"
        ],
    );
    check(
        "/mnt/backups",
        "file",
        expect![
            "error: F: scalar.cassy.server.storage_base_uri = /mnt/backups: expected the URI of a store, such as file:///absolute/path"
        ],
    );
    check(
        "file://mnt/backups",
        "",
        expect![
            "error: F: scalar.cassy.server.storage_base_uri = file://mnt/backups: expected file:///absolute/path, a directory for the backups alone (Write file:///absolute/path, with three slashes.)"
        ],
    );
    check(
        "file:///",
        "",
        expect![
            "error: F: scalar.cassy.server.storage_base_uri = file:///: expected file:///absolute/path, a directory for the backups alone (Name a directory for the backups alone.)"
        ],
    );
    check(
        "ftp://host",
        "",
        expect![
            "error: F: scalar.cassy.server.storage_base_uri = ftp://host: expected the URI of a store, such as file:///absolute/path"
        ],
    );
}

#[test]
fn unknown_keys_are_warnings() {
    check(
        "scalar.cassy.server.prot=1\nserver.quux=2\nscalar.cassy.server.\\u0000=3\n",
        expect![[r#"
        warning: DIR/cassy.properties: scalar.cassy.server.prot: unknown key, ignored: did you mean scalar.cassy.server.port?
        warning: DIR/cassy.properties: server.quux: unknown key, ignored
        warning: DIR/cassy.properties: scalar.cassy.server.\u{0}: unknown key, ignored
        gRPC on 0.0.0.0 port 20051, JMX port 7199, SSH as foo port 22 with DIR/key, known hosts /home/me/.ssh/known_hosts (strict: false), agent first in none, store file:///mnt/backups, metadata jdbc:sqlite:cassy.db, SRV record none, DNS server the system's, pauses of at most 30000 ms, cassandra.yaml none"#]],
    );
}

#[test]
fn keys_set_twice() {
    check(
        "scalar.cassy.server.port=5\nscalar.cassy.server.port=5\n",
        expect![[r#"
        warning: DIR/cassy.properties: scalar.cassy.server.port = 5: is set twice (again in line 5)
        gRPC on 0.0.0.0 port 5, JMX port 7199, SSH as foo port 22 with DIR/key, known hosts /home/me/.ssh/known_hosts (strict: false), agent first in none, store file:///mnt/backups, metadata jdbc:sqlite:cassy.db, SRV record none, DNS server the system's, pauses of at most 30000 ms, cassandra.yaml none"#]],
    );
    check(
        "scalar.cassy.server.port=5\n\nscalar.cassy.server.port=6\n",
        expect![
            "error: DIR/cassy.properties: scalar.cassy.server.port = 6: is set twice, to different values (again in line 6)"
        ],
    );
}

#[test]
fn control_characters_are_refused() {
    check(
        "scalar.cassy.server.slave_command_path=/a\\nb\nscalar.cassy.server.ssh_user=a\\u0000b\n\
         scalar.cassy.server.cassandra_yaml=/\\u001b[31m\n",
        expect![[r#"
            error: DIR/cassy.properties: scalar.cassy.server.slave_command_path = /a\nb: expected a value without control characters
            error: DIR/cassy.properties: scalar.cassy.server.ssh_user = a\u{0}b: expected a value without control characters
            error: DIR/cassy.properties: scalar.cassy.server.cassandra_yaml = /\u{1b}[31m: expected a value without control characters"#]],
    );
}

/// What is said of one key's value, without the file's name and the key's prefix; empty when nothing is.
fn said_of(dir: &Path, key: &str, value: &str) -> String {
    let mut values = vec![
        ("ssh_user", "foo"),
        ("ssh_private_key_path", "DIR/key"),
        ("storage_base_uri", "file:///mnt/backups"),
    ];
    values.retain(|(other, _)| *other != key);
    values.push((key, value));
    let text: String = values.iter().map(|(key, value)| format!("{}{key}={value}\n", keys::PREFIX)).collect();
    let lines = match load_text(dir, &text) {
        Ok(loaded) => loaded.warnings.iter().map(|problem| format!("warning: {problem}")).collect(),
        Err(error) => error.lines(),
    };
    let file = format!("{}/cassy.properties: {}{key} = {value}: ", dir.display(), keys::PREFIX);
    lines.join("\n").replace(&file.replace("DIR", &dir.display().to_string()), "")
}

#[test]
fn the_private_key() {
    let dir = directory();
    let path = |name: &str| dir.path().join(name);
    keygen(&path("locked"), "secret");
    pipe(&path("pipe"));
    std::fs::write(path("garbage"), "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n").unwrap();
    std::fs::write(path("open"), std::fs::read(path("key")).unwrap()).unwrap();
    for (name, mode) in [("garbage", 0o600), ("open", 0o640), ("key.pub", 0o600)] {
        std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let no_key = "error: expected a private key without a passphrase: ";
    for (value, expected) in [
        ("DIR/key", String::new()),
        ("DIR/none", "error: expected a readable file: No such file or directory (os error 2)".to_owned()),
        ("~/.ssh/none", "error: expected a readable file: No such file or directory (os error 2)".to_owned()),
        ("DIR", "error: expected a readable file: it is not a regular file".to_owned()),
        ("DIR/pipe", "error: expected a readable file: it is not a regular file".to_owned()),
        ("DIR/garbage", format!("{no_key}it is no private key in OpenSSH or PEM format, or it is damaged")),
        ("DIR/key.pub", format!("{no_key}it holds a public key; the private one is needed")),
        ("DIR/locked", format!("{no_key}it is protected by a passphrase, which nobody can type here")),
        (
            "DIR/open",
            "error: expected a key that only its owner may read (mode 0640): chmod 600 makes it so"
                .to_owned(),
        ),
    ] {
        let said = said_of(dir.path(), "ssh_private_key_path", value);
        assert!(said.starts_with(&expected), "{value}: {said}");
        assert_eq!(
            (said.is_empty(), said.lines().count() < 2),
            (expected.is_empty(), true),
            "{value}: {said}"
        );
    }
}

#[test]
fn places_that_cannot_hold_what_they_should() {
    let dir = directory();
    let path = |name: &str| dir.path().join(name);
    pipe(&path("pipe"));
    std::fs::write(path("text"), "this is no database").unwrap();
    std::fs::write(path("empty"), "").unwrap();
    for (key, value, expected) in [
        ("metadata_db_url", "jdbc:sqlite:DIR/new.db", ""),
        ("metadata_db_url", "jdbc:sqlite:DIR/empty", ""),
        ("metadata_db_url", "jdbc:sqlite:DIR/none/c.db", "error: expected a file in a directory that exists"),
        ("metadata_db_url", "jdbc:sqlite:DIR/text/c.db", "error: expected a file in a directory that exists"),
        ("metadata_db_url", "jdbc:sqlite:DIR", "error: expected a file: it is not a regular file"),
        ("metadata_db_url", "jdbc:sqlite:DIR/pipe", "error: expected a file: it is not a regular file"),
        ("metadata_db_url", "jdbc:sqlite:DIR/text", "error: expected an SQLite database: it is none"),
        ("storage_base_uri", "file://DIR", ""),
        ("storage_base_uri", "file://DIR/mounted/later", ""),
        ("storage_base_uri", "file://DIR/text", "error: expected a directory for the backups: it is none"),
        ("storage_base_uri", "file://DIR/pipe", "error: expected a directory for the backups: it is none"),
        (
            "storage_base_uri",
            "file://DIR/text/below",
            "error: expected a directory for the backups: a part of the path is a file",
        ),
        ("slave_command_path", "/opt/cassy", ""),
        ("slave_command_path", "bin", "error: expected an absolute path on the Cassandra nodes"),
        ("slave_command_path", "~/bin", "error: expected an absolute path on the Cassandra nodes"),
        ("ssh_known_hosts_path", "DIR/none", ""),
        ("ssh_known_hosts_path", "DIR", "error: expected a readable file: it is not a regular file"),
        ("ssh_known_hosts_path", "DIR/pipe", "error: expected a readable file: it is not a regular file"),
    ] {
        assert_eq!(said_of(dir.path(), key, value), expected, "{key} = {value}");
    }
    assert!(!path("new.db").exists(), "what is only checked is not created");
}

#[test]
fn known_hosts_must_be_there_when_strict() {
    check(
        "scalar.cassy.server.ssh_known_hosts_path=DIR/none\nscalar.cassy.server.ssh_strict_host_keys=true\n",
        expect![
            "error: DIR/cassy.properties: scalar.cassy.server.ssh_known_hosts_path = DIR/none: expected a readable file: No such file or directory (os error 2)"
        ],
    );
    check(
        "scalar.cassy.server.ssh_known_hosts_path=DIR\n",
        expect![
            "error: DIR/cassy.properties: scalar.cassy.server.ssh_known_hosts_path = DIR: expected a readable file: it is not a regular file"
        ],
    );
    check(
        "scalar.cassy.server.ssh_strict_host_keys=true\n",
        expect![
            "error: DIR/cassy.properties: scalar.cassy.server.ssh_strict_host_keys = true: expected /home/me/.ssh/known_hosts with the nodes' host keys, as no others are to be trusted"
        ],
    );
    check(
        "scalar.cassy.server.ssh_strict_host_keys=true\nscalar.cassy.server.ssh_known_hosts_path=DIR/key\n",
        expect![
            "gRPC on 0.0.0.0 port 20051, JMX port 7199, SSH as foo port 22 with DIR/key, known hosts DIR/key (strict: true), agent first in none, store file:///mnt/backups, metadata jdbc:sqlite:cassy.db, SRV record none, DNS server the system's, pauses of at most 30000 ms, cassandra.yaml none"
        ],
    );
}

#[test]
fn files_that_cannot_be_read() {
    let dir = directory();
    let shown = |result: Result<Loaded, ConfigError>| {
        result.unwrap_err().lines().join("\n").replace(&dir.path().display().to_string(), "DIR")
    };
    expect!["error: cannot read the configuration file DIR/none: No such file or directory (os error 2)"]
        .assert_eq(&shown(load(&dir.path().join("none"), None)));
    expect!["error: cannot read the configuration file DIR: Is a directory (os error 21)"]
        .assert_eq(&shown(load(dir.path(), None)));
    expect![[r#"error: DIR/cassy.properties: not in the format of Java's .properties files: line 2: \u needs four hexadecimal digits behind it"#]]
        .assert_eq(&shown(load_text(dir.path(), "scalar.cassy.server.port=1\nb=\\u12")));
    expect!["error: the configuration file DIR/cassy.properties is larger than 1048576 bytes"]
        .assert_eq(&shown(load_text(dir.path(), &"#".repeat(2 << 20))));
}

/// The file that is shipped: complete, its defaults are those of the code, and nothing in it is unknown.
#[test]
fn the_shipped_file_mentions_every_key() {
    let shipped = include_str!("../../../../conf/cassy.properties");
    for key in keys::ALL {
        let full = format!("{}{key}=", keys::PREFIX);
        assert_eq!(shipped.matches(&full).count(), 1, "{full}");
        let before: Vec<&str> = shipped.lines().take_while(|line| !line.contains(&full)).collect();
        assert!(before.last().is_some_and(|line| line.starts_with("# ")), "{key} has no comment before it");
    }
    let dir = directory();
    let usable = shipped.replace("/path/to/.ssh/id_rsa", "DIR/key");
    let loaded = load_text(dir.path(), &usable).unwrap();
    assert_eq!(loaded.warnings, []);
    let with_defaults = usable.replace("\n#scalar.", "\nscalar.");
    let loaded_with_defaults = load_text(dir.path(), &with_defaults).unwrap();
    assert_eq!(loaded_with_defaults.config, loaded.config);
}

#[test]
fn tls_to_the_applications() {
    let dir = directory();
    let authority = cassy_testkit::certificates::Authority::new().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem().repeat(2)).unwrap();
    std::fs::write(dir.path().join("none.pem"), "no certificate\n").unwrap();
    let required = "scalar.cassy.server.ssh_user=foo\nscalar.cassy.server.ssh_private_key_path=DIR/key\n\
                    scalar.cassy.server.storage_base_uri=file:///mnt/backups\n";
    let check = |text: &str, expected| {
        let text = text.replace("TLS", "scalar.cassy.server.srv_service_tls");
        check_in(dir.path(), &format!("{required}{text}"), expected);
    };
    check(
        "TLS=true\nTLS_ca_path=DIR/ca.pem\n",
        expect![
            "gRPC on 0.0.0.0 port 20051, JMX port 7199, SSH as foo port 22 with DIR/key, known hosts /home/me/.ssh/known_hosts (strict: false), agent first in none, store file:///mnt/backups, metadata jdbc:sqlite:cassy.db, SRV record none, TLS to its instances by 2 authorities, DNS server the system's, pauses of at most 30000 ms, cassandra.yaml none"
        ],
    );
    check(
        "TLS=true\nTLS_ca_path=DIR/ca.pem\nTLS_server_name=app.example.com\n",
        expect![
            "gRPC on 0.0.0.0 port 20051, JMX port 7199, SSH as foo port 22 with DIR/key, known hosts /home/me/.ssh/known_hosts (strict: false), agent first in none, store file:///mnt/backups, metadata jdbc:sqlite:cassy.db, SRV record none, TLS to its instances as app.example.com by 2 authorities, DNS server the system's, pauses of at most 30000 ms, cassandra.yaml none"
        ],
    );
    check(
        "TLS=true\n",
        expect![
            "error: DIR/cassy.properties: scalar.cassy.server.srv_service_tls_ca_path: required, but not set: expected a file with the certificates of the authorities that sign those of the applications, in PEM, such as /etc/ssl/certs/ca-certificates.crt"
        ],
    );
    check(
        "TLS=true\nTLS_ca_path=DIR/none.pem\nTLS_server_name=a b\n",
        expect![[r#"
        error: DIR/cassy.properties: scalar.cassy.server.srv_service_tls_server_name = a b: expected the name or the address of a host, as it is in its certificate
        error: DIR/cassy.properties: scalar.cassy.server.srv_service_tls_ca_path = DIR/none.pem: expected certificates in PEM: there is no certificate in it (-----BEGIN CERTIFICATE-----)"#]],
    );
    check(
        "TLS=true\nTLS_ca_path=DIR/absent.pem\n",
        expect![
            "error: DIR/cassy.properties: scalar.cassy.server.srv_service_tls_ca_path = DIR/absent.pem: expected a readable file: No such file or directory (os error 2)"
        ],
    );
    check(
        "TLS_ca_path=DIR/ca.pem\nTLS_server_name=app.example.com\n",
        expect![[r#"
        error: DIR/cassy.properties: scalar.cassy.server.srv_service_tls_ca_path = DIR/ca.pem: is of no use without srv_service_tls: expected that to be true, or nothing here
        error: DIR/cassy.properties: scalar.cassy.server.srv_service_tls_server_name = app.example.com: is of no use without srv_service_tls: expected that to be true, or nothing here"#]],
    );
}
