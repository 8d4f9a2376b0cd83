//! Modified UTF-8 (JVM specification, section 4.4.7): NUL is `c0 80`, characters beyond the basic plane are two
//! three-byte surrogates.

/// The bytes are not modified UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not modified UTF-8")]
pub struct NotModifiedUtf8;

/// Decodes. A lone surrogate, which Java strings can hold and Rust strings cannot, becomes U+FFFD.
///
/// # Errors
/// Overlong, truncated or four-byte sequences, and a plain zero byte: no JVM writes them.
pub fn decode(bytes: &[u8]) -> Result<String, NotModifiedUtf8> {
    if bytes.iter().all(|byte| (1..0x80).contains(byte)) {
        return Ok(bytes.iter().map(|byte| char::from(*byte)).collect());
    }
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((unit, after)) = unit(rest)? {
        units.push(unit);
        rest = after;
    }
    Ok(String::from_utf16_lossy(&units))
}

fn unit(bytes: &[u8]) -> Result<Option<(u16, &[u8])>, NotModifiedUtf8> {
    match bytes {
        [] => Ok(None),
        [a @ 1..=0x7f, rest @ ..] => Ok(Some((u16::from(*a), rest))),
        [a @ 0xc0..=0xdf, b, rest @ ..] => {
            let unit = u16::from(a & 0x1f) << 6 | tail(*b)?;
            if unit < 0x80 && unit != 0 {
                return Err(NotModifiedUtf8);
            }
            Ok(Some((unit, rest)))
        }
        [a @ 0xe0..=0xef, b, c, rest @ ..] => {
            let unit = u16::from(a & 0x0f) << 12 | tail(*b)? << 6 | tail(*c)?;
            if unit < 0x800 {
                return Err(NotModifiedUtf8);
            }
            Ok(Some((unit, rest)))
        }
        _ => Err(NotModifiedUtf8),
    }
}

fn tail(byte: u8) -> Result<u16, NotModifiedUtf8> {
    if byte & 0xc0 == 0x80 { Ok(u16::from(byte & 0x3f)) } else { Err(NotModifiedUtf8) }
}

/// Encodes, appending to `out`.
pub fn encode(text: &str, out: &mut Vec<u8>) {
    for unit in text.encode_utf16() {
        let [high, low] = unit.to_be_bytes();
        match unit {
            1..=0x7f => out.push(low),
            0 | 0x80..=0x7ff => out.extend([0xc0 | high << 2 | low >> 6, 0x80 | low & 0x3f]),
            _ => out.extend([0xe0 | high >> 4, 0x80 | (high & 0x0f) << 2 | low >> 6, 0x80 | low & 0x3f]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_what_differs_from_utf8() {
        for text in ["", "a", "\0", "é", "\u{7ff}\u{800}", "€", "😀", "a\0é€😀"] {
            let mut out = Vec::new();
            encode(text, &mut out);
            assert_eq!(decode(&out).as_deref(), Ok(text));
        }
        let mut out = Vec::new();
        encode("\0😀", &mut out);
        assert_eq!(out, [0xc0, 0x80, 0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]);
    }

    #[test]
    fn refuses_what_no_jvm_writes() {
        let bad: [&[u8]; 9] = [
            &[0],
            &[0x80],
            &[0xc3],
            &[0xc3, 0x41],
            &[0xc1, 0x80],
            &[0xe0, 0x80, 0x41],
            &[0xe0, 0x80, 0x80],
            &[0xe2, 0x82],
            &[0xf0, 0x9f, 0x98, 0x80],
        ];
        for bytes in bad {
            assert_eq!(decode(bytes), Err(NotModifiedUtf8), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_lone_surrogate_is_replaced() {
        assert_eq!(decode(&[0x61, 0xed, 0xa0, 0x80, 0x62]).as_deref(), Ok("a\u{fffd}b"));
    }
}
