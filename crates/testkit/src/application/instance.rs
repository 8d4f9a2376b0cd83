//! An instance of an application: a process that can be stopped and started again.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use cassy_pause::proto::admin_server::AdminServer;
use futures::stream;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, copy_bidirectional, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;

use super::gate::Gate;
use super::service::{Behaviour, Calls, Service, Shared};
use crate::certificates::Identity;
use crate::{Doing, Failure};

/// Of a connection in memory.
const PIPE_BYTES: usize = 64 << 10;

/// See the module. Ends when dropped.
pub struct FakeApplication {
    shared: Arc<Shared>,
    process: Mutex<Option<Process>>,
}

/// All that ends at once when the process dies: connections, too.
struct Process {
    gate: Arc<Gate>,
    /// To the service.
    incoming: mpsc::UnboundedSender<DuplexStream>,
    /// The service, the listener, and what goes on when a caller is gone.
    tasks: Tasks,
    /// Each connection is carried by one of these.
    lines: Tasks,
    listens: Option<Listens>,
}

/// Where it does, and how.
#[derive(Clone)]
struct Listens {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

type Tasks = Arc<Mutex<JoinSet<()>>>;

impl Process {
    fn start(shared: Arc<Shared>) -> Self {
        let (gate, tasks) = (Gate::new(), Tasks::default());
        let service = Service { gate: Arc::clone(&gate), shared, tasks: Arc::clone(&tasks) };
        let (incoming, connections) = mpsc::unbounded_channel::<DuplexStream>();
        let connections = stream::unfold(connections, async |mut connections| {
            let next = connections.recv().await?;
            Some((Ok::<_, io::Error>(next), connections))
        });
        let served =
            Server::builder().add_service(AdminServer::new(service)).serve_with_incoming(connections);
        spawn(&tasks, async { served.await.expect("a service in memory does not fail") });
        Self { gate, incoming, tasks, lines: Tasks::default(), listens: None }
    }

    /// Takes connections from a listener, too.
    fn accept(&mut self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        self.listens = listener.local_addr().ok().map(|address| Listens { address, tls: tls.clone() });
        let (incoming, lines) = (self.incoming.clone(), Arc::clone(&self.lines));
        spawn(&self.tasks, async move {
            while let Ok((client, _)) = listener.accept().await {
                let incoming = incoming.clone();
                match &tls {
                    None => spawn(&lines, carried(client, incoming)),
                    Some(tls) => {
                        let handshake = tls.accept(client);
                        spawn(&lines, async move {
                            let Ok(client) = handshake.await else { return };
                            carried(client, incoming).await;
                        });
                    }
                }
            }
        });
    }

    async fn end(self) {
        for tasks in [&self.tasks, &self.lines] {
            let mut ending = std::mem::take(&mut *tasks.lock().unwrap_or_else(PoisonError::into_inner));
            ending.shutdown().await;
        }
    }
}

impl Drop for Process {
    /// The service holds the set of the tasks that it is one of.
    fn drop(&mut self) {
        abort(&self.tasks);
        abort(&self.lines);
    }
}

fn spawn(tasks: &Tasks, task: impl Future<Output = ()> + Send + 'static) {
    tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
}

fn abort(tasks: &Tasks) {
    tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
}

/// Brings a connection to the service. It breaks when its task is ended.
async fn carried(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    incoming: mpsc::UnboundedSender<DuplexStream>,
) {
    let (mut near, far) = duplex(PIPE_BYTES);
    // A service that has ended closes the connection at once.
    let _ = incoming.send(far);
    // Either end may break off.
    let _ = copy_bidirectional(&mut client, &mut near).await;
}

impl FakeApplication {
    /// An instance that runs, in memory only.
    #[must_use]
    pub fn start(behaviour: Behaviour) -> Arc<Self> {
        let shared = Arc::new(Shared { behaviour: Mutex::new(behaviour), ..Shared::default() });
        let process = Process::start(Arc::clone(&shared));
        Arc::new(Self { shared, process: Mutex::new(Some(process)) })
    }

    /// An instance that listens, on a port of the system's choice when it is 0.
    ///
    /// # Errors
    /// When the address is not free.
    pub async fn listen(behaviour: Behaviour, address: SocketAddr) -> Result<Arc<Self>, Failure> {
        Self::bound(behaviour, address, None).await
    }

    /// The same, by TLS.
    ///
    /// # Errors
    /// When the address is not free.
    pub async fn listen_by_tls(
        behaviour: Behaviour,
        address: SocketAddr,
        identity: &Identity,
    ) -> Result<Arc<Self>, Failure> {
        Self::bound(behaviour, address, Some(identity.server().into())).await
    }

    async fn bound(
        behaviour: Behaviour,
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) -> Result<Arc<Self>, Failure> {
        let application = Self::start(behaviour);
        let bound = TcpListener::bind(address).await.doing(|| format!("listen on {address}"))?;
        application.with(|process| process.as_mut().map(|process| process.accept(bound, tls)));
        Ok(application)
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn address(&self) -> SocketAddr {
        self.listens().expect("it listens").address
    }

    fn listens(&self) -> Option<Listens> {
        self.with(|process| process.as_ref().and_then(|process| process.listens.clone()))
    }

    /// A connection in memory.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] when it does not run.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = duplex(PIPE_BYTES);
        self.with(|process| match process {
            Some(process) => {
                spawn(&process.lines, carried(far, process.incoming.clone()));
                Ok(near)
            }
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        })
    }

    /// Changes how it behaves from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What it was asked so far.
    pub fn calls(&self) -> Calls {
        self.shared.calls()
    }

    /// The gate of the process that runs.
    ///
    /// # Panics
    /// When none runs.
    pub fn gate(&self) -> Arc<Gate> {
        self.with(|process| process.as_ref().map(|process| Arc::clone(&process.gate))).expect("it runs")
    }

    /// Whether it holds requests back; a process that is gone does not.
    pub fn is_paused(&self) -> bool {
        self.with(|process| process.as_ref().is_some_and(|process| process.gate.is_closed()))
    }

    /// Cuts all connections; the process goes on.
    pub fn cut(&self) {
        self.with(|process| process.as_ref().map(|process| abort(&process.lines)));
    }

    /// The process dies, with all its connections and its gate.
    pub async fn stop(&self) {
        if let Some(process) = self.with(Option::take) {
            process.end().await;
        }
    }

    /// Another process takes the place of the one before.
    ///
    /// # Errors
    /// When it listened, and its address is not free.
    pub async fn restart(&self) -> Result<(), Failure> {
        let listened = self.listens();
        self.stop().await;
        let mut process = Process::start(Arc::clone(&self.shared));
        if let Some(Listens { address, tls }) = listened {
            let bound = TcpListener::bind(address).await.doing(|| format!("listen on {address}"))?;
            process.accept(bound, tls);
        }
        self.with(|place| *place = Some(process));
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<Process>) -> T) -> T {
        act(&mut self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
