//! One connection: HTTP/2 on it, until the peer is gone, idle for too long, broken, or the server stops.

use std::{pin::pin, sync::Arc};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Limits,
    activity::Activity,
    exchange::{ConnectionState, Exchanges},
};

/// Serves the connection until it ends. After `stop` no request begins, and those under way end by themselves.
pub(crate) async fn drive(
    stream: TcpStream,
    exchanges: Exchanges,
    limits: Arc<Limits>,
    stop: CancellationToken,
) {
    let state = ConnectionState { activity: Arc::new(Activity::new()), broken: CancellationToken::new() };
    let answering = state.clone();
    let service = service_fn(move |request| exchanges.clone().serve(request, answering.clone()));
    let mut connection = pin!(protocol(&limits).serve_connection(TokioIo::new(stream), service));

    tokio::select! {
        ended = connection.as_mut() => return report(ended),
        () = state.broken.cancelled() => return tracing::debug!("a client did not take its answer: disconnected"),
        () = state.activity.idle(&limits) => (),
        () = stop.cancelled() => (),
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => report(ended),
        () = state.broken.cancelled() => tracing::debug!("a client did not take its answer: disconnected"),
        () = overdue(&state.activity, &limits) => tracing::debug!("an idle client did not hang up: disconnected"),
    }
}

/// The client was told to go; a request that crossed this on the wire is still answered.
async fn overdue(activity: &Activity, limits: &Limits) {
    sleep(limits.shutdown_time).await;
    while activity.is_busy() {
        sleep(limits.shutdown_time).await;
    }
}

fn protocol(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(limits.header_bytes)
        .max_concurrent_streams(limits.streams_per_connection)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_time);
    builder
}

fn report(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended in an error");
    }
}
