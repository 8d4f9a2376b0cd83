//! Leftover snapshots, and a schema that changes while a backup runs, on the fake node.

use std::sync::Arc;

use crate::world::schema::Schema;
use crate::world::{NODE, Ring, Server, backup, host_id};
use cassy_backup_format::{ClusterManifest, Keys};
use cassy_control::{Operations, Status};
use tempfile::TempDir;

struct Scene {
    directory: TempDir,
    ring: Arc<Ring>,
    server: Server,
    cluster: String,
}

impl Scene {
    async fn set(tables: &[&str]) -> Self {
        let (directory, ring) = (tempfile::tempdir().unwrap(), Arc::new(Ring::default()));
        *ring.schema.lock().unwrap() = Schema::of(tables);
        let server = Server::start(directory.path(), &ring).await;
        let cluster = server.register().await;
        Self { directory, ring, server, cluster }
    }

    /// Its id, how it ended, and what the history says.
    async fn back_up(&self) -> (String, Status, String) {
        let id = self.server.service.take_backup(backup(&self.cluster)).await.unwrap().snapshot_id;
        self.server.idle().await;
        let (status, message) = self.server.settled(&self.cluster).await.remove(0);
        (id, status, message)
    }

    /// What the cluster manifest of a backup says.
    async fn keyspaces_of(&self, backup: &str) -> Vec<String> {
        let keys = Keys::new(self.cluster.parse().unwrap()).unwrap();
        let store = self.ring.store.lock().unwrap().clone().unwrap();
        let document = store.get(&keys.cluster_manifest(&backup.parse().unwrap()), 1 << 20).await.unwrap();
        ClusterManifest::from_json(&document).unwrap().keyspaces
    }

    fn tags(&self) -> Vec<String> {
        self.ring.snapshots.lock().unwrap().keys().cloned().collect()
    }
}

#[tokio::test]
async fn leftovers_of_ended_jobs_go_and_nobody_elses() {
    let scene = Scene::set(&["ks.t"]).await;
    let (ended, ..) = scene.back_up().await;
    let others = ["cassy-0197a5ac-0000-7000-8000-000000000000-1", "cassy-notours", "daily"];
    let leftovers = [1, 7].map(|attempt| format!("cassy-{ended}-{attempt}"));
    for tag in others.iter().map(|&tag| tag.to_owned()).chain(leftovers) {
        scene.ring.snapshots.lock().unwrap().insert(tag, vec!["snapshots".to_owned()]);
    }
    scene.ring.log.lock().unwrap().clear();
    assert_eq!(scene.back_up().await.1, Status::Completed);
    assert_eq!(scene.tags(), others);
    let steps = scene.ring.steps(&["list_snapshots", "sweep_snapshots", "clear_snapshot", "take_snapshot"]);
    let own = ["take_snapshot", "sweep_snapshots", "clear_snapshot"];
    let expected = ["list_snapshots", "sweep_snapshots", "clear_snapshot", "clear_snapshot"];
    assert_eq!(steps, [&expected[..], &own].concat(), "the agent first, then Cassandra");
}

#[tokio::test]
async fn what_a_killed_server_or_agent_had_begun_to_write_goes_and_nobody_elses() {
    let scene = Scene::set(&["ks.t"]).await;
    let (ended, ..) = scene.back_up().await;
    let keys = Keys::new(scene.cluster.parse().unwrap()).unwrap();
    let begin = |backup: &str| {
        let id = backup.parse().unwrap();
        let probe = keys.probe(&format!("{backup}-x")).unwrap();
        let began = [keys.pin(&id), keys.cluster_manifest(&id), keys.node_manifest(&host_id(), &id), probe];
        began.map(|key| {
            let part = format!("{key}.0123456789abcdef0123456789abcdef.part");
            let path = scene.directory.path().join("store").join(part);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "cut").unwrap();
            path
        })
    };
    let (ours, others) = (begin(&ended), begin("0197a5ac-0000-7000-8000-000000000000"));
    assert_eq!(scene.back_up().await.1, Status::Completed);
    assert!(ours.iter().all(|path| !path.exists()), "{ours:?}");
    assert!(others.iter().all(|path| path.exists()), "{others:?}");
}

#[tokio::test]
async fn a_backup_is_of_the_keyspaces_of_the_moment() {
    for call in ["flush", "take_snapshot"] {
        let scene = Scene::set(&["ks.t", "old.a"]).await;
        scene.ring.schema_in(call, [Schema::of(&["ks.t", "new.b"])]);
        let (id, status, message) = scene.back_up().await;
        assert_eq!(status, Status::Completed, "{call}: {message}");
        assert_eq!(scene.keyspaces_of(&id).await, ["ks", "new"], "{call}");
        assert_eq!(scene.tags(), Vec::<String>::new(), "{call}");
        assert_eq!(scene.ring.steps(&[call]).len(), 2, "{call}: begun again without what was dropped");
    }
}

#[tokio::test]
async fn a_keyspace_made_after_the_snapshot_was_begun_is_not_demanded() {
    let scene = Scene::set(&["ks.t"]).await;
    scene.ring.schema_in("take_snapshot", [Schema::of(&["ks.t", "ks.made", "new.b"])]);
    let (id, status, message) = scene.back_up().await;
    assert_eq!(status, Status::Completed, "{message}");
    assert_eq!(scene.keyspaces_of(&id).await, ["ks"]);
}

#[tokio::test]
async fn a_table_that_vanished_while_the_snapshot_was_taken_is_not_demanded() {
    let scene = Scene::set(&["ks.t", "ks.gone"]).await;
    scene.ring.schema_in("take_snapshot", [Schema::of(&["ks.t"])]);
    let (_, status, message) = scene.back_up().await;
    assert_eq!(status, Status::Completed, "{message}");
    assert_eq!(scene.ring.steps(&["take_snapshot"]).len(), 1);
}

#[tokio::test]
async fn keyspaces_dropped_again_and_again_are_named_first() {
    for call in ["flush", "take_snapshot"] {
        let names = ["ks.t", "k1.t", "k2.t", "k3.t", "k4.t", "k5.t"];
        let scene = Scene::set(&names).await;
        scene.ring.schema_in(call, (1..names.len()).rev().map(|count| Schema::of(&names[..count])));
        let (_, status, message) = scene.back_up().await;
        assert_eq!(status, Status::Failed, "{call}: {message}");
        let expected = format!(
            "{NODE}: dropped while the backup was taken, again and again: the keyspace k1: Keyspace k1 does not exist"
        );
        assert!(message.starts_with(&expected) && message.contains("hint: "), "{call}: {message}");
        assert_eq!(scene.ring.steps(&[call]).len(), 5, "{call}: it is bounded");
        assert_eq!(scene.tags(), Vec::<String>::new(), "{call}");
    }
}
