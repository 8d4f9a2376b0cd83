//! Where a restore goes: never to an address that only the store names.

use std::path::Path;
use std::sync::Arc;

use crate::world::{Action, NODE, Ring, Server, backup, files, host_id, restore};
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{OperationErrorKind, Operations, RestoreRequest};

/// Of a network for documentation (RFC 5737).
const ELSEWHERE: &str = "192.0.2.7";

/// Everything that a node would see of a server.
const CONTACTS: [&str; 5] = ["connect", "agent", "lock", "plan_restore", "restore"];

/// What somebody who can write to the store can do: the cluster manifest names another address.
fn edit_the_manifest(directory: &Path) {
    let manifests = files(&directory.join("store"));
    let manifest = manifests.into_iter().find(|path| path.contains("/backup/")).unwrap();
    let text = std::fs::read_to_string(&manifest).unwrap();
    let edited = text.replace(&format!("{NODE:?}"), &format!("{ELSEWHERE:?}"));
    assert_ne!(text, edited);
    std::fs::write(&manifest, edited).unwrap();
}

#[tokio::test]
async fn an_address_that_only_the_manifest_names_is_refused_by_name_before_anything_is_connected() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    let backup = server.service.take_backup(backup(&cluster)).await.unwrap();
    server.settled(&cluster).await;
    server.idle().await;
    edit_the_manifest(directory.path());
    ring.log.lock().unwrap().clear();

    let refused = server.service.restore_backup(restore(&cluster, &backup.snapshot_id)).await.unwrap_err();
    assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition, "{refused}");
    assert!(refused.message.contains(ELSEWHERE), "{refused}");
    assert!(refused.hints.iter().any(|hint| hint.contains("target_ips")), "{refused:?}");
    assert_eq!(ring.steps(&CONTACTS), Vec::<String>::new(), "nothing was connected to");
    server.idle().await;

    let named =
        RestoreRequest { target_ips: vec![ELSEWHERE.to_owned()], ..restore(&cluster, &backup.snapshot_id) };
    let answer = server.service.restore_backup(named).await.unwrap();
    assert_eq!(answer.target_ips, [ELSEWHERE], "the request says so itself");
    server.idle().await;
    assert!(ring.steps(&CONTACTS).contains(&"restore".to_owned()));
}

/// Where it comes back.
const REPLACEMENT: &str = "127.0.0.5";

fn to_another_address(cluster: &str, snapshot_id: &str, sources: &[(&str, &str)]) -> RestoreRequest {
    let source_of = sources.iter().map(|(target, source)| ((*target).to_owned(), (*source).to_owned()));
    RestoreRequest { source_of: source_of.collect(), ..restore(cluster, snapshot_id) }
}

#[tokio::test]
async fn the_place_of_a_living_node_is_not_taken() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    let snapshot_id = server.service.take_backup(backup(&cluster)).await.unwrap().snapshot_id;
    server.idle().await;
    let host_id = host_id().to_string();
    for source in [NODE, host_id.as_str()] {
        let request = to_another_address(&cluster, &snapshot_id, &[(REPLACEMENT, source)]);
        let refused = server.service.restore_backup(request.clone()).await.unwrap_err();
        assert_eq!(refused.kind, OperationErrorKind::FailedPrecondition, "{refused}");
        assert!(refused.message.contains(&format!("{NODE} (host id {host_id}) is alive")), "{refused}");
        ring.on("connect", Action::Fail(NodeErrorKind::Unreachable));
        let answer = server.service.restore_backup(request).await.unwrap();
        assert_eq!(answer.target_ips, [REPLACEMENT]);
        server.idle().await;
        ring.heal();
    }
    assert_eq!(*ring.replaced.lock().unwrap(), [REPLACEMENT, REPLACEMENT]);
}

#[tokio::test]
async fn sources_that_do_not_fit_are_refused() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    let snapshot_id = server.service.take_backup(backup(&cluster)).await.unwrap().snapshot_id;
    server.idle().await;
    let two = [(REPLACEMENT, NODE), ("127.0.0.6", NODE)];
    let stranger = [(REPLACEMENT, ELSEWHERE)];
    for (sources, told) in [(&two[..], "to both"), (&stranger[..], "does not hold 192.0.2.7")] {
        let request = to_another_address(&cluster, &snapshot_id, sources);
        let refused = server.service.restore_backup(request).await.unwrap_err();
        assert_eq!(refused.kind, OperationErrorKind::InvalidArgument, "{refused}");
        assert!(refused.message.contains(told), "{refused}");
    }
    let mut elsewhere = to_another_address(&cluster, &snapshot_id, &two[..1]);
    elsewhere.target_ips = vec![NODE.to_owned()];
    let refused = server.service.restore_backup(elsewhere).await.unwrap_err();
    assert!(refused.message.contains("source_of names 127.0.0.5, and target_ips does not"), "{refused}");
    assert_eq!(*ring.replaced.lock().unwrap(), Vec::<String>::new());
}
