//! What S3 answers in XML: bounded, without document types or entities of its own.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

/// Nothing that S3 answers is deeper.
const DEPTH_LIMIT: usize = 8;
/// A key of 1,024 bytes, a token or an id is far below it.
const TEXT_LIMIT_BYTES: usize = 16 << 10;

/// Why an answer is none of S3's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotXml(pub(super) &'static str);

/// Calls `ended` at the end of each element, with the names on the way to it from the root and its own text.
pub(super) fn walk(
    body: &[u8],
    mut ended: impl FnMut(&[String], &str) -> Result<(), NotXml>,
) -> Result<(), NotXml> {
    let body = std::str::from_utf8(body).map_err(|_invalid| NotXml("it is not UTF-8"))?;
    let mut reader = Reader::from_str(body);
    reader.config_mut().expand_empty_elements = true;
    let (mut path, mut text, mut roots) = (Vec::new(), String::new(), 0u32);
    loop {
        match reader.read_event().map_err(|_malformed| NotXml("it is not well-formed XML"))? {
            Event::Start(element) => {
                roots += u32::from(path.is_empty());
                if path.len() >= DEPTH_LIMIT || roots > 1 {
                    return Err(NotXml("it is XML of another shape"));
                }
                path.push(element.local_name().as_ref().to_owned());
                text.clear();
            }
            Event::End(_) => {
                ended(&path, &text)?;
                path.pop();
                text.clear();
            }
            Event::Text(piece) => text.push_str(&piece),
            Event::CData(piece) => text.push_str(&piece),
            Event::GeneralRef(reference) => match reference.resolve_char_ref() {
                Ok(Some(character)) => text.push(character),
                Ok(None) => {
                    let known = resolve_predefined_entity(&reference);
                    text.push_str(known.ok_or(NotXml("it holds an entity of its own"))?);
                }
                Err(_invalid) => return Err(NotXml("it holds a character that does not exist")),
            },
            Event::DocType(_) => return Err(NotXml("it holds a document type")),
            Event::Eof if roots == 1 && path.is_empty() => return Ok(()),
            Event::Eof => return Err(NotXml("it ends too early")),
            _ => {}
        }
        if text.len() > TEXT_LIMIT_BYTES {
            return Err(NotXml("an element of it is too long"));
        }
    }
}

/// The text of the first element at this path; `None` when there is none, or when it is no XML.
pub(super) fn text_at(body: &[u8], wanted: &[&str]) -> Option<String> {
    let mut found = None;
    let whole = walk(body, |path, text| {
        if found.is_none() && path == wanted {
            found = Some(text.to_owned());
        }
        Ok(())
    });
    whole.is_ok().then_some(found)?
}

/// Writes a text into XML.
pub(super) fn escaped(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(body: &str) -> Result<Vec<String>, NotXml> {
        let mut seen = Vec::new();
        walk(body.as_bytes(), |path, text| {
            seen.push(format!("{}={text}", path.join("/")));
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn texts_and_empty_elements_are_read() {
        let body = "<?xml version=\"1.0\"?>\n<A xmlns=\"x\"> <B>a&amp;b&#x20;&lt;c</B><C/><s:D xmlns:s='y'><![CDATA[<]]></s:D></A>\n";
        assert_eq!(all(body).expect("read"), ["A/B=a&b <c", "A/C=", "A/D=<", "A="]);
        assert_eq!(text_at(body.as_bytes(), &["A", "B"]).as_deref(), Some("a&b <c"));
    }

    #[test]
    fn what_is_no_answer_of_s3_is_refused() {
        for bad in [
            "",
            "no xml",
            "<A>",
            "<A></B>",
            "<A></A><A></A>",
            "<!DOCTYPE A [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><A>&x;</A>",
            "<A>&x;</A>",
            "<A>&#x110000;</A>",
            &"<A>".repeat(100_000),
            &format!("<A>{}</A>", "x".repeat(20_000)),
        ] {
            all(bad).expect_err(&bad.chars().take(40).collect::<String>());
        }
        assert_eq!(text_at(b"<A><B>x</B>", &["A", "B"]), None);
    }

    #[test]
    fn whatever_a_store_answers_is_read_within_bounds() {
        let seeds = [
            "<ListBucketResult xmlns=\"x\"><Contents><Key>a&amp;b</Key><Size>1</Size></Contents></ListBucketResult>",
            "<Error><Code>SlowDown</Code><Message>m</Message></Error>",
        ];
        let words = ["<!DOCTYPE", "<![CDATA[", "]]>", "&#x0;", "&x;", "<?", "/>", "</", "<!--"];
        cassy_fuzz::Fuzz::new("XML of a store").seeds(seeds).words(words).run(|bytes| {
            let mut deepest = 0;
            let outcome = walk(bytes, |path, text| {
                deepest = deepest.max(path.len());
                assert!(text.len() <= TEXT_LIMIT_BYTES);
                Ok(())
            });
            assert!(deepest <= DEPTH_LIMIT);
            outcome.is_ok()
        });
    }
}
