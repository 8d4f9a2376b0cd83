//! Node manifests that somebody else made: refused, in bounded memory.

use super::fixture::*;
use cassy_backup_format::*;

#[test]
fn nothing_may_follow_the_footer() {
    let (stored, _) = write(&header(), &entries());
    let text = decompress(&stored);
    for more in ["\n", " ", "{}\n", "\0"] {
        assert!(matches!(read(&compress(text.clone() + more)), Err(ManifestError::TrailingData)), "{more:?}");
    }
    for more in [stored.as_slice(), &compress(""), b"\0", b"\x50\x2a\x4d\x18\0\0\0\0"] {
        assert!(matches!(read(&[&stored, more].concat()), Err(ManifestError::TrailingData)), "{more:?}");
    }
}

#[test]
fn the_footer_must_fit() {
    let (stored, footer) = write(&header(), &entries());
    let text = decompress(&stored);
    let body = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    let with = |footer: Footer| {
        refusal(&compress(body.to_owned() + &serde_json::to_string(&footer).unwrap() + "\n"))
    };
    for (wrong, what) in [
        (Footer { footer: false, ..footer.clone() }, "its mark"),
        (Footer { sstables: 5, ..footer.clone() }, "the number of SSTables"),
        (Footer { files: 0, ..footer.clone() }, "the number of files"),
        (Footer { bytes: u64::MAX, ..footer.clone() }, "the number of bytes"),
        (Footer { corrupt: 0, ..footer.clone() }, "the number of corrupt SSTables"),
        (Footer { blake3: blake3_of(""), ..footer.clone() }, "the digest"),
    ] {
        assert_eq!(with(wrong), format!("its footer and its lines differ in {what}"));
    }
    let footer_line = serde_json::to_string(&footer).unwrap();
    let moved = footer_line.replacen("{\"footer\":true,", "{", 1).replace('}', ",\"footer\":true}");
    assert!(read(&compress(format!("{body}{moved}\n"))).is_err());
    assert!(matches!(read(&compress(body)), Err(ManifestError::Truncated)));
    assert!(matches!(read(&compress(format!("{body}{footer_line}"))), Err(ManifestError::Truncated)));
}

#[test]
fn lines_that_no_writer_writes_are_refused() {
    let replace = |line: usize, from: &'static str, to: &'static str| {
        forged(move |lines: &mut Vec<String>| {
            assert!(lines[line].contains(from), "{from} is in {}", lines[line]);
            lines[line] = lines[line].replacen(from, to, 1);
        })
    };
    for (line, from, to, reason) in [
        (0, "\"format\":1", "\"format\":1,\"format\":1", "duplicate field `format`"),
        (0, "\"least_reader\":1", "\"least_reader\":2", "does not exist"),
        (0, "\"least_reader\":1", "\"least_reader\":0", "does not exist"),
        (
            0,
            "\"format\":1,\"least_reader\":1",
            "\"format\":9,\"least_reader\":9",
            "needs a reader of version 9",
        ),
        (0, "\"format\":1", "\"format\":-1", "invalid value"),
        (0, "\"format\":1", "\"format\":1e400", "number out of range"),
        (0, "1795000000000", "9223372036854775808", "invalid value"),
        (0, "1795000000000", "NaN", "expected value"),
        (
            0,
            "\"keyspace\":\"system\",\"table\":\"local\"",
            "\"keyspace\":\"ks1\",\"table\":\"../local\"",
            "slash",
        ),
        (0, "\"keyspace\":\"system\"", "\"keyspace\":\"..\"", "names a directory"),
        (0, HOST, "6d7c1b6e53b64bd58ad9c4a4a7a4f6b1", "is not a UUID"),
        (0, "node_snapshot", "snapshot", "unknown variant"),
        (1, "\"size\":2097152", "\"size\":-1", "invalid value"),
        (1, "\"size\":2097152", "\"size\":9223372036854775808", "beyond the end of its object"),
        (1, "\"size\":2097152", "\"size\":18446744073709551616", "invalid type"),
        (1, "\"size\":2097152", "\"size\":1e400", "number out of range"),
        (1, "\"size\":2097152", "\"size\":2097152.0", "invalid type"),
        (1, "\"size\":2097152", "\"size\":NaN", "expected value"),
        (1, "\"offset\":512", "\"offset\":18446744073709551615", "beyond the end of its object"),
        (1, "\"offset\":1536", "\"offset\":4095", "beyond the end of its object"),
        (1, "\"object\":1", "\"object\":2", "in an object that is not there"),
        (1, "\"object\":1", "\"object\":4294967296", "invalid value"),
        (1, "\"crc32\":3735928559", "\"crc32\":4294967296", "invalid value"),
        (1, "-TOC.txt", "-Data.db", "is there twice"),
        (1, "-TOC.txt", "-../TOC.txt", "slash"),
        (1, "da-3h5q", "/a-3h5q", "slash"),
        (1, "Data.db\",\"size\"", "Data.db\\u0000\",\"size\"", "control character"),
        (1, HOST, "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b2", "is not one of this node"),
        (1, "\"key\":\"cassy/1", "\"key\":\"cassy/../1", "segment . or .."),
        (1, "\"key\":\"cassy", "\"key\":\"/cassy", "empty segment"),
        (1, "\"keyspace\":\"backups\"", "\"keyspace\":\"backupz\"", "not among those of the header"),
        (1, "\"table\":{", "\"table\":{\"keyspace\":\"x\",", "duplicate field"),
        (2, "\"directory\":0", "\"directory\":1", "is there twice"),
        (2, "\"name\":\"nb-1-big\"", "\"name\":\"nb-3-big\"", "not in its order"),
        (5, "\".idx_v\"", "\"idx_v\"", "does not begin with a dot"),
        (4, "\"corrupt\":true", "\"corrupt\":1", "invalid type"),
    ] {
        let refused = refusal(&replace(line, from, to));
        assert!(refused.contains(reason), "{to}: {refused}");
    }
}

#[test]
fn lines_out_of_place_are_refused() {
    for (edit, reason) in [
        (
            Box::new(|lines: &mut Vec<String>| lines.swap(1, 2)) as Box<dyn Fn(&mut Vec<String>)>,
            "not in its order",
        ),
        (Box::new(|lines| lines.insert(1, lines[1].clone())), "is there twice"),
        (Box::new(|lines| lines.insert(1, lines[0].clone())), "missing field"),
        (Box::new(|lines| lines.insert(1, "\n".into())), "does not begin with {"),
        (Box::new(|lines| lines.insert(1, "[]\n".into())), "does not begin with {"),
        (Box::new(|lines| lines.insert(1, " {}\n".into())), "does not begin with {"),
        (Box::new(|lines| lines[0].insert(0, '\u{feff}')), "does not begin with {"),
        (Box::new(|lines| drop(lines.remove(0))), "missing field `format`"),
    ] {
        let refused = refusal(&forged(edit));
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
}

#[test]
fn other_encodings_are_refused() {
    let text = decompress(&write(&header(), &entries()).0);
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [
        text.clone().into_bytes(),
        utf16.clone(),
        compress(utf16),
        compress("\u{feff}".to_owned() + &text),
        vec![],
        compress(""),
    ] {
        assert!(read(&bytes).is_err());
    }
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";
    assert!(read(gzip).is_err());
}

#[test]
fn deep_nesting_does_no_harm() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for member in [format!("\"tokens\":{deep}"), format!("\"parent\":{deep}")] {
        let stored = forged(|lines| lines[0] = format!("{{\"format\":1,\"least_reader\":1,{member}}}\n"));
        assert!(read(&stored).is_err());
    }
    let stored = forged(|lines| lines[1] = format!("{{\"unknown\":{deep}}}\n"));
    assert!(read(&stored).is_err());
}

#[test]
fn a_bomb_ends_at_the_limit_of_a_line() {
    let (stored, _) = write(&header(), &entries());
    let text = decompress(&stored);
    let head = &text[..text.find('\n').unwrap() + 1];
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
    std::io::Write::write_all(&mut bomb, head.as_bytes()).unwrap();
    let block = vec![b'{'; 1 << 20];
    for _ in 0..=LINE_LIMIT_BYTES >> 20 {
        std::io::Write::write_all(&mut bomb, &block).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    assert!(matches!(read(&bomb), Err(ManifestError::TooLarge { .. })));
}

#[test]
fn a_window_above_the_limit_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &vec![b' '; 1 << 20]).unwrap();
    let refused = refusal(&encoder.finish().unwrap());
    assert!(refused.contains("memory"), "{refused}");
}

#[test]
fn lists_of_strings_are_bounded() {
    let stored = forged(|lines| {
        let tokens = vec!["\"\""; (1 << 20) + 1].join(",");
        lines[0] = lines[0].replacen("\"tokens\":[", &format!("\"tokens\":[{tokens},"), 1);
    });
    let refused = refusal(&stored);
    assert!(refused.contains("a list of at most"), "{refused}");
}
