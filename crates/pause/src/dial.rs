//! Connections to instances.

use std::io;

use async_trait::async_trait;
use cassy_agent_protocol::Instance;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::pausing::LATE;

/// A connection, whatever carries it.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for S {}

/// Opens connections to instances.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Opens one connection. May take for ever: the caller has a deadline.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] says that the instance's host was reached and that nobody listens there.
    async fn dial(&self, instance: &Instance) -> io::Result<Box<dyn ByteStream>>;
}

/// Plain TCP to the instance's address.
///
/// What the kernel could not deliver is forgotten when the connection is closed, by the end of this process too, and after
/// a second without an answer of the other host: a Pause that it went on sending would close a gate when everybody who
/// could open it has gone home.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDial;

#[async_trait]
impl Dial for TcpDial {
    async fn dial(&self, instance: &Instance) -> io::Result<Box<dyn ByteStream>> {
        let stream = TcpStream::connect(instance.address).await?;
        // Small messages, each waited for.
        stream.set_nodelay(true)?;
        stream.set_zero_linger()?;
        set_tcp_user_timeout(&stream, u32::try_from(LATE.as_millis()).unwrap_or(u32::MAX))?;
        Ok(Box::new(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_that_is_closed_delivers_nothing_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let instance = Instance { host: "localhost".to_owned(), address };
        let (dialled, accepted) = tokio::join!(TcpDial.dial(&instance), listener.accept());
        drop(dialled.expect("somebody listens"));
        let (mut far, _) = accepted.expect("somebody connects");
        let read = far.read(&mut [0]).await.expect_err("it is cut off, not ended");
        assert_eq!(read.kind(), io::ErrorKind::ConnectionReset);
    }
}
