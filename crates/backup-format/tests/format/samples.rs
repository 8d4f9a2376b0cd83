//! The samples of every format version, kept for ever: what was written once stays readable.

use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::*;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/format-1").join(name)
}

#[test]
fn samples_of_format_1_are_read() {
    let (header_1, entries_1, footer) = read(&fs::read(sample("node.jsonl.zst")).unwrap()).unwrap();
    assert_eq!(header_1, header());
    assert_eq!(entries_1, entries());
    assert_eq!(
        (footer.sstables, footer.files, footer.bytes, footer.corrupt),
        (6, 24, 6 * ((2 << 20) + 102), 1)
    );

    let cluster = fs::read(sample("cluster.json")).unwrap();
    assert_eq!(cassy_backup_format::ClusterManifest::from_json(&cluster).unwrap(), cluster_manifest());
    let pinned = fs::read(sample("pin.json")).unwrap();
    assert_eq!(cassy_backup_format::Pin::from_json(&pinned).unwrap(), pin());
    let trash = read_trash(&fs::read(sample("trash.jsonl.zst")).unwrap()).unwrap();
    assert_eq!(trash, (trash_header(), trash_keys()));
}

/// What this build writes of the same values is the same text: a change of the format needs a new version.
#[test]
fn what_is_written_today_is_format_1() {
    let node = fs::read(sample("node.jsonl.zst")).unwrap();
    assert_eq!(decompress(&write(&header(), &entries()).0), decompress(&node));
    let cluster = fs::read_to_string(sample("cluster.json")).unwrap();
    assert_eq!(String::from_utf8(cluster_manifest().to_json().unwrap()).unwrap(), cluster);
    let pinned = fs::read_to_string(sample("pin.json")).unwrap();
    assert_eq!(String::from_utf8(pin().to_json().unwrap()).unwrap(), pinned);
    let trash = fs::read(sample("trash.jsonl.zst")).unwrap();
    assert_eq!(decompress(&write_trash(&trash_keys())), decompress(&trash));
}

/// Ran once for each format version; never writes over a sample.
#[test]
#[ignore = "writes the samples of a new format version"]
fn write_samples() {
    for (name, content) in [
        ("node.jsonl.zst", write(&header(), &entries()).0),
        ("cluster.json", cluster_manifest().to_json().unwrap()),
        ("pin.json", pin().to_json().unwrap()),
        ("trash.jsonl.zst", write_trash(&trash_keys())),
    ] {
        let path = sample(name);
        assert!(!path.exists(), "{} is kept for ever", path.display());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}
