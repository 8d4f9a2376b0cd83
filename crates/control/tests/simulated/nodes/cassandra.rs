//! A session with one node's Cassandra.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cassy_control::nodes::{Cassandra, ClientActivity, NodeDescription, NodeError, Undelivered};

use super::{Snapshot, SnapshotFault, address, host_id, permanent, unreachable};
use crate::faults::Kind;
use crate::world::{Mark, World};

/// How long a write may take at most.
pub(crate) const WRITE_TIMEOUT_MS: u64 = 300;
const KEYSPACE: &str = "ks";

pub(super) struct Session {
    world: Arc<World>,
    index: usize,
}

impl Session {
    pub(super) async fn open(world: &Arc<World>, index: usize) -> Result<Box<dyn Cassandra>, NodeError> {
        let session = Self { world: Arc::clone(world), index };
        session.call("connect", 5, 40, |_| Ok(())).await?;
        Ok(Box::new(session))
    }

    /// There, at once, and back. A connection that is cut answers nothing more.
    async fn call<T: Send + 'static>(
        &self,
        name: &str,
        first: u64,
        last: u64,
        act: impl FnOnce(&World) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let (world, index, name) =
            (Arc::clone(&self.world), self.index, format!("node {} {name}", self.index));
        let called = async move {
            world.delay(&name, first, last).await;
            world.is_connected(index)?;
            let outcome = act(&world);
            world.delay(&name, first, last).await;
            world.is_connected(index)?;
            outcome
        };
        self.world.here(called).await
    }
}

impl World {
    fn is_connected(&self, index: usize) -> Result<(), NodeError> {
        if !self.lock().nodes[index].is_jmx_cut {
            return Ok(());
        }
        self.fired(Kind::JmxCut);
        Err(unreachable(index))
    }

    async fn snapshot(self: Arc<Self>, index: usize, tag: String) -> Result<(), NodeError> {
        let name = format!("node {index} snapshot");
        self.delay(&name, 1, 20).await;
        self.is_connected(index)?;
        let fault = self.lock().nodes[index].fault.take();
        self.delay(&name, 1, 150).await;
        match fault {
            Some(SnapshotFault::Fails) => {
                self.fired(Kind::SnapshotFails);
                return Err(permanent(format!("{}: the snapshot failed", address(index))));
            }
            Some(SnapshotFault::Hangs) => {
                self.fired(Kind::SnapshotHangs);
                self.delay(&name, 500, 20_000).await;
            }
            Some(SnapshotFault::Skips) => self.fired(Kind::SnapshotSkips),
            None => {}
        }
        let place = self.place();
        {
            let mut state = self.lock();
            let node = &mut state.nodes[index];
            node.taken.insert(tag.clone(), place);
            let is_whole = fault != Some(SnapshotFault::Skips);
            if node.snapshots.insert(tag, Snapshot { is_whole }).is_some() {
                return Err(permanent("Snapshot already exists.".to_owned()));
            }
        }
        self.mark(Mark::Snapshot);
        self.say(format!("node {index} has taken a snapshot"));
        self.delay(&name, 1, 100).await;
        self.is_connected(index)
    }
}

#[async_trait]
impl Cassandra for Session {
    async fn describe(&mut self) -> Result<NodeDescription, NodeError> {
        let index = self.index;
        self.call("describe", 1, 20, move |world| {
            let count = world.lock().nodes.len();
            let ring = (0..count).map(|node| (address(node), host_id(node).parse().unwrap()));
            Ok(NodeDescription {
                cluster_name: "simulated".to_owned(),
                release_version: "5.0.9".to_owned(),
                partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
                operation_mode: "NORMAL".to_owned(),
                host_id: host_id(index).parse().unwrap(),
                ring: ring.collect(),
                live: (0..count).map(address).collect(),
                unreachable: Vec::new(),
                joining: Vec::new(),
                leaving: Vec::new(),
                moving: Vec::new(),
                keyspaces: vec![KEYSPACE.to_owned()],
                data_directories: vec!["/data".to_owned()],
                incremental_backups: true,
                tokens: vec![index.to_string()],
                datacenter: "dc1".to_owned(),
                rack: "rack1".to_owned(),
            })
        })
        .await
    }

    async fn tables(&mut self) -> Result<Vec<(String, String)>, NodeError> {
        self.call("tables", 1, 10, |_| Ok(vec![(KEYSPACE.to_owned(), "t".to_owned())])).await
    }

    async fn keyspaces(&mut self) -> Result<Vec<String>, NodeError> {
        self.call("keyspaces", 1, 10, |_| Ok(vec![KEYSPACE.to_owned()])).await
    }

    async fn flush(&mut self, _keyspaces: &[String]) -> Result<(), NodeError> {
        self.call("flush", 5, 100, |_| Ok(())).await
    }

    async fn client_activity(&mut self) -> Result<ClientActivity, NodeError> {
        let index = self.index;
        let look = move |world: &World| {
            let state = world.lock();
            Ok(ClientActivity { tasks: state.nodes[index].tasks, writes: state.nodes[index].writes })
        };
        self.call("activity", 1, 10, look).await
    }

    async fn system_writes(&mut self, _tables: &[(String, String)]) -> Result<u64, NodeError> {
        self.call("system writes", 1, 10, |_| Ok(0)).await
    }

    async fn undelivered(&mut self) -> Result<Undelivered, NodeError> {
        Ok(Undelivered { hint_files: Some(0), dropped_writes: 0 })
    }

    async fn uptime(&mut self) -> Result<Duration, NodeError> {
        Ok(Duration::from_secs(3600))
    }

    async fn write_timeout(&mut self) -> Result<Duration, NodeError> {
        self.call("write timeout", 1, 10, |_| Ok(Duration::from_millis(WRITE_TIMEOUT_MS))).await
    }

    async fn take_snapshot(&mut self, tag: &str, _keyspaces: &[String]) -> Result<(), NodeError> {
        let snapshot = Arc::clone(&self.world).snapshot(self.index, tag.to_owned());
        self.world.here(snapshot).await
    }

    async fn clear_snapshot(&mut self, tag: &str, _keyspaces: &[String]) -> Result<(), NodeError> {
        let (index, tag) = (self.index, tag.to_owned());
        let clear = move |world: &World| {
            world.lock().nodes[index].snapshots.remove(&tag);
            Ok(())
        };
        self.call("clear", 1, 20, clear).await
    }
}
