//! What lies in the store or in the database that no server of ours has put there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::world::{Action, NODE, Ring, Server, backup, host_id, restore};
use cassy_catalog::{JobKind, JobPart, NewJob, NodeRow};
use cassy_control::{ClusterSelector, HistorySelector, NodeEntry, OperationErrorKind, Operations, Status};

/// A server with one backup that is complete.
struct Bench {
    directory: tempfile::TempDir,
    ring: Arc<Ring>,
    server: Server,
    cluster: String,
    snapshot: String,
}

impl Bench {
    async fn new() -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        let answer = server.service.take_backup(backup(&cluster)).await.unwrap();
        assert_eq!(server.settled(&cluster).await[0].0, Status::Completed);
        server.idle().await;
        Self { directory, ring, server, cluster, snapshot: answer.snapshot_id }
    }

    /// The only file below the store whose path holds this.
    fn stored(&self, part: &str) -> PathBuf {
        let found: Vec<_> = walk(&self.directory.path().join("store"));
        let mut found = found.into_iter().filter(|path| path.to_str().unwrap().contains(part));
        found.next().unwrap_or_else(|| panic!("nothing is stored as {part}"))
    }

    fn cluster_manifest(&self) -> PathBuf {
        self.stored(&format!("backup/{}.json", self.snapshot))
    }

    /// The next backup, once it has ended.
    async fn next_backup(&self) -> (Status, String) {
        self.server.service.take_backup(backup(&self.cluster)).await.unwrap();
        let newest = self.server.settled(&self.cluster).await.remove(0);
        self.server.idle().await;
        newest
    }
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(path) = open.pop() {
        match path.is_dir() {
            true => open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path())),
            false => found.push(path),
        }
    }
    found
}

#[tokio::test]
async fn a_cluster_manifest_that_cannot_be_believed_is_refused_and_no_node_is_asked() {
    let bench = Bench::new().await;
    let path = bench.cluster_manifest();
    let whole = fs::read_to_string(&path).unwrap();
    let utf16: Vec<u8> = whole.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let replaced = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from} is in {whole}");
        whole.replacen(from, to, 1).into_bytes()
    };
    let key = "\"key\": \"cassy/1/";
    let address = format!("\"address\": \"{NODE}\"");
    let other_host = "6a5c7f0e-0000-4000-8000-000000000002";
    let hostile = [
        (whole.as_bytes()[..whole.len() / 2].to_vec(), "EOF"),
        (Vec::new(), "{"),
        (utf16, "line 1"),
        (format!("\u{feff}{whole}").into_bytes(), "{"),
        (replaced("\"format\": 1", "\"format\": 1, \"format\": 1"), "duplicate field"),
        (replaced("\"least_reader\": 1", "\"least_reader\": 9"), "does not exist"),
        (
            replaced("\"format\": 1,\n  \"least_reader\": 1", "\"format\": 9,\n  \"least_reader\": 9"),
            "version 9",
        ),
        (replaced("\"sstables\": 0", "\"sstables\": -1"), "invalid value"),
        (replaced("\"sstables\": 0", "\"sstables\": 1e400"), "out of range"),
        (replaced("\"sstables\": 0", "\"sstables\": 18446744073709551616"), "invalid type"),
        (replaced("\"sstables\": 0", "\"sstables\": NaN"), "expected value"),
        (replaced(key, "\"key\": \"cassy/../1/"), "segment . or .."),
        (replaced(key, "\"key\": \"cassy//1/"), "empty segment"),
        (replaced(key, "\"key\": \"/cassy/1/"), "empty segment"),
        (replaced(".jsonl.zst\"", ".jsonl.zst/\""), "empty segment"),
        (replaced(key, &format!("\"key\": \"{}/", "x/".repeat(600))), "key"),
        (replaced(&host_id().to_string(), other_host), "own prefix"),
        (replaced(&address, "\"address\": \"169.254.169.254\""), "not the IP address of a node"),
        (replaced(&address, "\"address\": \"metadata.internal\""), "not the IP address of a node"),
        (replaced(&address, "\"address\": \"-oProxyCommand=id\""), "not the IP address of a node"),
        (replaced("\"cluster_id\": \"", "\"cluster_id\": \"x"), "own prefix"),
        (replaced(&bench.snapshot, "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3"), "another backup"),
    ];
    for (content, reason) in hostile {
        fs::write(&path, &content).unwrap();
        bench.ring.log.lock().unwrap().clear();
        let request = restore(&bench.cluster, &bench.snapshot);
        let error = bench.server.service.restore_backup(request).await.unwrap_err();
        assert_eq!(error.kind, OperationErrorKind::FailedPrecondition, "{error:?}");
        assert!(
            error.message.contains("cluster manifest") && error.message.contains(reason),
            "{reason}: {error}"
        );
        assert_eq!(*bench.ring.log.lock().unwrap(), Vec::<String>::new(), "{reason}");
    }
    fs::write(&path, &whole).unwrap();
    let request = restore(&bench.cluster, &bench.snapshot);
    bench.server.service.restore_backup(request).await.unwrap();
    bench.server.idle().await;
}

#[tokio::test]
async fn a_cluster_manifest_of_ten_gigabytes_is_refused_by_its_size() {
    let bench = Bench::new().await;
    fs::File::options().write(true).open(bench.cluster_manifest()).unwrap().set_len(10 << 30).unwrap();
    let request = restore(&bench.cluster, &bench.snapshot);
    let error = bench.server.service.restore_backup(request).await.unwrap_err();
    assert_eq!(error.kind, OperationErrorKind::FailedPrecondition, "{error:?}");
    assert!(error.message.contains("cannot read the cluster manifest"), "{error}");
}

#[tokio::test]
async fn times_at_both_ends_of_all_time_are_no_obstacle() {
    for time in ["-9223372036854775808", "-1", "253402300799999", "9223372036854775807"] {
        let bench = Bench::new().await;
        let path = bench.cluster_manifest();
        let whole = fs::read_to_string(&path).unwrap();
        let (before, after) = whole.split_once("\"created_at_ms\": ").unwrap();
        let (_, after) = after.split_once(',').unwrap();
        fs::write(&path, format!("{before}\"created_at_ms\": {time},{after}")).unwrap();
        let request = restore(&bench.cluster, &bench.snapshot);
        bench.server.service.restore_backup(request).await.unwrap();
        bench.server.idle().await;
        assert_eq!(bench.next_backup().await.0, Status::Completed);
    }
}

/// What lies beside the manifests is never taken for one, and never deleted.
#[tokio::test]
async fn strangers_among_the_manifests_are_left_alone() {
    let bench = Bench::new().await;
    let manifest = bench.stored("/manifest/");
    let names = [
        "$(id).jsonl.zst",
        ";rm -rf.jsonl.zst",
        "..jsonl.zst",
        "--option.jsonl.zst",
        "caf\u{e9}.jsonl.zst",
        "0192F0C1-2D3E-7A4B-8C5D-6E7F8091A2B3.jsonl.zst",
        "README",
    ];
    for name in names {
        fs::write(manifest.with_file_name(name), name).unwrap();
    }
    // As new as a name can be, and nothing of ours: it may be chosen as the parent, and the agent does not rely on it.
    let newest = manifest.with_file_name("ffffffff-ffff-7fff-bfff-ffffffffffff.jsonl.zst");
    fs::write(&newest, "not a manifest").unwrap();
    assert_eq!(bench.next_backup().await.0, Status::Completed);
    for name in names {
        assert_eq!(fs::read_to_string(manifest.with_file_name(name)).unwrap(), name);
    }
    assert_eq!(fs::read_to_string(newest).unwrap(), "not a manifest");
}

#[tokio::test]
async fn jobs_that_nobody_can_read_end_failed_and_the_server_works() {
    let bench = Bench::new().await;
    let stored = bench.server.catalog.job(&bench.snapshot).await.unwrap().unwrap();
    let head = stored.state_json.replacen("\"finished\"", "\"upload\"", 1);
    let part = stored.parts[0].state_json.replacen("\"commit\"", "\"upload\"", 1);
    let deep = "[".repeat(100_000);
    let key = "\"manifest\":\"cassy/1/";
    assert!(part.contains(key), "{part}");
    let of_any = |whole: &str| {
        [
            String::new(),
            "null".to_owned(),
            whole[..whole.len() / 2].to_owned(),
            format!("\u{feff}{whole}"),
            format!("{whole}{whole}"),
            deep.clone(),
            format!("{{\"notes\":{deep}"),
            whole.replacen("\"upload\"", "\"launder\"", 1),
            "\u{0}".to_owned(),
            "'; DROP TABLE job; --".to_owned(),
        ]
    };
    let of_parts = [
        part.replacen("\"attempt\":1", "\"attempt\":1,\"attempt\":1", 1),
        part.replacen("\"attempt\":1", "\"attempt\":-1", 1),
        part.replacen("\"attempt\":1", "\"attempt\":1e400", 1),
        part.replacen("\"attempt\":1", "\"attempt\":4294967296", 1),
        part.replacen("\"attempt\":1", "\"attempt\":NaN", 1),
        part.replacen(key, "\"manifest\":\"cassy/../../1/", 1),
        part.replacen(key, "\"manifest\":\"cassy//1/", 1),
        part.replacen(key, "\"manifest\":\"/cassy/1/", 1),
        part.replacen(key, &format!("\"manifest\":\"{}/", "x/".repeat(600)), 1),
        part.replacen(".jsonl.zst\"", ".jsonl.zst/\"", 1),
    ];
    let heads = of_any(&head).into_iter().chain([head.replacen(&bench.snapshot, "../../x", 1)]);
    let heads = heads.map(|bad| (bad, part.clone()));
    let parts = of_any(&part).into_iter().chain(of_parts).map(|bad| (head.clone(), bad));
    let hostile: Vec<_> = heads.chain(parts).collect();
    for (number, (state_json, part)) in hostile.iter().enumerate() {
        let job = NewJob {
            job_id: format!("bad {number}"),
            kind: if number % 2 == 0 { JobKind::Backup } else { JobKind::Restore },
            operation_type: 2,
            cluster_id: bench.cluster.clone(),
            snapshot_id: format!("$(id) {number}"),
            stage: "upload".to_owned(),
            state_json: state_json.clone(),
            parts: vec![JobPart { name: NODE.to_owned(), state_json: part.clone() }],
            created_at: i64::MAX - i64::try_from(number).unwrap(),
            rows: vec![NodeRow { target_ip: NODE.to_owned(), status: 2, message: String::new() }],
            key: None,
        };
        bench.server.catalog.create_job(bench.server.lease.epoch, &job).await.unwrap();
    }
    bench.server.service.shut_down().await;
    bench.ring.log.lock().unwrap().clear();
    let again = Server::start(bench.directory.path(), &bench.ring).await;
    assert_eq!(again.service.list_clusters(ClusterSelector::default()).await.unwrap().len(), 1);
    assert_eq!(*bench.ring.log.lock().unwrap(), Vec::<String>::new(), "no job was taken up");
    let answer = again.service.take_backup(backup(&bench.cluster)).await.unwrap();
    again.settled(&bench.cluster).await;
    let selector = HistorySelector { snapshot_id: Some(answer.snapshot_id), ..HistorySelector::default() };
    assert_eq!(again.service.list_backups(selector).await.unwrap()[0].status, Status::Completed);
    again.idle().await;
    let backups = again.service.list_backups(HistorySelector::default()).await.unwrap();
    let restores = again.service.list_restores(HistorySelector::default()).await.unwrap();
    let failed = |row: &&NodeEntry| row.status == Status::Failed && row.message.contains("cannot be read");
    assert_eq!(backups.iter().chain(&restores).filter(failed).count(), hostile.len());
}

#[tokio::test]
async fn a_node_at_work_refuses_a_restore_and_names_the_job() {
    let bench = Bench::new().await;
    bench.ring.on("upload", Action::Hang);
    let running = bench.server.service.take_backup(backup(&bench.cluster)).await.unwrap();
    let request = restore(&bench.cluster, &bench.snapshot);
    let error = bench.server.service.restore_backup(request).await.unwrap_err();
    assert_eq!(error.kind, OperationErrorKind::FailedPrecondition);
    assert!(error.message.contains(NODE) && error.message.contains(&running.snapshot_id), "{error}");
    let request = restore(&bench.cluster, &running.snapshot_id);
    let error = bench.server.service.restore_backup(request).await.unwrap_err();
    assert!(error.message.contains("is under way") && !error.hints.is_empty(), "{error}");
    bench.ring.heal();
    bench.server.idle().await;
}

/// What stands in the way (another version's files, another partitioner, another number of tokens) comes from the
/// node's plan, and reaches whoever asked, line by line.
#[tokio::test]
async fn a_restore_to_a_cluster_of_another_kind_is_refused() {
    let bench = Bench::new().await;
    let findings =
        ["partitioner is \"RandomPartitioner\"", "num_tokens is \"16\"", "cluster_name is \"<b>\u{202e}\""];
    bench.ring.findings.lock().unwrap().extend(findings.map(str::to_owned));
    let request = restore(&bench.cluster, &bench.snapshot);
    let error = bench.server.service.restore_backup(request).await.unwrap_err();
    assert_eq!(error.kind, OperationErrorKind::FailedPrecondition);
    assert!(findings.iter().all(|finding| error.message.contains(finding)), "{error}");
}

/// Statements, tags and marks in every text that a client chooses: nothing is found, nothing is changed.
#[tokio::test]
async fn statements_in_every_field_find_nothing_and_change_nothing() {
    let bench = Bench::new().await;
    let before = bench.server.service.list_clusters(ClusterSelector::default()).await.unwrap();
    for text in [
        "'; DROP TABLE job; --",
        "' OR '1'='1",
        "%",
        "<script>alert(1)</script>",
        "\u{202e}",
        "a,b",
        "-x",
        "a\0b",
    ] {
        let own = || Some(text.to_owned());
        let selector = ClusterSelector { cluster_id: own(), limit: None };
        assert!(bench.server.service.list_clusters(selector).await.unwrap().is_empty());
        for selector in [
            HistorySelector { snapshot_id: own(), ..HistorySelector::default() },
            HistorySelector { cluster_id: own(), target_ip: own(), ..HistorySelector::default() },
        ] {
            assert!(bench.server.service.list_backups(selector.clone()).await.unwrap().is_empty());
            assert!(bench.server.service.list_restores(selector).await.unwrap().is_empty());
        }
        let error = bench.server.service.take_backup(backup(text)).await.unwrap_err();
        assert_eq!(error.kind, OperationErrorKind::InvalidArgument, "{error}");
        let mut request = backup(&bench.cluster);
        request.target_ips = vec![text.to_owned()];
        let error = bench.server.service.take_backup(request).await.unwrap_err();
        assert_eq!(error.kind, OperationErrorKind::InvalidArgument, "{error}");
        let error = bench.server.service.restore_backup(restore(text, &bench.snapshot)).await.unwrap_err();
        assert_eq!(error.kind, OperationErrorKind::InvalidArgument, "{error}");
        let error = bench.server.service.restore_backup(restore(&bench.cluster, text)).await.unwrap_err();
        assert_eq!(error.kind, OperationErrorKind::NotFound, "{error}");
        let mut request = restore(&bench.cluster, &bench.snapshot);
        request.target_ips = vec![text.to_owned()];
        let error = bench.server.service.restore_backup(request).await.unwrap_err();
        assert_eq!(error.kind, OperationErrorKind::InvalidArgument, "{error}");
    }
    let after = bench.server.service.list_clusters(ClusterSelector::default()).await.unwrap();
    assert_eq!(after, before);
    assert_eq!(bench.next_backup().await.0, Status::Completed);
}
