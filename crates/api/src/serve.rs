//! The port: accepts connections, bounded in number, until told to stop.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use cassy_control::Operations;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Limits, connection, exchange::Exchanges, service};

/// After an error of accepting that is not the peer's, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the port could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A defect of the build.
    #[error("the compiled-in descriptors of the gRPC services do not decode")]
    Descriptors(#[source] tonic_reflection::server::Error),
    /// The listening socket is of no use any more.
    #[error("no further gRPC connection can be accepted")]
    Accept(#[source] io::Error),
}

/// Serves gRPC on the listener until `shutdown`, then lets the requests under way end, for a bounded time.
///
/// # Errors
/// When the listener breaks. Whatever a client does ends at most its own connection.
pub async fn serve(
    listener: TcpListener,
    operations: Arc<dyn Operations>,
    shutdown: impl Future<Output = ()>,
    limits: Limits,
) -> Result<(), ServeError> {
    let routes = service::routes(operations, &limits).map_err(ServeError::Descriptors)?;
    let limits = Arc::new(limits);
    let exchanges = Exchanges::new(routes, Arc::clone(&limits));
    let stop = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let ended = loop {
        let accepted = tokio::select! {
            () = shutdown.as_mut() => break Ok(()),
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < limits.connections => {
                start(&mut connections, stream, &exchanges, &limits, &stop);
            }
            Ok((_, peer)) => {
                tracing::warn!(%peer, limit = limits.connections, "too many connections: one is refused");
            }
            Err(error) if is_peers(&error) => (),
            Err(error) if is_passing(&error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
            Err(error) => break Err(ServeError::Accept(error)),
        }
    };
    drop(listener);
    stop.cancel();
    drain(connections, limits.shutdown_time).await;
    ended
}

fn start(
    connections: &mut JoinSet<()>,
    stream: TcpStream,
    exchanges: &Exchanges,
    limits: &Arc<Limits>,
    stop: &CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delay");
    }
    connections.spawn(connection::drive(stream, exchanges.clone(), Arc::clone(limits), stop.clone()));
}

async fn drain(mut connections: JoinSet<()>, time: Duration) {
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(time, all).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections are cut: their requests did not end in time"
        );
        connections.shutdown().await;
    }
}

/// The peer hung up between its connection and our accepting it.
fn is_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Anything but a socket that is none any more (EBADF, EINVAL, ENOTSOCK): descriptors, memory and networks come back.
fn is_passing(error: &io::Error) -> bool {
    const NOT_A_SOCKET: [i32; 4] = [9, 22, 88, 95];
    !error.raw_os_error().is_some_and(|number| NOT_A_SOCKET.contains(&number))
}
