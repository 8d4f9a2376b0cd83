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

#[test]
fn samples_of_increments_are_read() {
    let (header, lines, _) = read(&fs::read(sample("increment.jsonl.zst")).unwrap()).unwrap();
    assert_eq!((header, lines), (increment_header(), entries()));
    let cluster = fs::read(sample("increment.json")).unwrap();
    let cluster = cassy_backup_format::ClusterManifest::from_json(&cluster).unwrap();
    assert_eq!(cluster, increment_cluster_manifest());
    let superseded = read_superseded(&fs::read(sample("superseded.jsonl.zst")).unwrap()).unwrap();
    assert_eq!(superseded, (superseded_header(), superseded_files()));
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
    let increment = fs::read(sample("increment.jsonl.zst")).unwrap();
    assert_eq!(decompress(&write(&increment_header(), &entries()).0), decompress(&increment));
    let cluster = fs::read_to_string(sample("increment.json")).unwrap();
    assert_eq!(String::from_utf8(increment_cluster_manifest().to_json().unwrap()).unwrap(), cluster);
    let superseded = fs::read(sample("superseded.jsonl.zst")).unwrap();
    assert_eq!(decompress(&write_superseded(&superseded_files())), decompress(&superseded));
}

/// Ran once for each format version, and for each new kind of object; never writes over a sample.
#[test]
#[ignore = "writes the samples that are not there yet"]
fn write_samples() {
    for (name, content) in [
        ("node.jsonl.zst", write(&header(), &entries()).0),
        ("cluster.json", cluster_manifest().to_json().unwrap()),
        ("pin.json", pin().to_json().unwrap()),
        ("trash.jsonl.zst", write_trash(&trash_keys())),
        ("increment.jsonl.zst", write(&increment_header(), &entries()).0),
        ("increment.json", increment_cluster_manifest().to_json().unwrap()),
        ("superseded.jsonl.zst", write_superseded(&superseded_files())),
    ] {
        let path = sample(name);
        if path.exists() {
            continue;
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}
