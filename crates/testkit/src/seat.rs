//! Where in the network a node is: on the machine's loopback with ports that were free, or in a network namespace of
//! its own, where every port is.

use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use cassy_jmx::{Channel, Dialer, TcpDialer};

use crate::cluster::Namespace;
use crate::{Failure, Port};

const STORAGE_PORT: u16 = 7000;
const NATIVE_PORT: u16 = 9042;
const JMX_PORT: u16 = 7199;

/// See the module.
#[derive(Debug)]
pub(crate) enum Seat {
    /// 127.0.0.1.
    Loopback(Ports),
    /// An address of its own, Cassandra's own ports.
    Namespace(Arc<Namespace>, Ipv4Addr),
}

#[derive(Debug)]
pub(crate) struct Ports {
    storage: Port,
    native: Port,
    jmx: Port,
}

impl Ports {
    fn reserve() -> Result<Self, Failure> {
        Ok(Self { storage: Port::reserve()?, native: Port::reserve()?, jmx: Port::reserve()? })
    }
}

impl Seat {
    pub(crate) fn on_loopback() -> Result<Self, Failure> {
        Ok(Self::Loopback(Ports::reserve()?))
    }

    /// Takes other ports; whether there are others.
    pub(crate) fn draw_ports_again(&mut self) -> Result<bool, Failure> {
        match self {
            Self::Loopback(ports) => *ports = Ports::reserve()?,
            Self::Namespace(..) => return Ok(false),
        }
        Ok(true)
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        match self {
            Self::Loopback(_) => Ipv4Addr::LOCALHOST,
            Self::Namespace(_, address) => *address,
        }
    }

    pub(crate) fn storage_port(&self) -> u16 {
        match self {
            Self::Loopback(ports) => ports.storage.number(),
            Self::Namespace(..) => STORAGE_PORT,
        }
    }

    pub(crate) fn native_port(&self) -> u16 {
        match self {
            Self::Loopback(ports) => ports.native.number(),
            Self::Namespace(..) => NATIVE_PORT,
        }
    }

    pub(crate) fn jmx_port(&self) -> u16 {
        match self {
            Self::Loopback(ports) => ports.jmx.number(),
            Self::Namespace(..) => JMX_PORT,
        }
    }

    /// The command that runs this one there.
    pub(crate) fn command(&self, program: PathBuf, arguments: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
        match self {
            Self::Loopback(_) => (program, arguments),
            Self::Namespace(namespace, _) => namespace.command(program, arguments),
        }
    }

    /// Opens connections as a program there would.
    pub(crate) fn dialer(&self) -> Arc<dyn Dialer> {
        match self {
            Self::Loopback(_) => Arc::new(TcpDialer),
            Self::Namespace(namespace, _) => Arc::new(InsideDialer(Arc::clone(namespace))),
        }
    }
}

struct InsideDialer(Arc<Namespace>);

#[async_trait]
impl Dialer for InsideDialer {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(self.0.connect(host, port).await?))
    }

    fn is_confidential(&self, _host: &str) -> bool {
        true
    }
}
