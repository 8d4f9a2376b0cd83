//! One node of a restore of the whole cluster: in place, or as a part of a copy.

use std::fs;

use cassy_agent_protocol::{ReadTokensRequest, Reply, RestorePlan, RestoreRequest, RestoreScope, RestoreWay};
use cassy_backup_format::{BackupId, TableSchema};

use super::super::read_tokens;
use super::fixture::{Backup, Node, YAML, table};
use crate::context::Context;

/// Of a copy that nothing stands in the way of.
const COPY: &str = "cluster_name: copy\ninitial_token: 2, 1\nauto_bootstrap: false\nnum_tokens: 2\n\
    endpoint_snitch: GossipingPropertyFileSnitch\n\
    seed_provider:\n  - class_name: org.example.Seeds\n    parameters:\n      - seeds: \"10.0.0.9, node2\"\n";

async fn planned(node: &Node, request: &RestoreRequest) -> RestorePlan {
    super::super::plan(&Context::default(), &node.machine, request, &node.path("spool")).await.unwrap()
}

/// A backup of a node with two tokens, whose copy goes elsewhere.
async fn copied(node: &Node, living: &[&str]) -> (Backup, RestoreRequest) {
    let mut backup = Backup::whole().await;
    backup.header.tokens = vec!["1".to_owned(), "2".to_owned()];
    backup.header.configuration.num_tokens = Some(2);
    let request = backup.request(node).await;
    let living = living.iter().map(ToString::to_string).collect();
    let (scope, target) = (RestoreScope::Cluster, "10.0.0.9".to_owned());
    let request =
        RestoreRequest { scope, target, way: RestoreWay::Copy { originals: Vec::new(), living }, ..request };
    (backup, request)
}

/// Half a node of a copy that is finished as the original would have its `system`, and the other way round.
#[tokio::test]
async fn what_was_begun_in_one_way_is_not_finished_in_another() {
    let copy = || RestoreWay::Copy { originals: Vec::new(), living: Vec::new() };
    let (of_copy, of_place, of_other) = ("a part of a copy", "a restore in place", "a replacement");
    for (first, scope, second, told) in [
        (copy(), RestoreScope::Cluster, RestoreWay::Replacement, [of_copy, of_other]),
        (copy(), RestoreScope::Nodes, RestoreWay::InPlace, [of_copy, of_place]),
        (RestoreWay::Replacement, RestoreScope::Nodes, copy(), [of_other, of_copy]),
        (RestoreWay::InPlace, RestoreScope::Nodes, RestoreWay::Replacement, [of_place, of_other]),
    ] {
        let node = Node::new();
        let yaml = format!("{COPY}cluster_name: it's\n").replacen("cluster_name: copy\n", "", 1);
        node.yaml(&yaml);
        let (_backup, request) = copied(&node, &[]).await;
        let target = if first == RestoreWay::InPlace { "127.0.0.1" } else { "10.0.0.9" };
        let request = RestoreRequest { way: first.clone(), scope, target: target.to_owned(), ..request };
        assert!(node.run_killed(&request, 30).await, "{first:?}");
        assert_eq!(planned(&node, &request).await.findings, Vec::<String>::new(), "{first:?}");
        let before = node.files();
        for scope in RestoreScope::ALL {
            let request = RestoreRequest { way: second.clone(), scope, ..request.clone() };
            let findings = planned(&node, &request).await.findings;
            let [begun, asked] = told;
            let is_told = |finding: &String| {
                finding.contains(&format!("is incomplete ({}", node.path("data").display()))
                    && finding.contains(&format!("): {begun}"))
                    && finding.contains(&format!("asked for is {asked}"))
            };
            assert!(findings.iter().any(is_told), "{first:?}, then {second:?}: {findings:?}");
            node.run(&request).await.unwrap_err();
            assert_eq!(node.files(), before);
        }
        node.run(&request).await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_that_would_ask_the_original_for_its_ring_is_refused_with_the_line_to_change() {
    let node = Node::new();
    let (_backup, request) = copied(&node, &[]).await;
    let originals = ["127.0.0.1", "::ffff:127.0.0.2", "2001:db8::1"].map(str::to_owned).to_vec();
    let request = RestoreRequest { way: RestoreWay::Copy { originals, living: Vec::new() }, ..request };
    for (seeds, named) in [
        ("10.0.0.9,127.0.0.1", Some("name 127.0.0.1 of")),
        ("127.0.0.2:7000", Some("name 127.0.0.2 of")),
        ("[2001:DB8:0::1]:7000,127.0.0.1", Some("name 2001:db8::1, 127.0.0.1 of")),
        ("10.0.0.9,127.0.0.3,node2", None),
    ] {
        node.yaml(&COPY.replace("10.0.0.9, node2", seeds));
        let findings = planned(&node, &request).await.findings;
        let Some(named) = named else {
            assert_eq!(findings, Vec::<String>::new(), "{seeds}");
            continue;
        };
        let [finding] = findings.as_slice() else { panic!("{seeds}: {findings:?}") };
        assert!(finding.contains(named) && finding.contains("change the line to - seeds: "), "{finding}");
        node.run(&request).await.unwrap_err();
        assert!(node.names().is_empty());
    }
}

#[tokio::test]
async fn what_a_restore_of_either_scope_has_begun_the_other_finishes() {
    let backup = Backup::whole().await;
    for (first, second) in
        [(RestoreScope::Nodes, RestoreScope::Cluster), (RestoreScope::Cluster, RestoreScope::Nodes)]
    {
        for change in [10, 50, 80, 100] {
            let node = Node::new();
            let request = RestoreRequest { scope: first, ..backup.request(&node).await };
            assert!(node.run_killed(&request, change).await);
            let begun = node.path("data").join(first.staging());
            assert!(begun.exists());
            let request = RestoreRequest { scope: second, ..request };
            assert_eq!(planned(&node, &request).await.findings, Vec::<String>::new());
            assert!(node.run_killed(&request, 5).await);
            assert!(begun.exists() && !node.path("data").join(second.staging()).exists());
            node.run(&request).await.unwrap();
            assert_eq!(node.files(), backup.files);
            assert_eq!(node.names(), ["Mixed", "Mixed", "snapshots", "system"]);
        }
    }
}

#[tokio::test]
async fn what_a_restore_of_the_other_scope_has_left_of_another_backup_is_named() {
    let (backup, node) = (Backup::whole().await, Node::new());
    assert!(node.run_killed(&backup.request(&node).await, 50).await);
    let mut other = Backup::whole().await;
    other.header.backup_id = BackupId::at(1_800_000_000_000);
    let request = RestoreRequest { scope: RestoreScope::Cluster, ..other.request(&node).await };
    let findings = planned(&node, &request).await.findings;
    let (id, place) =
        (backup.header.backup_id.to_string(), node.path("data/node-backup").display().to_string());
    assert!(findings.iter().any(|finding| finding.contains(&id) && finding.contains(&place)), "{findings:?}");
    fs::remove_dir_all(node.path("data2/node-backup")).unwrap();
    fs::create_dir(node.path("data2/node-backup")).unwrap();
    fs::write(node.path("data2/node-backup/mine"), "x").unwrap();
    let findings = planned(&node, &request).await.findings;
    assert!(findings.iter().any(|finding| finding.contains("it holds mine")), "{findings:?}");
}

#[tokio::test]
async fn a_restore_of_the_cluster_that_was_complete_is_proven_again() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let request = RestoreRequest { scope: RestoreScope::Cluster, ..backup.request(&node).await };
    let notes = node.run(&request).await.unwrap().notes;
    assert!(notes[0].contains("in the order that the answer of the restore has said"), "{notes:?}");
    assert_eq!(planned(&node, &request).await.findings, Vec::<String>::new());
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), backup.files);
}

#[tokio::test]
async fn a_copy_gets_nothing_of_the_keyspace_system() {
    let node = Node::new();
    node.yaml(COPY);
    let (mut backup, _) = copied(&node, &[]).await;
    backup.sstable(&table("system_auth", "roles", 9), None, "nb-1-big", 0, b"roles").await;
    let mut expected = backup.files.clone();
    let all = expected[0].len();
    expected[0].retain(|path, _| !path.starts_with("system"));
    assert!(expected[0].len() < all);
    let way = RestoreWay::Copy { originals: Vec::new(), living: vec!["127.0.0.1".to_owned()] };
    let request = RestoreRequest { target: "10.0.0.9".to_owned(), way, ..backup.request(&node).await };
    let plan = planned(&node, &request).await;
    assert_eq!(plan.findings, Vec::<String>::new());
    assert_eq!(plan.seeds, ["10.0.0.9", "node2"]);
    let files: usize = expected.iter().map(std::collections::BTreeMap::len).sum();
    assert_eq!(plan.files, files as u64);
    node.run(&request).await.unwrap();
    assert_eq!(node.files(), expected);
    assert!(node.path("data/system_auth").exists() && !node.path("data/system").exists());
    node.run(&request).await.unwrap();
}

#[tokio::test]
async fn a_copy_that_would_not_be_one_is_refused_with_the_lines_to_change() {
    let node = Node::new();
    let living = ["127.0.0.1", "127.0.0.2"];
    let (_backup, request) = copied(&node, &living).await;
    let own_name = COPY.replace("cluster_name: copy", "cluster_name: it's");
    for (yaml, parts) in [
        (
            COPY.replace("initial_token: 2, 1\n", ""),
            &["initial_token is not set", "change the line to initial_token: 1,2"][..],
        ),
        (
            COPY.replace("initial_token: 2, 1", "initial_token: 1"),
            &["does not name the tokens", "initial_token: 1,2"],
        ),
        (COPY.replace("initial_token: 2, 1", "initial_token: 1,2,3"), &["does not name the tokens"]),
        (COPY.replace("auto_bootstrap: false\n", ""), &["change the line to auto_bootstrap: false"]),
        (COPY.replace("num_tokens: 2", "num_tokens: 16"), &["num_tokens is \"16\"", "num_tokens: 2"]),
        (own_name.clone(), &["of which 127.0.0.1, 127.0.0.2 are alive", "change the line to cluster_name:"]),
    ] {
        node.yaml(&yaml);
        let findings = planned(&node, &request).await.findings;
        assert_eq!(findings.len(), 1, "{yaml}: {findings:?}");
        assert!(parts.iter().all(|part| findings[0].contains(part)), "{parts:?}: {findings:?}");
        node.run(&request).await.unwrap_err();
        assert!(node.names().is_empty());
    }
    node.yaml(&own_name);
    let (_backup, request) = copied(&node, &[]).await;
    let plan = planned(&node, &request).await;
    assert_eq!(plan.findings, Vec::<String>::new());
    assert!(
        plan.warnings.iter().any(|warning| warning.contains("were it to come back")),
        "{:?}",
        plan.warnings
    );
}

/// Who brings `system` along must be who he says, whatever the yaml says of tokens.
#[tokio::test]
async fn a_copy_that_calls_itself_in_place_is_refused() {
    let node = Node::new();
    node.yaml(COPY);
    let (_backup, request) = copied(&node, &[]).await;
    let request = RestoreRequest { way: RestoreWay::InPlace, ..request };
    let findings = planned(&node, &request).await.findings;
    assert!(findings.iter().any(|finding| finding.contains("this is 10.0.0.9")), "{findings:?}");
}

#[test]
fn the_tokens_of_a_stopped_node_are_read() {
    let node = Node::new();
    node.yaml(COPY);
    let yaml = node.path("conf/cassandra.yaml").display().to_string();
    let named = ReadTokensRequest { cassandra_yaml: Some(yaml.clone()), recorded: Vec::new() };
    let recorded =
        ReadTokensRequest { cassandra_yaml: None, recorded: vec!["/nonexistent".to_owned(), yaml.clone()] };
    for request in [&named, &recorded] {
        let Ok(Reply::Tokens { yaml: read, tokens }) = read_tokens(&node.machine, request) else { panic!() };
        assert_eq!((read, tokens), (yaml.clone(), vec!["2".to_owned(), "1".to_owned()]));
    }
    node.yaml(YAML);
    let Ok(Reply::Tokens { tokens, .. }) = read_tokens(&node.machine, &named) else { panic!() };
    assert_eq!(tokens, Vec::<String>::new());
    let nowhere = ReadTokensRequest { cassandra_yaml: None, recorded: Vec::new() };
    let error = read_tokens(&node.machine, &nowhere).unwrap_err();
    assert!(error.to_string().contains("no cassandra.yaml was found"), "{error}");
}

#[tokio::test]
async fn changes_from_after_the_instant_are_in_the_way_of_a_whole_cluster() {
    let (backup, node) = (Backup::whole().await, Node::new());
    let cdc = node.path("cdc");
    fs::create_dir(&cdc).unwrap();
    fs::write(cdc.join("CommitLog-7-1.log"), "x").unwrap();
    node.yaml(&format!("{YAML}cdc_raw_directory: {}\n", cdc.display()));
    let request = backup.request(&node).await;
    let of_nodes = planned(&node, &request).await;
    assert_eq!(of_nodes.findings, Vec::<String>::new());
    assert!(
        of_nodes.warnings.iter().any(|warning| warning.contains("left alone")),
        "{:?}",
        of_nodes.warnings
    );
    let findings = planned(&node, &RestoreRequest { scope: RestoreScope::Cluster, ..request }).await.findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].starts_with(&format!("cdc directory {} is not empty", cdc.display())),
        "{findings:?}"
    );
}

/// At the one instant of a cluster nobody wrote.
#[tokio::test]
async fn of_single_nodes_it_is_said_what_is_not_promised_of_views() {
    let (mut backup, node) = (Backup::whole().await, Node::new());
    for number in 10..22 {
        let table = table("ks", &format!("view{number}"), number);
        let cql = format!("CREATE MATERIALIZED VIEW ks.view{number} AS ...");
        backup.header.tables.push(table.clone());
        backup.header.schema.push(TableSchema { table, cql });
    }
    let request = backup.request(&node).await;
    let told = |plan: RestorePlan| plan.warnings.into_iter().find(|warning| warning.contains("views"));
    let warning = told(planned(&node, &request).await).unwrap();
    assert!(warning.starts_with("materialized views (ks.view10, ks.view11, "), "{warning}");
    assert!(
        warning.contains("ks.view19, and 2 more)") && warning.contains("drop and create again"),
        "{warning}"
    );
    let request = RestoreRequest { scope: RestoreScope::Cluster, ..request };
    assert_eq!(told(planned(&node, &request).await), None);
}
