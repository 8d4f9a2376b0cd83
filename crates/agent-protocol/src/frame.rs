//! Frames: each is its length (32 bits, big-endian) and that many bytes of JSON. A stream begins with
//! [`PREAMBLE`]. No I/O: bytes go in, messages come out.
//!
//! A declared length reserves no memory: the decoder holds only what has arrived, and refuses a frame above
//! [`LIMIT_BYTES`] by its length alone. One of more values than [`LIMIT_VALUES`] is refused before it is read.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first bytes in either direction.
pub const PREAMBLE: &[u8] = b"CASSY-AGENT 1\n";

/// No frame's JSON is longer.
pub const LIMIT_BYTES: usize = 16 << 20;

/// No frame's JSON has more values and keys: two bytes of text, as in `[0,0]`, take up to a hundred as values. A list of
/// as many tables as fit into a frame has fewer.
pub const LIMIT_VALUES: usize = 1_000_000;

/// The bytes before a frame's JSON.
const LENGTH_BYTES: usize = 4;

/// How much of an unexpected beginning an error shows.
const EXCERPT_BYTES: usize = 200;

/// Why a stream of frames cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer is something else than an agent, or of another protocol: a shell's banner, an older build.
    #[error("the peer does not begin as an agent of this protocol; it sent \"{excerpt}\"")]
    WrongPreamble {
        /// What came instead, escaped and cut short.
        excerpt: String,
    },
    /// The frame is too long.
    #[error("a frame of {bytes} bytes is longer than the limit of {LIMIT_BYTES}")]
    TooLarge {
        /// Its declared length.
        bytes: usize,
    },
    /// The frame has too many values.
    #[error("a frame of {values} values has more than the limit of {LIMIT_VALUES}")]
    TooMany {
        /// How many.
        values: usize,
    },
    /// The message cannot be written as JSON.
    #[error("the message cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// The frame is not a message of this protocol.
    #[error("a frame is not a message of this protocol")]
    Malformed(#[source] serde_json::Error),
    /// The stream ended in the middle.
    #[error("the stream ended {place}")]
    Truncated {
        /// Where.
        place: &'static str,
    },
}

/// One message as a frame.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Encode)?;
    let bytes = frame.len() - LENGTH_BYTES;
    if bytes > LIMIT_BYTES {
        return Err(FrameError::TooLarge { bytes });
    }
    check_values(frame.get(LENGTH_BYTES..).unwrap_or_default())?;
    let length = u32::try_from(bytes).expect("the limit is below 2^32").to_be_bytes();
    for (place, byte) in frame.iter_mut().zip(length) {
        *place = byte;
    }
    Ok(frame)
}

/// Takes the preamble and frames out of a stream of bytes. After an error the same error comes again: there is
/// no way to find the next frame.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that are dealt with.
    done: usize,
    greeted: bool,
}

impl FrameDecoder {
    /// For a stream from its first byte on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what has arrived. Memory is bounded when [`FrameDecoder::next`] is called until it gives `None`
    /// before more is pushed.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.done > 0 {
            self.buffer.drain(..self.done);
            self.done = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message; `None` when more bytes are needed.
    #[expect(clippy::should_implement_trait, reason = "each message may be of another type")]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        if !self.greeted && !self.take_preamble()? {
            return Ok(None);
        }
        let waiting = self.waiting();
        let Some((length, rest)) = waiting.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let bytes = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if bytes > LIMIT_BYTES {
            return Err(FrameError::TooLarge { bytes });
        }
        let Some(json) = rest.get(..bytes) else {
            return Ok(None);
        };
        check_values(json)?;
        let message = serde_json::from_slice(json).map_err(FrameError::Malformed)?;
        self.done += LENGTH_BYTES + bytes;
        Ok(Some(message))
    }

    /// To be called at the end of the stream, when [`FrameDecoder::next`] gives `None`: an error when it ended
    /// within the preamble or within a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        match (self.greeted, self.waiting().is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(FrameError::Truncated { place: "within a frame" }),
            (false, true) => Err(FrameError::Truncated { place: "before the first byte" }),
            (false, false) => Err(FrameError::WrongPreamble { excerpt: excerpt(self.waiting()) }),
        }
    }

    fn waiting(&self) -> &[u8] {
        self.buffer.get(self.done..).unwrap_or_default()
    }

    /// False when more bytes are needed.
    fn take_preamble(&mut self) -> Result<bool, FrameError> {
        let waiting = self.waiting();
        if waiting.starts_with(PREAMBLE) {
            self.done += PREAMBLE.len();
            self.greeted = true;
            return Ok(true);
        }
        if PREAMBLE.starts_with(waiting) {
            return Ok(false);
        }
        Err(FrameError::WrongPreamble { excerpt: excerpt(waiting) })
    }
}

/// Counts what stands between values, outside of texts, before any of them takes memory.
fn check_values(json: &[u8]) -> Result<(), FrameError> {
    let (mut values, mut in_text, mut is_escaped) = (1_usize, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b',' | b':' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    if values > LIMIT_VALUES { Err(FrameError::TooMany { values }) } else { Ok(()) }
}

fn excerpt(bytes: &[u8]) -> String {
    let shown = bytes.get(..EXCERPT_BYTES).unwrap_or(bytes);
    let mut text = String::from_utf8_lossy(shown).escape_debug().to_string();
    if shown.len() < bytes.len() {
        text.push('…');
    }
    text
}
