//! Whole and broken snapshots.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::fake::{EXAMPLE_TABLES, FakeNode, TAG, example};
use super::*;

/// The example with a snapshot, changed by `damage` (which gets the snapshot of `ks.plain` in each directory).
fn checked(damage: impl FnOnce(&FakeNode, &Path, &Path)) -> Result<Vec<String>, SnapshotError> {
    let node = example();
    node.take_snapshot(TAG);
    let (zero, one) = (node.snapshot_of(0, "ks", "plain", TAG), node.snapshot_of(1, "ks", "plain", TAG));
    damage(&node, &zero, &one);
    check(&Context::default(), &node.request(TAG, EXAMPLE_TABLES))
}

fn broken(damage: impl FnOnce(&FakeNode, &Path, &Path)) -> String {
    let broken = checked(damage).expect("looked at");
    let [broken] = broken.as_slice() else { panic!("one is broken: {broken:#?}") };
    broken.clone()
}

/// In whichever directory it is.
fn manifest(zero: &Path, one: &Path) -> std::path::PathBuf {
    let found = [zero, one].map(|path| path.join("manifest.json"));
    found.into_iter().find(|path| path.exists()).expect("a manifest")
}

/// Looking at very many SSTables on a slow disk takes longer than the server waits for a sign of life.
#[test]
fn each_sstable_that_is_looked_at_is_progress() {
    let node = example();
    node.take_snapshot(TAG);
    let ctx = Context::default();
    check(&ctx, &node.request(TAG, EXAMPLE_TABLES)).expect("checked");
    assert_eq!(ctx.progress.beats(), 8);
}

#[test]
fn a_look_that_is_cancelled_stops_and_says_so() {
    let node = example();
    node.take_snapshot(TAG);
    let ctx = Context::default();
    ctx.cancel.cancel();
    let stopped = check(&ctx, &node.request(TAG, EXAMPLE_TABLES)).expect_err("it is to stop");
    assert_eq!(stopped.into_agent_error().kind, AgentErrorKind::Cancelled);
    assert_eq!(ctx.progress.beats(), 0);
}

#[test]
fn a_whole_snapshot_has_nothing_to_tell() {
    assert_eq!(checked(|_, _, _| ()).expect("checked"), Vec::<String>::new());
}

#[test]
fn the_files_are_the_union_of_all_directories_in_the_manifests_order() {
    let node = example();
    node.take_snapshot(TAG);
    let found = tables(&node.request(TAG, &[]).data_directories, TAG.parse().expect("ours")).expect("found");
    let names: Vec<_> =
        found.iter().map(|found| (found.table.keyspace.as_str(), found.table.table.as_str())).collect();
    let mut sorted = EXAMPLE_TABLES.to_vec();
    sorted.sort_unstable();
    assert_eq!(names, sorted);
    let plain = found.iter().find(|found| found.table.table == "plain").expect("there").read().expect("read");
    assert_eq!(plain.manifests.len(), 1);
    assert_eq!(plain.schema.as_deref(), Some(b"CREATE TABLE".as_slice()));
    let sstables = plain.sstables.collect::<Result<Vec<_>, _>>().expect("looked at");
    assert!(sstables.iter().all(|sstable| sstable.files.len() == 6));
    let lines: Vec<_> = sstables.iter().map(|s| (s.index(), s.name.as_str(), s.directory)).collect();
    assert_eq!(
        lines,
        [
            (None, "nb-1-big", 0),
            (None, "nb-10-big", 0),
            (None, "nb-2-big", 1),
            (Some(".plain_v_idx"), "nb-1-big", 1),
            (Some(".plain_v_idx"), "nb-2-big", 0),
        ]
    );
}

#[test]
fn what_is_missing_is_named() {
    let text = broken(|_, zero, one| fs::remove_file(manifest(zero, one)).expect("remove"));
    assert!(text.starts_with("ks.plain: no manifest.json of Cassandra"), "{text}");
    let text = broken(|_, zero, _| fs::remove_file(zero.join("nb-1-big-Index.db")).expect("remove"));
    assert!(text.starts_with("ks.plain: ") && text.ends_with("nb-1-big lacks Index.db"), "{text}");
    let text = broken(|_, zero, _| fs::remove_file(zero.join("nb-1-big-TOC.txt")).expect("remove"));
    assert!(text.ends_with("nb-1-big has no TOC.txt, and lacks CompressionInfo.db or CRC.db"), "{text}");
    let lines = checked(|_, _, one| {
        fs::remove_file(one.join(".plain_v_idx/nb-1-big-Data.db")).expect("remove");
    });
    let text = lines.expect("checked").join("\n");
    assert!(
        text.contains("ks.plain: .plain_v_idx/nb-1-big-Data.db is missing, which its manifest.json names"),
        "{text}"
    );
    let text = broken(|node, _, _| fs::remove_dir_all(node.table(0, "system", "empty")).expect("remove"));
    assert_eq!(text, format!("system.empty: it has no snapshot {TAG}"));
}

#[test]
fn an_sstable_that_was_streamed_as_a_whole_has_no_toc_and_is_whole() {
    let lines = checked(|_, zero, _| {
        fs::remove_file(zero.join("nb-1-big-TOC.txt")).expect("remove");
        fs::write(zero.join("nb-1-big-CRC.db"), "crc").expect("write");
    });
    assert_eq!(lines.expect("checked"), Vec::<String>::new());
}

/// Cassandra writes its components into the TOC of the live SSTable, which is the snapshot's by a link.
#[test]
fn an_index_that_was_made_later_may_be_missing() {
    let node = example();
    node.take_snapshot(TAG);
    let live = node.table(0, "ks", "plain").join("nb-1-big-TOC.txt");
    let mut toc = fs::OpenOptions::new().append(true).open(live).expect("open");
    toc.write_all(b"SAI+aa+later+Meta.db\nSI_plain_v_idx.db\n").expect("append");
    let request = node.request(TAG, EXAMPLE_TABLES);
    assert_eq!(check(&Context::default(), &request).expect("checked"), Vec::<String>::new());
    toc.write_all(b"Filter.db\n").expect("append");
    let broken = check(&Context::default(), &request).expect("checked").join("\n");
    assert!(broken.ends_with("nb-1-big lacks Filter.db"), "{broken}");
}

#[test]
fn what_should_not_be_there_is_named() {
    let text = broken(|node, zero, _| node.flush(zero, "", "nb-99-big", 1, 10));
    assert_eq!(text, "ks.plain: nb-99-big-Data.db is there, which no manifest.json names");
    let text = broken(|_, zero, _| fs::write(zero.join("stranger"), "x").expect("write"));
    assert!(text.ends_with("stranger is no component of an SSTable"), "{text}");
    let text = broken(|_, zero, _| fs::create_dir(zero.join("directory")).expect("mkdir"));
    assert!(text.ends_with("directory is no component of an SSTable"), "{text}");
}

#[test]
fn hostile_content_is_named() {
    for hostile in ["", "[]", "{\"files\":[\"../../x-Data.db\"]}", "{\"files\":[\"a/b/c-Data.db\"]}"] {
        let text = broken(|_, zero, one| fs::write(manifest(zero, one), hostile).expect("write"));
        assert!(text.contains("manifest.json"), "{text}");
    }
    for hostile in ["", "../Data.db\n", "Data.db\0\n"] {
        let text = broken(|_, zero, _| fs::write(zero.join("nb-1-big-TOC.txt"), hostile).expect("write"));
        assert!(text.contains("nb-1-big-TOC.txt: TOC.txt names "), "{text}");
    }
}

#[test]
fn many_problems_are_told_shortly() {
    let lines = checked(|_, zero, _| {
        (0..50).for_each(|number| fs::write(zero.join(format!("stranger{number}")), "x").expect("write"));
    });
    let lines = lines.expect("checked");
    assert_eq!(lines.len(), 4);
    assert_eq!(lines.last().map(String::as_str), Some("ks.plain: 47 more problems like these"));
}

#[test]
fn links_and_special_files_are_refused_by_name() {
    let error = |damage: &dyn Fn(&Path)| {
        checked(|_, zero, _| damage(zero)).expect("an answer that names it").join("\n")
    };
    let text = error(&|zero| symlink("/etc/passwd", zero.join("nb-3-big-Data.db")).expect("symlink"));
    assert!(text.contains("nb-3-big-Data.db is a symbolic link"), "{text}");
    let text = error(&|zero| {
        assert!(
            Command::new("mkfifo").arg(zero.join("nb-3-big-Data.db")).status().expect("mkfifo").success()
        );
    });
    assert!(text.contains("nb-3-big-Data.db is a FIFO"), "{text}");
}

#[test]
fn what_lies_in_the_way_of_a_snapshot_leaves_the_table_without_one() {
    let text = checked(|_, zero, _| {
        let snapshots = zero.parent().expect("the directory of all snapshots");
        fs::remove_dir_all(snapshots).expect("remove");
        fs::write(snapshots, "a file").expect("write");
    });
    let text = text.expect("an answer that names the table").join("\n");
    assert!(text.contains("ks.plain: "), "{text}");
}

#[test]
fn a_linked_keyspace_is_explained() {
    let text = checked(|node, _, _| {
        fs::rename(node.data[0].join("system"), node.base().join("moved")).expect("rename");
        symlink(node.base().join("moved"), node.data[0].join("system")).expect("symlink");
    });
    let text = text.expect("checked").join("\n");
    assert!(
        text.contains("system.empty: it has no snapshot") && text.contains("is a symbolic link"),
        "{text}"
    );
}

#[test]
fn a_table_of_before_2_1_is_told_as_that() {
    let text = broken(|node, _, _| {
        let empty = node.table(0, "system", "empty");
        fs::rename(&empty, node.data[0].join("system/empty")).expect("rename");
    });
    assert!(
        text.starts_with(&format!("system.empty: it has no snapshot {TAG}; it is a table of before ")),
        "{text}"
    );
    assert!(text.contains("/system/empty has no table id") && text.contains("copy the rows"), "{text}");
}

#[test]
fn a_missing_data_directory_is_an_error() {
    let node = FakeNode::new(1);
    fs::remove_dir(&node.data[0]).expect("remove");
    let error = check(&Context::default(), &node.request(TAG, &[])).expect_err("missing").into_agent_error();
    assert!(error.message.contains("cannot open the data directory"), "{error}");
}
