//! Nodes as the control plane wants them, over SSH and JMX.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::{AgentErrorKind, Progress, Reply, Request, ServerHello};
use cassy_cassandra::{Keyspaces, NodeSession, OperationMode, SnapshotTag};
use cassy_control::chain;
use cassy_control::nodes::{
    Agent, Cassandra, ClientActivity, NodeAccess, NodeDescription, NodeError, NodeErrorKind, OnProgress,
    Undelivered,
};
use cassy_ssh::{AgentCallError, AgentHandle, Class, Ssh, SshError};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::jmx;

/// Of a flush or a snapshot; the stage's own limit is longer.
const CHANGE_LIMIT: Duration = Duration::from_secs(840);

/// To start an agent that only relays, its binary pushed first if need be.
const RELAY_START_LIMIT: Duration = Duration::from_secs(120);
/// Between two heartbeats of such an agent and the server.
const RELAY_HEARTBEAT_MS: u64 = 3000;
/// After such a silence the other side is taken for gone.
const RELAY_SILENCE_MS: u64 = 20_000;

/// See the module.
pub(super) struct RealNodes {
    ssh: Ssh,
    jmx_port: u16,
}

impl RealNodes {
    pub(super) fn new(ssh: Ssh, jmx_port: u16) -> Self {
        Self { ssh, jmx_port }
    }
}

#[async_trait]
impl NodeAccess for RealNodes {
    async fn agent(&self, address: &str, hello: ServerHello) -> Result<Box<dyn Agent>, NodeError> {
        let handle = self.ssh.agent(address, hello).await.map_err(|error| ssh_error(&error))?;
        Ok(Box::new(RemoteAgent {
            address: address.to_owned(),
            jmx_port: self.jmx_port,
            handle: Mutex::new(Some(Arc::new(handle))),
        }))
    }

    async fn meet(&self, address: &str) -> Result<(), NodeError> {
        self.ssh.check(address).await.map_err(|error| ssh_error(&error))
    }

    async fn cassandra(&self, address: &str) -> Result<Box<dyn Cassandra>, NodeError> {
        let session = jmx::open(address, self.jmx_port, self.relaying_agent(address)).await?;
        Ok(Box::new(RemoteCassandra { session }))
    }
}

impl RealNodes {
    /// An agent that only relays: it takes no lock, and ends with the session that it is for.
    async fn relaying_agent(&self, address: &str) -> Result<Arc<AgentHandle>, NodeError> {
        let hello = ServerHello {
            job_id: "relay".to_owned(),
            epoch: 0,
            heartbeat_ms: RELAY_HEARTBEAT_MS,
            silence_ms: RELAY_SILENCE_MS,
        };
        match timeout(RELAY_START_LIMIT, self.ssh.agent(address, hello)).await {
            Ok(agent) => agent.map(Arc::new).map_err(|error| ssh_error(&error)),
            Err(_elapsed) => {
                let limit = RELAY_START_LIMIT.as_secs();
                let message = format!("{address}: the agent did not start within {limit} s");
                Err(NodeError::new(NodeErrorKind::Unreachable, message))
            }
        }
    }
}

struct RemoteAgent {
    address: String,
    jmx_port: u16,
    handle: Mutex<Option<Arc<AgentHandle>>>,
}

impl RemoteAgent {
    async fn handle(&self) -> Result<Arc<AgentHandle>, NodeError> {
        let handle = self.handle.lock().await.clone();
        handle.ok_or_else(|| {
            NodeError::new(NodeErrorKind::Gone, format!("{}: the agent was ended", self.address))
        })
    }
}

#[async_trait]
impl Agent for RemoteAgent {
    async fn request(&self, request: Request, on_progress: OnProgress) -> Result<Reply, NodeError> {
        let handle = self.handle().await?;
        let (progress, mut moved) = watch::channel(Progress::default());
        let answer = handle.request(request, progress);
        tokio::pin!(answer);
        let mut open = true;
        loop {
            tokio::select! {
                answered = &mut answer => {
                    return answered.map_err(|error| call_error(&self.address, &handle.hello().hostname, error));
                }
                changed = moved.changed(), if open => match changed {
                    Ok(()) => on_progress(*moved.borrow_and_update()),
                    Err(_closed) => open = false,
                },
            }
        }
    }

    async fn cassandra(&self) -> Result<Box<dyn Cassandra>, NodeError> {
        let session = jmx::open(&self.address, self.jmx_port, self.handle()).await?;
        Ok(Box::new(RemoteCassandra { session }))
    }

    async fn cancel(&self) {
        if let Ok(handle) = self.handle().await {
            handle.cancel().await;
        }
    }

    async fn close(&self) {
        let handle = self.handle.lock().await.take();
        if let Some(handle) = handle.and_then(Arc::into_inner) {
            handle.close().await;
        }
    }
}

struct RemoteCassandra {
    session: NodeSession,
}

#[async_trait]
impl Cassandra for RemoteCassandra {
    async fn describe(&mut self) -> Result<NodeDescription, NodeError> {
        describe(&mut self.session).await.map_err(|error| jmx::node_error(&error))
    }

    async fn tables(&mut self) -> Result<Vec<(String, String)>, NodeError> {
        self.session.tables().await.map_err(|error| jmx::node_error(&error))
    }

    async fn keyspaces(&mut self) -> Result<Vec<String>, NodeError> {
        self.session.keyspaces().await.map_err(|error| jmx::node_error(&error))
    }

    async fn flush(&mut self, keyspaces: &[String]) -> Result<(), NodeError> {
        let keyspaces = named(keyspaces)?;
        self.session.flush(&keyspaces, CHANGE_LIMIT).await.map_err(|error| jmx::node_error(&error))
    }

    async fn client_activity(&mut self) -> Result<ClientActivity, NodeError> {
        let activity = self.session.client_activity().await.map_err(|error| jmx::node_error(&error))?;
        Ok(ClientActivity { tasks: activity.tasks, writes: activity.writes })
    }

    async fn system_writes(&mut self, tables: &[(String, String)]) -> Result<u64, NodeError> {
        self.session.system_writes(tables).await.map_err(|error| jmx::node_error(&error))
    }

    async fn undelivered(&mut self) -> Result<Undelivered, NodeError> {
        let known = self.session.undelivered().await.map_err(|error| jmx::node_error(&error))?;
        Ok(Undelivered { hint_files: known.hint_files, dropped_writes: known.dropped_writes })
    }

    async fn uptime(&mut self) -> Result<Duration, NodeError> {
        self.session.uptime().await.map_err(|error| jmx::node_error(&error))
    }

    async fn write_timeout(&mut self) -> Result<Duration, NodeError> {
        self.session.write_timeout().await.map_err(|error| jmx::node_error(&error))
    }

    async fn take_snapshot(&mut self, tag: &str, keyspaces: &[String]) -> Result<(), NodeError> {
        let (tag, keyspaces) = (ours(tag)?, named(keyspaces)?);
        self.session
            .take_snapshot(tag, &keyspaces, CHANGE_LIMIT)
            .await
            .map_err(|error| jmx::node_error(&error))
    }

    async fn clear_snapshot(&mut self, tag: &str, keyspaces: &[String]) -> Result<(), NodeError> {
        let (tag, keyspaces) = (ours(tag)?, named(keyspaces)?);
        self.session
            .clear_snapshot(tag, &keyspaces, CHANGE_LIMIT)
            .await
            .map_err(|error| jmx::node_error(&error))
    }
}

async fn describe(session: &mut NodeSession) -> Result<NodeDescription, cassy_cassandra::NodeError> {
    let texts = |addresses: Vec<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let host_id = session.local_host_id().await?;
    let ring = session.endpoint_to_host_id().await?;
    let own = ring.iter().find(|(_, id)| **id == host_id).map(|(address, _)| *address);
    let (mut tokens, mut datacenter, mut rack) = (Vec::new(), String::new(), String::new());
    if let Some(own) = own {
        tokens = session.tokens(own).await?;
        datacenter = session.datacenter(own).await?;
        rack = session.rack(own).await?;
    }
    Ok(NodeDescription {
        cluster_name: session.cluster_name().await?,
        release_version: session.release_version().to_string(),
        partitioner: session.partitioner().await?,
        operation_mode: match session.operation_mode().await? {
            OperationMode::Normal => "NORMAL".to_owned(),
            OperationMode::Other(mode) => mode,
        },
        host_id: host_id.into(),
        ring: ring.into_iter().map(|(address, id)| (address.to_string(), id.into())).collect(),
        live: texts(session.live_nodes().await?),
        unreachable: texts(session.unreachable_nodes().await?),
        joining: texts(session.joining_nodes().await?),
        leaving: texts(session.leaving_nodes().await?),
        moving: texts(session.moving_nodes().await?),
        keyspaces: session.keyspaces().await?,
        data_directories: session.data_file_locations().await?,
        incremental_backups: session.incremental_backups_enabled().await?,
        tokens,
        datacenter,
        rack,
    })
}

fn ours(tag: &str) -> Result<SnapshotTag, NodeError> {
    tag.parse().map_err(|error| NodeError::new(NodeErrorKind::Permanent, format!("{tag:?}: {error}")))
}

fn named(keyspaces: &[String]) -> Result<Keyspaces, NodeError> {
    Keyspaces::new(keyspaces.to_vec()).ok_or_else(|| {
        NodeError::new(NodeErrorKind::Permanent, format!("not a list of keyspaces: {keyspaces:?}"))
    })
}

fn ssh_error(error: &SshError) -> NodeError {
    let kind = match error.class() {
        Class::Transient => NodeErrorKind::Unreachable,
        _ => NodeErrorKind::Permanent,
    };
    NodeError { kind, message: chain(error), hint: error.hint() }
}

fn call_error(address: &str, hostname: &str, error: AgentCallError) -> NodeError {
    match error {
        AgentCallError::Gone(why) => {
            NodeError::new(NodeErrorKind::Gone, format!("{address} ({hostname}): the agent is gone: {why}"))
        }
        AgentCallError::Failed(error) => {
            let kind = match error.kind {
                AgentErrorKind::Busy => NodeErrorKind::Busy,
                AgentErrorKind::Transient | AgentErrorKind::Cancelled => NodeErrorKind::Transient,
                AgentErrorKind::Permanent | AgentErrorKind::Bug => NodeErrorKind::Permanent,
            };
            NodeError { kind, message: format!("{address}: {}", error.message), hint: error.hint }
        }
    }
}
