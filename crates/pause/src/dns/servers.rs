//! Which servers are asked: one that is named, or those of `/etc/resolv.conf` (resolv.conf(5)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;

const PORT: u16 = 53;
/// More are not asked by any resolver.
const LIMIT: usize = 3;
const FILE_LIMIT_BYTES: u64 = 64 << 10;

/// Read anew for each question, as the file changes under a running server.
#[derive(Debug, Clone)]
pub(crate) enum Servers {
    Named(SocketAddr),
    Listed(PathBuf),
}

impl Servers {
    pub(crate) async fn list(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Named(server) => Ok(vec![*server]),
            Self::Listed(path) => Ok(listed(&read(path, FILE_LIMIT_BYTES).await?)),
        }
    }
}

/// A file that is not there names nobody. What is behind the limit might name somebody.
pub(super) async fn read(path: &Path, limit_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    let read = match tokio::fs::File::open(path).await {
        Ok(file) => file.take(limit_bytes + 1).read_to_end(&mut bytes).await?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if read as u64 > limit_bytes {
        let message = format!("{} is larger than {limit_bytes} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Without any it is this machine's own, as resolv.conf(5) has it.
fn listed(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next());
        address?.parse::<IpAddr>().ok()
    });
    let mut servers: Vec<_> = named.take(LIMIT).map(|address| SocketAddr::new(address, PORT)).collect();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, PORT).into());
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_name_servers_are_asked() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n  nameserver\t2001:db8::53 # x\n\
                    nameserver nonsense\nnameserver 192.0.2.3\nnameserver 192.0.2.4\noptions ndots:5\n";
        let servers: Vec<_> = listed(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::53]:53", "192.0.2.3:53"]);
    }

    #[test]
    fn without_any_it_is_this_machine() {
        assert_eq!(listed("search a\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_names_nobody() {
        assert_eq!(read(Path::new("/nonexistent/resolv.conf"), 9).await.unwrap(), "");
    }

    #[tokio::test]
    async fn of_a_file_that_is_too_large_nothing_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        std::fs::write(&path, "nine byte").unwrap();
        assert_eq!(read(&path, 9).await.unwrap(), "nine byte");
        assert_eq!(read(&path, 8).await.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
