//! What the fake node answers over JMX.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use cassy_control::nodes::{
    Cassandra, ClientActivity, NodeDescription, NodeError, NodeErrorKind, Undelivered,
};

use super::FakeCassandra;

#[async_trait]
impl Cassandra for FakeCassandra {
    async fn describe(&mut self) -> Result<NodeDescription, NodeError> {
        self.0.step("describe").await?;
        Ok(NodeDescription {
            cluster_name: match (&*self.0.other_cluster.lock().unwrap(), self.0.cluster) {
                (Some(other), _) => other.clone(),
                (None, 0) => "ring/<b>".to_owned(),
                (None, cluster) => format!("ring {cluster}"),
            },
            release_version: "5.0.9".to_owned(),
            partitioner: "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
            operation_mode: self.0.mode.lock().unwrap().clone().unwrap_or("NORMAL".to_owned()),
            host_id: self.0.ring()[&self.0.address()],
            ring: self.0.ring(),
            live: self.0.members().into_keys().collect(),
            unreachable: self.0.down.lock().unwrap().clone(),
            joining: Vec::new(),
            leaving: Vec::new(),
            moving: Vec::new(),
            keyspaces: self.0.schema.lock().unwrap().keyspaces(),
            data_directories: match self.0.no_data_directories.load(Ordering::SeqCst) {
                true => Vec::new(),
                false => vec!["/data".to_owned()],
            },
            incremental_backups: !self.0.incremental_backups_off.load(Ordering::SeqCst),
            tokens: vec!["0".to_owned()],
            datacenter: "dc1".to_owned(),
            rack: "rack1".to_owned(),
        })
    }

    async fn tables(&mut self) -> Result<Vec<(String, String)>, NodeError> {
        Ok(self.0.schema.lock().unwrap().0.clone())
    }

    async fn keyspaces(&mut self) -> Result<Vec<String>, NodeError> {
        Ok(self.0.schema.lock().unwrap().keyspaces())
    }

    async fn flush(&mut self, keyspaces: &[String]) -> Result<(), NodeError> {
        assert!(!keyspaces.is_empty());
        self.0.step("flush").await?;
        self.0.schema_changes("flush");
        self.0.all_exist(keyspaces)?;
        self.0.step("after flush").await
    }

    async fn client_activity(&mut self) -> Result<ClientActivity, NodeError> {
        self.0.step("client_activity").await?;
        Ok(self.0.activity.lock().unwrap().look())
    }

    async fn system_writes(&mut self, tables: &[(String, String)]) -> Result<u64, NodeError> {
        assert_eq!(tables, self.0.schema.lock().unwrap().0);
        Ok(self.0.activity.lock().unwrap().system_writes)
    }

    async fn undelivered(&mut self) -> Result<Undelivered, NodeError> {
        Ok(Undelivered { hint_files: Some(self.0.hint_files.load(Ordering::Relaxed)), dropped_writes: 7 })
    }

    async fn uptime(&mut self) -> Result<Duration, NodeError> {
        Ok(*self.0.uptime.lock().unwrap())
    }

    async fn write_timeout(&mut self) -> Result<Duration, NodeError> {
        Ok(Duration::from_millis(50))
    }

    async fn take_snapshot(&mut self, tag: &str, keyspaces: &[String]) -> Result<(), NodeError> {
        self.0.step("take_snapshot").await?;
        if self.0.snapshots.lock().unwrap().insert(tag.to_owned(), keyspaces.to_vec()).is_some() {
            return Err(NodeError::new(NodeErrorKind::Permanent, format!("Snapshot {tag} already exists.")));
        }
        self.0.schema_changes("take_snapshot");
        self.0.all_exist(keyspaces)?;
        self.0.step("after take_snapshot").await
    }

    async fn clear_snapshot(&mut self, tag: &str, keyspaces: &[String]) -> Result<(), NodeError> {
        assert!(!tag.is_empty() && !keyspaces.is_empty());
        self.0.step("clear_snapshot").await?;
        self.0.snapshots.lock().unwrap().remove(tag);
        self.0.step("after clear_snapshot").await
    }
}
