//! Moves frames between an agent's stream and the handle. One task reads and decides; one writes, so that a slow
//! peer never stops the reading.

use std::time::Duration;

use cassy_agent_protocol::{
    AgentError, AgentErrorKind, FrameDecoder, FromAgent, Progress, Reply, Request, ToAgent, frame,
};
use cassy_relay::Outgoing;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::agent::end_of_stream;
use crate::dial::{Answer, Dials};

/// What the handle wants.
#[derive(Debug)]
pub(crate) enum Control {
    Call(Box<Call>),
    Cancel,
    /// A connection to this port of the node's loopback.
    Dial(u16, Answer),
    /// No more requests: end the stream.
    Close,
}

/// A request and where its outcome goes.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) answer: oneshot::Sender<Result<Reply, AgentError>>,
}

/// The request that the agent works on.
struct Current {
    id: u64,
    progress: watch::Sender<Progress>,
    answer: oneshot::Sender<Result<Reply, AgentError>>,
    cancelled: bool,
}

/// The ends of a stream, and what is under way on it.
pub(crate) struct Pump<R> {
    reader: R,
    decoder: FrameDecoder,
    orders: mpsc::Receiver<Control>,
    silence: Duration,
    last_heard: Instant,
    next_id: u64,
    current: Option<Current>,
    /// The request after the current one, when the current one's caller has gone away.
    waiting: Option<Box<Call>>,
    dials: Dials,
    /// What is relayed, until the writer has it.
    relayed: Option<mpsc::Receiver<Outgoing>>,
    /// `None` once the stream is to end.
    outgoing: Option<mpsc::Sender<Vec<u8>>>,
}

/// What woke the pump.
enum Event {
    Read(std::io::Result<usize>),
    Order(Option<Control>),
    CallerLeft,
    WriterEnded(String),
    Silence,
}

impl<R: AsyncRead + Unpin> Pump<R> {
    pub(crate) fn new(
        reader: R,
        decoder: FrameDecoder,
        orders: mpsc::Receiver<Control>,
        gone: watch::Receiver<Option<String>>,
        silence: Duration,
    ) -> Self {
        let (dials, relayed) = Dials::new(gone);
        Self {
            reader,
            decoder,
            orders,
            silence,
            last_heard: Instant::now(),
            next_id: 1,
            current: None,
            waiting: None,
            dials,
            relayed: Some(relayed),
            outgoing: None,
        }
    }

    /// Runs until the agent is gone, and says why.
    pub(crate) async fn run<W: AsyncWrite + Unpin>(&mut self, writer: W, heartbeat: Duration) -> String {
        let (outgoing, frames) = mpsc::channel(8);
        self.outgoing = Some(outgoing);
        let Some(relayed) = self.relayed.take() else { return "its task ended".to_owned() };
        let writing = write(writer, frames, relayed, heartbeat, self.silence);
        tokio::pin!(writing);
        let mut write_ended = false;
        let mut chunk = vec![0; 64 << 10];
        // The greeting may have brought more than itself.
        if let Err(reason) = self.frames() {
            return reason;
        }
        loop {
            let quiet_at = self.last_heard + self.silence;
            let event = tokio::select! {
                result = self.reader.read(&mut chunk) => Event::Read(result),
                order = self.orders.recv(), if self.outgoing.is_some() => Event::Order(order),
                () = caller_left(self.current.as_mut()) => Event::CallerLeft,
                reason = &mut writing, if !write_ended => {
                    write_ended = true;
                    match reason {
                        Err(reason) => Event::WriterEnded(reason),
                        Ok(()) => continue,
                    }
                }
                () = sleep_until(quiet_at) => Event::Silence,
            };
            let bytes = match &event {
                Event::Read(Ok(count)) => chunk.get(..*count).unwrap_or_default(),
                _ => &[],
            };
            if let Err(reason) = self.handle(event, bytes) {
                return reason;
            }
        }
    }

    fn handle(&mut self, event: Event, bytes: &[u8]) -> Result<(), String> {
        match event {
            Event::Read(result) => match end_of_stream(&result) {
                Some(reason) => Err(reason),
                None => {
                    self.last_heard = Instant::now();
                    self.decoder.push(bytes);
                    self.frames()
                }
            },
            Event::Order(Some(Control::Call(call))) => {
                self.waiting = Some(call);
                self.start_waiting()
            }
            Event::Order(Some(Control::Cancel)) => match self.waiting.take() {
                // The current one's caller has gone away: this one is meant.
                Some(call) => {
                    answer_unsent(call.answer, AgentErrorKind::Cancelled, NOT_SENT.to_owned());
                    Ok(())
                }
                None => self.cancel(),
            },
            Event::CallerLeft => self.cancel(),
            Event::Order(Some(Control::Dial(port, answer))) => {
                self.dials.dial(port, answer).map_err(|error| chain(&error))
            }
            Event::Order(Some(Control::Close) | None) => {
                self.outgoing = None;
                Ok(())
            }
            // The agent may have ended with a reason that is still to be read; reading finds the end as well.
            Event::WriterEnded(reason) if reason == NOT_READING => Err(reason),
            Event::WriterEnded(_) => {
                self.outgoing = None;
                Ok(())
            }
            Event::Silence => Err(format!("no sign of life for {} s", self.silence.as_secs_f32())),
        }
    }

    fn frames(&mut self) -> Result<(), String> {
        while let Some(message) = self.decoder.next().map_err(|error| chain(&error))? {
            self.take(message)?;
        }
        Ok(())
    }

    fn take(&mut self, message: FromAgent) -> Result<(), String> {
        match message {
            FromAgent::Heartbeat => Ok(()),
            FromAgent::Hello(_) => Err("it greeted twice".into()),
            FromAgent::Progress { id, progress } => {
                let current = self.current.as_ref().filter(|current| current.id == id);
                current.ok_or("it reported the progress of no request")?.progress.send_replace(progress);
                Ok(())
            }
            FromAgent::Reply { id, outcome } => {
                let current = self.current.take_if(|current| current.id == id);
                // A caller that went away does not want to know.
                current.ok_or("it replied to no request")?.answer.send(outcome).ok();
                self.start_waiting()
            }
            FromAgent::Relay { connection, frame } => {
                self.dials.take(connection, frame).map_err(|breach| format!("it sent {breach}"))
            }
        }
    }

    fn start_waiting(&mut self) -> Result<(), String> {
        if self.current.is_some() {
            return Ok(());
        }
        // One that nobody waits for any more is not begun.
        let Some(call) = self.waiting.take().filter(|call| !call.answer.is_closed()) else { return Ok(()) };
        let Call { request, progress, answer } = *call;
        let id = self.next_id;
        self.next_id += 1;
        match frame::encode(&ToAgent::Request { id, request }) {
            Ok(frame) => {
                self.current = Some(Current { id, progress, answer, cancelled: false });
                self.send(frame)
            }
            Err(error) => {
                let message = format!("the request cannot be sent: {}", chain(&error));
                answer_unsent(answer, AgentErrorKind::Bug, message);
                Ok(())
            }
        }
    }

    fn cancel(&mut self) -> Result<(), String> {
        let Some(current) = self.current.as_mut().filter(|current| !current.cancelled) else { return Ok(()) };
        current.cancelled = true;
        let frame = frame::encode(&ToAgent::Cancel { id: current.id }).map_err(|error| chain(&error))?;
        self.send(frame)
    }

    fn send(&self, frame: Vec<u8>) -> Result<(), String> {
        match &self.outgoing {
            // The queue holds more than one request with its cancellation ever needs.
            Some(outgoing) => outgoing.try_send(frame).map_err(|_full| NOT_READING.to_owned()),
            None => Err("its stream was closed".into()),
        }
    }
}

const NOT_READING: &str = "it does not read what is sent to it";
const NOT_SENT: &str =
    "the request was stopped before it was sent: the agent had not yet ended the one before";

/// For a request that the agent never sees. A caller that went away does not want to know.
fn answer_unsent(answer: oneshot::Sender<Result<Reply, AgentError>>, kind: AgentErrorKind, message: String) {
    answer.send(Err(AgentError { kind, message, hint: None })).ok();
}

/// Ready when nobody waits for the current request any more, and the agent has not been told yet.
async fn caller_left(current: Option<&mut Current>) {
    match current {
        Some(current) if !current.cancelled => current.answer.closed().await,
        _ => std::future::pending().await,
    }
}

/// Writes frames, heartbeats in between, and after both what is relayed, until there are no more frames; then ends the
/// stream.
async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut frames: mpsc::Receiver<Vec<u8>>,
    mut relayed: mpsc::Receiver<Outgoing>,
    heartbeat: Duration,
    patience: Duration,
) -> Result<(), String> {
    let beat = frame::encode(&ToAgent::Heartbeat).map_err(|error| chain(&error))?;
    let mut beats = interval(heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv() => frame,
            _ = beats.tick() => Some(beat.clone()),
            Some((connection, frame)) = relayed.recv() => {
                Some(frame::encode(&ToAgent::Relay { connection, frame }).map_err(|error| chain(&error))?)
            }
        };
        let step = async {
            match &frame {
                Some(frame) => {
                    writer.write_all(frame).await?;
                    writer.flush().await
                }
                None => writer.shutdown().await,
            }
        };
        match timeout(patience, step).await {
            Ok(Ok(())) if frame.is_none() => return Ok(()),
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(NOT_READING.into()),
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
