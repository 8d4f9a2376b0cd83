//! How connections are opened: directly, or through something else such as an SSH channel.

use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream in both directions.
pub trait Channel: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Channel for T {}

/// Opens connections. The host is always the one that the user of the client gave; the port can be another one than
/// the user gave, because a JMX server may export its objects on a port of its own (the default of a stock Cassandra).
#[async_trait]
pub trait Dialer: Send + Sync {
    /// Opens a connection. The caller bounds the time.
    ///
    /// # Errors
    /// As the operating system says.
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Channel>>;

    /// Whether what travels to this host is encrypted or never leaves the machine: credentials are only sent then.
    fn is_confidential(&self, host: &str) -> bool;
}

/// Plain TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDialer;

#[async_trait]
impl Dialer for TcpDialer {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Channel>> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    fn is_confidential(&self, host: &str) -> bool {
        host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) || host == "localhost"
    }
}
