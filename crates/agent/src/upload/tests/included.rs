//! Clearing `backups/`: exactly what a committed increment holds, or has ruled out; and when what lies there counts as whole.

use std::time::Duration;

use cassy_agent_protocol::ClearIncludedRequest;

use super::increments::{CUT, Chain, born_ms, id_of, rows_of, wait_until_after};
use super::*;

fn request(chain: &Chain, summary: &UploadSummary) -> ClearIncludedRequest {
    let UploadRequest { store, cluster_id, host_id, backup_id, snapshot, .. } = &chain.bench.request;
    ClearIncludedRequest {
        store: store.clone(),
        manifest: ParentManifest {
            key: summary.manifest.clone(),
            backup_id: id_of(summary).unwrap_or(*backup_id),
            blake3: summary.blake3.clone(),
        },
        cluster_id: cluster_id.clone(),
        host_id: *host_id,
        data_directories: snapshot.data_directories.clone(),
    }
}

async fn clear(chain: &Chain, request: &ClearIncludedRequest) -> Result<u64, UploadError> {
    let cleared = clear_included(&Context::default(), request, &chain.bench.spool).await;
    assert_eq!(fs::read_dir(&chain.bench.spool).expect("list").count(), 0, "the spool is empty again");
    cleared
}

/// Every file of the node outside of the store, and whether it is there.
fn files(chain: &Chain) -> Vec<String> {
    let mut open = chain.bench.node.data.clone();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if fs::symlink_metadata(&path).expect("look").is_dir() {
            open.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()));
        } else {
            found.push(path.to_str().expect("text").to_owned());
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn exactly_what_the_increment_holds_goes() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    let before = files(&chain);
    for (directory, index, name) in [(0, "", "nb-2-big"), (1, ".idx", "nb-2-big"), (1, "", "nb-3-big")] {
        chain.bench.node.flush_incremental(&chain.plain(directory), index, name, 40, 100);
    }
    fs::write(plain.join("backups/README"), "x").expect("write");
    let first = chain.increment(&base).await;
    // What came after it, what has taken the place of a file of it, and one of which a part has changed.
    chain.bench.node.flush_incremental(&plain, "", "nb-4-big", 50, 100);
    replace(&chain.plain(1).join("backups/nb-3-big-Index.db"), &crate::snapshot::fake::content(41, 300));
    let request = request(&chain, &first);
    assert_eq!(clear(&chain, &request).await.expect("cleared"), 12);
    assert_eq!(clear(&chain, &request).await.expect("again"), 0);
    let left: Vec<_> = files(&chain).into_iter().filter(|file| file.contains("/backups/")).collect();
    assert_eq!(left.len(), 13, "{left:?}");
    assert!(
        left.iter().all(|file| ["README", "nb-4-big", "nb-3-big"].iter().any(|kept| file.contains(kept)))
    );
    let now = files(&chain);
    assert!(before.iter().all(|file| now.contains(file)), "live files and snapshots stay");
    // The next increment has what came after.
    let second = chain.increment(&first).await;
    assert_eq!(second.taken, 1);
}

#[tokio::test]
async fn what_was_begun_is_ended_by_another_agent() {
    // Clearing leaves the first; what was noted while it was linked, and is superseded in part, the second.
    for gone in [["TOC.txt", "Index.db"], ["TOC.txt", "Data.db"]] {
        let mut chain = Chain::begin().await;
        let base = chain.base.clone();
        chain.bench.node.flush_incremental(&chain.plain(0), "", "nb-2-big", 40, 100);
        let first = chain.increment(&base).await;
        for gone in gone {
            fs::remove_file(chain.plain(0).join(format!("backups/nb-2-big-{gone}"))).expect("remove");
        }
        assert_eq!(clear(&chain, &request(&chain, &first)).await.expect("cleared"), 4, "{gone:?}");
    }
}

#[tokio::test]
async fn what_has_another_name_in_the_manifest_goes_too() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    chain.bench.node.compact_away(&plain, "nb-1-big");
    chain.bench.node.flush_incremental(&plain, "", "nb-1-big", 50, 5000);
    let first = chain.increment(&base).await;
    assert_eq!(clear(&chain, &request(&chain, &first)).await.expect("cleared"), 6);
    // The same name again, and other rows.
    chain.bench.node.compact_away(&plain, "nb-1-big");
    chain.bench.node.flush_incremental(&plain, "", "nb-1-big", 60, 5000);
    assert_eq!(clear(&chain, &request(&chain, &first)).await.expect("nothing"), 0);
}

#[tokio::test]
async fn what_a_truncation_has_ruled_out_goes_when_it_was_there_before() {
    let mut chain = Chain::begin().await;
    let (base, cut) = (chain.base.clone(), chain.cut(1));
    chain.bench.node.flush_incremental(&cut, "", "nb-2-big", 40, 100);
    let at_ms = born_ms(&cut.join("nb-2-big-TOC.txt"));
    ["nb-1-big", "nb-2-big"].iter().for_each(|name| chain.bench.node.compact_away(&cut, name));
    chain.bench.node.write_local("nb-2-big", &[(CUT, at_ms)]);
    wait_until_after(chain.bench.node.base(), at_ms);
    chain.bench.node.flush_incremental(&cut, "", "nb-3-big", 50, 100);
    chain.bench.request.created_at_ms = at_ms;
    let first = chain.increment(&base).await;
    // It may have been linked after the increment had begun.
    assert_eq!(clear(&chain, &request(&chain, &first)).await.expect("cleared"), 6);
    assert!(cut.join("backups/nb-2-big-Data.db").exists() && !cut.join("backups/nb-3-big-Data.db").exists());
    // An hour later it was there for sure.
    chain.bench.request.created_at_ms = at_ms + 3_600_000;
    let second = chain.increment(&first).await;
    chain.bench.node.flush_incremental(&cut, "", "nb-4-big", 60, 100);
    assert_eq!(clear(&chain, &request(&chain, &second)).await.expect("cleared"), 6);
    assert!(!cut.join("backups/nb-2-big-Data.db").exists() && cut.join("backups/nb-4-big-Data.db").exists());
}

#[tokio::test]
async fn links_are_not_followed_and_other_directories_not_touched() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    chain.bench.node.flush_incremental(&chain.plain(0), "", "nb-2-big", 40, 100);
    chain.bench.node.flush_incremental(&chain.plain(1), "", "nb-3-big", 50, 100);
    let first = chain.increment(&base).await;
    let outside = chain.bench.node.base().join("outside");
    fs::rename(chain.plain(0).join("backups"), &outside).expect("move");
    std::os::unix::fs::symlink(&outside, chain.plain(0).join("backups")).expect("link");
    let mut wanted = request(&chain, &first);
    wanted.data_directories.pop();
    assert_eq!(clear(&chain, &wanted).await.expect("nothing"), 0);
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 6);
    assert_eq!(fs::read_dir(chain.plain(1).join("backups")).expect("list").count(), 6);
}

#[tokio::test]
async fn a_manifest_of_something_else_clears_nothing() {
    let mut chain = Chain::begin().await;
    let base = chain.base.clone();
    chain.bench.node.flush_incremental(&chain.plain(0), "", "nb-2-big", 40, 100);
    let first = chain.increment(&base).await;
    let good = request(&chain, &first);
    type Change = fn(&mut ClearIncludedRequest);
    let changes: [(&str, Change); 5] = [
        ("digest", |request| request.manifest.blake3 = "0".repeat(64)),
        ("backup", |request| request.manifest.backup_id = BackupId::at(9)),
        ("node", |request| request.host_id = uuid::Uuid::from_u128(9).into()),
        ("cluster", |request| request.cluster_id = "Other-1".parse().expect("id")),
        ("gone", |request| request.manifest.key = "cassy/1/x".parse().expect("a key")),
    ];
    let before = files(&chain);
    for (what, change) in changes {
        let mut wanted = good.clone();
        change(&mut wanted);
        clear(&chain, &wanted).await.expect_err(what);
    }
    // A snapshot has superseded its files by its list, and by nothing else.
    let error = clear(&chain, &request(&chain, &base)).await.expect_err("no increment");
    assert!(error.to_string().contains("it is no increment"), "{error}");
    assert_eq!(files(&chain), before);

    // Nor does one with a corrupt SSTable, or a truncated one.
    fs::write(chain.plain(0).join("backups/nb-2-big-Data.db"), "damaged").expect("write");
    let corrupt = chain.increment(&base).await;
    let error = clear(&chain, &request(&chain, &corrupt)).await.expect_err("corrupt");
    assert!(error.to_string().contains("is corrupt"), "{error}");
    let path = chain.bench.node.base().join("store").join(first.manifest.as_str());
    let mut stored = fs::read(&path).expect("read");
    stored.truncate(stored.len() - 20);
    fs::write(&path, &stored).expect("write");
    let mut truncated = good;
    truncated.manifest.blake3 = blake3::hash(&stored).to_hex().to_string();
    let error = clear(&chain, &truncated).await.expect_err("truncated");
    assert!(matches!(error, UploadError::Parent { .. }), "{error}");
    assert!(chain.plain(0).join("backups/nb-2-big-TOC.txt").exists());
}

/// The witness is linked to each live file right before it is looked at, which changes its `ctime`.
#[tokio::test]
async fn a_live_sstable_counts_from_when_it_was_written() {
    let mut chain = Chain::begin().await;
    let (base, plain) = (chain.base.clone(), chain.plain(0));
    chain.bench.node.flush_incremental(&plain, "", "nb-2-big", 40, 100);
    let written = SystemTime::now();
    let next = plain.join("later");
    loop {
        fs::write(&next, "x").expect("write");
        if fs::metadata(&next).and_then(|file| file.modified()).expect("its time") > written {
            break;
        }
    }
    fs::remove_file(next).expect("remove");
    let toc = plain.join("nb-2-big-TOC.txt");
    let later = fs::read_to_string(&toc).expect("read") + "SAI+aa+later+Meta.db\n";
    fs::write(toc, later).expect("write");
    let first = chain.increment_at(&base, written + Duration::from_secs(59)).await.expect("uploaded");
    assert_eq!((first.taken, first.left), (0, 1), "it is being linked");
    let second = chain.increment_at(&first, written + Duration::from_secs(61)).await.expect("uploaded");
    assert_eq!((second.taken, second.left), (1, 0));
    assert_eq!(chain.rows(&second, "nb-2-big").await, [rows_of(40, 100)]);
}
