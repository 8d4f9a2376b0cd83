//! A backup with everything in it, made of fixed values: what the samples hold.

use cassy_backup_format::*;
use uuid::Uuid;

pub(crate) const CLUSTER: &str = "Prod/<b>\u{202e}1-0f0e0d0c-0b0a-4908-8706-050403020100";
pub(crate) const HOST: &str = "6d7c1b6e-53b6-4bd5-8ad9-c4a4a7a4f6b1";
pub(crate) const BACKUP: &str = "01900000-0000-7000-8000-000000000001";
/// The increment before, on [`PARENT`].
pub(crate) const BEFORE: &str = "01900000-0000-7000-8000-0000000000aa";
pub(crate) const PARENT: &str = "01900000-0000-7000-8000-000000000000";

pub(crate) fn keys() -> Keys {
    Keys::new(CLUSTER.parse().unwrap()).unwrap()
}

pub(crate) fn host() -> HostId {
    HOST.parse().unwrap()
}

pub(crate) fn backup() -> BackupId {
    BACKUP.parse().unwrap()
}

pub(crate) fn parent() -> BackupId {
    PARENT.parse().unwrap()
}

pub(crate) fn attempt(counter: u32) -> Attempt {
    Attempt::new("00112233445566778899aabb".parse().unwrap(), counter)
}

pub(crate) fn table(keyspace: &str, name: &str, number: u128) -> TableRef {
    let id = Uuid::from_u128(number).simple().to_string();
    TableRef { keyspace: keyspace.into(), table: name.into(), id }
}

pub(crate) fn tables() -> Vec<TableRef> {
    vec![
        table("backups", "snapshots", 3),
        table("ks1", "MixedCase", 1),
        table("ks1", "plain", 2),
        table("system", "local", 4),
    ]
}

pub(crate) fn blake3_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

pub(crate) fn header() -> Header {
    Header {
        format: FORMAT,
        least_reader: LEAST_READER,
        cluster_id: CLUSTER.parse().unwrap(),
        cluster_name: "Prod/<b>\u{202e}1".into(),
        host_id: host(),
        address: "10.0.0.1".into(),
        tokens: vec!["-9223372036854775808".into(), "42".into()],
        datacenter: "dc1".into(),
        rack: "r1".into(),
        cassandra_version: "5.0.9".into(),
        partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".into(),
        backup_id: backup(),
        kind: BackupKind::NodeSnapshot,
        created_at_ms: 1_795_000_000_000,
        parent: Some(ParentRef {
            key: keys().node_manifest(&host(), &parent()),
            backup_id: parent(),
            blake3: blake3_of("parent"),
        }),
        base: None,
        truncations: None,
        configuration: ConfigurationFacts {
            data_directories: vec!["/var/lib/cassandra/data".into(), "/disk2/data".into()],
            commitlog_directory: Some("/var/lib/cassandra/commitlog".into()),
            num_tokens: Some(2),
            uuid_sstable_identifiers: Some(false),
            incremental_backups: Some(true),
            directory_mode: 0o755,
            file_mode: 0o644,
            ..ConfigurationFacts::default()
        },
        tables: tables(),
        schema: vec![TableSchema {
            table: tables()[1].clone(),
            cql: "CREATE TABLE IF NOT EXISTS ks1.\"MixedCase\" (\n\tk int PRIMARY KEY);\n".into(),
        }],
    }
}

/// An SSTable with a plain Data.db and a small.tar for the others.
pub(crate) fn entry(
    table: &TableRef,
    index: Option<&str>,
    name: &str,
    directory: u32,
    counter: u32,
) -> SstableEntry {
    let data_size = 2 << 20;
    let file = |component: &str, size, object, offset| FileEntry {
        name: format!("{name}-{component}"),
        size,
        blake3: blake3_of(component),
        crc32: 3_735_928_559,
        inode: 1234,
        mtime_ns: 1_795_000_000_123_456_789,
        birth_ns: (directory == 0).then_some(1_795_000_000_000_000_000),
        object,
        offset,
    };
    let data =
        keys().component(&host(), table, index, name, attempt(counter), &format!("{name}-Data.db")).unwrap();
    let tar = keys().small_tar(&host(), table, index, name, attempt(counter)).unwrap();
    SstableEntry {
        table: table.clone(),
        index: index.map(str::to_owned),
        name: name.to_owned(),
        directory,
        files: vec![
            file("Data.db", data_size, 0, 0),
            file("Digest.crc32", 10, 1, 512),
            file("TOC.txt", 92, 1, 1536),
            file("SAI+aa+GroupComplete.db", 0, 1, 2560),
        ],
        objects: vec![
            ObjectEntry { key: data, size: data_size, blake3: blake3_of("Data.db"), store_checksum: None },
            ObjectEntry {
                key: tar,
                size: 4096,
                blake3: blake3_of("tar"),
                store_checksum: Some("crc32c:AAAAAA==".into()),
            },
        ],
        corrupt: false,
    }
}

pub(crate) fn entries() -> Vec<SstableEntry> {
    let tables = tables();
    let mut entries = vec![
        entry(&tables[0], None, "da-3h5q_1oih_3aqow23nzcs57htqnl-bti", 0, 1),
        entry(&tables[1], None, "nb-1-big", 0, 2),
        entry(&tables[1], None, "nb-1-big", 1, 3),
        entry(&tables[1], None, "nb-2-big", 0, 4),
        entry(&tables[1], Some(".idx_v"), "nb-1-big", 1, 5),
        entry(&tables[3], None, "nb-9-big", 0, 6),
    ];
    entries[3].corrupt = true;
    entries
}

/// The stored bytes of a node manifest, and its footer.
pub(crate) fn write(header: &Header, entries: &[SstableEntry]) -> (Vec<u8>, Footer) {
    let mut writer = ManifestWriter::new(Vec::new(), header).unwrap();
    for entry in entries {
        writer.push(entry).unwrap();
    }
    writer.finish().unwrap()
}

pub(crate) fn read(stored: &[u8]) -> Result<(Header, Vec<SstableEntry>, Footer), ManifestError> {
    let mut reader = ManifestReader::open(stored)?;
    let entries = reader.by_ref().collect::<Result<_, _>>()?;
    let footer = reader.footer().expect("the iterator has ended").clone();
    Ok((reader.header().clone(), entries, footer))
}

pub(crate) fn compress(text: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::encode_all(text.as_ref(), 3).unwrap()
}

pub(crate) fn decompress(stored: &[u8]) -> String {
    String::from_utf8(zstd::decode_all(stored).unwrap()).unwrap()
}

pub(crate) fn cluster_manifest() -> ClusterManifest {
    ClusterManifest {
        format: FORMAT,
        least_reader: LEAST_READER,
        cluster_id: CLUSTER.parse().unwrap(),
        cluster_name: "Prod/<b>\u{202e}1".into(),
        backup_id: backup(),
        backup_type: 2,
        base: None,
        created_at_ms: 1_795_000_000_000,
        consistent: false,
        nodes: vec![NodeManifestRef {
            host_id: host(),
            address: "10.0.0.1".into(),
            datacenter: "dc1".into(),
            rack: "r1".into(),
            key: keys().node_manifest(&host(), &backup()),
            size: 1,
            blake3: blake3_of("manifest"),
            sstables: 6,
            files: 24,
            bytes: u64::MAX,
        }],
        missing: vec![MissingNode {
            address: "10.0.0.2".into(),
            host_id: None,
            reason: "ssh: connection refused".into(),
        }],
        keyspaces: vec!["backups".into(), "ks1".into(), "system".into()],
    }
}

/// An increment on [`parent`], the second of its chain.
pub(crate) fn increment_header() -> Header {
    let before: BackupId = BEFORE.parse().unwrap();
    Header {
        kind: BackupKind::Incremental,
        parent: Some(ParentRef {
            key: keys().increment_manifest(&host(), &before, &parent()),
            backup_id: before,
            blake3: blake3_of("parent"),
        }),
        base: Some(parent()),
        truncations: Some(vec![
            Truncation { id: tables()[1].id.clone(), at_ms: 1_794_999_999_999 },
            Truncation { id: tables()[2].id.clone(), at_ms: -1 },
        ]),
        ..header()
    }
}

pub(crate) fn increment_cluster_manifest() -> ClusterManifest {
    let mut manifest = cluster_manifest();
    (manifest.backup_type, manifest.base) = (3, Some(parent()));
    manifest.nodes[0].key = keys().increment_manifest(&host(), &backup(), &parent());
    manifest
}

pub(crate) fn superseded_header() -> SupersededHeader {
    SupersededHeader {
        format: FORMAT,
        least_reader: LEAST_READER,
        cluster_id: CLUSTER.parse().unwrap(),
        host_id: host(),
        backup_id: backup(),
    }
}

pub(crate) fn superseded_files() -> Vec<SupersededFile> {
    let file = |index: Option<&str>, name: &str, birth_ns| SupersededFile {
        data_directory: "/disk2/data\u{202e}".into(),
        table: tables()[0].clone(),
        index: index.map(str::to_owned),
        name: name.into(),
        device: (8, u32::MAX),
        inode: u64::MAX,
        birth_ns,
    };
    vec![file(None, "nb-1-big-Data.db", Some(-1)), file(Some(".idx_v"), "nb-1-big-TOC.txt", None)]
}

pub(crate) fn write_superseded(files: &[SupersededFile]) -> Vec<u8> {
    let mut writer = SupersededWriter::new(Vec::new(), &superseded_header()).unwrap();
    files.iter().for_each(|file| writer.push(file).unwrap());
    writer.finish().unwrap().0
}

pub(crate) fn read_superseded(
    stored: &[u8],
) -> Result<(SupersededHeader, Vec<SupersededFile>), ManifestError> {
    let mut list = SupersededList::open(stored)?;
    let files = list.by_ref().collect::<Result<_, _>>()?;
    Ok((list.header().clone(), files))
}

pub(crate) fn pin() -> Pin {
    let manifests = vec![keys().node_manifest(&host(), &parent())];
    Pin { format: FORMAT, backup_id: backup(), created_at_ms: 1_795_000_000_000, manifests }
}

pub(crate) fn trash_header() -> TrashHeader {
    let purge = "01900000-0000-7000-8000-0000000000ff".into();
    TrashHeader { format: FORMAT, least_reader: LEAST_READER, purge, created_at_ms: 1_795_000_000_000 }
}

pub(crate) fn trash_keys() -> Vec<ObjectKey> {
    let mut keys: Vec<_> = entries().into_iter().flat_map(|e| e.objects).map(|o| o.key).collect();
    keys.sort();
    keys
}

pub(crate) fn write_trash(keys: &[ObjectKey]) -> Vec<u8> {
    let mut writer = TrashWriter::new(Vec::new(), &trash_header()).unwrap();
    for key in keys {
        writer.push(key).unwrap();
    }
    writer.finish().unwrap().0
}

pub(crate) fn read_trash(stored: &[u8]) -> Result<(TrashHeader, Vec<ObjectKey>), ManifestError> {
    let mut list = TrashList::open(stored)?;
    let keys = list.by_ref().collect::<Result<_, _>>()?;
    Ok((list.header().clone(), keys))
}

/// The text of a manifest with its lines edited and a footer that fits whatever is there.
pub(crate) fn forged(edit: impl Fn(&mut Vec<String>)) -> Vec<u8> {
    let (stored, footer) = write(&header(), &entries());
    let mut lines: Vec<String> = decompress(&stored).lines().map(|line| format!("{line}\n")).collect();
    lines.pop();
    edit(&mut lines);
    let body = lines.concat();
    let footer = Footer { blake3: blake3_of(&body), sstables: lines.len() as u64 - 1, ..footer };
    compress(body + &serde_json::to_string(&footer).unwrap() + "\n")
}

/// Why a stored manifest is not read.
pub(crate) fn refusal(stored: &[u8]) -> String {
    let error = read(stored).map(drop).unwrap_err();
    explain(&error)
}

/// An error with its source.
pub(crate) fn explain(error: &ManifestError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
