//! Objects of a hostile store: manifests, pins and lists as they are stored and, since damage to a compressed
//! stream rarely gets past its checksum, as text that is compressed after it was damaged. Also keys and ids.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::io::Read;

use cassy_backup_format::*;
use cassy_fuzz::Fuzz;

const WORDS: [&str; 24] = [
    "{\"footer\":true,",
    "\"least_reader\":2",
    "\"format\":0",
    "\"objects\":[]",
    "\"files\":[]",
    "\"object\":1",
    "\"offset\":18446744073709551615",
    "\"size\":18446744073709551615",
    "\"index\":\".i\"",
    "\"kind\":\"incremental\"",
    "\"parent\":null",
    "\"nodes\":[]",
    "\"manifests\":[]",
    "null",
    "\n",
    "\"\"",
    "[[[[[[[[[[[[[[[[",
    "\\u0000",
    "\\ud800",
    "../",
    "%2e",
    "%2F",
    "/",
    "\u{202e}",
];

fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/samples/format-1/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn compress(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 1).unwrap()
}

fn decompress(stored: &[u8]) -> Vec<u8> {
    zstd::decode_all(stored).unwrap()
}

/// A frame that says it needs a window of 128 MiB, and one that is a thousand times as long as it looks.
fn bombs() -> [Vec<u8>; 2] {
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    std::io::copy(&mut std::io::repeat(b'a').take(1 << 20), &mut wide).unwrap();
    let mut long = zstd::Encoder::new(Vec::new(), 1).unwrap();
    std::io::copy(&mut std::io::repeat(b'a').take(4 << 20), &mut long).unwrap();
    [wide.finish().unwrap(), long.finish().unwrap()]
}

/// Whether it is read to its end; what is read is written again, and read as the same.
fn node_manifest(stored: &[u8]) -> bool {
    let read = |stored: &[u8]| -> Result<(Header, Vec<SstableEntry>, Option<Footer>), ManifestError> {
        let mut reader = ManifestReader::open(stored)?;
        let entries = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
        assert!(reader.next().is_none());
        Ok((reader.header().clone(), entries, reader.footer().cloned()))
    };
    let Ok((header, entries, footer)) = read(stored) else { return false };
    let mut writer = ManifestWriter::new(Vec::new(), &header).unwrap();
    for entry in &entries {
        writer.push(entry).unwrap();
    }
    let (again, written) = writer.finish().unwrap();
    let (again_header, again_entries, again_footer) = read(&again).unwrap();
    assert_eq!((&header, &entries), (&again_header, &again_entries));
    assert_eq!(
        (again_footer.as_ref(), footer.map(|footer| footer.sstables)),
        (Some(&written), Some(written.sstables))
    );
    true
}

fn trash_list(stored: &[u8]) -> bool {
    let read = |stored: &[u8]| -> Result<(TrashHeader, Vec<ObjectKey>), ManifestError> {
        let mut list = TrashList::open(stored)?;
        let keys = list.by_ref().collect::<Result<Vec<_>, _>>()?;
        assert!(list.next().is_none());
        Ok((list.header().clone(), keys))
    };
    let Ok((header, keys)) = read(stored) else { return false };
    let mut writer = TrashWriter::new(Vec::new(), &header).unwrap();
    for key in &keys {
        writer.push(key).unwrap();
    }
    assert_eq!(read(&writer.finish().unwrap().0).unwrap(), (header, keys));
    true
}

fn superseded_list(stored: &[u8]) -> bool {
    let read = |stored: &[u8]| -> Result<(SupersededHeader, Vec<SupersededFile>), ManifestError> {
        let mut list = SupersededList::open(stored)?;
        let files = list.by_ref().collect::<Result<Vec<_>, _>>()?;
        assert!(list.next().is_none());
        Ok((list.header().clone(), files))
    };
    let Ok((header, files)) = read(stored) else { return false };
    let mut writer = SupersededWriter::new(Vec::new(), &header).unwrap();
    for file in &files {
        let names = [&file.table.keyspace, &file.table.table, &file.name];
        assert!(names.into_iter().chain(&file.index).all(|name| !name.contains('/') && name != ".."));
        writer.push(file).unwrap();
    }
    assert_eq!(read(&writer.finish().unwrap().0).unwrap(), (header, files));
    true
}

/// Gives the lines a footer that fits them: whoever writes a hostile object counts and hashes as well.
fn forged(text: &[u8], counts: &str) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let body = lines.get(..lines.len().saturating_sub(1)).unwrap_or_default().concat();
    let hash = blake3::hash(&body).to_hex();
    let number = lines.len().saturating_sub(2);
    let counts = counts.replace("LINES", &number.to_string());
    compress(
        &[&body[..], format!("{{\"footer\":true,{counts},\"blake3\":\"{hash}\"}}\n").as_bytes()].concat(),
    )
}

/// The counts of files and bytes, from whatever lines can be understood.
fn manifest_counts(text: &[u8]) -> String {
    let lines = text.split(|byte| *byte == b'\n');
    let entries: Vec<SstableEntry> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let files = entries.iter().flat_map(|entry| &entry.files);
    let bytes = files.clone().fold(0u64, |sum, file| sum.wrapping_add(file.size));
    let corrupt = entries.iter().filter(|entry| entry.corrupt).count();
    format!("\"sstables\":LINES,\"files\":{},\"bytes\":{bytes},\"corrupt\":{corrupt}", files.count())
}

#[test]
fn a_damaged_node_manifest_is_refused_or_is_another_one() {
    let samples = ["node.jsonl.zst", "increment.jsonl.zst"].map(sample);
    Fuzz::new("node manifest").seeds(samples).seeds(bombs()).words(WORDS).cost(4).run(node_manifest);
}

#[test]
fn a_forged_node_manifest_that_is_accepted_is_written_the_same() {
    let texts = ["node.jsonl.zst", "increment.jsonl.zst"].map(|name| decompress(&sample(name)));
    let fuzz = Fuzz::new("lines of a node manifest").seeds(texts).words(WORDS).cost(4);
    fuzz.run(|text| node_manifest(&forged(text, &manifest_counts(text))));
}

#[test]
fn a_damaged_trash_list_is_refused_or_is_another_one() {
    let fuzz = Fuzz::new("trash list").seeds([sample("trash.jsonl.zst")]).seeds(bombs()).words(WORDS).cost(4);
    fuzz.run(trash_list);
}

#[test]
fn a_forged_trash_list_that_is_accepted_is_written_the_same() {
    let text = decompress(&sample("trash.jsonl.zst"));
    let fuzz = Fuzz::new("lines of a trash list").seeds([text]).words(WORDS).cost(4);
    fuzz.run(|text| trash_list(&forged(text, "\"keys\":LINES")));
}

#[test]
fn a_damaged_list_of_superseded_files_is_refused_or_is_another_one() {
    let fuzz = Fuzz::new("superseded files").seeds([sample("superseded.jsonl.zst")]).seeds(bombs());
    fuzz.words(WORDS).cost(4).run(superseded_list);
}

#[test]
fn a_forged_list_of_superseded_files_that_is_accepted_is_written_the_same() {
    let text = decompress(&sample("superseded.jsonl.zst"));
    let fuzz = Fuzz::new("lines of superseded files").seeds([text]).words(WORDS).cost(4);
    fuzz.run(|text| superseded_list(&forged(text, "\"files\":LINES")));
}

#[test]
fn a_cluster_manifest_that_is_accepted_round_trips() {
    Fuzz::new("cluster manifest").seeds(["cluster.json", "increment.json"].map(sample)).words(WORDS).run(
        |document| {
            let Ok(manifest) = ClusterManifest::from_json(document) else { return false };
            assert_eq!(ClusterManifest::from_json(&manifest.to_json().unwrap()).unwrap(), manifest);
            true
        },
    );
}

#[test]
fn a_pin_that_is_accepted_round_trips() {
    Fuzz::new("pin").seeds([sample("pin.json")]).words(WORDS).run(|document| {
        let Ok(pin) = Pin::from_json(document) else { return false };
        assert_eq!(Pin::from_json(&pin.to_json().unwrap()).unwrap(), pin);
        true
    });
}

#[test]
fn a_key_that_is_accepted_stays_in_its_place_and_round_trips() {
    let cluster: ClusterId = "Prod/<b>1-0f0e0d0c-0b0a-4908-8706-050403020100".parse().unwrap();
    let keys = Keys::new(cluster).unwrap();
    let list = sample("trash.jsonl.zst");
    let list = TrashList::open(&list[..]).unwrap();
    let stored: Vec<String> = list.map(|key| key.unwrap().to_string()).collect();
    // Those of another cluster, and the same of this one.
    let ours = stored.iter().map(|key| {
        let rest = key.splitn(4, '/').nth(3).unwrap();
        format!("{}/{rest}", keys.root())
    });
    let host = "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1".parse().unwrap();
    let increment = keys.increment_manifest(&host, &BackupId::at(1), &BackupId::at(0)).to_string();
    let seeds = ours.chain(stored.iter().cloned()).chain([increment]);
    Fuzz::new("object key").seeds(seeds).words(WORDS).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Ok(key) = text.parse::<ObjectKey>() else { return false };
        assert_eq!(key.to_string(), text);
        if let Some(name) = NodeManifestName::of(&key) {
            assert!(text.ends_with(&format!("/manifest/{name}.jsonl.zst")));
            return true;
        }
        assert!(key.segments().all(|segment| !matches!(segment, "" | "." | "..") && segment.len() <= 255));
        let Ok(part) = keys.parse_component(&key) else { return false };
        let index = part.index.as_deref();
        let again = match part.file.as_str() {
            "small.tar" => keys.small_tar(&part.host, &part.table, index, &part.sstable, part.attempt),
            file => keys.component(&part.host, &part.table, index, &part.sstable, part.attempt, file),
        };
        assert_eq!(again.unwrap(), key);
        true
    });
}

#[test]
fn an_id_that_is_accepted_has_one_spelling() {
    let seeds = [
        "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1",
        "01900000-0000-7000-8000-000000000001",
        "00112233445566778899aabb",
        "00112233445566778899aabb00000001",
    ];
    Fuzz::new("ids").seeds(seeds).words(["-", "{", "urn:uuid:", "A", "é"]).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        if let Ok(cluster) = text.parse::<ClusterId>() {
            assert_eq!(cluster.to_string(), text);
        }
        let spellings = [
            text.parse::<HostId>().map(|id| id.to_string().to_lowercase()),
            text.parse::<BackupId>().map(|id| id.to_string().to_lowercase()),
            text.parse::<SessionId>().map(|id| id.to_string()),
            text.parse::<Attempt>().map(|id| id.to_string()),
        ];
        let mut known = false;
        for spelling in spellings.into_iter().flatten() {
            assert_eq!(spelling, text.to_lowercase());
            known = true;
        }
        known
    });
}
