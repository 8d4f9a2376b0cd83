//! An agent that is stopped and not ended: it gives no sign of life, and keeps the node's lock.

use std::sync::Arc;
use std::time::Duration;

use crate::world::{Action, Ring, Server, backup};
use cassy_control::nodes::NodeErrorKind;
use cassy_control::{Operations, Status};

#[tokio::test]
async fn a_lock_that_was_waited_for_is_not_waited_for_again_and_what_came_before_is_said() {
    let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
    let server = Server::start(directory.path(), &ring).await;
    let cluster = server.register().await;
    ring.on("upload", Action::Hang);
    server.service.take_backup(backup(&cluster)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), ring.reached.notified()).await.expect("it uploads");
    ring.log.lock().unwrap().clear();
    ring.on("after upload", Action::Fail(NodeErrorKind::Gone));
    ring.on("lock", Action::Fail(NodeErrorKind::Busy));
    ring.wake();
    let (status, message) = server.settled(&cluster).await.remove(0);
    assert_eq!(status, Status::Failed, "{message}");
    assert!(message.contains("lock was made to fail; before that: "), "{message}");
    assert!(message.contains("after upload was made to fail"), "{message}");
    let uploads = ring.steps(&["upload"]);
    assert_eq!(uploads, Vec::<String>::new(), "nothing is sent without the lock");
}
