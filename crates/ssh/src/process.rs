//! One command on the node: run to its end, or left running with its standard streams at hand.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use crate::connection::Connection;
use crate::error::{Endpoint, SshError};
use crate::stderr_log::StderrLog;
use crate::text::printable_bytes;
use crate::watcher::Heard;

/// At most this much of a command's output is kept; the rest is dropped.
const OUTPUT_BYTES: usize = 256 << 10;

/// How much input goes into the channel at once.
const CHUNK_BYTES: usize = 128 << 10;

/// Standard error, as SSH numbers it.
const STDERR: u32 = 1;

/// Input that waits for the channel.
const STDIN_BYTES: usize = 64 << 10;

/// Pieces of output that wait for their reader.
const QUEUED_PIECES: usize = 16;

/// What a command that has ended left behind.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: Option<End>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Status(u32),
    Signal(String),
    /// The node does not run commands for this user.
    Denied,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "it ended with exit status {status}"),
            Self::Signal(signal) => write!(f, "it was killed by signal {signal}"),
            Self::Denied => f.write_str("the node does not run commands for this user"),
        }
    }
}

impl Output {
    /// What the node said, for a message: its standard error, else its standard output.
    pub(crate) fn said(&self) -> String {
        let said = match self.stderr.is_empty() {
            true => printable_bytes(&self.stdout),
            false => printable_bytes(&self.stderr),
        };
        match (&self.end, said.is_empty()) {
            (Some(end), true) => format!("{end}, without a word"),
            (Some(end), false) => format!("{end}, and says \"{said}\""),
            (None, true) => "it ended without a word".into(),
            (None, false) => format!("it says \"{said}\""),
        }
    }

    /// Lines of standard output that begin with our mark; what the account's profile prints is passed over.
    pub(crate) fn marked(&self, mark: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.stdout);
        text.lines()
            .filter_map(|line| line.strip_prefix(mark)?.strip_prefix(' '))
            .map(str::to_owned)
            .collect()
    }

    /// Takes a message; true when it was the last.
    fn take(&mut self, message: ChannelMsg) -> bool {
        let keep = |kept: &mut Vec<u8>, data: &Bytes| {
            let room = OUTPUT_BYTES.saturating_sub(kept.len());
            kept.extend(data.iter().take(room));
        };
        match message {
            ChannelMsg::Data { data } => keep(&mut self.stdout, &data),
            ChannelMsg::ExtendedData { data, ext: STDERR } => keep(&mut self.stderr, &data),
            other => return self.end_by(&other),
        }
        false
    }

    fn end_by(&mut self, message: &ChannelMsg) -> bool {
        match message {
            ChannelMsg::Failure => self.end = Some(End::Denied),
            ChannelMsg::Close => return true,
            other => self.end = ending(other).or(self.end.take()),
        }
        self.end == Some(End::Denied)
    }
}

fn ending(message: &ChannelMsg) -> Option<End> {
    match message {
        ChannelMsg::ExitStatus { exit_status } => Some(End::Status(*exit_status)),
        ChannelMsg::ExitSignal { signal_name, .. } => Some(End::Signal(format!("{signal_name:?}"))),
        _ => None,
    }
}

/// Runs a command with this input to its end. A node that is silent for `patience` (takes no input, gives no
/// output, does not end) is given up.
pub(crate) async fn run(
    connection: &Connection,
    command: &str,
    input: impl AsyncRead + Unpin,
    doing: &'static str,
    patience: Duration,
) -> Result<Output, SshError> {
    let (mut messages, channel) = start(connection, command, doing).await?;
    let feeding = feed(input, channel.make_writer(), patience);
    tokio::pin!(feeding);
    let mut fed = false;
    let mut output = Output::default();
    loop {
        tokio::select! {
            message = messages.wait() => match message {
                None if output.end.is_none() => return Err(connection.lost(doing)),
                None => return Ok(output),
                Some(message) => if output.take(message) { return Ok(output); },
            },
            result = &mut feeding, if !fed => {
                fed = true;
                match result {
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(connection.timeout(doing, patience)),
                    // A command that does not read on has its reasons, which its output and status tell; what
                    // could not be read here is found by the one who owns the input.
                    Ok(()) | Err(_) => {}
                }
            },
            () = tokio::time::sleep(patience), if fed => return Err(connection.timeout(doing, patience)),
        }
    }
}

async fn start(
    connection: &Connection,
    command: &str,
    doing: &'static str,
) -> Result<(ChannelReadHalf, ChannelWriteHalf<Msg>), SshError> {
    let channel = connection.channel().await?;
    channel.exec(true, command).await.map_err(|error| connection.failed(doing, error))?;
    Ok(channel.split())
}

async fn feed(
    mut input: impl AsyncRead + Unpin,
    mut channel: impl AsyncWrite + Unpin,
    patience: Duration,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = input.read(&mut chunk).await?;
        let Some(bytes @ [_, ..]) = chunk.get(..count) else { break };
        tokio::time::timeout(patience, channel.write_all(bytes)).await??;
    }
    tokio::time::timeout(patience, channel.shutdown()).await??;
    Ok(())
}

/// The standard streams of a running command. When the command or the connection has ended, reading gives an error
/// that says why.
pub(crate) type Stdout = StreamReader<ReceiverStream<io::Result<Bytes>>, Bytes>;

/// Starts a command and leaves it running; its standard error goes to the log.
pub(crate) async fn spawn(
    connection: &Connection,
    command: &str,
    doing: &'static str,
) -> Result<(Stdout, DuplexStream), SshError> {
    let (messages, channel) = start(connection, command, doing).await?;
    let (pieces, queue) = mpsc::channel(QUEUED_PIECES);
    let (stdin, mut feed) = tokio::io::duplex(STDIN_BYTES);
    let routing = route(messages, pieces, connection.node.clone(), connection.heard());
    tokio::spawn(async move {
        let mut writer = channel.make_writer();
        // When this fails, so does the next write to the other end.
        let feeding = async {
            if tokio::io::copy(&mut feed, &mut writer).await.is_ok() {
                writer.shutdown().await.ok();
            }
            drop(feed);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = routing => {}
            () = feeding => {}
        }
    });
    Ok((StreamReader::new(ReceiverStream::new(queue)), stdin))
}

/// Sorts the messages of a channel until it ends, or until nobody reads any more.
async fn route(
    mut messages: ChannelReadHalf,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    node: Endpoint,
    heard: Heard,
) {
    let mut log = StderrLog::new(node);
    let mut end = None;
    while let Some(message) = messages.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                if pieces.send(Ok(data)).await.is_err() {
                    return;
                }
            }
            ChannelMsg::ExtendedData { data, ext: STDERR } => log.add(&data),
            ChannelMsg::Failure => {
                end = Some(End::Denied);
                break;
            }
            ChannelMsg::Close => break,
            other => end = ending(&other).or(end),
        }
    }
    log.finish();
    let reason = match end {
        Some(end) => format!("{end}{}", log.last_words()),
        None => format!("the connection was lost: {}{}", heard.ending(), log.last_words()),
    };
    // Nobody may be left to hear it.
    pieces.send(Err(io::Error::other(reason))).await.ok();
}
