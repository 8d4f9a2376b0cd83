//! The executable on the node: found when exactly ours is there, else put there. Two scripts do it ([`PROBE`],
//! [`INSTALL`]), so that an account with nothing but `sh` is enough: no sftp, any login shell.
//!
//! Invariants: nothing that lies on the node is run unless its SHA-256 is ours; what the node answers becomes a
//! shell word only encoded; a push that fails leaves nothing behind.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::OnceCell;

use crate::connection::Connection;
use crate::error::{Endpoint, PushFailure, SshError};
use crate::process::{Output, run};
use crate::text::{printable, shell_word};

const PROBE: &str = include_str!("probe.sh");
const INSTALL: &str = include_str!("install.sh");

/// A node that does nothing for so long is given up; hashing the executable on a busy node takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// No path on a node is longer.
const PATH_BYTES: usize = 4096;

/// The running executable, which is also the agent.
#[derive(Debug)]
pub(crate) struct OwnBinary {
    path: PathBuf,
    sha256: OnceCell<String>,
}

/// What is wished for the agent's place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// `slave_command_path`.
    pub(crate) directory: Option<&'a str>,
    /// Another user than the one who logs in will run it, so everybody has to be able to.
    pub(crate) shared: bool,
}

/// What the probe found.
#[derive(Debug, PartialEq, Eq)]
enum Probed {
    /// Our executable is there.
    Found(String),
    /// It can be put into this directory.
    Directory(String),
}

/// The agent's path on the node, and whether it had to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) path: String,
    pub(crate) sent: bool,
}

impl OwnBinary {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, sha256: OnceCell::new() }
    }

    /// SHA-256 in hex, computed once: the file is what runs, so it stays what it is.
    pub(crate) async fn sha256(&self) -> Result<&str, SshError> {
        let hash = self.sha256.get_or_try_init(|| async {
            let mut file = self.open().await?;
            hash(&mut file).await.map_err(|source| self.unreadable(source))
        });
        Ok(hash.await?)
    }

    async fn open(&self) -> Result<tokio::fs::File, SshError> {
        tokio::fs::File::open(&self.path).await.map_err(|source| self.unreadable(source))
    }

    /// The file, from its first byte on, if it is still what was hashed.
    async fn open_unchanged(&self) -> Result<tokio::fs::File, SshError> {
        let expected = self.sha256().await?;
        let mut file = self.open().await?;
        if hash(&mut file).await.map_err(|source| self.unreadable(source))? != expected {
            return Err(SshError::OwnBinaryChanged { path: self.path.clone() });
        }
        file.seek(SeekFrom::Start(0)).await.map_err(|source| self.unreadable(source))?;
        Ok(file)
    }

    fn unreadable(&self, source: std::io::Error) -> SshError {
        SshError::OwnBinary { path: self.path.clone(), source }
    }
}

async fn hash(file: &mut tokio::fs::File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut chunk).await?;
        let Some(bytes @ [_, ..]) = chunk.get(..count) else { return Ok(hex::encode(hasher.finalize())) };
        hasher.update(bytes);
    }
}

/// Finds our executable on the node, or puts it there.
pub(crate) async fn place(
    connection: &Connection,
    binary: &OwnBinary,
    wish: Wish<'_>,
) -> Result<Placed, SshError> {
    let directory = match probe(connection, binary.sha256().await?, wish).await? {
        Probed::Found(path) => return Ok(Placed { path, sent: false }),
        Probed::Directory(directory) => directory,
    };
    install(connection, binary, &directory, wish.shared).await?;
    let path = format!("{}/cassy-{}", directory.trim_end_matches('/'), binary.sha256().await?);
    tracing::info!(node = %connection.node, %path, "agent put on the node");
    Ok(Placed { path, sent: true })
}

async fn probe(connection: &Connection, sha256: &str, wish: Wish<'_>) -> Result<Probed, SshError> {
    let given = shell_word(wish.directory.unwrap_or_default());
    let shared = if wish.shared { "shared" } else { "" };
    let command = format!("exec sh -s -- {given} {} {}", shell_word(sha256), shell_word(shared));
    let output = run(connection, &command, PROBE.as_bytes(), "looking for the agent on it", PATIENCE).await?;
    let shell =
        |said: String| SshError::Shell { node: connection.node.clone(), user: connection.user.clone(), said };
    let lines = output.marked("CASSY-PROBE-1");
    if lines.last().map(String::as_str) != Some("end") {
        return Err(shell(output.said()));
    }
    probed(&connection.node, &lines, std::env::consts::ARCH)
        .map_err(|error| error.unwrap_or_else(|| shell(output.said())))
}

/// Reads the probe's answer; an error of `None` is an answer that makes no sense.
fn probed(node: &Endpoint, lines: &[String], own_machine: &str) -> Result<Probed, Option<SshError>> {
    let word = |key: &str| lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    let (system, machine) = word("system").zip(word("machine")).ok_or(None)?;
    if system != "Linux" || machine_name(machine) != own_machine {
        return Err(Some(SshError::Architecture {
            node: node.clone(),
            theirs: printable(&format!("{system} {machine}")),
            ours: format!("Linux {own_machine}"),
        }));
    }
    if let Some(path) = word("found") {
        return path_of(path).map(Probed::Found);
    }
    if let Some(directory) = word("use") {
        return path_of(directory).map(Probed::Directory);
    }
    let tried: Vec<String> =
        lines.iter().filter_map(|line| line.strip_prefix("skip ")).map(printable).collect();
    Err(Some(SshError::NoDirectory { node: node.clone(), tried: tried.join("; ") }))
}

/// `uname -m` in Rust's words.
fn machine_name(machine: &str) -> &str {
    match machine {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

fn path_of(text: &str) -> Result<String, Option<SshError>> {
    let usable = text.starts_with('/')
        && text.len() <= PATH_BYTES
        && !text.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER);
    usable.then(|| text.to_owned()).ok_or(None)
}

async fn install(
    connection: &Connection,
    binary: &OwnBinary,
    directory: &str,
    shared: bool,
) -> Result<(), SshError> {
    let file = binary.open_unchanged().await?;
    let part = uuid::Uuid::new_v4().simple().to_string();
    let command = install_command(directory, binary.sha256().await?, &part, shared);
    let output = run(connection, &command, file, "sending the agent to it", PATIENCE).await?;
    let answer = output.marked("CASSY-PUSH-1").pop();
    let reason = match answer.as_deref() {
        Some("done") => return Ok(()),
        Some("damaged") => PushFailure::Damaged,
        Some("digest") => PushFailure::NoDigest,
        _ => failure(&output),
    };
    Err(SshError::Push { node: connection.node.clone(), directory: printable(directory), reason })
}

fn install_command(directory: &str, sha256: &str, part: &str, shared: bool) -> String {
    let mode = if shared { "0755" } else { "0700" };
    format!("exec sh -c '{}' cassy {} {sha256} {part} {mode}", one_line(INSTALL), shell_word(directory))
}

fn failure(output: &Output) -> PushFailure {
    let said = printable(&String::from_utf8_lossy(&output.stderr));
    let full = ["No space left", "Disk quota exceeded"].iter().any(|words| said.contains(words));
    match (full, said.is_empty()) {
        (true, _) => PushFailure::Full(said),
        (false, false) => PushFailure::Other(said),
        (false, true) => PushFailure::Other(output.said()),
    }
}

/// Starts the agent, behind the words of the prefix.
pub(crate) fn launch_command(prefix: &[String], path: &str) -> String {
    let words: Vec<String> = prefix.iter().map(String::as_str).chain([path]).map(shell_word).collect();
    let decoded: Vec<String> =
        (1..=words.len()).map(|number| format!("\"$(printf %b \"${{{number}}}\")\"")).collect();
    format!("exec sh -c 'exec {} agent' cassy {}", decoded.join(" "), words.join(" "))
}

/// A script as one word for any login shell's single quotes.
fn one_line(script: &str) -> String {
    let lines: Vec<&str> = script.lines().filter(|line| !line.starts_with('#')).collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_install_script_is_one_word_for_any_shell() {
        let line = one_line(INSTALL);
        for forbidden in ["'", "!", "\\\\", "\n", "\\'"] {
            assert!(!line.contains(forbidden), "{forbidden:?} in {line}");
        }
        let checked = std::process::Command::new("sh").args(["-n", "-c", &line]).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }

    /// sshd hands a command to the account's shell with `-c`.
    #[test]
    fn any_login_shell_hands_the_script_on() {
        let digest = hex::encode(Sha256::digest("content"));
        for shell in ["sh", "dash", "bash", "zsh", "ksh", "tcsh", "csh", "fish", "busybox"] {
            let root = tempfile::tempdir().unwrap();
            let directory = root.path().join("a b!$c'd");
            std::fs::create_dir(&directory).unwrap();
            let mut command = std::process::Command::new(shell);
            if shell == "busybox" {
                command.arg("sh");
            }
            let child = command
                .args(["-c", &install_command(directory.to_str().unwrap(), &digest, "part", false)])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn();
            let Ok(mut child) = child else {
                println!("skipped: {shell} is not installed");
                continue;
            };
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"content").unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "\nCASSY-PUSH-1 done\n", "{shell}");
            let names: Vec<_> =
                std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, [format!("cassy-{digest}").as_str()], "{shell}");
        }
    }

    #[test]
    fn any_login_shell_hands_the_words_of_a_prefix_on() {
        let root = tempfile::tempdir().unwrap();
        let agent = root.path().join("a b!$c'd");
        std::fs::write(&agent, "#!/bin/sh\nprintf '<%s>' \"$@\"\n").unwrap();
        std::fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let hostile = ["", "$HOME", "`id`", "; id", "a'b\"c\\d", "*", "!!", "\u{e9}", "-n", "x y"];
        // More than nine words; sh runs what is behind them.
        let show = "printf \"[%s]\" \"$@\"; shift $(($# - 2)); exec \"$@\"";
        let prefix: Vec<String> =
            ["sh", "-c", show, "sh"].into_iter().chain(hostile).map(str::to_owned).collect();
        let told: String = hostile.iter().map(|word| format!("[{word}]")).collect();
        for shell in ["sh", "dash", "bash", "zsh", "ksh", "tcsh", "csh", "fish", "busybox"] {
            let mut command = std::process::Command::new(shell);
            if shell == "busybox" {
                command.arg("sh");
            }
            let run = command.args(["-c", &launch_command(&prefix, agent.to_str().unwrap())]).output();
            let Ok(output) = run else {
                println!("skipped: {shell} is not installed");
                continue;
            };
            let expected = format!("{told}[{}][agent]<agent>", agent.display());
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{shell}: {output:?}");
        }
    }

    #[test]
    fn the_scripts_are_posix() {
        for shell in ["sh", "dash", "bash"] {
            let Ok(checked) = std::process::Command::new(shell).args(["-n", "src/probe.sh"]).output() else {
                continue;
            };
            assert!(checked.status.success(), "{shell}: {checked:?}");
        }
    }

    fn answer(text: &str) -> Result<Probed, Option<SshError>> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        probed(&Endpoint { host: "n1".into(), port: 22 }, &lines, "x86_64")
    }

    #[test]
    fn answers_of_the_probe() {
        let linux = "system Linux\nmachine x86_64\n";
        assert_eq!(answer(&format!("{linux}found /a b/cassy")).unwrap(), Probed::Found("/a b/cassy".into()));
        let skipped = format!("{linux}skip /a is a link\nuse /b\nend");
        assert_eq!(answer(&skipped).unwrap(), Probed::Directory("/b".into()));
        assert!(answer("end").unwrap_err().is_none());
        assert!(answer(&format!("{linux}use relative")).unwrap_err().is_none());
        assert!(answer(&format!("{linux}use /{}", "x".repeat(5000))).unwrap_err().is_none());
        let none = answer(&format!("{linux}skip /a is a link\nskip /b too\nend")).unwrap_err().unwrap();
        assert_eq!(
            none.to_string(),
            "no directory on n1:22 can hold and run the agent: /a is a link; /b too"
        );
        let arm = answer("system Linux\nmachine arm64\nfound /a").unwrap_err().unwrap();
        assert_eq!(
            arm.to_string(),
            "n1:22 needs an agent for Linux arm64, but this server's executable is for Linux x86_64"
        );
    }
}
