//! Names, times, numbers and addresses at and beyond their limits, in manifests and keys.

use super::fixture::*;
use cassy_backup_format::*;

#[test]
fn a_restore_goes_to_no_address_that_is_none_of_a_node() {
    let check = |address: &str| {
        let mut manifest = cluster_manifest();
        manifest.nodes[0].address = address.to_owned();
        let text = serde_json::to_string(&manifest).unwrap();
        (manifest.to_json().err(), ClusterManifest::from_json(text.as_bytes()).map(drop))
    };
    for address in [
        "",
        "169.254.169.254",
        "::ffff:10.0.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "0.0.0.0",
        "::",
        "[::1]",
        "224.0.0.1",
        "localhost",
        "metadata.internal",
        "10.0.0.1:22",
        "010.0.0.1",
        "2001:DB8::1",
        "10.0.0.1;id",
        "-oProxyCommand=id",
        "file:///etc/hosts",
        "'; DROP TABLE job; --",
        "<script>alert(1)</script>",
        "10.0.0.1\n10.0.0.2",
    ] {
        let (written, read) = check(address);
        let refused = read.unwrap_err().to_string();
        assert!(refused.contains("is not the IP address of a node") && !refused.contains('\n'), "{refused}");
        assert!(written.is_some(), "{address}");
    }
    for address in ["10.0.0.1", "127.0.0.1", "::1", "2001:db8::1", "fd00::5"] {
        assert!(check(address).1.is_ok(), "{address}");
    }
}

#[test]
fn an_address_that_is_there_twice_is_refused() {
    let mut manifest = cluster_manifest();
    let mut other = manifest.nodes[0].clone();
    other.host_id = "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b2".parse().unwrap();
    other.key = keys().node_manifest(&other.host_id, &backup());
    manifest.nodes.push(other);
    let text = serde_json::to_string(&manifest).unwrap();
    let refused = ClusterManifest::from_json(text.as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("address \"10.0.0.1\" is there twice"), "{refused}");
}

#[test]
fn a_node_that_is_there_twice_under_two_addresses_is_refused() {
    let mut manifest = cluster_manifest();
    let other = NodeManifestRef { address: "10.0.0.99".to_owned(), ..manifest.nodes[0].clone() };
    manifest.nodes.push(other);
    let text = serde_json::to_string(&manifest).unwrap();
    for refused in [manifest.to_json().unwrap_err(), ClusterManifest::from_json(text.as_bytes()).unwrap_err()]
    {
        assert!(explain(&refused).contains(&format!("node {HOST} is there twice")), "{refused}");
    }
}

#[test]
fn a_cluster_whose_id_makes_no_key_has_no_manifest() {
    let mut manifest = cluster_manifest();
    manifest.cluster_id = "水".repeat(100).parse().unwrap();
    let text = serde_json::to_string(&manifest).unwrap();
    for refused in [manifest.to_json().unwrap_err(), ClusterManifest::from_json(text.as_bytes()).unwrap_err()]
    {
        assert!(explain(&refused).contains("more than 255 bytes when percent-encoded"), "{refused}");
    }
}

#[test]
fn a_line_that_nobody_could_read_again_is_not_written() {
    let mut header = header();
    header.schema[0].cql = " ".repeat(LINE_LIMIT_BYTES);
    let refused = ManifestWriter::new(Vec::new(), &header).err().unwrap();
    assert!(
        matches!(refused, ManifestError::TooLarge { what: "a line", limit_bytes: LINE_LIMIT_BYTES }),
        "{refused}"
    );
}

#[test]
fn names_that_look_alike_are_kept_apart() {
    let names =
        ["Ks", "ks", "caf\u{e9}", "cafe\u{301}", "a,b", "a%2Cb", "snapshots", "Snapshots", "-x", "backups"];
    let mut header = header();
    header.schema.clear();
    header.tables = names.iter().map(|name| table(name, name, 9)).collect();
    header.tables.sort();
    let entries: Vec<_> = header
        .tables
        .iter()
        .zip(0..)
        .map(|(table, number)| entry(table, None, "nb-1-big", 0, number))
        .collect();
    let (stored, _) = write(&header, &entries);
    assert_eq!(read(&stored).unwrap().1, entries);
    let prefixes: std::collections::BTreeSet<_> =
        entries.iter().map(|e| e.objects[0].key.segments().nth(6).unwrap().to_owned()).collect();
    assert_eq!(prefixes.len(), names.len(), "{prefixes:?}");
}

#[test]
fn the_longest_names_of_cassandra_have_keys() {
    const SSTABLE: &str = "da-3h5q_1oih_3aqow23nzcs57htqnl-bti";
    for length in [48, 222] {
        let (table, index) =
            (table(&"k".repeat(length), &"t".repeat(length), 1), format!(".{}", "i".repeat(length)));
        let file = format!("{SSTABLE}-Partitions.db");
        let key = keys().component(&host(), &table, Some(&index), SSTABLE, attempt(1), &file).unwrap();
        assert_eq!(keys().parse_component(&key).unwrap().table, table);
    }
}

#[test]
fn times_at_both_ends_of_all_time_are_kept() {
    let year_9999 = 253_402_300_799_999;
    for time in [i64::MIN, -1, 0, year_9999, i64::MAX] {
        let mut header = header();
        header.created_at_ms = time;
        let mut written = entry(&tables()[1], None, "nb-1-big", 0, 1);
        (written.files[0].mtime_ns, written.files[0].birth_ns) = (time, Some(time));
        let (stored, _) = write(&header, std::slice::from_ref(&written));
        let (found, entries, _) = read(&stored).unwrap();
        assert_eq!((found.created_at_ms, &entries), (time, &vec![written]));
        let mut manifest = cluster_manifest();
        manifest.created_at_ms = time;
        assert_eq!(ClusterManifest::from_json(&manifest.to_json().unwrap()).unwrap(), manifest);
        let id = BackupId::at(time);
        assert_eq!(id.to_string().parse::<BackupId>().unwrap(), id);
    }
    assert!(BackupId::at(-1) < BackupId::at(year_9999));
    for beyond in ["9223372036854775808", "-9223372036854775809", "1e400", "NaN", "\"now\""] {
        let stored = forged(|lines| lines[0] = lines[0].replacen("1795000000000", beyond, 1));
        assert!(read(&stored).is_err(), "{beyond}");
    }
}

/// A manifest names its parent; nobody follows the chain while reading.
#[test]
fn a_chain_that_leads_to_itself_or_nowhere_does_no_harm() {
    let mut own = header();
    own.parent = Some(ParentRef {
        key: keys().node_manifest(&host(), &backup()),
        backup_id: backup(),
        blake3: blake3_of("itself"),
    });
    let (stored, _) = write(&own, &entries());
    assert_eq!(read(&stored).unwrap().0, own);
    let refused = forged(|lines| {
        lines[0] =
            lines[0].replacen("node_snapshot", "incremental", 1).replacen("\"parent\":{", "\"parents\":{", 1);
    });
    assert!(refusal(&refused).contains("an increment has no parent"));
}

/// Written and read at once through a pipe, so that nobody holds all of it.
#[test]
fn very_many_sstables_are_read_one_by_one() {
    const COUNT: u32 = 100_000;
    let (reading, writing) = std::io::pipe().unwrap();
    let table = tables()[1].clone();
    let writer = std::thread::spawn(move || {
        let mut writer = ManifestWriter::new(std::io::BufWriter::new(writing), &header()).unwrap();
        for number in 0..COUNT {
            let mut entry = entry(&table, None, &format!("nb-{number:09}-big"), 0, number);
            entry.files.truncate(2);
            writer.push(&entry).unwrap();
        }
        writer.finish().unwrap();
    });
    let mut reader = ManifestReader::open(reading).unwrap();
    let count = reader.by_ref().inspect(|entry| assert!(entry.is_ok(), "{entry:?}")).count();
    assert_eq!((count, reader.footer().unwrap().sstables), (COUNT as usize, u64::from(COUNT)));
    writer.join().unwrap();
}

#[test]
fn documents_in_other_encodings_are_refused() {
    let trash = decompress(&write_trash(&trash_keys()));
    let pin = String::from_utf8(pin().to_json().unwrap()).unwrap();
    let cluster = String::from_utf8(cluster_manifest().to_json().unwrap()).unwrap();
    let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let bom = |text: &str| format!("\u{feff}{text}").into_bytes();
    let overlong = |text: &str| {
        text.replacen("cassy/", "cassy\u{1}", 1)
            .into_bytes()
            .iter()
            .flat_map(|b| if *b == 1 { vec![0xc0, 0xaf] } else { vec![*b] })
            .collect::<Vec<u8>>()
    };
    for change in [&utf16 as &dyn Fn(&str) -> Vec<u8>, &bom, &overlong] {
        assert!(read_trash(&compress(change(&trash))).is_err());
        assert!(Pin::from_json(&change(&pin)).is_err());
        assert!(ClusterManifest::from_json(&change(&cluster)).is_err());
    }
}
