//! The ways to a node's Cassandra: directly, where JMX listens on the node's address; else through an agent, from the
//! node's own loopback, where a stock Cassandra has it.
//!
//! Invariant: who answers is the node that was asked for, as far as the ring knows its address.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use cassy_cassandra::{Channel, Deadlines, Dialer, ErrorClass, NodeError as JmxError, NodeSession};
use cassy_control::chain;
use cassy_control::nodes::{NodeError, NodeErrorKind};
use cassy_ssh::AgentHandle;

use super::addresses::{self, JudgedDialer};

/// Opens a session. The agent is asked for when there is no direct way; the session keeps it.
pub(super) async fn open(
    address: &str,
    port: u16,
    agent: impl Future<Output = Result<Arc<AgentHandle>, NodeError>>,
) -> Result<NodeSession, NodeError> {
    let addresses = addresses::judged(address, addresses::look_up(address).await)?;
    let dialer = JudgedDialer { addresses: addresses.clone() };
    let mut session = match connect(dialer, address, port).await {
        Ok(session) => session,
        // Nobody there, or the port of the objects is closed; any other answer came from the node's JMX.
        Err(directly @ JmxError::Unreachable { .. }) => {
            relayed(address, port, agent).await.map_err(|failure| neither(address, &directly, failure))?
        }
        Err(error) => return Err(node_error(&error)),
    };
    check_node(&mut session, address, &addresses).await?;
    Ok(session)
}

/// The control plane's error for one of JMX.
pub(super) fn node_error(error: &JmxError) -> NodeError {
    let kind = match error.class() {
        ErrorClass::Transient => NodeErrorKind::Unreachable,
        ErrorClass::Permanent | ErrorClass::Bug => NodeErrorKind::Permanent,
    };
    NodeError { kind, message: chain(error), hint: error.hint().map(str::to_owned) }
}

async fn connect(dialer: impl Dialer + 'static, address: &str, port: u16) -> Result<NodeSession, JmxError> {
    NodeSession::connect(Arc::new(dialer), address, port, Deadlines::default()).await
}

async fn relayed(
    address: &str,
    port: u16,
    agent: impl Future<Output = Result<Arc<AgentHandle>, NodeError>>,
) -> Result<NodeSession, NodeError> {
    let agent = agent.await?;
    let session = connect(AgentDialer { agent: Arc::clone(&agent) }, address, port).await;
    session.map_err(|error| match agent.is_gone() {
        // Another agent may do.
        true => NodeError::new(NodeErrorKind::Gone, chain(&error)),
        false => node_error(&error),
    })
}

/// What both ways have come to.
fn neither(address: &str, directly: &JmxError, relayed: NodeError) -> NodeError {
    let message = format!(
        "{address}: its Cassandra is reached neither directly ({}) nor through an agent on the node ({})",
        chain(directly),
        relayed.message
    );
    let hint = "Look whether Cassandra is running, and whether jmx_port is its JMX port. It is reached when JMX listens \
                on the node's own address, or when ssh_user can log in to the node and JMX listens on its loopback.";
    let kind = match relayed.kind {
        NodeErrorKind::Gone => NodeErrorKind::Gone,
        // A node without Cassandra may have one again, whatever is wrong with the other way.
        _ => NodeErrorKind::Unreachable,
    };
    NodeError { kind, message, hint: Some(relayed.hint.unwrap_or_else(|| hint.to_owned())) }
}

/// Several nodes may share a machine, and so its loopback: who answers says which of them it is.
async fn check_node(session: &mut NodeSession, address: &str, addresses: &[IpAddr]) -> Result<(), NodeError> {
    let asked = async {
        let ring = session.endpoint_to_host_id().await?;
        Ok::<_, JmxError>((ring, session.local_host_id().await?))
    };
    let (ring, own) = asked.await.map_err(|error| node_error(&error))?;
    let mut known = addresses.iter().filter_map(|address| ring.get(address)).peekable();
    // An address that is only for clients, or a translated one, is not in the ring.
    if known.peek().is_none() || known.any(|host_id| *host_id == own) {
        return Ok(());
    }
    let answering = ring.iter().find(|(_, host_id)| **host_id == own);
    let answering = answering.map_or_else(|| own.to_string(), |(address, _)| address.to_string());
    Err(NodeError {
        kind: NodeErrorKind::Permanent,
        message: format!("{address}: another node of the ring answers there by JMX, {answering}"),
        hint: Some(
            "Nodes that share one machine each need JMX on an address of their own \
             (-Dcom.sun.management.jmxremote.host and -Djava.rmi.server.hostname in cassandra-env.sh), all with the \
             port jmx_port."
                .to_owned(),
        ),
    })
}

/// Through the agent, to the node's own loopback, whatever host a stub names.
struct AgentDialer {
    agent: Arc<AgentHandle>,
}

#[async_trait]
impl Dialer for AgentDialer {
    async fn dial(&self, _host: &str, port: u16) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(self.agent.dial(port).await?))
    }

    /// SSH carries it.
    fn is_confidential(&self, _host: &str) -> bool {
        true
    }
}
