//! Names of MBeans, `domain:key=value,key=value`, with the quoting of `javax.management.ObjectName`.

use std::fmt;

/// A parsed name. Values are unquoted; the order of the keys is kept and does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    domain: String,
    keys: Vec<(String, String)>,
}

/// A text is no object name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an object name: {problem}")]
pub struct ObjectNameError {
    problem: &'static str,
}

impl ObjectName {
    /// A name without keys, to be continued with [`with`](Self::with).
    #[must_use]
    pub fn new(domain: &str) -> Self {
        Self { domain: domain.to_owned(), keys: Vec::new() }
    }

    /// Adds a key. The value may hold anything: it is quoted where necessary.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.keys.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The part before the colon.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The value of a key, unquoted.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&str> {
        self.keys.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Parses a name (no pattern).
    ///
    /// # Errors
    /// No domain, no keys, a key twice, broken quoting.
    pub fn parse(text: &str) -> Result<Self, ObjectNameError> {
        let (domain, mut rest) = text.split_once(':').ok_or(ObjectNameError { problem: "no colon" })?;
        let mut name = Self::new(domain);
        loop {
            let (key, after) =
                rest.split_once('=').ok_or(ObjectNameError { problem: "a key without a value" })?;
            if key.is_empty() || key.contains([',', ':', '"', '*', '?', '\n']) {
                return Err(ObjectNameError { problem: "a broken key" });
            }
            if name.key(key).is_some() {
                return Err(ObjectNameError { problem: "a key twice" });
            }
            let (value, after) =
                if let Some(quoted) = after.strip_prefix('"') { unquote(quoted)? } else { plain(after)? };
            name.keys.push((key.to_owned(), value));
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(name),
                None => return Err(ObjectNameError { problem: "text behind a quoted value" }),
            }
        }
    }
}

fn plain(text: &str) -> Result<(String, &str), ObjectNameError> {
    let (value, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
    if value.is_empty() || value.contains(['=', ':', '"', '*', '?', '\n']) {
        return Err(ObjectNameError { problem: "a broken value" });
    }
    Ok((value.to_owned(), rest))
}

fn unquote(text: &str) -> Result<(String, &str), ObjectNameError> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        match character {
            '"' => return Ok((value, chars.as_str())),
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some(escaped @ ('\\' | '"' | '*' | '?')) => value.push(escaped),
                _ => return Err(ObjectNameError { problem: "a broken escape" }),
            },
            other => value.push(other),
        }
    }
    Err(ObjectNameError { problem: "a quote that is not closed" })
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.domain)?;
        for (index, (key, value)) in self.keys.iter().enumerate() {
            write!(f, "{}{key}=", if index == 0 { ':' } else { ',' })?;
            if !value.is_empty() && !value.contains([',', '=', ':', '"', '*', '?', '\n']) {
                f.write_str(value)?;
                continue;
            }
            f.write_str("\"")?;
            for character in value.chars() {
                match character {
                    '\n' => f.write_str("\\n")?,
                    '\\' | '"' | '*' | '?' => write!(f, "\\{character}")?,
                    other => write!(f, "{other}")?,
                }
            }
            f.write_str("\"")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_cassandra_registers() {
        let name =
            ObjectName::parse("org.apache.cassandra.db:keyspace=ks1,table=t1,type=Tables").expect("valid");
        assert_eq!(
            (name.domain(), name.key("keyspace"), name.key("table")),
            ("org.apache.cassandra.db", Some("ks1"), Some("t1"))
        );
    }

    #[test]
    fn quotes_round_trip() {
        for value in ["plain", "", "a,b", "a=b", "a\"b", "*", "a\\b", "x:\\", "line\nbreak", "?", "é"] {
            let text = ObjectName::new("d").with("k", value).with("l", "1").to_string();
            assert_eq!(ObjectName::parse(&text).expect(&text).key("k"), Some(value), "{text}");
        }
        assert_eq!(ObjectName::new("d").with("k", "a\"*").to_string(), r#"d:k="a\"\*""#);
    }

    #[test]
    fn refuses_broken_names() {
        for text in [
            "",
            "d",
            "d:",
            "d:k",
            "d:=v",
            "d:k=",
            "d:k=v,",
            "d:k=v,k=w",
            "d:k=\"v",
            "d:k=\"v\"w",
            "d:k=\"\\x\"",
            "d:k=*",
        ] {
            assert!(ObjectName::parse(text).is_err(), "{text}");
        }
    }
}
