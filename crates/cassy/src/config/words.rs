//! A command as words, separated and quoted as a shell does it, and nothing else of a shell: what would be expanded,
//! piped or redirected there is text here.

use super::keys::Expected;

/// No command that is put before another is longer.
const LIMIT: usize = 32;

/// Blanks separate words; `'...'` is taken as it is; in `"..."` and outside of quotes a backslash takes the meaning from
/// the character behind it.
pub(super) fn split(text: &str) -> Result<Vec<String>, Expected> {
    let mut words = Vec::new();
    let mut rest = text.chars();
    let mut word: Option<String> = None;
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => quoted(&mut rest, word.get_or_insert_default())?,
            '"' => double_quoted(&mut rest, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(rest.next().ok_or_else(unfinished)?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match words.first() {
        Some(program) if program.is_empty() => Err("expected a command in front: it is empty".to_owned()),
        Some(program) if program.starts_with('-') || program.contains('=') => {
            Err("expected a command in front, not an option or a variable".to_owned())
        }
        _ if words.len() > LIMIT => Err(format!("expected at most {LIMIT} words")),
        _ => Ok(words),
    }
}

fn quoted(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), Expected> {
    loop {
        match rest.next().ok_or_else(unfinished)? {
            '\'' => return Ok(()),
            c => word.push(c),
        }
    }
}

fn double_quoted(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), Expected> {
    loop {
        match rest.next().ok_or_else(unfinished)? {
            '"' => return Ok(()),
            '\\' => match rest.next().ok_or_else(unfinished)? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

fn unfinished() -> Expected {
    "expected words as a shell separates them: a quote or a backslash at the end is not closed".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_and_quoted_as_in_a_shell() {
        for (text, words) in [
            ("sudo -n -u cassandra", &["sudo", "-n", "-u", "cassandra"][..]),
            ("  a \t b  ", &["a", "b"]),
            ("'a b' \"c d\" e\\ f", &["a b", "c d", "e f"]),
            ("a'b'\"c\"d", &["abcd"]),
            ("a '' \"\" b", &["a", "", "", "b"]),
            ("a 'it\\' \"\\\"\\\\\\n\"", &["a", "it\\", "\"\\\\n"]),
            ("", &[]),
            ("ä\u{3000}ö", &["ä\u{3000}ö"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
    }

    /// The same words as `sh` makes of them, where a shell would expand nothing.
    #[test]
    fn a_shell_makes_the_same_words() {
        for text in
            ["a 'b c' d\\'e", "x \"y'z\" '\"'", "a\\\\b \"c\\\\d\" 'e\\f'", "p \"\\$HOME\" '$HOME' \\$HOME"]
        {
            let script = format!("for word in {text}; do printf '%s\\n' \"$word\"; done");
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let words: Vec<_> =
                String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn what_a_shell_would_expand_is_text() {
        for text in ["a $HOME `id` $(id) ;id |id >x <y &", "a * ? [a] {b,c} ~ ! #d", "a &&id ||id"] {
            assert_eq!(split(text).unwrap(), text.split(' ').collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn what_has_no_end_or_no_command_is_refused() {
        for text in ["a 'b", "a \"b", "a \"b\\", "a\\", "'", "'' a", "-n sudo", "A=b sudo", &"a ".repeat(33)]
        {
            assert!(split(text).unwrap_err().starts_with("expected "), "{text}");
        }
    }
}
