//! A `cassandra.yaml`, read with bounds: a flat map from dotted paths to scalars and lists of scalars.
//!
//! Events are taken one by one from the parser and nothing is built but what [`Document`] holds, so that deep
//! nesting, many nodes and alias bombs end in an error instead of in memory. What is not a scalar or a list of
//! scalars under mappings (the seed provider, for one) is skipped. As in Cassandra, the last of two equal keys
//! counts.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle};

/// No `cassandra.yaml` is larger.
pub(crate) const LIMIT_BYTES: u64 = 1 << 20;
const DEPTH_LIMIT: usize = 64;
const EVENTS_LIMIT: usize = 100_000;
/// What the document may hold. Aliases and nested keys repeat text: a file of 1 MiB could hold gigabytes.
const HELD_LIMIT_BYTES: usize = 8 << 20;

/// Why a text is no configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum YamlError {
    #[error("line {line}: {reason}")]
    Syntax { line: usize, reason: String },
    #[error("line {line}: it is not a mapping from keys to values")]
    NotAMapping { line: usize },
    #[error("line {line}: it is nested deeper than {DEPTH_LIMIT} levels")]
    TooDeep { line: usize },
    #[error("it holds more than {EVENTS_LIMIT} nodes")]
    TooLong,
    #[error("line {line}: with its aliases and nested keys it holds more than {HELD_LIMIT_BYTES} bytes")]
    TooMuch { line: usize },
    #[error("it holds a second document at line {line}")]
    SecondDocument { line: usize },
    #[error("it is empty")]
    Empty,
}

/// What a key has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// Plain `null`, `~` or nothing.
    Null,
    Scalar(String),
    List(Vec<String>),
}

impl Value {
    /// What a copy takes in memory.
    fn bytes(&self) -> usize {
        let text = |text: &String| size_of::<String>() + text.len();
        match self {
            Self::Null => 0,
            Self::Scalar(scalar) => text(scalar),
            Self::List(items) => items.iter().map(text).sum(),
        }
    }
}

/// A configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Document {
    values: BTreeMap<String, Value>,
}

impl Document {
    /// Reads a text; the caller has bounded its size.
    pub(crate) fn parse(text: &str) -> Result<Self, YamlError> {
        Reader::default().read(text)
    }

    /// The scalar under a dotted path, unless it is null or empty.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        match self.values.get(path)? {
            Value::Scalar(text) if !text.is_empty() => Some(text),
            Value::Scalar(_) | Value::Null | Value::List(_) => None,
        }
    }

    /// The list under a path; a lone scalar is a list of one.
    pub(crate) fn list(&self, path: &str) -> Vec<&str> {
        match self.values.get(path) {
            Some(Value::List(items)) => items.iter().map(String::as_str).collect(),
            Some(Value::Scalar(text)) if !text.is_empty() => vec![text],
            Some(Value::Scalar(_) | Value::Null) | None => Vec::new(),
        }
    }

    /// A number, when the value is one.
    pub(crate) fn number(&self, path: &str) -> Option<u32> {
        self.text(path)?.parse().ok()
    }

    /// A flag, with the words of YAML 1.1, which Cassandra reads.
    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        match self.text(path)?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Some(true),
            "false" | "no" | "off" | "n" => Some(false),
            _ => None,
        }
    }
}

/// An open collection.
enum Level {
    /// A mapping: its path with a dot at its end, and the key whose value comes next.
    Mapping { prefix: String, key: Option<String> },
    /// A list under a path. Its mappings lie under the same path; of equal keys in them the last counts.
    List { path: String, items: Vec<String>, anchor: usize },
    /// A collection that is of no interest: a list in a list, or one as a key.
    Skipped,
}

#[derive(Default)]
struct Reader {
    levels: Vec<Level>,
    document: Document,
    /// Scalars and lists by anchor. Mappings under an anchor are not followed.
    anchors: HashMap<usize, Value>,
    documents: usize,
    held_bytes: usize,
}

impl Reader {
    fn read(mut self, text: &str) -> Result<Document, YamlError> {
        for (count, event) in Parser::new_from_str(text).enumerate() {
            let (event, span) = event.map_err(|error| YamlError::Syntax {
                line: error.marker().line(),
                reason: error.info().to_owned(),
            })?;
            if count > EVENTS_LIMIT {
                return Err(YamlError::TooLong);
            }
            self.take(event, span.start.line())?;
        }
        if self.document.values.is_empty() { Err(YamlError::Empty) } else { Ok(self.document) }
    }

    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(YamlError::SecondDocument { line });
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let null =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar(text.into_owned()) };
                self.value(value, anchor, line)?;
            }
            Event::Alias(anchor) => {
                self.hold(self.anchors.get(&anchor).map_or(0, Value::bytes), line)?;
                let value = self.anchors.get(&anchor).cloned();
                self.value(value.unwrap_or(Value::Null), 0, line)?;
            }
            Event::SequenceStart(anchor, _) => self.open_list(anchor, line)?,
            Event::MappingStart(_, _) => self.open_mapping(line)?,
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    /// Counts what is about to be kept.
    fn hold(&mut self, bytes: usize, line: usize) -> Result<(), YamlError> {
        self.held_bytes += bytes;
        if self.held_bytes > HELD_LIMIT_BYTES { Err(YamlError::TooMuch { line }) } else { Ok(()) }
    }

    /// Counts the path that the open mapping's key is about to make.
    fn hold_path(&mut self, line: usize) -> Result<(), YamlError> {
        match self.levels.last() {
            Some(Level::Mapping { prefix, key: Some(key) }) => self.hold(prefix.len() + key.len(), line),
            Some(Level::List { path, .. }) => self.hold(path.len(), line),
            _ => Ok(()),
        }
    }

    fn open_list(&mut self, anchor: usize, line: usize) -> Result<(), YamlError> {
        self.hold_path(line)?;
        let level = match self.levels.last_mut() {
            None => return Err(YamlError::NotAMapping { line }),
            Some(Level::Mapping { prefix, key }) => match key.take() {
                Some(key) => Level::List { path: format!("{prefix}{key}"), items: Vec::new(), anchor },
                None => Level::Skipped,
            },
            Some(Level::List { .. } | Level::Skipped) => Level::Skipped,
        };
        self.push(level, line)
    }

    fn open_mapping(&mut self, line: usize) -> Result<(), YamlError> {
        self.hold_path(line)?;
        let level = match self.levels.last_mut() {
            None => Level::Mapping { prefix: String::new(), key: None },
            Some(Level::Mapping { prefix, key }) => match key.take() {
                Some(key) => Level::Mapping { prefix: format!("{prefix}{key}."), key: None },
                None => Level::Skipped,
            },
            Some(Level::List { path, .. }) => Level::Mapping { prefix: format!("{path}."), key: None },
            Some(Level::Skipped) => Level::Skipped,
        };
        self.push(level, line)
    }

    fn push(&mut self, level: Level, line: usize) -> Result<(), YamlError> {
        if self.levels.len() == DEPTH_LIMIT {
            return Err(YamlError::TooDeep { line });
        }
        self.levels.push(level);
        Ok(())
    }

    fn close(&mut self) {
        match self.levels.pop() {
            Some(Level::List { path, items, anchor }) => {
                let value = Value::List(items);
                self.remember(anchor, &value);
                self.document.values.insert(path, value);
            }
            // A collection as a key: its value is of no interest either.
            Some(Level::Skipped) => self.skipped(),
            Some(Level::Mapping { .. }) | None => {}
        }
    }

    /// After a skipped collection: when it stood where a key is expected, its value must not pass for a key.
    fn skipped(&mut self) {
        if let Some(Level::Mapping { key, .. }) = self.levels.last_mut()
            && key.is_none()
        {
            *key = Some("?".to_owned());
        }
    }

    fn value(&mut self, value: Value, anchor: usize, line: usize) -> Result<(), YamlError> {
        self.hold_path(line)?;
        self.remember(anchor, &value);
        match self.levels.last_mut() {
            None => Err(YamlError::NotAMapping { line }),
            Some(Level::Skipped) => Ok(()),
            Some(Level::List { items, .. }) => {
                if let Value::Scalar(text) = value {
                    items.push(text);
                }
                Ok(())
            }
            Some(Level::Mapping { prefix, key }) => {
                match key.take() {
                    Some(key) => {
                        self.document.values.insert(format!("{prefix}{key}"), value);
                    }
                    None => *key = Some(as_key(value)),
                }
                Ok(())
            }
        }
    }

    fn remember(&mut self, anchor: usize, value: &Value) {
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
    }
}

fn as_key(value: Value) -> String {
    match value {
        Value::Scalar(text) => text,
        Value::Null | Value::List(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_file_is_read() {
        let document = Document::parse(
            "# comment\ncluster_name: 'Test Cluster'\nnum_tokens: 16\ndata_file_directories:\n    - /a\n    - \"/b c\"\n\
             seed_provider:\n  - class_name: org.example.Seeds\n    parameters:\n      - seeds: \"1.2.3.4\"\n\
             incremental_backups: yes\nsstable:\n  selected_format: bti\n  format: {big: {}, bti: {a: b}}\n\
             hints_directory:\ncommitlog_directory: ~\nsaved_caches_directory: /x # why\n",
        )
        .unwrap();
        assert_eq!(document.text("cluster_name"), Some("Test Cluster"));
        assert_eq!(document.number("num_tokens"), Some(16));
        assert_eq!(document.list("data_file_directories"), ["/a", "/b c"]);
        assert_eq!(document.flag("incremental_backups"), Some(true));
        assert_eq!(document.text("sstable.selected_format"), Some("bti"));
        assert_eq!(document.text("hints_directory"), None);
        assert_eq!(document.text("commitlog_directory"), None);
        assert_eq!(document.text("saved_caches_directory"), Some("/x"));
        assert!(document.list("seed_provider").is_empty());
        assert_eq!(document.text("seed_provider.parameters.seeds"), Some("1.2.3.4"));
        assert_eq!(document.text("absent"), None);
    }

    #[test]
    fn aliases_are_followed_to_scalars_and_lists() {
        let document = Document::parse("a: &x /d\nb: *x\nc: &l [/1, /2]\nd: *l\n").unwrap();
        assert_eq!(document.text("b"), Some("/d"));
        assert_eq!(document.list("d"), ["/1", "/2"]);
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        assert_eq!(Document::parse("a: 1\na: 2\n").unwrap().text("a"), Some("2"));
    }

    #[test]
    fn a_quoted_null_is_a_text() {
        assert_eq!(Document::parse("a: 'null'").unwrap().text("a"), Some("null"));
    }

    #[test]
    fn a_collection_as_a_key_does_not_shift_what_follows() {
        let document = Document::parse("? [x, y]\n: a\nb: c\n").unwrap();
        assert_eq!(document.text("b"), Some("c"));
    }

    #[test]
    fn bad_files_are_refused() {
        for (text, part) in [
            ("", "empty"),
            ("# only a comment\n", "empty"),
            ("- a\n- b\n", "not a mapping"),
            ("just words", "not a mapping"),
            ("a: 1\n---\nb: 2\n", "second document"),
            ("a: [1, 2\nb: 3", "line "),
            ("a: \"open\n", "line "),
            ("a: b: c\n", "line "),
        ] {
            let error = Document::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn bombs_end_in_an_error() {
        let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        Document::parse(&deep).unwrap_err();
        let mut maps = String::new();
        for depth in 0..200 {
            maps.push_str(&" ".repeat(depth));
            maps.push_str("a:\n");
        }
        Document::parse(&maps).unwrap_err();
        let long = format!("a: [{}]", "1,".repeat(200_000));
        assert_eq!(Document::parse(&long), Err(YamlError::TooLong));
        let mut laughs = "a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n".to_owned();
        for n in 1..30 {
            let last = format!("*a{}", n - 1);
            laughs.push_str(&format!("a{n}: &a{n} [{}]\n", vec![last; 9].join(",")));
        }
        let document = Document::parse(&laughs).unwrap();
        assert!(document.list("a29").is_empty());
    }

    #[test]
    fn text_that_is_repeated_is_bounded() {
        let list = format!("l: &l [{}]\n", "1,".repeat(30_000));
        let copies: String = (0..30_000).map(|n| format!("a{n}: *l\n")).collect();
        assert!(matches!(Document::parse(&(list + &copies)), Err(YamlError::TooMuch { .. })));
        let scalar = format!("s: &s {}\n", "x".repeat(500_000));
        let copies: String = (0..30_000).map(|n| format!("a{n}: *s\n")).collect();
        assert!(matches!(Document::parse(&(scalar + &copies)), Err(YamlError::TooMuch { .. })));
        // A plain key may not be longer than 1,024 characters in YAML; an explicit one may.
        let keys: String = (0..30_000).map(|n| format!("  a{n}: 1\n")).collect();
        let nested = format!("? {}\n:\n{keys}", "k".repeat(500_000));
        assert!(matches!(Document::parse(&nested), Err(YamlError::TooMuch { .. })));
    }

    #[test]
    fn a_damaged_cassandra_yaml_ends_in_an_error_or_in_a_bounded_document() {
        let usual = "# comment\ncluster_name: 'Test Cluster'\nnum_tokens: 16\ndata_file_directories:\n    - /a\n    - \"/b c\"\n\
                     seed_provider:\n  - class_name: org.example.Seeds\n    parameters:\n      - seeds: \"1.2.3.4\"\n\
                     incremental_backups: yes\nsstable:\n  selected_format: bti\n  format: {big: {}, bti: {a: b}}\n\
                     hints_directory:\ncommitlog_directory: ~\nsaved_caches_directory: /x # why\n";
        let aliases = "a: &x /d\nb: *x\nc: &l [/1, /2]\nd: *l\n? [x, y]\n: a\n? k\n: |\n  text\n  more\ne: >-\n  folded\n";
        let words = [
            "&x",
            "*x",
            "*l",
            "- ",
            "? ",
            ": ",
            "[",
            "]",
            "{",
            "}",
            "|",
            ">",
            "---\n",
            "...\n",
            "!!str ",
            "%YAML 1.1\n",
            "\"",
            "'",
            "\t",
            "\n  ",
            "<<: *l\n",
            "\u{feff}",
            "\u{85}",
            "~",
            "[[[[[[[[[[",
        ];
        let fuzz = cassy_fuzz::Fuzz::new("cassandra.yaml").seeds([usual, aliases]).words(words).cost(2);
        // Other tests of this program run at the same time, and their memory counts.
        fuzz.memory_bytes(512 << 20).run(|bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return false };
            let document = match Document::parse(text) {
                Ok(document) => document,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return false;
                }
            };
            for key in ["cluster_name", "sstable.selected_format", "data_file_directories"] {
                let _values =
                    (document.text(key), document.list(key), document.number(key), document.flag(key));
            }
            true
        });
    }
}
