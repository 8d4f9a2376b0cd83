//! What may lie on a node's disk that Cassandra never wrote: refused by name before anything is sent, or sent and
//! read back byte for byte. Nothing on the disk changes.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, UNIX_EPOCH};

use cassy_agent_protocol::{AgentError, AgentErrorKind};

use super::*;
use crate::failure::IntoAgentError;
use crate::snapshot::fake::content;

/// Every file of the node, hidden ones too, by path.
fn disk(bench: &Bench) -> BTreeMap<PathBuf, u64> {
    let mut open: Vec<PathBuf> = bench.node.data.clone();
    let mut found = BTreeMap::new();
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).expect("look");
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()));
        } else {
            found.insert(path, metadata.len());
        }
    }
    found
}

/// The backup of the example, with the snapshot of `ks.plain` in its first data directory changed.
async fn uploaded(change: impl FnOnce(&std::path::Path)) -> (Bench, Result<UploadSummary, AgentError>) {
    let bench = Bench::new(example());
    change(&bench.node.snapshot_of(0, "ks", "plain", TAG));
    let before = disk(&bench);
    let outcome = bench.upload().await.map_err(IntoAgentError::into_agent_error);
    assert_eq!(disk(&bench), before);
    (bench, outcome)
}

async fn refused(change: impl FnOnce(&std::path::Path)) -> String {
    let (bench, outcome) = uploaded(change).await;
    let error = outcome.expect_err("refused");
    assert_eq!(error.kind, AgentErrorKind::Permanent, "{error:?}");
    assert!(bench.objects().await.is_empty(), "nothing was sent");
    error.message
}

async fn sent(change: impl FnOnce(&std::path::Path)) -> (Bench, UploadSummary) {
    let (bench, outcome) = uploaded(change).await;
    let summary = outcome.expect("uploaded");
    bench.check(&summary).await;
    (bench, summary)
}

/// Cassandra's manifest is in one of the data directories.
fn manifest_of(snapshot: &std::path::Path) -> PathBuf {
    let own = snapshot.join("manifest.json");
    let other = PathBuf::from(own.to_str().expect("text").replacen("/data0/", "/data1/", 1));
    if own.exists() { own } else { other }
}

/// The snapshot's files are links to the live ones: a new file takes the name.
fn put(path: PathBuf, content: &[u8]) {
    fs::remove_file(&path).expect("remove");
    fs::write(path, content).expect("write");
}

#[tokio::test]
async fn a_manifest_of_cassandra_that_cannot_be_believed_is_refused() {
    let whole = {
        let bench = Bench::new(example());
        fs::read_to_string(manifest_of(&bench.node.snapshot_of(0, "ks", "plain", TAG))).expect("read")
    };
    let utf16: Vec<u8> = whole.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for hostile in [
        &whole.as_bytes()[..whole.len() / 2],
        b"",
        b"{}",
        b"{\"files\":null}",
        b"{\"files\":[],\"files\":[]}",
        b"{\"files\":[\"nb-1-big-Data.db\\u0000\"]}",
        b"{\"files\":[\"../../../../x/nb-1-big-Data.db\"]}",
        b"{\"files\":[\".plain_v_idx/../nb-1-big-Data.db\"]}",
        b"{\"files\":[1e400]}",
        &utf16,
        format!("\u{feff}{whole}").as_bytes(),
        format!("{{\"files\":{}", "[".repeat(100_000)).as_bytes(),
    ] {
        let text = refused(|snapshot| put(manifest_of(snapshot), hostile)).await;
        assert!(text.contains("ks.plain: ") && text.contains("manifest.json"), "{text}");
    }
    // The same file twice is one file.
    let twice = whole.replacen("[\"", "[\"nb-1-big-Data.db\",\"nb-1-big-Data.db\",\"", 1);
    sent(|snapshot| put(manifest_of(snapshot), twice.as_bytes())).await;
}

#[tokio::test]
async fn small_files_that_are_huge_are_not_read() {
    for name in ["manifest.json", "nb-1-big-TOC.txt", "schema.cql"] {
        let text = refused(|snapshot| {
            let path = if name.starts_with("nb") { snapshot.join(name) } else { manifest_of(snapshot) };
            let path = path.with_file_name(name);
            fs::remove_file(&path).expect("remove");
            File::create(path).expect("create").set_len(10 << 30).expect("grow");
        })
        .await;
        assert!(text.contains(name) && text.contains("bytes"), "{text}");
    }
}

#[tokio::test]
async fn digests_that_are_no_numbers_make_a_backup_corrupt() {
    for digest in ["", "x", "-1", "4294967296", "99999999999999999999", "1e3", "0x10", "1\r\n2", "\0", "1 "] {
        let (_, summary) =
            sent(|snapshot| put(snapshot.join("nb-1-big-Digest.crc32"), digest.as_bytes())).await;
        let [corrupt] = summary.corrupt.as_slice() else { panic!("{digest:?}: {:?}", summary.corrupt) };
        assert!(corrupt.starts_with("ks.plain/nb-1-big: ") && corrupt.contains("crc32"), "{corrupt}");
        assert!(!corrupt.contains(char::is_control), "{corrupt}");
    }
    let crc32 = crc32fast::hash(&content(10, 5000));
    let (_, summary) =
        sent(|snapshot| put(snapshot.join("nb-1-big-Digest.crc32"), format!("{crc32}\r\n").as_bytes())).await;
    assert!(summary.corrupt.is_empty(), "{:?}", summary.corrupt);
}

#[tokio::test]
async fn tables_of_contents_that_cannot_be_believed_are_refused() {
    for hostile in [
        &b""[..],
        b"../Data.db\n",
        b"Data.db\n/etc/hosts\n",
        b"Data.db\0\n",
        b"-rf\n",
        b"\xff\xfeD\0a\0t\0a\0.\0d\0b\0",
        b"\xef\xbb\xbfData.db\nTOC.txt\n",
        b"Data.db\nIndex.db\nFilter.db\nTOC.txt\n",
    ] {
        let text = refused(|snapshot| put(snapshot.join("nb-1-big-TOC.txt"), hostile)).await;
        assert!(text.contains("ks.plain: ") && text.contains("nb-1-big"), "{text}");
    }
}

#[tokio::test]
async fn an_sstable_without_what_its_toc_names_is_refused() {
    for missing in ["Index.db", "Data.db", "Statistics.db", "Digest.crc32"] {
        let text = refused(|snapshot| {
            fs::remove_file(snapshot.join(format!("nb-1-big-{missing}"))).expect("remove");
        })
        .await;
        assert!(text.contains(missing), "{text}");
    }
}

#[tokio::test]
async fn empty_data_is_sent_or_named_as_corrupt() {
    let (_, summary) = sent(|snapshot| {
        put(snapshot.join("nb-1-big-Data.db"), b"");
        put(snapshot.join("nb-1-big-Digest.crc32"), b"0");
    })
    .await;
    assert!(summary.corrupt.is_empty());
    let (_, summary) = sent(|snapshot| put(snapshot.join("nb-1-big-Data.db"), b"")).await;
    assert!(
        summary.corrupt[0].starts_with("ks.plain/nb-1-big: the CRC-32 of Data.db"),
        "{:?}",
        summary.corrupt
    );
}

#[tokio::test]
async fn components_that_nobody_knows_are_sent_as_they_are() {
    let names = [
        "SAI+ba+v+Meta.db".to_owned(),
        "my own component".to_owned(),
        "caf\u{e9}.db".to_owned(),
        "cafe\u{301}.db".to_owned(),
        "$(id);`id`.db".to_owned(),
        "Data.db.--option".to_owned(),
        "x".repeat(246),
    ];
    let (bench, summary) = sent(|snapshot| {
        for name in &names {
            fs::write(snapshot.join(format!("nb-1-big-{name}")), name).expect("write");
        }
    })
    .await;
    assert!(summary.corrupt.is_empty());
    let (_, entries) = bench.manifest(&summary).await;
    let is_ours = |entry: &&SstableEntry| entry.table.keyspace == "ks" && entry.name == "nb-1-big";
    let files: Vec<_> = entries.iter().filter(is_ours).map(|entry| entry.files.len()).collect();
    assert_eq!(files, [6 + names.len(), 6]);
}

#[tokio::test]
async fn sstables_of_several_formats_and_of_the_future_are_sent_as_they_are() {
    let node = example();
    let table = node.table(0, "ks", "plain");
    for name in ["da-3h5q_1oih_3aqow23nzcs57htqnl-bti", "zz-1-big", "nb-2147483647-big", "aa-1-new"] {
        node.flush(&table, "", name, 90, 700);
    }
    let bench = Bench::new(node);
    let summary = bench.upload().await.expect("uploaded");
    bench.check(&summary).await;
    assert_eq!((summary.sstables, summary.corrupt.len()), (12, 0));
}

#[tokio::test]
async fn names_of_no_sstable_are_refused() {
    for name in
        ["nb-2147483648-big-Data.db", "nb--1-big-Data.db", "nb-01-big-Data.db", "-rf", "--option", "x"]
    {
        let text = refused(|snapshot| fs::write(snapshot.join(name), "x").expect("write")).await;
        assert!(text.contains(name) && text.contains("is no component of an SSTable"), "{text}");
    }
}

#[tokio::test]
async fn names_in_another_encoding_stop_the_backup_only_within_a_snapshot() {
    let name = OsStr::from_bytes(b"nb-1-big-\xff\xc0\xaf.db");
    let text = refused(|snapshot| fs::write(snapshot.join(name), "x").expect("write")).await;
    assert!(text.contains("not in UTF-8"), "{text}");
    let (_, outcome) = uploaded(|snapshot| {
        let data = snapshot.ancestors().nth(4).expect("the data directory");
        for place in [
            data.join(name),
            data.join("ks").join(name),
            snapshot.ancestors().nth(2).expect("table").join(name),
        ] {
            fs::create_dir(&place).expect("mkdir");
            fs::write(place.join(name), "x").expect("write");
        }
    })
    .await;
    let summary = outcome.expect("uploaded");
    assert_eq!((summary.sstables, summary.corrupt.len()), (8, 0));
}

#[tokio::test]
async fn what_is_no_plain_file_is_refused_and_not_opened() {
    let text = refused(|snapshot| {
        // The path of a socket is short when it is made.
        let socket = snapshot.ancestors().nth(5).expect("the node").join("s");
        drop(UnixListener::bind(&socket).expect("bind"));
        fs::rename(socket, snapshot.join("nb-3-big-Data.db")).expect("rename");
    })
    .await;
    assert!(text.contains("nb-3-big-Data.db is a socket"), "{text}");
    let text = refused(|snapshot| {
        std::os::unix::fs::symlink(snapshot.join("nb-1-big-Data.db"), snapshot.join("nb-3-big-Data.db"))
            .expect("link");
    })
    .await;
    assert!(text.contains("nb-3-big-Data.db is a symbolic link"), "{text}");
}

/// A hard link is what every file of a snapshot is; one to something else does not match its digest.
#[tokio::test]
async fn a_hard_link_to_another_file_is_named_as_corrupt() {
    let (bench, summary) = sent(|snapshot| {
        let other = snapshot.ancestors().nth(5).expect("the node").join("other");
        fs::write(&other, "somebody else's").expect("write");
        fs::remove_file(snapshot.join("nb-1-big-Data.db")).expect("remove");
        fs::hard_link(&other, snapshot.join("nb-1-big-Data.db")).expect("link");
    })
    .await;
    assert_eq!(summary.corrupt.len(), 1);
    assert!(summary.manifest.as_str().ends_with(".corrupt.jsonl.zst"));
    assert_eq!(fs::read_to_string(bench.node.base().join("other")).expect("read"), "somebody else's");
}

#[tokio::test]
async fn snapshots_of_others_are_left_alone_whatever_their_tags() {
    let tags = [
        ";rm -rf",
        "$(id)",
        "a b",
        "--option",
        "..x",
        "a\nb",
        "cassy-notours",
        "snapshots",
        "backups",
        ".hidden",
    ];
    let (bench, summary) = sent(|snapshot| {
        for tag in tags {
            let other = snapshot.with_file_name(tag);
            fs::create_dir(&other).expect("mkdir");
            fs::write(other.join("nb-1-big-Data.db"), tag).expect("write");
        }
    })
    .await;
    assert_eq!(summary.sstables, 8);
    for tag in tags {
        let kept = bench.node.table(0, "ks", "plain").join("snapshots").join(tag).join("nb-1-big-Data.db");
        assert_eq!(fs::read_to_string(kept).expect("kept"), tag);
    }
}

#[tokio::test]
async fn names_of_keyspaces_and_tables_at_their_limits_are_sent() {
    let node = FakeNode::new(1);
    let longest = "x".repeat(48);
    let names = [
        "snapshots",
        "backups",
        "MixedCase",
        "mixedcase",
        longest.as_str(),
        "a,b",
        "caf\u{e9}",
        "cafe\u{301}",
    ];
    for name in names {
        node.flush(&node.table(0, name, name), &format!(".{name}"), "nb-1-big", 7, 100);
        node.flush(&node.table(0, name, name), "", "nb-1-big", 8, 100);
    }
    node.flush(&node.table(0, "-x", "t"), "", "nb-1-big", 9, 100);
    let mut bench = Bench::new(node);
    bench.request.snapshot.tables =
        names.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
    let summary = bench.upload().await.expect("uploaded");
    bench.check(&summary).await;
    assert_eq!((summary.tables.len(), summary.sstables), (names.len() + 1, 2 * names.len() as u64 + 1));
}

#[tokio::test]
async fn a_clusters_name_never_leaves_its_place_in_the_store() {
    for name in [
        "../../x",
        "'; DROP TABLE job; --",
        "<script>alert(1)</script>",
        "\u{202e}txt\u{2066}",
        "$(id)/..",
        "%2e%2e%2f",
    ] {
        let mut bench = Bench::new(example());
        bench.request.cluster_name = name.to_owned();
        bench.request.cluster_id = format!("{name}-1").parse().expect("id");
        let summary = bench.upload().await.expect("uploaded");
        bench.check(&summary).await;
        assert_eq!(bench.manifest(&summary).await.0.cluster_name, name);
        let tops: Vec<_> = fs::read_dir(bench.node.base().join("store/cassy/1")).expect("list").collect();
        assert_eq!(tops.len(), 1, "{tops:?}");
        let below: Vec<_> = fs::read_dir(bench.node.base().join("store")).expect("list").collect();
        assert_eq!(below.len(), 1, "{below:?}");
    }
}

#[tokio::test]
async fn times_that_no_clock_shows_change_nothing() {
    let year_9999 = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    for time in [year_9999, UNIX_EPOCH - Duration::from_secs(1), UNIX_EPOCH] {
        let mut bench = Bench::new(example());
        let path = bench.live(0, "nb-1-big-Data.db");
        File::options().write(true).open(&path).expect("open").set_modified(time).expect("set");
        bench.request.created_at_ms = i64::MAX;
        let first = bench.upload().await.expect("uploaded");
        bench.check(&first).await;
        bench.request.created_at_ms = -1;
        bench.next(SECOND_TAG, &first);
        let second = bench.upload().await.expect("uploaded");
        bench.check(&second).await;
        assert_eq!(second.sent_bytes, 0);
    }
}

#[tokio::test]
async fn a_parent_of_another_cluster_or_of_itself_is_not_relied_on() {
    let mut bench = Bench::new(example());
    let first = bench.upload().await.expect("uploaded");
    bench.next(SECOND_TAG, &first);
    bench.request.cluster_id = "Other-1".parse().expect("id");
    let second = bench.upload().await.expect("uploaded");
    assert_eq!(second.sent_bytes, first.sent_bytes);
    assert!(bench.manifest(&second).await.0.parent.is_none());
    let mut bench = Bench::new(example());
    let keys = Keys::new(bench.request.cluster_id.clone()).expect("keys");
    bench.request.parent = Some(ParentManifest {
        key: keys.node_manifest(&bench.request.host_id, &bench.request.backup_id),
        backup_id: bench.request.backup_id,
        blake3: "0".repeat(64),
    });
    let summary = bench.upload().await.expect("uploaded");
    bench.check(&summary).await;
    assert!(bench.manifest(&summary).await.0.parent.is_none());
}
