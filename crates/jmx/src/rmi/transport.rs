//! The JRMP handshake (RMI specification, chapter 10; measured on JDK 17 and 25) and the guess what it is that answers
//! when no JMX does.

/// Header of the stream protocol (`JRMI`, version 2, `4b`), then our endpoint (empty host, port 0), which the server
/// reads and discards. Both may go out before the server answered (measured).
pub const HELLO: [u8; 13] = [b'J', b'R', b'M', b'I', 0, 2, 0x4b, 0, 0, 0, 0, 0, 0];

/// Starts a call.
pub const CALL: u8 = 0x50;
/// Starts the reply to a call.
pub const RETURN_DATA: u8 = 0x51;
/// Tells the server that a remote reference arrived, so that it need not pin it. Has no answer.
pub const DGC_ACK: u8 = 0x54;

const PROTOCOL_ACK: u8 = 0x4e;
const NOT_SUPPORTED: u8 = 0x4f;

/// A host name in the handshake may not be longer: DNS has no longer ones.
const HOST_BYTES: usize = 255;

/// What the bytes of the server's half of the handshake are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// Not all of it has arrived.
    NeedMore,
    /// An RMI server. Its half has this many bytes.
    Rmi(usize),
    /// Something else, in words: "a TLS port".
    Other(String),
}

/// Looks at everything that arrived since the connection was opened.
#[must_use]
pub fn hello(bytes: &[u8]) -> Hello {
    match bytes {
        [] => Hello::NeedMore,
        [PROTOCOL_ACK, high, low, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length > HOST_BYTES {
                return Hello::Other(format!("something that names a host of {length} bytes"));
            }
            let needed = length.saturating_add(4);
            if rest.len() < needed { Hello::NeedMore } else { Hello::Rmi(needed.saturating_add(3)) }
        }
        [PROTOCOL_ACK, ..] => Hello::NeedMore,
        [NOT_SUPPORTED, ..] => Hello::Other("an RMI server that refuses the stream protocol".to_owned()),
        _ => Hello::Other(looks_like(bytes)),
    }
}

/// Says what else starts with these bytes.
fn looks_like(bytes: &[u8]) -> String {
    match bytes {
        [0x15, 0x03, ..] | [0x15] => "a TLS port".to_owned(),
        [b'S', b'S', b'H', ..] => "an SSH server".to_owned(),
        [b'H', b'T', b'T', b'P', ..] => "a web server (HTTP)".to_owned(),
        [0x81..=0x86, ..] => "a CQL port (Cassandra's native protocol)".to_owned(),
        [b'2', b'2', b'0', ..] => "a mail or FTP server".to_owned(),
        _ => {
            let start: String = bytes
                .iter()
                .take(16)
                .flat_map(|byte| std::ascii::escape_default(*byte))
                .map(char::from)
                .collect();
            format!("something else; its answer starts with \"{start}\"")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_what_is_no_jmx() {
        let cases: [(&[u8], &str); 6] = [
            (&[0x15, 3, 3, 0, 2], "a TLS port"),
            (b"SSH-2.0-OpenSSH_9.9\r\n", "an SSH server"),
            (b"HTTP/1.1 400 Bad Request", "a web server (HTTP)"),
            (&[0x84, 0, 0, 0], "a CQL port (Cassandra's native protocol)"),
            (&[0x4f], "an RMI server that refuses the stream protocol"),
            (b"\x1b[2J", "something else; its answer starts with \"\\x1b[2J\""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(hello(bytes), Hello::Other(expected.to_owned()));
        }
        assert!(matches!(hello(&[0x4e, 0xff, 0xff]), Hello::Other(_)));
    }

    #[test]
    fn waits_for_the_whole_acknowledgement() {
        let ack = [0x4e, 0, 2, b'h', b'i', 0, 0, 0, 1];
        for end in 0..ack.len() {
            assert_eq!(hello(&ack[..end]), Hello::NeedMore, "{end}");
        }
        assert_eq!(hello(&ack), Hello::Rmi(9));
    }
}
