//! Unary calls of gRPC on one HTTP/2 connection, and no more of it than `rpc.Admin` needs.
//!
//! Without the layers of a channel (no reconnecting, no balancing, no queue): a call is two frames that are written at
//! once, and as few tasks are woken for it as can be. Hundreds of calls lie within a pause.
//!
//! Invariant: a connection is open when the other side has answered a PING. Whoever cannot (it hangs, or speaks something
//! else) is found before anybody is asked to pause.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use h2::{Ping, RecvStream};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, header};
use percent_encoding::percent_decode;
use prost::Message;
use tonic::Code;

use crate::dial::ByteStream;

/// Answers are a few bytes; figures may be more.
const ANSWER_LIMIT_BYTES: usize = 64 << 10;
const HEADERS_LIMIT_BYTES: u32 = 16 << 10;
/// One byte that says whether the message is compressed, four with its length.
const PREFIX_BYTES: usize = 5;

/// An open connection. Clones are the same connection; it is closed with the last of them.
#[derive(Clone)]
pub(crate) struct Caller {
    requests: SendRequest<Bytes>,
    scheme: Scheme,
    authority: Authority,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NotOpen {
    /// It was lost.
    Lost(io::Error),
    /// What the other side says is no HTTP/2.
    Odd(String),
}

/// Why a call has no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The answer is a no.
    Status {
        /// Of gRPC.
        code: Code,
        /// The other side's own words.
        message: String,
    },
    /// The answer did not come, or not to its end.
    Lost(String),
}

impl CallError {
    fn odd(message: &str) -> Self {
        Self::Status { code: Code::Internal, message: message.to_owned() }
    }
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl Caller {
    /// Waits until the other side has shown that it speaks HTTP/2.
    pub(crate) async fn open(
        stream: Box<dyn ByteStream>,
        scheme: Scheme,
        authority: Authority,
    ) -> Result<Self, NotOpen> {
        let mut builder = Builder::new();
        builder.max_header_list_size(HEADERS_LIMIT_BYTES).enable_push(false);
        let (requests, mut connection) = builder.handshake(stream).await.map_err(not_open)?;
        let mut pings = connection.ping_pong().expect("it is asked for once");
        tokio::select! {
            // In this order, and not in one of chance: simulations are played again.
            biased;
            ended = &mut connection => return Err(match ended {
                Ok(()) => NotOpen::Lost(io::Error::new(io::ErrorKind::UnexpectedEof, "closed")),
                Err(error) => not_open(error),
            }),
            answered = pings.ping(Ping::opaque()) => answered.map_err(not_open)?,
        };
        // Its end is seen by the calls.
        tokio::spawn(async move { connection.await.ok() });
        Ok(Self { requests, scheme, authority })
    }

    /// Calls a method, such as `/rpc.Admin/Pause`. May take for ever: the caller has a deadline.
    pub(crate) async fn call<A: Message + Default>(
        &self,
        path: &'static str,
        message: &impl Message,
    ) -> Result<A, CallError> {
        let mut requests = self.requests.clone().ready().await?;
        let (answer, mut body) = requests.send_request(self.head(path), false)?;
        body.send_data(framed(message), true)?;
        let (head, body) = answer.await?.into_parts();
        if let Some(outcome) = outcome_in(&head.headers) {
            // Nothing but a head: nothing else is to come, although there should be.
            outcome?;
        }
        if head.status != StatusCode::OK {
            let message = format!("the answer has the HTTP status {}", head.status.as_u16());
            return Err(CallError::Status { code: code_of(head.status), message });
        }
        let bytes = whole(body).await?;
        unframed(&bytes)
    }

    fn head(&self, path: &'static str) -> Request<()> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        let uri = uri.path_and_query(path).build().expect("all its parts are there");
        let mut head = Request::new(());
        (*head.method_mut(), *head.uri_mut(), *head.version_mut()) = (Method::POST, uri, Version::HTTP_2);
        let fields = [
            (header::TE, "trailers"),
            (header::CONTENT_TYPE, "application/grpc"),
            (header::USER_AGENT, concat!("cassy/", env!("CARGO_PKG_VERSION"))),
        ];
        for (name, value) in fields {
            head.headers_mut().insert(name, header::HeaderValue::from_static(value));
        }
        head
    }
}

fn not_open(error: h2::Error) -> NotOpen {
    match error.is_io() {
        true => NotOpen::Lost(error.into_io().unwrap_or_else(|| io::ErrorKind::Other.into())),
        // Letters, or a record of TLS.
        false if error.reason() == Some(h2::Reason::FRAME_SIZE_ERROR) => {
            NotOpen::Odd("what it says is something else".to_owned())
        }
        false => NotOpen::Odd(error.to_string()),
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a request is a few bytes"));
    message.encode(&mut frame).expect("there is room for it");
    frame.freeze()
}

/// The body of an answer that ended well.
async fn whole(mut body: RecvStream) -> Result<Vec<u8>, CallError> {
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        if bytes.len() + part.len() > PREFIX_BYTES + ANSWER_LIMIT_BYTES {
            let message = format!("the answer is longer than {ANSWER_LIMIT_BYTES} bytes");
            return Err(CallError::Status { code: Code::OutOfRange, message });
        }
        bytes.extend_from_slice(&part);
        body.flow_control().release_capacity(part.len())?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let missing = || CallError::Lost("the answer ended without a status".to_owned());
    outcome_in(&trailers).ok_or_else(missing)??;
    Ok(bytes)
}

fn unframed<A: Message + Default>(bytes: &[u8]) -> Result<A, CallError> {
    let odd = || CallError::odd("the answer is not understood");
    let (prefix, message) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or_else(odd)?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
        return Err(odd());
    }
    A::decode(message).map_err(|_malformed| odd())
}

/// `None` without a status.
fn outcome_in(fields: &HeaderMap) -> Option<Result<(), CallError>> {
    let code = Code::from_bytes(fields.get("grpc-status")?.as_bytes());
    if code == Code::Ok {
        return Some(Ok(()));
    }
    let message = fields.get("grpc-message").map_or(&b""[..], header::HeaderValue::as_bytes);
    let message = percent_decode(message).decode_utf8_lossy().into_owned();
    Some(Err(CallError::Status { code, message }))
}

/// As gRPC maps what comes of proxies and of servers of something else, but for what gRPC calls unknown (408, 499, 500,
/// 520 to 524): a proxy says it when it gave up waiting, and the application may yet do what it was asked for.
fn code_of(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        _ => Code::Unavailable,
    }
}
