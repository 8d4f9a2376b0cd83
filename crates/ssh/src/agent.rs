//! A running agent, as the server holds it: requests out, progress and replies back, heartbeats both ways.
//! Generic over the stream, so that tests and other transports use the same pump.
//!
//! Connections to the node's own loopback go through it as well ([`AgentHandle::dial`]).
//!
//! Invariants: at most one request is under way; a request whose caller went away is cancelled, and the next one
//! waits for its answer; every wait ends when the agent has been silent for [`ServerHello::silence_ms`]; an agent
//! without its handle loses its stream, and so ends.

use std::io;
use std::time::Duration;

use cassy_agent_protocol::{AgentError, AgentHello, FrameError, Progress, Reply, Request, ServerHello};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::connection::Connection;
use crate::dial::LoopbackStream;
use crate::greeting::greet;
use crate::pump::{Call, Control, Pump};

/// How long an agent may take to end when it is asked to.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a call got no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentCallError {
    /// The agent is no more; the request may or may not have had effects.
    #[error("the agent is gone: {0}")]
    Gone(String),
    /// The agent says that it failed.
    #[error(transparent)]
    Failed(AgentError),
}

/// Why what answers is not used as an agent.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The stream ended or broke.
    #[error("it ended before it greeted: {0}")]
    Ended(String),
    /// It greets as something else.
    #[error("it does not greet as an agent")]
    Stranger(#[source] FrameError),
    /// Another message came first.
    #[error("its first message is not a greeting")]
    Rude,
    /// It does not greet.
    #[error("it did not greet within {} s", .0.as_secs())]
    Silent(Duration),
}

impl GreetingError {
    /// With its cause, on one line.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Stranger(source) => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// A running agent. It ends when this is dropped.
#[derive(Debug)]
pub struct AgentHandle {
    hello: AgentHello,
    controls: mpsc::Sender<Control>,
    /// Held while a request is under way.
    turn: Mutex<()>,
    gone: watch::Receiver<Option<String>>,
    pump: Pumping,
    connection: Option<Connection>,
}

/// The task that pumps; it ends with its handle.
#[derive(Debug)]
struct Pumping(JoinHandle<()>);

impl Drop for Pumping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl AgentHandle {
    /// Greets what is at the other end of a stream.
    pub async fn over<S>(stream: S, hello: ServerHello) -> Result<Self, GreetingError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        Self::over_halves(reader, writer, hello).await
    }

    pub(crate) async fn over_halves<R, W>(
        mut reader: R,
        mut writer: W,
        hello: ServerHello,
    ) -> Result<Self, GreetingError>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let heartbeat = Duration::from_millis(hello.heartbeat_ms.max(1));
        let silence = Duration::from_millis(hello.silence_ms.max(1));
        let (hello, decoder) = greet(&mut reader, &mut writer, hello).await?;
        let (controls, orders) = mpsc::channel(4);
        let (ended, gone) = watch::channel(None);
        let pump = Pump::new(reader, decoder, orders, gone.clone(), silence);
        let task = async move {
            let mut pump = pump;
            let reason = pump.run(writer, heartbeat).await;
            // Before the pump drops what waits for a reply, so that nobody looks for the reason too early.
            ended.send_replace(Some(reason));
            drop(pump);
        };
        Ok(Self {
            hello,
            controls,
            turn: Mutex::new(()),
            gone,
            pump: Pumping(tokio::spawn(task)),
            connection: None,
        })
    }

    /// Keeps the connection that the stream runs in for as long as the handle.
    pub(crate) fn within(mut self, connection: Connection) -> Self {
        self.connection = Some(connection);
        self
    }

    /// How the agent introduced itself.
    pub fn hello(&self) -> &AgentHello {
        &self.hello
    }

    /// Asks the agent to do something and waits for it to be done, however long that takes; an agent that is gone
    /// is noticed. A second request waits for the first. Dropping the future cancels the request.
    pub async fn request(
        &self,
        request: Request,
        progress: watch::Sender<Progress>,
    ) -> Result<Reply, AgentCallError> {
        let _turn = self.turn.lock().await;
        let (answer, answered) = oneshot::channel();
        let call = Call { request, progress, answer };
        if self.controls.send(Control::Call(Box::new(call))).await.is_err() {
            return Err(self.gone_error());
        }
        match answered.await {
            Ok(outcome) => outcome.map_err(AgentCallError::Failed),
            Err(_) => Err(self.gone_error()),
        }
    }

    /// Asks the agent to stop the request that is under way at its next safe point; [`AgentHandle::request`] then
    /// returns what became of it. Without a request nothing happens.
    pub async fn cancel(&self) {
        // An agent that is gone has stopped.
        self.controls.send(Control::Cancel).await.ok();
    }

    /// Connects to a port of the node's own loopback, while a request is under way or not. The caller bounds the time;
    /// dropping the future gives the connection up. The stream ends with the agent; it does not keep the handle.
    pub async fn dial(&self, port: u16) -> io::Result<LoopbackStream> {
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::new(io::ErrorKind::ConnectionAborted, self.gone_error().to_string());
        self.controls.send(Control::Dial(port, answer)).await.map_err(|_gone| gone())?;
        answered.await.map_err(|_gone| gone())?
    }

    /// Whether the agent is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.borrow().is_some()
    }

    /// Waits until the agent is gone, and says why.
    pub async fn gone(&self) -> String {
        let mut gone = self.gone.clone();
        match gone.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "its task ended".into(),
        }
    }

    /// Lets the agent end, and waits for it within a bound.
    pub async fn close(mut self) {
        if self.controls.send(Control::Close).await.is_ok() {
            tokio::time::timeout(CLOSE_DEADLINE, &mut self.pump.0).await.ok();
        }
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }

    fn gone_error(&self) -> AgentCallError {
        let reason = self.gone.borrow().clone();
        AgentCallError::Gone(reason.unwrap_or_else(|| "its task ended".into()))
    }
}

/// What is known of a stream's end.
pub(crate) fn end_of_stream(result: &io::Result<usize>) -> Option<String> {
    match result {
        Ok(0) => Some("its stream ended".into()),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}
