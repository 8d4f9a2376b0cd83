//! Names and small files as a hostile node may hold them. What is accepted is a plain name and comes back as it was.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;

use cassy_fuzz::Fuzz;
use cassy_sstable::*;

const WORDS: [&str; 16] = [
    "-",
    "_",
    ".",
    "..",
    "/",
    "\\",
    "nb-1-big",
    "da-",
    "-bti",
    "Data.db",
    "TOC.txt",
    "SAI+aa+",
    "\u{feff}",
    "\0",
    "ß",
    "3h5q_1oih_3aqow23nzcs57htqnl",
];

#[test]
fn a_name_that_is_accepted_comes_back_as_it_was() {
    let seeds = [
        "nb-1-big",
        "oa-2147483647-big",
        "da-3h5q_1oih_3aqow23nzcs57htqnl-bti",
        "za-1-trie2",
        "nb-1-big-Data.db",
        "me-5-big-Digest.crc32",
        "nb-1-big-SAI+aa+v_idx+TermsData.db",
        "nb-1-big-SI_sasi_idx.db",
        "da-3h5q_1oih_3aqow23nzcs57htqnl-bti-Partitions.db",
        "local-7ad54392bcdd35a684174e047860b377",
        "Mixed-Case-5a1c395e31b611eaa4e1c2a0f4f0f3c1",
        ".idx_v",
    ];
    Fuzz::new("names of SSTables").seeds(seeds).words(WORDS).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let mut known = false;
        if let Some(name) = SstableName::parse(text) {
            assert_eq!(name.to_string(), text);
            let fresh = SstableIdentifier::uuid(name.to_string().len() as u64, u64::MAX);
            assert_eq!(
                SstableName::parse(&name.renumber(fresh.clone()).to_string()).unwrap().identifier,
                fresh
            );
            let _ = (name.is_future_version(), next_generation([&name.identifier]));
            known = true;
        }
        if let Some(name) = ComponentName::parse(text) {
            assert_eq!(name.to_string(), text);
            assert!(is_plain_name(text) && is_plain_name(&name.component));
            known = true;
        }
        if let Some(directory) = TableDirectory::parse(text) {
            assert_eq!(directory.to_string(), text);
            assert!(is_plain_name(text));
            known = true;
        }
        assert!(!is_index_directory(text) || is_plain_name(text));
        known
    });
}

#[test]
fn a_path_that_is_accepted_holds_plain_names_only() {
    let seeds = [
        "ks/t-5a1c395e31b611eaa4e1c2a0f4f0f3c1/nb-1-big-Data.db",
        "ks/t-5a1c395e31b611eaa4e1c2a0f4f0f3c1/.i/nb-1-big-Data.db",
        "snapshots/backups-5a1c395e31b611eaa4e1c2a0f4f0f3c1/snapshots/tag/.i/nb-1-big-Data.db",
        "ks/t-5a1c395e31b611eaa4e1c2a0f4f0f3c1/backups/nb-1-big-Data.db",
    ];
    let words = WORDS.into_iter().chain(["snapshots/", "backups/", "/.i/"]);
    Fuzz::new("paths in data directories").seeds(seeds).words(words).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let segments: Vec<&str> = text.split('/').collect();
        let Some(located) = locate(&segments) else { return false };
        assert!(segments.iter().all(|segment| is_plain_name(segment)));
        assert_eq!((Some(&located.keyspace), Some(&located.file)), (segments.first(), segments.last()));
        true
    });
}

#[test]
fn a_toc_that_is_accepted_names_files_only() {
    let seeds = [
        "Data.db\nDigest.crc32\nTOC.txt\n",
        "TOC.txt\r\nData.db\r\n\r\nSAI+aa+GroupComplete.db",
        "Statistics.db\nSummary.db\nFilter.db\nIndex.db\nCompressionInfo.db\nData.db\nDigest.crc32\nTOC.txt\n",
    ];
    Fuzz::new("TOC.txt").seeds(seeds).words(WORDS).words(["\r", "\n", " "]).run(|bytes| {
        let Ok(toc) = Toc::parse(bytes) else { return false };
        assert!(toc.components.iter().all(|component| is_plain_name(component)));
        let lines: Vec<&str> = toc.components.iter().map(String::as_str).collect();
        assert_eq!(Toc::parse(lines.join("\n").as_bytes()), Ok(toc.clone()));
        assert!(missing_components(&toc, &BTreeSet::new()).len() >= 2);
        true
    });
}

#[test]
fn a_digest_that_is_accepted_is_its_number() {
    let seeds = ["0", "4294967295", "3735928559\n", "1\r\n"];
    Fuzz::new("Digest.crc32").seeds(seeds).words(["+1", "0x", "\r\n", "٣"]).run(|bytes| {
        let Some(Ok(Digest::Crc32(number))) = Digest::parse("Digest.crc32", bytes) else { return false };
        let text = std::str::from_utf8(bytes).unwrap().trim_end_matches(['\r', '\n']);
        assert_eq!(text.parse(), Ok(number));
        true
    });
}

#[test]
fn a_snapshots_manifest_that_is_accepted_names_data_files_only() {
    let seeds = [
        r#"{"files":["nb-1-big-Data.db",".idx/nb-2-big-Data.db"]}"#,
        r#"{"created_at":"2026-01-01T00:00:00Z","expires_at":null,"ephemeral":false,"files":["da-3h5q_1oih_3aqow23nzcs57htqnl-bti-Data.db"]}"#,
        r#" {"files":[]}"#,
    ];
    let words =
        ["\"files\":", "\"-Data.db\"", "[[[[", "{\"a\":", "\\u0000", "\\ud800", "../", "null", "1e999"];
    let deep = format!("{{\"x\":{}", "[".repeat(60_000));
    let fuzz = Fuzz::new("snapshot's manifest.json").seeds(seeds).seeds([deep]).words(WORDS).words(words);
    fuzz.run(|bytes| {
        let Ok(manifest) = SnapshotManifest::parse(bytes) else { return false };
        for (place, (index, file)) in manifest.files().enumerate() {
            assert!(is_plain_name(file) && file.ends_with("-Data.db"));
            assert!(index.is_none_or(is_index_directory));
            assert_eq!(manifest.position(index, file), Some(place));
        }
        true
    });
}

/// A CompressionInfo.db, its length before it, and the data.
#[test]
fn compressed_rows_are_refused_or_as_long_as_they_say() {
    let rows: Vec<u8> = (0..=255).cycle().take(900).collect();
    let seed = |class: &str, compress: fn(&[u8]) -> Vec<u8>| {
        let (mut data, mut offsets) = (Vec::new(), Vec::new());
        for chunk in rows.chunks(256) {
            offsets.extend((data.len() as u64).to_be_bytes());
            data.extend([compress(chunk), vec![0; 4]].concat());
        }
        let length = u16::try_from(class.len()).unwrap().to_be_bytes();
        let numbers = [0, 256, 1 << 20, 0, 900, 4].map(u32::to_be_bytes).concat();
        let info = [&length[..], class.as_bytes(), &numbers, &offsets].concat();
        [&u16::try_from(info.len()).unwrap().to_be_bytes()[..], &info, &data].concat()
    };
    let lz4 = seed("LZ4Compressor", lz4_flex::block::compress_prepend_size);
    let noop = seed("NoopCompressor", <[u8]>::to_vec);
    Fuzz::new("compressed rows").seeds([lz4, noop]).memory_bytes(64 << 20).run(|bytes| {
        let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return false };
        let Some((info, data)) = rest.split_at_checked(u16::from_be_bytes(*length).into()) else {
            return false;
        };
        let Ok(info) = CompressionInfo::parse(&SstableName::parse("nb-1-big").unwrap(), info) else {
            return false;
        };
        let Ok(rows) = info.decompress(data) else { return false };
        assert!(rows.len() as u64 <= UNCOMPRESSED_LIMIT_BYTES);
        assert!(truncations(&rows).keys().all(|id| id.len() == 32));
        true
    });
}
