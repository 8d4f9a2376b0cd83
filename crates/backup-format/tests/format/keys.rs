//! Ids and keys: every name has its place, and no name leaves it.

use super::fixture::*;
use cassy_backup_format::*;
use proptest::prelude::*;
use uuid::Uuid;

const ROOT: &str = "cassy/1/Prod%2F%3Cb%3E%E2%80%AE1-0f0e0d0c-0b0a-4908-8706-050403020100";

#[test]
fn keys_are_those_of_format_1() {
    let (keys, host, backup) = (keys(), host(), backup());
    let table = table("ks1", "MixedCase", 1);
    let node = format!("{ROOT}/node/{HOST}");
    let sstable = format!("{node}/data/ks1/MixedCase-00000000000000000000000000000001");
    let component = keys.component(&host, &table, None, "nb-1-big", attempt(258), "nb-1-big-SAI+aa+Meta.db");
    let indexed = keys.small_tar(&host, &table, Some(".idx_v"), "nb-1-big", attempt(0));
    for (key, expected) in [
        (
            component.unwrap().to_string(),
            format!("{sstable}/nb-1-big.00112233445566778899aabb00000102/nb-1-big-SAI+aa+Meta.db"),
        ),
        (
            indexed.unwrap().to_string(),
            format!("{sstable}/.idx_v/nb-1-big.00112233445566778899aabb00000000/small.tar"),
        ),
        (keys.root().into(), ROOT.into()),
        (keys.node_prefix(&host), format!("{node}/")),
        (keys.data_prefix(&host), format!("{node}/data/")),
        (keys.manifest_prefix(&host), format!("{node}/manifest/")),
        (keys.node_manifest(&host, &backup).into(), format!("{node}/manifest/{BACKUP}.jsonl.zst")),
        (
            keys.corrupt_node_manifest(&host, &backup).into(),
            format!("{node}/manifest/{BACKUP}.corrupt.jsonl.zst"),
        ),
        (
            keys.increment_manifest(&host, &backup, &parent()).into(),
            format!("{node}/manifest/{BACKUP}.on-{PARENT}.jsonl.zst"),
        ),
        (
            keys.corrupt_increment_manifest(&host, &backup, &parent()).into(),
            format!("{node}/manifest/{BACKUP}.on-{PARENT}.corrupt.jsonl.zst"),
        ),
        (keys.superseded_prefix(&host), format!("{node}/superseded/")),
        (keys.superseded(&host, &backup).into(), format!("{node}/superseded/{BACKUP}.jsonl.zst")),
        (keys.backup_prefix(), format!("{ROOT}/backup/")),
        (keys.cluster_manifest(&backup).into(), format!("{ROOT}/backup/{BACKUP}.json")),
        (keys.pin_prefix(), format!("{ROOT}/pin/")),
        (keys.pin(&backup).into(), format!("{ROOT}/pin/{BACKUP}.json")),
        (keys.trash_prefix(), format!("{ROOT}/trash/")),
        (keys.trash("p 1").unwrap().into(), format!("{ROOT}/trash/p%201.jsonl.zst")),
        (keys.probe("x/y").unwrap().into(), format!("{ROOT}/probe/x%2Fy")),
    ] {
        assert_eq!(key, expected);
        assert!(key.ends_with('/') || key.parse::<ObjectKey>().is_ok());
    }
}

#[test]
fn a_listing_of_manifests_tells_bases_and_chains() {
    let (host, backup, base) = (host(), backup(), parent());
    let snapshot = keys().node_manifest(&host, &backup);
    let increment = keys().increment_manifest(&host, &backup, &base);
    let name = |base| Some(NodeManifestName { backup_id: backup, base });
    assert_eq!(NodeManifestName::of(&snapshot), name(None));
    assert_eq!(NodeManifestName::of(&increment), name(Some(base)));
    for none in [
        keys().corrupt_node_manifest(&host, &backup),
        keys().corrupt_increment_manifest(&host, &backup, &base),
    ] {
        assert_eq!(NodeManifestName::of(&none), None, "{none}");
    }
    let (snapshot, increment) = (snapshot.to_string(), increment.to_string());
    for foreign in [
        snapshot.replace(BACKUP, &BACKUP.replace('a', "A").replace("01900000", "0190000F")),
        snapshot.replace(BACKUP, &BACKUP.replace('-', "")),
        snapshot.replace(".jsonl.zst", ".jsonl"),
        snapshot.replace(".jsonl.zst", "jsonl.zst"),
        snapshot.replace(".jsonl.zst", ".jsonl.zst.1"),
        snapshot.replace("/manifest/", "/manifests/"),
        snapshot.replace("/manifest/", "/superseded/"),
        snapshot.replace("/manifest/", "/manifest/x/"),
        increment.replace(".on-", ".on-.on-"),
        increment.replace(".on-", ".ON-"),
        increment.replace(&format!(".on-{PARENT}"), ".on-"),
        increment.replace(PARENT, &format!("{PARENT}.on-{PARENT}")),
        increment.replace(PARENT, &PARENT.replace("0190", "019F")),
        BACKUP.to_owned(),
    ] {
        assert_eq!(NodeManifestName::of(&foreign.parse().unwrap()), None, "{foreign}");
    }
}

#[test]
fn hostile_names_keep_their_place() {
    for (name, segment) in [
        ("../../etc", "..%2F..%2Fetc"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("a/b", "a%2Fb"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        ("%2e%2e%2f", "%252e%252e%252f"),
        ("C:\\x", "C%3A%5Cx"),
        ("a\0b", "a%00b"),
        ("\u{202e}txt", "%E2%80%AEtxt"),
        ("é", "%C3%A9"),
        ("e\u{301}", "e%CC%81"),
        (";rm -rf $(id)\n", "%3Brm%20-rf%20%24%28id%29%0A"),
        ("--option", "--option"),
        ("a_b.c+d-e=f@g,h", "a_b.c+d-e=f@g,h"),
        ("snapshots", "snapshots"),
        ("backups", "backups"),
    ] {
        let table = table(name, name, 1);
        let (sstable, file) = (name, format!("{name}-f"));
        let key = keys().component(&host(), &table, None, sstable, attempt(1), &file).unwrap();
        let segments: Vec<_> = key.segments().collect();
        assert_eq!(segments[6], segment);
        assert_eq!(segments.len(), 10, "{key}");
        let back = keys().parse_component(&key).unwrap();
        assert_eq!((back.table, back.sstable, back.file), (table, sstable.to_owned(), file));
    }
}

#[test]
fn names_that_fit_nowhere_are_errors() {
    let long = "x".repeat(300);
    let component = |keyspace: &str, index: Option<&str>, sstable: &str, file: &str| {
        keys().component(&host(), &table(keyspace, "t", 1), index, sstable, attempt(1), file)
    };
    for refused in [
        component("", None, "s", "f"),
        component(&long, None, "s", "f"),
        component(&"é".repeat(43), None, "s", "f"),
        component("k", Some("idx"), "s", "f"),
        component("k", Some(""), "s", "f"),
        component("k", None, &"s".repeat(223), "f"),
        component("k", None, "s", ""),
        component("k", None, "s", "small.tar"),
        component("k", None, "s", &long),
        component(
            &"k".repeat(255),
            Some(&format!(".{}", "i".repeat(254))),
            &"s".repeat(222),
            &"f".repeat(255),
        ),
        keys().trash(""),
        keys().trash(&"x".repeat(246)),
        keys().probe(&long),
    ] {
        let text = refused.unwrap_err().to_string();
        assert!(text.len() < 400, "{text}");
    }
    assert!(component("k", None, "s", &"x".repeat(255)).is_ok());
    assert!(Keys::new("水".repeat(100).parse().unwrap()).is_err());
}

#[test]
fn only_keys_of_ours_are_components() {
    let key =
        keys().component(&host(), &table("k", "t", 1), Some(".i"), "nb-1-big", attempt(1), "f").unwrap();
    let back = keys().parse_component(&key).unwrap();
    assert_eq!(
        (back.host, back.attempt.session(), back.index.as_deref()),
        (host(), attempt(1).session(), Some(".i"))
    );
    assert!(!back.is_small_tar());
    let key = key.to_string();
    for other in [
        key.replace("cassy/1", "cassy/2"),
        key.replace("Prod", "Test"),
        key.replace(HOST, &HOST.to_uppercase()),
        key.replace(HOST, "x"),
        key.replace("/data/", "/manifest/"),
        key.replace("/k/", "/%6B/"),
        key.replace("/k/", "/%FF/"),
        key.replace("/k/", "/é/"),
        key.replace("/.i/", "/i/"),
        key.replace("/.i/", "/.i/j/"),
        key.replace("t-0000", "t0000"),
        key.replace("00000001/f", "0000001/f"),
        key.replace("aabb", "AABB"),
        format!("{key}/x"),
    ] {
        let other: ObjectKey = other.parse().unwrap();
        assert!(matches!(keys().parse_component(&other), Err(KeyError::NotAComponent { .. })), "{other}");
    }
    assert!(keys().parse_component(&keys().node_manifest(&host(), &backup())).is_err());
}

#[test]
fn keys_from_outside_are_checked() {
    let long_segment = "x".repeat(256);
    let long_key = ["x"; 513].join("/");
    for text in [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "a/./b",
        "a/..",
        "../../etc/cron.d/x",
        "ks/t/../../../.ssh/authorized_keys",
        "a\0b",
        "a\nb",
        "a\u{85}b",
        &long_segment,
        &long_key,
    ] {
        let refused = text.parse::<ObjectKey>().unwrap_err().to_string();
        assert!(refused.len() < 400 && !refused.contains(char::is_control), "{refused}");
        assert!(serde_json::from_value::<ObjectKey>(text.into()).is_err());
    }
    for text in ["a", "a/b", "...", "a/.../b", "%2e%2e%2f", "C:\\x", "\u{202e}x"] {
        assert_eq!(text.parse::<ObjectKey>().unwrap().to_string(), text);
    }
}

#[test]
fn ids_are_checked() {
    assert_eq!(
        ClusterId::new("a/b", Uuid::nil()).unwrap().as_str(),
        "a/b-00000000-0000-0000-0000-000000000000"
    );
    assert!("水".repeat(255).parse::<ClusterId>().is_ok());
    for text in [String::new(), "x".repeat(256), "a\nb".into(), "a\0".into()] {
        assert!(text.parse::<ClusterId>().is_err(), "{text:?}");
    }
    for text in [
        "",
        "x",
        "6d7c1b6e53b64bd58ad9c4a4a7a4f6b1",
        "{6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1}",
        "urn:uuid:6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1",
        &format!("{HOST}/.."),
    ] {
        assert!(text.parse::<HostId>().is_err(), "{text}");
        assert!(text.parse::<BackupId>().is_err(), "{text}");
    }
    assert_eq!(HOST.to_uppercase().parse::<HostId>().unwrap().to_string(), HOST);
    for text in [
        "",
        "00112233445566778899aab",
        "00112233445566778899AABB",
        "0x112233445566778899aabb",
        "00112233445566778899aabb00",
    ] {
        assert!(text.parse::<SessionId>().is_err(), "{text}");
    }
    for text in [
        "",
        "00112233445566778899aabb",
        "00112233445566778899aabb0000000G",
        "+0112233445566778899aabb00000001",
    ] {
        assert!(text.parse::<Attempt>().is_err(), "{text}");
    }
    assert_ne!(SessionId::random(), SessionId::random());
    assert_eq!(serde_json::to_string(&attempt(255)).unwrap(), "\"00112233445566778899aabb000000ff\"");
}

#[test]
fn backup_ids_of_ours_sort_by_time() {
    let ids: Vec<_> =
        [-5, 0, 1, 1_795_000_000_000, 1_795_000_000_001, 253_402_300_800_000].map(BackupId::at).to_vec();
    assert_eq!(ids[3].uuid().get_version_num(), 7);
    let texts: Vec<_> = ids[1..].iter().map(BackupId::to_string).collect();
    assert!(texts.is_sorted(), "{texts:?}");
    let _ = BackupId::at(i64::MAX);
}

proptest! {
    #[test]
    fn every_component_has_one_key_and_back(
        keyspace in ".{0,12}", name in ".{0,12}", index in prop::option::of(".{0,12}"), sstable in ".{0,12}", file in ".{0,12}",
        session: [u8; 12], counter: u32,
    ) {
        let (table, attempt) = (table(&keyspace, &name, 9), Attempt::new(SessionId::from_bytes(session), counter));
        prop_assert_eq!(attempt.to_string().parse::<Attempt>().unwrap(), attempt);
        if let Ok(key) = keys().component(&host(), &table, index.as_deref(), &sstable, attempt, &file) {
            prop_assert!(key.as_str().starts_with(&keys().data_prefix(&host())));
            prop_assert_eq!(key.to_string().parse::<ObjectKey>().unwrap(), key.clone());
            let expected = ComponentKey { host: host(), table, index, sstable, attempt, file };
            prop_assert_eq!(keys().parse_component(&key).unwrap(), expected);
        }
    }
}
