//! Connections to ports of the node's own loopback, in frames: the server opens them, the agent makes them.
//!
//! Rules of both sides. A side sends at most [`WINDOW_PIECES`] pieces that the other has not taken yet, each answered
//! by one [`RelayFrame::Taken`]; so neither side has to hold more, and nobody waits for a slow peer but the connection
//! that it belongs to. At most [`CONNECTIONS_LIMIT`] connections are open at once. After [`RelayFrame::Closed`] a side
//! sends nothing more for the connection, and passes over what still comes for it.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// Bytes of the longest piece: with them a frame is short, so that a heartbeat between two of them is on time.
pub const PIECE_BYTES: usize = 16 << 10;

/// Pieces that a side may send before the first of them is taken.
pub const WINDOW_PIECES: usize = 16;

/// Connections of one agent that are open at once.
pub const CONNECTIONS_LIMIT: usize = 16;

/// About one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "relay", rename_all = "snake_case")]
pub enum RelayFrame {
    /// To the agent: connect to this port of your own loopback.
    Open {
        /// The TCP port.
        port: u16,
    },
    /// From the agent: connected.
    Opened,
    /// In either direction.
    Data {
        /// What travels.
        piece: Piece,
    },
    /// One piece was handed on: another one may be sent.
    Taken,
    /// The end of the connection in both directions.
    Closed {
        /// Why.
        end: RelayEnd,
    },
}

/// Why a connection ended, or was never made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayEnd {
    /// Somebody closed it in order.
    Ended,
    /// Nothing listens on the port.
    Refused,
    /// It broke; in the system's words.
    Failed(String),
}

/// At least one byte, at most [`PIECE_BYTES`]; in base64 on the wire.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Piece(Vec<u8>);

/// What is no piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no piece of 1 to {PIECE_BYTES} bytes in base64")]
pub struct NoPiece;

impl Piece {
    /// A piece of these bytes, unless there are none or too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, NoPiece> {
        if (1..=PIECE_BYTES).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(NoPiece) }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What travels may be a password: only its length is shown.
impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({} bytes)", self.0.len())
    }
}

impl TryFrom<String> for Piece {
    type Error = NoPiece;

    fn try_from(text: String) -> Result<Self, NoPiece> {
        Self::new(BASE64_STANDARD.decode(text).map_err(|_no_base64| NoPiece)?)
    }
}

impl From<Piece> for String {
    fn from(piece: Piece) -> Self {
        BASE64_STANDARD.encode(piece.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(piece: &Piece) -> String {
        serde_json::to_string(piece).expect("a string")
    }

    #[test]
    fn a_piece_comes_back_as_it_was_and_is_never_shown() {
        for bytes in [vec![0], (0..=255).collect(), vec![0xff; PIECE_BYTES]] {
            let piece = Piece::new(bytes.clone()).expect("its length is right");
            assert_eq!(serde_json::from_str::<Piece>(&written(&piece)).expect("the same").bytes(), bytes);
            assert_eq!(format!("{piece:?}"), format!("Piece({} bytes)", bytes.len()));
        }
    }

    #[test]
    fn a_piece_that_is_empty_or_too_long_or_no_base64_is_refused() {
        assert_eq!(Piece::new(Vec::new()), Err(NoPiece));
        assert_eq!(Piece::new(vec![0; PIECE_BYTES + 1]), Err(NoPiece));
        let long = BASE64_STANDARD.encode(vec![0; PIECE_BYTES + 1]);
        for text in ["", "=", "AA", "A===", "AA==\n", "\u{202e}", &long] {
            assert_eq!(Piece::try_from(text.to_owned()), Err(NoPiece), "{text}");
        }
    }
}
