//! Node manifests: what goes in comes out, and nothing else is believed.

use super::fixture::*;
use cassy_backup_format::*;
use proptest::prelude::*;

#[test]
fn a_manifest_comes_back_as_it_was() {
    let (stored, footer) = write(&header(), &entries());
    assert_eq!(read(&stored).unwrap(), (header(), entries(), footer));
    let (stored, footer) = write(&header(), &[]);
    assert_eq!(footer.sstables, 0);
    assert_eq!(read(&stored).unwrap(), (header(), vec![], footer));
    assert!(read(&forged(|_| {})).is_ok());
}

#[test]
fn every_truncation_is_refused() {
    let (stored, _) = write(&header(), &entries()[..1]);
    for end in 0..stored.len() {
        assert!(read(&stored[..end]).is_err(), "{end} of {} bytes", stored.len());
    }
    let text = decompress(&stored).into_bytes();
    for end in 0..text.len() {
        assert!(read(&compress(&text[..end])).is_err(), "{end} of {} bytes of text", text.len());
    }
}

#[test]
fn every_flipped_byte_is_refused_or_makes_no_difference() {
    let (stored, _) = write(&header(), &entries()[..1]);
    let whole = read(&stored).unwrap();
    for at in 0..stored.len() {
        for bits in [0x01, 0x08, 0x80, 0xff] {
            let mut flipped = stored.clone();
            flipped[at] ^= bits;
            if let Ok(other) = read(&flipped) {
                assert_eq!(other, whole, "byte {at} with {bits:#x}");
            }
        }
    }
    let text = decompress(&stored).into_bytes();
    for at in 0..text.len() {
        let mut flipped = text.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(read(&compress(flipped)).is_err(), "byte {at} of the text");
    }
}

#[test]
fn a_later_format_with_an_old_enough_reader_is_read() {
    let stored = forged(|lines| {
        lines[0] = lines[0].replacen("\"format\":1", "\"format\":7,\"colour\":[{\"a\":1}]", 1);
        lines[1] = lines[1].replacen("{\"table\"", "{\"colour\":\"red\",\"table\"", 1);
    });
    let (header, read_entries, _) = read(&stored).unwrap();
    assert_eq!((header.format, read_entries), (7, entries()));
    let mut header = super::fixture::header();
    header.format = 2;
    header.least_reader = 2;
    let refused = ManifestWriter::new(Vec::new(), &header).err().unwrap();
    assert!(matches!(refused, ManifestError::Unsupported { format: 2, least_reader: 2 }));
}

#[test]
fn the_writer_refuses_what_the_reader_refuses() {
    let tables = tables();
    let good = entry(&tables[1], None, "nb-1-big", 0, 1);
    let check = |change: &dyn Fn(&mut SstableEntry), reason: &str| {
        let mut entry = good.clone();
        change(&mut entry);
        let mut writer = ManifestWriter::new(Vec::new(), &header()).unwrap();
        let refused = writer.push(&entry).unwrap_err().to_string();
        assert!(refused.contains(reason), "{reason}: {refused}");
        writer.push(&good).unwrap();
        let (stored, footer) = writer.finish().unwrap();
        assert_eq!(read(&stored).unwrap(), (header(), vec![good.clone()], footer));
    };
    check(&|e| e.table.keyspace = "other".into(), "not among those of the header");
    check(&|e| e.name = "..".into(), "names a directory");
    check(&|e| e.name = "x".repeat(256), "longer than 255");
    check(&|e| e.index = Some("idx".into()), "does not begin with a dot");
    check(&|e| e.files.clear(), "has no files");
    check(&|e| e.files[0].name = "a/b".into(), "slash");
    check(&|e| e.files[0].name = "a\nb".into(), "control");
    check(&|e| e.files[1].name = e.files[0].name.clone(), "is there twice");
    check(&|e| e.files[0].blake3 = "AB".repeat(32), "64 lower-case hex digits");
    check(&|e| e.files[0].offset = 1, "beyond the end");
    check(&|e| e.objects[0].blake3 = String::new(), "64 lower-case hex digits");
    check(&|e| e.objects[1].key = e.objects[0].key.clone(), "is there twice");
    check(&|e| e.objects[0].key = "elsewhere".parse().unwrap(), "is not one of this node");
    check(&|e| drop(e.objects.pop()), "in an object that is not there");
    check(
        &|e| {
            e.objects[0].size = u64::MAX;
            e.files[0].size = u64::MAX;
            e.objects[1].size = u64::MAX;
            e.files[1].size = 1000;
        },
        "exceed 2^64 bytes",
    );
    let mut writer = ManifestWriter::new(Vec::new(), &header()).unwrap();
    writer.push(&good).unwrap();
    assert!(writer.push(&good).is_err());
    assert!(writer.push(&entry(&tables[0], None, "nb-1-big", 0, 1)).is_err());
    writer.push(&entry(&tables[2], None, "nb-1-big", 0, 1)).unwrap();
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let check = |change: &dyn Fn(&mut Header), reason: &str| {
        let mut header = header();
        change(&mut header);
        let refused = ManifestWriter::new(Vec::new(), &header).err().unwrap().to_string();
        assert!(refused.contains(reason), "{reason}: {refused}");
    };
    check(&|h| h.format = 0, "does not exist");
    check(&|h| h.tables.push(tables()[0].clone()), "is there twice");
    check(&|h| h.tables[0].id = "X".repeat(32), "32 lower-case hex digits");
    check(&|h| h.tables[0].table = String::new(), "it is empty");
    check(&|h| h.schema[0].table.table = "gone".into(), "not one of its tables");
    check(&|h| h.schema.push(h.schema[0].clone()), "twice");
    check(&|h| h.parent.as_mut().unwrap().blake3 = "no".into(), "64 lower-case hex digits");
    check(
        &|h| {
            h.parent = None;
            h.kind = BackupKind::Incremental;
        },
        "an increment has no parent",
    );
    check(&|h| h.base = Some(parent()), "it has a base, and is no increment");
    check(&|h| *h = Header { base: None, ..increment_header() }, "an increment has no base");
    let chained = |change: &dyn Fn(&mut Header), reason: &str| {
        let chained = |h: &mut Header| {
            *h = increment_header();
            change(h);
        };
        check(&chained, reason);
    };
    chained(&|h| h.base = Some(backup()), "an increment is its own parent");
    chained(&|h| h.backup_id = BEFORE.parse().unwrap(), "an increment is its own parent");
    // Of another base, of another node, of the base under the name of an increment on it.
    chained(&|h| h.base = Some(BackupId::at(7)), "neither the base nor an increment on it");
    chained(&|h| h.host_id = uuid::Uuid::nil().into(), "neither the base nor an increment on it");
    chained(&|h| h.parent.as_mut().unwrap().backup_id = parent(), "neither the base nor an increment on it");
    let twice = increment_header().truncations.unwrap().remove(0);
    chained(&|h| h.truncations = Some(vec![twice.clone(), twice.clone()]), "is there twice");
    chained(&|h| h.truncations.as_mut().unwrap()[0].id = "X".repeat(32), "32 lower-case hex digits");
    check(&|h| h.cluster_id = "水".repeat(100).parse().unwrap(), "more than 255 bytes");
}

fn name() -> impl Strategy<Value = String> {
    "[^/\\p{Cc}]{1,20}".prop_filter("not a directory", |name| !matches!(name.as_str(), "." | ".."))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_backup_comes_back_as_it_was(
        names in prop::collection::btree_map(name(), (any::<u64>(), any::<i64>(), any::<bool>(), any::<u32>()), 0..12),
        keyspace in name(), table_name in name(), address in ".*", cql in ".*", tokens in prop::collection::vec(".*", 0..4),
    ) {
        let table = table(&keyspace, &table_name, 77);
        let mut header = header();
        header.tables = vec![table.clone()];
        header.schema = vec![TableSchema { table: table.clone(), cql }];
        (header.address, header.tokens) = (address, tokens);
        let mut written = Vec::new();
        for (name, (inode, mtime_ns, corrupt, directory)) in names {
            let mut entry = entry(&tables()[0], None, "nb-1-big", 0, 0);
            (entry.table, entry.name, entry.corrupt, entry.directory) = (table.clone(), name, corrupt, directory);
            (entry.files[0].inode, entry.files[0].mtime_ns) = (inode, mtime_ns);
            written.push(entry);
        }
        let (stored, footer) = write(&header, &written);
        prop_assert_eq!(read(&stored).unwrap(), (header, written, footer));
    }
}
