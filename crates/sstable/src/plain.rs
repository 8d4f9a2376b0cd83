//! Which names are taken at all.

/// True for what can be the name of one file or directory and nothing else: 1 to 255 bytes, not `.` or `..`, no
/// slash, backslash or control character.
pub fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= 255
        && !name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control())
}

/// A text for a message: escaped, at most 80 characters of it.
pub(crate) fn excerpt(text: &str) -> String {
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}
