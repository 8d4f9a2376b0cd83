//! Free ports on 127.0.0.1.
//!
//! A port that is merely free at the moment is lost easily: to another test process, or to an outgoing connection.
//! So ports come from below the range of outgoing connections, and each is reserved with a file lock for as long as
//! its [`Port`] lives, also while the service behind it is down. A program that is not ours can still take one:
//! who starts a service retries with another port then.

use std::fmt;
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use crate::jars::cache_directory;
use crate::{Doing, Failure};

const LOWEST: u16 = 12_000;
const HIGHEST: u16 = 31_999;

/// A port on 127.0.0.1 that no other user of this kit gets while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Held, never read: the lock ends with the file.
    _reservation: File,
}

impl Port {
    /// Reserves a port on which nothing listens now.
    ///
    /// # Errors
    /// When the reservations' directory cannot be written, or no port is free.
    pub fn reserve() -> Result<Self, Failure> {
        let directory = reservations()?;
        for _ in 0..1_000 {
            let number = random_port();
            let path = directory.join(number.to_string());
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .doing(|| format!("open {}", path.display()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    return Err(error).doing(|| format!("lock {}", path.display()));
                }
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _reservation: file });
            }
        }
        Err(Failure::new(format!("no free port between {LOWEST} and {HIGHEST} on 127.0.0.1")))
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// One directory per user, as another user's files could be neither written nor trusted; not in `TMPDIR`, which
/// `./test` makes anew for each run.
fn reservations() -> Result<PathBuf, Failure> {
    let directory = cache_directory()?.join("ports");
    std::fs::create_dir_all(&directory).doing(|| format!("make {}", directory.display()))?;
    Ok(directory)
}

fn random_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let span = u64::from(HIGHEST - LOWEST + 1);
    let offset = RandomState::new().hash_one(std::process::id()) % span;
    LOWEST + u16::try_from(offset).expect("the remainder is below the span, which is a u16")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
    }

    #[test]
    fn a_taken_port_is_not_given() {
        let port = Port::reserve().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        assert_eq!(listener.local_addr().unwrap().port(), port.number());
    }
}
