//! Words from the other side, made fit for messages and logs; and our words, made fit for a remote shell.

use std::fmt::Write;

/// At most this many characters of foreign text go into one message.
const EXCERPT_CHARS: usize = 300;

/// Foreign text without control characters, line breaks or direction marks, cut short.
pub(crate) fn printable(text: &str) -> String {
    printable_within(text, EXCERPT_CHARS)
}

/// As [`printable`], with another limit.
pub(crate) fn printable_within(text: &str, limit_chars: usize) -> String {
    let mut out = String::new();
    for (position, c) in text.trim().chars().enumerate() {
        if position == limit_chars {
            out.push('…');
            break;
        }
        match c {
            '"' | '\'' | '\\' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

/// As [`printable`], for bytes.
pub(crate) fn printable_bytes(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// A word that any login shell (POSIX, csh, fish) hands on unchanged, for `printf %b` to decode: single quotes
/// around harmless characters and octal escapes only.
pub(crate) fn shell_word(text: &str) -> String {
    let mut word = String::from("'");
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'+' | b'=' | b',' => {
                word.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(word, "\\0{byte:03o}")),
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_harmless() {
        assert_eq!(printable(" a\x1b[31m\n\u{202e}\"b\" "), "a\\u{1b}[31m\\n\\u{202e}\"b\"");
        let long = printable(&"x".repeat(5000));
        assert_eq!(long.chars().count(), EXCERPT_CHARS + 1);
    }

    #[test]
    fn words_are_quoted() {
        assert_eq!(shell_word("/opt/cassy"), "'/opt/cassy'");
        assert_eq!(shell_word("a'b!$(id)\\"), "'a\\0047b\\0041\\0044\\0050id\\0051\\0134'");
        assert_eq!(shell_word(""), "''");
    }
}
