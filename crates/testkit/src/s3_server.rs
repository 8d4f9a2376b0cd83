//! A real server that speaks S3, on loopback: versitygw, or MinIO as a second opinion.
//!
//! `scripts/prepare` installs them. A bare `cargo test` leaves out what needs them, and says so; with
//! `CASSY_TEST_REQUIRE=1` that is a failure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::jars::cache_directory;
use crate::runtime::READY_LIMIT;
use crate::{Doing, Failure, Launch, Lifetime, Port, Probe, Process, wait_for};

/// The id of the server's only account.
pub const ACCESS_KEY: &str = "cassy-test";
/// The secret of the server's only account.
pub const SECRET_KEY: &str = "not-a-secret-of-anybody";
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// <https://github.com/versity/versitygw>
    Versitygw,
    /// <https://github.com/minio/minio>, which is no longer maintained.
    Minio,
}

impl Make {
    fn name(self) -> &'static str {
        match self {
            Self::Versitygw => "versitygw",
            Self::Minio => "minio",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Versitygw => "CASSY_VERSITYGW",
            Self::Minio => "CASSY_MINIO",
        }
    }

    /// Its program, or nothing (and a line that says so) where it is not installed.
    ///
    /// # Errors
    /// When it is missing and `CASSY_TEST_REQUIRE=1`.
    pub fn program(self) -> Result<Option<PathBuf>, Failure> {
        let name = self.name();
        let named = std::env::var_os(self.variable()).map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
        let installed = cache_directory()?.join("tools/bin").join(name);
        let found = named.into_iter().chain(on_path).chain([installed]).find(|path| path.is_file());
        if found.is_none() {
            let missing = format!("there is no {name}; ./test installs it");
            if std::env::var("CASSY_TEST_REQUIRE").as_deref() == Ok("1") {
                return Err(Failure::new(missing));
            }
            eprintln!("skipped: {missing}");
        }
        Ok(found)
    }
}

/// A running server with a directory of its own.
#[derive(Debug)]
pub struct S3Server {
    make: Make,
    program: PathBuf,
    process: Process,
    port: Port,
    directory: PathBuf,
    is_tls: bool,
}

impl S3Server {
    /// Starts one in this directory; nothing where it is not installed.
    ///
    /// # Errors
    /// When it is missing and required, or does not start.
    pub async fn start(make: Make, directory: &Path) -> Result<Option<Self>, Failure> {
        Self::start_with(make, directory, false).await
    }

    /// The same over TLS, with a certificate for 127.0.0.1 by an authority that nobody else knows.
    ///
    /// # Errors
    /// As [`S3Server::start`].
    pub async fn start_with(make: Make, directory: &Path, is_tls: bool) -> Result<Option<Self>, Failure> {
        let Some(program) = make.program()? else { return Ok(None) };
        for part in ["data", "iam", "versions", "certificates"] {
            let part = directory.join(part);
            std::fs::create_dir_all(&part).doing(|| format!("make {}", part.display()))?;
        }
        if is_tls {
            certify(&directory.join("certificates"))?;
        }
        let port = Port::reserve()?;
        let process = launch(make, &program, directory, &port, is_tls)?;
        let mut server = Self { make, program, process, port, directory: directory.to_owned(), is_tls };
        server.ready().await?;
        Ok(Some(server))
    }

    /// Starts it again, after [`S3Server::kill`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        self.process.kill();
        self.process = launch(self.make, &self.program, &self.directory, &self.port, self.is_tls)?;
        self.ready().await
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        self.process.stop(STOP_LIMIT).await
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let (name, port) = (self.make.name(), self.port.number());
        wait_for(format!("{name} listens"), READY_LIMIT, async || {
            if let Some(status) = self.process.ended() {
                let log = self.process.log_tail();
                return Probe::Broken(Failure::new(format!("{name} ended ({status}); its log:\n{log}")));
            }
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(_) => Probe::Ready(()),
                Err(error) => Probe::NotYet(error.to_string()),
            }
        })
        .await
    }

    /// `http://127.0.0.1:port`, or `https:`.
    pub fn endpoint(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The certificate of the authority, in the PEM format.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("certificates/ca.pem")
    }

    /// Makes a bucket, which is a directory to both.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn make_bucket(&self, name: &str) -> Result<PathBuf, Failure> {
        let bucket = self.directory.join("data").join(name);
        std::fs::create_dir(&bucket).doing(|| format!("make {}", bucket.display()))?;
        Ok(bucket)
    }

    /// What it has logged: a line for each request.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn launch(
    make: Make,
    program: &Path,
    directory: &Path,
    port: &Port,
    is_tls: bool,
) -> Result<Process, Failure> {
    let address = format!("127.0.0.1:{port}");
    let below = |part: &str| directory.join(part).into_os_string();
    let mut arguments = Vec::new();
    let mut environment = BTreeMap::new();
    let mut set = |name: &str, value: &str| environment.insert(name.to_owned(), value.to_owned());
    match make {
        Make::Versitygw => {
            set("ROOT_ACCESS_KEY", ACCESS_KEY);
            set("ROOT_SECRET_KEY", SECRET_KEY);
            arguments.extend(["--port".into(), address.into(), "--iam-dir".into(), below("iam")]);
            if is_tls {
                arguments.extend(["--cert".into(), below("certificates/public.crt")]);
                arguments.extend(["--key".into(), below("certificates/private.key")]);
            }
            arguments.extend(["posix".into(), "--versioning-dir".into(), below("versions"), below("data")]);
        }
        Make::Minio => {
            set("MINIO_ROOT_USER", ACCESS_KEY);
            set("MINIO_ROOT_PASSWORD", SECRET_KEY);
            set("MINIO_BROWSER", "off");
            set("MINIO_UPDATE", "off");
            arguments.extend(["server".into(), "--quiet".into(), "--address".into(), address.into()]);
            if is_tls {
                arguments.extend(["--certs-dir".into(), below("certificates")]);
            }
            arguments.push(below("data"));
        }
    }
    Process::start(&Launch {
        name: make.name().to_owned(),
        program: program.to_owned(),
        arguments,
        directory: directory.to_owned(),
        environment,
        log: directory.join("server.log"),
        lifetime: Lifetime::Owned,
    })
}

/// An authority, and a certificate by it for 127.0.0.1.
fn certify(directory: &Path) -> Result<(), Failure> {
    std::fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1\n").doing(|| "write names")?;
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority =
        ["req", "-x509", "-subj", "/CN=Test authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(directory, &[&authority[..], &key].concat())?;
    let request = ["req", "-new", "-subj", "/CN=127.0.0.1", "-keyout", "private.key", "-out", "request"];
    openssl(directory, &[&request[..], &key].concat())?;
    let signing = ["x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(directory, &[&signing[..], &["-days", "2", "-extfile", "names", "-out", "public.crt"]].concat())
}

fn openssl(directory: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output();
    let output = output.doing(|| "run openssl (Debian's package is openssl)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("openssl {arguments:?} failed: {said}")))
}
