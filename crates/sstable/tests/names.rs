//! Tables of names and small files: what is understood, and what is not.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;

use cassy_sstable::*;
use proptest::prelude::*;

const UUID_ID: &str = "3h5q_1oih_3aqow23nzcs57htqnl";
const ID: &str = "5a1c395e31b611eaa4e1c2a0f4f0f3c1";

fn name(text: &str) -> SstableName {
    SstableName::parse(text).unwrap()
}

#[test]
fn names_of_sstables() {
    for (text, identifier, format) in [
        ("nb-1-big", SstableIdentifier::Generation(1), SstableFormat::Big),
        ("me-5-big", SstableIdentifier::Generation(5), SstableFormat::Big),
        ("la-0-big", SstableIdentifier::Generation(0), SstableFormat::Big),
        ("oa-2147483647-big", SstableIdentifier::Generation(i32::MAX.unsigned_abs()), SstableFormat::Big),
        ("da-3h5q_1oih_3aqow23nzcs57htqnl-bti", SstableIdentifier::Uuid(UUID_ID.into()), SstableFormat::Bti),
        ("nb-3h5q_1oih_3aqow23nzcs57htqnl-big", SstableIdentifier::Uuid(UUID_ID.into()), SstableFormat::Big),
        ("za-1-trie2", SstableIdentifier::Generation(1), SstableFormat::Other("trie2".into())),
    ] {
        let parsed = name(text);
        assert_eq!((&parsed.identifier, &parsed.format), (&identifier, &format), "{text}");
        assert_eq!(parsed.to_string(), text);
    }
    for text in [
        "",
        "nb",
        "nb-1",
        "nb-1-",
        "nb--big",
        "-1-big",
        "nb-1-big-",
        "nb-1-big-Data.db",
        "NB-1-big",
        "n-1-big",
        "nbb-1-big",
        "n1-1-big",
        "nb-01-big",
        "nb-+1-big",
        "nb--1-big",
        "nb-2147483648-big",
        "nb-99999999999999999999-big",
        "nb-1x-big",
        "nb-1-BIG",
        "nb-1-2ig",
        "nb-1-../x",
        "nb-1-big ",
        "nb-1-big\0",
        "nb-1-aaaaaaaaaaaaaaaaa",
        "nb-3h5q_1oih_3aqow23nzcs57htqn-big",
        "nb-3h5q_1oih_3aqow23nzcs57htqnlx-big",
        "nb-3H5Q_1oih_3aqow23nzcs57htqnl-big",
        "nb-3h5q.1oih_3aqow23nzcs57htqnl-big",
        "ks-t-ka-1-Data.db",
        "né-1-big",
    ] {
        assert_eq!(SstableName::parse(text), None, "{text}");
    }
}

#[test]
fn file_names_of_components() {
    for (text, sstable, component) in [
        ("nb-1-big-Data.db", "nb-1-big", "Data.db"),
        ("nb-1-big-Digest.crc32", "nb-1-big", "Digest.crc32"),
        ("nb-1-big-TOC.txt", "nb-1-big", "TOC.txt"),
        ("nb-1-big-SAI+aa+GroupComplete.db", "nb-1-big", "SAI+aa+GroupComplete.db"),
        ("nb-1-big-SAI+aa+v_idx+TermsData.db", "nb-1-big", "SAI+aa+v_idx+TermsData.db"),
        ("nb-1-big-SI_sasi_idx.db", "nb-1-big", "SI_sasi_idx.db"),
        (
            "da-3h5q_1oih_3aqow23nzcs57htqnl-bti-Partitions.db",
            "da-3h5q_1oih_3aqow23nzcs57htqnl-bti",
            "Partitions.db",
        ),
        ("nb-1-big-Data.db.tmp", "nb-1-big", "Data.db.tmp"),
        ("nb-1-big-my-own component", "nb-1-big", "my-own component"),
        ("aa-1-big-Data.db", "aa-1-big", "Data.db"),
    ] {
        let parsed = ComponentName::parse(text).unwrap();
        assert_eq!((parsed.sstable.to_string().as_str(), parsed.component.as_str()), (sstable, component));
        assert_eq!(
            (parsed.to_string(), parsed.sstable.component(component)),
            (text.to_owned(), text.to_owned())
        );
    }
    let long = format!("nb-1-big-{}", "x".repeat(247));
    for text in [
        "",
        "manifest.json",
        "schema.cql",
        "nb-1-big",
        "nb-1-big-",
        "-nb-1-big-Data.db",
        "nb-1-big--Data.db",
        "nb-1-big-..",
        "nb-1-big-.",
        "nb-1-big-../x",
        "../nb-1-big-Data.db",
        "/nb-1-big-Data.db",
        "nb-1-big-a/b",
        "nb-1-big-a\\b",
        "nb-1-big-a\0",
        "nb-1-big-a\n",
        "nb_txn_flush_4d0bd8b0-d8f1-11ed-8b5d-3f2a0b5e5c55.log",
        "ks-t-ka-1-Data.db",
        "tmp-nb-1-big-Data.db",
        &long,
    ] {
        assert_eq!(ComponentName::parse(text), None, "{text}");
    }
}

#[test]
fn another_identifier_for_all_components() {
    let taken =
        ["nb-7-big", "nb-3-big", "nb-3h5q_1oih_3aqow23nzcs57htqnl-big"].map(|text| name(text).identifier);
    let next = next_generation(&taken).unwrap();
    assert_eq!(name("nb-7-big").renumber(next.clone()).to_string(), "nb-8-big");
    let component = ComponentName::parse("nb-7-big-SAI+aa+Meta.db").unwrap();
    assert_eq!(component.renumber(next).to_string(), "nb-8-big-SAI+aa+Meta.db");
    assert_eq!(next_generation(&[]), Some(SstableIdentifier::Generation(1)));
    assert_eq!(next_generation(&[SstableIdentifier::Generation(i32::MAX.unsigned_abs())]), None);
}

#[test]
fn new_identifiers_are_those_of_cassandra() {
    // The parts of UUID_ID: day and second since 1582-10-15, tenths of microseconds.
    let at = (162_206 * 86_400 + 78_425 - 12_219_292_800) * 1000 + 554;
    let fresh = SstableIdentifier::uuid(at, u64::MAX).to_string();
    assert_eq!(fresh[..15], UUID_ID[..15]);
    for (at, random) in [(0, 0), (at, 1), (253_402_300_799_999, u64::MAX), (u64::MAX / 4, 7)] {
        let fresh = SstableIdentifier::uuid(at, random);
        assert_eq!(SstableIdentifier::parse(&fresh.to_string()), Some(fresh));
    }
    assert_ne!(SstableIdentifier::uuid(at, 1), SstableIdentifier::uuid(at, 2));
}

#[test]
fn versions_of_the_future() {
    for (text, future) in [
        ("ma-1-big", false),
        ("me-1-big", false),
        ("nb-1-big", false),
        ("oa-1-big", false),
        ("oz-1-big", false),
        ("da-1-bti", false),
        ("dz-1-bti", false),
        ("pa-1-big", true),
        ("za-1-big", true),
        ("ea-1-bti", true),
        ("nb-1-bti", true),
        ("aa-1-new", true),
        ("aa-1-big", false),
    ] {
        assert_eq!(name(text).is_future_version(), future, "{text}");
    }
    assert!(name("nb-1-big").version < name("oa-1-big").version);
    assert_eq!(name("nb-1-big").version.major(), 'n');
}

#[test]
fn directories_of_tables() {
    for table in ["plain", "MixedCase", "snapshots", "backups", "a-b"] {
        let text = format!("{table}-{ID}");
        let parsed = TableDirectory::parse(&text).unwrap();
        assert_eq!((parsed.table.as_str(), parsed.id.as_str(), parsed.to_string()), (table, ID, text));
    }
    let long = format!("{}-{ID}", "t".repeat(223));
    for text in [
        "",
        "-",
        "_paxos_repair_state",
        "t",
        ID,
        &format!("-{ID}"),
        &format!("--{ID}"),
        &format!(".t-{ID}"),
        &format!("t-{}", ID.to_uppercase()),
        &format!("t-{}", &ID[1..]),
        &format!("t-{ID}0"),
        &format!("../t-{ID}"),
        &format!("a/t-{ID}"),
        &format!("t\0-{ID}"),
        &long,
        "t-5a1c395e-31b6-11ea-a4e1-c2a0f4f0f3c1",
    ] {
        assert_eq!(TableDirectory::parse(text), None, "{text}");
    }
}

/// `place table/index/file` of a path.
fn located(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').collect();
    match locate(&segments) {
        None => "none".to_owned(),
        Some(Located { keyspace, table, place, index, file }) => {
            let place = match place {
                Place::Live => "live".to_owned(),
                Place::Snapshot { tag } => format!("snapshot {tag}"),
                Place::Backups => "backups".to_owned(),
            };
            format!("{place}: {keyspace}.{} {} {file}", table.table, index.unwrap_or("-"))
        }
    }
}

#[test]
fn places_in_a_data_directory() {
    for (path, expected) in [
        ("ks/t-ID/nb-1-big-Data.db", "live: ks.t - nb-1-big-Data.db"),
        ("ks/t-ID/.i/nb-1-big-Data.db", "live: ks.t .i nb-1-big-Data.db"),
        ("ks/t-ID/snapshots/s1/nb-1-big-Data.db", "snapshot s1: ks.t - nb-1-big-Data.db"),
        ("ks/t-ID/snapshots/s1/.i/nb-1-big-Data.db", "snapshot s1: ks.t .i nb-1-big-Data.db"),
        ("ks/t-ID/snapshots/s1/manifest.json", "snapshot s1: ks.t - manifest.json"),
        ("ks/t-ID/snapshots/.s/f", "snapshot .s: ks.t - f"),
        ("ks/t-ID/snapshots/snapshots/f", "snapshot snapshots: ks.t - f"),
        ("ks/t-ID/snapshots/backups/.i/f", "snapshot backups: ks.t .i f"),
        ("ks/t-ID/backups/f", "backups: ks.t - f"),
        ("ks/t-ID/backups/.i/f", "backups: ks.t .i f"),
        ("ks/t-ID/backups/.backups/f", "backups: ks.t .backups f"),
        ("snapshots/t-ID/f", "live: snapshots.t - f"),
        ("backups/t-ID/f", "live: backups.t - f"),
        ("snapshots/snapshots-ID/snapshots/snapshots/f", "snapshot snapshots: snapshots.snapshots - f"),
        ("backups/backups-ID/backups/f", "backups: backups.backups - f"),
        ("backups/snapshots-ID/f", "live: backups.snapshots - f"),
        ("ks/t-ID/snapshots/f", "none"),
        ("ks/t-ID/snapshots/s1/x/f", "none"),
        ("ks/t-ID/snapshots/s1/.i/.j/f", "none"),
        ("ks/t-ID/backups/x/f", "none"),
        ("ks/t-ID/x/f", "none"),
        ("ks/t-ID/../f", "none"),
        ("ks/../f", "none"),
        ("../t-ID/f", "none"),
        ("/t-ID/f", "none"),
        ("ks/t-ID/snapshots/../f", "none"),
        ("ks/t-ID/.i/..", "none"),
        ("ks/t-ID//f", "none"),
        ("ks/t-ID", "none"),
        ("ks/t/f", "none"),
        ("system/_paxos_repair_state/f", "none"),
        ("node-backup/RESTORE_INCOMPLETE/aa-1-big-Data.db", "none"),
        ("f", "none"),
        ("", "none"),
    ] {
        assert_eq!(located(&path.replace("ID", ID)), expected, "{path}");
    }
    assert_eq!(locate(&[]), None);
    assert_eq!(locate(&["ks", &format!("t-{ID}"), "a/b"]), None);
}

#[test]
fn the_sentinel_is_an_sstable_that_nobody_reads() {
    let sentinel = ComponentName::parse(SENTINEL_FILE).unwrap();
    assert_eq!(sentinel.component, DATA_COMPONENT);
    assert!(sentinel.sstable.version < SstableVersion::parse("ma").unwrap());
    assert!(is_plain_name(SENTINEL_TABLE_DIRECTORY));
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn tables_of_contents() {
    for (content, expected) in [
        ("Data.db\nTOC.txt\n", set(&["Data.db", "TOC.txt"])),
        ("TOC.txt\r\n\r\nData.db", set(&["Data.db", "TOC.txt"])),
        ("\n  Data.db \nData.db\n", set(&["Data.db"])),
        ("SAI+aa+i+Meta.db\nmy own", set(&["SAI+aa+i+Meta.db", "my own"])),
    ] {
        assert_eq!(Toc::parse(content.as_bytes()).unwrap().components, expected, "{content}");
    }
    for (content, error) in [
        (&b""[..], "TOC.txt names no component"),
        (b"\r\n \n", "TOC.txt names no component"),
        (b"Data.db\n../x\n", "TOC.txt names \"../x\", which cannot be a component"),
        (b"..", "TOC.txt names \"..\", which cannot be a component"),
        (b"/etc/passwd", "TOC.txt names \"/etc/passwd\", which cannot be a component"),
        (b"-x", "TOC.txt names \"-x\", which cannot be a component"),
        (b"a\0b", "TOC.txt names \"a\\0b\", which cannot be a component"),
        (b"\xff\xfeD\0", "TOC.txt is not UTF-8"),
    ] {
        assert_eq!(Toc::parse(content).unwrap_err().to_string(), error);
    }
    assert_eq!(Toc::parse(&vec![b'\n'; (4 << 20) + 1]), Err(TocError::TooLarge));
}

#[test]
fn what_is_missing() {
    let toc = Toc::parse(b"Data.db\nIndex.db\nTOC.txt\nSAI+aa+i+Meta.db").unwrap();
    assert_eq!(missing_components(&toc, &toc.components), [""; 0]);
    assert_eq!(
        missing_components(&toc, &set(&["Data.db", "TOC.txt", "Index.db", "Extra.db"])),
        ["SAI+aa+i+Meta.db"]
    );
    assert_eq!(
        missing_components(&Toc::parse(b"Index.db").unwrap(), &set(&["Index.db"])),
        ["Data.db", "TOC.txt"]
    );
}

#[test]
fn attached_indexes() {
    for component in ["SAI+aa+GroupComplete.db", "SAI+aa+i+Meta.db", "SI_t_v_idx.db"] {
        assert!(is_attached_index(component), "{component}");
    }
    for component in ["Data.db", "TOC.txt", "Statistics.db", "SI.db", "SAI.db", "xSAI+aa+GroupComplete.db"] {
        assert!(!is_attached_index(component), "{component}");
    }
}

#[test]
fn digests() {
    let crc32 = |content: &str| Digest::parse("Digest.crc32", content.as_bytes()).unwrap();
    for (content, value) in
        [("0", 0), ("4294967295", u32::MAX), ("2868461893\n", 2_868_461_893), ("7\r\n", 7), ("0000000007", 7)]
    {
        assert_eq!(crc32(content), Ok(Digest::Crc32(value)));
    }
    for content in [
        "",
        "\n",
        "\r\n",
        "4294967296",
        "99999999999",
        "00000000007",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1\n\n",
        "0x10",
        "1e3",
        "٣",
        "abc",
        "\0",
        "1\x002",
    ] {
        assert!(crc32(content).is_err(), "{content:?}");
    }
    let message = crc32(&"\u{202e}x".repeat(10_000)).unwrap_err().to_string();
    assert!(message.len() < 500 && !message.contains('\u{202e}'), "{message}");
    assert_eq!(Digest::parse("Digest.adler32", b"?"), Some(Ok(Digest::NotVerified)));
    assert_eq!(Digest::parse("Digest.sha1", b""), Some(Ok(Digest::NotVerified)));
    assert_eq!(Digest::parse("Data.db", b"1"), None);
}

#[test]
fn manifests_of_snapshots() {
    let both = vec![(Some(".idx_w"), "nb-1-big-Data.db"), (None, "nb-1-big-Data.db")];
    let pretty = "{\n  \"files\" : [ \"nb-1-big-Data.db\", \".idx_w/nb-1-big-Data.db\" ],\n  \"created_at\" : \"2026-11-22T21:08:57.939Z\",\n  \"expires_at\" : null,\n  \"ephemeral\" : false\n}";
    for (content, files) in [
        (r#"{"files":["nb-1-big-Data.db",".idx_w\/nb-1-big-Data.db"]}"#, both.clone()),
        (pretty, both),
        (r#"{"files":[]}"#, vec![]),
        (r#"{"files":["nb-1-big-Data.db","nb-1-big-Data.db"]}"#, vec![(None, "nb-1-big-Data.db")]),
        (
            r#"{"table_id":{"x":[1]},"files":["da-3h5q_1oih_3aqow23nzcs57htqnl-bti-Data.db"]}"#,
            vec![(None, "da-3h5q_1oih_3aqow23nzcs57htqnl-bti-Data.db")],
        ),
    ] {
        let manifest = SnapshotManifest::parse(content.as_bytes()).unwrap();
        assert_eq!(manifest.files().collect::<Vec<_>>(), files);
        for (place, (index, file)) in files.into_iter().enumerate() {
            assert_eq!(manifest.position(index, file), Some(place));
        }
        assert_eq!(manifest.position(Some(".idx_v"), "nb-1-big-Data.db"), None);
    }
    let deep = format!("{{\"files\":{}", "[".repeat(100_000));
    for content in [
        "",
        "{",
        "{}",
        "[]",
        "[[]]",
        "null",
        r#"{"files":null}"#,
        r#"{"files":{}}"#,
        r#"{"files":[1]}"#,
        r#"{"files":[],"files":[]}"#,
        r#"{"files":[]} x"#,
        r#"{"files":["../nb-1-big-Data.db"]}"#,
        r#"{"files":["/nb-1-big-Data.db"]}"#,
        r#"{"files":["..\/nb-1-big-Data.db"]}"#,
        r#"{"files":["idx/nb-1-big-Data.db"]}"#,
        r#"{"files":[".a/.b/nb-1-big-Data.db"]}"#,
        r#"{"files":[".a/../nb-1-big-Data.db"]}"#,
        r#"{"files":["./nb-1-big-Data.db"]}"#,
        r#"{"files":[".a/"]}"#,
        r#"{"files":[""]}"#,
        r#"{"files":["nb-1-big-Index.db"]}"#,
        r#"{"files":["nb-1-big-Data.db\u0000"]}"#,
        r#"{"files":["\u0000-Data.db"]}"#,
        "\u{feff}{\"files\":[]}",
        &deep,
    ] {
        assert!(SnapshotManifest::parse(content.as_bytes()).is_err(), "{content:.60}");
    }
    assert!(matches!(
        SnapshotManifest::parse(&vec![b' '; (16 << 20) + 1]),
        Err(SnapshotManifestError::TooLarge)
    ));
}

proptest! {
    #[test]
    fn any_name_comes_back(version in "[a-z]{2}", generation in 0..=i32::MAX.unsigned_abs(), uuid in "[0-9a-z]{4}_[0-9a-z]{4}_[0-9a-z]{18}", is_uuid: bool, format in "[a-z][a-z0-9]{0,15}") {
        let identifier = if is_uuid { uuid } else { generation.to_string() };
        let text = format!("{version}-{identifier}-{format}");
        prop_assert_eq!(name(&text).to_string(), text.clone());
        let file = ComponentName::parse(&format!("{text}-Data.db")).unwrap();
        prop_assert_eq!(file.sstable, name(&text));
    }

    #[test]
    fn any_digest_comes_back(value: u32) {
        prop_assert_eq!(Digest::parse("Digest.crc32", value.to_string().as_bytes()), Some(Ok(Digest::Crc32(value))));
    }

    #[test]
    fn any_fresh_identifier_is_one(unix_ms in 0..u64::MAX / 4, random: u64) {
        let text = SstableIdentifier::uuid(unix_ms, random).to_string();
        prop_assert!(matches!(SstableIdentifier::parse(&text), Some(SstableIdentifier::Uuid(_))));
    }
}
