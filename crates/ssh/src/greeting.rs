//! The first words between server and agent.

use std::time::Duration;

use cassy_agent_protocol::{AgentHello, FrameDecoder, FromAgent, PREAMBLE, ServerHello, ToAgent, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::agent::{GreetingError, end_of_stream};

/// How long an agent may take to greet, its start included.
const DEADLINE: Duration = Duration::from_secs(30);

/// The beginning of a preamble of any protocol number.
const MARK: &[u8] = b"CASSY-AGENT ";

/// At most so much of what the account's profile prints is passed over.
const NOISE_BYTES: usize = 64 << 10;

/// Greets, and waits for the answer. The decoder is handed on with what has arrived after it.
pub(crate) async fn greet<R, W>(
    reader: &mut R,
    writer: &mut W,
    hello: ServerHello,
) -> Result<(AgentHello, FrameDecoder), GreetingError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut words = PREAMBLE.to_vec();
    words.extend(frame::encode(&ToAgent::Hello(hello)).map_err(GreetingError::Stranger)?);
    let exchange = async {
        // A command that ended at once does not read; what it left to read says more than the failed write.
        let written = writer.write_all(&words).await;
        let listened = listen(reader).await;
        match (&listened, written) {
            (Ok(_), Err(error)) => Err(GreetingError::Ended(error.to_string())),
            _ => listened,
        }
    };
    match timeout(DEADLINE, exchange).await {
        Ok(result) => result,
        Err(_) => Err(GreetingError::Silent(DEADLINE)),
    }
}

async fn listen<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(AgentHello, FrameDecoder), GreetingError> {
    let mut decoder = FrameDecoder::new();
    let mut noise = Some(Vec::new());
    let mut chunk = vec![0; 16 << 10];
    loop {
        let result = reader.read(&mut chunk).await;
        if let Some(reason) = end_of_stream(&result) {
            return Err(ended(noise, reason));
        }
        let bytes = chunk.get(..result.unwrap_or_default()).unwrap_or_default();
        match noise.take() {
            None => decoder.push(bytes),
            Some(mut heard) => {
                heard.extend_from_slice(bytes);
                match after_noise(&heard) {
                    Some(words) => decoder.push(words),
                    None => {
                        noise = Some(heard);
                        continue;
                    }
                }
            }
        }
        match decoder.next().map_err(GreetingError::Stranger)? {
            None => {}
            Some(FromAgent::Hello(hello)) => return Ok((hello, decoder)),
            Some(_) => return Err(GreetingError::Rude),
        }
    }
}

/// From the preamble on; everything when there was too much without one; `None` while there may still come one.
fn after_noise(heard: &[u8]) -> Option<&[u8]> {
    let start = heard.windows(MARK.len()).position(|window| window == MARK);
    match start {
        Some(start) => heard.get(start..),
        None if heard.len() > NOISE_BYTES => Some(heard),
        None => None,
    }
}

fn ended(noise: Option<Vec<u8>>, reason: String) -> GreetingError {
    let said = crate::text::printable_bytes(&noise.unwrap_or_default());
    GreetingError::Ended(match said.is_empty() {
        true => reason,
        false => format!("{reason}; it says \"{said}\""),
    })
}
