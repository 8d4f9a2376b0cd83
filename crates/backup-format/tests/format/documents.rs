//! Cluster manifests, pins and trash lists.

use super::fixture::*;
use cassy_backup_format::*;

fn cluster_text() -> String {
    String::from_utf8(cluster_manifest().to_json().unwrap()).unwrap()
}

fn refusal(text: &str) -> String {
    let error = ClusterManifest::from_json(text.as_bytes()).unwrap_err();
    explain(&error)
}

#[test]
fn documents_come_back_as_they_were() {
    assert_eq!(ClusterManifest::from_json(cluster_text().as_bytes()).unwrap(), cluster_manifest());
    assert_eq!(Pin::from_json(&pin().to_json().unwrap()).unwrap(), pin());
}

#[test]
fn truncated_documents_are_refused() {
    let (cluster, pin) = (cluster_manifest().to_json().unwrap(), pin().to_json().unwrap());
    for end in 0..cluster.len() - 1 {
        assert!(ClusterManifest::from_json(&cluster[..end]).is_err(), "{end}");
    }
    for end in 0..pin.len() - 1 {
        assert!(Pin::from_json(&pin[..end]).is_err(), "{end}");
    }
}

#[test]
fn wrong_cluster_manifests_are_refused() {
    let other_host = "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b2";
    for (from, to, reason) in [
        ("\"format\": 1", "\"format\": 1, \"format\": 1", "duplicate field"),
        ("\"consistent\"", "\"consistent\": true, \"consistent\"", "duplicate field"),
        (
            "\"format\": 1,\n  \"least_reader\": 1",
            "\"format\": 3,\n  \"least_reader\": 2",
            "needs a reader of version 2",
        ),
        ("\"least_reader\": 1", "\"least_reader\": 5", "does not exist"),
        ("\"backup_type\": 2", "\"backup_type\": 4", "is not 1, 2 or 3"),
        ("\"backup_type\": 2", "\"backup_type\": 3", "exactly increments have a base"),
        (
            "\"backup_type\": 2",
            &format!("\"backup_type\": 2, \"base\": \"{PARENT}\""),
            "exactly increments have a base",
        ),
        ("\"backup_type\": 2", "\"backup_type\": -2", "invalid value"),
        ("18446744073709551615", "18446744073709551616", "invalid type"),
        ("18446744073709551615", "1e400", "number out of range"),
        ("18446744073709551615", "NaN", "expected value"),
        (
            "\"host_id\": \"6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1\"",
            &format!("\"host_id\": \"{other_host}\""),
            "own prefix",
        ),
        ("\"key\": \"cassy/1", "\"key\": \"cassy/1/../1", "segment . or .."),
        ("\"cluster_id\": \"Prod", "\"cluster_id\": \"Test", "own prefix"),
    ] {
        let text = cluster_text();
        assert!(text.contains(from), "{from}");
        let refused = refusal(&text.replacen(from, to, 1));
        assert!(refused.contains(reason), "{to}: {refused}");
    }
    let deep = "[".repeat(100_000);
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "{\"format\":1}",
        "\u{feff}{}",
        &deep,
        &format!("{{\"format\":1,\"least_reader\":1,\"nodes\":{deep}"),
    ] {
        assert!(ClusterManifest::from_json(text.as_bytes()).is_err(), "{text:.40}");
        assert!(Pin::from_json(text.as_bytes()).is_err(), "{text:.40}");
    }
    let utf16: Vec<u8> = cluster_text().encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert!(ClusterManifest::from_json(&utf16).is_err());
    assert!(ClusterManifest::from_json((cluster_text() + "{}").as_bytes()).is_err());
    assert!(matches!(
        ClusterManifest::from_json(&vec![b' '; DOCUMENT_LIMIT_BYTES + 1]),
        Err(ManifestError::TooLarge { .. })
    ));
}

#[test]
fn a_writer_does_not_write_what_is_refused() {
    let mut twice = cluster_manifest();
    twice.nodes.push(twice.nodes[0].clone());
    assert!(twice.to_json().unwrap_err().to_string().contains("is there twice"));
    let mut digest = cluster_manifest();
    digest.nodes[0].blake3 = "F".repeat(64);
    assert!(digest.to_json().is_err());
    let mut later = pin();
    later.format = 2;
    assert!(matches!(later.to_json(), Err(ManifestError::Unsupported { .. })));
}

#[test]
fn a_pin_of_a_later_format_is_refused() {
    let text = String::from_utf8(pin().to_json().unwrap()).unwrap();
    let refused = Pin::from_json(text.replacen("\"format\": 1", "\"format\": 2", 1).as_bytes());
    assert!(matches!(refused, Err(ManifestError::Unsupported { format: 2, least_reader: 2 })));
}

#[test]
fn a_trash_list_comes_back_as_it_was() {
    for keys in [vec![], trash_keys()] {
        assert_eq!(read_trash(&write_trash(&keys)).unwrap(), (trash_header(), keys));
    }
}

#[test]
fn a_damaged_trash_list_is_refused() {
    let stored = write_trash(&trash_keys());
    for end in 0..stored.len() {
        assert!(read_trash(&stored[..end]).is_err(), "{end}");
    }
    for at in 0..stored.len() {
        let mut flipped = stored.clone();
        flipped[at] ^= 0x10;
        if let Ok(other) = read_trash(&flipped) {
            assert_eq!(other, (trash_header(), trash_keys()), "byte {at}");
        }
    }
    let text = decompress(&stored);
    let lines: Vec<&str> = text.lines().collect();
    let swapped = [&[lines[0], lines[2], lines[1]], &lines[3..]].concat().join("\n") + "\n";
    let doubled = [&[lines[0], lines[1], lines[1]], &lines[2..]].concat().join("\n") + "\n";
    let short = [&lines[..1], &lines[2..]].concat().join("\n") + "\n";
    for wrong in [swapped, doubled, short, text.clone() + "\n", text.replacen("\"cassy/", "\"../", 1)] {
        assert!(read_trash(&compress(wrong)).is_err());
    }
    assert!(matches!(read_trash(&[&stored[..], &stored].concat()), Err(ManifestError::TrailingData)));
}

#[test]
fn a_trash_list_is_written_in_order() {
    let mut writer = TrashWriter::new(Vec::new(), &trash_header()).unwrap();
    let keys = trash_keys();
    writer.push(&keys[1]).unwrap();
    assert!(writer.push(&keys[1]).is_err());
    assert!(writer.push(&keys[0]).is_err());
    writer.push(&keys[2]).unwrap();
    let (stored, count) = writer.finish().unwrap();
    assert_eq!((read_trash(&stored).unwrap().1, count), (keys[1..3].to_vec(), 2));
}

#[test]
fn a_list_of_superseded_files_comes_back_as_it_was() {
    for files in [vec![], superseded_files()] {
        assert_eq!(read_superseded(&write_superseded(&files)).unwrap(), (superseded_header(), files));
    }
}

#[test]
fn a_damaged_list_of_superseded_files_is_refused() {
    let stored = write_superseded(&superseded_files());
    for end in 0..stored.len() {
        assert!(read_superseded(&stored[..end]).is_err(), "{end}");
    }
    let text = decompress(&stored);
    let lines: Vec<&str> = text.lines().collect();
    let short = [&lines[..1], &lines[2..]].concat().join("\n") + "\n";
    let doubled = [&lines[..2], &lines[1..]].concat().join("\n") + "\n";
    for wrong in [short, doubled, text.clone() + "\n"] {
        assert!(read_superseded(&compress(wrong)).is_err());
    }
    // Names that would leave their place, with a footer that fits.
    for (from, to) in [
        ("nb-1-big-Data.db", "../nb-1-big-Data.db"),
        ("nb-1-big-Data.db", ".."),
        ("\"backups\"", "\"..\""),
        ("\"snapshots\"", "\"a/b\""),
        ("\".idx_v\"", "\"idx_v\""),
        ("\".idx_v\"", "\".idx/../..\""),
        ("00000000000000000000000000000003", ""),
    ] {
        let body: String = lines[..3].iter().map(|line| format!("{line}\n")).collect();
        assert!(body.contains(from), "{from}");
        let body = body.replace(from, to);
        let footer = format!("{{\"footer\":true,\"files\":2,\"blake3\":\"{}\"}}\n", blake3_of(&body));
        let refused = read_superseded(&compress(body + &footer)).unwrap_err();
        assert!(matches!(refused, ManifestError::Invalid { .. }), "{to}: {refused}");
    }
    let mut writer = SupersededWriter::new(Vec::new(), &superseded_header()).unwrap();
    assert!(writer.push(&SupersededFile { name: "a/b".into(), ..superseded_files().remove(0) }).is_err());
}
