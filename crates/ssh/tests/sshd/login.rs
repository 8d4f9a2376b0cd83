//! Keys, host keys, and everything that may answer instead of sshd.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use cassy_ssh::{Class, Ssh, SshConfig, SshError};

use crate::server::{Memory, Sshd, free_port, keygen, log_in, ssh, sshd, sshd_with, told};

#[tokio::test]
async fn keys_of_every_type_and_format() {
    let Some(sshd) = sshd().await else { return };
    let mut authorized = String::new();
    let mut names = Vec::new();
    for (kind, bits) in
        [("ed25519", "256"), ("rsa", "3072"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")]
    {
        for format in ["RFC4716", "PKCS8", "PEM"] {
            let name = format!("{kind}_{bits}_{format}");
            keygen(sshd.dir.path(), &name, &["-t", kind, "-b", bits, "-m", format]);
            authorized += &std::fs::read_to_string(sshd.path(&format!("{name}.pub"))).unwrap();
            names.push(name);
        }
    }
    std::fs::write(sshd.path("authorized_keys"), authorized).unwrap();
    for name in names {
        let config = SshConfig { private_key_path: sshd.path(&name), ..sshd.config() };
        let result = log_in(config).await;
        assert!(result.is_ok(), "{name}: {}", told(&result.unwrap_err()));
    }
    assert!(sshd.log().contains("Accepted publickey"), "{}", sshd.log());
}

#[tokio::test]
async fn an_rsa_key_signs_with_sha_2_and_never_with_sha_1() {
    for (algorithm, accepted) in [("rsa-sha2-256", true), ("rsa-sha2-512", true), ("ssh-rsa", false)] {
        let Some(sshd) = sshd_with(&format!("PubkeyAcceptedAlgorithms {algorithm}")).await else { return };
        let key = keygen(sshd.dir.path(), "rsa", &["-t", "rsa", "-b", "3072", "-m", "PEM"]);
        std::fs::copy(sshd.path("rsa.pub"), sshd.path("authorized_keys")).unwrap();
        let result = log_in(SshConfig { private_key_path: key, ..sshd.config() }).await;
        assert_eq!(result.is_ok(), accepted, "{algorithm}: {}", sshd.log());
        if let Err(error) = result {
            assert!(matches!(error, SshError::AuthenticationRefused { .. }), "{}", told(&error));
        }
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used() {
    let Some(sshd) = sshd().await else { return };
    for format in ["RFC4716", "PKCS8", "PEM"] {
        keygen(sshd.dir.path(), &format!("locked_{format}"), &["-t", "rsa", "-m", format, "-N", "secret"]);
    }
    std::fs::write(
        sshd.path("garbage"),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    )
    .unwrap();
    std::fs::write(sshd.path("empty"), "").unwrap();
    for (name, expected) in [
        ("locked_RFC4716", "passphrase"),
        ("locked_PKCS8", "passphrase"),
        ("locked_PEM", "passphrase"),
        ("garbage", "damaged"),
        ("empty", "no private key"),
        ("id_ed25519.pub", "public key"),
        ("absent", "cannot be read"),
        ("home", "cannot be read"),
    ] {
        let config = SshConfig { private_key_path: sshd.path(name), ..sshd.config() };
        let error = log_in(config).await.unwrap_err();
        assert!(matches!(error, SshError::KeyFile { .. }), "{error:?}");
        assert_eq!(error.class(), Class::Permanent);
        assert!(told(&error).contains(expected) && told(&error).contains(name), "{}", told(&error));
    }
}

#[tokio::test]
async fn a_key_that_the_node_does_not_accept() {
    let Some(sshd) = sshd_with("Banner DIR/banner").await else { return };
    std::fs::write(sshd.path("banner"), "Authorized \x1b[31mpersonnel only\n").unwrap();
    let key = keygen(sshd.dir.path(), "other", &["-t", "ed25519"]);
    let memory = Arc::new(Memory::default());
    let ssh = Ssh::new(SshConfig { private_key_path: key, ..sshd.config() }, memory.clone()).unwrap();
    let error = ssh.check("127.0.0.1").await.unwrap_err();
    let text = told(&error);
    assert!(matches!(error, SshError::AuthenticationRefused { .. }), "{text}");
    for part in [
        &format!("127.0.0.1:{}", sshd.port),
        &sshd.config().user,
        "SHA256:",
        "personnel only",
        "authorized_keys",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!(memory.key("127.0.0.1", sshd.port), None, "nothing is remembered of a login that failed");
}

#[tokio::test]
async fn a_host_seen_first_is_remembered() {
    let Some(sshd) = sshd().await else { return };
    let memory = Arc::new(Memory::default());
    let ssh = Ssh::new(sshd.config(), memory.clone()).unwrap();
    ssh.check("127.0.0.1").await.unwrap();
    let remembered = memory.key("127.0.0.1", sshd.port).unwrap();
    assert!(sshd.host_key().starts_with(&remembered), "{remembered}");
    ssh.check("127.0.0.1").await.unwrap();
}

#[tokio::test]
async fn a_changed_host_key_is_refused() {
    let Some(sshd) = sshd().await else { return };
    keygen(sshd.dir.path(), "former", &["-t", "ed25519"]);
    let former = std::fs::read_to_string(sshd.path("former.pub")).unwrap();
    let shown = fingerprint(&sshd, "host_ed25519.pub");
    let known = fingerprint(&sshd, "former.pub");

    let memory = Memory::with("127.0.0.1", sshd.port, former.trim());
    let error = Ssh::new(sshd.config(), memory).unwrap().check("127.0.0.1").await.unwrap_err();
    assert!(matches!(error, SshError::HostKeyChanged { .. }), "{}", told(&error));
    assert!(told(&error).contains(&shown) && told(&error).contains(&known), "{}", told(&error));

    sshd.known_hosts(&format!("# first line\n[127.0.0.1]:{} {former}", sshd.port));
    let error = log_in(sshd.config()).await.unwrap_err();
    let text = told(&error);
    for part in [&shown, &known, "known_hosts:2", "ssh-keygen -R"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!sshd.log().contains("Accepted"), "nothing was sent to it");
}

#[tokio::test]
async fn strict_mode_wants_a_known_host() {
    let Some(sshd) = sshd().await else { return };
    let config = SshConfig { strict_host_keys: true, ..sshd.config() };
    let error = log_in(config.clone()).await.unwrap_err();
    assert!(matches!(error, SshError::HostKeyUnknown { .. }), "{}", told(&error));
    assert!(told(&error).contains(&format!("ssh-keyscan -p {} 127.0.0.1 >>", sshd.port)), "{}", told(&error));

    sshd.known_hosts(&format!("[127.0.0.1]:{} {}", sshd.port, sshd.host_key()));
    log_in(config.clone()).await.unwrap();

    // Hashed, as Debian does it.
    let hashed = std::process::Command::new("ssh-keygen")
        .arg("-H")
        .arg("-f")
        .arg(sshd.path("known_hosts"))
        .output()
        .unwrap();
    assert!(hashed.status.success(), "{hashed:?}");
    assert!(std::fs::read_to_string(sshd.path("known_hosts")).unwrap().starts_with("|1|"));
    log_in(config.clone()).await.unwrap();

    sshd.known_hosts(&format!("@revoked * {}", sshd.host_key()));
    let error = log_in(config).await.unwrap_err();
    assert!(matches!(error, SshError::HostKeyRevoked { .. }), "{}", told(&error));
}

#[tokio::test]
async fn the_known_type_of_host_key_is_asked_for() {
    // sshd reads its host keys for each connection.
    let keys = tempfile::tempdir().unwrap();
    let path = keygen(keys.path(), "host_rsa", &["-t", "rsa"]);
    let Some(sshd) = sshd_with(&format!("HostKey {}", path.display())).await else { return };
    let rsa = std::fs::read_to_string(keys.path().join("host_rsa.pub")).unwrap();
    sshd.known_hosts(&format!("[127.0.0.1]:{} {rsa}", sshd.port));
    log_in(SshConfig { strict_host_keys: true, ..sshd.config() }).await.unwrap();
}

#[tokio::test]
async fn no_algorithm_in_common() {
    let Some(sshd) = sshd_with("Ciphers 3des-cbc").await else { return };
    let error = log_in(sshd.config()).await.unwrap_err();
    assert!(matches!(error, SshError::NoCommonAlgorithm { .. }), "{}", told(&error));
    assert!(told(&error).contains("3des-cbc") && told(&error).contains("cipher"), "{}", told(&error));
}

#[tokio::test]
async fn old_servers_ciphers_and_exchanges() {
    for lines in [
        "Ciphers aes256-ctr\nMACs hmac-sha2-256",
        "Ciphers chacha20-poly1305@openssh.com\nKexAlgorithms diffie-hellman-group14-sha256",
        "KexAlgorithms ecdh-sha2-nistp256",
        "KexAlgorithms diffie-hellman-group-exchange-sha256",
    ] {
        let Some(sshd) = sshd_with(lines).await else { return };
        let result = log_in(sshd.config()).await;
        assert!(result.is_ok(), "{lines}: {}", told(&result.unwrap_err()));
    }
}

#[tokio::test]
async fn nothing_listens() {
    let error = refused(free_port()).await;
    assert!(matches!(error, SshError::Refused { .. }), "{}", told(&error));
    assert_eq!(error.class(), Class::Transient);
}

#[tokio::test]
async fn a_name_without_address() {
    let dir = tempfile::tempdir().unwrap();
    let error = ssh(config(&dir, 22)).check("no-such-host.invalid").await.unwrap_err();
    assert!(matches!(error, SshError::Resolve { .. }), "{}", told(&error));
    assert!(told(&error).contains("no-such-host.invalid:22"), "{}", told(&error));
}

#[tokio::test]
async fn a_port_that_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let config = SshConfig { connect_timeout: Duration::from_millis(300), ..config(&dir, port) };
    let started = std::time::Instant::now();
    let error = log_in(config).await.unwrap_err();
    assert!(matches!(error, SshError::Timeout { .. }), "{}", told(&error));
    assert!(told(&error).contains("SSH greeting"), "{}", told(&error));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_port_that_speaks_http() {
    let port = answering("HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n");
    let error = refused(port).await;
    assert!(matches!(error, SshError::NotSsh { .. }), "{}", told(&error));
    assert!(told(&error).contains("HTTP/1.1 400 Bad Request"), "{}", told(&error));
    assert!(!told(&error).contains('\n'));
}

#[tokio::test]
async fn a_port_that_hangs_up() {
    let error = refused(answering("")).await;
    assert!(matches!(error, SshError::ClosedAtOnce { .. }), "{}", told(&error));
    assert_eq!(error.class(), Class::Transient, "an sshd that is busy takes the next one");
    assert!(error.hint().unwrap().contains("MaxStartups"), "{:?}", error.hint());
}

#[tokio::test]
async fn an_address_that_no_node_has_is_not_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = SshConfig {
        refused_address: |address| address.is_loopback().then_some("it is refused here"),
        ..config(&dir, listener.local_addr().unwrap().port())
    };
    let error = log_in(config).await.unwrap_err();
    assert!(matches!(error, SshError::AddressRefused { .. }), "{}", told(&error));
    assert!(told(&error).contains("127.0.0.1") && told(&error).contains("it is refused here"));
    assert_eq!(error.class(), Class::Permanent);
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_pipe_in_place_of_the_key_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = log_in(SshConfig { private_key_path: pipe, ..config(&dir, 1) }).await.unwrap_err();
    assert!(matches!(error, SshError::KeyFile { .. }), "{}", told(&error));
    assert!(told(&error).contains("not a regular file"), "{}", told(&error));
}

#[tokio::test]
async fn a_server_that_greets_and_hangs_up() {
    let error = refused(answering("SSH-2.0-Weird_1.0\r\n")).await;
    assert!(matches!(error, SshError::Lost { .. }), "{}", told(&error));
}

#[test]
fn configurations_that_cannot_work() {
    let dir = tempfile::tempdir().unwrap();
    let good = config(&dir, 22);
    let path = |path: &str| SshConfig { slave_command_path: Some(path.into()), ..good.clone() };
    for wrong in
        [path("relative"), path("/a\nb"), path(""), SshConfig { user: String::new(), ..good.clone() }]
    {
        assert!(matches!(wrong.validate(), Err(SshError::Config { .. })), "{wrong:?}");
    }
    path("/opt/it's here").validate().unwrap();
}

/// Answers one client with these words, after it has spoken, and hangs up.
fn answering(words: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.read(&mut [0; 200]);
        client.write_all(words.as_bytes()).ok();
    });
    port
}

/// For ports where no sshd listens; the key in the directory is good.
fn config(dir: &tempfile::TempDir, port: u16) -> SshConfig {
    let dir = dir.path();
    SshConfig {
        user: "cassandra".into(),
        private_key_path: keygen(dir, "id", &["-t", "ed25519"]),
        port,
        known_hosts_path: Some(dir.join("known_hosts")),
        strict_host_keys: false,
        refused_address: |_| None,
        connect_timeout: Duration::from_secs(10),
        slave_command_path: None,
        command_prefix: Vec::new(),
        own_binary: dir.join("cassy"),
    }
}

/// What becomes of a login at this port.
async fn refused(port: u16) -> SshError {
    let dir = tempfile::tempdir().unwrap();
    log_in(config(&dir, port)).await.unwrap_err()
}

fn fingerprint(sshd: &Sshd, name: &str) -> String {
    let output = std::process::Command::new("ssh-keygen").arg("-lf").arg(sshd.path(name)).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    line.split(' ').nth(1).unwrap().to_owned()
}
