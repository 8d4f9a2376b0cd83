//! Java's `.properties` files, read as `java.util.Properties` reads them, with the number of each line.
//!
//! One thing is read better than there: a file that is valid UTF-8 is taken as UTF-8. Anything else is
//! ISO-8859-1, as it always was.

use std::iter::Peekable;
use std::str::Chars;

/// One key with its value, escapes resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Text that Java's reader refuses too.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct SyntaxError {
    line: usize,
    problem: &'static str,
}

/// All entries in their order, duplicates included.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, SyntaxError> {
    let text = decoded(bytes);
    logical_lines(&text).into_iter().map(|(line, text)| entry(line, &text)).collect()
}

fn decoded(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// Lines without blank ones and comments, continued ones joined, escapes still in them.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (index, natural) in natural_lines(text).enumerate() {
        let content = natural.trim_start_matches(is_blank);
        let skipped = content.is_empty() || content.starts_with(['#', '!']);
        if !continued && skipped {
            continue;
        }
        let backslashes = content.len() - content.trim_end_matches('\\').len();
        let goes_on = backslashes % 2 == 1;
        let content = if goes_on { content.strip_suffix('\\').unwrap_or(content) } else { content };
        match lines.last_mut().filter(|_| continued) {
            Some((_, line)) => line.push_str(content),
            None => lines.push((index + 1, content.to_owned())),
        }
        continued = goes_on;
    }
    lines
}

/// A line ends with `\n`, `\r` or both.
fn natural_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn entry(line: usize, text: &str) -> Result<Entry, SyntaxError> {
    let mut chars = text.chars().peekable();
    let key = unescaped(&mut chars, |c| is_blank(c) || matches!(c, '=' | ':'));
    while chars.next_if(|c| is_blank(*c)).is_some() {}
    if chars.next_if(|c| matches!(c, '=' | ':')).is_some() {
        while chars.next_if(|c| is_blank(*c)).is_some() {}
    }
    let value = unescaped(&mut chars, |_| false);
    let at_line = |problem| SyntaxError { line, problem };
    Ok(Entry { line, key: key.map_err(at_line)?, value: value.map_err(at_line)? })
}

/// Characters up to one that ends it. In UTF-16, as two escapes can make one character.
fn unescaped(chars: &mut Peekable<Chars<'_>>, ends: impl Fn(char) -> bool) -> Result<String, &'static str> {
    let mut units: Vec<u16> = Vec::new();
    while let Some(c) = chars.next_if(|c| !ends(*c)) {
        if c == '\\' {
            units.extend_from_slice(&escape(chars)?);
        } else {
            units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
        }
    }
    String::from_utf16(&units).ok().ok_or("a \\u escape is one half of a character only")
}

/// What stands for the characters after a backslash.
fn escape(chars: &mut Peekable<Chars<'_>>) -> Result<Vec<u16>, &'static str> {
    let Some(c) = chars.next() else { return Ok(Vec::new()) };
    let plain = match c {
        'u' => return Ok(vec![unicode(chars)?]),
        't' => '\t',
        'n' => '\n',
        'r' => '\r',
        'f' => '\u{c}',
        other => other,
    };
    Ok(plain.encode_utf16(&mut [0; 2]).to_vec())
}

fn unicode(chars: &mut Peekable<Chars<'_>>) -> Result<u16, &'static str> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit =
            chars.next().and_then(|c| c.to_digit(16)).ok_or("\\u needs four hexadecimal digits behind it")?;
        unit = unit * 16 + u16::try_from(digit).unwrap_or(0);
    }
    Ok(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use std::fmt::Write;

    #[allow(clippy::needless_pass_by_value)] // reads better where it is called
    fn check(bytes: &[u8], expected: Expect) {
        let mut shown = String::new();
        match parse(bytes) {
            Ok(entries) => {
                for entry in entries {
                    writeln!(shown, "{} {:?} {:?}", entry.line, entry.key, entry.value).unwrap();
                }
            }
            Err(error) => writeln!(shown, "{error}").unwrap(),
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn separators() {
        check(
            b"a=1\nb = 2\nc:3\nd 4\ne\t=\t5 \nf==6\ng = = 7\nh\n  i  =\nj\\ k\\=l\\:m=n=o\n=p\n",
            expect![[r#"
                1 "a" "1"
                2 "b" "2"
                3 "c" "3"
                4 "d" "4"
                5 "e" "5 "
                6 "f" "=6"
                7 "g" "= 7"
                8 "h" ""
                9 "i" ""
                10 "j k=l:m" "n=o"
                11 "" "p"
            "#]],
        );
    }

    #[test]
    fn comments_blank_lines_and_line_ends() {
        check(
            b"\n   \t\n# a=1\n  ! b=2\r\nc=3\rd=4\r\n\r\ne=# no comment",
            expect![[r##"
                5 "c" "3"
                6 "d" "4"
                8 "e" "# no comment"
            "##]],
        );
    }

    #[test]
    fn continued_lines() {
        check(
            b"a=1,\\\n   2,\\\r\n\t# 3\nb=x\\\\\nc=y\\\\\\\nz\n# comment \\\nd=1\ne=\\\n\nf=\\",
            expect![[r#"
                1 "a" "1,2,# 3"
                4 "b" "x\\"
                5 "c" "y\\z"
                8 "d" "1"
                9 "e" ""
                11 "f" ""
            "#]],
        );
    }

    #[test]
    fn escapes() {
        check(
            br"a=\t\n\r\f\\\q\u00e4\uD83D\uDE00\u0000",
            expect![[r#"
                1 "a" "\t\n\r\u{c}\\qä😀\0"
            "#]],
        );
        check(b"\na=\\u00g0", expect!["line 2: \\u needs four hexadecimal digits behind it\n"]);
        check(b"a=\\u12", expect!["line 1: \\u needs four hexadecimal digits behind it\n"]);
        check(b"a=\\ud83d x", expect!["line 1: a \\u escape is one half of a character only\n"]);
    }

    #[test]
    fn encodings() {
        check(
            "\u{feff}a=ä😀".as_bytes(),
            expect![[r#"
                1 "a" "ä😀"
            "#]],
        );
        check(
            b"a=\xe4\x80\xff",
            expect![[r#"
                1 "a" "ä\u{80}ÿ"
            "#]],
        );
        check(b"", expect![""]);
        check(
            b"\0=\0",
            expect![[r#"
                1 "\0" "\0"
            "#]],
        );
    }
}
