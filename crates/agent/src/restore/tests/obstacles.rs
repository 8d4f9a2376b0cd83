//! What stands in the way of a restore: all of it is found at once, each with what to do, and nothing changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cassy_agent_protocol::{RestorePlan, RestoreRequest, RestoreWay};

use super::super::error::RestoreError;
use super::super::facts::Facts;
use super::super::{gather, manifest::Manifest, plan};
use super::fixture::{Backup, Node, table};
use crate::context::Context;

pub(super) async fn facts(node: &Node, backup: &Backup, request: &RestoreRequest) -> Facts {
    let store = backup.store();
    let manifest =
        Manifest::fetch(&Context::default(), store.as_ref(), request, &node.path("spool")).await.unwrap();
    gather::gather(&node.machine, request, &manifest).unwrap()
}

async fn planned(node: &Node, backup: &Backup) -> RestorePlan {
    let request = backup.request(node).await;
    super::super::plan(&Context::default(), &node.machine, &request, &node.path("spool")).await.unwrap()
}

#[track_caller]
fn has(texts: &[String], parts: &[&str]) {
    assert!(texts.iter().any(|text| parts.iter().all(|part| text.contains(part))), "{parts:?} in {texts:#?}");
}

#[tokio::test]
async fn a_good_node_has_no_findings() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let plan = planned(&node, &backup).await;
    assert_eq!(plan.findings, Vec::<String>::new());
    has(&plan.warnings, &["caches", "one file", "deletes saved caches"]);
    has(&plan.warnings, &["gc_grace_seconds"]);
    assert_eq!((plan.files, plan.data_directories.len(), plan.free_bytes.len()), (25, 2, 2));
    assert!(plan.bytes > 300_000 && node.names().is_empty());
}

#[tokio::test]
async fn everything_in_the_way_is_found_at_once() {
    let (backup, node) = (Backup::whole().await, Node::new());
    node.yaml(
        "cluster_name: other\nnum_tokens: 16\nendpoint_snitch: GossipingPropertyFileSnitch\n\
        partitioner: org.apache.cassandra.dht.RandomPartitioner\nnative_transport_port: 9142\n",
    );
    fs::write(node.path("conf/cassandra-rackdc.properties"), "dc=dc2\n").unwrap();
    fs::create_dir_all(node.path("data/ks/t")).unwrap();
    fs::write(node.path("data/ks/t/nb-9-big-Data.db"), "x").unwrap();
    fs::write(node.path("commitlog/CommitLog-7-1.log"), "x").unwrap();
    fs::write(node.path("hints/a.hints"), "x").unwrap();
    fs::write(node.path("hints/b.hints"), "x").unwrap();
    fs::create_dir(node.path("data2/node-backup")).unwrap();
    fs::write(node.path("data2/node-backup/old"), "x").unwrap();
    let process = node.path("proc/41");
    fs::create_dir(&process).unwrap();
    let yaml = node.path("conf/cassandra.yaml");
    let command = format!(
        "java\0-Dcassandra.config=file://{}\0org.apache.cassandra.service.CassandraDaemon\0",
        yaml.display()
    );
    fs::write(process.join("cmdline"), command).unwrap();
    fs::write(node.path("proc/self/net/tcp"), "head\n 0: 0100007F:23B6 00000000:0000 0A\n").unwrap();
    let plan = planned(&node, &backup).await;
    for parts in [
        &["process 41", "stop it"][..],
        &["127.0.0.1:9142 (native_transport_port)"],
        &["cluster_name is \"other\"", "cluster_name: 'it''s'"],
        &["num_tokens is \"16\"", "num_tokens: 4"],
        &["partitioner is", "Murmur3Partitioner"],
        &["dc is dc2", "dc=dc1"],
        &["rack is not set", "rack=r1"],
        &["/data is not empty", "one file", "nb-9-big-Data.db"],
        &["commit log directory", "CommitLog-7-1.log"],
        &["hints directory", "holds 2 files, such as /"],
        &["data2/node-backup is in the way", "it holds old"],
    ] {
        has(&plan.findings, parts);
    }
    let request = backup.request(&node).await;
    let error = node.run(&request).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Findings { findings } if *findings == plan.findings), "{error:?}");
    assert_eq!(node.names(), ["ks", "node-backup"]);
}

#[tokio::test]
async fn a_number_that_is_none_is_not_taken_for_absent() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let yaml = node.path("conf/cassandra.yaml");
    let text = fs::read_to_string(&yaml).unwrap();
    fs::write(&yaml, text.replace("num_tokens: 4", "num_tokens: four")).unwrap();
    let plan = planned(&node, &backup).await;
    has(&plan.findings, &["num_tokens is \"four\"", "not a number", "num_tokens: 4"]);
    assert_eq!(plan.findings.len(), 1, "{:?}", plan.findings);
}

#[tokio::test]
async fn an_interrupted_restore_of_another_backup_is_named() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    assert!(node.run_killed(&request, 50).await);
    let mut other = Backup::whole().await;
    other.header.backup_id = cassy_backup_format::BackupId::at(1_800_000_000_000);
    let plan = planned(&node, &other).await;
    let id = backup.header.backup_id.to_string();
    has(&plan.findings, &[&id, "restore that backup again to finish it"]);
    assert!(node.is_marked());
    fs::write(node.path("data/stranger"), "x").unwrap();
    has(&planned(&node, &backup).await.findings, &["stranger", "move them aside"]);
}

#[tokio::test]
async fn an_interrupted_restore_downloads_only_what_is_missing() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let all = planned(&node, &backup).await.bytes;
    let request = backup.request(&node).await;
    let mut change = 80;
    while node.run_killed(&request, change).await
        && !node.files()[0].keys().any(|path| path.starts_with("Mixed"))
    {
        change += 5;
    }
    let plan = planned(&node, &backup).await;
    assert_eq!(plan.findings, Vec::<String>::new());
    assert!(plan.bytes < all, "{} of {all}", plan.bytes);
}

#[tokio::test]
async fn the_configuration_has_to_be_found() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let mut request = backup.request(&node).await;
    for yaml in [Some("/nonexistent/cassandra.yaml"), None] {
        request.cassandra_yaml = yaml.map(str::to_owned);
        let plan = super::super::plan(&Context::default(), &node.machine, &request, &node.path("spool"))
            .await
            .unwrap();
        has(&plan.findings, &["cassandra.yaml", "name it with cassandra_yaml"]);
    }
    fs::write(node.path("conf/cassandra.yaml"), "a: [").unwrap();
    has(&planned(&node, &backup).await.findings, &["not a configuration of Cassandra", "line "]);
    fs::write(node.path("conf/cassandra.yaml"), "data_file_directories: []\n").unwrap();
    assert!(!planned(&node, &backup).await.findings.is_empty());
}

#[tokio::test]
async fn the_recorded_configuration_is_used_when_none_is_named() {
    let (mut backup, node) = (Backup::whole().await, Node::new());
    backup.header.configuration.yaml_path =
        Some(node.path("conf/cassandra.yaml").to_str().unwrap().to_owned());
    let mut request = backup.request(&node).await;
    request.cassandra_yaml = None;
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
}

#[tokio::test]
async fn space_owner_and_access_are_looked_at() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = backup.request(&node).await;
    let mut facts = facts(&node, &backup, &request).await;
    assert!(plan::plan(&facts).findings.is_empty());
    // Both directories are on one file system: their needs add up.
    facts.roots[0].missing_bytes = 700 << 20;
    facts.roots[1].missing_bytes = 700 << 20;
    for root in &mut facts.roots {
        root.free_bytes = 1 << 30;
    }
    has(&plan::plan(&facts).findings, &["bytes free", "/data2"]);
    facts.roots[0].missing_bytes = 100 << 20;
    assert!(plan::plan(&facts).findings.is_empty());
    facts.roots[1].device += 1;
    facts.roots[1].missing_bytes = 2 << 30;
    has(&plan::plan(&facts).findings, &["bytes free", "/data2"]);
    facts.roots[1].missing_bytes = 0;
    facts.roots[0].writable = false;
    has(&plan::plan(&facts).findings, &["must not write to data directory"]);
    facts.roots[0].exists = false;
    has(&plan::plan(&facts).findings, &["does not exist and user", "must not make it"]);
    facts.roots[0].read_only = true;
    has(&plan::plan(&facts).findings, &["is mounted read-only", "mount it read-write"]);
    (facts.roots[0].exists, facts.roots[0].read_only) = (true, false);
    facts.roots[0].writable = true;
    facts.agent = super::super::facts::Agent { uid: 4711, name: "backup".to_owned() };
    has(&plan::plan(&facts).findings, &["the agent runs as backup", "let the agent run as root"]);
    facts.agent.uid = 0;
    facts.backup.configuration.owner = Some("cassandra".to_owned());
    facts.roots[0].owner = super::super::facts::Owner::Known { uid: 0, name: "root".to_owned() };
    has(&plan::plan(&facts).findings, &["chown cassandra"]);
    facts.roots[0].owner = super::super::facts::Owner::NoSuchUser { name: "cassandra".to_owned() };
    has(&plan::plan(&facts).findings, &["neither does user cassandra"]);
}

#[tokio::test]
async fn newer_formats_need_the_settings_they_were_written_with() {
    let (mut backup, node) = (Backup::whole().await, Node::new());
    let was = &mut backup.header.configuration;
    was.uuid_sstable_identifiers = Some(true);
    was.sstable_format = Some("bti".to_owned());
    was.storage_compatibility_mode = Some("NONE".to_owned());
    let plan = planned(&node, &backup).await;
    has(
        &plan.findings,
        &["uuid_sstable_identifiers_enabled is not set", "uuid_sstable_identifiers_enabled: true"],
    );
    has(&plan.findings, &["selected_format: bti"]);
    has(&plan.findings, &["storage_compatibility_mode: NONE"]);
    node.yaml(&format!(
        "{}uuid_sstable_identifiers_enabled: true\nsstable: {{selected_format: bti}}\n\
        storage_compatibility_mode: NONE\n",
        super::fixture::YAML
    ));
    assert!(planned(&node, &backup).await.findings.is_empty());
    // The other way round is an upgrade.
    let old = Backup::whole().await;
    assert!(planned(&node, &old).await.findings.is_empty());
}

#[tokio::test]
async fn a_nodes_data_goes_back_to_its_own_address() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let mut request = backup.request(&node).await;
    request.target = "10.0.0.9".to_owned();
    let plan =
        super::super::plan(&Context::default(), &node.machine, &request, &node.path("spool")).await.unwrap();
    has(&plan.findings, &["the backup is of 127.0.0.1, and this is 10.0.0.9", "source_of"]);
}

/// What it knew of the others, and they of it, was by addresses.
#[tokio::test]
async fn a_node_that_takes_anothers_place_gets_all_but_the_peers() {
    let (mut backup, node) = (Backup::whole().await, Node::new());
    let expected = backup.files.clone();
    for (number, table_name) in (20..).zip(["peers", "peers_v2", "peer_events", "peer_events_v2"]) {
        backup.sstable(&table("system", table_name, number), None, "nb-1-big", 0, b"peers").await;
    }
    let mut request = backup.request(&node).await;
    (request.target, request.way) = ("10.0.0.9".to_owned(), RestoreWay::Replacement);
    let summary = node.run(&request).await.unwrap();
    assert_eq!(node.files(), expected);
    let count = expected.iter().flatten().count();
    assert_eq!(summary.files, count as u64);
    assert!(summary.notes[0].contains("takes the place of 127.0.0.1"), "{:?}", summary.notes);
    node.run(&request).await.unwrap();
}

#[tokio::test]
async fn a_commit_log_that_cannot_be_looked_at_is_a_finding_and_saved_caches_a_warning() {
    let (backup, node) = (Backup::whole().await, Node::new());
    fs::remove_file(node.path("caches/KeyCache-f.db")).unwrap();
    for name in ["commitlog", "caches"] {
        fs::remove_dir(node.path(name)).unwrap();
        fs::write(node.path(name), "a file").unwrap();
    }
    let plan = planned(&node, &backup).await;
    has(&plan.findings, &["commit log directory", "cannot be looked at", "Not a directory"]);
    assert!(plan.findings.iter().all(|finding| finding.starts_with("commit log")), "{:?}", plan.findings);
    has(&plan.warnings, &["saved caches directory", "cannot be looked at", "Not a directory"]);
}

#[tokio::test]
async fn the_file_of_the_snitch_has_to_be_there() {
    let (backup, node) = (Backup::whole().await, Node::new());
    fs::remove_file(node.path("conf/cassandra-rackdc.properties")).unwrap();
    let findings = planned(&node, &backup).await.findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    has(
        &findings,
        &["cassandra-rackdc.properties", "the snitch needs the file, with the lines dc=dc1 and rack=r1"],
    );
}

#[tokio::test]
async fn two_parts_of_one_restore_are_named() {
    let (backup, node) = (Backup::whole().await, Node::new());
    assert!(node.run_killed(&backup.request(&node).await, 45).await);
    let (own, other) = (node.path("data/node-backup"), node.path("data/cluster-backup"));
    fs::create_dir_all(other.join("RESTORE_INCOMPLETE")).unwrap();
    let sentinel = "RESTORE_INCOMPLETE/aa-1-big-Data.db";
    fs::copy(own.join(sentinel), other.join(sentinel)).unwrap();
    let findings = planned(&node, &backup).await.findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    has(
        &findings,
        &[other.to_str().unwrap(), "has a part of this restore as well as node-backup", "with fewer files"],
    );
}

/// Nobody found among no processes is nobody who runs.
#[tokio::test]
async fn processes_that_cannot_be_listed_are_a_finding() {
    let (backup, mut node) = (Backup::whole().await, Node::new());
    node.machine.proc_root = node.path("no/proc");
    let findings = planned(&node, &backup).await.findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    has(&findings, &["whether a Cassandra is running cannot be told", "No such file", "see /proc"]);
    node.run(&backup.request(&node).await).await.unwrap_err();
    assert!(node.names().is_empty());
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_a_finding() {
    let (backup, node) = (Backup::whole().await, Node::new());
    fs::remove_dir(node.path("data2")).unwrap();
    fs::write(node.path("data2"), "a file").unwrap();
    fs::set_permissions(node.path("data2"), fs::Permissions::from_mode(0o600)).unwrap();
    has(&planned(&node, &backup).await.findings, &["data2 cannot be looked at", "Not a directory"]);
}

/// Cassandra makes a segment before it looks at the SSTables, so a start that the sentinel refused leaves one.
#[tokio::test]
async fn segments_of_refused_starts_do_not_stop_the_second_call() {
    let (backup, node) = (Backup::whole().await, Node::new());
    fs::write(node.path("commitlog/CommitLog-7-1.log"), "x").unwrap();
    has(&planned(&node, &backup).await.findings, &["commit log directory", "is not empty"]);
    fs::remove_file(node.path("commitlog/CommitLog-7-1.log")).unwrap();
    assert!(node.run_killed(&backup.request(&node).await, 50).await);
    fs::write(node.path("commitlog/CommitLog-7-1.log"), "x").unwrap();
    let plan = planned(&node, &backup).await;
    assert_eq!(plan.findings, Vec::<String>::new());
    has(&plan.warnings, &["commit log directory", "deletes such segments"]);
    fs::write(node.path("commitlog/notes.txt"), "x").unwrap();
    has(&planned(&node, &backup).await.findings, &["commit log directory", "notes.txt"]);
}
