//! The lines of the product's sources that make an error or turn one into another, found by their words.

use std::path::{Path, PathBuf};

use cassy_testkit::{Doing, Failure};

/// Crates that no product is made of.
const DEV_ONLY: [&str; 2] = ["fuzz", "testkit"];
/// Functions that make an error or a finding.
const MAKERS: [&str; 10] = [
    "refused(",
    "refuse(",
    "invalid(",
    "malformed(",
    "misuse(",
    "defect(",
    "findings.push(",
    "problems.add(",
    "problems.push(",
    "broken.push(",
];
/// What the names of types of errors end in.
const TYPES: [&str; 4] = ["Error::", "Failure::", "Problem::", "Refusal::"];

/// A line, and the part of it that runs only when there is an error: columns, counted from 1.
pub(crate) struct Site {
    /// From the root of the project.
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) text: String,
}

/// All of them, in the order of the files.
pub(crate) fn all(root: &Path) -> Result<Vec<Site>, Failure> {
    let mut files = Vec::new();
    for krate in entries(&root.join("crates"))? {
        let name = krate.file_name().unwrap_or_default();
        if !DEV_ONLY.iter().any(|dev| name == *dev) {
            sources(&krate.join("src"), &mut files)?;
        }
    }
    let mut sites = Vec::new();
    for file in files {
        let content = std::fs::read_to_string(&file).doing(|| format!("read {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let product = content.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (line, text) in (1..).zip(product.lines()) {
            if let Some((from, to)) = error_part(text) {
                sites.push(Site { path: path.clone(), line, from, to, text: text.trim().to_owned() });
            }
        }
    }
    Ok(sites)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = || format!("list {}", directory.display());
    let entries = std::fs::read_dir(directory).doing(failed)?;
    let mut paths =
        entries.map(|entry| Ok(entry.doing(failed)?.path())).collect::<Result<Vec<_>, Failure>>()?;
    paths.sort();
    Ok(paths)
}

/// Not those of tests alone.
fn sources(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for path in entries(directory)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "tests" {
            sources(&path, files)?;
        } else if name.ends_with(".rs")
            && !matches!(name, "tests.rs" | "fake.rs" | "fuzz.rs" | "conformance.rs")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Where in the line an error is made.
fn error_part(text: &str) -> Option<(u32, u32)> {
    let code = text.split("//").next().unwrap_or_default();
    if code.trim_start().starts_with(['#', '|']) || code.contains("fn ") || code.contains("matches!(") {
        return None;
    }
    // What stands before an arrow is a pattern.
    let begin = code.find("=>").map_or(0, |arrow| arrow + 2);
    let found =
        std::iter::once("Err(").chain(TYPES).chain(MAKERS).filter_map(|word| place(code, begin, word));
    let start = found.min()?;
    let end = start + closed(code.get(start..)?);
    Some((column(start), column(end)))
}

fn place(code: &str, begin: usize, word: &str) -> Option<usize> {
    for (place, _) in code.get(begin..)?.match_indices(word).map(|(place, found)| (begin + place, found)) {
        let before = code.get(..place)?;
        let is_type = word.ends_with("::");
        let start = if is_type { name_start(before) } else { place };
        let lead = code.get(..start)?;
        let after = code.get(place + word.len()..)?;
        let is_word = is_type
            || !lead.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.' && word == "Err(");
        let is_made = !is_type
            || after
                .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                .starts_with(['(', ' ', '{']);
        let is_pattern = after.contains("{ .. }") || is_bound(lead, after);
        if is_word && is_made && !is_pattern {
            return Some(start);
        }
    }
    None
}

/// `let Err(error) = ...`, also with more around it.
fn is_bound(before: &str, after: &str) -> bool {
    let Some((_, since)) = before.rsplit_once("let ") else { return false };
    !since.contains(" = ") && after.contains(" = ")
}

fn name_start(before: &str) -> usize {
    let name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    before.len() - before.chars().rev().take_while(|c| name(*c)).map(char::len_utf8).sum::<usize>()
}

/// The length of the text up to the end of its first pair of brackets; all of it, when they are not closed.
fn closed(text: &str) -> usize {
    let mut depth = 0_u32;
    for (place, c) in text.char_indices() {
        match c {
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' if depth == 0 => return place,
            ')' | '}' | ']' => {
                depth -= 1;
                if depth == 0 {
                    return place + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

fn column(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str) -> Option<&str> {
        let (from, to) = error_part(text)?;
        text.get(usize::try_from(from - 1).ok()?..usize::try_from(to - 1).ok()?)
    }

    #[test]
    fn errors_are_found_where_they_are_made() {
        for (text, made) in [
            ("return Err(Error::Small { size });", Some("Err(Error::Small { size })")),
            ("    Err(error) => return Err(no(error)),", Some("Err(no(error))")),
            ("let Some(a) = b else { return Err(c) };", Some("Err(c)")),
            (".map_err(|source| FileError::Io { path, source })?;", Some("FileError::Io { path, source }")),
            ("Err(SpoolError::Io {", Some("Err(SpoolError::Io {")),
            ("findings.push(Finding::new(a));", Some("findings.push(Finding::new(a))")),
            (".ok_or_else(|| malformed(\"x\"))?", Some("malformed(\"x\")")),
            ("if let Err(error) = done() {", None),
            ("Some(Err(error)) => Some(error),", None),
            ("let Err(error) = done else { return };", None),
            ("error @ FileError::Vanished { .. } => error,", None),
            ("if matches!(error, StoreError::NotFound { .. }) {", None),
            ("let kind = AgentErrorKind::Permanent;", None),
            ("// return Err(x)", None),
        ] {
            assert_eq!(part(text), made, "{text}");
        }
    }
}
