//! A JMX session.
//!
//! The session is an object on the server; TCP connections come and go beneath it. A connection is given up after any
//! error that leaves its state unknown, and the next call opens another one to the same session object. When the server
//! has ended the session, calls that change nothing log in again once; others say [`Error::SessionGone`].
//!
//! A server ends a session after 120 s without a call (its default, measured); see [`JmxClient::keep_alive`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::{Argument, Request};
use crate::connection::{Connection, Deadline};
use crate::dial::Dialer;
use crate::error::{Error, Peer, RemoteException};
use crate::mbean::MBeanInfo;
use crate::rmi::ObjId;
use crate::rmi::reply::{Ending, Reply};
use crate::rmi::stub::{self, RemoteRef};
use crate::stream::limits::Limits;

/// User name and password. Both are redacted in `Debug`.
#[derive(Clone)]
pub struct Credentials {
    user: String,
    password: String,
    clear_text: bool,
}

impl Credentials {
    /// Credentials that are only sent where [`Dialer::is_confidential`] says that nobody can listen.
    #[must_use]
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into(), clear_text: false }
    }

    /// Lets them travel in clear text. For a network that the operator trusts.
    #[must_use]
    pub fn allow_clear_text(mut self) -> Self {
        self.clear_text = true;
        self
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

/// A session with a JMX server. One call at a time; open several for more.
pub struct JmxClient {
    dialer: Arc<dyn Dialer>,
    registry: Peer,
    credentials: Option<Credentials>,
    limits: Limits,
    within: Duration,
    session: Session,
    connection: Option<Connection>,
}

/// Where the session lives: on the host that the user gave.
#[derive(Debug, Clone, Copy)]
struct Session {
    port: u16,
    object: ObjId,
}

impl fmt::Debug for JmxClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JmxClient").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl JmxClient {
    /// Logs in. `within` bounds the whole of it, and later every call that has no deadline of its own.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn connect(
        dialer: Arc<dyn Dialer>,
        host: &str,
        port: u16,
        credentials: Option<Credentials>,
        limits: Limits,
        within: Duration,
    ) -> Result<Self, Error> {
        let registry = Peer { host: host.to_owned(), port };
        let nowhere = Session { port, object: ObjId::REGISTRY };
        let mut client =
            Self { dialer, registry, credentials, limits, within, session: nowhere, connection: None };
        client.log_in(Deadline::after(within)).await?;
        Ok(client)
    }

    /// The address that the user gave.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.registry
    }

    /// Changes the time that calls without a deadline of their own may take.
    pub fn set_deadline(&mut self, within: Duration) {
        self.within = within;
    }

    /// Reads an attribute.
    ///
    /// # Errors
    /// [`Error`]; an attribute or MBean that does not exist is [`Error::Remote`].
    pub async fn get(&mut self, object_name: &str, attribute: &str) -> Result<Reply, Error> {
        self.call(Request::get(object_name, attribute), self.within).await
    }

    /// Reads attributes in one call; see [`View::attributes`](crate::View::attributes). The server leaves out those that
    /// it cannot read, so compare the names.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get_many(&mut self, object_name: &str, attributes: &[&str]) -> Result<Reply, Error> {
        self.call(Request::get_many(object_name, attributes), self.within).await
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set(&mut self, object_name: &str, attribute: &str, value: &Argument) -> Result<(), Error> {
        self.call(Request::set(object_name, attribute, value), self.within).await.map(drop)
    }

    /// Invokes an operation. `signature` names the parameter types as [`MBeanInfo`] gives them. There is no way to
    /// cancel: after [`Error::Timeout`] the operation may still be running.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn invoke(
        &mut self,
        object_name: &str,
        operation: &str,
        arguments: &[Argument],
        signature: &[&str],
        within: Duration,
    ) -> Result<Reply, Error> {
        self.call(Request::invoke(object_name, operation, arguments, signature), within).await
    }

    /// Names of the MBeans that match a pattern such as `domain:type=Tables,*`; see
    /// [`ObjectName`](crate::ObjectName) for their parts.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn query_names(&mut self, pattern: &str) -> Result<Vec<String>, Error> {
        let request = Request::query_names(pattern);
        let step = request.label.clone();
        let reply = self.call(request, self.within).await?;
        let names =
            reply.view().object_names().map_err(|source| Error::malformed(&self.registry, &step, source))?;
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    /// What an MBean offers.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn mbean_info(&mut self, object_name: &str) -> Result<MBeanInfo, Error> {
        let request = Request::mbean_info(object_name);
        let step = request.label.clone();
        let reply = self.call(request, self.within).await?;
        MBeanInfo::read(reply.view()).map_err(|source| Error::malformed(&self.registry, &step, source))
    }

    /// Whether an MBean exists.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn is_registered(&mut self, object_name: &str) -> Result<bool, Error> {
        let request = Request::is_registered(object_name);
        let step = request.label.clone();
        let reply = self.call(request, self.within).await?;
        reply.view().as_bool().map_err(|source| Error::malformed(&self.registry, &step, source))
    }

    /// Keeps an idle session alive; call it every 30 to 60 s.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn keep_alive(&mut self) -> Result<(), Error> {
        self.call(Request::default_domain(), self.within).await.map(drop)
    }

    /// Ends the session. A session that is merely dropped stays on the server for up to 120 s.
    ///
    /// # Errors
    /// [`Error`]; nothing needs to be done about it.
    pub async fn close(mut self) -> Result<(), Error> {
        self.call(Request::close(), self.within).await.map(drop)
    }

    async fn call(&mut self, mut request: Request, within: Duration) -> Result<Reply, Error> {
        let deadline = Deadline::after(within);
        let mut again = request.idempotent;
        loop {
            let reused = self.connection.is_some();
            let failed = match self.call_once(&mut request, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            match failed {
                Error::SessionGone { .. } if again => self.log_in(deadline).await?,
                // An idle connection that was closed in the meantime says so only now.
                Error::Io { .. } if again && reused => {}
                other => return Err(other),
            }
            again = false;
        }
    }

    /// Takes the connection away for the time of the call: it comes back only when its state is known, also when the
    /// caller drops the future in the middle.
    async fn call_once(&mut self, request: &mut Request, deadline: Deadline) -> Result<Reply, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.open(self.session.port, deadline).await?,
        };
        let reply = connection.exchange(request, self.session.object, &self.limits, deadline).await?;
        let exception = match reply.ending() {
            Ending::Returned(_) => {
                self.connection = Some(connection);
                return Ok(reply);
            }
            Ending::Aborted(_) => return Err(self.remote(request, RemoteException::read(reply.view()))),
            Ending::Threw(_) => RemoteException::read(reply.view()),
        };
        if exception.class == "java.rmi.NoSuchObjectException" {
            return Err(Error::SessionGone { peer: self.registry.clone() });
        }
        if !exception.is_dispatch_error() {
            self.connection = Some(connection);
        }
        Err(self.remote(request, exception))
    }

    fn remote(&self, request: &Request, source: RemoteException) -> Error {
        let (peer, step) = (self.registry.clone(), request.label.clone());
        if source.class == "java.lang.SecurityException" {
            return Error::AccessDenied { peer, step, message: source.message.unwrap_or_default() };
        }
        Error::Remote { peer, step, source }
    }

    async fn open(&self, port: u16, deadline: Deadline) -> Result<Connection, Error> {
        let peer = Peer { host: self.registry.host.clone(), port };
        Connection::open(&*self.dialer, peer, deadline).await
    }

    async fn log_in(&mut self, deadline: Deadline) -> Result<(), Error> {
        self.connection = None;
        let (connection, server) = self.look_up(deadline).await?;
        // The port of the stub, the host of the user.
        let mut connection = if server.port == connection.peer().port {
            connection
        } else {
            self.open(server.port, deadline).await?
        };
        let session = self.new_client(&mut connection, server.object, deadline).await?;
        self.session = Session { port: session.port, object: session.object };
        self.connection = (session.port == connection.peer().port).then_some(connection);
        Ok(())
    }

    async fn look_up(&self, deadline: Deadline) -> Result<(Connection, RemoteRef), Error> {
        let mut by_hash = false;
        loop {
            let mut connection = self.open(self.registry.port, deadline).await?;
            let mut request = Request::lookup(by_hash);
            let reply = connection.exchange(&mut request, ObjId::REGISTRY, &self.limits, deadline).await?;
            if let Ending::Returned(_) = reply.ending() {
                connection.acknowledge(reply.uid(), deadline).await?;
                let server = self.remote_ref(&reply, &request)?;
                return Ok((connection, server));
            }
            let exception = RemoteException::read(reply.view());
            // A registry without skeleton knows the method by its hash only.
            let unknown_operation =
                exception.is_dispatch_error() && exception.class != "java.rmi.NotBoundException";
            if by_hash || !unknown_operation {
                return Err(self.remote(&request, exception));
            }
            // The port of the objects has no registry at all (measured).
            if exception.class == "java.rmi.NoSuchObjectException" {
                let looks_like = "an RMI port without a registry, such as the second port of JMX".to_owned();
                return Err(Error::NotJmx { peer: self.registry.clone(), looks_like });
            }
            by_hash = true;
        }
    }

    async fn new_client(
        &self,
        connection: &mut Connection,
        server: ObjId,
        deadline: Deadline,
    ) -> Result<RemoteRef, Error> {
        let credentials = self.credentials.as_ref();
        if credentials.is_some_and(|given| !given.clear_text)
            && !self.dialer.is_confidential(&self.registry.host)
        {
            return Err(Error::ClearText { peer: self.registry.clone() });
        }
        let mut request =
            Request::new_client(credentials.map(|given| [given.user.as_str(), given.password.as_str()]));
        let reply = connection.exchange(&mut request, server, &self.limits, deadline).await;
        request.wipe();
        let reply = reply?;
        if let Ending::Returned(_) = reply.ending() {
            connection.acknowledge(reply.uid(), deadline).await?;
            return self.remote_ref(&reply, &request);
        }
        let exception = RemoteException::read(reply.view());
        if exception.class == "java.lang.SecurityException" {
            let message = exception.message.unwrap_or_default();
            return Err(Error::Auth { peer: self.registry.clone(), message });
        }
        Err(self.remote(&request, exception))
    }

    fn remote_ref(&self, reply: &Reply, request: &Request) -> Result<RemoteRef, Error> {
        let found = stub::remote_ref(reply.view())
            .map_err(|source| Error::malformed(&self.registry, &request.label, source))?;
        if let Some(factory) = found.socket_factory {
            let what = format!("the server wants TLS for JMX ({factory}), which is not supported");
            return Err(Error::Unsupported { peer: self.registry.clone(), what });
        }
        Ok(found)
    }
}
