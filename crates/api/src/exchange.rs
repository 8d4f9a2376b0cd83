//! One request and its answer, bounded: how many at once, how long to send, how long to take.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes};
use tower_service::Service;

use crate::{
    Limits,
    activity::{Activity, Busy},
};

/// The size of an HTTP/2 frame.
const PIECE_BYTES: usize = 16 << 10;

/// What all exchanges of a server share.
#[derive(Clone)]
pub(crate) struct Exchanges {
    routes: Routes,
    limits: Arc<Limits>,
    requests: Arc<Semaphore>,
    reflection_streams: Arc<Semaphore>,
}

/// What all exchanges of a connection share.
#[derive(Clone)]
pub(crate) struct ConnectionState {
    /// The requests under way.
    pub(crate) activity: Arc<Activity>,
    /// Ends the connection: HTTP/2 has no other way to be rid of a client that does not take its answer.
    pub(crate) broken: CancellationToken,
}

impl Exchanges {
    /// All exchanges of one server.
    pub(crate) fn new(routes: Routes, limits: Arc<Limits>) -> Self {
        let requests = Arc::new(Semaphore::new(limits.requests));
        let reflection_streams = Arc::new(Semaphore::new(limits.reflection_streams));
        Self { routes, limits, requests, reflection_streams }
    }

    /// Serves one request. Never an error: gRPC's own go as a status.
    pub(crate) async fn serve<B>(
        mut self,
        request: Request<B>,
        connection: ConnectionState,
    ) -> Result<Response<Answer>, Infallible>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let busy = connection.activity.begin();
        let reflection = request.uri().path().starts_with("/grpc.reflection.");
        let (slots, request_time, response_time) = if reflection {
            (self.reflection_streams, self.limits.reflection_time, self.limits.reflection_time)
        } else {
            (self.requests, self.limits.request_time, self.limits.response_time)
        };
        let slot = slots.try_acquire_owned().ok();
        let answer = if slot.is_some() {
            self.routes.call(request.map(|body| TimedBody::new(body, request_time))).await?
        } else {
            exhausted().into_http()
        };
        let held = Held { _busy: busy, _slot: slot, watch: watch(connection.broken, response_time) };
        Ok(answer.map(|body| Answer { body, rest: Bytes::new(), _held: held }))
    }
}

fn exhausted() -> Status {
    Status::resource_exhausted(
        "the server has as many requests under way as it takes\nhint: Try again in a moment.",
    )
}

fn watch(broken: CancellationToken, response_time: Duration) -> AbortHandle {
    let overdue = async move {
        sleep(response_time).await;
        broken.cancel();
    };
    tokio::spawn(overdue).abort_handle()
}

/// A request's body that must have arrived in time.
struct TimedBody<B> {
    body: B,
    overdue: Pin<Box<Sleep>>,
}

impl<B> TimedBody<B> {
    fn new(body: B, time: Duration) -> Self {
        Self { body, overdue: Box::pin(sleep(time)) }
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        match self.overdue.as_mut().poll(cx) {
            Poll::Ready(()) => {
                let late = Status::deadline_exceeded("the request did not arrive in time");
                Poll::Ready(Some(Err(late.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; what the request holds is given back when the client has taken it, or is gone.
pub(crate) struct Answer {
    body: tonic::body::Body,
    /// What is left of the last frame. Flow control counts whole frames: were a long list passed on as the one frame
    /// that it is, it would lie in the connection's buffer and count as taken.
    rest: Bytes,
    _held: Held,
}

struct Held {
    _busy: Busy,
    _slot: Option<OwnedSemaphorePermit>,
    watch: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}
