//! Connections to instances.

use std::io;

use async_trait::async_trait;
use cassy_agent_protocol::Instance;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

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
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDial;

#[async_trait]
impl Dial for TcpDial {
    async fn dial(&self, instance: &Instance) -> io::Result<Box<dyn ByteStream>> {
        let stream = TcpStream::connect(instance.address).await?;
        // Small messages, each waited for.
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}
